"""From a specification to a cohort of networks: a function for each family, one set of scorers."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modeval.nn.aggregation import Value
from modeval.nn.attention import AttentionNetwork
from modeval.nn.bank import Bank, Experts, gates_bank, mlp_bank
from modeval.nn.columns import Stitch, StitchScorer
from modeval.nn.composed import ComposedNetwork
from modeval.nn.layer import Choices, ModularLayer
from modeval.nn.linear import StackedLinear, StackedMLP, initialise
from modeval.nn.mlp import MLPNetwork
from modeval.nn.network import Network
from modeval.nn.prefixes import Prefixes, PromptTokens
from modeval.nn.recurrent import RecurrentNetwork
from modeval.nn.scorers import (
    AttentionScorer,
    BiasedScorer,
    EmbeddingScorer,
    FixedScorer,
    FreeScorer,
    HierarchicalScorer,
    InputScorer,
    ModuleScorer,
    RuleScorer,
    SameScorer,
    Scorer,
    SequenceScorer,
    SharedScorer,
    TableScorer,
    hash_table,
    map_table,
    oracle_table,
    single_table,
)
from modeval.spec import DataSpec, ModelSpec, attention_heads, check_pair, module_count
from modeval.spec.checks import check
from modeval.spec.computing import sharing
from modeval.spec.gatings import Fixed
from modeval.spec.layouts import layout, skills_of_rules, told_rows
from modeval.spec.model import GIVEN, attending
from modeval.spec.own import Code
from modeval.spec.taught import BalancedTopK


def build(data: DataSpec, model: ModelSpec, *, seeds: int) -> Network:
    """Return a cohort of ``seeds`` networks with all parameters zero; see :func:`create`."""
    check_pair(data, model)
    if model.own is not None:
        from modeval.nn.own.network import own_network  # noqa: PLC0415 - users' own alone

        return own_network(data, model, seeds)
    return FAMILIES[data.task](data, model, seeds)


def create(data: DataSpec, model: ModelSpec, model_seeds: Sequence[int]) -> Network:
    """Return a cohort whose parameters are drawn, each member's from its own model seed."""
    network = build(data, model, seeds=len(model_seeds))
    initialise(network, [torch.Generator().manual_seed(seed) for seed in model_seeds])
    return network


def hidden_width(data: DataSpec, model: ModelSpec) -> int:
    """Return the hidden units of one module, narrowed so that totals match Monolithic's.

    MLP: ``width / M``. Attention: the width at which M modules have the parameters of one with R
    times the heads. Recurrent: the state size that solves the same equation, a quadratic. With
    ``match = "width"``, or where modules share a trunk, a module is as wide as Monolithic's.
    Source: Mittal et al. 2022 and its code.
    """
    modules, width, encoder = module_count(data, model), model.width, model.encoder
    matched = model.match == "parameters" and not model.computation.shares
    if data.task == "binary":
        return width // modules if matched else width
    if data.task == "sets":
        if not matched:
            return 2 * encoder
        heads = attention_heads(data, model)
        budget = 2 * encoder * (modules * heads * (width + encoder) + width)
        return int(budget / (modules * (width * (heads + 1) + modules * heads * encoder)))
    if not matched or model.scorer == "none":
        return width
    linear = 4 * modules * encoder + 1
    budget = 4 * (4 * modules + 1) * (5 * width * width + width * (4 * encoder + 1))
    return int((math.sqrt(linear**2 + budget) - linear) / (2 * (4 * modules + 1)))


def head_width(data: DataSpec, model: ModelSpec) -> int:
    """Return the width of one attention head."""
    shared_by = attending(data, model) if model.match == "parameters" else 1
    return model.width // (attention_heads(data, model) * shared_by)


# --- scorers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a scorer in a network.

    Attributes:
        seeds: size of the cohort.
        rules: of the task.
        features: width of the raw inputs.
        modules: of the layer.
        logits: numbers for each module that the gating takes.
        encoder: width of encodings, and of a scorer's own hidden layer.
        state: width of what comes into the layer.
        units: hidden units of a module.
        outputs: width of a module's output.
        rule_width: hidden width of a scorer on the one-hot rule; 0 where the rule is encoded.
        bias: whether scorers on modules and rules have biases.
        given: modules of each rule.
        groups: of modules, for which a scorer gives numbers as well; 0 for none.
        own: a scorer of the user's.
        subspaces: parts of a column.
        layers: of the network.
        told: ``(R, K)`` what is told of each rule, where that is not its number.
    """

    seeds: int
    rules: int
    features: int
    modules: int
    logits: int
    encoder: int
    state: int
    units: int
    outputs: int
    rule_width: int = 0
    bias: bool = True
    given: tuple[tuple[int, ...], ...] = ()
    groups: int = 0
    own: Code | None = None
    subspaces: int = 1
    layers: int = 1
    told: Tensor | None = None

    @property
    def numbers(self) -> int:
        """Return how many numbers a scorer gives for a sample."""
        return self.groups + self.modules * self.logits

    @property
    def rule_inputs(self) -> int:
        """Return how many inputs of a scorer tell the rule."""
        return self.rules if self.told is None else self.told.shape[1]


def _by_rule(at: Slot) -> Scorer:
    if not at.rule_width:
        return TableScorer(at.seeds, at.encoder, at.numbers)
    return RuleScorer(at.seeds, at.rules, at.rule_width, at.numbers, bias=at.bias, told=at.told)


def _own(at: Slot) -> Scorer:
    assert at.own is not None  # noqa: S101 - a specification without one is refused
    from modeval.nn.own.scorer import OwnScorer  # noqa: PLC0415 - users' own alone

    return OwnScorer(at.own, at)


SCORERS: dict[str, Callable[[Slot], Scorer]] = {
    "none": lambda at: FixedScorer(single_table(at.rules), at.seeds),
    "oracle": lambda at: FixedScorer(oracle_table(at.rules, at.modules), at.seeds),
    "hash": lambda at: FixedScorer(hash_table(at.rules, at.modules), at.seeds),
    "map": lambda at: FixedScorer(map_table(at.given, at.modules), at.seeds),
    "module": lambda at: ModuleScorer(
        at.seeds, at.modules, at.units, logits=at.logits, bias=at.bias
    ),
    "shared": lambda at: SharedScorer(
        at.seeds, at.outputs, at.features + at.rule_inputs, at.encoder, at.logits, at.told
    ),
    "attention": lambda at: AttentionScorer(at.seeds, at.state, at.outputs, at.encoder),
    "input": lambda at: InputScorer(at.seeds, at.features, 0, at.encoder, at.numbers),
    "both": lambda at: InputScorer(
        at.seeds, at.features, at.rule_inputs, at.encoder, at.numbers, at.told
    ),
    "rule": _by_rule,
    "table": lambda at: FreeScorer(at.seeds, at.rules, at.numbers, shared=False),
    "embedding": lambda at: EmbeddingScorer(at.seeds, at.rules, at.layers, at.encoder, at.numbers),
    "stitch": lambda at: StitchScorer(at.seeds, at.modules, at.subspaces),
    "global": lambda at: FreeScorer(at.seeds, at.rules, at.numbers, shared=True),
    "own": _own,
}
"""The choices of the axis, and how each is built."""


STITCHES: Mapping[str, Callable[[ModelSpec], Stitch | None]] = defaultdict(
    lambda: lambda _: None,
    stitch=lambda _: Stitch(),
    sluice=lambda model: Stitch(model.subspaces, model.orthogonality),
)
"""How columns mix, by aggregation; most have no columns."""


def _choices(model: ModelSpec, at: Slot) -> Choices:
    """Return how a layer routes."""
    gating = Fixed() if model.scorer in GIVEN else model.gating
    value = Value(at.seeds, at.outputs) if model.aggregation == "attend" else None
    scorer = SCORERS[model.scorer](at)
    if model.level == "sample":
        check(
            not gating.batchwise,
            f'level = "sample" with {model.gating.kind}: it mixes the samples of a batch, and some '
            "positions of a sequence would be routed otherwise than others. Drop --level.",
        )
        scorer = SequenceScorer(scorer)
    if model.level == "hierarchical":
        scorer = HierarchicalScorer(scorer, at.groups)
    if isinstance(gating, BalancedTopK):
        scorer = BiasedScorer(scorer, at.seeds, at.modules)
    check(
        model.aggregation != "parameters" or scorer.looks_at != "module",
        f'aggregation = "parameters" with {model.scorer}: it looks at what modules computed, and '
        "parameters are mixed before. Have it look at inputs, rule or state.",
    )
    return Choices(scorer, gating, model.aggregation, value, STITCHES[model.aggregation](model))


def _place(data: DataSpec, model: ModelSpec, seeds: int, **sizes: int) -> Slot:
    return Slot(
        seeds=seeds,
        rules=data.rules,
        features=data.features,
        modules=module_count(data, model),
        logits=model.gating.logits,
        encoder=model.encoder,
        given=model.map,
        groups=model.groups if model.level == "hierarchical" else 0,
        own=model.own_scorer,
        layers=model.layers,
        subspaces=model.subspaces if model.aggregation == "sluice" else 1,
        told=_told(data),
        **sizes,  # type: ignore[arg-type]
    )


def _told(data: DataSpec) -> Tensor | None:
    """Return what a model is told of each rule, where that is not its number."""
    return torch.tensor(told_rows(data)) if data.told == "skills" else None


def _layers(data: DataSpec, model: ModelSpec, seeds: int, width: int) -> tuple[ModularLayer, ...]:
    """Return the modular layers after the first, around vectors of one width."""
    modules = module_count(data, model)
    whole = model.computation.shares or model.match == "width"
    hidden = width if whole else max(1, width // modules)
    layers = []
    for _ in range(model.layers - 1):
        experts = _experts(model, seeds, modules, (width, hidden, width))
        at = _place(
            *(data, model, seeds),
            state=width,
            units=_units(experts),
            outputs=width,
            rule_width=model.encoder,
        )
        choices = _choices(model, at)
        if model.level == "global" or model.scorer == "embedding":  # the first one serves them
            choices = replace(choices, scorer=SameScorer())
        layers.append(ModularLayer(experts, choices))
    return tuple(layers)


def _experts(model: ModelSpec, seeds: int, modules: int, widths: tuple[int, int, int]) -> Experts:
    """Return the modules of a layer."""
    beside = model.aggregation == "inputs"
    return mlp_bank(seeds, modules, widths, model.computation, beside=beside)


def _units(experts: Experts) -> int:
    """Return the width that a module's readout reads."""
    return experts.readout.parts()[0].shape[-2]


# --- families ------------------------------------------------------------------------------------


def _composed(data: DataSpec, model: ModelSpec, seeds: int) -> Network:
    modules, encoder = module_count(data, model), model.encoder
    hidden = model.width if model.match == "width" else model.width // modules
    experts = StackedMLP((seeds, modules), (2 * encoder, hidden, encoder))
    at = _place(*(data, model, seeds), state=2 * encoder, units=hidden, outputs=encoder)
    return ComposedNetwork(
        seeds,
        skills=torch.tensor(skills_of_rules(data)),
        modules=modules,
        encoder=encoder,
        experts=experts,
        choices=_choices(model, replace(at, rules=data.skills, told=None)),
        places=layout(data),
        kinds=data.skills,
    )


def _mlp(data: DataSpec, model: ModelSpec, seeds: int) -> Network:
    if model.aggregation == "functions":
        return _composed(data, model, seeds)
    modules, hidden = module_count(data, model), hidden_width(data, model)
    experts = _experts(model, seeds, modules, (3 * model.encoder, hidden, model.width))
    at = _place(
        *(data, model, seeds),
        state=3 * model.encoder,
        units=_units(experts),
        outputs=model.width,
    )
    return MLPNetwork(
        seeds,
        rules=data.rules,
        modules=modules,
        encoder=model.encoder,
        width=model.width,
        experts=experts,
        choices=_choices(model, at),
        layers=_layers(data, model, seeds, model.width),
        told=_told(data),
    )


def _attention(data: DataSpec, model: ModelSpec, seeds: int) -> Network:
    modules, head, heads = (
        module_count(data, model),
        head_width(data, model),
        attention_heads(data, model),
    )
    prefixes: Prefixes | PromptTokens | None = None
    if isinstance(model.computation, sharing.Prefix):
        prefixes = Prefixes(seeds, modules, heads, model.computation.length, head)
    elif isinstance(model.computation, sharing.PromptTokens):
        prefixes = PromptTokens(seeds, modules, model.computation.length, model.encoder, head)
    widths = (head * (heads + 1), hidden_width(data, model), model.encoder)
    experts = _experts(model, seeds, modules, widths)
    at = _place(
        *(data, model, seeds),
        state=model.encoder,
        units=_units(experts),
        outputs=model.encoder,
        rule_width=head,
    )
    return AttentionNetwork(
        seeds,
        rules=data.rules,
        features=data.features,
        modules=modules,
        encoder=model.encoder,
        heads=heads,
        head=head,
        attending=attending(data, model),
        prefixes=prefixes,
        experts=experts,
        choices=_choices(model, at),
        layers=_layers(data, model, seeds, model.encoder),
    )


def _recurrent(data: DataSpec, model: ModelSpec, seeds: int) -> Network:
    modules, state = module_count(data, model), hidden_width(data, model)
    bias = model.scorer == "none"  # the paper's plain LSTM has biases, its module banks none
    gates = [
        gates_bank(seeds, modules, inputs, 4 * state, model.computation, bias=bias, number=number)
        for number, inputs in enumerate((model.encoder, state))
    ]
    if model.scorer == "none":
        _as_lstm_cell(gates[0], state)
    at = _place(
        *(data, model, seeds),
        state=state,
        units=8 * state,
        outputs=state,
        rule_width=state,
        bias=False,
    )
    choices = _choices(model, at)
    check(
        model.level != "sample" or choices.scorer.looks_at != "module",
        f'level = "sample" with {model.scorer} and task = "series": it looks at what cells '
        "computed, position by position. Have it look at inputs or rule.",
    )
    return RecurrentNetwork(
        seeds,
        rules=data.rules,
        features=data.features,
        outputs=data.outputs,
        modules=modules,
        encoder=model.encoder,
        state=state,
        gates=(gates[0], gates[1]),
        choices=choices,
        layers=_layers(data, model, seeds, state),
    )


def _as_lstm_cell(input_gates: StackedLinear | Bank, state: int) -> None:
    """Have the gates of the inputs start as PyTorch's LSTM cell draws them, which is the paper's.

    It draws all its parameters in ``±1/sqrt(state)``, those that meet the inputs as well.
    """
    if isinstance(input_gates, StackedLinear):
        input_gates.bound = state**-0.5


FAMILIES: dict[str, Callable[[DataSpec, ModelSpec, int], Network]] = {
    "binary": _mlp,
    "sets": _attention,
    "series": _recurrent,
}
