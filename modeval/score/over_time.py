"""Scores of what training did: entries of a scorecard, and losses by phase and rule."""

from collections.abc import Iterator

import torch
from torch import Tensor

from modeval.metrics import course as metrics
from modeval.metrics.course import Course, History
from modeval.metrics.losses import LOSSES
from modeval.score.entries import Members, entries
from modeval.score.measure import Measured
from modeval.score.scorecard import Better, PhaseLosses, Score

OF_COURSE = {
    "average_loss": metrics.average_loss,
    "backward_transfer": metrics.backward_transfer,
    "forward_transfer": metrics.forward_transfer,
    "forgetting": metrics.forgetting,
    "interference": metrics.interference,
}
"""Scores of losses by phase and rule."""


def over_time(model: str, history: History | None, members: Members) -> Iterator[Score]:
    """Yield the scores of a run's training; what is not defined for its phases is left out.

    Args:
        model: ``id`` of the model.
        history: of all members.
        members: the seeds.
    """
    if history is None or not members.usable:
        return
    values: dict[str, Tensor | None] = {}
    if history.course is not None:
        values |= {name: score(history.course) for name, score in OF_COURSE.items()}
        values["few_shot_loss"] = history.early
    if history.merging is not None:
        values["merging_gap"] = history.merging.gap
        values["mode_barrier"] = history.merging.barrier
        values["mode_barrier_matched"] = history.merging.matched
    values["steps_to_threshold"] = metrics.steps_to_threshold(history.steps, history.loss)
    values["churn"] = history.churn
    for name, value in values.items():
        if value is not None and bool(value[[*members.usable]].isfinite().any()):
            better: Better = "higher" if LOSSES[name].better == "higher" else "lower"
            measured = Measured(value=value[[*members.usable]].double().unsqueeze(-1))
            yield from entries(Score(model=model, metric=name, better=better), measured, members)


def phase_losses(model: str, history: History | None, members: Members) -> Iterator[PhaseLosses]:
    """Yield the losses by phase and rule: the mean over seeds, then each seed."""
    if history is None or history.course is None or not members.usable:
        return
    course, usable = history.course, [*members.usable]
    yield _entry(model, history, course, course.loss[usable].mean(0), None)
    for number in usable:
        yield _entry(model, history, course, course.loss[number], members.seeds[number])


def _entry(
    model: str, history: History, course: Course, loss: Tensor, seed: tuple[int, int] | None
) -> PhaseLosses:
    finite = loss.isfinite()
    return PhaseLosses(
        model=model,
        seed=seed,
        phases=history.phases,
        drawn=tuple(tuple(torch.nonzero(row).flatten().tolist()) for row in course.drawn),
        matrix=tuple(
            tuple(float(value) if known else None for value, known in zip(row, mask, strict=True))
            for row, mask in zip(loss, finite, strict=True)
        ),
    )
