"""Measuring: every metric of all seeds and layers, how far it may move, and what chance gives.

The one way from counts to numbers, whatever the counts came from. Everything that is measured has
the axes ``(S, L)``, seeds and layers; a trace has one seed, a cohort often one layer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.metrics import match
from modeval.metrics.alignment import alignment_distance, alignment_score
from modeval.metrics.information import Entropies, entropies
from modeval.metrics.measuring import measure
from modeval.metrics.table import METRICS
from modeval.score.amount import Amount, amount_of
from modeval.score.inference.documents import LeaveOneOut, leave_one_out
from modeval.score.inference.jackknife import jackknife_errors
from modeval.score.inference.permutation import (
    PERMUTATIONS_PER_LAYER,
    permutations_for,
    permute_labels,
    units_permuted,
    untestable,
)
from modeval.score.routing import LayerStack, Routing
from modeval.types import Prior, RoutingCounts

MOST, MOST_PROBED = 512, 128
"""Documents, or groups of them, left out one after another; and for metrics that sort shares under
probes, which cost more than all others together."""
PERMUTATIONS_OF_SAMPLES = 199
"""Permutations of the labels of samples that were drawn anew."""
TESTED = tuple(name for name, metric in METRICS.items() if metric.tested)
"""Metrics that are held against permuted labels."""
GROWTH = torch.tensor(
    [0.5 if "matching" in METRICS[name].made_of else 1.0 for name in TESTED], dtype=torch.float64
)
"""Power of the squared noise of documents with which each grows."""
OF_TABLES = tuple(
    name for name, row in METRICS.items() if row.needs == "table" and row.tells == "information"
)
"""Metrics of whole counts, as if samples were independent."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric of all seeds and layers.

    Attributes:
        value: ``(S, L)`` as the formula gives it; NaN in a layer that cannot give it.
        error: ``(S, L)`` standard error from the samples that were drawn; nothing where unknown.
        left: the metric without each document, ``(C, S, L)``; nothing where there are none.
        null: ``(P, S, L)`` when labels are permuted; nothing where they cannot be.
        beyond: whether p is the chance of a value as large, although none is better.
    """

    value: Float64[Tensor, "seeds layers"]
    error: Float64[Tensor, "seeds layers"] | None = None
    left: LeaveOneOut | None = None
    null: Float64[Tensor, "permutations seeds layers"] | None = None
    beyond: bool = False


@dataclass(frozen=True, slots=True)
class Measurements:
    """All that was measured of some routing.

    Attributes:
        metrics: by name, in the order of the table of metrics.
        amount: what it was measured on.
        notes: what could not be computed, and why.
    """

    metrics: dict[str, Measured]
    amount: Amount
    notes: tuple[str, ...]


def measure_routing(
    routing: Routing, *, generator: torch.Generator, permutations: int | None = None
) -> Measurements:
    """Measure every metric of all seeds and layers, leave documents out, permute the labels.

    Args:
        routing: counts of which all is known.
        generator: draws permutations, the same for all seeds and layers.
        permutations: number of permutations; when absent 999 of documents, more for many layers,
            and 199 of samples.
    """
    notes: list[str] = []
    metrics = {name: Measured(value) for name, value in _values(routing).items()}
    if routing.evidence == "samples":
        for name, error in _errors(routing).items():
            metrics[name] = replace(metrics[name], error=error)
    if routing.evidence == "documents":
        for name, left in _left_out(routing).items():
            metrics[name] = replace(metrics[name], left=left)
    if routing.evidence == "sums":
        notes.append("No intervals: nothing says which tokens are of one document.")
    for name, null in _permuted(routing, generator, permutations, notes).items():
        metrics[name] = replace(metrics[name], null=null)
    return Measurements(metrics, amount_of(routing), tuple(notes))


# --- values --------------------------------------------------------------------------------------


def metrics_without_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Return the metrics that need no rules: load, and how decided single samples are routed."""
    return tuple(name for name in names if not METRICS[name].labels)


def _metrics_of(routing: Routing, group: LayerStack) -> tuple[str, ...]:
    """Return the metrics that a group can give."""
    return routing.metrics if group.labelled else metrics_without_labels(routing.metrics)


def _joined(
    routing: Routing, names: Sequence[str], parts: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Put the layers of all groups together: NaN where a group has no such metric."""
    found = {}
    for name in names:
        like = next((part[name] for part in parts if name in part), None)
        if like is not None:
            found[name] = routing.across(
                part[name]
                if name in part
                else like.new_full((*like.shape[:-1], len(group.layers)), torch.nan)
                for group, part in zip(routing.groups, parts, strict=True)
            )
    return found


def _values(routing: Routing) -> dict[str, Tensor]:
    parts = [
        measure(group.counts, _metrics_of(routing, group), prior=routing.prior, view=routing.view)
        for group in routing.groups
    ]
    found = _joined(routing, routing.metrics, parts) | dict(routing.given)
    return found | _of_sums(routing)


def _of_sums(routing: Routing) -> dict[str, Tensor]:
    """Return the metrics of whole counts.

    What was not routed, and information that is corrected for chance as if samples were
    independent.
    """
    if not routing.counted:
        return {}
    parts: list[dict[str, Tensor]] = []
    for group in routing.groups:
        own: dict[str, Tensor] = {}
        chosen, counts = group.counts.selections, group.counts
        alike = group.choices[0] if len({*group.choices}) == 1 else 0
        if alike == 0 or bool(chosen.isfinite().all()):
            own["unrouted_share"] = METRICS["unrouted_share"].function(counts, choices=alike)
        table = chosen.sum(-3).round()
        known = routing.evidence != "samples" and group.labelled and routing.rules > 1
        if known and bool(table.isfinite().all()) and bool((table.sum((-2, -1)) > 0).all()):
            own |= {name: METRICS[name].function(table) for name in OF_TABLES}
        parts.append(own)
    return _joined(routing, ["unrouted_share", *OF_TABLES], parts)


# --- how far a number may move -------------------------------------------------------------------


def _probed(name: str) -> bool:
    return "probes" in METRICS[name].made_of


def _errors(routing: Routing) -> dict[str, Tensor]:
    """Return the sampling error of each metric that follows from counts of samples."""
    parts = []
    for group in routing.groups:
        functions = {
            name: METRICS[name].function
            for name in _metrics_of(routing, group)
            if METRICS[name].needs == "joint"
            and name not in routing.given
            # the matching and the probes of each block left out would cost more than all else
            and not (_probed(name) and "matching" in METRICS[name].made_of)
        }
        parts.append(jackknife_errors(group.counts, functions, view=routing.view) or {})
    return _joined(routing, routing.metrics, parts)


def _left_out(routing: Routing) -> dict[str, LeaveOneOut]:
    """Return every metric without each document, layers of all groups together."""
    parts = [_without_each(routing, group) for group in routing.groups]
    found = {}
    for name in routing.metrics:
        every = [part[name] for part in parts if name in part]
        if not every:
            continue
        # a layer that lacks a label lacks its documents: those of others are not left out of it
        there = max(every, key=lambda each: len(each.left))
        alike = [
            part if name in part and len(part[name].left) == len(there.left) else {}
            for part in parts
        ]
        joined: dict[str, Any] = {
            which: _joined(
                routing,
                [name],
                [_tensors(part, name, which) for part in (parts if which == "value" else alike)],
            )[name]
            for which in ("value", "left", "floor", "ceiling")
            if getattr(there, which) is not None
        }
        found[name] = replace(there, **joined)
    return found


def _tensors(part: Mapping[str, LeaveOneOut], name: str, which: str) -> dict[str, Tensor]:
    return {name: getattr(part[name], which)} if name in part else {}


def _without_each(routing: Routing, group: LayerStack) -> dict[str, LeaveOneOut]:
    if group.units is None:
        return {}
    names = _metrics_of(routing, group)

    def measured(names: Sequence[str]) -> Callable[[RoutingCounts], dict[str, Tensor]]:
        return lambda counts: measure(counts, names, prior=routing.prior, view=routing.view)

    quick = [name for name in names if not _probed(name)]
    probed = [name for name in names if _probed(name)]
    prior, view, units = routing.prior, routing.view, group.units
    found = leave_one_out(units, measured(quick), prior=prior, view=view, most=MOST)
    if probed:
        found |= leave_one_out(units, measured(probed), prior=prior, view=view, most=MOST_PROBED)
    return found


# --- what chance gives ---------------------------------------------------------------------------


def _permuted(
    routing: Routing, generator: torch.Generator, permutations: int | None, notes: list[str]
) -> dict[str, Tensor]:
    """Return the tested metrics under permuted labels, where labels can be permuted."""
    groups = [group for group in routing.groups if group.labelled]
    if routing.rules < 2 or not groups:  # noqa: PLR2004 - one label: nothing to exchange
        return {}
    prior: Prior = routing.prior if routing.evidence == "documents" else "uniform"
    reason = next((why for group in groups if (why := untestable(group.units, prior))), "")
    if reason:
        notes.append(f"No test against permuted labels: {reason}.")
        return {}
    count = permutations or _permutations(routing)
    state = generator.get_state()
    numbers = sum(group.units.mass[..., 0, :].numel() for group in groups if group.units)
    most = units_permuted(numbers, routing.rules, count)
    parts = []
    for group in routing.groups:
        generator.set_state(state)  # the same permutations in every group
        parts.append(_permuted_group(routing, group, generator, count, most))
    return _joined(routing, [name for name in TESTED if name in routing.metrics], parts)


def _permutations(routing: Routing) -> int:
    """Return how many permutations suffice, p being corrected over seeds and layers."""
    claims = len(routing.layers) * routing.seeds
    if routing.evidence == "documents":
        return permutations_for(claims)
    return max(PERMUTATIONS_OF_SAMPLES, PERMUTATIONS_PER_LAYER * claims - 1)


def _permuted_group(
    routing: Routing, group: LayerStack, generator: torch.Generator, permutations: int, most: int
) -> dict[str, Tensor]:
    if not group.labelled or group.units is None:
        return {}
    drawn = permute_labels(
        group.units,
        tested_metrics,
        generator=generator,
        permutations=permutations,
        prior=routing.prior,
        view=routing.view,
        most=most,
        powers=GROWTH if routing.evidence == "documents" else None,
    )
    modules = group.modules
    return {
        name: drawn[..., index].clamp_(*METRICS[name].bounds(routing.rules, modules, routing.prior))
        for index, name in enumerate(TESTED)
    }


def tested_metrics(
    joint: Float64[Tensor, "*batch rules modules"],
) -> Float64[Tensor, "*batch metrics"]:
    """Return the metrics :data:`TESTED`, in order.

    They are made of one matching and three entropies, which are found once: permutations are
    what scoring spends its time on.
    """
    parts: Entropies = entropies(joint)
    module = match(joint)[0]
    values = {
        "alignment_score": alignment_score(joint, matching=module),
        "alignment_distance": alignment_distance(joint, matching=module),
        "rule_specialization": parts.mutual_information,
    }
    return torch.stack(
        [values[name] if name in values else getattr(parts, name) for name in TESTED], dim=-1
    )
