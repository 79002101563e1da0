"""What to build: a network as a point in the space of modular models."""

from dataclasses import dataclass
from typing import Any, Literal

from modeval.spec.checks import check, check_choices, check_positive
from modeval.spec.data import DataSpec
from modeval.spec.settings import refuse_unread, setting

Scorer = Literal["none", "module", "shared", "rule", "oracle"]
Match = Literal["parameters", "width"]

MODELS: dict[str, dict[str, Any]] = {
    "monolithic": {"scorer": "none", "modules": 1},
    "modular": {"scorer": "module"},
    "modular-shared": {"scorer": "shared"},
    "modular-op": {"scorer": "rule"},
    "gt-modular": {"scorer": "oracle"},
}
"""The paper's models as choices on the axes of the model space: names for :class:`ModelSpec`."""

MODEL_TITLES = {
    "monolithic": "Monolithic",
    "modular": "Modular",
    "modular-shared": "Modular (shared scorer)",
    "modular-op": "Modular-op",
    "gt-modular": "GT-Modular",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A network as a point in the space of modular models.

    The task decides the backbone: an MLP for ``binary``, attention for ``sets``, an LSTM for
    ``series``.

    Attributes:
        scorer: what gives the routing logits: ``module`` (each module its own), ``shared`` (one
            scorer on a module's output and the input), ``rule`` (the rule only), ``oracle`` (the
            ground truth itself), ``none`` (a single module that takes all: Monolithic).
        modules: number of modules M; 0 for as many as rules.
        encoder: width of the encoders (and of the attention stream).
        width: hidden width of the whole module bank (MLP), width of the queries (attention), size
            of the state (recurrent).
        heads: attention heads of each module (``sets``).
        match: ``parameters`` narrows the modules so that totals stay near the monolithic model's,
            as the paper does, to whole units; ``width`` gives each module the full width.
    """

    scorer: Scorer = "module"
    modules: int = 0
    encoder: int = 32
    width: int = 128
    heads: int = setting(2, read_by={"task": ("sets",)})
    match: Match = "parameters"

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "encoder", "width", "heads")
        check(self.modules >= 0, f"modules = {self.modules}: give 1 or more, or 0 for the rules.")
        check(
            self.scorer != "none" or self.modules == 1,
            f'scorer = "none" has nothing to choose by, so it takes modules = 1, not '
            f"{self.modules}. Use --model modular for several modules.",
        )


def check_pair(data: DataSpec, model: ModelSpec) -> None:
    """Refuse a model that cannot be built for a task, and say what would fit."""
    refuse_unread(model, task=data.task)
    modules = module_count(data, model)
    if model.scorer == "oracle":
        check(
            modules == data.rules,
            f"modules = {modules} with the oracle scorer: it sends rule r to module r, so it "
            f"takes one module for each of the {data.rules} rules. Drop --modules.",
        )
    if model.match == "parameters" and data.task == "binary":
        check(
            model.width >= modules,
            f"width = {model.width} leaves no unit for each of {modules} modules. Use --width "
            f"{modules} or more, or --match width.",
        )
    if data.task == "sets":
        heads = attention_heads(data, model)
        per_module = modules if model.match == "parameters" else 1
        check(
            model.width >= heads * per_module,
            f"width = {model.width} leaves nothing for each of {heads} heads x {per_module} "
            f"modules. Use --width {heads * per_module} or more, or --match width.",
        )


def module_count(data: DataSpec, model: ModelSpec) -> int:
    """Return M: what the spec says, or one module for each rule."""
    return model.modules or data.rules


def attention_heads(data: DataSpec, model: ModelSpec) -> int:
    """Return the heads of a module; the single module of Monolithic has those of R modules."""
    return model.heads * data.rules if model.scorer == "none" else model.heads
