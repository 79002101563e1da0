"""What a model lacks, or what makes its recording doubtful, so that nothing of it may pass.

A number that is there may be right and say nothing of what was left out: a layer that could not be
scored, a rule without samples, the end of a recording that stopped early.
"""

from modeval.gate.verdicts import Asked
from modeval.metrics.table import metric_of
from modeval.score.scorecard import LeftOut

DOUBTFUL = frozenset(
    {
        "warm-up",
        "padding",
        "nothing recorded",
        "repeated rows",
        "repeated ranks",
        "copies",
        "uneven layers",
        "equal modules",
    }
)
"""Kinds of warnings about a recording after which its numbers are those of something else."""


def missing_from(asked: Asked, layer: int | None) -> str:
    """Say what was left out that the requirement is about; empty for nothing.

    Args:
        asked: a requirement of a model.
        layer: number of the layer that a measurement is of; null for all or the only one.
    """
    if asked.policy.left_out == "ignore":
        return ""
    if asked.model.data.get("complete") is False:
        return "the recording stopped early and is incomplete"
    gaps = [gap for gap in asked.model.left_out if not gap.wanted and _concerns(asked, gap, layer)]
    if not gaps:
        return ""
    more = f", and {len(gaps) - 1} more" if len(gaps) > 1 else ""
    return f"{_words(gaps[0])}{more}"


def _words(gap: LeftOut) -> str:
    rest = "part of the recording" if gap.layer else "the end of the recording"
    what = rest if gap.kind == "rest" else f"{gap.kind} {gap.name}"
    where = f" of layer {gap.layer}" if gap.layer else ""
    why = f" ({gap.why.rstrip('.')})" if gap.why else ""
    return f"{what}{where} was left out{why}"


def _concerns(asked: Asked, gap: LeftOut, layer: int | None) -> bool:
    """Tell whether something left out changes what a requirement is about."""
    scope, layers = asked.requirement.scope, asked.model.layers
    here = not gap.layer or layer is None or layers[layer] == gap.layer
    if gap.kind == "layer":
        return scope.layers in (None, "worst", "each", "mean")
    if gap.kind == "rule":
        row = metric_of(asked.requirement.metric)
        return here and (row is None or row.labels)
    if gap.kind == "metric":
        return here and gap.name == asked.requirement.metric
    return here


def doubts_about(asked: Asked) -> str:
    """Say which warning about the recording makes its numbers doubtful; empty for none."""
    strict = asked.policy.no_warnings
    if asked.policy.left_out == "ignore" and not strict:
        return ""
    for warning in asked.model.warnings:
        if strict or warning.kind in DOUBTFUL:
            return f"its recording is doubtful ({warning.kind}): {warning.text.rstrip('.')}"
    return ""
