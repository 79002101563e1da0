"""Choices that wait, and the tables they are added up in, on the device where they were made."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from modeval.errors import TraceError
from modeval.record.device_counts import Tally, add_choices, counts_of
from modeval.record.document_counts import DocumentTally, units_of
from modeval.record.frames import TokenRows
from modeval.record.routers.readers import Router
from modeval.trace.fold import LayerGroup
from modeval.trace.trace import PHASES
from modeval.types import RoutingCounts

PENDING = 1 << 22  # choices that wait, at most, before they are added up


@dataclass(frozen=True, slots=True)
class Pending:
    """Choices that are not added up yet."""

    layer: int
    rows: TokenRows
    chosen: Tensor
    weight: Tensor | None


class Counter:
    """Adds up the choices of all layers without waiting for a device.

    Attributes:
        routers: the routers of the layers, in order.
    """

    def __init__(
        self,
        routers: Sequence[Router],
        rules: int,
        blocks: int,
        write: Callable[[Sequence[Pending]], None] | None = None,
    ) -> None:
        self.routers = routers
        self._write = write
        self._rules, self._blocks = rules, blocks
        self._tallies: dict[tuple[torch.device, int, int], Tally] = {}
        self._documents: dict[tuple[torch.device, int, int], DocumentTally] = {}
        self._pending: list[Pending] = []
        self._waiting = 0
        self._mark: int | None = None
        self._spilled = self._torn = False
        self._broken: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, pending: Pending) -> None:
        """Let the choices of a call wait; add them up, and what waits with them, when too many."""
        self._pending.append(pending)
        self._waiting += pending.chosen.numel()
        if self._waiting > PENDING:
            self.flush()

    def begin(self) -> None:
        """Mark where a call of the model begins."""
        self._mark, self._spilled = len(self._pending), False

    def end(self) -> None:
        """Mark where it ends."""
        self._mark = None

    def undo(self) -> None:
        """Take back what the call that runs has counted; if that is too late, be refused later."""
        self._torn = self._torn or self._spilled
        kept = self._pending[: self._mark]
        self._pending, self._waiting = kept, sum(pending.chosen.numel() for pending in kept)

    def flush(self) -> None:
        """Add up what waits, and give it to who writes it down."""
        pending, self._pending, self._waiting = self._pending, [], 0
        if not pending:
            return
        if self._mark is not None:
            self._spilled, self._mark = self._spilled or len(pending) > self._mark, 0
        device = pending[0].chosen.device.type
        # A caller's autocast would round the products, its inference mode would taint the tables.
        with (
            torch.inference_mode(mode=False),
            torch.no_grad(),
            torch.autocast(device, enabled=False),
        ):
            for key, layers, row_sets, chosen, weight in _batches(pending, self.routers):
                tally = self._tally(*key)
                rows = [tally.layers.index(layer) for layer in layers]
                cell = torch.cat([token_rows.cell for token_rows in row_sets])
                add_choices(tally, rows, cell, chosen, weight)
                document, label = (
                    torch.cat([getattr(token_rows, name) for token_rows in row_sets])
                    for name in ("document", "label")
                )
                counted = cell < self._blocks * self._rules
                self._documents_of(*key).add(
                    rows,
                    document=document,
                    label=label,
                    counted=counted,
                    chosen=chosen,
                    weight=weight,
                )
            for entry in pending:
                self._look(entry)
        if self._write is not None:
            self._write(pending)

    def _look(self, pending: Pending) -> None:
        """Count the tokens whose weights are no numbers, and keep their first document."""
        if pending.weight is None:
            return
        rows = pending.rows
        broken = ~pending.weight.isfinite().all(-1) & (rows.cell < self._blocks * self._rules)
        last = torch.iinfo(torch.int64).max
        number, first = broken.sum(), torch.where(broken, rows.document, last).amin()
        if pending.layer in self._broken:
            before = self._broken[pending.layer]
            number, first = number + before[0], torch.minimum(first, before[1])
        self._broken[pending.layer] = number, first

    def refuse_broken(self) -> None:
        """Refuse routers whose weights are no numbers: what they chose means nothing.

        Raises:
            TraceError: names the first such layer, and the first document.
        """
        for layer, (number, first) in sorted(self._broken.items()):
            if int(number):
                document = f"document {int(first)}" if int(first) >= 0 else "an unknown document"
                raise TraceError(
                    f"Router {self.routers[layer].name} gave weights that are no numbers (NaN or "
                    f"infinite) for {int(number)} tokens, first in {document}: the model overflows "
                    "or is damaged, and what it chose means nothing. Check its weights, or run it "
                    "in float32."
                )

    def groups(self, phase: int | None = None) -> tuple[LayerGroup, ...]:
        """Return the counts, one entry for each number of modules that layers have."""
        self.refuse_broken()
        sizes = sorted({router.modules for router in self.routers})
        groups = [self._group_of(size, phase) for size in sizes]
        kept = [
            [
                tally
                for (_, modules, at), tally in self._documents.items()
                if modules == size and phase in (None, at)
            ]
            for size in sizes
        ]
        units = units_of(kept, self._rules) if all(kept) else None
        if units is None:
            return tuple(groups)
        return tuple(replace(group, units=own) for group, own in zip(groups, units, strict=True))

    def counted(self) -> list[float]:
        """Return for each layer how many rows were counted."""
        counted = [0.0] * len(self.routers)
        for tally in self._tallies.values():
            for layer, samples in zip(tally.layers, tally.samples[:, :-1].sum(-1), strict=True):
                counted[layer] += float(samples)
        return counted

    def check(self, phase: str) -> None:
        """Refuse half a call, calls of another phase than said, modules that do not exist.

        Raises:
            TraceError: names the phase, or the router and how often.
        """
        if self._torn:
            raise TraceError(
                f"A call failed after more than {PENDING} of its choices were counted, and they "
                "cannot be taken back. Record again, with smaller batches."
            )
        self.refuse_broken()
        for _, _, number in self._tallies:
            if phase not in ("mixed", PHASES[number]):
                raise TraceError(
                    f"Some calls were of phase {PHASES[number]!r}: this recording was said to be "
                    f"of phase {phase!r} alone. Drop phase=."
                )
        for tally in self._tallies.values():
            for layer, strange in zip(tally.layers, tally.strange.tolist(), strict=True):
                if strange:
                    router = self.routers[layer]
                    raise TraceError(
                        f"Router {router.name} chose {int(strange)} times a module that "
                        f"does not exist: expected 0 to {router.modules - 1}. Say "
                        "how many there are with modules=, or what its output means with routers=."
                    )

    def _tally(self, device: torch.device, modules: int, phase: int) -> Tally:
        key = (device, modules, phase)
        if key not in self._tallies:
            layers = tuple(
                layer for layer, router in enumerate(self.routers) if router.modules == modules
            )
            cells = self._blocks * self._rules
            self._tallies[key] = Tally.zeros(layers, cells, modules, device)
        return self._tallies[key]

    def _documents_of(self, device: torch.device, modules: int, phase: int) -> DocumentTally:
        key = (device, modules, phase)
        if key not in self._documents:
            width = sum(router.modules for router in self.routers)
            layers = self._tallies[key].layers
            self._documents[key] = DocumentTally.zeros(layers, modules, width, device)
        return self._documents[key]

    def _group_of(self, modules: int, phase: int | None) -> LayerGroup:
        tallies = [
            tally
            for (_, size, at), tally in self._tallies.items()
            if size == modules and phase in (None, at)
        ]
        layers = tuple(
            layer for layer, router in enumerate(self.routers) if router.modules == modules
        )
        total = RoutingCounts.zeros(
            len(layers), rules=self._rules, modules=modules, blocks=self._blocks
        )
        for tally in tallies:
            total = total + counts_of(tally, self._blocks, self._rules).to("cpu")
        return LayerGroup(layers, total)


_Key = tuple[torch.device, int, int]


def _batches(
    pending: Sequence[Pending], routers: Sequence[Router]
) -> Iterator[tuple[_Key, list[int], list[TokenRows], Tensor, Tensor | None]]:
    """Join the calls of each layer, then the layers that saw the same tokens."""
    by_layer: dict[tuple[Any, ...], list[Pending]] = {}
    for entry in pending:
        device, phase = entry.chosen.device, entry.rows.phase
        key = (device, routers[entry.layer].modules, phase)
        shape = (entry.chosen.shape[1], entry.weight is None)
        by_layer.setdefault((entry.layer, key, shape), []).append(entry)
    together: dict[tuple[Any, ...], list[tuple[int, list[Pending]]]] = {}
    for (layer, key, shape), entries in by_layer.items():
        same = (key, shape, tuple(id(entry.rows) for entry in entries))
        together.setdefault(same, []).append((layer, entries))
    for (key, _, _), members in together.items():
        row_sets = [entry.rows for entry in members[0][1]]
        chosen = torch.stack([torch.cat([e.chosen for e in entries]) for _, entries in members])
        weights = [[e.weight for e in entries if e.weight is not None] for _, entries in members]
        weight = torch.stack([torch.cat(part) for part in weights]) if weights[0] else None
        yield key, [layer for layer, _ in members], row_sets, chosen, weight
