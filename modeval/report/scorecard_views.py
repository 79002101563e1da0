"""What pictures are drawn from: seeds, layers, matrices, loads and budgets out of scorecards.

HTML and figures for papers share these functions, so that both show the same numbers.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from modeval.metrics import match
from modeval.report.words import is_trace, metric_title, task
from modeval.score.scorecard import Activation, Coactivation, ModelRecord, Score, Scorecard, Seed

Floats = NDArray[np.float64]

BUDGET = ("imbalance", "rule_specialization", "input_distraction", "softness")
"""Terms of the entropy budget in the order of their sum, log M."""
UNDIVIDED = "undivided"
"""Input distraction and softness together, where a scorecard does not tell them apart."""
MANY_MODULES = 32
"""Modules beyond which a few large shares may not set the scale of colours."""
DECIDING = ("alignment_score", "rule_specialization", "effective_share")
"""Metrics that may choose which layers are shown in full, the first that is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of one scorecard.

    Attributes:
        card: its scorecard.
        record: the model.
        name: its title, and what tells it from others of the same title.
        anchor: unique within a report.
    """

    card: Scorecard
    record: ModelRecord
    name: str
    anchor: str

    @property
    def layered(self) -> bool:
        """Whether its scores are by layer; a model with one layer has one score of each kind."""
        return len(self.record.layers) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Models of one task, that may be compared.

    Attributes:
        title: the task in words.
        entries: the models.
    """

    title: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """An activation matrix with its modules in the order of the rules they are matched with.

    Attributes:
        matrix: ``(R, M)`` shares, columns in order.
        modules: number of the module of each column.
        matched: column of the module that each rule is matched with; -1 where it has none.
        averaged: number of seeds that it is the mean of; their columns are ordered before.
    """

    matrix: Floats
    modules: tuple[int, ...]
    matched: tuple[int, ...]
    averaged: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Where the routing entropy of one layer, or the mean of seeds, goes.

    Attributes:
        label: layer or model.
        total: log M in nats.
        terms: nats for each of :data:`BUDGET`, or with :data:`UNDIVIDED` for the last two.
    """

    label: str
    total: float
    terms: dict[str, float]


# --- models --------------------------------------------------------------------------------------


def entries(cards: Sequence[Scorecard], sources: Sequence[str]) -> list[Entry]:
    """List the models of scorecards, each under a name of its own.

    Args:
        cards: scorecards.
        sources: what to call each of them, such as the name of its file.
    """
    found = [
        (source, Entry(card=card, record=record, name=record.title, anchor=""))
        for card, source in zip(cards, sources, strict=True)
        for record in card.models
    ]
    named: list[Entry] = []
    for number, (source, entry) in enumerate(found, start=1):
        twins = [
            other
            for other in found
            if other[1].name == entry.name and _key(other[1].record) == _key(entry.record)
        ]
        name = entry.name
        if len(twins) > 1:
            name += f" · {_difference(source, entry.record, twins)}"
        named.append(replace(entry, name=name, anchor=f"model-{number}"))
    return named


def _difference(source: str, record: ModelRecord, twins: list[tuple[str, Entry]]) -> str:
    """Name what tells a model from others of the same title: size, checkpoint, file or number."""
    told = [[(_size(other.record)), other.record.selection or "", where] for where, other in twins]
    own = [_size(record), record.selection or "", source]
    for place, value in enumerate(own):
        if value and [other[place] for other in told].count(value) == 1:
            return value
    ids = [other.record.id for _, other in twins]
    return record.id if ids.count(record.id) == 1 else f"{source} {record.id}"


def _size(record: ModelRecord) -> str:
    known = ("encoder", "width")
    return "x".join(str(record.model[name]) for name in known if name in record.model)


def _key(record: ModelRecord) -> str:
    """Return what models must share to stand beside each other."""
    if is_trace(record):
        return f"trace {sorted(record.rules)}"
    return str(sorted((name, str(value)) for name, value in record.data.items()))


def groups(found: Iterable[Entry]) -> list[Group]:
    """Put models of the same task together, in the order of their first appearance."""
    together: dict[str, list[Entry]] = {}
    for entry in found:
        together.setdefault(_key(entry.record), []).append(entry)
    return [
        Group(title=task(members[0].record), entries=tuple(members))
        for members in together.values()
    ]


# --- scores --------------------------------------------------------------------------------------


def metrics_of(found: Iterable[Entry]) -> list[str]:
    """Return the metrics that some of the models have, in order."""
    names: dict[str, None] = {}
    for entry in found:
        names |= dict.fromkeys(s.metric for s in entry.card.scores if s.model == entry.record.id)
    return list(names)


def overall(entry: Entry, metric: str) -> Score | None:
    """Return the score over seeds, or of the mean over layers."""
    find = entry.card.find
    return find(entry.record.id, metric) or find(entry.record.id, metric, over="mean")


def worst(entry: Entry, metric: str) -> Score | None:
    """Return the score of the worst layer."""
    return next(
        (
            score
            for score in entry.card.scores
            if (score.model, score.metric, score.over) == (entry.record.id, metric, "worst")
        ),
        None,
    )


def by_seed(entry: Entry, metric: str) -> list[tuple[Seed, float]]:
    """Return the value of each seed that has one."""
    return [
        (score.seed, score.value)
        for score in entry.card.scores
        if (score.model, score.metric) == (entry.record.id, metric)
        and score.layer is None
        and score.over is None
        and score.seed is not None
        and score.value is not None
    ]


def by_layer(entry: Entry, metric: str) -> list[Score]:
    """Return the score of each layer, in order."""
    found = [
        score
        for score in entry.card.scores
        if (score.model, score.metric) == (entry.record.id, metric)
        and score.layer is not None
        and score.over is None
        and score.seed is None
    ]
    return sorted(found, key=lambda score: score.layer or 0)


def dots(entry: Entry, metric: str) -> list[tuple[str, float]]:
    """Return what a mean is made of, named: seeds, or layers where there are no seeds."""
    seeds = by_seed(entry, metric)
    if seeds:
        return [(seed_name(seed), value) for seed, value in seeds]
    names = entry.record.layers
    return [
        (names[score.layer or 0], score.value)
        for score in by_layer(entry, metric)
        if score.value is not None
    ]


def seed_name(seed: Seed | None) -> str:
    """Name a seed."""
    return "" if seed is None else f"task seed {seed[0]}, model seed {seed[1]}"


# --- layers --------------------------------------------------------------------------------------


def layer_names(names: Sequence[str]) -> tuple[list[str], str]:
    """Return short names of layers, and the pattern that they fill; empty where none is shared.

    >>> layer_names(["model.layers.0.mlp.gate", "model.layers.12.mlp.gate"])
    (['0', '12'], 'model.layers.*.mlp.gate')
    >>> layer_names(["first", "second"])
    (['first', 'second'], '')
    """
    parts = [name.split(".") for name in names]
    shortest = min((len(part) for part in parts), default=0)
    if len(parts) < 2 or not shortest:  # noqa: PLR2004 - one name shares nothing
        return list(names), ""
    ahead = _shared(parts, shortest)
    behind = _shared([part[::-1] for part in parts], shortest - ahead)
    short = [".".join(part[ahead : len(part) - behind]) for part in parts]
    if not ahead + behind or len(set(short)) < len(short) or "" in short:
        return list(names), ""
    first = parts[0]
    return short, ".".join([*first[:ahead], "*", *first[len(first) - behind :]])


def _shared(parts: Sequence[Sequence[str]], most: int) -> int:
    count = 0
    while count < most and len({part[count] for part in parts}) == 1:
        count += 1
    return count


def telling_layers(entry: Entry) -> tuple[list[tuple[str, int]], str]:
    """Return the worst, a median and the best layer, and the metric that says so.

    Where a model has three layers or fewer all are returned, under their names.
    """
    count = len(entry.record.layers) if entry.layered else 0
    if count <= 3:  # noqa: PLR2004 - as many as would be chosen
        return [(entry.record.layers[layer], layer) for layer in range(count)], ""
    for metric in DECIDING:
        scores = [score for score in by_layer(entry, metric) if score.value is not None]
        if len(scores) == count:
            ranked = sorted(scores, key=lambda score: (score.value or 0.0, score.layer or 0))
            words = ("lowest", "median", "highest")
            places = (0, (count - 1) // 2, count - 1)
            return [
                (f"{word} {metric_title(metric).lower()}", ranked[place].layer or 0)
                for word, place in zip(words, places, strict=True)
            ], metric
    return [("first", 0), ("middle", count // 2), ("last", count - 1)], ""


# --- matrices ------------------------------------------------------------------------------------


def activations(entry: Entry, layer: int | None = None) -> list[Activation]:
    """Return the activation matrices of a layer, one for each seed."""
    return [
        each
        for each in entry.card.activations
        if each.model == entry.record.id and each.layer == layer
    ]


def matched_columns(matrix: Floats) -> tuple[list[int], tuple[int, ...]]:
    """Return an order of the modules, and the column of each rule's own in that order.

    Modules that are matched with a rule come first, in the order of the rules; then the others,
    by the rule that sends most to them, the largest share first.

    >>> matched_columns(np.array([[0.1, 0.2, 0.7, 0.0], [0.5, 0.3, 0.1, 0.1]]))
    ([2, 0, 1, 3], (0, 1))
    """
    module = match(torch.from_numpy(np.ascontiguousarray(matrix)))[0].tolist()
    first = [int(index) for index in module if index >= 0]
    main = matrix.argmax(0)
    others = sorted(
        set(range(matrix.shape[1])) - set(first),
        key=lambda index: (main[index], -matrix[main[index], index], index),
    )
    order = first + others
    return order, tuple(order.index(index) if index >= 0 else -1 for index in module)


def ordered_map(activation: Activation) -> Map:
    """Return the matrix of one seed or layer with its modules in order."""
    matrix = np.array(activation.matrix, dtype=np.float64)
    order, matched = matched_columns(matrix)
    return Map(matrix=matrix[:, order], modules=tuple(order), matched=matched)


def mean_map(found: Sequence[Activation]) -> Map:
    """Return the mean over seeds of ordered matrices: numbers of modules mean nothing across."""
    maps = [ordered_map(each) for each in found]
    if len(maps) == 1:
        return maps[0]
    mean = np.mean([each.matrix for each in maps], axis=0)
    return Map(
        matrix=mean,
        modules=tuple(range(mean.shape[1])),
        matched=tuple(
            row if row < mean.shape[1] and row < mean.shape[0] else -1
            for row in range(mean.shape[0])
        )
        if mean.shape[0] <= mean.shape[1]
        else (-1,) * mean.shape[0],
        averaged=len(maps),
    )


def brightest(matrices: Iterable[Floats]) -> tuple[float, bool]:
    """Return the share that gets the brightest colour, and whether there are larger ones.

    It is the largest, rounded up to one digit; in large matrices the largest but for one in 200,
    so that a single busy module does not leave all others in the dark.

    >>> brightest([np.array([[0.31, 0.69], [0.5, 0.5]])])
    (0.7, False)
    """
    found = list(matrices)
    shares = np.concatenate([matrix.ravel() for matrix in found])
    large = max(matrix.shape[1] for matrix in found) > MANY_MODULES
    bright = max(float(np.quantile(shares, 0.995) if large else shares.max()), 1e-6)
    digit = 10.0 ** math.floor(math.log10(bright))
    most = min(round(math.ceil(bright / digit - 1e-9) * digit, 12), 1.0)
    return most, bool(shares.max() > most)


def rule_names(record: ModelRecord, count: int) -> list[str]:
    """Return the names of the rules, or their numbers."""
    return list(record.rules) if len(record.rules) == count else [f"rule {n}" for n in range(count)]


def coactivations(entry: Entry) -> list[Coactivation]:
    """Return the matrices of modules that are chosen together."""
    return [each for each in entry.card.coactivations if each.model == entry.record.id]


def shares(entry: Entry, layer: int | None = None) -> Floats:
    """Return the share of the work of each module, ``(S, M)``; no rows where it is not known."""
    found = [
        np.array([weight for weight in profile.values if weight is not None])
        for profile in entry.card.profiles
        if (profile.model, profile.metric, profile.layer)
        == (entry.record.id, "module_share", layer)
    ]
    if not found:
        found = [
            np.array(each.prior) @ np.array(each.matrix)
            for each in activations(entry, layer)
            if each.prior
        ]
    return np.array(found, dtype=np.float64) if found else np.zeros((0, 0))


# --- entropy budget ------------------------------------------------------------------------------


def budget(entry: Entry, layer: int | None = None, label: str = "") -> Budget | None:
    """Return where the routing entropy of a model, or of one of its layers, goes."""
    record = entry.record
    modules = record.modules if layer is None else record.layer_modules[layer]
    if modules < 2:  # noqa: PLR2004 - one module has no entropy to share out
        return None
    found = [entry.card.find(record.id, term, layer=layer) for term in BUDGET]
    terms = {score.metric: score.value for score in found if score and score.value is not None}
    total = math.log(modules)
    if is_trace(record) and len(record.rules) < 2 and {"imbalance", "softness"} <= set(terms):  # noqa: PLR2004
        # with one rule, or none, all that inputs decide is told apart within it
        rest = max(total - terms["imbalance"] - terms["softness"], 0.0)
        terms |= {"rule_specialization": 0.0, "input_distraction": rest}
    if len(terms) < len(BUDGET):
        terms = _undivided(activations(entry, layer), modules)
    return Budget(label=label, total=total, terms=terms) if terms else None


def _undivided(found: Sequence[Activation], modules: int) -> dict[str, float]:
    """Return the terms that follow from A alone, as means over seeds."""
    rows = []
    for each in found:
        prior, matrix = np.array(each.prior), np.array(each.matrix)
        if not prior.size:
            return {}
        usage, within = float(_entropy(prior @ matrix)), float(prior @ _entropy(matrix))
        rows.append((math.log(modules) - usage, usage - within, within))
    if not rows:
        return {}
    means = np.maximum(np.array(rows, dtype=np.float64).mean(0), 0.0)
    return dict(zip((*BUDGET[:2], UNDIVIDED), means.tolist(), strict=True))


def _entropy(shares_: Floats) -> Floats:
    positive = np.where(shares_ > 0, shares_, 1.0)
    return -(positive * np.log(positive)).sum(-1)  # type: ignore[no-any-return]


def budgets(entry: Entry) -> list[Budget]:
    """Return the budget of each layer, or of the model where it has one."""
    if not entry.layered:
        one = budget(entry, None, entry.name)
        return [one] if one else []
    short, _ = layer_names(entry.record.layers)
    found = [budget(entry, layer, name) for layer, name in enumerate(short)]
    return [each for each in found if each]


# --- against the number of rules -----------------------------------------------------------------


def against_rules(found: Iterable[Entry], metric: str) -> dict[str, list[tuple[int, Score]]]:
    """Return, for each model by name, its scores by number of rules, in order."""
    lines: dict[str, dict[int, Score]] = {}
    for entry in found:
        score = overall(entry, metric)
        if is_trace(entry.record) or score is None or score.value is None:
            continue
        lines.setdefault(entry.name, {})[int(entry.record.data["rules"])] = score
    return {name: sorted(line.items()) for name, line in lines.items()}


# --- modules chosen together ---------------------------------------------------------------------


def square(found: Coactivation) -> Floats:
    """Return a matrix of modules that are chosen together."""
    return np.array(found.matrix, dtype=np.float64)


def together_chance(entry: Entry) -> float | None:
    """Return (K - 1)/(M - 1): how often modules meet that are chosen evenly and independently.

    It is known where all layers choose the same number K of the same number M of modules.
    """
    choices = {value for value in entry.record.model.get("choices", ()) if value}
    sizes = set(entry.record.layer_modules) or {entry.record.modules}
    if len(choices) != 1 or len(sizes) != 1 or sizes == {1}:
        return None
    return float((choices.pop() - 1) / (sizes.pop() - 1))
