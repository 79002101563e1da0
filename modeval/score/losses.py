"""Losses of cohorts: their names, and how sure they are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float64
from torch import Tensor

from modeval.score.measure import Measured
from modeval.score.scorecard import Score
from modeval.score.subjects import Loss
from modeval.spec import DataSpec

NORMAL = 1.96
"""97.5 % point of the normal distribution, by which the half width of a loss is wider."""


@dataclass(frozen=True, slots=True)
class LossColumn:
    """One loss of all usable seeds.

    Attributes:
        metric: its name.
        measured: ``(S, 1)``.
        samples: samples of each seed.
        length: positions of the sequences; nothing for single samples.
        scale: what inputs were multiplied by.
    """

    metric: str
    measured: Measured
    samples: int
    length: int | None
    scale: float

    def base(self, model: str) -> Score:
        """Return the entry without its value."""
        return Score(model=model, metric=self.metric, length=self.length, scale=self.scale)


def loss_columns(losses: Sequence[Loss], data: DataSpec, usable: list[int]) -> list[LossColumn]:
    """Name the losses; the headline of sequences is the trained length, or the longest with x2."""
    columns = [column for loss in losses for column in _of_loss(loss, data, usable)]
    headlines = [column for column in columns if column.metric in HEADLINES]
    return headlines + [column for column in columns if column.metric not in HEADLINES]


def held_out_columns(
    loss: Loss, trained: LossColumn, data: DataSpec, usable: list[int]
) -> list[LossColumn]:
    """Return the losses on rules that were held out, and how many times the trained ones' that is.

    Args:
        loss: on held-out rules.
        trained: the loss on the rules of training.
        data: the task.
        usable: numbers of the seeds that were measured.
    """
    columns = [
        replace(column, metric=column.metric.replace("in_distribution", "held_out"))
        for column in _of_loss(loss, data, usable)
    ]
    held, known = columns[0].measured, trained.measured
    ratio = held.value / known.value
    error = None
    if held.error is not None and known.error is not None:
        parts = (held.error / held.value).square() + (known.error / known.value).square()
        error = ratio * parts.sqrt()
    gap = LossColumn("systematic_gap", Measured(ratio, error), loss.samples, None, trained.scale)
    return [*columns, gap]


HEADLINES = frozenset(
    f"{side}_distribution_{kind}" for side in ("in", "out_of") for kind in ("loss", "error_rate")
)


def _of_loss(loss: Loss, data: DataSpec, usable: list[int]) -> Iterator[LossColumn]:
    values: list[tuple[str, Tensor, Tensor | None]] = [("loss", loss.mean(), error_of(loss))]
    if data.objective == "classification":
        values.append(("error_rate", loss.error_rate(), None))
    for kind, value, error in values:
        measured = Measured(
            value=value[usable].cpu().double().unsqueeze(-1),
            error=None if error is None else error[usable].double().unsqueeze(-1),
        )
        for name in _names(kind, loss, data):
            yield LossColumn(name, measured, loss.samples, loss.length, data.scale * loss.factor)


def _names(kind: str, loss: Loss, data: DataSpec) -> Iterator[str]:
    shifted = loss.factor != 1
    headline = max(data.tested_lengths, default=0) if shifted else data.length
    if loss.length is None or loss.length == headline:
        yield f"{'out_of' if shifted else 'in'}_distribution_{kind}"
    if loss.length is not None:
        yield f"{kind}_at_length_{loss.length}" + (f"_x{loss.factor:g}" if shifted else "")


def error_of(loss: Loss) -> Float64[Tensor, "seeds"]:
    """Return the standard error of each member's mean loss."""
    return (loss.half_width() / NORMAL).cpu()
