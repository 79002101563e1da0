"""A whole run: data, model and training, and the names that tell it from others."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modeval.errors import SpecError
from modeval.spec.checks import check
from modeval.spec.computing.compute import Turning
from modeval.spec.data import DataSpec, Task
from modeval.spec.gatings import Loads
from modeval.spec.model import ModelSpec, check_pair, module_count
from modeval.spec.phases import Phase
from modeval.spec.plain import differences, digest, from_dict, sparse, to_dict
from modeval.spec.regimes import Joint
from modeval.spec.settings import refuse_unread, without_unread
from modeval.spec.train import TrainSpec

REFERENCE_CLIP: dict[Task, float] = {"binary": 0.0, "sets": 0.0, "series": 1.0}
"""Largest norm of a gradient in the reference's training, by task; 0 for no clipping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """A whole run: data, model and training.

    What training leaves to the task is decided here, so that the spec of a run says all of it.
    """

    name: str = "modular"
    data: DataSpec = field(default_factory=DataSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    train: TrainSpec = field(default_factory=TrainSpec)

    def __post_init__(self) -> None:
        check_pair(self.data, self.model)
        _check_regime(self.train, self.model)
        for phase in self.phases:
            _check_phase(phase, self.data, self.model)
        refuse_unread(self.train, objective=self.data.objective)
        told = replace(
            self.train, clip=self.clip, validate_every=self.validate_every, phases=_told(self)
        )
        object.__setattr__(self, "train", told)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of training, whether they were given or a regime stands for them."""
        return self.train.in_phases(self.data.rules).phases

    @property
    def stretches(self) -> tuple[tuple[int, int, Phase], ...]:
        """Each phase with its first step and the step after its last."""
        return self.train.in_phases(self.data.rules).stretches

    @property
    def clip(self) -> float:
        """Largest norm of a seed's gradient; 0 for no clipping."""
        clip = self.train.clip
        return REFERENCE_CLIP[self.data.task] if clip is None else clip

    @property
    def validate_every(self) -> int:
        """Steps between validations."""
        return self.train.validate_every or min(1_000, -(-self.train.steps // 10))

    @property
    def digest(self) -> str:
        """Name of the run: a hash of everything that decides its outcome, where not the default.

        What is decided by the task or by the number of steps differs from the default only where
        it was decided otherwise.
        """
        task, steps = self.data.task, self.train.steps
        usual = RunSpec(data=DataSpec(task=task), train=TrainSpec(steps=steps))
        return digest({"task": task, "steps": steps, **sparse(self, usual)})


def _told(spec: RunSpec) -> tuple[Phase, ...]:
    """Return the phases to write down: two halves for a computation that needs two, if none are."""
    phases, kind = spec.train.phases, spec.model.computation.kind
    if not isinstance(spec.model.computation, Turning):
        return phases
    check(
        spec.train.regime == Joint(),
        f'computation = "{kind}" has two phases of its own, and regime = '
        f'"{spec.train.regime.kind}" has others. Drop one of the two.',
    )
    check(
        len(phases) != 1,
        f'computation = "{kind}" learns all, keeps a part and learns that on, so it takes two '
        "phases. Give two [[train.phases]], or none for two halves.",
    )
    return phases or (Phase(steps=max(spec.train.steps // 2, 1)), Phase())


def _check_regime(train: TrainSpec, model: ModelSpec) -> None:
    """Refuse a regime for a model of which it makes no sense."""
    regime = train.regime
    for axis, allowed in regime.needs.items():
        value = getattr(model, axis)
        value = value if isinstance(value, str) else value.kind
        check(
            value in allowed,
            f'regime = "{regime.kind}" with {axis} = "{value}": it takes {" or ".join(allowed)}. '
            f"Use --model {regime.model}.",
        )


def _check_phase(phase: Phase, data: DataSpec, model: ModelSpec) -> None:
    """Refuse a phase that asks for what the task or the model does not have."""
    modules = module_count(data, model)
    check(
        max(phase.rules, default=0) < data.rules,
        f"A phase draws rule {max(phase.rules, default=0)} of {data.rules}: rules are "
        f"numbered from 0 to {data.rules - 1}.",
    )
    kept = data.rules - data.held_out
    check(
        max(phase.rules, default=0) < kept,
        f"A phase draws rule {max(phase.rules, default=0)}, which is held out: training has rules "
        f"0 to {kept - 1}.",
    )
    check(
        max(phase.modules, default=0) < modules,
        f"A phase trains module {max(phase.modules, default=0)} of {modules}: modules are "
        f"numbered from 0 to {modules - 1}.",
    )
    check(
        phase.routing == "learned" or modules == data.rules,
        f'routing = "oracle" of a phase with {modules} modules: it sends rule r to module r, so it '
        f"takes one module for each of the {data.rules} rules.",
    )
    loads = any(remedy.kind == "load" for remedy in phase.remedies)
    check(
        not loads or isinstance(model.gating, Loads),
        f'remedy "load" with gating = "{model.gating.kind}": it takes how likely a module is to be '
        'chosen, which --gating noisy-top-k says. Use the remedy "balance" or "importance".',
    )
    for action in (*phase.before, *phase.after):
        number = getattr(action, "module", 0)
        check(
            number < modules,
            f"{action.kind} of module {number}: there are {modules}, numbered from 0.",
        )
        largest = max(getattr(action, "rules", ()), default=0)
        check(
            largest < data.rules,
            f"{action.kind} of rule {largest}: there are {data.rules}, numbered from 0.",
        )


def digest_of(data: DataSpec, model: ModelSpec, *, unknown: tuple[str, ...] = ()) -> str:
    """Return the name of a task and a model; ``unknown`` settings of the task are guesses."""
    return digest({"data": sparse(data) | dict.fromkeys(unknown), "model": sparse(model)})


def read_spec(values: Mapping[str, Any], *, where: str = "") -> RunSpec:
    """Build the spec of a run from a file that modeval wrote, of this version or an earlier one.

    Version 0.1 kept settings that neither task nor model reads; they are left out.
    """
    return from_dict(RunSpec, without_unread(RunSpec, values), where=where)


def digests(values: Mapping[str, Any]) -> frozenset[str]:
    """Return the digests that a run with these plain values may carry.

    Its own, and that of version 0.1, which hashed every setting of the file.
    """
    return frozenset({read_spec(values).digest, digest(values)})


def run_differences(mine: RunSpec, its: RunSpec) -> dict[str, tuple[Any, Any]]:
    """Return the settings that two runs do not share, as ``train.steps``, each with both values."""
    found: dict[str, tuple[Any, Any]] = {}
    if mine.name != its.name:
        found["name"] = (mine.name, its.name)
    for section in ("data", "model", "train"):
        here, there = getattr(mine, section), getattr(its, section)
        for name, values in differences(type(here), to_dict(here), to_dict(there)).items():
            found[f"{section}.{name}"] = values
    return found


def recorded_differences(
    mine: tuple[Mapping[str, Any], Mapping[str, Any]],
    its: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> dict[str, tuple[Any, Any]]:
    """Return the settings that two pairs of task and model, as plain values, do not share.

    What one does not say is the default, and what nothing reads does not count: scorecards of
    different versions can be compared.
    """
    found: dict[str, tuple[Any, Any]] = {}
    read = [
        (
            without_unread(DataSpec, data),
            without_unread(ModelSpec, model, task=data.get("task", DataSpec().task)),
        )
        for data, model in (mine, its)
    ]
    for section, kind, here, there in zip(
        ("data", "model"), (DataSpec, ModelSpec), *read, strict=True
    ):
        for name, values in differences(kind, here, there).items():
            found[f"{section}.{name}"] = values
    return found


def recorded_digests(data: Mapping[str, Any], model: Mapping[str, Any]) -> frozenset[str]:
    """Return the digests that a scorecard may give a task and a model that it holds as values.

    Version 0.1 hashed all of them; settings of the task that are null are not known.
    """
    whole = digest({"data": data, "model": model})
    known = {name: value for name, value in data.items() if value is not None}
    try:
        task = from_dict(DataSpec, without_unread(DataSpec, known))
        read = from_dict(ModelSpec, without_unread(ModelSpec, model, task=task.task))
    except SpecError:
        return frozenset({whole})  # settings of another version than this one's
    named = digest_of(task, read, unknown=tuple(name for name in data if name not in known))
    return frozenset({named, whole})
