"""How the validation loss fell: seeds as thin lines, their mean as a thick one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modeval.report.paper.style import (
    Style,
    columns,
    grid,
    legend,
    line_style,
    plain_ticks,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """How the loss of one run fell.

    Attributes:
        name: of the model.
        task: models of the same task share a panel.
        steps: ``(T,)``.
        values: ``(S, T)`` for each seed; NaN where it was not finite.
    """

    name: str
    task: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def draw(curves: Sequence[Curves], style: Style) -> "Figure":
    """Draw a panel for each task."""
    tasks = list(dict.fromkeys(each.task for each in curves))
    names = list(dict.fromkeys(each.name for each in curves))
    figure, panels, spare = grid(len(tasks), style, 1.9, sharey=True)
    handles: dict[str, Any] = {}
    positive = all(bool((each.values[np.isfinite(each.values)] > 0).all()) for each in curves)
    for panel, task in zip(panels, tasks, strict=True):
        for each in curves:
            if each.task == task:
                _curve(panel, each, names.index(each.name), handles)
        if len(tasks) > 1:
            panel.set_title(
                wrapped(task, style.width / min(len(tasks), columns(style))), loc="left"
            )
        if positive:
            panel.set_yscale("log")
            plain_ticks(panel, "y")
        panel.set_xlabel("steps")
    panels[0].set_ylabel("validation loss")
    legend(figure, handles, style, spare)
    return figure


def _curve(panel: "Axes", curves: Curves, index: int, handles: dict[str, Any]) -> None:
    look = line_style(index)
    marker = look["marker"] if curves.steps.size < 12 else None  # noqa: PLR2004 - more would touch
    if len(curves.values) > 1:
        thin = panel.plot(curves.steps, curves.values.T, color=look["color"], alpha=0.3, lw=0.6)
        handles["one seed (thick: their mean)"] = thin[0]
    finite = np.isfinite(curves.values)
    total = np.where(finite, curves.values, 0.0).sum(0)
    counted = finite.sum(0)
    mean = np.divide(total, counted, out=np.full(total.shape, np.nan), where=counted > 0)
    handles[curves.name] = panel.plot(curves.steps, mean, **(look | {"marker": marker}))[0]
