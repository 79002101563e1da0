"""Clusterability: do the weights of a network fall apart into parts, more than shuffled ones?"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeval.evaluate.structure.chain import Chain, Edge

SHUFFLES = 99
"""Shuffled networks that one is held against."""
EVEN = 1e-12
"""Spread of the shuffled cuts below which they are all equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """Parts of a network, and how well they are cut off from each other.

    Attributes:
        count: number of parts.
        labels: part of each unit, for inputs, hidden layers and outputs; -1 for units without any
            weight.
        cut: normalised cut: sum over parts of the weight that leaves it as a share of its own.
        shuffled: ``(P,)`` the same of networks whose weights are shuffled within each layer.
        z: standard deviations by which the cut is below the shuffled ones; nothing where they are
            all equal.
        p_value: ``(r + 1)/(P + 1)``, r being the shuffled networks with a cut as small.
    """

    count: int
    labels: tuple[tuple[int, ...], ...]
    cut: float
    shuffled: tuple[float, ...]
    z: float | None
    p_value: float


def clusterability(
    chain: Chain,
    *,
    clusters: int,
    shuffles: int = SHUFFLES,
    generator: torch.Generator | None = None,
) -> Clusters:
    """How much better does a network fall apart than one with the same weights in other places?

    The graph has a node for each unit and an edge of size ``abs(w)`` for each weight. Spectral
    clustering cuts it into parts; ``n-cut = sum_k (weight that leaves part k)/(weight at part k)``.
    Shuffling keeps the weights of each layer as it was trained, so what is left is their
    arrangement; layers that were multiplied out are shuffled first and multiplied then, so that a
    network whose weights were drawn at random is as likely to have any rank among its shuffles.

    Args:
        chain: the network.
        clusters: number of parts, 2 or more.
        shuffles: shuffled networks.
        generator: shuffles.

    Source: Filan et al. 2021, Clusterability in neural networks (arXiv 2103.03386).
    """
    generator = generator or torch.Generator().manual_seed(0)
    own, labels = _cut(chain.edges(), chain.sizes, clusters)
    shuffled = [
        _cut(
            chain.edges([_shuffled(factor, generator) for factor in chain.factors]),
            chain.sizes,
            clusters,
        )[0]
        for _ in range(shuffles)
    ]
    spread = float(np.std(shuffled, ddof=1)) if shuffles > 1 else 0.0
    at_most = sum(cut <= own for cut in shuffled)
    parts = np.split(labels, np.cumsum(chain.sizes)[:-1])
    return Clusters(
        count=clusters,
        labels=tuple(tuple(int(label) for label in part) for part in parts),
        cut=own,
        shuffled=tuple(shuffled),
        z=(float(np.mean(shuffled)) - own) / spread if spread > EVEN else None,
        p_value=(at_most + 1) / (shuffles + 1),
    )


def normalised_cut(graph: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the sum over parts of the weight that leaves it, as a share of all weight at it.

    >>> graph = np.array([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    >>> normalised_cut(graph, np.array([0, 0, 1]))  # 1 of 3 leaves the first, all the second
    1.3333333333333333
    """
    total = 0.0
    for label in np.unique(labels[labels >= 0]):
        inside = labels == label
        volume = graph[inside].sum()
        total += float((volume - graph[np.ix_(inside, inside)].sum()) / volume) if volume else 0.0
    return total


def _cut(
    edges: Sequence[Edge], sizes: Sequence[int], clusters: int
) -> tuple[float, NDArray[np.int64]]:
    from sklearn.cluster import SpectralClustering  # noqa: PLC0415 - loads slowly

    graph = _graph(edges, sizes)
    there = graph.sum(0) > 0
    labels = np.full(len(graph), -1, dtype=np.int64)
    kept = graph[np.ix_(there, there)]
    if len(kept) > clusters:
        method = SpectralClustering(
            n_clusters=clusters, affinity="precomputed", assign_labels="cluster_qr", random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a graph falls apart is what is looked for
            labels[there] = method.fit_predict(kept)
    else:
        labels[there] = np.arange(len(kept))
    return normalised_cut(graph, labels), labels


def _graph(edges: Sequence[Edge], sizes: Sequence[int]) -> NDArray[np.float64]:
    starts = np.cumsum([0, *sizes])
    graph = np.zeros((starts[-1], starts[-1]))
    for before, after, weight in edges:
        rows = slice(starts[before], starts[before + 1])
        columns = slice(starts[after], starts[after + 1])
        graph[rows, columns] += weight.cpu().numpy()
        graph[columns, rows] += weight.cpu().numpy().T
    return graph


def _shuffled(weight: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(weight.numel(), generator=generator)
    return weight.flatten()[order].view(weight.shape)
