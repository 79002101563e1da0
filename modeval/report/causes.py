"""What modules do, out of scorecards: which of them rules need, and the loss while modules go."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modeval.report.routing_views import Floats, Map, activations, matched_columns, mean_map
from modeval.report.scorecard_views import ModelView
from modeval.score.scorecard import Effect, Removal

NEEDED = "needed"
"""The word for maps of need, beside those of use."""
LEGEND = (
    "Maps marked 'needed' show whose removal costs a rule how much of all that removals cost it; "
    "the others what is sent to modules."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Falling:
    """Mean loss over seeds (and layers) while modules are removed: J levels.

    Attributes:
        share: share of the modules that are removed.
        by_use: loss when the least used go first.
        random: mean over random orders.
        low: 2.5 % point of random orders.
        high: 97.5 % point.
    """

    share: Floats
    by_use: Floats
    random: Floats
    low: Floats
    high: Floats


def effects(view: ModelView, layer: int | None = None) -> list[Effect]:
    """Return what switching modules off does, of each seed of a layer."""
    return [each for each in view.own.effects if each.layer == layer]


def needed_map(view: ModelView, layer: int | None = None) -> Map | None:
    """Return the shares of modules in what rules need, in the order of the map of use.

    So that the two can be held against each other, columns are those of :func:`mean_map`, seed by
    seed; nothing where no modules were switched off.
    """
    use = {each.seed: np.array(each.matrix) for each in activations(view, layer)}
    found = [each for each in effects(view, layer) if each.seed in use]
    if not found:
        return None
    matrices = [
        np.array(each.needed, dtype=np.float64)[:, matched_columns(use[each.seed])[0]]
        for each in found
    ]
    shown = mean_map(activations(view, layer))
    return Map(
        matrix=np.mean(matrices, axis=0),
        modules=shown.modules,
        matched=shown.matched,
        averaged=len(matrices),
    )


def falling(view: ModelView, layer: int | None = None) -> Falling | None:
    """Return the loss while modules go, of a layer or the mean of all; nothing where unknown."""
    found = [each for each in view.own.removals if layer is None or each.layer == layer]
    if not found:
        return None
    removed = np.array(found[0].removed, dtype=np.float64)
    return Falling(
        share=removed / removed[-1],
        by_use=_mean(found, "by_use"),
        random=_mean(found, "random"),
        low=_mean(found, "low"),
        high=_mean(found, "high"),
    )


def _mean(found: Sequence[Removal], name: str) -> Floats:
    curves: list[tuple[float, ...]] = [getattr(each, name) for each in found]
    return np.array(curves, dtype=np.float64).mean(axis=0)  # type: ignore[no-any-return]
