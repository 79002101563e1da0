"""Which model of a baseline is the same one, and whether numbers of the two may be compared."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from modeval.score.scorecard import ModelRecord, Score, Scorecard

READ = ("prior", "view", "selection")
TRACED = ("layers", "layer_modules", "rules")
TRACED_DATA = (
    *("phase", "capacity", "padding", "labels_within_documents"),
    *("task", "removal", "texts"),
)
TRACED_MODEL = ("choices", "layer_numbers")


def partner(model: ModelRecord, baseline: Scorecard, *, alone: bool = True) -> ModelRecord | None:
    """Return the model of a baseline that is this one before: by its id, its digest, or alone.

    Args:
        model: a model.
        baseline: an earlier scorecard.
        alone: whether the only model of the baseline is taken whatever it is called. A gate does
            not: another model would pass for the one that is to be guarded.
    """
    by_id = [each for each in baseline.models if each.id == model.id]
    by_digest = [each for each in baseline.models if _same_digest(each, model)]
    only = list(baseline.models) if alone and len(baseline.models) == 1 else []
    return next(iter([*by_id, *by_digest, *only]), None)


def named_partner(pattern: str, baseline: Scorecard) -> ModelRecord | None:
    """Return the one model of a baseline that a pattern names."""
    records = baseline.only([pattern]).models
    return records[0] if len(records) == 1 else None


def comparable(
    card: Scorecard,
    model: ModelRecord,
    baseline: Scorecard,
    other: ModelRecord | None,
    *,
    metric: str,
    axis: str | None = None,
) -> list[str]:
    """Return what stands between two models and a fair comparison; nothing when it is fair.

    Cohorts must be of the same task and model, for which their digests stand; traces of the same
    layers, modules, choices and labels, measured in the same phase. What counts as routing, the
    weight of the rules and the data set scored on must be the same, too. ``metric`` and ``axis``
    (``rule`` or ``module`` for a profile) say what is to be compared.
    """
    if other is None:
        names = ", ".join(each.id for each in baseline.models) or "none"
        hint = "Where one of them is this one before, say so: --baseline-model ID"
        return [f"it has no model {model.id}; it has {names}. {hint}"]
    if (model.origin == "trace") != (other.origin == "trace"):
        return [f"this is a {model.origin}, the baseline a {other.origin}"]
    faults = _unlike({name: (getattr(model, name), getattr(other, name)) for name in READ})
    if model.origin == "trace":
        faults += _unlike({name: (getattr(model, name), getattr(other, name)) for name in TRACED})
        faults += _unlike_entries("data", model.data, other.data, TRACED_DATA)
        faults += _unlike_entries("model", model.model, other.model, TRACED_MODEL)
    elif not _same_digest(model, other):
        from modeval.spec import recorded_differences  # noqa: PLC0415 - slow, and seldom needed

        faults += _unlike(
            recorded_differences((model.data, model.model), (other.data, other.model))
        )
        faults = faults or [f"its digest is {other.digest}, here it is {model.digest}"]
    if metric == "adaptation_distance":
        faults += _unlike({"adaptation": (model.adaptation, other.adaptation)})
    if axis == "module":
        faults.append("modules have no identity across trainings; compare rules, or scores")
    data = [
        None if each.dataset is None else each.dataset.get("digest") for each in (card, baseline)
    ]
    return faults + _unlike({"dataset": (data[0], data[1])})


def _same_digest(mine: ModelRecord, its: ModelRecord) -> bool:
    """Tell whether two models are of one task and one model, whichever version wrote them."""
    if mine.digest == its.digest or "trace" in (mine.origin, its.origin):
        return mine.digest == its.digest
    from modeval.spec import recorded_differences, recorded_digests  # noqa: PLC0415 - slow likewise

    return not recorded_differences((mine.data, mine.model), (its.data, its.model)) and all(
        record.digest in recorded_digests(record.data, record.model) for record in (mine, its)
    )


def _unlike_entries(
    front: str, mine: Mapping[str, Any], its: Mapping[str, Any], names: tuple[str, ...]
) -> list[str]:
    return _unlike({f"{front}.{name}": (mine.get(name), its.get(name)) for name in names})


def _unlike(pairs: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [
        f"{name} is {_shown(mine)} here and {_shown(its)} there"
        for name, (mine, its) in pairs.items()
        if _plain(mine) != _plain(its)
    ]


def _plain(value: Any) -> str:
    """Return a value as text that does not tell tuples from lists."""
    return json.dumps(value, sort_keys=True, default=str)


def _shown(value: Any) -> str:
    text = _plain(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - a line of a report


def same_seeds(mine: Sequence[Score], its: Sequence[Score]) -> tuple[list[Score], list[Score]]:
    """Return the scores of the seeds that both have, in order."""
    theirs = {
        score.seed: score for score in its if score.value is not None and math.isfinite(score.value)
    }
    pairs = [(score, theirs[score.seed]) for score in mine if score.seed in theirs]
    return [one for one, _ in pairs], [two for _, two in pairs]
