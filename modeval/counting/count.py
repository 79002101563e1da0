"""From the routing of single samples to counts: choices or weights, summed by block and rule."""

import ctypes
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from modeval.counting import kernel
from modeval.errors import TraceError
from modeval.types import RoutingCounts

ONE_HOT_CELLS = 32  # up to here a one-hot product folds dense weights faster than a scatter
CHUNK = 1 << 16  # samples folded at a time: what is made on the way stays in the cache
CUTS = 8  # of a long stream for threads; a number of its own, so that sums do not depend on theirs


def count(
    rule: Int[Tensor, "*#batch samples"],
    weight: Float[Tensor, "*batch samples modules"],
    *,
    rules: int,
    block: Int[Tensor, "*#batch samples"] | None = None,
    blocks: int = 1,
    chosen: Int[Tensor, "*batch samples choices"] | None = None,
) -> RoutingCounts:
    """Count routing that gives a weight to every module.

    Args:
        rule: rule of each sample, 0 to R-1, or -1 for padding.
        weight: routing weights, for each sample a row that sums to 1.
        rules: number of rules R.
        block: replicate block of each sample, 0 to B-1; all in block 0 when absent.
        blocks: number of blocks B.
        chosen: modules that were selected for each sample, -1 for none; when absent, the
            module with the largest weight.

    Raises:
        TraceError: a rule, block or module number is out of range.
    """
    batch, modules = weight.shape[:-2], weight.shape[-1]
    cell = _cells(rule, block, rules, blocks, batch)
    flat = weight.reshape(*cell.shape, modules)
    picked = flat.argmax(-1, keepdim=True) if chosen is None else chosen
    half = weight.dtype in (torch.float16, torch.bfloat16)
    parts = {
        "mass": _sum_rows(cell, flat, blocks * rules),
        "entropy": _sum_values(
            cell, torch.special.entr(flat.float() if half else flat).sum(-1), blocks * rules
        ),
        **_fold_choices(
            cell, picked.reshape(*cell.shape, picked.shape[-1]), blocks * rules, modules
        ),
    }
    return _assemble(parts, batch, blocks, rules, modules)


def count_choices(
    rule: Int[Tensor, "*#batch samples"],
    chosen: Int[Tensor, "*batch samples choices"],
    weight: Float[Tensor, "*batch samples choices"] | None = None,
    *,
    rules: int,
    modules: int,
    block: Int[Tensor, "*#batch samples"] | None = None,
    blocks: int = 1,
) -> RoutingCounts:
    """Count sparse routing, given as the numbers of the chosen modules.

    Args:
        rule: rule of each sample, 0 to R-1, or -1 for padding.
        chosen: chosen modules of each sample, all different; -1 where fewer were chosen.
        weight: routing weights of the chosen modules, for each sample a row that sums to 1
            (less where a module was dropped); ignored where ``chosen`` is -1. When absent,
            each chosen module counts 1/K.
        rules: number of rules R.
        modules: number of modules M, from the model's configuration or weights: the largest
            number seen may be less.
        block: replicate block of each sample, 0 to B-1; all in block 0 when absent.
        blocks: number of blocks B.

    Raises:
        TraceError: a rule, block or module number is out of range.
    """
    batch, cells = chosen.shape[:-2], blocks * rules
    cell = _cells(rule, block, rules, blocks, batch)
    flat = chosen.reshape(*cell.shape, chosen.shape[-1])
    library = kernel.kernel(cell.numel()) if flat.device.type == "cpu" else None
    if library is not None:
        given = None if weight is None else weight.reshape(flat.shape)
        parts = _fold_natively(library, cell, flat, given, cells, modules)
        return _assemble(parts, batch, blocks, rules, modules)
    parts = _fold_choices(cell, flat, cells, modules)
    if weight is None:
        parts |= _equal_weights(cell, flat, parts, cells, modules)
    else:
        share = weight.reshape(flat.shape).double()
        parts["mass"] = _scatter_weights(cell, flat, share, cells, modules)
        share = share.masked_fill(flat < 0, 0.0)
        parts["entropy"] = _sum_values(cell, torch.special.entr(share).sum(-1), cells)
    return _assemble(parts, batch, blocks, rules, modules)


# --- folding: all take the batch as one leading axis P -------------------------------------------


def _cells(
    rule: Tensor, block: Tensor | None, rules: int, blocks: int, batch: torch.Size
) -> Int64[Tensor, "pairs samples"]:
    """Number each sample's (block, rule) from 0 to B R - 1; padding gets B R."""
    padded = _check_range("Rule", rule, -1, rules, "--rules") < 0
    cell = rule.long()
    if block is not None:
        _check_range("Block", block, 0, blocks, "blocks=")
        cell = torch.where(cell < 0, cell, cell + block.long() * rules)
    if padded:
        cell = torch.where(cell < 0, blocks * rules, cell)
    return cell.expand(*batch, cell.shape[-1]).reshape(batch.numel(), cell.shape[-1])


def _check_range(what: str, number: Tensor, low: int, end: int, advice: str) -> int:
    """Return the least number when all lie from ``low`` to ``end - 1``."""
    if number.numel() == 0:
        return low
    least, most = (int(bound) for bound in torch.aminmax(number))
    if least < low or most >= end:
        wrong = least if least < low else most
        raise TraceError(
            f"{what} {wrong} is out of range: expected {low} to {end - 1}. Give the right number "
            f"with {advice}, or mend the recording."
        )
    return least


def _chunks(samples: int, pairs: int, least: int) -> Iterator[slice]:
    """Cut the samples in parts that stay in the cache, but cost more than a pass over a table."""
    step = max(CHUNK // pairs, least, 1024)
    return (slice(start, start + step) for start in range(0, samples, step))


def _sum_rows(cell: Tensor, rows: Tensor, cells: int) -> Float64[Tensor, "pairs cells modules"]:
    """Sum rows ``(P, N, M)`` by cell."""
    pairs, samples, modules = rows.shape
    total = rows.new_zeros(pairs, cells + 1, modules, dtype=torch.float64)
    if cells > ONE_HOT_CELLS:
        for part in _chunks(samples, pairs, cells):
            where = cell[:, part, None].expand(-1, -1, modules)
            total.scatter_add_(1, where, rows[:, part].double())
        return total[:, :cells]
    numbers = torch.arange(cells, device=cell.device).view(1, -1, 1)
    for part in _chunks(samples, 8 * pairs, 0):
        one_hot = (cell[:, None, part] == numbers).double()
        total[:, :cells] += one_hot @ rows[:, part].double()
    return total[:, :cells]


def _sum_values(cell: Tensor, values: Tensor, cells: int) -> Float64[Tensor, "pairs cells"]:
    """Sum values ``(P, N)`` by cell."""
    total = values.new_zeros(cell.shape[0], cells + 1, dtype=torch.float64)
    return total.scatter_add_(1, cell, values.double())[:, :cells]


def _fold_natively(  # noqa: PLR0917 - one of two ways of of_choices, cut out
    library: ctypes.CDLL,
    cell: Tensor,
    chosen: Tensor,
    weight: Tensor | None,
    cells: int,
    modules: int,
) -> dict[str, Tensor]:
    """Do what the functions below do, in one pass of the kernel; each pair is cut for threads."""
    pairs, samples, choices = chosen.shape
    cuts = max(1, min(CUTS // max(pairs, 1), samples // kernel.ENOUGH + 1))
    step = max(1, min(-(-samples // cuts), kernel.rows_at_most(choices)))
    spans = [
        (pair * samples + start, pair * samples + min(start + step, samples))
        for pair in range(pairs)
        for start in range(0, samples, step)
    ]
    tables = [kernel.Tables.zeros(cells, modules, choices) for _ in spans]
    if weight is not None:
        weight = weight.detach().to(torch.promote_types(weight.dtype, torch.float32)).contiguous()
    picks = kernel.readable(chosen.flatten(0, 1).numpy())
    try:
        kernel.add(
            *(library, tables, spans, picks, cell.contiguous().view(-1).numpy()),
            None if weight is None else weight.view(-1, choices).numpy(),
        )
    except kernel.OutOfRangeError:
        _check_range("Module", chosen, -1, modules, "modules=")
        raise
    made = [kernel.parts(table, weighted=weight is not None) for table in tables]
    each = len(made) // pairs
    return {
        name: torch.stack([part[name] for part in made]).unflatten(0, (pairs, each)).sum(1)
        for name in made[0]
    }


def _fold_choices(cell: Tensor, chosen: Tensor, cells: int, modules: int) -> dict[str, Tensor]:
    """Count choices ``(P, N, K)`` by cell and module, and pairs of choices of one sample."""
    least = _check_range("Module", chosen, -1, modules, "modules=")
    samples = _sum_values(cell, torch.ones_like(cell), cells)
    choices = chosen.shape[-1]
    if choices == 1:
        table = _count_choices(cell, chosen, cells, modules)
        pairs = torch.diag_embed(table.sum(-2))
    elif cells <= ONE_HOT_CELLS:
        product = _count_pairs(cell, chosen, cells, modules, rows=cells)
        pairs, table = product[:, :modules], product[:, modules:]
    else:
        table = _count_choices(cell, chosen, cells, modules)
        pairs = _count_pairs(cell, chosen, cells, modules, rows=0)
    if least >= 0:
        spread = samples * math.log(max(choices, 1))
    else:
        taken = (chosen >= 0).sum(-1).clamp(min=1)
        spread = _sum_values(cell, taken.double().log(), cells)
    return {
        "selections": table,
        "samples": samples,
        "selection_entropy": spread,
        "coactivation": pairs,
    }


def _count_choices(
    cell: Tensor, chosen: Tensor, cells: int, modules: int
) -> Float64[Tensor, "pairs cells modules"]:
    """Count choices by cell and module."""
    pairs, samples, choices = chosen.shape
    width = modules + 1  # column 0 takes the choices that are -1
    size = pairs * (cells + 1) * width
    total = torch.zeros(size, dtype=torch.int64, device=cell.device)
    first = torch.arange(pairs, device=cell.device)[:, None] * ((cells + 1) * width) + 1
    for part in _chunks(samples, pairs, size // max(pairs * choices, 1)):
        index = chosen[:, part].long() + (cell[:, part] * width + first).unsqueeze(-1)
        total += torch.bincount(index.view(-1), minlength=size)
    return total.view(pairs, cells + 1, width)[:, :cells, 1:].double()


def _count_pairs(
    cell: Tensor, chosen: Tensor, cells: int, modules: int, *, rows: int
) -> Float64[Tensor, "pairs marks modules"]:
    """Count for each two modules the samples that chose both; then, for each cell, the choices.

    Samples are marked, 1 where a module was chosen and where the cell is theirs (``rows`` is the
    number of cells, or 0 to leave them out), and the marks multiplied. On a CPU that is a product
    of bytes, which is exact and several times cheaper than one of floats.
    """
    width = 1 + modules + rows + 1  # one column more at each end, for "none"
    kind = torch.int8 if cell.device.type == "cpu" else torch.float32
    total = torch.zeros(len(cell), modules + rows, modules, dtype=torch.float64, device=cell.device)
    padded = bool((cell == cells).any())
    for part in _chunks(cell.shape[1], 4, 0):
        for pair in range(len(cell)):
            own, picks = cell[pair, part, None], chosen[pair, part].long()
            if padded:
                picks = torch.where(own < cells, picks, -1)
            start = torch.arange(len(own), device=cell.device)[:, None] * width
            marks = torch.zeros(len(own) * width, dtype=kind, device=cell.device)
            marks.index_fill_(0, (picks + (start + 1)).view(-1), 1)
            if rows:
                marks.index_fill_(0, (own + (start + 1 + modules)).view(-1), 1)
            table = marks.view(-1, width)[:, 1:-1]
            total[pair] += _product(table, table[:, :modules])
    return total


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Return ``first.T @ second`` of marks, exactly."""
    if first.dtype is torch.int8:
        return torch._int_mm(first.T, second)  # noqa: SLF001 - the one product of bytes on a CPU
    return first.T @ second


def _scatter_weights(
    cell: Tensor, chosen: Tensor, weight: Tensor, cells: int, modules: int
) -> Float64[Tensor, "pairs cells modules"]:
    """Sum the weights ``(P, N, K)`` of chosen modules by cell and module."""
    width = modules + 1
    total = weight.new_zeros(cell.shape[0], (cells + 1) * width)
    for part in _chunks(cell.shape[1], len(cell), 0):
        index = chosen[:, part].long() + (cell[:, part, None] * width + 1)
        total.scatter_add_(1, index.flatten(1), weight[:, part].flatten(1))
    return total.view(-1, cells + 1, width)[:, :cells, 1:]


def _equal_weights(
    cell: Tensor, chosen: Tensor, parts: dict[str, Tensor], cells: int, modules: int
) -> dict[str, Tensor]:
    """Return mass and entropy when each of a sample's K chosen modules gets 1/K."""
    if bool((parts["selections"].sum(-1) == chosen.shape[-1] * parts["samples"]).all()):
        mass = parts["selections"] / chosen.shape[-1]
    else:
        taken = (chosen >= 0).sum(-1, keepdim=True).clamp(min=1)
        share = (1 / taken.double()).expand(chosen.shape)
        mass = _scatter_weights(cell, chosen, share, cells, modules)
    return {"mass": mass, "entropy": parts["selection_entropy"]}


def _assemble(
    parts: dict[str, Tensor], batch: torch.Size, blocks: int, rules: int, modules: int
) -> RoutingCounts:
    """Unfold the axes P into the batch, and cells into blocks and rules."""
    shapes = {
        "mass": (blocks, rules, modules),
        "selections": (blocks, rules, modules),
        "samples": (blocks, rules),
        "entropy": (blocks, rules),
        "selection_entropy": (blocks, rules),
        "coactivation": (modules, modules),
    }
    return RoutingCounts(
        **{name: parts[name].reshape(*batch, *shape) for name, shape in shapes.items()}
    )
