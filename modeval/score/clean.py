"""What of a trace can be scored, and what has to be left out.

Layers differ in their number of modules, and a source may say little: counts hold NaN for what is
unknown. Here they are cleaned. Rules without samples are left out everywhere; a layer that lacks a
rule that others have is scored for its load alone; a layer in which nothing was routed, or that
has a single module, is left out. All that is missing is named, so that no gate passes on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modeval.counting.units import BY_UNIT
from modeval.errors import TraceError
from modeval.metrics.table import METRICS, STATIC_METRICS
from modeval.score.block_units import block_units
from modeval.score.measure import metrics_without_labels
from modeval.score.routing import LayerStack, Routing
from modeval.score.scorecard import LeftOut
from modeval.text import kind_of
from modeval.trace.fold import LayerGroup
from modeval.trace.trace import TraceHeader
from modeval.types import Prior, RoutingCounts, View

MOST_RULES = 2_048
"""Labels at most: with so many a score takes minutes to hours, and hardly any means a thing."""
WHOLE = 0.98
"""Share of the tokens of the fullest layer of its kind below which a layer was recorded in part."""
UNEVEN = 1.5
"""How many times as frequent as the rarest label one may be where documents are not known."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Counts of a trace of which every number is known.

    Attributes:
        routing: what can be scored, of one seed.
        rules: numbers of the rules that have samples.
        left_out: what is missing.
        notes: the same in words, and what was assumed.
        copies: documents that are copies of others.
    """

    routing: Routing
    rules: tuple[int, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    copies: int = 0


@dataclass(frozen=True, slots=True)
class _Report:
    """What was left out so far."""

    left_out: list[LeftOut]
    notes: list[str]


def clean(
    header: TraceHeader,
    groups: Sequence[LayerGroup],
    *,
    view: View,
    prior: Prior,
    only: Sequence[int],
) -> Cleaned:
    """Leave out what is unknown, and say so.

    Args:
        header: what the trace says of itself.
        groups: its counts, layers as the batch axis.
        view: what counts as routing.
        prior: weight of the rules.
        only: numbers of the layers that are wanted.

    Raises:
        TraceError: nothing is left.
    """
    report = _Report(
        [
            LeftOut(kind="layer", name=name, why="It was not asked for.", wanted=True)
            for layer, name in enumerate(header.layers)
            if layer not in only
        ],
        [],
    )
    partial = _partial(groups, header, only)
    report.left_out.extend(partial)
    report.notes.extend(f"Layer {gap.layer} was recorded in part: {gap.why}" for gap in partial)
    kept = [_known(_of_layers(group, only), header, view, report) for group in groups]
    kept = [group for group in kept if group.layers]
    rules = _rules(kept, header, report)
    sorted_out = [part for group in kept for part in _by_rules(group, rules, header, view, report)]
    if not sorted_out:
        doubts = [f"Warning, {each.kind}: {each.text}" for each in header.warnings]
        reasons = " ".join([*doubts, *report.notes]) or "nothing was counted."
        raise TraceError(
            f"No layer can be scored: {reasons} Record or import more, or other layers."
        )
    known = [_with_units(_by_document(group)) for group in _filled_blocks(sorted_out)]
    copies = max(0 if group.units is None else group.units.repeated for group in known)
    if copies:
        report.notes.append(f"{copies} documents are copies of others, and count as one with them.")
    grouped = max(0 if group.units is None else group.units.grouped for group in known)
    if grouped:
        report.notes.append(
            f"{grouped:,} documents are counted in groups, more than memory holds apart: copies "
            "among them are not recognised, and count as often as they are there."
        )
    documents = all(group.units is not None for group in known)
    routing = Routing(
        groups=tuple(known),
        rules=len(rules),
        prior=prior,
        view=view,
        evidence="documents" if documents else "sums",
        metrics=_metrics(sorted_out, rules, view, report),
    )
    notes = tuple(dict.fromkeys(report.notes))
    return Cleaned(routing, rules, tuple(report.left_out), notes, copies)


def default_view(header: TraceHeader) -> View:
    """Return ``weight`` where the weights of a trace are shares, else ``assignment``."""
    return "weight" if header.shares else "assignment"


def _metrics(
    groups: Sequence[LayerStack], rules: Sequence[int], view: View, report: _Report
) -> tuple[str, ...]:
    names = metrics_without_labels(STATIC_METRICS) if len(rules) == 1 else STATIC_METRICS
    spread = "entropy" if view == "weight" else "selection_entropy"
    if not any(bool(getattr(group.counts, spread).isnan().any()) for group in groups):
        return names
    unknown = [name for name in names if METRICS[name].needs == "counts"]
    why = "how decided single samples were routed is unknown."
    report.left_out.extend(LeftOut(kind="metric", name=name, why=why) for name in unknown)
    report.notes.append(f"{' and '.join(unknown[::-1])} are left out: {why}")
    return tuple(name for name in names if name not in unknown)


def _of_layers(group: LayerGroup, only: Sequence[int]) -> LayerGroup:
    return _pick(group, [index for index, layer in enumerate(group.layers) if layer in only])


def _pick(group: LayerGroup, places: Sequence[int]) -> LayerGroup:
    index = torch.tensor(places, dtype=torch.int64)
    parts = {name: part[index] for name, part in group.counts.tensors().items()}
    units = None if group.units is None else group.units.layers(places)
    layers = tuple(group.layers[position] for position in places)
    return LayerGroup(layers, RoutingCounts(**parts), units)


def _partial(
    groups: Sequence[LayerGroup], header: TraceHeader, only: Sequence[int]
) -> list[LeftOut]:
    """Name layers that hold fewer tokens than others of their kind: they were recorded in part.

    Not where tokens that found no room are not counted, which leaves some layers fewer.
    """
    sizes: dict[str, dict[str, Tensor]] = {}
    for group in groups:
        for place, layer in enumerate(group.layers):
            name = header.layers[layer]
            count = group.counts.samples[place].sum(0)  # (R,); NaN where it is unknown
            if layer in only and float(count.sum()) > 0:
                sizes.setdefault(kind_of(name), {})[name] = count
    if header.capacity == "after":
        return []
    found = []
    for own in sizes.values():
        most = torch.stack([*own.values()]).amax(0)
        for name, count in own.items():
            there = float(most[count > 0].sum())  # rules that are not there are named elsewhere
            if float(count.sum()) < WHOLE * there:
                why = f"it holds {float(count.sum()):,.0f} tokens where others hold {there:,.0f}."
                found.append(LeftOut(kind="rest", layer=name, why=why))
    return found


def _known(group: LayerGroup, header: TraceHeader, view: View, report: _Report) -> LayerGroup:
    """Return counts in which cells that were never counted are 0, and samples are known."""
    counts = group.counts
    seen = ~(counts.selections.isnan().any(-1) & counts.mass.isnan().any(-1))
    if bool((_table(counts, view).isnan().any(-1) & seen).any()):
        other = "assignment" if view == "weight" else "weight"
        raise TraceError(
            f"--view {view}: {'weights' if view == 'weight' else 'choices'} are unknown in this "
            f"trace. Use --view {other}."
        )
    samples = counts.samples
    if bool((samples.isnan() & seen).any()):
        report.notes.append(
            "Numbers of samples are unknown: each choice of a module counts as one."
        )
        samples = torch.where(seen, _table(counts, view).sum(-1), 0.0)
    known = replace(
        counts,
        mass=torch.where(seen.unsqueeze(-1), counts.mass, 0.0),
        selections=torch.where(seen.unsqueeze(-1), counts.selections, 0.0),
        samples=torch.where(seen, samples, 0.0),
        entropy=torch.where(seen, counts.entropy, 0.0),
        selection_entropy=torch.where(seen, counts.selection_entropy, 0.0),
    )
    single = [index for index, layer in enumerate(group.layers) if header.modules[layer] == 1]
    if single:
        names = [header.layers[group.layers[index]] for index in single]
        why = "a single module routes nothing."
        report.left_out.extend(LeftOut(kind="layer", name=name, why=why) for name in names)
        report.notes.append(f"{_names('Layer', names)} left out: {why}")
    many = [index for index in range(len(group.layers)) if index not in single]
    return _pick(LayerGroup(group.layers, known, group.units), many)


def _rules(groups: Sequence[LayerGroup], header: TraceHeader, report: _Report) -> tuple[int, ...]:
    """Return the rules that have samples in some layer."""
    if not groups:
        return ()
    present = torch.cat([group.counts.samples for group in groups]).sum((0, 1)) > 0
    rules = tuple(int(rule) for rule in present.nonzero()[:, 0])
    if len(rules) > MOST_RULES:
        raise TraceError(
            f"The trace has {len(rules):,} labels ({header.labels[rules[0]]!a}, ...), and "
            f"{MOST_RULES:,} are the most that are scored: all are permuted a thousand times. "
            "Take coarser ones: modeval import FILE --columns label=COLUMN, or "
            "modeval record MODEL --data FILE --label FIELD."
        )
    missing = [name for rule, name in enumerate(header.labels) if rule not in rules]
    if missing:
        why = "no samples."
        report.left_out.extend(LeftOut(kind="rule", name=name, why=why) for name in missing)
        report.notes.append(f"{_names('Rule', missing)} left out: {why}")
    return rules


def _table(counts: RoutingCounts, view: View) -> Tensor:
    return counts.mass if view == "weight" else counts.selections


def _by_rules(
    group: LayerGroup, rules: tuple[int, ...], header: TraceHeader, view: View, report: _Report
) -> list[LayerStack]:
    """Put layers together that have samples, and routed ones, of the same rules."""
    counts = _of_rules(group.counts, rules)
    there = (counts.samples.sum(-2) > 0) & (_table(counts, view).sum((-3, -1)) > 0)
    alike: dict[tuple[int, ...], list[int]] = {}
    for index in range(len(group.layers)):
        alike.setdefault(tuple(there[index].nonzero()[:, 0].tolist()), []).append(index)
    return [
        made
        for present, places in alike.items()
        if (made := _of_some(group, counts, rules, present, places, header, report)) is not None
    ]


def _of_some(  # noqa: PLR0917 - a step of _by_rules, cut out to fit a glance
    group: LayerGroup,
    counts: RoutingCounts,
    rules: tuple[int, ...],
    present: tuple[int, ...],
    places: list[int],
    header: TraceHeader,
    report: _Report,
) -> LayerStack | None:
    """Return layers that know the same rules; what they lack is named."""
    layers = tuple(group.layers[index] for index in places)
    names = [header.layers[layer] for layer in layers]
    missing = [rules[index] for index in range(len(rules)) if index not in present]
    if missing:
        lacking = [header.labels[rule] for rule in missing] if header.labels else []
        _name_missing(names, lacking, report, nothing=not present)
    if not present:
        return None
    units = None if group.units is None else group.units.of_rules(rules)
    picked = _pick(LayerGroup(group.layers, counts, units), places)
    return _one_seed(picked, header, present if missing else None)


def _one_seed(
    group: LayerGroup, header: TraceHeader, present: tuple[int, ...] | None
) -> LayerStack:
    """Return layers as those of one seed, with the rules that are present alone."""
    counts, units = group.counts, group.units
    if present is not None:
        counts = _of_rules(counts, present)
        units = None if units is None else units.of_rules(present)
    seeds = {name: part.unsqueeze(0) for name, part in counts.tensors().items()}
    if units is not None:
        units = replace(units, **{name: getattr(units, name).unsqueeze(0) for name in BY_UNIT})
    return LayerStack(
        layers=group.layers,
        counts=RoutingCounts(**seeds),
        choices=tuple(header.choices[layer] for layer in group.layers),
        units=units,
        labelled=present is None,
    )


def _with_units(group: LayerStack) -> LayerStack:
    """Take replicate blocks for documents where documents were not kept, if that is fair.

    Version 0.1 kept the sums of documents that were hashed to blocks. Labels may be exchanged
    between such sums only where each label has about as many documents in each. Simulated, the
    tests then reject in 0 to 3 % at 5 % where labels are alike in number, in up to 13 % at 7:1:1:1
    and in up to 53 % where they are more unequal, or more than modules: so only the first is fair.
    """
    if group.units is not None:
        return group
    size = group.counts.samples.sum((0, 1, 2))
    fair = len(size) <= group.modules and float(size.max()) < UNEVEN * float(size.min())
    return replace(group, units=block_units(group.counts)) if fair else group


def _by_document(group: LayerStack) -> LayerStack:
    """Add up the documents anew, where they are known: copies once, and in an order of contents.

    So the same documents give the same bits, whatever shards or files they came in.
    """
    if group.units is None:
        return group
    known = group.counts.pooled()
    once = group.units.counts(known.coactivation).tensors()
    told = {name: part for name, part in once.items() if not bool(part.isnan().any())}
    return replace(group, counts=replace(known, **told))


def _name_missing(
    layers: Sequence[str], rules: Sequence[str], report: _Report, *, nothing: bool
) -> None:
    for layer in layers:
        if nothing:
            why = "nothing was routed there."
            report.left_out.append(LeftOut(kind="layer", name=layer, why=why))
            report.notes.append(f"Layer {layer} left out: {why}")
            continue
        why = "nothing of it was routed there."
        report.left_out.extend(
            LeftOut(kind="rule", name=rule, why=why, layer=layer) for rule in rules
        )
        report.notes.append(
            f"Layer {layer} is scored for its load alone: nothing of {_names('rule', rules)} was "
            "routed there."
        )


def _of_rules(counts: RoutingCounts, rules: Sequence[int]) -> RoutingCounts:
    index = torch.tensor(rules, dtype=torch.int64)
    axis = {"mass": -2, "selections": -2}
    return RoutingCounts(
        **{
            name: part if name == "coactivation" else part.index_select(axis.get(name, -1), index)
            for name, part in counts.tensors().items()
        }
    )


def _filled_blocks(groups: Sequence[LayerStack]) -> list[LayerStack]:
    """Drop replicate blocks without documents: they say nothing of how documents vary."""
    samples = sum(group.counts.samples.sum((0, 1, 3)) for group in groups)
    filled = (torch.as_tensor(samples) > 0).nonzero()[:, 0]
    axis = {"mass": -3, "selections": -3}
    return [
        replace(
            group,
            counts=RoutingCounts(
                **{
                    name: part
                    if name == "coactivation"
                    else part.index_select(axis.get(name, -2), filled)
                    for name, part in group.counts.tensors().items()
                }
            ),
        )
        for group in groups
    ]


def _names(what: str, names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}{'s' * (len(names) > 1)} {shown}{more}"
