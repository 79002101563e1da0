"""Core types, and the letters of their axes.

    S  seeds of a cohort         N  samples
    L  routed layers             T  positions of a sequence
    B  replicate blocks          R  ground-truth rules
    K  chosen modules            M  modules

Leading axes ``...`` are batch axes: every metric maps over them.
"""

import ctypes
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from modeval.counting import kernel
from modeval.errors import TraceError

Prior = Literal["uniform", "empirical"]
"""How rules are weighted: each the same, or each by its share of the samples."""

View = Literal["weight", "assignment"]
"""What is counted: the routing weights, or each chosen module as 1/K (the largest when dense)."""

ONE_HOT_CELLS = 32  # up to here a one-hot product folds dense weights faster than a scatter
CHUNK = 1 << 16  # samples folded at a time: what is made on the way stays in the cache
CUTS = 8  # of a long stream for threads; a number of its own, so that sums do not depend on theirs
MASS_TOLERANCE = 1e-2  # weights of a sample may sum to 1 up to the rounding of 16-bit floats


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of a rule task for a cohort, the same number for each seed.

    Attributes:
        inputs: ``(S, N, F)``, or ``(S, N, T, F)`` for sequences: what a model sees beside the rule.
        rule: ``(S, N)``, or ``(S, N, T)``: the ground-truth rule of each sample or position.
        target: ``(S, N, D)``, or ``(S, N, T, D)``: real values, or 0 and 1 for classification.
    """

    inputs: Float[Tensor, "seeds samples *positions features"]
    rule: Int64[Tensor, "seeds samples *positions"]
    target: Float[Tensor, "seeds samples *positions outputs"]

    def seed(self, index: int) -> "Batch":
        """Return the part of one seed as a cohort of one."""
        part = slice(index, index + 1)
        return Batch(self.inputs[part], self.rule[part], self.target[part])

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on ``device``."""
        return Batch(self.inputs.to(device), self.rule.to(device), self.target.to(device))


@dataclass(frozen=True, slots=True)
class RoutingBatch:
    """Routing decisions of one batch: which rule each sample had, how its weight was shared out.

    Attributes:
        rule: ``(..., N)`` ground-truth rule, or label, of each sample or token.
        weight: ``(..., N, M)`` routing weights; each row lies in the simplex.
    """

    rule: Int64[Tensor, "*batch samples"]
    weight: Float[Tensor, "*batch samples modules"]


@dataclass(frozen=True, slots=True)
class RoutingCounts:
    """What was routed where: the sufficient statistic of every static metric.

    A commutative monoid: :meth:`zeros` is neutral and ``+`` pools two streams, so batches, shards
    and processes may be added in any order. Its size does not depend on the number of samples.
    Samples whose rule is -1 are padding and count nowhere.

    Attributes:
        mass: ``(..., B, R, M)`` summed routing weight.
        selections: ``(..., B, R, M)`` how often a module was chosen (was the largest, when the
            routing is dense and no choices are given).
        samples: ``(..., B, R)`` samples seen of each rule.
        entropy: ``(..., B, R)`` summed entropy of the routing weights, in nats.
        selection_entropy: ``(..., B, R)`` summed log of the number of modules a sample chose: the
            entropy, in nats, when each chosen module counts the same.
        coactivation: ``(..., M, M)`` how often two modules were chosen for one sample; the diagonal
            counts each module's own choices.

    >>> rule = torch.tensor([0, 0, 1])
    >>> weight = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    >>> counts = RoutingCounts.of(rule, weight, rules=2)
    >>> counts.conditional().tolist()
    [[0.75, 0.25], [0.0, 1.0]]
    >>> (counts + counts).joint().tolist()
    [[0.375, 0.125], [0.0, 0.5]]
    """

    mass: Float64[Tensor, "*batch blocks rules modules"]
    selections: Float64[Tensor, "*batch blocks rules modules"]
    samples: Float64[Tensor, "*batch blocks rules"]
    entropy: Float64[Tensor, "*batch blocks rules"]
    selection_entropy: Float64[Tensor, "*batch blocks rules"]
    coactivation: Float64[Tensor, "*batch modules modules"]

    @classmethod
    def zeros(
        cls,
        *batch: int,
        rules: int,
        modules: int,
        blocks: int = 1,
        device: torch.device | str | None = None,
    ) -> "RoutingCounts":
        """Return the counts of no samples: the neutral element of ``+``."""

        def empty(*shape: int) -> Tensor:
            return torch.zeros(*batch, *shape, dtype=torch.float64, device=device)

        return cls(
            mass=empty(blocks, rules, modules),
            selections=empty(blocks, rules, modules),
            samples=empty(blocks, rules),
            entropy=empty(blocks, rules),
            selection_entropy=empty(blocks, rules),
            coactivation=empty(modules, modules),
        )

    @classmethod
    def of(
        cls,
        rule: Int[Tensor, "*#batch samples"],
        weight: Float[Tensor, "*batch samples modules"],
        *,
        rules: int,
        block: Int[Tensor, "*#batch samples"] | None = None,
        blocks: int = 1,
        chosen: Int[Tensor, "*batch samples choices"] | None = None,
    ) -> "RoutingCounts":
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

    @classmethod
    def of_choices(
        cls,
        rule: Int[Tensor, "*#batch samples"],
        chosen: Int[Tensor, "*batch samples choices"],
        weight: Float[Tensor, "*batch samples choices"] | None = None,
        *,
        rules: int,
        modules: int,
        block: Int[Tensor, "*#batch samples"] | None = None,
        blocks: int = 1,
    ) -> "RoutingCounts":
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

    def __add__(self, other: "RoutingCounts") -> "RoutingCounts":
        if self.mass.shape != other.mass.shape:
            raise TraceError(
                f"Counts of shape {tuple(self.mass.shape)} and {tuple(other.mass.shape)} do not "
                "add: (..., blocks, rules, modules) must be the same. Fold both traces with the "
                "same rules, modules and blocks."
            )
        return RoutingCounts(
            **{name: mine + getattr(other, name) for name, mine in self.tensors().items()}
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def to(self, device: torch.device | str) -> "RoutingCounts":
        """Return the counts on ``device``."""
        return RoutingCounts(**{name: part.to(device) for name, part in self.tensors().items()})

    def pooled(self) -> "RoutingCounts":
        """Return the counts with their blocks summed into one: ``B`` is 1 then."""
        return RoutingCounts(
            mass=self.mass.sum(-3, keepdim=True),
            selections=self.selections.sum(-3, keepdim=True),
            samples=self.samples.sum(-2, keepdim=True),
            entropy=self.entropy.sum(-2, keepdim=True),
            selection_entropy=self.selection_entropy.sum(-2, keepdim=True),
            coactivation=self.coactivation,
        )

    def conditional(self, *, view: View = "weight") -> Float64[Tensor, "*batch rules modules"]:
        """Return A: how each rule shares itself out over the modules. Each row sums to 1.

        ``A[r, m]`` is the mean weight (view ``weight``) or the mean of 1/K over the choices (view
        ``assignment``) of module m over the samples of rule r, blocks pooled.

        Raises:
            TraceError: a rule has no samples, or what was routed is no distribution.
        """
        table, total = self._routed(view)
        return table / total.unsqueeze(-1)

    def prior(self, prior: Prior = "uniform") -> Float64[Tensor, "*batch rules"]:
        """Return the weight of each rule: 1/R, or its share of the samples."""
        samples = self.samples.sum(-2)
        if prior == "uniform":
            return torch.full_like(samples, 1 / samples.shape[-1])
        return samples / samples.sum(-1, keepdim=True)

    def joint(
        self, prior: Prior = "uniform", *, view: View = "weight"
    ) -> Float64[Tensor, "*batch rules modules"]:
        """Return J, the joint distribution of rule and module: ``prior(r) A[r, m]``.

        Raises:
            TraceError: a rule has no samples, or what was routed is no distribution.
        """
        table, total = self._routed(view)
        return table / (total / self.prior(prior)).unsqueeze(-1)

    def _routed(self, view: View) -> tuple[Tensor, Tensor]:
        """Return what was routed, ``(..., R, M)``, and its sum for each rule, when it is sound."""
        part = self.mass if view == "weight" else self.selections
        table = part[..., 0, :, :] if part.shape[-3] == 1 else part.sum(-3)
        samples = self.samples.sum(-2)
        _check_rules(samples)
        total = table.sum(-1)
        if view == "weight":
            _check_mass(table.amin(-1), total, samples)
        _check_routed(total)
        return table, total

    def softness(
        self, prior: Prior = "uniform", *, view: View = "weight"
    ) -> Float64[Tensor, "*batch"]:
        """Return the mean entropy of a sample's routing in nats, rules weighted by the prior.

        Raises:
            TraceError: a rule has no samples, or the entropy of single samples was not recorded.
        """
        entropy = self.entropy if view == "weight" else self.selection_entropy
        samples = self.samples.sum(-2)
        _check_rules(samples)
        mean = (self.prior(prior) * entropy.sum(-2) / samples).sum(-1)
        if bool(mean.isnan().any()):
            raise TraceError(
                "How decided single samples were routed is unknown: only sums were recorded. Leave "
                "out softness and input_distraction, or record the choices of single samples."
            )
        return mean


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


# --- refusals ------------------------------------------------------------------------------------


def _first(wrong: Tensor) -> tuple[int, ...]:
    return tuple(int(number) for number in wrong.nonzero()[0])


def _check_rules(samples: Tensor) -> None:
    empty = ~(samples > 0)  # not a number: never seen by a recording that kept sums only
    if bool(empty.any()):
        rule = _first(empty)[-1]
        raise TraceError(
            f"Rule {rule} has no samples, so nothing can be said of it. Score more samples, or "
            f"leave rule {rule} out (there are {samples.shape[-1]} rules, 0 to "
            f"{samples.shape[-1] - 1})."
        )


def _check_mass(least: Tensor, total: Tensor, samples: Tensor) -> None:
    allowed = samples * (1 + MASS_TOLERANCE)
    wrong = ~((least >= 0) & (total <= allowed))
    if bool(wrong.any()):
        place = _first(wrong)
        raise TraceError(
            f"The routing weights of rule {place[-1]} sum to "
            f"{float(total[place] / samples[place]):.4g} a sample, or some are negative or not a "
            "number: expected weights from 0 to 1 that sum to 1. Record the weights after gating "
            "and divide each sample's by their sum."
        )


def _check_routed(total: Tensor) -> None:
    wrong = ~(total > 0)
    if bool(wrong.any()):
        raise TraceError(
            f"No sample of rule {_first(wrong)[-1]} was routed to any module: all its choices are "
            "-1. Record the choices before modules drop samples for want of capacity."
        )
