"""Agreement: do two builds of one model route the same tokens alike?

Arrays of numpy, because both sides come from files; N tokens of one layer, K choices each.
"""

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.optimize import linear_sum_assignment

Chosen = Int[np.ndarray, "tokens choices"]
Weights = Float[np.ndarray, "tokens choices"]
Each = Float[np.ndarray, "tokens"]
Counted = Float[np.ndarray, "modules modules"]
Layered = Float[np.ndarray, "tokens layers"]


def agreement_shared(one: Chosen, other: Chosen) -> Each:
    """Which share of a token's modules did both builds choose?

    ``|A and B| / max(|A|, |B|)``, A and B the modules that were chosen for a token

    Args:
        one: ``(N, K)`` choices, -1 for none.
        other: ``(N, K)`` choices on the same tokens.

    Returns:
        ``(N,)``, no unit, from 0 to 1. The same set 1, whatever its order; independent uniform
        choices K/M on average. A token that neither routed has nothing to differ in: 1.

    See also: ``agreement_exact``, which asks for all of them.

    Source: this project.

    >>> agreement_shared(np.array([[0, 1], [2, 3]]), np.array([[1, 0], [2, 0]])).tolist()
    [1.0, 0.5]
    """
    both = _same(one, other).any(2).sum(1)
    most = np.maximum((one >= 0).sum(1), (other >= 0).sum(1))
    shares: Each = np.where(most > 0, both / np.maximum(most, 1), 1.0)
    return shares


def agreement_exact(one: Chosen, other: Chosen) -> Each:
    """Did both builds choose the same set of modules for a token?

    ``1 if A = B else 0``

    Args:
        one: ``(N, K)`` choices, -1 for none.
        other: ``(N, K)`` choices on the same tokens.

    Returns:
        ``(N,)``, 0 or 1. Order does not count.

    See also: ``agreement_different``, over all layers.

    Source: this project.

    >>> agreement_exact(np.array([[0, 1], [2, 3]]), np.array([[1, 0], [2, 0]])).tolist()
    [1.0, 0.0]
    """
    exact: Each = (agreement_shared(one, other) == 1).astype(np.float64)
    return exact


def agreement_first(one: Chosen, other: Chosen) -> Each:
    """Did both builds prefer the same module for a token?

    ``1 if the first choices are the same, else 0``

    Args:
        one: ``(N, K)`` choices, best first; -1 for none.
        other: ``(N, K)`` choices on the same tokens, likewise.

    Returns:
        ``(N,)``, 0 or 1.

    Source: this project.

    >>> agreement_first(np.array([[0, 1], [2, 3]]), np.array([[1, 0], [2, 0]])).tolist()
    [0.0, 1.0]
    """
    first: Each = (one[:, 0] == other[:, 0]).astype(np.float64)
    return first


def agreement_different(
    exact: Float[np.ndarray, "tokens layers"],
) -> Float[np.ndarray, "tokens layers"]:
    """Has a token been routed differently up to this layer?

    ``max over layers up to this one of (1 - exact)``

    Args:
        exact: ``(N, L)``, 1 where both builds chose the same modules, layers in their order.

    Returns:
        ``(N, L)``, 0 or 1, growing from layer to layer: at the last layer whether the token was
        routed differently anywhere. A difference at one layer changes the input of all later ones.

    Source: this project.

    >>> agreement_different(np.array([[1.0, 0.0, 1.0]])).tolist()
    [[0.0, 1.0, 1.0]]
    """
    different: Layered = np.maximum.accumulate(1 - exact, axis=1)
    return different


def agreement_weights(
    one: Chosen, other: Chosen, one_weight: Weights, other_weight: Weights
) -> Each:
    """How differently do two builds share a token out over the modules?

    ``1/2 sum_m |a_m - b_m|``, the total variation of the weights of a token, each build's divided
    by their sum

    Args:
        one: ``(N, K)`` choices, -1 for none.
        other: ``(N, K)`` choices on the same tokens.
        one_weight: ``(N, K)`` weights of the choices, 0 or more.
        other_weight: ``(N, K)`` likewise.

    Returns:
        ``(N,)``, no unit, from 0 (the same weights) to 1 (no module in common).

    Source: this project.

    >>> first, second = np.array([[0, 1]]), np.array([[1, 2]])
    >>> half = np.array([[0.5, 0.5]])
    >>> agreement_weights(first, second, half, half).tolist()
    [0.5]
    """
    same = _same(one, other)
    mine = _shares(one, one_weight)
    its = _shares(other, other_weight)
    there = (same * its[:, None, :]).sum(2)  # what the other gives the modules of this one
    missed = its * ~same.any(1)
    distance: Each = (np.abs(mine - there).sum(1) + missed.sum(1)) / 2
    return distance


def agreement_matched(together: Counted, most: float) -> float:
    """Which share of the modules do both builds choose, once those of the other are renumbered?

    ``max over permutations pi of sum_m together[m, pi(m)] / sum over tokens of max(|A|, |B|)``

    Args:
        together: ``(M, M)`` in how many tokens one build chose m and the other m'.
        most: sum over tokens of the larger number of choices.

    Returns:
        No unit, from ``agreement_shared`` (the order as it is) to 1. A build whose modules were
        permuted has 1; builds that know nothing of each other a little more than K/M, as the best
        of all permutations is taken.

    See also: ``agreement_shared``, by number.

    Source: this project; the best permutation by Kuhn 1955, as in ``modeval.metrics.matching``.

    >>> agreement_matched(np.array([[0.0, 3.0], [3.0, 0.0]]), 6.0)
    1.0
    """
    rows, columns = linear_sum_assignment(together, maximize=True)
    return float(together[rows, columns].sum() / max(most, 1.0))


def _same(one: Chosen, other: Chosen) -> Shaped[np.ndarray, "tokens choices choices"]:
    """Tell which choices of one are which of the other; nothing is the same as no choice."""
    same: Shaped[np.ndarray, "tokens choices choices"] = one[:, :, None] == other[:, None, :]
    return same & (one >= 0)[:, :, None]


def _shares(chosen: Chosen, weight: Weights) -> Weights:
    kept = np.where(chosen >= 0, weight, 0.0)
    total = kept.sum(1, keepdims=True)
    shares: Weights = kept / np.where(total > 0, total, 1.0)
    return shares
