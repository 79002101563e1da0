"""Which models may stand on one axis: cohorts that differ in nothing but their number of rules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeval.report.scorecard_views import ModelView, overall
from modeval.report.words import is_trace
from modeval.score.scorecard import ModelRecord, Score

SIZES = ("encoder", "width")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Trained models of one task and one size, for several numbers of rules.

    Attributes:
        title: what tells it from the other families; empty where there is one.
        members: its models, each with its name among them, in the order that they were given.
    """

    title: str
    members: tuple[tuple[str, ModelView], ...]

    @property
    def rules(self) -> tuple[int, ...]:
        """Numbers of rules, in order."""
        return tuple(sorted({int(view.record.data["rules"]) for _, view in self.members}))

    def lines(self, metric: str) -> dict[str, list[tuple[int, Score]]]:
        """Return for each model, by name, its scores by number of rules, in order."""
        found: dict[str, dict[int, Score]] = {}
        for name, view in self.members:
            score = overall(view, metric)
            if score is not None and score.value is not None:
                found.setdefault(name, {})[int(view.record.data["rules"])] = score
        return {name: sorted(line.items()) for name, line in found.items()}


def families(entries: Iterable[ModelView]) -> list[Family]:
    """Put trained models into families, in the order in which they first appear."""
    together: dict[tuple[tuple[str, str], ...], list[ModelView]] = {}
    for view in entries:
        if not is_trace(view.record):
            together.setdefault(_key(view.record), []).append(view)
    differing = _differing([dict(key) for key in together])
    return [
        Family(title=_title(dict(key), differing), members=tuple(_named(members)))
        for key, members in together.items()
    ]


def _key(record: ModelRecord) -> tuple[tuple[str, str], ...]:
    task = {name: value for name, value in record.data.items() if name != "rules"}
    size = "x".join(str(record.model[name]) for name in SIZES if record.model.get(name))
    return tuple(sorted((name, str(value)) for name, value in {**task, "": size}.items()))


def _differing(keys: Sequence[Mapping[str, str]]) -> list[str]:
    names = dict.fromkeys(name for key in keys for name in key)
    found = [name for name in names if len({key.get(name) for key in keys}) > 1]
    return sorted(found, key=lambda name: (name not in ("task", "objective"), name == "", name))


def _title(key: Mapping[str, Any], differing: Sequence[str]) -> str:
    parts = []
    for name in differing:
        said = key.get(name, "None")
        if said != "None":
            parts.append(f"{name} {said}" if said.replace(".", "").isdecimal() else said)
    return ", ".join(part for part in parts if part)


def _named(members: Sequence[ModelView]) -> list[tuple[str, ModelView]]:
    """Name members by their titles, or by their full names where a title is there twice."""
    taken: dict[tuple[str, int], int] = {}
    for view in members:
        place = (view.record.title, int(view.record.data["rules"]))
        taken[place] = taken.get(place, 0) + 1
    twins = {title for (title, _), times in taken.items() if times > 1}
    return [
        (view.name if view.record.title in twins else view.record.title, view) for view in members
    ]
