"""Matching on CUDA: one Triton program a matrix, the algorithm of ``matching_paths``.

Checked without a GPU: the kernel gives the results of scipy in Triton's interpreter
(``TRITON_INTERPRET=1``), and compiles for compute capability 9.0.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

try:
    import triton
    import triton.language as tl
    from triton.language import constexpr
except ModuleNotFoundError:  # comes with torch for CUDA, and only there
    triton = tl = constexpr = None


# Triton reads annotations: only what is fixed when the kernel compiles may have one.
def _shortest_paths(cost, found, rows, columns, WIDTH: constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202, N803 - as above, and its custom is capitals
    """Assign the rows of matrix ``program_id`` to columns; columns lie side by side."""
    table = tl.program_id(0).to(tl.int64)
    first = cost + table * rows * columns
    column = tl.arange(0, WIDTH)
    live = column < columns
    price = tl.zeros([WIDTH], dtype=tl.float64)
    owner = tl.full([WIDTH], -1, dtype=tl.int32)
    for row in range(rows):
        distance = tl.load(first + row * columns + column, mask=live, other=0.0) - price
        via = tl.full([WIDTH], -1, dtype=tl.int32)
        reached = column >= columns
        least = tl.sum(tl.zeros([WIDTH], dtype=tl.float64), axis=0)
        sink = -1
        while sink < 0:
            open_distance = tl.where(reached, float("inf"), distance)
            least = tl.min(open_distance, axis=0)
            near = tl.argmin(open_distance, axis=0)
            holder = tl.sum(tl.where(column == near, owner, 0), axis=0)
            if holder < 0:
                sink = near
            else:
                reached = reached | (column == near)
                reduced = tl.load(first + holder * columns + column, mask=live, other=0.0) - price
                at_near = tl.sum(tl.where(column == near, reduced, 0.0), axis=0)
                through = reduced - at_near + least
                better = (through < distance) & (reached == 0)
                distance = tl.where(better, through, distance)
                via = tl.where(better, near, via)
        price = tl.where(reached & live, price + distance - least, price)
        current = sink
        while current >= 0:
            before = tl.sum(tl.where(column == current, via, 0), axis=0)
            mover = tl.sum(tl.where(column == before, owner, 0), axis=0)
            owner = tl.where(column == current, tl.where(before < 0, row, mover), owner)
            current = before
    tl.store(found + table * rows + owner, column.to(tl.int64), mask=live & (owner >= 0))


_kernel = None if triton is None else triton.jit(_shortest_paths)


def available() -> bool:
    """Return whether Triton is installed."""
    return _kernel is not None


def assign_triton(
    cost: Float64[Tensor, "tables rows columns"],
) -> Int64[Tensor, "tables rows"]:
    """Return the column of each row at the least summed cost; ``rows <= columns``."""
    tables, rows, columns = cost.shape
    found = torch.empty(tables, rows, dtype=torch.int64, device=cost.device)
    if tables and _kernel is not None:
        width = triton.next_power_of_2(columns)
        warps = min(8, max(1, width // 64))
        _kernel[(tables,)](cost.contiguous(), found, rows, columns, WIDTH=width, num_warps=warps)
    return found
