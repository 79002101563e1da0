"""Made-up documents whose routing has known true values, for simulations of tests and intervals."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from modeval.counting.units import Units, document_units


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Where documents come from.

    Attributes:
        rules: number of labels.
        modules: number of modules.
        documents: number of documents.
        shares: share of the documents of each label; alike when empty.
        lengths: ``equal``, or ``lognormal`` with a sigma of 1.5.
        tokens: mean length of a document.
        told: 0 for routing that is blind to labels, 1 for rows that have nothing in common.
        alike: how alike documents of a label are: those of label r go to modules by a draw from
            Dirichlet(alike A[r]).
        giant: tokens of one document more than a document has otherwise.
        longer: how many times longer than others the documents of the first label are.
    """

    rules: int = 4
    modules: int = 8
    documents: int = 200
    shares: tuple[float, ...] = ()
    lengths: str = "lognormal"
    tokens: int = 100
    told: float = 0.0
    alike: float = 20.0
    giant: int = 0
    longer: float = 1.0

    def activation(self, seed: int = 0) -> Float64[Tensor, "rules modules"]:
        """Return the true A."""
        draw = np.random.default_rng(seed)
        shared = draw.dirichlet(np.full(self.modules, 5.0))
        own = draw.dirichlet(np.full(self.modules, 0.3), size=self.rules)
        return torch.from_numpy((1 - self.told) * shared + self.told * own)

    def of_label(self) -> NDArray[np.int64]:
        """Return how many documents each label has."""
        shares = np.array(self.shares or [1 / self.rules] * self.rules)
        count = np.maximum(np.floor(shares * self.documents), 1).astype(np.int64)
        count[0] += self.documents - count.sum()
        found: NDArray[np.int64] = count
        return found

    def draw(self, draw: np.random.Generator, activation: Tensor) -> Units:
        """Return documents, and how many of their tokens went to each module."""
        label = np.repeat(np.arange(self.rules), self.of_label())
        size = np.full(len(label), self.tokens)
        if self.lengths == "lognormal":
            size = np.maximum(self.tokens * draw.lognormal(-1.125, 1.5, len(label)), 1).astype(int)
        size = np.maximum(np.where(label == 0, self.longer, 1.0) * size, 1).astype(int)
        size[draw.integers(len(size))] += self.giant
        rows = activation.numpy()
        table = np.empty((len(label), self.modules))
        for place, (rule, tokens) in enumerate(zip(label, size, strict=True)):
            share = draw.dirichlet(self.alike * rows[rule] + 1e-9)
            table[place] = draw.multinomial(tokens, share / share.sum())
        return document_units(torch.from_numpy(table), torch.from_numpy(label), rules=self.rules)


def shares_of(text: str) -> tuple[float, ...]:
    """Return shares from a ratio such as ``7:1:1:1``."""
    parts = [float(part) for part in text.split(":")]
    return tuple(part / sum(parts) for part in parts)
