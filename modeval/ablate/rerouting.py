"""Routing around removed modules: the router chooses again, as if they were not there.

A pruning tool takes the rows of removed experts out of the router. Here the router's own code runs
with those rows' logits at minus ten thousand and, where biases or groups take part, with those
modules last in the selection, so that softmax, biases, groups and scales stay the router's own.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

BANNED = -1e4
"""Logit of a removed module: its exponential is zero in every precision, and all can hold it."""

_LINEAR: set[Any] = {
    torch.nn.functional.linear,
    torch.matmul,
    torch.mm,
    Tensor.matmul,
    Tensor.mm,
    Tensor.__matmul__,
}
_TOPK: set[Any] = {torch.topk, Tensor.topk}


class Without(TorchFunctionMode):
    """Runs the code of a router as if some of its modules did not exist.

    Attributes:
        removed: ``(M,)`` the modules that do not exist.
        logits: whether matrix products of width M are the logits; where a router has several such
            products, only its selection is changed.
    """

    def __init__(self, removed: Bool[Tensor, " modules"], *, logits: bool) -> None:
        super().__init__()
        self.removed, self.logits = removed, logits

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Ban in logits and in selections; leave all else as it is."""
        del types
        kwargs = kwargs or {}
        if func in _TOPK and self._wide(args[0]):
            return self._topk(func, args, kwargs)
        output = func(*args, **kwargs)
        if self.logits and func in _LINEAR and self._wide(output):
            return output.masked_fill(self._gone(output), BANNED)
        return output

    def _gone(self, table: Tensor) -> Tensor:
        """Return what to ban of a table, which may have a column more: that of no module."""
        more = table.shape[-1] - len(self.removed)
        return torch.nn.functional.pad(self.removed, (0, more)).to(table.device)

    def _wide(self, part: Any) -> bool:
        return (
            isinstance(part, Tensor)
            and part.is_floating_point()
            and part.ndim > 0
            and part.shape[-1] - len(self.removed) in (0, 1)
        )

    def _topk(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Select among those that are there; the values are those that were selected from."""
        table = args[0]
        last = table.masked_fill(self._gone(table), float("-inf"))
        index = func(last, *args[1:], **kwargs)[1]
        return torch.return_types.topk((table.gather(-1, index), index))


def logits_are_known(router: nn.Module, modules: int) -> bool:
    """Tell whether a router has one matrix of M rows, so that its product is the logits."""
    rows = [
        part
        for part in cast("Iterable[Tensor]", router.parameters())
        if part.shape[:1] == (modules,)
    ]
    return sum(part.ndim == 2 for part in rows) == 1  # noqa: PLR2004 - a matrix
