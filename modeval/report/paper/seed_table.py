"""Values of single seeds of a sweep, by setting, model and metric: what its findings rest on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modeval.report.scorecard_views import ModelView
from modeval.score.scorecard import ModelRecord, Scorecard

MONOLITHIC, MODULAR, OP, GT = "monolithic", "modular", "modular-op", "gt-modular"
SCORERS = {"none": MONOLITHIC, "module": MODULAR, "rule": OP, "oracle": GT}
"""The paper's models, by what their scorer looks at."""

Seeds = Mapping[tuple[int, int], float]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of the paper: a task, and sizes of the model, for some number of rules.

    Attributes:
        task: task, objective, search and operation; what must agree for numbers to be compared.
        sizes: of the models: encoder and width.
        rules: R.
    """

    task: tuple[str, ...]
    sizes: tuple[str, ...]
    rules: int

    @property
    def family(self) -> tuple[str, ...]:
        """What settings share that differ in their number of rules alone."""
        return *self.task, *self.sizes


@dataclass(frozen=True, slots=True)
class SeedTable:
    """Values of single seeds by setting, model and metric.

    Attributes:
        values: them.
        chances: value of uniform routing, where it has one.
    """

    values: dict[tuple[Setting, str, str], Seeds] = field(default_factory=dict)
    chances: dict[tuple[Setting, str, str], float] = field(default_factory=dict)

    def seeds(self, setting: Setting, model: str, metric: str) -> Seeds:
        """Return the values of a model's seeds; nothing where they were not measured."""
        return self.values.get((setting, model, metric), {})

    def by_task(self, setting: Setting, model: str, metric: str) -> dict[int, float]:
        """Return the mean over model seeds for each task seed."""
        found: dict[int, list[float]] = {}
        for (task, _), value in self.seeds(setting, model, metric).items():
            found.setdefault(task, []).append(value)
        return {task: math.fsum(values) / len(values) for task, values in found.items()}

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Return the settings, those of one family together and in order of their rules."""
        settings = {setting for setting, _, _ in self.values}
        return tuple(sorted(settings, key=lambda setting: (setting.family, setting.rules)))

    @property
    def models(self) -> tuple[str, ...]:
        """Return the models, in the order in which they came."""
        return tuple(dict.fromkeys(model for _, model, _ in self.values))


def setting_of(data: Mapping[str, Any], model: Mapping[str, Any]) -> Setting:
    """Return the setting of a run from the plain values of its task and model."""
    task = tuple(str(data.get(name)) for name in ("task", "objective", "search", "operation"))
    sizes = tuple(str(model.get(name)) for name in ("encoder", "width"))
    return Setting(task, sizes, int(data.get("rules") or 0))


def name_of(model: Mapping[str, Any]) -> str:
    """Return which of the paper's models this is, from the plain values of its spec."""
    return SCORERS.get(str(model.get("scorer")), "")


def of_the_paper(card: Scorecard) -> SeedTable:
    """Return the seeds' values of the paper's four models; empty where there are none."""
    known = {
        model.id: (setting_of(model.data, model.model), name_of(model.model))
        for model in card.models
        if _is_of_the_paper(model)
    }
    return _filled([(card, known)])


def of_views(entries: list[ModelView]) -> SeedTable:
    """Return the seeds' values of trained models under their titles, whatever they are."""
    cards: dict[int, tuple[Scorecard, dict[str, tuple[Setting, str]]]] = {}
    for view in entries:
        _, known = cards.setdefault(id(view.card), (view.card, {}))
        setting = setting_of(view.record.data, view.record.model)
        known[view.record.id] = (setting, view.record.title)
    return _filled(list(cards.values()))


def _filled(cards: list[tuple[Scorecard, dict[str, tuple[Setting, str]]]]) -> SeedTable:
    values: dict[tuple[Setting, str, str], dict[tuple[int, int], float]] = {}
    chances: dict[tuple[Setting, str, str], float] = {}
    for card, known in cards:
        for score in card.scores:
            if score.model not in known or score.layer is not None or score.over is not None:
                continue
            setting, name = known[score.model]
            place = setting, name, score.metric
            if score.chance is not None:
                chances[place] = score.chance
            if score.seed is not None and score.value is not None:
                values.setdefault(place, {})[score.seed] = score.value
    return SeedTable(dict(values), chances)


def _is_of_the_paper(model: ModelRecord) -> bool:
    """Tell whether a model is one of the four: it differs from them in no choice but its sizes."""
    usual = {"soft", "fixed", "full", "outputs", "mix_outputs", "mix-outputs"}
    choices = [model.model.get(axis) for axis in ("gating", "computation", "aggregation")]
    kinds = [each.get("kind") if isinstance(each, Mapping) else each for each in choices]
    own = all(kind is None or kind in usual for kind in kinds)
    return own and len(model.layers) < 2 and str(model.model.get("scorer")) in SCORERS  # noqa: PLR2004
