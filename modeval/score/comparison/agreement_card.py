"""The agreement of two builds as a scorecard, so that a gate and a report can read it."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from modeval.metrics.table import METRICS
from modeval.score.comparison.agreement import Agreement, LayerAgreement, Share
from modeval.score.scorecard import Member, ModelRecord, Score, Scorecard
from modeval.trace.files import open_trace


def agreement_card(agreement: Agreement, one: Path | str, other: Path | str) -> Scorecard:
    """Return the scorecard of a comparison: each metric by layer, their mean, and the worst.

    The worst layer of ``agreement_different`` is the last: its value is the share of tokens that
    were routed differently at one layer at least.

    Args:
        agreement: what :func:`~modeval.score.comparison.agreement.agreement` found.
        one: the trace that is held to be right.
        other: the trace of the other build.
    """
    header = open_trace(one).header
    numbers = [layer.layer for layer in agreement.layers]
    title = f"{_name(other)} against {_name(one)}"
    record = ModelRecord(
        id=title.replace(" ", "-"),
        title=title,
        origin="trace",
        selection=None,
        data={
            "task": "agreement",
            "documents": max(layer.documents for layer in agreement.layers),
            "tokens": agreement.tokens,
            "missing": list(agreement.missing),
        },
        model={"choices": [header.choices[number] for number in numbers]},
        digest=f"{header.fingerprint()}-{open_trace(other).header.fingerprint()}",
        modules=max(header.modules[number] for number in numbers),
        layers=tuple(header.layers[number] for number in numbers),
        layer_modules=tuple(header.modules[number] for number in numbers),
        members=(Member(seed=None, source=str(other)),),
    )
    return Scorecard(
        modeval=version("modeval-cli"),
        models=(record,),
        notes=tuple(f"{title}: {note}" for note in agreement.notes),
        scores=tuple(_scores(record, agreement)),
    )


def _name(path: Path | str) -> str:
    return Path(path).resolve().name.removesuffix(".trace")


def _scores(record: ModelRecord, agreement: Agreement) -> Iterator[Score]:
    for name in agreement.layers[0].measured:
        better = METRICS[name].better
        layers = [
            _score(record, index, name, layer) for index, layer in enumerate(agreement.layers)
        ]
        if len(layers) > 1:
            values = [score.value for score in layers if score.value is not None]
            worst = (min if better == "higher" else max)(values)
            index = values.index(worst) if name != "agreement_different" else len(values) - 1
            yield Score(
                model=record.id,
                metric=name,
                over="mean",
                value=sum(values) / len(values),
                better=better if better != "neither" else None,
                samples=agreement.tokens,
            )
            yield replace(layers[index], over="worst")
        yield from layers


def _score(record: ModelRecord, index: int, name: str, layer: LayerAgreement) -> Score:
    share: Share = layer.measured[name]
    better = METRICS[name].better
    modules = record.layer_modules[index]
    choices = record.model["choices"][index]
    return Score(
        model=record.id,
        metric=name,
        layer=index if len(record.layers) > 1 else None,
        value=share.value,
        low=share.low,
        high=share.high,
        chance=METRICS[name].chance(1, modules, choices),
        chance_permuted=layer.chance.get(name),
        better=better if better != "neither" else None,
        samples=layer.tokens,
        note=_ceiling(layer) if name == "agreement_shared" else "",
    )


def _ceiling(layer: LayerAgreement) -> str:
    """Say what the first build shares with itself, which is all that can be expected."""
    if layer.ceiling is None:
        return ""
    return f"The first build recorded twice shares {layer.ceiling.value:.2%} of its choices."
