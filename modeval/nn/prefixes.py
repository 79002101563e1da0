"""What stands before the positions of attention, for each module: keys and values, or tokens.

Each position attends to what stands there as to the other positions. Nothing attends *from* there,
so that there are as many outputs as the task has positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from modeval.nn.lean import attend, shares
from modeval.nn.linear import StackedLinear, bias_of


@dataclass(frozen=True, slots=True)
class Before:
    """Keys and values of each module that stand before those of the positions.

    The softmax over both is formed in two parts, so that what the positions say is computed once:
    ``(1 - g) attn(x) + g attn(P_m)`` with ``g = sigmoid(logsumexp(q P_m) - logsumexp(q x))``.

    Attributes:
        key: of what stands there.
        value: likewise.
        lean: whether by operations that are fast on processors.
    """

    key: Float[Tensor, "seeds modules heads length head"]
    value: Float[Tensor, "seeds modules heads length head"]
    lean: bool = False

    def found(
        self,
        query: Float[Tensor, "seeds n heads t head"],
        total: Float[Tensor, "seeds n heads t"],
        alone: Float[Tensor, "seeds n heads t head"],
    ) -> Float[Tensor, "seeds modules n heads t head"]:
        """Return what each module finds.

        Args:
            query: of each position.
            total: log of the summed weights of the positions.
            alone: what the positions say by themselves.
        """
        own, size = self._own(query)
        share = (size - total.unsqueeze(1)).sigmoid().unsqueeze(-1)
        mixed: Tensor = (1 - share) * alone.unsqueeze(1) + share * own
        return mixed

    def chosen(
        self,
        query: Float[Tensor, "seeds n heads t head"],
        total: Float[Tensor, "seeds n heads t"],
        alone: Float[Tensor, "seeds n heads t head"],
        module: Int64[Tensor, "seeds n t"],
    ) -> Float[Tensor, "seeds one n heads t head"]:
        """Return what each position finds behind the prefix of one module, that of ``module``."""
        where = (query.shape[1], query.shape[3])
        key, value = (each.transpose(1, 2).flatten(2, 3) for each in (self.key, self.value))
        of = torch.arange(self.key.shape[1]).repeat_interleave(self.key.shape[3])
        other = module.flatten(1)[:, None, :, None] != of  # (S, 1, N T, M P)
        closed = query.new_zeros(()).masked_fill(other, float("-inf"))
        flat = query.transpose(1, 2).flatten(2, 3)  # (S, A, N T, D)
        own, size = attend(flat, key, value, closed)
        own, size = (each.unflatten(2, where).transpose(1, 2) for each in (own, size))
        share = (size - total).sigmoid().unsqueeze(-1)
        return alone.lerp(own, share).unsqueeze(1)

    def together(
        self,
        query: Float[Tensor, "seeds n heads t head"],
        total: Float[Tensor, "seeds n heads t"],
        alone: Float[Tensor, "seeds n heads t head"],
        beside: Float[Tensor, "seeds n t modules"],
    ) -> Float[Tensor, "seeds one n heads t head"]:
        """Return what is found behind the prefixes of several modules, side by side.

        Each key of module m counts ``beside_m`` times; 0 is as if the prefix were not there.
        """
        own, size = self._own(query)
        often = beside.permute(0, 3, 1, 2).unsqueeze(3)  # (S, M, N, 1, T)
        largest = torch.maximum(size.amax(1), total).detach()
        each = often * (size - largest.unsqueeze(1)).exp()
        rest = (total - largest).exp()
        summed = rest.unsqueeze(-1) * alone + (each.unsqueeze(-1) * own).sum(1)
        mixed: Tensor = summed / (rest + each.sum(1)).unsqueeze(-1)
        return mixed.unsqueeze(1)

    def _own(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return what each prefix alone says, and the log of its summed weights.

        Samples and positions lie along one axis in the products: many small ones are slow.
        """
        where = (query.shape[1], query.shape[3])
        flat = query.transpose(1, 2).flatten(2, 3)  # (S, A, N T, D)
        key, value = self.key.transpose(1, 2), self.value.transpose(1, 2)  # (S, A, M, P, D)
        logits = flat @ key.flatten(2, 3).mT * query.shape[-1] ** -0.5
        logits = logits.unflatten(-1, key.shape[2:4]).transpose(2, 3)  # (S, A, M, N T, P)
        share, size = shares(logits) if self.lean else (logits.softmax(-1), logits.logsumexp(-1))
        own, size = (share @ value).unflatten(3, where), size.unflatten(3, where)
        return own.permute(0, 2, 3, 1, 4, 5), size.permute(0, 2, 3, 1, 4)


class Prefixes(nn.Module):
    """Keys and values of each module and head, each learned for itself."""

    def __init__(self, seeds: int, modules: int, heads: int, length: int, head: int) -> None:
        super().__init__()
        shape = (seeds, modules, heads, length, head)
        self.key = nn.Parameter(torch.zeros(shape))
        self.value = nn.Parameter(torch.zeros(shape))

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Start both within ±1, as the inputs are about as large."""
        for parameter in (self.key, self.value):
            _start(parameter, generators)

    def before(self, projections: nn.ModuleDict, *, lean: bool = False) -> Before:
        """Return keys and values as they are learned."""
        del projections
        return Before(self.key, self.value, lean)


class PromptTokens(nn.Module):
    """Learned encodings of each module, which the trunk projects as those of the positions."""

    def __init__(self, seeds: int, modules: int, length: int, width: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.token = nn.Parameter(torch.zeros(seeds, modules, length, width))

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Start within ±1, so that no two of them are the same."""
        _start(self.token, generators)

    def before(self, projections: nn.ModuleDict, *, lean: bool = False) -> Before:
        """Return the keys and values that the heads make of the tokens."""
        key, value = (
            self._heads(cast("StackedLinear", projections[name])) for name in ("key", "value")
        )
        return Before(key, value, lean)

    def _heads(self, layer: StackedLinear) -> Float[Tensor, "seeds modules heads length head"]:
        projected = self.token @ layer.weight.unsqueeze(1) + bias_of(layer)[:, None, None]
        apart: Tensor = projected.unflatten(-1, (-1, self.head)).transpose(2, 3)
        return apart


def _start(parameter: nn.Parameter, generators: Sequence[torch.Generator]) -> None:
    for member, generator in zip(parameter, generators, strict=True):
        member.uniform_(-1, 1, generator=generator)
