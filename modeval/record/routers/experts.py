"""What the experts of a block were called with, against what its router is read to have chosen.

Of code that nothing is known of, only the logits of a router may be seen, and their K largest are
the choice only when nothing comes between: no bias, no noise, no capacity, no choice by the
experts. That shows in how many rows each expert is given, which is looked at in each call.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from modeval.errors import TraceError
from modeval.record.routers.readers import Router

Hook = Callable[[RemovableHandle], None]


@dataclass(slots=True)
class ExpertWatch:
    """One router whose choices are in doubt, and the experts beside it.

    Attributes:
        router: the router.
        experts: its experts, one module each; empty when they are not modules.
        chosen: what it is read to have chosen since its block was called.
        rows: rows that each expert was given since.
        inferred: whether the largest logits were ever taken for the choice.
        agreed: whether the experts ever confirmed what was read.
    """

    router: Router
    experts: tuple[nn.Module, ...]
    chosen: list[Int[Tensor, "rows choices"]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    inferred: bool = False
    agreed: bool = False


def watch(router: Router, keep: Hook, deaf: Callable[[], bool]) -> ExpertWatch:
    """Begin to count the rows that the experts beside a router are given.

    Args:
        router: the router.
        keep: is given the hooks.
        deaf: whether what happens now does not count.
    """
    seen = ExpertWatch(router, tuple(_experts(router)))
    if seen.experts:
        keep(router.parent.register_forward_pre_hook(partial(_begin, seen, deaf)))
        keep(router.parent.register_forward_hook(partial(_end, seen, deaf)))
    for number, expert in enumerate(seen.experts):
        hook = partial(_count, seen, deaf, number)
        keep(expert.register_forward_pre_hook(hook, with_kwargs=True))
    return seen


def note(seen: ExpertWatch, chosen: Int[Tensor, "rows choices"], *, inferred: bool) -> None:
    """Keep what a router is read to have chosen, perhaps by its logits."""
    seen.inferred = seen.inferred or inferred
    if seen.rows:
        seen.chosen.append(chosen)


def _begin(seen: ExpertWatch, deaf: Callable[[], bool], module: nn.Module, arguments: Any) -> None:
    del module, arguments
    if not deaf():
        seen.chosen.clear()
        seen.rows[:] = [0] * len(seen.experts)


def _count(  # noqa: PLR0917 - hooks are called by position
    seen: ExpertWatch,
    deaf: Callable[[], bool],
    number: int,
    module: nn.Module,
    arguments: tuple[Any, ...],
    by_name: dict[str, Any],
) -> None:
    del module
    parts = (*arguments, *by_name.values())
    given = next((part for part in parts if isinstance(part, Tensor) and part.ndim), None)
    if given is not None and seen.rows and not deaf():
        seen.rows[number] += given.numel() // max(given.shape[-1], 1)


def _end(
    seen: ExpertWatch, deaf: Callable[[], bool], module: nn.Module, arguments: Any, output: Any
) -> None:
    del module, arguments, output
    if not deaf():
        compare(seen)
        seen.chosen.clear()
        seen.rows.clear()


def _experts(router: Router) -> Iterator[nn.Module]:
    lists = []
    for child in router.parent.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)) and len(child) > 1:
            parts = list(child.children())  # a dropout may stand beside the experts
            parts = [part for part in parts if type(part) is type(parts[0])]
            lists.append(parts)
    fitting = [parts for parts in lists if len(parts) == (router.modules or len(parts))]
    if len(fitting) == 1:
        yield from fitting[0]


def compare(seen: ExpertWatch) -> None:
    """Compare what a router is read to have chosen with the rows that its experts were given.

    An expert that was given every token is one whose result is masked afterwards: its rows tell
    nothing.

    Raises:
        TraceError: an expert was given more or fewer tokens than chose it.
    """
    if not seen.chosen or not any(seen.rows):
        return
    chosen = torch.cat(seen.chosen)
    counts = torch.bincount(chosen[chosen >= 0].reshape(-1), minlength=len(seen.experts)).tolist()
    tokens = len(chosen)
    for number, (mine, rows) in enumerate(zip(counts, seen.rows, strict=True)):
        if rows not in (mine, tokens):
            between = (
                "a bias, noise, a capacity or a choice by the experts comes between. Say what is "
                f"chosen: modeval.record(model, routers={{{seen.router.name!r}: function}}), or "
                "name with routers= a module that returns it"
            )
            raise TraceError(
                f"Expert {number} of {seen.router.name} was given {rows} tokens, and what was read "
                f"of its router chooses it for {mine}: {seen.router.doubt or between}."
            )
    seen.agreed = seen.agreed or counts == seen.rows
