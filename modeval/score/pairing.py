"""Rules paired with modules, each at most once: what maps are ordered by and modules matched by.

The same matching as :func:`modeval.metrics.match`, of one small matrix, without loading torch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def paired(benefit: NDArray[np.float64]) -> list[int]:
    """Return the column of each row, each at most once, so that the benefit sums to most.

    Of columns that do as well the one at the place of the row is taken, so that a map of even
    routing stays in order.

    Args:
        benefit: ``(R, M)``, such as the shares of an activation matrix.

    Returns:
        R column numbers; -1 for the R - M rows that get none when R > M.

    >>> paired(np.array([[0.5, 0.4], [0.6, 0.1]]))
    [1, 0]
    """
    rows, columns = benefit.shape
    places = np.abs(np.arange(rows)[:, None] - np.arange(columns)) / (rows + columns)
    cost = 1e-9 * places - benefit
    try:
        from lap import lapjv  # noqa: PLC0415 - optional: scipy does without, and loads slowly
    except ImportError:
        from scipy.optimize import linear_sum_assignment  # noqa: PLC0415

        found = np.full(rows, -1)
        found[linear_sum_assignment(cost)[0]] = linear_sum_assignment(cost)[1]
        return found.tolist()
    return [int(index) for index in lapjv(cost, extend_cost=True)[1]]


def best_sum(benefit: NDArray[np.float64]) -> float:
    """Return what the best pairing sums to.

    >>> best_sum(np.array([[0.5, 0.4], [0.6, 0.1]]))
    1.0
    """
    try:
        from lap import lapjvh  # noqa: PLC0415 - a third of the time of the other solvers
    except ImportError:
        return sum_of(benefit, paired(benefit))
    return -float(lapjvh(-benefit, extend_cost=True)[0])


def sum_of(benefit: NDArray[np.float64], columns: Sequence[int]) -> float:
    """Return what a pairing sums to.

    >>> sum_of(np.array([[0.5, 0.4], [0.6, 0.1]]), [0, 1])
    0.6
    """
    return float(sum(benefit[row, column] for row, column in enumerate(columns) if column >= 0))
