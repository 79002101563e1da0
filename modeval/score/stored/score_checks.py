"""What scores of a scorecard must be: each by itself, and means beside what they are means of."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from modeval.errors import nearest
from modeval.metrics.losses import LOSSES
from modeval.metrics.metric import Better, Metric
from modeval.metrics.table import METRICS, metric_of
from modeval.score.scorecard import ModelRecord, Score, Seed

CLOSE = 1e-6
"""How far numbers that are made of others may lie from them: rounding, and no more."""

LIKE = 1e-4
"""How far a number in other units may lie from it."""
ROUTED = frozenset({"joint", "counts", "sums", "table", "positions"})
"""What metrics of routing need."""
SURELY_BEYOND = 0.015
"""One-sided p of values beyond the middle 95 % of what permuted labels give: .025, with room for a
few permutations."""
IN_STEPS = "dead_fraction"
"""A share that moves in steps: its error and its interval are of two kinds."""
LEAST_P = 1e-8
"""So many permutations that nobody waits for them."""


class FaultError(Exception):
    """Something that cannot be; the text says where and what."""


@dataclass(frozen=True, slots=True)
class Known:
    """A model, and what its entries are held against.

    Attributes:
        model: the model.
        rules: number of its rules; 0 where they are not known.
        seeds: its seeds; empty for a trace.
    """

    model: ModelRecord
    rules: int
    seeds: frozenset[Seed]

    @property
    def several(self) -> bool:
        """Whether entries must say which layer they are of."""
        return len(self.model.layers) > 1

    def modules(self, layer: int | None) -> int:
        """Return the number of modules of a layer; the largest of all where none is named."""
        counts = self.model.layer_modules
        one = counts and (layer is not None or len(counts) == 1)
        return counts[layer or 0] if one else self.model.modules


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a score over seeds or over layers is made of, and scores of the same place."""

    seeds: Sequence[Score]
    layers: Sequence[Score]
    beside: Mapping[str, Score]
    known: Known


def check_scores(scores: Sequence[Score], models: Mapping[str, Known]) -> None:
    """Refuse scores that cannot be, or that do not go together.

    Raises:
        FaultError: names the first.
    """
    groups = _Groups()
    for at, score in enumerate(scores):
        if not groups.add(score):
            _refuse(at, score, "it is there twice")
        for fault in _faults(score, models.get(score.model), models):
            _refuse(at, score, fault)
    for at, score in enumerate(scores):
        parts = groups.parts(score, models[score.model])
        for fault in (*_made_wrongly(score, parts), *_said_otherwise(score, parts)):
            _refuse(at, score, fault)


@dataclass(frozen=True, slots=True)
class _Groups:
    """Scores by what they go together with."""

    seen: set[object] = field(default_factory=set)
    seeds: dict[object, list[Score]] = field(default_factory=lambda: defaultdict(list))
    layers: dict[object, list[Score]] = field(default_factory=lambda: defaultdict(list))
    places: dict[object, dict[str, Score]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, score: Score) -> bool:
        """Keep a score; tell whether it is the first of its place."""
        key = (score.model, score.metric, score.layer, score.over, score.seed)
        if key in self.seen:
            return False
        self.seen.add(key)
        if score.seed is not None:
            self.seeds[key[:4]].append(score)
        if score.over is None and score.layer is not None:
            self.layers[score.model, score.metric, score.seed].append(score)
        if score.metric in SAID_AGAIN:
            self.places[_place(score)][score.metric] = score
        return True

    def parts(self, score: Score, known: Known) -> "_Parts":
        """Return what a score is made of, and what says the same."""
        return _Parts(
            self.seeds[score.model, score.metric, score.layer, score.over],
            self.layers[score.model, score.metric, score.seed],
            self.places.get(_place(score), {}),
            known,
        )


def _place(score: Score) -> object:
    return score.model, score.layer, score.over, score.seed


def _refuse(at: int, score: Score, fault: str) -> None:
    parts = (
        f"{ascii(score.metric)[1:-1]} of {score.model}",
        "" if score.layer is None else f"layer {score.layer}",
        f"{score.over} of the layers" if score.over else "",
        "" if score.seed is None else f"seed {score.seed[0]}/{score.seed[1]}",
    )
    raise FaultError(f"scores[{at}] ({', '.join(part for part in parts if part)}): {fault}")


# --- one score by itself -------------------------------------------------------------------------


def _faults(score: Score, known: Known | None, models: Mapping[str, Known]) -> Iterator[str]:
    metric = _metric(score.metric)
    if known is None:
        yield f"there is no model {score.model!r}{nearest(score.model, list(models))}"
        return
    if metric is None:
        yield f"there is no such metric{nearest(score.metric, [*METRICS, *LOSSES])}"
        return
    yield from direction_faults(score.better, metric.better)
    whole = metric.needs == "outputs"  # what a model answers is of no single layer
    yield from place_faults(score.layer, score.over, known, whole=whole)
    if score.seed is not None and score.seed not in known.seeds:
        yield "the model has no such seed"
    yield from _interval_faults(score)
    yield from _error_faults(score, metric, known)
    yield from _test_faults(score, metric)
    if score.seeds < 0 or (score.samples or 0) < 0:
        yield "a number of seeds or samples is below 0"
    yield from _amount_faults(score, metric, known)
    yield from _bounds_faults(score, metric, known)


@cache
def _metric(name: str) -> Metric | None:
    return metric_of(name)


def direction_faults(given: str | None, better: Better) -> Iterator[str]:
    """Yield what is wrong with the direction of an entry."""
    if given != (None if better == "neither" else better):
        yield f"better is {given}, where the metric's own direction is {better}"


def place_faults(
    layer: int | None, over: str | None, known: Known, *, whole: bool = False
) -> Iterator[str]:
    """Yield what is wrong with the layer that an entry says it is of; whole models have none."""
    count = max(len(known.model.layers), 1)
    if layer is not None and not 0 <= layer < count:
        yield f"the model has {count} layers, and this is of layer {layer}"
    elif over == "mean" and layer is not None:
        yield "a mean over layers is of no layer"
    elif known.several and layer is None and over != "mean" and not whole:
        yield f"the model has {count} layers, and this does not say which it is of"
    elif not known.several and (layer, over) != (None, None):
        yield "the model has one layer, so its entries name none"


def _interval_faults(score: Score) -> Iterator[str]:
    low, high, value = score.low, score.high, score.value
    if score.error is not None and score.error < 0:
        yield f"its error is {score.error:.4g}"
    if low is None or high is None:
        if low is not high:
            yield "its interval has one end"
        return
    slack = CLOSE * (abs(low) + abs(high) + 1)
    if low > high:
        yield f"the ends of its interval are exchanged, {low:.4g} and {high:.4g}"
    elif value is None:
        yield "it has an interval and no value"
    elif not low - slack <= value <= high + slack:
        yield f"its interval {low:.4g} to {high:.4g} does not hold its value {value:.4g}"


def _error_faults(score: Score, metric: Metric, known: Known) -> Iterator[str]:
    """Yield an error that its interval or the range of its metric leaves no room for.

    Over documents: an interval over seeds is of another error than the one that is written beside.
    """
    error, value = score.error, score.value
    if error is None or value is None or known.seeds or (metric.labels and not known.rules):
        return
    least, most = _ends(metric, known, score)
    if error > most - least:
        yield f"its error is {error:.4g}, more than its values can differ"
    if score.low is None or score.high is None or score.low == score.high:
        return
    if metric.name == IN_STEPS:
        return
    inside = least + CLOSE < value < most - CLOSE
    if inside and score.high - score.low < error * (1 - CLOSE):
        yield f"its error is {error:.4g}, and its interval {score.low:.4g} to {score.high:.4g}"


def _test_faults(score: Score, metric: Metric) -> Iterator[str]:
    plain, adjusted = score.p_value, score.p_adjusted
    for p_value in (plain, adjusted):
        if p_value is not None and not LEAST_P <= p_value <= 1:
            yield f"p is {p_value:g}, and no test gives that"
    if plain is not None and adjusted is not None and adjusted < plain * (1 - CLOSE):
        yield "its corrected p is smaller than the plain one"
    low, high = score.null_low, score.null_high
    if low is None or high is None:
        return
    if low > high:
        yield "the ends of what permuted labels give are exchanged"
    value = score.value if score.plug_in is None else score.plug_in
    if plain is None or value is None or not metric.tested:
        return
    slack = CLOSE * (1 + abs(low) + abs(high))
    within = value < high - slack if score.better == "higher" else value > low + slack
    if plain <= SURELY_BEYOND and within:
        yield f"p is {plain:.2g}, and permuted labels give {low:.4g} to {high:.4g}"


def _amount_faults(score: Score, metric: Metric, known: Known) -> Iterator[str]:
    """Yield values of samples that are too few to give any."""
    if score.value is None:
        return
    if metric.labels and known.rules < 2 and known.model.origin == "trace":  # noqa: PLR2004
        yield f"it needs labels, and the model has {known.rules or 'none'}"
    if metric.needs in ROUTED and known.modules(score.layer) == 1:
        yield "it tells of routing, and a single module has none"
    tokens = known.model.data.get("tokens")
    if type(tokens) is int and metric.needs in ROUTED and (score.samples or 0) > tokens:
        yield f"it is of {score.samples} samples, and there are {tokens} tokens"
    least = max(known.rules, 1) if metric.labels else 1
    if score.samples is not None and score.samples < least:
        yield f"it has a value, and {score.samples} samples where {least} are the least"


def _bounds_faults(score: Score, metric: Metric, known: Known) -> Iterator[str]:
    """Yield values that the metric cannot have with this many rules and modules.

    A value that is corrected for few samples may lie below what its formula can give, so what is
    checked is the value before.
    """
    if metric.labels and not known.rules:
        return
    low, high = _ends(metric, known, score)
    slack = CLOSE * (1 + (high if math.isfinite(high) else 0.0))
    corrected = score.plug_in is not None
    for name, value in (
        ("plug_in" if corrected else "value", score.plug_in if corrected else score.value),
        ("chance", score.chance),
        ("chance_hash", score.chance_hash),
        ("chance_permuted", score.chance_permuted),
    ):
        if value is not None and not low - slack <= value <= high + slack:
            yield (
                f"its {name} {value:.4g} is outside {metric.bounds}, here {low:.4g} to {high:.4g}"
            )
    if score.plug_in is None or score.value is None:
        return
    if abs(score.value - score.plug_in) > high - low + slack:
        yield f"it is corrected from {score.plug_in:.4g} to {score.value:.4g}"


def _ends(metric: Metric, known: Known, score: Score) -> tuple[float, float]:
    counts = {known.modules(score.layer)}
    if score.over == "mean":
        counts = {*known.model.layer_modules} or counts
    if len(counts) == 1:
        return _bounds(metric.name, known.rules or 1, counts.pop(), known.model.prior)
    ends = [_bounds(metric.name, known.rules or 1, one, known.model.prior) for one in counts]
    return min(low for low, _ in ends), max(high for _, high in ends)


@cache
def _bounds(name: str, rules: int, modules: int, prior: str) -> tuple[float, float]:
    metric = _metric(name)
    if metric is None:
        raise ValueError("only known metrics have bounds")
    return metric.bounds(rules, modules, "empirical" if prior == "empirical" else "uniform")


# --- scores that say the same in other units ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Again:
    """A metric that is another one in other units: ``front * other + behind``.

    Attributes:
        other: name of the other.
        units: ``front`` and ``behind``, of numbers of rules and modules.
        uniform: whether it holds where all rules weigh the same.
        corrected_alike: whether it holds of values that are corrected for few samples, too.
    """

    other: str
    units: Callable[[int, int], tuple[float, float]]
    uniform: bool = False
    corrected_alike: bool = True


def _of_distance(rules: int, modules: int) -> tuple[float, float]:
    """Return the units of the alignment score: from uniform routing, 0, to one-to-one, 1."""
    matched = min(rules, modules) / rules
    room = matched * (1 - 1 / modules)
    return -1 / room, (1 - matched / modules) / room


SAID_AGAIN: dict[str, _Again | None] = {
    "mutual_information": None,
    "imbalance_ratio": None,
    "effective_modules": None,
    "alignment_distance": None,
    "alignment_score": _Again(
        "alignment_distance", _of_distance, uniform=True, corrected_alike=False
    ),
    "homogeneity": _Again("mutual_information", lambda r, _m: (1 / math.log(r), 0.0), uniform=True),
    "inverse_mutual_information": _Again("homogeneity", lambda _r, _m: (-1.0, 1.0)),
    "rule_specialization": _Again("mutual_information", lambda _r, _m: (1.0, 0.0)),
    "max_violation": _Again("imbalance_ratio", lambda _r, _m: (1.0, -1.0)),
    "effective_share": _Again("effective_modules", lambda _r, m: (1 / m, 0.0)),
}
"""Metrics that follow from another one of the same layer and seed."""


def _said_otherwise(score: Score, parts: _Parts) -> Iterator[str]:
    """Hold a score against the one beside it that says the same: one was edited, the other not."""
    again, known = SAID_AGAIN.get(score.metric), parts.known
    other = None if again is None else parts.beside.get(again.other)
    if again is None or other is None or score.over == "worst" or known.rules < 2:  # noqa: PLR2004
        return
    if (again.uniform and known.model.prior != "uniform") or len({*known.model.layer_modules}) > 1:
        return
    front, behind = again.units(known.rules, known.modules(score.layer))
    pairs = [(_plain(score), _plain(other))]
    if again.corrected_alike and score.plug_in is not None and other.plug_in is not None:
        pairs.append((score.value, other.value))
    ends = _ends(METRICS[score.metric], known, score)
    for mine, its in pairs:
        if mine is None or its is None or any(_close(mine, end) for end in ends):
            continue
        wanted = front * its + behind
        if not math.isclose(mine, wanted, rel_tol=LIKE, abs_tol=LIKE):
            yield f"it is {mine:.6g}, and with {again.other} of {its:.6g} it would be {wanted:.6g}"


def _plain(score: Score) -> float | None:
    return score.value if score.plug_in is None else score.plug_in


# --- scores that are made of others --------------------------------------------------------------


def _made_wrongly(score: Score, parts: _Parts) -> Iterator[str]:
    if score.value is None:
        return
    if score.seed is None and parts.known.seeds and score.over != "worst":
        yield from _mean_of_seeds(score, score.value, parts.seeds)
    if score.over is not None:
        yield from OVER[score.over](score, score.value, parts)


def _mean_of_seeds(score: Score, value: float, seeds: Sequence[Score]) -> Iterator[str]:
    """Hold a mean over seeds against its seeds: their mean, or the mean of the means of tasks."""
    tasks: dict[int, list[float]] = defaultdict(list)
    for each in seeds:
        if each.value is not None and each.seed is not None:
            tasks[each.seed[0]].append(each.value)
    values = [one for task in tasks.values() for one in task]
    if not values:
        yield "it is a mean over seeds, and none of them is there"
        return
    if score.seeds != len(values):
        yield f"it says it is of {score.seeds} seeds, and {len(values)} are there"
    plain = math.fsum(values) / len(values)
    nested = math.fsum(math.fsum(task) / len(task) for task in tasks.values()) / len(tasks)
    if not (_close(value, plain) or _close(value, nested)):
        yield f"it is {value:.6g}, and the mean of its seeds is {plain:.6g}"


def _mean_of_layers(_score: Score, value: float, parts: _Parts) -> Iterator[str]:
    values = [each.value for each in parts.layers if each.value is not None]
    if not values or len(values) < len(parts.known.model.layers):
        return
    mean = math.fsum(values) / len(values)
    if not _close(value, mean):
        yield f"it is {value:.6g}, and the mean of its layers is {mean:.6g}"


def _worst_layer(score: Score, value: float, parts: _Parts) -> Iterator[str]:
    values = {each.layer: each.value for each in parts.layers if each.value is not None}
    if not values:
        return
    own = next((each for each in parts.layers if each.layer == score.layer), None)
    for name in OF_ITS_LAYER:
        mine, its = getattr(score, name), None if own is None else getattr(own, name)
        if mine is not its and (mine is None or its is None or not _close(mine, its)):
            yield f"its {name} is {_figure(mine)}, and that layer has {_figure(its)}"
    worst = min(values.values()) if score.better == "higher" else max(values.values())
    if score.better is not None and not _close(value, worst):
        yield f"it is {value:.6g}, and a layer is worse: {worst:.6g}"


OVER: dict[str, Callable[[Score, float, _Parts], Iterator[str]]] = {
    "mean": _mean_of_layers,
    "worst": _worst_layer,
}


OF_ITS_LAYER = ("value", "plug_in", "low", "high", "error")
"""What the worst of the layers has of that layer; chance is of the worst of as many."""


def _figure(number: float | None) -> str:
    return "none" if number is None else f"{number:.6g}"


def _close(one: float, two: float) -> bool:
    return math.isclose(one, two, rel_tol=CLOSE, abs_tol=CLOSE)
