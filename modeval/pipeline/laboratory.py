"""Where claims are measured: small runs, each trained once, and a verdict on what seeds say."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from scipy.special import stdtrit
from torch import Tensor

from modeval.evaluate.history import history_of
from modeval.metrics.course import History, forgetting
from modeval.nn.network import Output
from modeval.spec import RunSpec, from_dict
from modeval.spec.systems import named
from modeval.train.files import read_network
from modeval.train.loop import train
from modeval.train.records import is_run, read_run
from modeval.train.stream import VALIDATION_SAMPLES, Stream, validation_batch
from modeval.train.validation import Validated, validate
from modeval.types import Batch

SEEDS, RULES, STEPS = 12, 4, 1_500
FIRST = 2_000
"""First of the seeds: settings were chosen on those from 0, and what is told is measured on others.
"""
Verdict = Literal["holds", "contradicted", "not shown", "holds to the bit", "fails"]


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a claim.

    Attributes:
        claim: in words.
        effect: what is measured, in words.
        mean: of the effect over seeds; above 0 is what is claimed.
        low: lower end of its 95 % interval; nothing where it is exact.
        high: upper end.
        verdict: what follows.
        note: what to know when reading it.
    """

    claim: str
    effect: str
    mean: float
    low: float | None
    high: float | None
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim: what it says, what is measured, and how.

    Attributes:
        text: the claim.
        effect: what the measurement is.
        measure: gives the effect of each seed, ``(S,)``; above 0 is what is claimed.
        exact: whether it says that all are exactly 0.
        note: what to know when reading it.
    """

    text: str
    effect: str
    measure: "Callable[[Laboratory], Tensor]"
    exact: bool = False
    note: str = ""


class Laboratory:
    """Trains what claims ask for, each once, into folders of its own."""

    def __init__(self, folder: Path, *, steps: int = STEPS, seeds: int = SEEDS) -> None:
        self.folder, self.steps, self.seeds = folder, steps, seeds
        self.tasks = range(FIRST, FIRST + seeds)
        self.history = cache(self._history)

    def run(self, name: str, regime: str = "joint", **more: Any) -> Path:
        """Return the folder of a run, trained if it was not.

        Args:
            name: of a model.
            regime: of training.
            **more: ``label`` of the folder, ``settings`` of the regime, ``data``, ``model``,
                ``seeds`` and settings of training.
        """
        folder = self.folder / str(more.pop("label", f"{name}-{regime}"))
        if not is_run(folder):
            train(self._spec(name, regime, more), folder, device=torch.device("cpu"))
        return folder

    def _spec(self, name: str, regime: str, more: dict[str, Any]) -> RunSpec:
        settings = {"encoder": 16, "width": 48, **more.pop("model", {})}
        data = {"rules": RULES, **more.pop("data", {})}
        training = {
            "seeds": more.pop("seeds", [[task, task] for task in self.tasks]),
            "steps": self.steps,
            "batch": 64,
            "learning_rate": 3e-3,
            "regime": {"kind": regime, **more.pop("settings", {})},
            **more,
        }
        model, told = named(name, settings, training)
        return from_dict(RunSpec, {"name": name, "data": data, "model": model, "train": told})

    def samples(self, folder: Path) -> Batch:
        """Return the samples that all validations of a run use."""
        spec = read_run(folder)
        stream = Stream(spec.data, spec.train.seeds, spec.train.batch, torch.device("cpu"))
        return validation_batch(stream, VALIDATION_SAMPLES)

    def seen(self, folder: Path, selection: str = "last") -> Validated:
        """Return what a validation of some weights of a run tells."""
        objective = read_run(folder).data.objective
        return validate(read_network(folder, selection), self.samples(folder), objective)

    def output(self, folder: Path, selection: str = "last") -> Output:
        """Return what some weights of a run say of those samples."""
        batch = self.samples(folder)
        with torch.no_grad():
            output: Output = read_network(folder, selection)(batch.inputs, batch.rule)
        return output

    def _history(self, folder: Path) -> History:
        history = history_of(folder, read_run(folder), range(self.seeds))
        assert history is not None  # noqa: S101 - written by this version
        return history

    def forgotten(self, folder: Path) -> Tensor:
        """Return how much each seed of a run forgot."""
        course = self.history(folder).course
        assert course is not None  # noqa: S101 - asked for of several phases alone
        return forgetting(course)


def judged(claim: Claim, effect: Tensor) -> Found:
    """Return a verdict on the effects of seeds.

    >>> claim = Claim("a", "b", lambda _: torch.zeros(1))
    >>> judged(claim, torch.tensor([1.0, 1.1, 0.9, 1.0])).verdict
    'holds'
    >>> judged(claim, torch.tensor([1.0, -1.1, 0.9, -1.0])).verdict
    'not shown'
    """
    values = effect.double()
    mean = float(values.mean())
    if claim.exact:
        largest = float(values.abs().max())
        verdict: Verdict = "fails" if largest else "holds to the bit"
        return Found(claim.text, claim.effect, mean, None, None, verdict, claim.note)
    half = float(stdtrit(len(values) - 1, 0.975) * values.std() / math.sqrt(len(values)))
    low, high = mean - half, mean + half
    verdict = "holds" if low > 0 else "contradicted" if high < 0 else "not shown"
    return Found(claim.text, claim.effect, mean, low, high, verdict, claim.note)
