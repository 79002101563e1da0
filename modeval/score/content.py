"""Which weights, or which routing, were scored: a digest that tells two checkpoints apart."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def content_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a digest of tensors by name: the same names, types, shapes and bits give the same.

    Args:
        tensors: names and tensors, on any device.

    >>> one = content_digest([("weight", torch.tensor([1.0, 2.0]))])
    >>> one == content_digest([("weight", torch.tensor([1.0, 2.0]))])
    True
    >>> one == content_digest([("weight", torch.tensor([1.0, 2.5]))])
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        kept = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {kept.dtype} {tuple(kept.shape)}\n".encode())
        digest.update(kept.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
