"""Change a model's routing while it runs: modules removed, in one of four ways.

=============  ==================================================================================
``reroute``    the router chooses among those that are left, as after pruning
``zero``       the tokens of a removed module lose what it would have added
``renormalise``  the same, and the modules that are left of a token take over its weight
``swap``       a removed module's tokens go to another that is left, with the same weight
=============  ==================================================================================

``zero`` asks what a module contributes, ``reroute`` what is lost when it goes, ``swap`` whether it
matters which module computes: three questions with different answers.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from modeval.ablate.rerouting import Without, logits_are_known
from modeval.ablate.seams import Seam, passed, passing_on
from modeval.errors import TraceError

Removal = Literal["reroute", "renormalise", "zero", "swap"]
REMOVALS: tuple[Removal, ...] = get_args(Removal)


@dataclass(slots=True)
class Change:
    """What is changed at one layer, and how often the router could not choose another module.

    Attributes:
        removed: ``(M + 1,)`` whether a module is removed; the last stands for none.
        removal: how it is removed.
        partner: ``(M + 1,)`` module that takes the tokens of each, for ``swap``.
        slots: choices that were looked at, and those of removed modules that rerouting left.
        mode: the router's code without the removed modules, while it runs.
    """

    removed: Bool[Tensor, " modules"]
    removal: Removal
    partner: Int[Tensor, " modules"]
    slots: list[Tensor] = field(default_factory=list)
    mode: Without | None = None


@contextlib.contextmanager
def changed(
    seams: Sequence[Seam],
    kept: Sequence[Bool[Tensor, " modules"]],
    removal: Removal,
    *,
    seed: int = 0,
) -> Iterator[tuple[Change, ...]]:
    """Return a context in which a model runs without some of its modules.

    Args:
        seams: layers, from :func:`~modeval.ablate.seams.find_seams`.
        kept: for each layer ``(M,)`` which of its modules are left, one at least.
        removal: what happens to the tokens of the others.
        seed: draws who takes over whose tokens, for ``swap``.

    Whatever happens inside, the model is as it was afterwards: nothing of it is written to.
    """
    changes = tuple(
        _change(one, removal, torch.Generator().manual_seed(seed + layer))
        for layer, one in enumerate(kept)
    )
    with contextlib.ExitStack() as exits:
        for seam, change in zip(seams, changes, strict=True):
            if bool(change.removed.any()):
                _install(seam, change, lambda handle: exits.callback(handle.remove))
        yield changes


def unrouted(changes: Sequence[Change]) -> float:
    """Return the share of choices that still fell on removed modules, of all that were made."""
    slots = [part for change in changes for part in change.slots]
    if not slots:
        return 0.0
    left, seen = torch.stack([part.cpu() for part in slots]).sum(0).tolist()
    return float(left / max(seen, 1))


def _change(kept: Tensor, removal: Removal, generator: torch.Generator) -> Change:
    removed = torch.cat([~kept, torch.zeros(1, dtype=torch.bool)])
    there = kept.nonzero().flatten()
    partner = torch.arange(len(removed))
    drawn = torch.randint(len(there), (len(kept),), generator=generator)
    partner[:-1] = torch.where(kept, partner[:-1], there[drawn])
    return Change(removed, removal, partner)


def _install(seam: Seam, change: Change, keep: Callable[[RemovableHandle], Any]) -> None:
    if change.removal == "reroute":
        known = logits_are_known(seam.router, seam.modules)
        change.mode = Without(change.removed[:-1], logits=known)
        keep(seam.router.register_forward_pre_hook(partial(_enter, change.mode)))
        # `always_call`: the code after a router that failed is not to run without modules
        keep(seam.router.register_forward_hook(partial(_leave, change.mode), always_call=True))
    if seam.passing == "experts":
        hook = partial(_at_experts, change)
        keep(seam.experts.register_forward_pre_hook(hook, with_kwargs=True))
    elif seam.passing == "marks":
        hook = partial(_at_marks, change)
        keep(seam.experts.register_forward_pre_hook(hook, with_kwargs=True))
    else:
        change_output = _table if seam.passing == "table" else _sorted
        keep(seam.router.register_forward_hook(partial(change_output, change)))


def _enter(mode: Without, router: nn.Module, arguments: Any) -> None:
    del router, arguments
    mode.__enter__()  # type: ignore[no-untyped-call, unused-ignore]


def _leave(mode: Without, router: nn.Module, arguments: Any, output: Any) -> None:
    del router, arguments, output
    mode.__exit__(None, None, None)  # type: ignore[no-untyped-call, unused-ignore]


# --- what passes at the seams ---------------------------------------------------------------------


def _at_experts(
    change: Change, experts: nn.Module, arguments: tuple[Any, ...], by_name: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    hidden, chosen, weight = passed(experts, arguments, by_name)
    new = _other_choices(change, chosen, weight)
    return passing_on(experts, arguments, by_name, (hidden, *new))


def _at_marks(
    change: Change, experts: nn.Module, arguments: tuple[Any, ...], by_name: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Change marks ``(N, 1, M)`` and weights ``(N, 1)``: a token without a mark has no module."""
    hidden, mark, weight = passed(experts, arguments, by_name)
    most, chosen = mark.max(-1)
    chosen = torch.where(most > 0, chosen, mark.shape[-1])
    swapped, weight = _other_choices(change, chosen, weight)
    marks = torch.nn.functional.one_hot(swapped, mark.shape[-1] + 1)[..., :-1].to(mark.dtype)
    return passing_on(experts, arguments, by_name, (hidden, marks, weight))


def _other_choices(
    change: Change, chosen: Int[Tensor, "rows choices"], weight: Float[Tensor, "rows choices"]
) -> tuple[Int[Tensor, "rows choices"], Float[Tensor, "rows choices"]]:
    """Return what experts are called with instead."""
    place = chosen.long().clamp(0, len(change.removed) - 1)
    if change.removal == "swap":
        return change.partner.to(chosen.device)[place].to(chosen.dtype), weight
    gone = change.removed.to(chosen.device)[place]
    if change.removal == "reroute":
        change.slots.append(torch.stack([gone.sum(), torch.tensor(gone.numel()).to(gone.device)]))
    left = weight.masked_fill(gone, 0)
    if change.removal == "zero":
        return chosen, left
    return chosen, _taking_over(left, weight)


def _taking_over(
    left: Float[Tensor, "rows choices"], weight: Float[Tensor, "rows choices"]
) -> Float[Tensor, "rows choices"]:
    """Return the weights that are left, with the sum that all had; none where none is left."""
    had, has = weight.sum(-1, keepdim=True), left.sum(-1, keepdim=True)
    grown: Tensor = left * torch.where(has == 0, torch.zeros_like(has), had / has)
    return grown


def _table(change: Change, router: nn.Module, arguments: Any, output: Any) -> Any:
    """Change a table ``(N, M)`` of weights, zero for modules that were not chosen."""
    del router, arguments
    table, *others = output
    removed = change.removed[:-1].to(table.device)
    if change.removal == "swap":
        partner = change.partner[:-1].to(table.device).expand(table.shape)
        return (torch.zeros_like(table).scatter_add(-1, partner, table), *others)
    left = table.masked_fill(removed, 0)
    if change.removal == "zero":
        return (left, *others)
    return (_taking_over(left, table), *others)


def _sorted(change: Change, router: nn.Module, arguments: Any, output: Any) -> Any:
    """Change the weights of rows sorted by expert: (order, rows, weights, sizes, logits)."""
    del arguments
    order, row, weight, sizes, logits = output
    chosen = torch.repeat_interleave(
        torch.arange(len(change.removed) - 1, device=weight.device),
        torch.as_tensor(sizes, device=weight.device),
    )
    gone = change.removed.to(weight.device)[chosen]
    left = weight.masked_fill(gone, 0)
    if change.removal in ("renormalise", "reroute"):
        had, has = (
            torch.zeros(len(logits)).to(weight).index_add(0, row, w) for w in (weight, left)
        )
        grown = torch.where(has == 0, torch.zeros_like(has), had / has)
        left = left * grown[row]
    elif change.removal == "swap":
        raise _cannot_swap(router)
    return (order, row, left, sizes, logits)


def _cannot_swap(router: nn.Module) -> TraceError:
    return TraceError(
        f"{type(router).__name__} sorts tokens by expert itself, so that they cannot be sent to "
        "another: expected --removal reroute, renormalise or zero."
    )
