"""The mutual information that chance gives a table with known margins."""

import torch
from jaxtyping import Float64
from torch import Tensor

CHUNK = 1 << 21  # terms held at a time
DEVIATIONS = 9  # standard deviations, and
WIDEST = 1 << 17  # terms of a cell beyond which its moments tell the sum
MARGIN = 30  # counts, beyond which the hypergeometric tail is below 1e-16


def expected_information(
    table: Float64[Tensor, "*batch rules modules"],
) -> Float64[Tensor, "*batch"]:
    """Return E[I] in nats over all tables with the margins of this one.

    Each cell n of row sum a, column sum b and total N is hypergeometric, and adds
    ``E[n/N log(N n / (a b))]``. The sum runs where the distribution has its mass.

    Source: Vinh, Epps, Bailey 2010, JMLR 11, equation 24a.
    """
    flat = table.reshape(-1, *table.shape[-2:])
    total = flat.sum((-2, -1))[:, None, None].expand(flat.shape).reshape(-1)
    row = flat.sum(-1, keepdim=True).expand(flat.shape).reshape(-1)
    column = flat.sum(-2, keepdim=True).expand(flat.shape).reshape(-1)
    mean = row * column / total
    spread = mean * (1 - row / total) * (1 - column / total) * total / (total - 1).clamp(min=1)
    reach = DEVIATIONS * spread.clamp(min=0).sqrt() + MARGIN
    low = torch.maximum((row + column - total).clamp(min=0), (mean - reach).floor())
    high = torch.minimum(torch.minimum(row, column), (mean + reach).ceil())
    parts = torch.zeros_like(mean)
    wide = high - low > WIDEST
    parts[wide] = _wide_terms(row[wide], column[wide], total[wide])
    order = (high - low).masked_fill(wide, -1).argsort()
    start = int(wide.sum())
    while start < len(order):
        stop = _chunk_end(high - low, order, start)
        cells = order[start:stop]
        parts[cells] = _cell_terms(low[cells], high[cells], row[cells], column[cells], total[cells])
        start = stop
    return parts.reshape(table.shape).sum((-2, -1))


def _wide_terms(row: Tensor, column: Tensor, total: Tensor) -> Tensor:
    """Return ``E[n/N log(N n / (a b))]`` of cells with huge counts, from moments of n.

    Of the series of ``n log(n/mean)`` about the mean: ``v/2m - k/6m^2 + v^2/4m^3``, m, v and k the
    mean, variance and third moment of the hypergeometric distribution. What is left out is below
    the rounding of the sum that it stands for.
    """
    mean = row * column / total
    left = (1 - row / total) * (1 - column / total) * total / (total - 1)
    variance = mean * left
    third = variance * (1 - 2 * row / total) * (1 - 2 * column / total) * total / (total - 2)
    series = left / 2 - third / (6 * mean.square()) + left.square() / (4 * mean)
    return series / total


def _chunk_end(width: Tensor, order: Tensor, start: int) -> int:
    """Return where a chunk of cells, sorted by width, must end to stay within its memory."""
    terms = (width[order[start:]] + 1) * torch.arange(
        1, len(order) - start + 1, device=width.device
    )
    return start + max(1, int((terms <= CHUNK).sum()))


def _cell_terms(low: Tensor, high: Tensor, row: Tensor, column: Tensor, total: Tensor) -> Tensor:
    """Return ``E[n/N log(N n / (a b))]`` of each cell."""
    steps = torch.arange(int((high - low).max()) + 1, dtype=low.dtype, device=low.device)
    count = torch.minimum(low[:, None] + steps, high[:, None])
    row, column, total = row[:, None], column[:, None], total[:, None]
    # from one count to the next chances change by a simple ratio, far cheaper than gamma functions
    gain = (row - count) * (column - count) / ((count + 1) * (total - row - column + count + 1))
    logit = torch.where(count < high[:, None], gain, 1.0).log().cumsum(-1).roll(1, -1)
    logit[:, 0] = 0
    chance = logit.masked_fill(low[:, None] + steps > high[:, None], -torch.inf).softmax(-1)
    ratio = torch.where(count > 0, total * count / (row * column).clamp(min=1), 1.0)
    return (chance * count / total * ratio.log()).sum(-1)
