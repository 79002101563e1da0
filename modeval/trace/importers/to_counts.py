"""From counts of engines to routing counts, with NaN for all that they do not say."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modeval.counting.units import Units, unique_units
from modeval.errors import TraceError
from modeval.text import natural
from modeval.trace.fold import BLOCKS, LayerGroup, document_block
from modeval.trace.importers.format import Counts, Format, Options, layer_name
from modeval.trace.trace import Source, TraceHeader, check_guess, check_size
from modeval.types import RoutingCounts

FROM_ONE = (
    "Module 0 is chosen nowhere. If modules are numbered from 1 in the files, take 1 from each "
    "number: else module 0 counts as dead."
)
PARTS = ("mass", "selections", "samples", "entropy", "selection_entropy")


def tally(
    all_counts: Sequence[Counts],
    labels: Sequence[str | None],
    options: Options,
    file_format: Format,
    notes: tuple[str, ...],
) -> tuple[TraceHeader, tuple[LayerGroup, ...]]:
    """Return the header and the counts of all pieces; layers share one number of modules.

    Unlabelled pieces count as the one rule of a source without labels. Where a layer was not
    counted for a label at all, its cells are NaN.

    Raises:
        TraceError: nothing was counted, some pieces have labels and others not, or modules or
            choices contradict what the user says.
    """
    if not all_counts:
        raise TraceError("There are no counts in the files.")
    if None in labels and len(set(labels)) > 1:
        raise TraceError("Some counts have labels and others have none. Name them with --labels.")
    modules, notes = _modules(all_counts, options, file_format, notes)
    choices = {piece.choices for piece in all_counts}
    known = choices.pop() if len(choices) == 1 else None
    if known is None:
        notes += (
            (
                "How many modules a token chooses is unknown, so samples, weights and entropies "
                "are unknown (NaN). Say it with --choices K."
            ),
        )
    elif not 1 <= known <= modules:
        raise TraceError(f"--choices {known}: expected 1 to {modules}, the number of modules.")
    names = sorted({_name(piece) for piece in all_counts}, key=natural)
    rules = tuple(sorted({label for label in labels if label is not None}))
    header = TraceHeader(
        layers=tuple(names),
        modules=(modules,) * len(names),
        choices=(known or 0,) * len(names),
        labels=rules,
        source=Source(file_format.engine, options.model, file_format.name),
        weight_scale=file_format.weight_scale or "none",
        phase=file_format.phase if file_format.phase != "mixed" else "unknown",
        capacity=file_format.capacity,
        padding=file_format.padding,
        notes=tuple(dict.fromkeys(notes)),
    )
    counts = _sum(all_counts, labels, header, known)
    units = _units(all_counts, labels, header, known)
    return header, (LayerGroup(tuple(range(len(names))), counts, units),)


def _modules(
    counts: Sequence[Counts], options: Options, file_format: Format, notes: tuple[str, ...]
) -> tuple[int, tuple[str, ...]]:
    sizes = {len(piece.selections) for piece in counts}
    if options.modules is not None:
        if max(sizes) > options.modules:
            raise TraceError(
                f"Module {max(sizes) - 1} was counted: --modules {options.modules} allows 0 to "
                f"{options.modules - 1}."
            )
        return options.modules, notes
    if (file_format.sized or all(piece.sized for piece in counts)) and len(sizes) == 1:
        return max(sizes), notes
    check_guess(max(sizes), "counted")
    said = f"The number of modules, {max(sizes)}, was taken from the largest that was counted; "
    notes = (*notes, said + "say it with --modules N if there are more.")
    from_one = max(sizes) > 1 and not any(piece.selections[:1].any() for piece in counts)
    return max(*sizes, 1), (*notes, FROM_ONE) if from_one else notes


def _sum(
    counts: Sequence[Counts], labels: Sequence[str | None], header: TraceHeader, choices: int | None
) -> RoutingCounts:
    layers, rules, modules = len(header.layers), max(len(header.labels), 1), header.modules[0]
    blocks = BLOCKS if any(piece.document >= 0 for piece in counts) else 1
    check_size(header, blocks * rules)
    zeros = RoutingCounts.zeros(layers, rules=rules, modules=modules, blocks=blocks).tensors()
    seen = torch.zeros(layers, rules, dtype=torch.bool)
    for piece, label in zip(counts, labels, strict=True):
        layer = header.layers.index(_name(piece))
        rule = 0 if label is None else header.labels.index(label)
        block = int(document_block(torch.tensor([piece.document]), blocks))
        seen[layer, rule] = True
        for name, value in _parts(piece, choices, modules).items():
            zeros[name][layer, block, rule] += value
    for name in PARTS:
        zeros[name].transpose(1, 2)[~seen] = torch.nan
    return RoutingCounts(**zeros | {"coactivation": _coactivation(zeros["selections"], choices)})


def _units(
    counts: Sequence[Counts], labels: Sequence[str | None], header: TraceHeader, choices: int | None
) -> Units | None:
    """Return the replicates of each label; nothing where a piece is of none, or sums are unknown.

    Replicates are numbered within a file, and a file has one label, so both together are a unit.
    """
    if choices is None or any(piece.document < 0 for piece in counts):
        return None
    rules = [0 if label is None else header.labels.index(label) for label in labels]
    owner = [(rule, piece.document) for rule, piece in zip(rules, counts, strict=True)]
    pairs = sorted(set(owner))
    place = {pair: number for number, pair in enumerate(pairs)}
    zeros = RoutingCounts.zeros(
        len(header.layers), rules=1, modules=header.modules[0], blocks=len(pairs)
    ).tensors()
    for piece, pair in zip(counts, owner, strict=True):
        layer = header.layers.index(_name(piece))
        for name, value in _parts(piece, choices, header.modules[0]).items():
            zeros[name][layer, place[pair], 0] += value
    own = torch.arange(len(pairs))
    tables: dict[str, Any] = {name: zeros[name].squeeze(2) for name in PARTS}
    size = torch.arange(1, 1 + header.modules[0], dtype=torch.float64)
    content = (tables["selections"].nan_to_num() @ size).sum(0).long()
    return unique_units(
        Units(
            **tables,
            label=torch.tensor([rule for rule, _ in pairs]),
            cluster=own,
            stratum=torch.zeros_like(own),
            documents=torch.ones_like(own),
            copies=torch.ones_like(own),
            key=-1 - content,  # sums tell too little to know copies by
            rules=max(len(header.labels), 1),
        )
    )


def _parts(piece: Counts, choices: int | None, modules: int) -> dict[str, Tensor]:
    selections = _padded(torch.as_tensor(piece.selections, dtype=torch.float64), modules)
    unknown = torch.tensor(torch.nan, dtype=torch.float64)
    samples = unknown
    if piece.samples is not None:
        samples = torch.tensor(piece.samples, dtype=torch.float64)
    elif choices is not None:
        samples = selections.sum() / choices
    spread = unknown
    if choices is not None:
        spread = samples * torch.tensor(choices, dtype=torch.float64).log()
    if piece.mass is not None:
        mass = _padded(torch.as_tensor(piece.mass, dtype=torch.float64), modules)
        entropy = unknown
    else:
        mass = unknown.expand(modules) if choices is None else selections / choices
        entropy = spread
    return {
        "mass": mass,
        "selections": selections,
        "samples": samples,
        "entropy": entropy,
        "selection_entropy": spread,
    }


def _coactivation(selections: Tensor, choices: int | None) -> Tensor:
    """Return each module's own choices; of pairs nothing is known, unless a token has only one."""
    own = selections.sum((1, 2))
    pairs = own.new_full((*own.shape, own.shape[-1]), 0.0 if choices == 1 else torch.nan)
    pairs.diagonal(dim1=-2, dim2=-1).copy_(own)
    return pairs


def _padded(row: Tensor, modules: int) -> Tensor:
    return torch.nn.functional.pad(row, (0, modules - len(row)))


def _name(piece: Counts) -> str:
    return piece.layer if isinstance(piece.layer, str) else layer_name(piece.layer)
