"""An alarm: a limit for routing that, once crossed, stops training.

    stop_when="layers.worst.dead_fraction>0.3"

The words are those of a gate's limits: a metric, perhaps of the worst layer or of the mean over
layers, and a bound that it must not cross.
"""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modeval.errors import SpecError, TraceError
from modeval.metrics import METRICS, STATIC_METRICS
from modeval.metrics.measuring import measure
from modeval.trace.fold import LayerGroup
from modeval.types import RoutingCounts

FORM = re.compile(r"\s*(?:layers\.(worst|mean)\.)?(\w+)\s*(>=|<=|>|<)\s*(\S+)\s*")
CROSSED: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
EXAMPLE = 'stop_when="layers.worst.dead_fraction>0.3"'


@dataclass(frozen=True, slots=True)
class Alarm:
    """What must not happen to the routing of a model.

    Attributes:
        layers: ``worst`` layer, or ``mean`` over layers.
        metric: name of a metric that counts alone tell.
        sign: ``>``, ``>=``, ``<`` or ``<=``.
        bound: the value that must not be crossed.
    """

    layers: str
    metric: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"layers.{self.layers}.{self.metric}{self.sign}{self.bound:g}"

    def crossed(self, value: float) -> bool:
        """Return whether a value has crossed the bound; what is no number has."""
        return value != value or CROSSED[self.sign](value, self.bound)  # noqa: PLR0124 - NaN


def parse_alarm(text: str) -> Alarm:
    """Read an alarm; without a word for the layers it is of the worst one.

    Raises:
        SpecError: it is no such sentence, or names no metric that can be told.

    >>> parse_alarm("layers.mean.collapse_avg > 0.9")
    Alarm(layers='mean', metric='collapse_avg', sign='>', bound=0.9)
    >>> str(parse_alarm("dead_fraction>.3"))
    'layers.worst.dead_fraction>0.3'
    """
    match = FORM.fullmatch(text)
    if match is None:
        raise SpecError(f"stop_when={text!r}: expected a metric and a bound, as {EXAMPLE}.")
    layers, metric, sign, number = match.groups()
    if metric not in STATIC_METRICS:
        raise SpecError(
            f"stop_when={text!r}: {metric!r} is no metric that one step tells: expected one of "
            f"{', '.join(STATIC_METRICS)}."
        )
    try:
        bound = float(number)
    except ValueError:
        raise SpecError(f"stop_when={text!r}: {number!r} is no number, as in {EXAMPLE}.") from None
    return Alarm(layers or "worst", metric, sign, bound)


def value_of(alarm: Alarm, groups: Sequence[LayerGroup]) -> float:
    """Return the metric of an alarm for counts of layers, of the rules that occur.

    Raises:
        TraceError: nothing was counted, or labels are needed and there are none.
    """
    values = [
        float(measure(counts, [alarm.metric])[alarm.metric])
        for group in groups
        for counts in _layers(group)
    ]
    if not values:
        raise TraceError(f"Nothing was recorded, so {alarm} cannot be told.")
    if alarm.layers == "mean":
        return sum(values) / len(values)
    better = METRICS[alarm.metric].better
    lower = alarm.sign.startswith(">") if better == "neither" else better == "lower"
    return max(values) if lower else min(values)


def _layers(group: LayerGroup) -> list[RoutingCounts]:
    """Return the counts of each layer that ran, without rules that did not occur."""
    parts = group.counts.tensors()
    layers = []
    for layer in range(len(group.layers)):
        rules = parts["samples"][layer].sum(0) > 0
        if bool(rules.any()):
            layers.append(
                RoutingCounts(
                    **{
                        name: part[layer] if name == "coactivation" else part[layer][:, rules]
                        for name, part in parts.items()
                    }
                )
            )
    return layers
