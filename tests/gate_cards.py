"""Scorecards made by hand for tests of the gate, its reports and comparisons."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from modeval.cli.commands import COMMANDS
from modeval.metrics import METRICS
from modeval.score.scorecard import (
    Activation,
    Member,
    ModelRecord,
    Profile,
    Score,
    Scorecard,
    Seed,
)
from modeval.spec import DataSpec, ModelSpec, digest_of, to_dict

CHANCE = {"alignment_score": (0.0, 0.5), "collapse_worst": (0.0, 0.9), "collapse_avg": (0.0, 0.42)}


def seeds_of(count: int) -> tuple[Seed, ...]:
    """Return task seeds 0, 1, ... with model seed 0."""
    return tuple((task, 0) for task in range(count))


def better_of(metric: str) -> Any:
    """Return the direction of a metric, as scorecards write it."""
    row = METRICS.get(metric)
    if row is None:
        return "lower"
    return None if row.better == "neither" else row.better


def cohort_card(
    values: Mapping[str, Sequence[float | None]],
    *,
    model: str = "modular",
    error: float | None = 0.002,
    half: float = 0.05,
    rules: int = 4,
    failed: int = 0,
    seeds: Sequence[Seed] | None = None,
    p_value: float | None = None,
    **changes: Any,
) -> Scorecard:
    """Return the scorecard of a cohort: values of each seed by metric, an interval of +-half."""
    count = len(next(iter(values.values())))
    names = tuple(seeds) if seeds is not None else seeds_of(count)
    data, spec = to_dict(DataSpec(rules=rules)), to_dict(ModelSpec())
    members = [
        Member(
            seed=seed,
            source="runs/four/modular/last.safetensors",
            status="failed" if place < failed else "ok",
            note="its weights are not finite" if place < failed else "",
            precision=0.005,
        )
        for place, seed in enumerate(names)
    ]
    record = ModelRecord(
        id=model,
        title=model.capitalize(),
        origin="run",
        selection="last",
        data=data,
        model=spec,
        digest=digest_of(DataSpec(rules=rules), ModelSpec()),
        modules=rules,
        adaptation="reweight",
        members=tuple(members),
    )
    scores = [
        score
        for metric, each in values.items()
        for score in _of_metric(model, metric, each, names, error, half)
    ]
    if p_value is not None:
        tested = {"p_value": p_value, "chance_permuted": 0.02, "null_low": 0.01, "null_high": 0.03}
        scores = [replace(score, **tested) for score in scores]  # type: ignore[arg-type]
    return Scorecard(
        modeval="0.1.0", precision=0.005, models=(record,), scores=tuple(scores), **changes
    )


def _of_metric(  # noqa: PLR0917 - one step of cohort_card
    model: str,
    metric: str,
    values: Sequence[float | None],
    seeds: Sequence[Seed],
    error: float | None,
    half: float,
) -> list[Score]:
    uniform, hashed = CHANCE.get(metric, (None, None))
    base: dict[str, Any] = {
        "model": model,
        "metric": metric,
        "better": better_of(metric),
        "chance": uniform,
        "chance_hash": hashed,
        "error": error,
    }
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known else None
    several = mean is not None and len(known) > 1
    together = Score(
        value=mean,
        low=mean - half if several else None,  # type: ignore[operator]
        high=mean + half if several else None,  # type: ignore[operator]
        seeds=len(known),
        samples=10_000 * len(known),
        **base,
    )
    return [
        together,
        *(
            Score(seed=seed, value=value, samples=10_000, **base)
            for seed, value in zip(seeds, values, strict=True)
        ),
    ]


def trace_card(
    values: Mapping[str, Sequence[float]],
    *,
    model: str = "olmo",
    error: float | None = 0.01,
    half: float = 0.02,
    p_values: Sequence[float] | None = None,
    notes: Sequence[str] | None = None,
    few: Sequence[bool] | None = None,
    profiles: Sequence[Profile] = (),
    activations: Sequence[Activation] = (),
    **record: Any,
) -> Scorecard:
    """Return the scorecard of a trace: values of each layer by metric."""
    layers = len(next(iter(values.values())))
    adjusted = None if p_values is None else [min(1.0, p * layers) for p in p_values]
    scores: list[Score] = []
    for metric, each in values.items():
        uniform, hashed = CHANCE.get(metric, (None, None))
        base: dict[str, Any] = {
            "model": model,
            "metric": metric,
            "better": better_of(metric),
            "chance": uniform,
            "chance_hash": hashed,
            "error": error,
            "samples": 40_000,
        }
        if layers > 1:
            mean = sum(each) / layers
            pick = min if base["better"] == "higher" else max
            worst = pick(range(layers), key=each.__getitem__)
            scores += [
                Score(over="mean", value=mean, low=mean - half, high=mean + half, **base),
                Score(
                    over="worst",
                    layer=worst,
                    value=each[worst],
                    low=each[worst] - half,
                    high=each[worst] + half,
                    **base,
                ),
            ]
        scores += [
            Score(
                layer=layer if layers > 1 else None,
                value=value,
                low=value - half,
                high=value + half,
                p_value=None if p_values is None else p_values[layer],
                p_adjusted=None if adjusted is None else adjusted[layer],
                note="" if notes is None else notes[layer],
                few_samples=few is not None and few[layer],
                **base,
            )
            for layer, value in enumerate(each)
        ]
    settings: dict[str, Any] = {
        "id": model,
        "title": model.capitalize(),
        "origin": "trace",
        "selection": None,
        "data": {
            "task": "trace",
            "documents": 400,
            "tokens": 40_000,
            "rows": 40_000 * layers,
            "phase": "prefill",
            "capacity": "before",
            "padding": "excluded",
            "labels_within_documents": False,
            "complete": True,
            "notes": [],
        },
        "model": {
            "engine": "transformers",
            "model": model,
            "format": "live",
            "choices": [2] * layers,
            "layer_numbers": [*range(layers)],
            "weight_scale": "probability",
            "shared_modules": 0,
            "weights_digest": None,
        },
        "digest": "0123456789abcdef",
        "modules": 4,
        "rules": ("code", "law", "news", "poems"),
        "layers": tuple(f"model.layers.{layer}.mlp" for layer in range(layers)),
        "layer_modules": (4,) * layers,
        "members": (Member(seed=None, source="olmo.trace"),),
    }
    return Scorecard(
        modeval="0.1.0",
        models=(ModelRecord(**(settings | record)),),
        scores=tuple(scores),
        profiles=tuple(profiles),
        activations=tuple(activations),
    )


def examples(command: str) -> list[str]:
    """Return the examples of a command's help, without the name of the program."""
    text = COMMANDS[command].load(command).callback.__doc__ or ""
    return re.findall(r"\[cyan\]modeval (.*?)\[/\]", text)
