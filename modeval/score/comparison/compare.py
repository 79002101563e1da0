"""Scorecards side by side: what changed, by how much, and is it more than noise?

The first scorecard is what the others are compared with. Where two have seeds in common on the
same task, seeds are paired; else their means are compared. Layers are compared with themselves.
Module numbers mean nothing across trainings, so modules are matched before they are compared.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modeval.pace import tell
from modeval.score.comparison.courses import CourseChange, alike, course_change, course_of
from modeval.score.comparison.differences import Difference, differences, separate
from modeval.score.comparison.partners import partner
from modeval.score.comparison.shown import notebook_table
from modeval.score.pairing import best_sum, paired, sum_of
from modeval.score.scorecard import Activation, ModelRecord, Over, Score, Scorecard, Seed
from modeval.text import visible

ROUNDING = 1e-6
"""Share of a value, or of 1, that sums in another order differ by in single precision."""
Reading = Literal["better", "worse", "changed", "unclear", "same"]
Pairing = Literal["seeds", "means", "samples"]

Matrix = NDArray[np.float64]

RELABELLED = 200
"""Random relabellings of rules that the agreement of modules is held against."""
EVERY_ORDER = 4
"""Up to so many rules all their orders are tried instead."""


Place = tuple[str, int | None, Over | None, Seed | None]


def _place(metric: str, layer: int | None, over: Over | None, seed: Seed | None) -> Place:
    """Return where a score stands; which layer is the worst may differ between columns."""
    return metric, layer if over is None else None, over, seed


@dataclass(frozen=True, kw_only=True)
class Column:
    """One model of one scorecard.

    Attributes:
        label: names it among the others.
        source: file of the scorecard.
        card: the scorecard.
        model: the model.
    """

    label: str
    source: str
    card: Scorecard
    model: ModelRecord

    @cached_property
    def found(self) -> dict[Place, Score]:
        """The scores of the model by their place."""
        return {
            _place(score.metric, score.layer, score.over, score.seed): score
            for score in reversed(self.card.scores_of(self.model.id))
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """What a later column has more than the first.

    Attributes:
        value: later minus first.
        low: lower end of the interval; null where nothing tells the noise.
        high: upper end.
        pairing: ``seeds``: paired by seed; ``means``: means of different seeds; ``samples``: one
            measurement each, noise of the samples alone.
        pairs: number of pairs; of seeds of the smaller side where they are not paired.
        p_value: two-sided p that there is no difference; null where nothing tells the noise.
        p_adjusted: the same, corrected (Holm) over the rows that it stands among: those that sum
            the model up, or the layers of the metric.
        reading: ``better`` or ``worse`` when it is clear of 0 after that correction, ``changed``
            for a metric that has no direction; ``unclear`` when it is not; ``same`` when equal, but
            for rounding.
    """

    value: float
    low: float | None
    high: float | None
    pairing: Pairing
    pairs: int
    reading: Reading
    p_value: float | None = None
    p_adjusted: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric at one place, of all columns.

    Attributes:
        metric: name of the metric.
        better: its direction.
        layer: number of the layer.
        over: ``mean`` or ``worst`` over layers.
        scores: one for each column; null where a column has none.
        contrasts: one for each column, null for the first, and where there is none.
    """

    metric: str
    better: str | None
    layer: int | None
    over: Over | None
    scores: tuple[Score | None, ...]
    contrasts: tuple[Contrast | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How much alike two models share rules out, when their modules are matched.

    Attributes:
        column: number of the later column; the other is the first.
        layer: number of the layer; null where there is one.
        value: share of the routing that goes the same way; 1 for the same partition of the rules.
        low: lower end of the interval over seeds; null for one pair.
        high: upper end.
        by_number: the same when modules are taken by their numbers, as for two checkpoints of one
            training; null when their numbers differ.
        chance: mean when the rules of one model are exchanged at random: 1 when each rule has a
            module of its own, for then any two are alike.
        pairs: number of pairs of seeds, or 1.
        modules: for one pair, the module of the later model that is matched with each module of
            the first; -1 for none.
    """

    column: int
    layer: int | None
    value: float
    low: float | None
    high: float | None
    by_number: float | None
    chance: float
    pairs: int
    modules: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """How much of its later routing a layer has already at an earlier checkpoint.

    Attributes:
        layer: number of the layer.
        value: mean share of a token's modules that are the same.
        low: lower end of the interval over documents; null for fewer than two blocks of them.
        high: upper end.
        chance: K/M, for two routers that know nothing of each other and use all modules alike.
        tokens: number of tokens.
    """

    layer: int
    value: float
    low: float | None
    high: float | None
    chance: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Models that stand for each other in several scorecards, or several of one scorecard.

    Attributes:
        columns: the models in order.
        rows: their scores.
        agreements: of each later column with the first.
        courses: of each later column that went through the same phases as the first.
        saturations: for each column but the last, how much of the last one's routing it has, layer
            by layer; empty where rows are not known or not of the same tokens.
        notes: what keeps numbers from being compared.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    agreements: tuple[Agreement, ...]
    courses: tuple[CourseChange, ...] = ()
    saturations: tuple[tuple[Saturation, ...], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All models that could be set side by side.

    Attributes:
        lineages: each a table of its own.
        notes: models that stand alone.
        level: level of the intervals.
    """

    lineages: tuple[Lineage, ...]
    notes: tuple[str, ...]
    level: float

    def __repr__(self) -> str:
        lines = (
            f"  {lineage.columns[0].model.title}: {', '.join(c.label for c in lineage.columns)}"
            for lineage in self.lineages
        )
        return "\n".join((f"<Comparison at {self.level:.0%}>", *map(visible, lines)))

    def _repr_html_(self) -> str:
        """Return tables for a notebook: scores that sum models up, the last less the first."""
        return "".join(notebook_table(lineage) for lineage in self.lineages)


def compare(cards: Sequence[tuple[str, Scorecard]]) -> Comparison:
    """Set scorecards side by side.

    Several: each model of the first beside those that stand for it in the others (the same id, or
    the same task and model, or the only one there). One: its models of one task beside each other.

    Args:
        cards: scorecards with the files that they came from, the first being what the others are
            compared with.
    """
    groups, notes = _within(cards[0]) if len(cards) == 1 else _across(cards)
    level = cards[0][1].level
    return Comparison(
        lineages=tuple(_lineage(group, level) for group in groups),
        notes=tuple(notes),
        level=level,
    )


def _within(named: tuple[str, Scorecard]) -> tuple[list[list[Column]], list[str]]:
    source, card = named
    groups: dict[str, list[Column]] = {}
    for model in card.models:
        column = Column(label=model.title, source=source, card=card, model=model)
        key = "trace" if model.origin == "trace" else repr(sorted(model.data.items()))
        groups.setdefault(key, []).append(column)
    alone = [
        f"{group[0].model.title} ({group[0].model.id}) is the only model of its task in {source}"
        for group in groups.values()
        if len(group) == 1
    ]
    return [group for group in groups.values() if len(group) > 1], alone


def _across(cards: Sequence[tuple[str, Scorecard]]) -> tuple[list[list[Column]], list[str]]:
    (source, first), *others = cards
    groups, notes = [], []
    for model in first.models:
        columns = [Column(label=source, source=source, card=first, model=model)]
        for where, card in others:
            record = partner(model, card)
            if record is None or (record.origin == "trace") != (model.origin == "trace"):
                notes.append(f"{where} has no model {model.id}")
            else:
                columns.append(Column(label=where, source=where, card=card, model=record))
        if len(columns) > 1:
            groups.append(columns)
    taken = {(column.source, column.model.id) for group in groups for column in group}
    notes += [
        f"{source} has no model {model.id}, which {where} has"
        for where, card in others
        for model in card.models
        if (where, model.id) not in taken
    ]
    return groups, notes


def _lineage(columns: Sequence[Column], level: float) -> Lineage:
    named = _labelled(columns)
    places = dict.fromkeys(
        (score.metric, score.layer if score.over is None else None, score.over)
        for column in named
        for score in column.card.scores_of(column.model.id)
        if score.seed is None
    )
    rows = [_row(named, metric, layer, over, level) for metric, layer, over in places]
    agreements = [
        agreement
        for index in range(1, len(named))
        for agreement in _agreements(named[0], named[index], index)
    ]
    return Lineage(
        columns=tuple(named),
        rows=corrected(
            [row for row in rows if sum(score is not None for score in row.scores) > 1], level
        ),
        agreements=tuple(agreements),
        courses=tuple(_courses(named)),
        notes=tuple(note for column in named[1:] for note in _incomparable(named[0], column)),
    )


def _courses(columns: Sequence[Column]) -> Iterator[CourseChange]:
    """Yield the losses by phase of each column that went through the phases of the first."""
    first, *others = (course_of(column.card, column.model) for column in columns)
    for number, course in enumerate(others, 1):
        if first is not None and course is not None and alike(first, course):
            yield course_change(first, course, number)


def _labelled(columns: Sequence[Column]) -> list[Column]:
    """Give equal labels numbers."""
    labels = [column.label for column in columns]
    return [
        column if labels.count(column.label) == 1 else replace(column, label=f"{column.label} #{n}")
        for n, column in enumerate(columns, start=1)
    ]


def _incomparable(first: Column, later: Column) -> list[str]:
    """Name what makes numbers differ for another reason than the models."""
    one, two = first.model, later.model
    pairs = {
        "rules": (_rules(one), _rules(two)),
        "number of modules": (one.layer_modules or one.modules, two.layer_modules or two.modules),
        "prior of the rules": (one.prior, two.prior),
        "view": (one.view, two.view),
        "phase": (one.data.get("phase"), two.data.get("phase")),
        "padding": (one.data.get("padding"), two.data.get("padding")),
        "data folder": tuple(
            None if column.card.dataset is None else column.card.dataset["digest"]
            for column in (first, later)
        ),
    }
    return [
        f"{later.label} differs from {first.label} in its {name} ({mine} and {its})"
        for name, (mine, its) in pairs.items()
        if mine != its
    ] + _other_phases(first, later)


def _other_phases(first: Column, later: Column) -> list[str]:
    one, two = (course_of(column.card, column.model) for column in (first, later))
    if one is None or two is None or alike(one, two):
        return []
    return [f"{later.label} was trained in other phases than {first.label}"]


def _rules(model: ModelRecord) -> object:
    return model.rules or model.data.get("rules")


# --- scores --------------------------------------------------------------------------------------


def _row(
    columns: Sequence[Column], metric: str, layer: int | None, over: Over | None, level: float
) -> Row:
    scores = [_at(column, metric, layer, over, None) for column in columns]
    known = next((score for score in scores if score is not None), None)
    contrasts = [None] + [
        _contrast(columns[0], column, metric, layer, over, level) for column in columns[1:]
    ]
    return Row(
        metric=metric,
        better=None if known is None else known.better,
        layer=layer,
        over=over,
        scores=tuple(scores),
        contrasts=tuple(contrasts),
    )


def _at(
    column: Column, metric: str, layer: int | None, over: Over | None, seed: Seed | None
) -> Score | None:
    score = column.found.get(_place(metric, layer, over, seed))
    return score if score is not None and _finite(score) else None


def _finite(score: Score) -> bool:
    return score.value is not None and math.isfinite(score.value)


def _contrast(  # noqa: PLR0917 - two columns and a place
    first: Column, later: Column, metric: str, layer: int | None, over: Over | None, level: float
) -> Contrast | None:
    one, two = (_at(column, metric, layer, over, None) for column in (first, later))
    if one is None or two is None:
        return None
    old, new = (
        {
            member.seed: score
            for member in column.model.members
            if member.seed is not None
            and (score := _at(column, metric, layer, over, member.seed)) is not None
        }
        for column in (first, later)
    )
    shared = [seed for seed in old if seed in new]
    paired = dict(first.model.data) == dict(later.model.data)
    pairing: Pairing
    if shared and paired:
        difference = differences([new[seed] for seed in shared], [old[seed] for seed in shared])
        pairing = "seeds" if len(shared) > 1 else "samples"
    elif len(old) > 1 and len(new) > 1:
        difference, pairing = separate([*new.values()], [*old.values()]), "means"
    else:
        difference, pairing = differences([two], [one]), "samples"
    found = _read(difference, pairing, one.better, level)
    rounding = ROUNDING * max(1.0, abs(one.value or 0.0))
    return replace(found, reading="same") if abs(found.value) <= rounding else found


def _read(difference: Difference, pairing: Pairing, better: str | None, level: float) -> Contrast:
    low, high = difference.interval() or (None, None)
    above = difference.p_above()
    p = None if above is None else min(2 * min(above, 1 - above), 1.0)
    return Contrast(
        value=difference.value,
        low=low,
        high=high,
        pairing=pairing,
        pairs=difference.pairs,
        reading=_reading(difference.value, p, better, level),
        p_value=p,
        p_adjusted=p,
    )


def _reading(value: float, p: float | None, better: str | None, level: float) -> Reading:
    if value == 0:
        return "same"
    if p is None or p > 1 - level:
        return "unclear"
    if better is None:
        return "changed"
    return "better" if (value > 0) == (better == "higher") else "worse"


def corrected(rows: Sequence[Row], level: float) -> tuple[Row, ...]:
    """Return rows whose differences are read in the light of how many were looked at.

    Rows that sum a model up are one family; the layers of each metric are one each.
    """
    families: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        summary = row.over is not None or row.layer is None
        families.setdefault("" if summary else row.metric, []).append(index)
    made = list(rows)
    for places in families.values():
        for column in range(1, len(rows[places[0]].contrasts)):
            _correct(made, places, column, level)
    return tuple(made)


def _correct(rows: list[Row], places: Sequence[int], column: int, level: float) -> None:
    """Adjust (Holm) the p values of one column in some rows, in their place."""
    known = [
        (contrast.p_value, index)
        for index in places
        if (contrast := rows[index].contrasts[column]) is not None
        and contrast.p_value is not None
        and contrast.reading != "same"
    ]
    least = 0.0
    for rank, (p, index) in enumerate(sorted(known)):
        least = max(least, min((len(known) - rank) * p, 1.0))
        row = rows[index]
        contrast = row.contrasts[column]
        if contrast is not None:
            reading = _reading(contrast.value, least, row.better, level)
            read = replace(contrast, p_adjusted=least, reading=reading)
            contrasts = (*row.contrasts[:column], read, *row.contrasts[column + 1 :])
            rows[index] = replace(row, contrasts=contrasts)


# --- modules -------------------------------------------------------------------------------------


def _agreements(first: Column, later: Column, index: int) -> Iterable[Agreement]:
    """Match the modules of two columns, layer by layer, where their rules are the same."""
    one, two = (_activations(column) for column in (first, later))
    layers = dict.fromkeys(layer for layer, _ in one)
    for number, layer in enumerate(layers):
        tell("matching modules of layers", number, len(layers))
        pairs = [
            (mine, two[layer, seed])
            for (its, seed), mine in one.items()
            if its == layer and (layer, seed) in two
        ]
        usable = [pair for pair in pairs if len(pair[0].matrix) == len(pair[1].matrix)]
        if usable and _rules(first.model) == _rules(later.model):
            yield _agreement([_matched(*pair) for pair in usable], index, layer)


def _activations(column: Column) -> dict[tuple[int | None, Seed | None], Activation]:
    return {
        (each.layer, each.seed): each
        for each in column.card.activations
        if each.model == column.model.id
    }


@dataclass(frozen=True, slots=True)
class _Match:
    """Two activation matrices, modules matched."""

    value: float
    by_number: float | None
    chance: float
    modules: tuple[int, ...]


def _matched(first: Activation, later: Activation) -> _Match:
    one, two = (np.array(each.matrix, dtype=np.float64) for each in (first, later))
    rules = len(one)
    weight = np.array(first.prior) if first.prior else np.full(rules, 1 / rules)
    shared = overlap(one, two, weight)
    relabelled = [best_sum(overlap(one, two[order], weight)) for order in _orders(rules)]
    same = one.shape == two.shape
    modules = paired(shared)
    return _Match(
        value=sum_of(shared, modules),
        by_number=float(np.trace(shared)) if same else None,
        chance=float(np.mean(relabelled)),
        modules=tuple(modules),
    )


def overlap(one: Matrix, two: Matrix, weight: Matrix) -> Matrix:
    """How much of the rules' routing goes both to module i of one model and to j of another?

    ``sum_r weight(r) min(A1[r, i], A2[r, j])``; over a matching it sums to one minus the mean
    total variation distance of the two rows of each rule.

    Args:
        one: ``(R, M1)`` activation matrix.
        two: ``(R, M2)`` the other.
        weight: ``(R,)`` prior of the rules.

    Returns:
        ``(M1, M2)``, no unit, from 0 to 1.

    >>> one = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> overlap(one, one[::-1], np.full(2, 0.5)).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    made: Matrix = np.zeros((one.shape[1], two.shape[1]))
    least = np.empty_like(made)  # taken once: this is called for thousands of orders
    for first, later in zip(one * weight[:, None], two * weight[:, None], strict=True):
        np.minimum(first[:, None], later, out=least)
        made += least
    return made


def _orders(rules: int) -> list[list[int]]:
    """Return orders of the rules: all of them for few, else some drawn the same way each time."""
    if rules <= EVERY_ORDER:
        return [list(order) for order in itertools.permutations(range(rules))]
    generator = np.random.default_rng(0)
    return [generator.permutation(rules).tolist() for _ in range(RELABELLED)]


def _agreement(matches: Sequence[_Match], index: int, layer: int | None) -> Agreement:
    def mean(values: Iterable[float]) -> float:
        each = [*values]
        return math.fsum(each) / len(each)

    scores = [Score(model="", metric="agreement", value=each.value) for each in matches]
    zero = replace(scores[0], value=0.0)
    difference = differences(scores, [zero] * len(scores))
    interval = difference.interval() if len(matches) > 1 else None
    numbered = [each.by_number for each in matches if each.by_number is not None]
    return Agreement(
        column=index,
        layer=layer,
        value=difference.value,
        low=None if interval is None else max(interval[0], 0.0),
        high=None if interval is None else min(interval[1], 1.0),
        by_number=mean(numbered) if len(numbered) == len(matches) else None,
        chance=mean(each.chance for each in matches),
        pairs=len(matches),
        modules=matches[0].modules if len(matches) == 1 else (),
    )
