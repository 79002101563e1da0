"""Which tokens of a call are padding: masks of any shape, and caches of earlier tokens.

A mask of two axes says it outright. One of three or four (batch, heads, queries, keys) says what
attends to what: padding is a key that not even its own query attends to. Where that leaves two
readings, the call is refused: padding is known, or its absence is said.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from modeval.errors import TraceError

CACHES = ("cache", "past_key_values", "cache_params")  # renamed in transformers 5.24
MARKS = 2  # axes of a mask of tokens: samples, positions
TABLES = (3, 4)  # axes of a mask of pairs: samples, perhaps heads, queries, keys
BY_HAND = "Say which tokens count: recording.label(labels, mask=ones_and_zeros)."


@dataclass(frozen=True, slots=True)
class Past:
    """What a call was given of earlier tokens.

    Attributes:
        cached: whether there is a cache at all, be it empty.
        tokens: how many tokens it holds; nothing when it does not say.
    """

    cached: bool = False
    tokens: int | None = 0

    @property
    def filled(self) -> bool:
        """Return whether there were earlier tokens; a cache without a length is said to be full."""
        return self.tokens is None or self.tokens > 0


NOTHING = Past()


def past_of(given: Mapping[str, Any]) -> Past:
    """Return what the inputs of a call hold of earlier tokens."""
    cache = next((given[name] for name in CACHES if given.get(name) is not None), None)
    if cache is None:
        return NOTHING
    if isinstance(cache, (tuple, list)):
        return Past(cached=True, tokens=_of_tuples(cache))
    length = getattr(cache, "get_seq_length", None)
    try:  # a cache of fixed size counts on its device: this waits for it
        return Past(cached=True, tokens=None if length is None else int(length()))
    except (ValueError, IndexError, AttributeError, NotImplementedError, TypeError):
        return Past(cached=True, tokens=None)  # a cache of states alone, without a length


def _of_tuples(cache: tuple[Any, ...] | list[Any]) -> int | None:
    """Read the older form: for each layer a pair of keys and values ``(B, heads, T, width)``."""
    if not cache:
        return 0
    keys = cache[0][0] if isinstance(cache[0], (tuple, list)) and cache[0] else None
    return int(keys.shape[-2]) if isinstance(keys, Tensor) and keys.ndim in TABLES else None


def token_mask(
    mask: Any, batch: int | None, length: int | None, past: int
) -> Bool[Tensor, "batch positions"] | None:
    """Return the mask ``(B, past + T)`` or ``(B, T)`` of tokens that are not padding.

    Args:
        mask: the mask that the model was given: a tensor of 2 to 4 axes, or a mapping of these by
            kind of attention. Nothing when there is none, or when it masks nothing.
        batch: samples B.
        length: positions T of this call.
        past: tokens that came before.

    Raises:
        TraceError: it fits no token, or it has two readings.

    >>> causal = torch.ones(1, 1, 3, 3).tril().bool()
    >>> padded = causal & torch.tensor([False, True, True])
    >>> token_mask(padded, 1, 3, 0)
    tensor([[False,  True,  True]])
    >>> token_mask(causal, 1, 3, 0) is None
    True
    """
    if isinstance(mask, Mapping):
        parts = [mask.get("full_attention"), *mask.values()]
        mask = next((part for part in parts if part is not None), None)
    if mask is None or batch is None or length is None:
        return None
    if not isinstance(mask, Tensor):
        raise TraceError(
            f"The attention mask is a {type(mask).__name__}, which does not say which tokens are "
            f"padding. {BY_HAND}"
        )
    if mask.ndim == MARKS and mask.shape[0] == batch and mask.shape[1] >= length:
        return marks(mask)
    if mask.ndim in TABLES and mask.shape[0] in (1, batch) and mask.shape[-2] == length:
        real = _attended(mask, length, past).expand(batch, length)
        return None if bool(real.all()) else real
    raise TraceError(
        f"The attention mask has the shape {list(mask.shape)}, and the tokens {[batch, length]}: "
        f"nothing says which tokens are padding. {BY_HAND}"
    )


def marks(mask: Shaped[Tensor, "*rows keys"]) -> Bool[Tensor, "*rows keys"]:
    """Return where a mask is one rather than zero."""
    return mask.round() > 0 if mask.is_floating_point() else mask > 0


def _attended(mask: Tensor, length: int, past: int) -> Tensor:
    """Return ``(B or 1, T)`` whether each token attends to itself."""
    heads = mask if mask.ndim == max(TABLES) else mask.unsqueeze(1)
    table = heads.any(1) if mask.dtype == torch.bool else _allowed(heads.amax(1))
    start = min(past, max(table.shape[-1] - length, 0))
    square = table[..., start : start + length]
    real = square.diagonal(dim1=-2, dim2=-1)
    if length > 1:
        others = table.sum(-1) - real.long()  # keys that a query attends to beside itself
        alone = real & (others == 0) & (square.sum(-2) == 1) & (real.sum(-1, keepdim=True) > 1)
        if bool(alone.any()):
            raise TraceError(
                "The attention mask has tokens that attend to themselves alone: padding, or "
                f"documents of one token. {BY_HAND}"
            )
    return real


def _allowed(table: Tensor) -> Tensor:
    """Return ``(B, T, K)`` what a mask of numbers allows: ones among zeros, or zeros among -inf."""
    return marks(table) if bool((table > 0).any()) else table > -1.0
