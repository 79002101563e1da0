"""Layers of a trace: what its counts can tell of each, how surely, and what chance would give.

Layers differ in their number of modules, and a source may say little: counts hold NaN for what is
unknown. Here they are cleaned, layers and rules that nothing can be said of are named and left
out, and every metric that is left is measured, resampled and held against permuted labels, all
layers together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.errors import TraceError
from modeval.metrics import METRICS, STATIC_METRICS, match, measure
from modeval.metrics.alignment import alignment_distance, alignment_score
from modeval.metrics.information import Entropies, entropy
from modeval.score.inference.resampling import (
    DRAWS,
    Documents,
    block_weights,
    permuted_labels,
    relabel_cells,
    resample_blocks,
)
from modeval.trace.fold import LayerGroup
from modeval.trace.trace import TraceHeader
from modeval.types import Prior, RoutingCounts, View

SHIFTED_DRAWS = 200  # of adaptation, whose sorting costs more than all other metrics together
PERMUTATIONS = 999
PERMUTED_CELLS = 512  # (block, rule) cells beyond which more would cost time and tell nothing new
PERMUTATIONS_PER_LAYER = 25  # so that corrected over L layers p can still fall to 1/25

TESTED = (
    "mutual_information",
    "inverse_mutual_information",
    "rule_specialization",
    "homogeneity",
    "completeness",
    "v_measure",
    "alignment_score",
    "alignment_distance",
)
"""Metrics that are held against permuted labels."""
SHIFTED = ("adaptation_distance", "matched_adaptation_distance")
OF_SINGLE_SAMPLES = ("input_distraction", "softness")
WITHOUT_LABELS = (
    *(name for name in STATIC_METRICS if METRICS[name].usage_only),
    "imbalance",
    "softness",
)
"""Metrics that need no rules: load, and how decided single samples are routed."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Counts of which every number is known.

    Attributes:
        groups: layers that can be scored, those with the same number of modules together.
        rules: numbers of the rules that have samples.
        view: what counts as routing.
        names: metrics that the counts can give.
        notes: what was left out, and why.
    """

    groups: tuple[LayerGroup, ...]
    rules: tuple[int, ...]
    view: View
    names: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the numbers of the layers, in the order of :class:`Measured`."""
        return tuple(layer for group in self.groups for layer in group.layers)

    @property
    def samples(self) -> Float64[Tensor, "layers blocks rules"]:
        """Return the samples of each layer, block and rule."""
        return torch.cat([group.counts.samples for group in self.groups])


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric of all layers.

    Attributes:
        value: ``(L,)``.
        draws: ``(D, L)`` of resamples of the blocks; nothing where there is one block.
        null: ``(P, L)`` when labels are permuted, rules weighted as in ``value``.
        test: ``(P, L)`` likewise, rules weighted by their samples: what the p value is from.
        tested: ``(L,)`` the metric with rules weighted by their samples.
    """

    value: Float64[Tensor, "layers"]
    draws: Float64[Tensor, "draws layers"] | None = None
    null: Float64[Tensor, "permutations layers"] | None = None
    test: Float64[Tensor, "permutations layers"] | None = None
    tested: Float64[Tensor, "layers"] | None = None


# --- cleaning ------------------------------------------------------------------------------------


def clean(
    header: TraceHeader, groups: Sequence[LayerGroup], *, view: View, only: Sequence[int]
) -> Cleaned:
    """Leave out what is unknown, and say so.

    Args:
        header: what the trace says of itself.
        groups: its counts.
        view: what counts as routing.
        only: numbers of the layers that are wanted.

    Raises:
        TraceError: nothing is left.
    """
    notes: list[str] = []
    kept = [_known(_of_layers(group, only), header, view, notes) for group in groups]
    kept = [group for group in kept if group.layers]
    rules = _rules(kept, header, notes)
    kept = [_whole(group, rules, header, view, notes) for group in kept if rules]
    kept = [group for group in kept if group.layers]
    if not kept:
        reasons = " ".join(notes) or "nothing was counted."
        raise TraceError(
            f"No layer can be scored: {reasons} Record or import more, or other layers."
        )
    kept = _filled_blocks(kept)
    names = WITHOUT_LABELS if len(rules) == 1 else STATIC_METRICS
    spread = "entropy" if view == "weight" else "selection_entropy"
    if any(bool(getattr(group.counts, spread).isnan().any()) for group in kept):
        names = tuple(name for name in names if name not in OF_SINGLE_SAMPLES)
        notes.append(
            "softness and input_distraction are left out: how decided single samples were routed "
            "is unknown."
        )
    return Cleaned(tuple(kept), rules, view, names, tuple(dict.fromkeys(notes)))


def default_view(header: TraceHeader) -> View:
    """Return ``weight`` where the weights of a trace are shares, else ``assignment``."""
    shares = header.weight_scale in ("probability", "renormalised")
    return "weight" if shares else "assignment"


def _of_layers(group: LayerGroup, only: Sequence[int]) -> LayerGroup:
    return _pick(group, [place for place, layer in enumerate(group.layers) if layer in only])


def _pick(group: LayerGroup, places: Sequence[int]) -> LayerGroup:
    index = torch.tensor(places, dtype=torch.int64)
    parts = {name: part[index] for name, part in group.counts.tensors().items()}
    return LayerGroup(tuple(group.layers[place] for place in places), RoutingCounts(**parts))


def _known(group: LayerGroup, header: TraceHeader, view: View, notes: list[str]) -> LayerGroup:
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
        notes.append("Numbers of samples are unknown: each choice of a module counts as one.")
        samples = torch.where(seen, _table(counts, view).sum(-1), 0.0)
    known = replace(
        counts,
        mass=torch.where(seen.unsqueeze(-1), counts.mass, 0.0),
        selections=torch.where(seen.unsqueeze(-1), counts.selections, 0.0),
        samples=torch.where(seen, samples, 0.0),
        entropy=torch.where(seen, counts.entropy, 0.0),
        selection_entropy=torch.where(seen, counts.selection_entropy, 0.0),
    )
    single = [place for place, layer in enumerate(group.layers) if header.modules[layer] == 1]
    if single:
        notes.append(
            f"{_layers(header, [group.layers[place] for place in single])} left out: a single "
            "module routes nothing."
        )
    many = [place for place in range(len(group.layers)) if place not in single]
    return _pick(LayerGroup(group.layers, known), many)


def _rules(groups: Sequence[LayerGroup], header: TraceHeader, notes: list[str]) -> tuple[int, ...]:
    """Return the rules that have samples in some layer."""
    if not groups:
        return ()
    present = torch.cat([group.counts.samples for group in groups]).sum((0, 1)) > 0
    rules = tuple(int(rule) for rule in present.nonzero()[:, 0])
    missing = [name for rule, name in enumerate(header.labels) if rule not in rules]
    if missing:
        notes.append(f"{_names('Rule', missing)} left out: no samples.")
    return rules


def _table(counts: RoutingCounts, view: View) -> Tensor:
    return counts.mass if view == "weight" else counts.selections


def _whole(
    group: LayerGroup, rules: tuple[int, ...], header: TraceHeader, view: View, notes: list[str]
) -> LayerGroup:
    """Keep the layers in which each rule has samples that were routed."""
    index = torch.tensor(rules, dtype=torch.int64)
    counts = group.counts
    parts = {
        name: part if name == "coactivation" else part.index_select(2, index)
        for name, part in counts.tensors().items()
    }
    group = LayerGroup(group.layers, RoutingCounts(**parts))
    routed = _table(group.counts, view).sum(-1).sum(-2)
    empty = ~((group.counts.samples.sum(-2) > 0) & (routed > 0))
    for place, layer in enumerate(group.layers):
        if bool(empty[place].any()):
            labels = [header.labels[rules[int(r)]] for r in empty[place].nonzero()[:, 0]]
            what = f"nothing of {_names('rule', labels)}" if header.labels else "nothing"
            notes.append(f"Layer {header.layers[layer]} left out: {what} was routed there.")
    return _pick(group, [place for place in range(len(group.layers)) if not empty[place].any()])


def _filled_blocks(groups: Sequence[LayerGroup]) -> list[LayerGroup]:
    """Drop replicate blocks without documents: they say nothing of how documents vary."""
    samples = torch.cat([group.counts.samples for group in groups])
    filled = (samples.sum((0, 2)) > 0).nonzero()[:, 0]
    return [
        LayerGroup(
            group.layers,
            RoutingCounts(
                **{
                    name: part if name == "coactivation" else part.index_select(1, filled)
                    for name, part in group.counts.tensors().items()
                }
            ),
        )
        for group in groups
    ]


def _layers(header: TraceHeader, layers: Sequence[int]) -> str:
    return _names("Layer", [header.layers[layer] for layer in layers])


def _names(what: str, names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}{'s' * (len(names) > 1)} {shown}{more}"


# --- measuring -----------------------------------------------------------------------------------


def measure_layers(
    cleaned: Cleaned,
    *,
    prior: Prior,
    documents: Documents,
    generator: torch.Generator,
    draws: int = DRAWS,
    permutations: int | None = None,
) -> tuple[dict[str, Measured], tuple[str, ...]]:
    """Measure every metric of all layers, resample the blocks, permute the labels.

    Args:
        cleaned: counts of which all is known.
        prior: weight of the rules.
        documents: ``labelled`` when a document has one rule, ``mixed`` when rules change within.
        generator: draws resamples and permutations, the same for all layers.
        draws: number of resamples.
        permutations: number of permutations; when absent 999, and more for many layers.

    Returns:
        The metrics by name, and what could not be computed.
    """
    groups, view = cleaned.groups, cleaned.view
    notes: list[str] = []
    found = {
        name: Measured(value)
        for name, value in _joined(
            measure(group.counts, cleaned.names, prior=prior, view=view) for group in groups
        ).items()
    }
    for name, values in _resampled(cleaned, prior, generator, draws, notes).items():
        found[name] = replace(found[name], draws=values)
    if len(cleaned.rules) > 1:
        count = permutations or max(PERMUTATIONS, PERMUTATIONS_PER_LAYER * len(cleaned.layers) - 1)
        _permute(found, cleaned, prior, documents, generator, count, notes)
    return found, tuple(notes)


def _resampled(
    cleaned: Cleaned, prior: Prior, generator: torch.Generator, draws: int, notes: list[str]
) -> dict[str, Tensor]:
    """Return metrics ``(D, L)`` of resamples; none where they cannot be drawn."""
    samples = cleaned.samples
    if samples.shape[1] < 2:  # noqa: PLR2004 - one block has no spread
        notes.append(
            "No intervals: all tokens are of one document, or nothing says of which they are."
        )
        return {}
    try:
        weight = block_weights(samples, draws, generator)
    except TraceError as error:
        notes.append(f"No intervals: {error}")
        return {}
    shifted = tuple(name for name in cleaned.names if name in SHIFTED)
    others = tuple(name for name in cleaned.names if name not in shifted)

    def resample(names: tuple[str, ...], weight: Tensor) -> dict[str, Tensor]:
        return _joined(
            resample_blocks(
                group.counts,
                lambda counts: measure(counts, names, prior=prior, view=cleaned.view),
                weight,
                view=cleaned.view,
            )
            for group in cleaned.groups
        )

    found = resample(others, weight)
    return found | (resample(shifted, weight[:SHIFTED_DRAWS]) if shifted else {})


def _permute(  # noqa: PLR0917 - one step of measure_layers, cut out to fit a glance
    found: dict[str, Measured],
    cleaned: Cleaned,
    prior: Prior,
    documents: Documents,
    generator: torch.Generator,
    permutations: int,
    notes: list[str],
) -> None:
    """Add what permuted labels give, to the metrics that tell of labels."""
    cleaned = _coarser(cleaned)
    try:
        label = permuted_labels(cleaned.samples, permutations, documents, generator)
    except TraceError:
        notes.append(
            "No test against permuted labels: too little is known of documents to permute their "
            "labels. Score more of them, or a source that tells them apart."
        )
        return

    def both(table: Tensor, share: Tensor) -> Tensor:
        test = told(table, share)
        uniform = torch.full_like(share, 1 / share.shape[-2])
        return torch.stack([test, test if prior == "empirical" else told(table, uniform)], -1)

    drawn = torch.cat(
        [relabel_cells(group.counts, both, label, view=cleaned.view) for group in cleaned.groups],
        dim=1,
    )
    test, null = drawn.unbind(-1)
    observed = torch.cat(
        [
            told(
                group.counts.conditional(view=cleaned.view),
                group.counts.prior("empirical").unsqueeze(-1),
            )
            for group in cleaned.groups
        ]
    )
    if not bool(torch.isfinite(null).all() & torch.isfinite(test).all()):
        notes.append(
            "No test against permuted labels: a rule has too few documents in some layer. Score "
            "more of them."
        )
        return
    for place, name in enumerate(TESTED):
        found[name] = replace(
            found[name],
            null=null[..., place],
            test=test[..., place],
            tested=observed[..., place],
        )


def _coarser(cleaned: Cleaned) -> Cleaned:
    """Pool neighbouring blocks until (block, rule) cells are few enough to permute quickly."""
    blocks, rules = cleaned.samples.shape[1:]
    together = -(-blocks * rules // PERMUTED_CELLS)
    if together == 1:
        return cleaned
    number = torch.arange(blocks) // together

    def pooled(part: Tensor) -> Tensor:
        shape = (part.shape[0], int(number[-1]) + 1, *part.shape[2:])
        return part.new_zeros(shape).index_add_(1, number, part)

    groups = tuple(
        LayerGroup(
            group.layers,
            RoutingCounts(
                **{
                    name: part if name == "coactivation" else pooled(part)
                    for name, part in group.counts.tensors().items()
                }
            ),
        )
        for group in cleaned.groups
    )
    return replace(cleaned, groups=groups)


def told(
    table: Float64[Tensor, "*batch rules modules"], weight: Float64[Tensor, "*batch rules one"]
) -> Float64[Tensor, "*batch metrics"]:
    """Return the metrics :data:`TESTED`, in order, from A and the weights of the rules."""
    joint = table * weight
    rule = entropy(weight.squeeze(-1))
    parts = Entropies(
        rule=rule,
        module=entropy(joint.sum(-2)),
        both=rule + (entropy(table) * weight.squeeze(-1)).sum(-1),
    )
    module = match(torch.nan_to_num(joint))[0]
    values = {
        "alignment_score": alignment_score(joint, matching=module),
        "alignment_distance": alignment_distance(joint, matching=module),
        "rule_specialization": parts.mutual_information,
    }
    return torch.stack(
        [values[name] if name in values else getattr(parts, name) for name in TESTED], dim=-1
    )


def _joined(groups: Iterator[dict[str, Tensor]] | Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Put the layers of all groups, the last axis, into one."""
    found = list(groups)
    return {name: torch.cat([part[name] for part in found], dim=-1) for name in found[0]}
