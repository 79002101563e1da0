"""What to build: a network as a point in the space of modular models."""

import re
from dataclasses import dataclass, fields
from typing import Any, Literal

from modeval.spec.checks import check, check_choices, check_positive
from modeval.spec.computing.computation_checks import (
    check_columns,
    check_computation,
    check_computation_on,
    check_inputs,
)
from modeval.spec.computing.computations import Computation, Full
from modeval.spec.data import DataSpec
from modeval.spec.gatings import (
    EpsilonGreedy,
    ExpertChoice,
    Gating,
    Gumbel,
    NoisyTopK,
    Sinkhorn,
    Soft,
    Switch,
    TopK,
)
from modeval.spec.own import Code, OwnGating
from modeval.spec.plain import from_dict
from modeval.spec.settings import default_of, flag_of, refuse_unread, setting
from modeval.spec.systems import SYSTEMS
from modeval.spec.taught import BalancedTopK, Evolved, QLearning, Reinforce
from modeval.titles import MODEL_TITLES

Scorer = Literal[
    "none", "module", "shared", "attention", "input", "both", "rule", "table", "global", "oracle",
    "hash", "map", "embedding", "stitch", "own",
]  # fmt: skip
Aggregation = Literal[
    "outputs", "parameters", "attend", "inputs", "stitch", "sluice", "functions"
]  # fmt: skip
Match = Literal["parameters", "width"]
Level = Literal["layer", "global", "hierarchical", "sample"]

GIVEN = ("none", "oracle", "hash", "map")
"""Scorers whose rows are the routing itself."""
LEARNED = (
    "module", "shared", "attention", "input", "both", "rule", "table", "global", "embedding",
    "stitch", "own",
)  # fmt: skip
"""Scorers that give logits, for a gating to make weights of."""
AFTER_MODULES = ("module", "shared", "attention")
"""Scorers that look at what modules computed."""

MODELS: dict[str, dict[str, Any]] = {
    "monolithic": {"scorer": "none", "modules": 1},
    "modular": {"scorer": "module"},
    "modular-shared": {"scorer": "shared"},
    "modular-op": {"scorer": "rule"},
    "gt-modular": {"scorer": "oracle"},
}
"""The paper's models as choices on the axes of the model space: names for :class:`ModelSpec`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A network as a point in the space of modular models.

    The task decides the backbone: an MLP for ``binary``, attention for ``sets``, an LSTM for
    ``series``.

    Attributes:
        scorer: what gives the routing logits. After the modules: ``module`` (each its own),
            ``shared`` (one scorer on a module's output and the input), ``attention`` (of the input
            over module outputs). Beside them: ``input``, ``both`` (input and rule), ``rule``,
            ``table`` (free logits for each rule), ``embedding`` (of the rule and of the layer, by
            one MLP for all layers), ``global`` (free logits). Given: ``oracle`` (the
            ground truth), ``hash`` (of the rule), ``stitch`` (free weights of each rule that start
            near a module of its own), ``map`` (see there), ``none`` (a single module
            that takes all: Monolithic). ``FILE.py:NAME`` for one of your own.
        gating: how logits become weights, with settings of its own: ``soft``, ``top-k``,
            ``gumbel``, ``switch``, ...
        computation: what a module is made of, with settings of its own: ``full``, ``low-rank``,
            ``masked``, ``adapter``, ...
        aggregation: what is mixed: module ``outputs``; ``parameters`` (weights first, then one
            pass); ``attend`` (outputs, then a value projection); ``inputs`` (prompts or prefixes of
            several modules stand side by side); ``stitch`` (modules are columns
            with a state each, which read each other after each layer); ``sluice`` (the same, in
            subspaces, then a sum over layers); ``functions`` (modules are applied one after
            another, in the sequence or tree of the rule's skills).
        subspaces: parts of a column that mix one by one.
        orthogonality: what the loss is charged for subspaces of a column that are alike.
        layers: modular layers, each with modules of its own.
        level: where routing is decided: in each ``layer`` by a scorer of its own; once for all
            layers (``global``); in each layer a group of modules first, then a module of the group
            (``hierarchical``: a router of routers); in each layer once for all positions of a
            sequence, by the mean of their logits (``sample``).
        groups: groups of modules that a hierarchical router chooses from, equal in size.
        map: modules of each rule, as [[0], [1], [0, 1]], for the scorer ``map``.
        modules: number of modules M; 0 for as many as rules, or as skills where they are functions.
        encoder: width of the encoders (and of the attention stream).
        width: hidden width of the whole module bank (MLP), width of the queries (attention), size
            of the state (recurrent).
        heads: attention heads of each module (``sets``).
        match: ``parameters`` narrows the modules so that totals stay near the monolithic model's,
            as the paper does, to whole units; ``width`` gives each module the full width.
        own: a model of the user's own in the place of all of this: it reads sizes and no choices.
        own_scorer: a scorer of the user's own, for the scorer ``own``.
    """

    scorer: Scorer = "module"
    gating: Gating = setting(Soft(), read_by={"scorer": LEARNED})
    computation: Computation = setting(Full())
    aggregation: Aggregation = "outputs"
    subspaces: int = setting(2, read_by={"aggregation": ("sluice",)})
    orthogonality: float = setting(0.01, read_by={"aggregation": ("sluice",)})
    layers: int = setting(1, unit="layers")
    level: Level = setting("layer", read_by={"scorer": LEARNED})
    groups: int = setting(2, unit="groups", read_by={"level": ("hierarchical",)})
    map: tuple[tuple[int, ...], ...] = setting((), flag=False, read_by={"scorer": ("map",)})
    modules: int = 0
    encoder: int = 32
    width: int = 128
    heads: int = setting(2, read_by={"task": ("sets",)})
    match: Match = "parameters"
    own: Code | None = setting(None, flag=False)
    own_scorer: Code | None = setting(None, flag=False, read_by={"scorer": ("own",)})

    def __post_init__(self) -> None:
        check_choices(self)
        _check_own(self)
        check_positive(self, "encoder", "width", "heads", "layers")
        check(self.modules >= 0, f"modules = {self.modules}: give 1 or more, or 0 for the rules.")
        check(
            self.scorer != "none" or self.modules == 1,
            f'scorer = "none" has nothing to choose by, so it takes modules = 1, not '
            f"{self.modules}. Use --model modular for several modules.",
        )
        _check_axes(self)
        _check_level(self)


SIZES = ("layers", "modules", "encoder", "width", "heads", "match", "own")
"""What a model of the user's own may read."""


def _check_own(model: ModelSpec) -> None:
    """Refuse what a model, a scorer or a gating of the user's own lacks, or does not read."""
    check(
        model.scorer != "own" or model.own_scorer is not None,
        'scorer = "own" says not which: --scorer path/to/file.py:ClassName, or [model.own_scorer] '
        'code = "path/to/file.py:ClassName" in a spec file.',
    )
    check(
        not isinstance(model.gating, OwnGating) or bool(model.gating.code),
        'gating = "own" says not which: --gating path/to/file.py:function, or code = '
        '"path/to/file.py:function" beside the kind in a spec file.',
    )
    if model.own is None:
        return
    for field in fields(model):
        check(
            field.name in SIZES or getattr(model, field.name) == default_of(field),
            f"{field.name} with {model.own.code}: a model of your own routes by itself and reads "
            f"{', '.join(SIZES[:-1])} alone. Drop {flag_of(field.name)}.",
        )


def _check_axes(model: ModelSpec) -> None:
    """Refuse choices that make no sense together, whatever the task."""
    check_computation(model)
    check_columns(model)
    check_inputs(model)
    check(
        model.aggregation != "parameters" or model.scorer not in AFTER_MODULES,
        f'aggregation = "parameters" with scorer = "{model.scorer}": parameters are mixed before '
        "any module has computed what this scorer looks at. Use --scorer both, rule or input.",
    )
    check(
        not isinstance(model.gating, NoisyTopK) or model.scorer not in ("attention", "stitch"),
        f'gating = "noisy-top-k" with scorer = "{model.scorer}": it takes a second number for each '
        "module, which scales the noise, and this scorer gives one. Use --gating top-k.",
    )
    check(
        not isinstance(model.gating, BalancedTopK) or model.scorer not in ("embedding", "stitch"),
        f'gating = "balanced-top-k" with scorer = "{model.scorer}": each layer keeps a bias of its '
        "own beside its logits, and this scorer serves several. Use --scorer both, rule or table.",
    )
    check(
        not isinstance(model.gating, Evolved) or model.scorer == "table",
        f'gating = "evolved" with scorer = "{model.scorer}": a path is a module for each rule, '
        "which is evolved and computed from nothing. Use --scorer table.",
    )
    check(
        model.scorer != "map" or bool(model.map),
        'scorer = "map" takes the modules of each rule: map = [[0], [1], [0, 1]] in the spec file.',
    )


GROUPED = (Soft, TopK, Gumbel, EpsilonGreedy, Switch, ExpertChoice, Sinkhorn, Reinforce)
"""Gatings that take logits as a softmax does, so that those of groups and of modules may add."""


def _check_level(model: ModelSpec) -> None:
    """Refuse a level at which nothing can be decided so."""
    if model.level == "global":
        check(
            model.layers > 1,
            'level = "global" with layers = 1: one routing for all layers takes several. Use '
            "--layers 2, or --level layer.",
        )
    if model.level == "sample":
        _check_sequences(model)
    if model.level != "hierarchical":
        return
    check(
        model.scorer not in AFTER_MODULES,
        f'level = "hierarchical" with scorer = "{model.scorer}": it scores single modules by what '
        "they computed, and groups compute nothing. Use --scorer both, rule or input.",
    )
    check(
        isinstance(model.gating, GROUPED),
        f'level = "hierarchical" with gating = "{model.gating.kind}": the shares of groups and of '
        "their modules multiply, and this gating takes logits otherwise. Use --gating soft.",
    )
    check(
        model.groups > 1,
        f"groups = {model.groups}: a router of routers has 2 or more to choose from. Use "
        "--groups 2, or --level layer.",
    )


def _check_sequences(model: ModelSpec) -> None:
    """Refuse to decide once for a sequence what cannot be decided so."""
    alike = {"global": "the same for all samples", "embedding": "by one MLP for all layers"}
    check(
        model.scorer not in alike,
        f'level = "sample" with scorer = "{model.scorer}": its logits are made '
        f"{alike.get(model.scorer, '')}. Use --scorer table, rule or both.",
    )
    check(
        isinstance(model.gating, OwnGating) or not model.gating.batchwise,
        f'level = "sample" with gating = "{model.gating.kind}": it compares the positions of a '
        "batch, some of a sequence with others of it. Use --gating soft or top-k.",
    )
    check(
        not isinstance(model.gating, Reinforce | QLearning | Evolved),
        f'level = "sample" with gating = "{model.gating.kind}": its router learns from what each '
        "position costs. Use --gating gumbel or soft.",
    )


def check_pair(data: DataSpec, model: ModelSpec) -> None:
    """Refuse a model that cannot be built for a task, and say what would fit."""
    refuse_unread(model, task=data.task)
    if model.own is not None:
        return  # it decides by itself what it can be
    modules = module_count(data, model)
    _check_functions(data, model)
    _check_task(data, model, modules)
    if model.scorer in ("oracle", "stitch"):
        what, kinds = routed_kinds(data, model)
        check(
            modules == kinds,
            f"modules = {modules} with scorer {model.scorer}: {what} r begins with module r, so "
            f"it takes one module for each of the {kinds} {what}s. Drop --modules.",
        )
    if model.match == "parameters" and data.task == "binary" and not model.computation.shares:
        check(
            model.width >= modules,
            f"width = {model.width} leaves no unit for each of {modules} modules. Use --width "
            f"{modules} or more, or --match width.",
        )
    if data.task == "sets":
        heads = attention_heads(data, model)
        per_module = attending(data, model) if model.match == "parameters" else 1
        check(
            model.width >= heads * per_module,
            f"width = {model.width} leaves nothing for each of {heads} heads x {per_module} "
            f"modules. Use --width {heads * per_module} or more, or --match width.",
        )


TOLD = ("rule", "table", "both", "shared", "oracle", "hash", "map")
"""Scorers that look at what stands at a place, or are given it."""


def _check_functions(data: DataSpec, model: ModelSpec) -> None:
    """Refuse functions that nothing composes, or that nothing tells apart."""
    if model.aggregation != "functions":
        return
    check(
        bool(data.skills) and data.composition != "additive" and data.told == "skills",
        'aggregation = "functions": modules are applied along the layout of the rule, so there '
        "must be one and the model is told it. Use --task binary --skills 4 --skills-per-rule 3 "
        "--composition tree --told skills, or --composition sequential.",
    )
    check(
        model.scorer in TOLD,
        f'aggregation = "functions" with scorer = "{model.scorer}": nothing would tell it which '
        "skill stands at a place. Use --scorer oracle, rule, table or both.",
    )
    check(
        isinstance(model.computation, Full),
        f'computation = "{model.computation.kind}" with aggregation = "functions": a function is '
        "a whole module. Use --computation full.",
    )
    check(
        model.layers == 1 and model.level != "global",
        'layers and level = "global" with aggregation = "functions": its layers are the places of '
        "the layout, each with a skill of its own. Drop --layers and --level.",
    )
    check(
        not isinstance(model.gating, BalancedTopK),
        'gating = "balanced-top-k" with aggregation = "functions": load is that of the skills of '
        "each place, which are given. Use --gating top-k or soft.",
    )
    check(
        not isinstance(model.gating, Evolved),
        'gating = "evolved" with aggregation = "functions": a path has a module for each rule, and '
        "here each skill has one. Use --gating reinforce or soft.",
    )


def _check_task(data: DataSpec, model: ModelSpec, modules: int) -> None:
    """Refuse choices that make no sense for a task or for so many modules."""
    check_computation_on(data, model)
    gating = model.gating
    check(
        model.level != "hierarchical" or modules % model.groups == 0,
        f"groups = {model.groups} of {modules} modules: groups are equal in size. Use --modules "
        f"{2 * model.groups}, or another number of --groups.",
    )
    if isinstance(gating, TopK | NoisyTopK | BalancedTopK):
        check(
            gating.k <= modules,
            f"k = {gating.k} of {modules} modules: give k = {modules} or fewer, or more --modules.",
        )
    check(
        model.level != "sample" or data.sequence,
        f'level = "sample" with task = "{data.task}": its samples have no positions, so that each '
        "is one decision already. Use --task sets or series, or drop --level.",
    )
    if data.task == "series":
        check(
            model.level != "sample" or model.scorer not in AFTER_MODULES,
            f'level = "sample" with scorer = "{model.scorer}" and task = "series": cells compute '
            "position by position, and all of them are routed before. Use --scorer both.",
        )
        check(
            model.scorer != "attention",
            'scorer = "attention" with task = "series": it asks with the state, and the first one '
            "is 0, of which nothing follows. Use --scorer module or both.",
        )
    if model.scorer == "map":
        check(
            len(model.map) == routed_kinds(data, model)[1] and all(model.map),
            f"map has {len(model.map)} rows for {routed_kinds(data, model)[1]} "
            f"{routed_kinds(data, model)[0]}s: give each {routed_kinds(data, model)[0]} its "
            "modules.",
        )
        largest = max(number for row in model.map for number in row)
        least = min(number for row in model.map for number in row)
        check(
            least >= 0 and largest < modules,
            f"map names module {largest if largest >= modules else least}: there are {modules}, "
            f"0 to {modules - 1}. Use --modules for more.",
        )


def module_count(data: DataSpec, model: ModelSpec) -> int:
    """Return M: what the spec says, or one module for each rule (each skill, for functions)."""
    return model.modules or routed_kinds(data, model)[1]


def routed_kinds(data: DataSpec, model: ModelSpec) -> tuple[str, int]:
    """Return what is routed, and how many there are of it."""
    functions = model.aggregation == "functions" and data.skills > 0
    return ("skill", data.skills) if functions else ("rule", data.rules)


def attending(data: DataSpec, model: ModelSpec) -> int:
    """Return how many modules have heads of attention for themselves; 1 where all share them."""
    return 1 if model.computation.attends else module_count(data, model)


def attention_heads(data: DataSpec, model: ModelSpec) -> int:
    """Return the heads of a module; those that have no others have the heads of R modules."""
    alone = model.scorer == "none" or model.computation.attends
    return model.heads * data.rules if alone else model.heads


def title_of(model: ModelSpec) -> str:
    """Return what people call a model: its usual name, or the nearest one and what differs.

    >>> title_of(ModelSpec(scorer="rule"))
    'Modular-op'
    >>> title_of(ModelSpec(scorer="rule", layers=2, gating=TopK()))
    'Modular-op (top-k, 2 layers)'
    >>> from modeval.spec.gatings import Gumbel
    >>> title_of(ModelSpec(scorer="rule", gating=Gumbel(), layers=2))
    'Gumbel routing (2 layers)'
    """
    if model.own is not None:
        return model.own.name
    layers = [f"{model.layers} layers"]
    for system in SYSTEMS:
        whole = from_dict(ModelSpec, {**system.sizes, **system.choices})
        if _choices(model) == _choices(whole):
            return _titled(system.title, layers if model.layers != whole.layers else [])
    base = next(
        (MODEL_TITLES[name] for name, same in MODELS.items() if same["scorer"] == model.scorer),
        f"Modular-{model.own_scorer.name if model.own_scorer else model.scorer}",
    )
    changed = [_named(model.gating), _named(model.computation)]
    changed += [model.aggregation] if model.aggregation != "outputs" else []
    changed += [model.level] if model.level != "layer" else []
    changed += layers if model.layers > 1 else []
    return _titled(base, [text for text in changed if text])


def _titled(base: str, more: list[str]) -> str:
    """Return a title with what is more than it says, in parentheses."""
    if not more:
        return base
    listed = ", ".join(more)
    return f"{base[:-1]}, {listed})" if base.endswith(")") else f"{base} ({listed})"


def codes(model: ModelSpec) -> tuple[Code, ...]:
    """Return what a model takes from files of the user's.

    >>> codes(ModelSpec())
    ()
    """
    gating = model.gating.source if isinstance(model.gating, OwnGating) else None
    return tuple(code for code in (model.own, model.own_scorer, gating) if code is not None)


def name_of(title: str) -> str:
    """Return a title as a part of an id: lower case, digits and hyphens.

    >>> name_of("Modular-op (top-k, 2 layers)")
    'modular-op-top-k-2-layers'
    """
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-")


def _choices(model: ModelSpec) -> tuple[Any, ...]:
    """Return the place of a model on the axes; sizes are no choices."""
    return (model.scorer, model.gating, model.computation, model.aggregation, model.level)


def _named(choice: Gating | Computation) -> str:
    """Return a choice and its settings, each only where it is not the default."""
    if isinstance(choice, OwnGating):
        return choice.source.name
    settings = [
        f"{field.name} {value:g}" if isinstance(value, int | float) else f"{field.name} {value}"
        for field in fields(choice)
        if field.name != "kind" and (value := getattr(choice, field.name)) != default_of(field)
    ]
    if choice == type(choice)() and choice.kind in ("soft", "full"):
        return ""
    return " ".join([choice.kind, *settings])
