"""What is scored, whatever it came from: routing of S seeds and L layers of which all is known."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.counting.units import Units
from modeval.types import Prior, RoutingCounts, View

Evidence = Literal["documents", "samples", "sums"]
"""What is known to be independent: documents, whose tokens are not; single samples, that were
drawn anew for each score; or nothing, where sums alone were kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStack:
    """Layers that have the same number of modules and know the same rules.

    Attributes:
        layers: numbers of the layers.
        counts: ``(S, L, B, R, M)``: seeds, then the layers in that order.
        choices: how many modules a sample chooses in each layer; 0 where unknown or all.
        units: the same by document (by block of samples), ``(S, L, U, M)``, where they are known.
        labelled: whether every rule of the model has samples here; without, load alone is told.
    """

    layers: tuple[int, ...]
    counts: RoutingCounts
    choices: tuple[int, ...]
    units: Units | None = None
    labelled: bool = True

    @property
    def modules(self) -> int:
        """Return the number of modules of each layer."""
        return self.counts.mass.shape[-1]

    def joint(self, prior: Prior, view: View) -> Float64[Tensor, "seeds layers rules modules"]:
        """Return the joint distribution of rule and module."""
        return self.counts.joint(prior, view=view)

    def table(self, view: View) -> Float64[Tensor, "seeds layers blocks rules modules"]:
        """Return what counts as routing."""
        return self.counts.mass if view == "weight" else self.counts.selections


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Routing that can be scored: the one thing that all sources become.

    Attributes:
        groups: its layers, those that are alike together.
        rules: number of rules R.
        prior: weight of the rules.
        view: what counts as routing.
        evidence: what is independent.
        metrics: names of the metrics that the counts can give.
        given: ``(S, L)`` metrics that were measured in another way, which then holds.
        counted: whether ``samples`` are numbers of samples, not the shares of a recorded matrix.
    """

    groups: tuple[LayerStack, ...]
    rules: int
    prior: Prior = "uniform"
    view: View = "weight"
    evidence: Evidence = "samples"
    metrics: tuple[str, ...] = ()
    given: Mapping[str, Tensor] = field(default_factory=dict)
    counted: bool = True

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the numbers of the layers, in the order of the axis L of what is measured."""
        return tuple(sorted(layer for group in self.groups for layer in group.layers))

    @property
    def seeds(self) -> int:
        """Return the number of seeds S."""
        return len(self.groups[0].counts.samples)

    @property
    def samples(self) -> Float64[Tensor, "seeds layers"]:
        """Return the samples of each seed and layer."""
        found = self.across(group.counts.samples.sum((-2, -1)) for group in self.groups)
        return found if self.counted else torch.full_like(found, torch.nan)

    @property
    def modules(self) -> tuple[int, ...]:
        """Return the number of modules of each layer."""
        return tuple(group.modules for _, group, _ in self.each_layer())

    def across(self, parts: Iterable[Tensor]) -> Tensor:
        """Put numbers ``(..., L)`` of each group together, layers in order."""
        numbers = [layer for group in self.groups for layer in group.layers]
        found = [*parts]
        if len(found) == 1 and numbers == sorted(numbers):
            return found[0]
        return torch.cat(found, dim=-1)[..., torch.tensor(numbers).argsort()]

    def each_layer(self) -> Iterator[tuple[int, LayerStack, int]]:
        """Iterate over the layers in order: place, group, and place within the group."""
        where = {
            layer: (group, number)
            for group in self.groups
            for number, layer in enumerate(group.layers)
        }
        for index, layer in enumerate(self.layers):
            yield index, *where[layer]
