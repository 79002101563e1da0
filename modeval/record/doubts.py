"""What makes a live recording doubtful: rows that no routing of text gives, experts that are one.

Rows are looked at as they are written, or where the model runs on a CPU; on other devices that
would wait for them, and only counts and parameters are looked at. Layers are compared with those
of their kind: an encoder sees other tokens than a decoder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from modeval.record.counter import Pending
from modeval.record.device_counts import normalise
from modeval.record.routers.readers import Router
from modeval.text import kind_of
from modeval.trace.fold import LayerGroup
from modeval.trace.suspicions import RowWatch, too_equal, uneven_layers
from modeval.trace.trace import Warned

LOOKED_AT = 1 << 18  # rows of a layer that are looked at, its first ones
LEAVING_OUT = " Leave them out with "  # advice for imports: a live recording is made again


@dataclass(slots=True)
class Doubts:
    """Looks at choices as they pass.

    Attributes:
        routers: the routers of the layers, in order.
        watches: what was seen of the layers of each kind.
    """

    routers: Sequence[Router]
    watches: dict[str, RowWatch] = field(default_factory=dict)

    def look(self, pending: Sequence[Pending]) -> None:
        """Look at the choices of some calls; those of padding and of soft routing are none."""
        for entry in pending:
            router = self.routers[entry.layer]
            watch = self.watches.setdefault(kind_of(router.name), RowWatch())
            seen = watch.layers.get(router.name)
            soft = entry.chosen.shape[1] == router.modules > 1
            if soft or (seen is not None and seen.rows > LOOKED_AT):
                continue
            chosen, weight = normalise(entry.chosen, entry.weight)
            kept = slice(None) if entry.rows.keep is None else entry.rows.keep.cpu().numpy()
            shares = None if weight is None else _comparable(entry, weight).cpu().numpy()[kept]
            watch.add(router.name, chosen.cpu().numpy()[kept], shares)

    def warnings(
        self, groups: Sequence[LayerGroup], choices: Sequence[int | None]
    ) -> tuple[Warned, ...]:
        """Return what is doubtful in what was looked at, in the counts, and in the experts."""
        found = [
            Warned(warned.kind, warned.text.partition(LEAVING_OUT)[0])
            for watch in self.watches.values()
            for warned in watch.warnings()[0]
        ]
        told = {warned.kind for warned in found}
        found += [each for each in self._of_counts(groups, choices) if each.kind not in told]
        found += equal_experts(self.routers)
        return tuple(dict.fromkeys(found))

    def _of_counts(
        self, groups: Sequence[LayerGroup], choices: Sequence[int | None]
    ) -> Iterator[Warned]:
        counts: dict[str, dict[str, np.ndarray]] = {}
        sizes: dict[str, dict[str, float]] = {}
        widths: dict[str, int] = {}
        for group in groups:
            for index, layer in enumerate(group.layers):
                name = self.routers[layer].name
                samples = float(group.counts.samples[index].sum())
                if samples:
                    row = group.counts.selections[index].sum((0, 1)).numpy()
                    counts.setdefault(kind_of(name), {})[name] = row
                    sizes.setdefault(kind_of(name), {})[name] = samples
                    widths[name] = choices[layer] or 1
        for kind, rows in counts.items():
            yield from uneven_layers(sizes[kind])
            yield from too_equal(rows, widths)


def _comparable(entry: Pending, share: Tensor) -> Tensor:
    """Return shares, unknown in rows of ones: each chosen module then has a softmax of its own.

    So a sparse mixer (PhiMoE) weighs modules that are far ahead of all that come after them: the
    weights are equal, and nothing was tied.
    """
    if entry.weight is None:
        return share
    return share.masked_fill((entry.weight == 1).all(-1, keepdim=True), torch.nan)


def equal_experts(routers: Sequence[Router]) -> Iterator[Warned]:
    """Warn of layers some of whose experts have the same parameters: routing decides nothing."""
    affected = {}
    for router in routers:
        number = _equal(list(_parameters(router)))
        if number:
            affected[router.name] = (number, router.modules)
    if affected:
        name, (number, modules) = next(iter(affected.items()))
        more = f", and {len(affected) - 1} other layers have such" if len(affected) > 1 else ""
        yield Warned(
            "equal modules",
            f"{number} of the {modules} experts of {name} have the parameters of another one{more}:"
            " which of them is chosen decides nothing. A model that was made from a dense one and "
            "not trained yet is like that.",
        )


def _parameters(router: Router) -> Iterator[tuple[Tensor, ...]]:
    """Iterate over the experts beside a router: the parameters of each, in order."""
    experts = getattr(router.parent, "experts", None)
    if not isinstance(experts, nn.Module):
        return
    if isinstance(experts, (nn.ModuleList, nn.ModuleDict)):
        for expert in experts.children():
            yield tuple(expert.parameters())
        return
    parts = list(experts.parameters(recurse=False))
    if parts and all(part.ndim > 1 and part.shape[0] == router.modules for part in parts):
        for number in range(router.modules):
            yield tuple(part[number] for part in parts)


def _equal(experts: Sequence[tuple[Tensor, ...]]) -> int:
    """Return how many experts have the parameters of one before them.

    Their first numbers are compared first, so that nearly all is decided by these.
    """
    first: dict[bytes, list[tuple[Tensor, ...]]] = {}
    equal = 0
    for expert in experts:
        if not expert or any(part.is_meta for part in expert):
            return 0
        with torch.no_grad():
            begin = torch.cat([part.detach().reshape(-1)[:16].float() for part in expert]).cpu()
            same = first.setdefault(begin.numpy().tobytes(), [])
            equal += any(_same(expert, other) for other in same)
            same.append(expert)
    return equal


def _same(mine: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return len(mine) == len(other) and all(
        one.shape == two.shape and torch.equal(one, two)
        for one, two in zip(mine, other, strict=True)
    )
