"""From a specification to a cohort of networks: a function for each family, one set of scorers."""

import math
from collections.abc import Callable, Sequence

import torch

from modeval.nn.attention import AttentionNetwork
from modeval.nn.linear import StackedLinear, StackedMLP, initialise
from modeval.nn.mlp import MLPNetwork
from modeval.nn.network import Network
from modeval.nn.recurrent import RecurrentNetwork
from modeval.nn.routing import (
    FixedScorer,
    Gating,
    ModuleScorer,
    Scorer,
    SharedScorer,
    TableScorer,
    fixed,
    oracle_table,
    single_table,
    soft,
)
from modeval.spec import DataSpec, ModelSpec, attention_heads, check_pair, module_count


def build(data: DataSpec, model: ModelSpec, *, seeds: int) -> Network:
    """Return a cohort of ``seeds`` networks with all parameters zero; see :func:`create`."""
    check_pair(data, model)
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
    ``match = "width"`` a module is as wide as Monolithic's. Source: SYSTEMS.md A.2.
    """
    modules, width, encoder = module_count(data, model), model.width, model.encoder
    matched = model.match == "parameters"
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
    shared_by = module_count(data, model) if model.match == "parameters" else 1
    return model.width // (attention_heads(data, model) * shared_by)


def _mlp(data: DataSpec, model: ModelSpec, seeds: int) -> Network:
    modules, hidden = module_count(data, model), hidden_width(data, model)
    scorer, gating = _routing(
        data,
        model,
        seeds,
        rule=lambda: TableScorer(projection=StackedLinear((seeds,), model.encoder, modules)),
        module=lambda: ModuleScorer(seeds, modules, hidden),
        shared=lambda: SharedScorer(seeds, model.width, data.rules + 2, model.encoder),
    )
    return MLPNetwork(
        seeds,
        rules=data.rules,
        modules=modules,
        encoder=model.encoder,
        width=model.width,
        hidden=hidden,
        scorer=scorer,
        gating=gating,
    )


def _attention(data: DataSpec, model: ModelSpec, seeds: int) -> Network:
    modules, hidden, head = (
        module_count(data, model),
        hidden_width(data, model),
        head_width(data, model),
    )
    features = data.features + data.rules
    scorer, gating = _routing(
        data,
        model,
        seeds,
        rule=lambda: TableScorer(mlp=StackedMLP((seeds,), (data.rules, head, modules))),
        module=lambda: ModuleScorer(seeds, modules, hidden),
        shared=lambda: SharedScorer(seeds, model.encoder, features, model.encoder),
    )
    return AttentionNetwork(
        seeds,
        rules=data.rules,
        features=data.features,
        modules=modules,
        encoder=model.encoder,
        heads=attention_heads(data, model),
        head=head,
        hidden=hidden,
        scorer=scorer,
        gating=gating,
    )


def _recurrent(data: DataSpec, model: ModelSpec, seeds: int) -> Network:
    modules, state = module_count(data, model), hidden_width(data, model)
    scorer, gating = _routing(
        data,
        model,
        seeds,
        rule=lambda: TableScorer(
            mlp=StackedMLP((seeds,), (data.rules, state, modules), bias=False)
        ),
        module=lambda: ModuleScorer(seeds, modules, 8 * state, bias=False),
        shared=lambda: SharedScorer(seeds, state, data.features + data.rules, model.encoder),
    )
    return RecurrentNetwork(
        seeds,
        rules=data.rules,
        features=data.features,
        outputs=data.outputs,
        modules=modules,
        encoder=model.encoder,
        state=state,
        bias=model.scorer == "none",  # the paper's plain LSTM has biases, its module banks none
        scorer=scorer,
        gating=gating,
    )


def _routing(
    data: DataSpec,
    model: ModelSpec,
    seeds: int,
    *,
    rule: Callable[[], Scorer],
    module: Callable[[], Scorer],
    shared: Callable[[], Scorer],
) -> tuple[Scorer, Gating]:
    """Return the scorer and the gating of a spec; learned scorers differ between families."""
    modules = module_count(data, model)
    learned = {"rule": rule, "module": module, "shared": shared}
    if model.scorer in learned:
        return learned[model.scorer](), soft
    table = (
        single_table(data.rules) if model.scorer == "none" else oracle_table(data.rules, modules)
    )
    return FixedScorer(table, seeds), fixed


FAMILIES: dict[str, Callable[[DataSpec, ModelSpec, int], Network]] = {
    "binary": _mlp,
    "sets": _attention,
    "series": _recurrent,
}
