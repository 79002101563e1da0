"""What another training changed in the losses by phase and rule: later minus first."""

from dataclasses import dataclass

from modeval.score.scorecard import ModelRecord, PhaseLosses, Scorecard

Rows = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseChange:
    """The losses of a later column beside those of the first, phase by phase.

    Attributes:
        column: number of the later column; the other is the first.
        phases: names of the rows: ``start``, ``phase-1``, ...
        drawn: numbers of the rules that each phase draws as its own.
        first: P + 1 rows of R losses of the first column, the mean over its seeds; null where one
            is not finite.
        later: likewise of the later one.
        change: later minus first; null where one of them is.
    """

    column: int
    phases: tuple[str, ...]
    drawn: tuple[tuple[int, ...], ...]
    first: Rows
    later: Rows
    change: Rows


def course_of(card: Scorecard, model: ModelRecord) -> PhaseLosses | None:
    """Return the losses of a model by phase and rule, the mean over seeds."""
    return next((each for each in card.of(model.id).courses if each.seed is None), None)


def alike(one: PhaseLosses, two: PhaseLosses) -> bool:
    """Tell whether two courses went through the same phases of the same rules."""
    return (one.phases, one.drawn) == (two.phases, two.drawn)


def course_change(one: PhaseLosses, two: PhaseLosses, column: int) -> CourseChange:
    """Set two courses through the same phases side by side."""
    return CourseChange(
        column=column,
        phases=one.phases,
        drawn=one.drawn,
        first=one.matrix,
        later=two.matrix,
        change=tuple(
            tuple(None if a is None or b is None else b - a for a, b in zip(mine, its, strict=True))
            for mine, its in zip(one.matrix, two.matrix, strict=True)
        ),
    )
