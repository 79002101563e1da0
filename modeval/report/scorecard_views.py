"""Queries on scorecards: models under names of their own, in groups, their scores and layers.

Terminal, page, tables and figures share these functions, so that all show the same numbers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from modeval.report.words import is_trace, metric_title, task
from modeval.score.comparison.courses import course_of
from modeval.score.scorecard import ModelRecord, PhaseLosses, Score, Scorecard, Seed
from modeval.titles import MODEL_TITLES

DECIDING = ("alignment_score", "rule_specialization", "effective_share")
"""Metrics that may choose which layers are shown in full, the first that is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """One model of one scorecard.

    Attributes:
        card: its scorecard.
        record: the model.
        name: its title, and what tells it from others of the same title.
        anchor: unique within a report.
        source: where the scorecard was read; empty where it was not.
    """

    card: Scorecard
    record: ModelRecord
    name: str
    anchor: str
    source: str = ""

    @property
    def layered(self) -> bool:
        """Whether its scores are by layer; a model with one layer has one score of each kind."""
        return len(self.record.layers) > 1

    @property
    def own(self) -> Scorecard:
        """Its part of the scorecard."""
        return self.card.of(self.record.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGroup:
    """Models of one task, that may be compared.

    Attributes:
        title: the task in words.
        entries: the models.
        kind: the task without its number of rules, the same for groups that differ in it alone.
    """

    title: str
    entries: tuple[ModelView, ...]
    kind: str = ""


# --- models --------------------------------------------------------------------------------------


def entries(cards: Sequence[Scorecard], sources: Sequence[str]) -> list[ModelView]:
    """List the models of scorecards, each under a name of its own.

    Args:
        cards: scorecards.
        sources: what to call each of them, such as the name of its file.
    """
    found = [
        (source, ModelView(card=card, record=record, name=record.title, anchor="", source=source))
        for card, source in zip(cards, sources, strict=True)
        for record in card.models
    ]
    keys = [(view.name, _key(view.record)) for _, view in found]
    alike: dict[tuple[str, str], list[tuple[str, ModelView]]] = {}
    for key, each in zip(keys, found, strict=True):
        alike.setdefault(key, []).append(each)
    named: list[ModelView] = []
    for number, ((source, view), key) in enumerate(zip(found, keys, strict=True), start=1):
        twins, name = alike[key], view.name
        if len(twins) > 1:
            name += f" · {_difference(source, view.record, twins)}"
        named.append(replace(view, name=name, anchor=f"model-{number}"))
    return named


def _difference(source: str, record: ModelRecord, twins: list[tuple[str, ModelView]]) -> str:
    """Name what tells a model from others of the same title: size, checkpoint, file or number."""
    told = [[(_size(other.record)), other.record.selection or "", where] for where, other in twins]
    own = [_size(record), record.selection or "", source]
    for index, value in enumerate(own):
        if value and [other[index] for other in told].count(value) == 1:
            return value
    ids = [other.record.id for _, other in twins]
    return record.id if ids.count(record.id) == 1 else f"{source} {record.id}"


def _size(record: ModelRecord) -> str:
    known = ("encoder", "width")
    return "x".join(str(record.model[name]) for name in known if name in record.model)


def _key(record: ModelRecord) -> str:
    """Return what models must share to stand beside each other."""
    if is_trace(record):
        return f"trace {record.data.get('task')} {sorted(record.rules)}"
    return str(sorted((name, str(value)) for name, value in record.data.items()))


def groups(views: Iterable[ModelView]) -> list[TaskGroup]:
    """Put models of the same task together: tasks as they first appear, rules by their number.

    Within a task the models of the paper stand in its order, others after them.
    """
    together: dict[str, list[ModelView]] = {}
    for view in views:
        together.setdefault(_key(view.record), []).append(view)
    kinds = list(dict.fromkeys(_kind(members[0].record) for members in together.values()))
    ordered = sorted(
        together.values(),
        key=lambda members: (kinds.index(_kind(members[0].record)), rule_count(members[0].record)),
    )
    return [
        TaskGroup(
            title=_title(members[0].record),
            kind=_kind(members[0].record),
            entries=tuple(sorted(members, key=lambda view: _rank(view.record))),
        )
        for members in ordered
    ]


def _title(record: ModelRecord) -> str:
    """Name a task in the words of its field."""
    return task(record)


def _kind(record: ModelRecord) -> str:
    """Return the task without its number of rules."""
    if is_trace(record):
        return f"trace {record.data.get('task')}"
    return str(sorted((key, str(value)) for key, value in record.data.items() if key != "rules"))


def rule_count(record: ModelRecord) -> int:
    """Return the number of rules, or of labels."""
    return len(record.rules) if is_trace(record) else int(record.data["rules"])


def _rank(record: ModelRecord) -> int:
    """Order the models of the paper as the paper does, and others after them."""
    if is_trace(record):
        return 0
    titles = list(MODEL_TITLES.values())
    return titles.index(record.title) if record.title in titles else len(titles)


def mean_course(view: ModelView) -> PhaseLosses | None:
    """Return the losses of a model by phase and rule, the mean over seeds."""
    return course_of(view.card, view.record)


# --- scores --------------------------------------------------------------------------------------


def metrics_of(views: Iterable[ModelView]) -> list[str]:
    """Return the metrics that some of the models have, in order."""
    names: dict[str, None] = {}
    for view in views:
        names |= dict.fromkeys(s.metric for s in view.card.scores_of(view.record.id))
    return list(names)


def overall(view: ModelView, metric: str) -> Score | None:
    """Return the score over seeds, or of the mean over layers."""
    find = view.card.find
    return find(view.record.id, metric) or find(view.record.id, metric, over="mean")


def worst(view: ModelView, metric: str) -> Score | None:
    """Return the score of the worst layer."""
    return next(
        (
            score
            for score in view.card.scores_of(view.record.id)
            if (score.model, score.metric, score.over) == (view.record.id, metric, "worst")
        ),
        None,
    )


def by_seed(view: ModelView, metric: str) -> list[tuple[Seed, float]]:
    """Return the value of each seed that has one."""
    return [
        (score.seed, score.value)
        for score in view.card.scores_of(view.record.id)
        if (score.model, score.metric) == (view.record.id, metric)
        and score.layer is None
        and score.over is None
        and score.seed is not None
        and score.value is not None
    ]


def by_layer(view: ModelView, metric: str) -> list[Score]:
    """Return the score of each layer, in order."""
    scores = [
        score
        for score in view.card.scores_of(view.record.id)
        if (score.model, score.metric) == (view.record.id, metric)
        and score.layer is not None
        and score.over is None
        and score.seed is None
    ]
    return sorted(scores, key=lambda score: score.layer or 0)


def dots(view: ModelView, metric: str) -> list[tuple[str, float]]:
    """Return what a mean is made of, named: seeds, or layers where there are no seeds."""
    seeds = by_seed(view, metric)
    if seeds:
        return [(seed_name(seed), value) for seed, value in seeds]
    names = view.record.layers
    return [
        (names[score.layer or 0], score.value)
        for score in by_layer(view, metric)
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


def telling_layers(view: ModelView) -> tuple[list[tuple[str, int]], str]:
    """Return the worst, a median and the best layer, and the metric that says so.

    Where a model has three layers or fewer all are returned, under their names.
    """
    count = len(view.record.layers) if view.layered else 0
    if count <= 3:  # noqa: PLR2004 - as many as would be chosen
        return [(view.record.layers[layer], layer) for layer in range(count)], ""
    for metric in DECIDING:
        scores = [score for score in by_layer(view, metric) if score.value is not None]
        if len(scores) == count:
            ranked = sorted(scores, key=lambda score: (score.value or 0.0, score.layer or 0))
            words = ("lowest", "median", "highest")
            places = (0, (count - 1) // 2, count - 1)
            return [
                (f"{word} {metric_title(metric).lower()}", ranked[index].layer or 0)
                for word, index in zip(words, places, strict=True)
            ], metric
    return [("first", 0), ("middle", count // 2), ("last", count - 1)], ""


# --- against the number of rules -----------------------------------------------------------------


def against_rules(views: Iterable[ModelView], metric: str) -> dict[str, list[tuple[int, Score]]]:
    """Return, for each model by name, its scores by number of rules, in order."""
    lines: dict[str, dict[int, Score]] = {}
    for view in views:
        score = overall(view, metric)
        if is_trace(view.record) or score is None or score.value is None:
            continue
        lines.setdefault(view.name, {})[int(view.record.data["rules"])] = score
    return {name: sorted(line.items()) for name, line in lines.items()}
