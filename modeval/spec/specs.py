"""What to generate, build and train: frozen specifications, the same in Python, TOML and flags.

Each section of a spec file is one dataclass; each field is one flag of the command line. A
combination that makes no sense is refused here, before anything is computed.
"""

import dataclasses
import difflib
import hashlib
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from modeval.errors import SpecError

Task = Literal["binary", "sets", "series"]
Objective = Literal["regression", "classification"]
Operation = Literal["linear", "named"]
Search = Literal["nearest", "product"]
Scorer = Literal["none", "module", "shared", "rule", "oracle"]
Match = Literal["parameters", "width"]
Schedule = Literal["constant", "steps", "cosine"]
Selection = Literal["last", "best"]

NAMED_OPERATIONS = ("sum", "subtract", "product", "min", "max")
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


def _check(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise SpecError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """A family of tasks whose ground-truth rules are known.

    Attributes:
        task: ``binary`` (operations on two numbers, for MLPs), ``sets`` (search and retrieve among
            positions, for attention) or ``series`` (switching linear dynamics, recurrent).
        objective: predict the value, or whether it is at least zero.
        rules: number of ground-truth rules R.
        operation: of ``binary``: ``linear`` with coefficients of its own for each rule, or the
            ``named`` operations sum, subtract, product, min, max (at most five rules).
        search: of ``sets``: the ``nearest`` scalar, or the largest dot ``product`` of unit vectors.
        dimension: of ``series``: size of the state and of the input.
        order: of ``series``: how many earlier states a state depends on.
        length: positions of a sequence (``sets`` and ``series``).
        scale: inputs are multiplied by this; 2 is the paper's out-of-distribution shift.
        rule_probabilities: shares of the rules; empty for equal shares.
    """

    task: Task = "binary"
    objective: Objective = "regression"
    rules: int = 4
    operation: Operation = "linear"
    search: Search = "nearest"
    dimension: int = 32
    order: int = 1
    length: int = 10
    scale: float = 1.0
    rule_probabilities: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_positive(self, "rules", "dimension", "order", "length", "scale")
        if self.operation == "named":
            _check(
                self.rules <= len(NAMED_OPERATIONS) or self.task != "binary",
                f"rules = {self.rules} with named operations: there are {len(NAMED_OPERATIONS)} "
                f"({', '.join(NAMED_OPERATIONS)}). Use --rules {len(NAMED_OPERATIONS)} or fewer, "
                "or --operation linear.",
            )
        if self.task == "sets":
            _check(
                self.length > 1,
                f"length = {self.length}: a search needs at least 2 positions. Use --length 10.",
            )
        if self.rule_probabilities:
            _check(
                len(self.rule_probabilities) == self.rules,
                f"rule_probabilities has {len(self.rule_probabilities)} entries for "
                f"{self.rules} rules: give one for each rule.",
            )
            total = sum(self.rule_probabilities)
            _check(
                min(self.rule_probabilities) >= 0 and abs(total - 1) < 1e-6,  # noqa: PLR2004
                f"rule_probabilities sum to {total:g}: give shares from 0 to 1 that sum to 1.",
            )

    @property
    def sequence(self) -> bool:
        """Whether a sample is a sequence with a rule at each position."""
        return self.task != "binary"

    @property
    def features(self) -> int:
        """Width of the inputs beside the rule."""
        per_rule = {"nearest": 4, "product": 6}[self.search]
        return {"binary": 2, "sets": per_rule * self.rules, "series": self.dimension}[self.task]

    @property
    def outputs(self) -> int:
        """Width of the target: the whole state for ``series`` regression, else one."""
        whole_state = self.task == "series" and self.objective == "regression"
        return self.dimension if whole_state else 1


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
        heads: attention heads of each module.
        match: ``parameters`` narrows the modules so that totals stay near the monolithic model's,
            as the paper does; ``width`` gives each module the full width.
    """

    scorer: Scorer = "module"
    modules: int = 0
    encoder: int = 32
    width: int = 128
    heads: int = 2
    match: Match = "parameters"

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_positive(self, "encoder", "width", "heads")
        _check(self.modules >= 0, f"modules = {self.modules}: give 1 or more, or 0 for the rules.")
        _check(
            self.scorer != "none" or self.modules == 1,
            f'scorer = "none" has nothing to choose by, so it takes modules = 1, not '
            f"{self.modules}. Use --model modular for several modules.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """How a cohort is trained.

    Attributes:
        seeds: a pair (task seed, model seed) for each member of the cohort.
        steps: optimiser steps.
        batch: samples of a step, for each seed.
        learning_rate: of Adam.
        schedule: ``constant``; ``steps`` halves the rate at each milestone; ``cosine`` to zero.
        milestones: steps at which ``steps`` halves the rate.
        clip: largest norm of a seed's gradient; 0 for none.
        validate_every: steps between validations (and checkpoints).
    """

    seeds: tuple[tuple[int, int], ...] = ((0, 0),)
    steps: int = 10_000
    batch: int = 256
    learning_rate: float = 1e-4
    schedule: Schedule = "constant"
    milestones: tuple[int, ...] = ()
    clip: float = 0.0
    validate_every: int = 1_000

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_positive(self, "steps", "batch", "learning_rate", "validate_every")
        _check(self.clip >= 0, f"clip = {self.clip}: give a norm above 0, or 0 for no clipping.")
        _check(len(self.seeds) > 0, "seeds is empty: give at least one. Use --seeds 1.")
        _check(
            len(set(self.seeds)) == len(self.seeds),
            "seeds holds a pair twice: each (task seed, model seed) may stand once.",
        )
        _check(
            all(0 <= number < 2**32 for pair in self.seeds for number in pair),
            "seeds must lie from 0 to 2**32 - 1.",
        )
        _check(
            self.schedule == "steps" or not self.milestones,
            f'milestones belong to schedule = "steps", not "{self.schedule}".',
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """A whole run: data, model and training."""

    name: str = "modular"
    data: DataSpec = field(default_factory=DataSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    train: TrainSpec = field(default_factory=TrainSpec)

    def __post_init__(self) -> None:
        check_pair(self.data, self.model)

    @property
    def digest(self) -> str:
        """Name of the run: a hash of everything that decides its outcome."""
        return digest(to_dict(self))


def seed_grid(task_seeds: int, model_seeds: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs (task seed, model seed), task seed running fastest as in the reference."""
    return tuple((task, model) for model in range(model_seeds) for task in range(task_seeds))


def check_pair(data: DataSpec, model: ModelSpec) -> None:
    """Refuse a model that cannot be built for a task, and say what would fit."""
    modules = module_count(data, model)
    if model.scorer == "oracle":
        _check(
            modules == data.rules,
            f"modules = {modules} with the oracle scorer: it sends rule r to module r, so it "
            f"takes one module for each of the {data.rules} rules. Drop --modules.",
        )
    if model.match == "parameters" and data.task == "binary":
        _check(
            model.width % modules == 0,
            f"width = {model.width} does not divide into {modules} modules. Use --width "
            f"{max(1, round(model.width / modules)) * modules}, or --match width.",
        )
    if data.task == "sets":
        heads = attention_heads(data, model)
        per_module = modules if model.match == "parameters" else 1
        _check(
            model.width % (heads * per_module) == 0,
            f"width = {model.width} does not divide into {heads} heads x {per_module} modules. "
            f"Use --width {max(1, round(model.width / (heads * per_module))) * heads * per_module}"
            ", or --match width.",
        )


def module_count(data: DataSpec, model: ModelSpec) -> int:
    """Return M: what the spec says, or one module for each rule."""
    return model.modules or data.rules


def attention_heads(data: DataSpec, model: ModelSpec) -> int:
    """Return the heads of a module; the single module of Monolithic has those of R modules."""
    return model.heads * data.rules if model.scorer == "none" else model.heads


# --- dictionaries, TOML, digests -----------------------------------------------------------------

Spec = TypeVar("Spec", DataSpec, ModelSpec, TrainSpec, RunSpec)


def to_dict(spec: DataSpec | ModelSpec | TrainSpec | RunSpec) -> dict[str, Any]:
    """Return the spec as nested dictionaries of plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(spec)))
    return plain


def from_dict(kind: type[Spec], values: Mapping[str, Any], *, where: str = "") -> Spec:
    """Build a spec from plain values; unknown names and wrong types are refused by name."""
    hints = typing.get_type_hints(kind)
    known = {entry.name for entry in fields(kind)}
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(known))}."
            raise SpecError(f"{where}{name}: there is no such setting. {advice}")
        arguments[name] = _coerce(hints[name], value, f"{where}{name}")
    return kind(**arguments)


def digest(values: Mapping[str, Any]) -> str:
    """Return a short stable hash of plain values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_toml(path: Path) -> dict[str, Any]:
    """Read a spec file; say where it is wrong when it is."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"No spec file at {path}. Write one, or give flags instead.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not valid TOML: {error}.") from None


def to_toml(spec: RunSpec) -> str:
    """Return the spec as TOML that :func:`load_toml` and :func:`from_dict` read back exactly."""
    values = to_dict(spec)
    lines = [
        f"{name} = {_literal(value)}"
        for name, value in values.items()
        if not isinstance(value, dict)
    ]
    for section, entries in values.items():
        if isinstance(entries, dict):
            lines += ["", f"[{section}]"]
            lines += [f"{name} = {_literal(value)}" for name, value in entries.items()]
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    """Return a value as TOML: JSON's literals are TOML's but for two kinds of characters."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """Turn a plain value into the annotated type, or refuse it by name."""
    if dataclasses.is_dataclass(hint):
        _check(isinstance(value, Mapping), f"{where} must be a table of settings, not {value!r}.")
        return from_dict(typing.cast("Any", hint), value, where=f"{where}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        _check(isinstance(value, (list, tuple)), f"{where} must be a list, not {value!r}.")
        entry = arguments[0]
        if len(arguments) == 2 and arguments[1] is not Ellipsis:  # noqa: PLR2004
            _check(len(value) == len(arguments), f"{where} takes {len(arguments)} numbers.")
        return tuple(_coerce(entry, item, where) for item in value)
    if origin in (Literal, types.UnionType):
        return value  # the dataclass checks its own choices
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _check(
        isinstance(value, hint) and not (hint is int and isinstance(value, bool)),
        f"{where} = {value!r}: expected {hint.__name__}.",
    )
    return value


def _check_choices(spec: Any) -> None:
    for name, hint in typing.get_type_hints(type(spec)).items():
        if typing.get_origin(hint) is Literal:
            value, choices = getattr(spec, name), typing.get_args(hint)
            if value not in choices:
                near = difflib.get_close_matches(str(value), choices, n=1)
                advice = f' Did you mean "{near[0]}"?' if near else ""
                known = ", ".join(choices)
                raise SpecError(f"{name} = {value!r}: expected one of {known}.{advice}")


def _check_positive(spec: Any, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        _check(
            value > 0 and value == value and value != float("inf"),  # noqa: PLR0124
            f"{name} = {value}: expected a number above 0.",
        )
