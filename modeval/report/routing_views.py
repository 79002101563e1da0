"""Routing out of scorecards: matrices in order, experts of a label, load and entropy budgets.

Terminal, page and figures for papers share these functions, so that all show the same numbers in
the same order.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeval.report.scorecard_views import DECIDING, ModelView, by_layer, layer_names
from modeval.report.words import is_trace
from modeval.score.pairing import paired
from modeval.score.scorecard import Activation, Coactivation, ModelRecord, Score

Floats = NDArray[np.float64]

BUDGET = ("imbalance", "rule_specialization", "input_distraction", "softness")
"""Terms of the entropy budget in the order of their sum, log M."""
UNDIVIDED = "undivided"
"""Input distraction and softness together, where a scorecard does not tell them apart."""
MANY_MODULES = 32
"""Modules beyond which a few large shares may not set the scale of colours."""


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


# --- matrices ------------------------------------------------------------------------------------


def activations(view: ModelView, layer: int | None = None) -> list[Activation]:
    """Return the activation matrices of a layer, one for each seed."""
    return [each for each in view.own.activations if each.layer == layer]


def matched_columns(matrix: Floats) -> tuple[list[int], tuple[int, ...]]:
    """Return an order of the modules, and the column of each rule's own in that order.

    Modules that are matched with a rule come first, in the order of the rules; then the others,
    by the rule that sends most to them, the largest share first.

    >>> matched_columns(np.array([[0.1, 0.2, 0.7, 0.0], [0.5, 0.3, 0.1, 0.1]]))
    ([2, 0, 1, 3], (0, 1))
    """
    module = paired(np.ascontiguousarray(matrix))
    first = [index for index in module if index >= 0]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """Where most of a rule goes.

    Attributes:
        rule: its name.
        modules: numbers of the modules that get clearly more than an even share, the largest
            first; the largest alone where none does.
        shares: what each of them gets of the rule.
        even: whether none gets clearly more than an even share.
        own: number of the module that gets most more of it than of the other rules on average;
            nothing where that is little.
        own_share: what that module gets of the rule.
        elsewhere: what it gets of the others on average.
    """

    rule: str
    modules: tuple[int, ...]
    shares: tuple[float, ...]
    even: bool
    own: int | None = None
    own_share: float = 0.0
    elsewhere: float = 0.0


CLEARLY = 1.5
"""Times the even share from which a module is named as one of a rule."""
APART = 0.05
"""How much more of a rule than of others a module gets from which it is named as its own."""


def tastes(view: ModelView, layer: int | None = None, *, most: int = 3) -> list[Taste]:
    """Return for each rule the modules that get most of it; nothing where seeds are several.

    Args:
        view: the model.
        layer: number of the layer; nothing where there is one.
        most: modules to name for each rule.
    """
    found = activations(view, layer)
    if len(found) != 1 or len(found[0].matrix) < 2:  # noqa: PLR2004 - one row is load
        return []
    matrix = np.array(found[0].matrix, dtype=np.float64)
    names = rule_names(view.record, len(matrix))
    others = (matrix.sum(0) - matrix) / (len(matrix) - 1)
    return [_taste(*each, most) for each in zip(names, matrix, others, strict=True)]


def _taste(name: str, row: Floats, elsewhere: Floats, most: int) -> Taste:
    own = int((row - elsewhere).argmax())
    apart = float(row[own] - elsewhere[own]) >= APART
    order = np.argsort(-row, kind="stable")[:most].tolist()
    clear = [index for index in order if row[index] * row.size >= CLEARLY]
    kept = clear or order[:1]
    return Taste(
        rule=name,
        modules=tuple(kept),
        shares=tuple(float(row[index]) for index in kept),
        even=not clear,
        own=own if apart else None,
        own_share=float(row[own]),
        elsewhere=float(elsewhere[own]),
    )


def most_telling(view: ModelView) -> int | None:
    """Return the layer whose modules tell most of the rules; nothing where there is one."""
    if not view.layered:
        return None
    for metric in ("homogeneity", *DECIDING):
        scores = [score for score in by_layer(view, metric) if score.value is not None]
        if scores:
            return max(scores, key=lambda score: score.value or 0.0).layer
    return 0


def rule_names(record: ModelRecord, count: int) -> list[str]:
    """Return the names of the rules, or their numbers."""
    return list(record.rules) if len(record.rules) == count else [f"rule {n}" for n in range(count)]


def coactivations(view: ModelView) -> list[Coactivation]:
    """Return the matrices of modules that are chosen together."""
    return list(view.own.coactivations)


def shares(view: ModelView, layer: int | None = None) -> Floats:
    """Return the share of the work of each module, ``(S, M)``; no rows where it is not known."""
    found = [
        np.array([weight for weight in profile.values if weight is not None])
        for profile in view.own.profiles
        if (profile.metric, profile.layer) == ("module_share", layer)
    ]
    if not found:
        found = [
            np.array(each.prior) @ np.array(each.matrix)
            for each in activations(view, layer)
            if each.prior
        ]
    return np.array(found, dtype=np.float64) if found else np.zeros((0, 0))


# --- entropy budget ------------------------------------------------------------------------------


def as_counted(score: Score) -> float:
    """Return a value as the counts give it, without its correction: only so do terms add up."""
    counted = score.value if score.plug_in is None else score.plug_in
    return 0.0 if counted is None else counted


def budget(view: ModelView, layer: int | None = None, label: str = "") -> Budget | None:
    """Return where the routing entropy of a model, or of one of its layers, goes."""
    record = view.record
    modules = record.modules if layer is None else record.layer_modules[layer]
    if modules < 2:  # noqa: PLR2004 - one module has no entropy to share out
        return None
    scores = [view.card.find(record.id, term, layer=layer) for term in BUDGET]
    known = [score for score in scores if score is not None and score.value is not None]
    terms = {score.metric: as_counted(score) for score in known}
    total = math.log(modules)
    if is_trace(record) and len(record.rules) < 2 and {"imbalance", "softness"} <= set(terms):  # noqa: PLR2004
        # with one rule, or none, all that inputs decide is told apart within it
        rest = max(total - terms["imbalance"] - terms["softness"], 0.0)
        terms |= {"rule_specialization": 0.0, "input_distraction": rest}
    if len(terms) < len(BUDGET):
        terms = _undivided(activations(view, layer), modules)
    return Budget(label=label, total=total, terms=terms) if terms else None


def _undivided(found: Sequence[Activation], modules: int) -> dict[str, float]:
    """Return the terms that follow from A alone, as means over seeds."""
    rows = []
    for each in found:
        prior, matrix = np.array(each.prior), np.array(each.matrix)
        if not prior.size:
            return {}
        usage, within = float(entropy(prior @ matrix)), float(prior @ entropy(matrix))
        rows.append((math.log(modules) - usage, usage - within, within))
    if not rows:
        return {}
    means = np.maximum(np.array(rows, dtype=np.float64).mean(0), 0.0)
    return dict(zip((*BUDGET[:2], UNDIVIDED), means.tolist(), strict=True))


def entropy(shares_: Floats) -> Floats:
    """Return the entropy of shares in nats, over the last axis.

    >>> float(entropy(np.array([0.5, 0.5, 0.0])).round(4))
    0.6931
    """
    positive = np.where(shares_ > 0, shares_, 1.0)
    return -(positive * np.log(positive)).sum(-1)  # type: ignore[no-any-return]


def budgets(view: ModelView) -> list[Budget]:
    """Return the budget of each layer, or of the model where it has one."""
    if not view.layered:
        one = budget(view, None, view.name)
        return [one] if one else []
    short, _ = layer_names(view.record.layers)
    found = [budget(view, layer, name) for layer, name in enumerate(short)]
    return [each for each in found if each]


# --- modules chosen together ---------------------------------------------------------------------


def square(coactivation: Coactivation) -> Floats:
    """Return a matrix of modules that are chosen together."""
    return np.array(coactivation.matrix, dtype=np.float64)


def together_chance(view: ModelView) -> float | None:
    """Return (K - 1)/(M - 1): how often modules meet that are chosen evenly and independently.

    It is known where all layers choose the same number K of the same number M of modules.
    """
    choices = {value for value in view.record.model.get("choices", ()) if value}
    sizes = set(view.record.layer_modules) or {view.record.modules}
    if len(choices) != 1 or len(sizes) != 1 or sizes == {1}:
        return None
    return float((choices.pop() - 1) / (sizes.pop() - 1))
