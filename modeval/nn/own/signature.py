"""Whether what a file of the user's defines can be called as it will be, said in its own terms."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from modeval.errors import CodeError


def require_call(
    called: Callable[..., Any], values: Sequence[str], expected: str, name: str
) -> None:
    """Refuse what cannot be called with some arguments by position.

    Args:
        called: function, class or bound method.
        values: names of the arguments.
        expected: how it is called, and with what.
        name: of what is called, for messages.

    Raises:
        CodeError: it takes other arguments.

    >>> require_call(lambda logits, scale: logits, ["logits"], "f(logits) -> weights", "f")
    Traceback (most recent call last):
    modeval.errors.CodeError: f takes (logits, scale): expected f(logits) -> weights...
    """
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # written in C: it is tried as it is
        return
    try:
        signature.bind(*values)
    except TypeError:
        rest = [*signature.parameters.values()][len(values) :]
        needed = [
            each.name
            for each in rest
            if each.default is inspect.Parameter.empty
            and each.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        ]
        more = f" Give {', '.join(needed)} a default, or leave it out." if needed else ""
        raise CodeError(f"{name} takes {signature}: expected {expected}.{more}") from None


def require_tensor(value: Any, expected: str, name: str, *, finite: bool = True) -> Tensor:
    """Refuse what is no tensor of floating-point numbers, or not finite.

    Args:
        value: what was returned.
        expected: in words, with its shape.
        name: of what returned it, for messages.
        finite: whether its numbers are to be finite.

    Raises:
        CodeError: says what it is.
    """
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise CodeError(f"{name} returned {kind}: expected {expected}, as a torch.Tensor.")
    if not value.is_floating_point():
        raise CodeError(
            f"{name} returned numbers of {value.dtype}: expected {expected}, in floating point, "
            "as .float() gives it."
        )
    if finite and not value.is_meta and not bool(torch.isfinite(value).all()):
        raise CodeError(
            f"{name} returned numbers that are not finite (NaN or infinite) before any training: "
            f"expected {expected}. Look for a division by 0, or a logarithm of it."
        )
    return value
