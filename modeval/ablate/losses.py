"""The loss of a language model, document by document."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modeval.errors import CheckpointError
from modeval.record.corpus import TokenBatch

VALUES_AT_ONCE = 1 << 24
"""Numbers whose logarithms are taken at once, in 32 bits: 64 MB."""


def run_batch(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Return the negative log likelihood of each token ``(B, T - 1)``, zero where there is none.

    Raises:
        CheckpointError: the model gives no logits of the next token.
    """
    device = next(model.parameters()).device
    ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
    output: Any = model(input_ids=ids, attention_mask=mask, use_cache=False)
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.shape[:2] != ids.shape:
        raise CheckpointError(
            f"{type(model).__name__} gives no logits for each token of a text, so it has no loss "
            "to compare: expected a causal language model."
        )
    real = mask[:, 1:] * mask[:, :-1]
    losses = _of_tokens(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return losses.view(real.shape) * real


def _of_tokens(logits: Tensor, targets: Tensor) -> Tensor:
    rows = max(VALUES_AT_ONCE // logits.shape[-1], 1)
    parts = [
        torch.nn.functional.cross_entropy(part.float(), target, reduction="none")
        for part, target in zip(logits.split(rows), targets.split(rows), strict=True)
    ]
    return torch.cat(parts)


def document_losses(
    model: nn.Module, batches: Sequence[TokenBatch], documents: int
) -> NDArray[np.float64]:
    """Return the summed loss of each document ``(D,)``, in nats.

    Args:
        model: a causal language model.
        batches: its texts.
        documents: number of documents D.
    """
    total = torch.zeros(documents, dtype=torch.float64)
    with torch.inference_mode():
        for batch in batches:
            add_losses(total, batch, run_batch(model, batch))
    found: NDArray[np.float64] = total.numpy()
    return found


def add_losses(total: Tensor, batch: TokenBatch, losses: Tensor) -> None:
    """Add the losses of the tokens of a batch to those of their documents."""
    total.index_add_(0, batch.document, losses.double().sum(1).cpu())


def predicted_tokens(batches: Sequence[TokenBatch], documents: int) -> NDArray[np.float64]:
    """Return how many tokens of each document have a loss ``(D,)``: all but the first."""
    total = torch.zeros(documents, dtype=torch.float64)
    for batch in batches:
        mask = batch.attention_mask
        total.index_add_(0, batch.document, (mask[:, 1:] * mask[:, :-1]).sum(1).double())
    found: NDArray[np.float64] = total.numpy()
    return found


def labels_of(batches: Sequence[TokenBatch], documents: int) -> NDArray[np.int64]:
    """Return the number of the label of each document ``(D,)``, -1 for one that is in no batch."""
    label = torch.full((documents,), -1)
    for batch in batches:
        label[batch.document] = batch.label
    found: NDArray[np.int64] = label.numpy()
    return found


def fingerprint(batches: Sequence[TokenBatch]) -> str:
    """Return a digest of the texts as a model gets them."""
    import hashlib  # noqa: PLC0415 - for runs that are kept alone

    digest = hashlib.sha256()
    for part in _parts(batches):
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()[:16]


def _parts(batches: Sequence[TokenBatch]) -> Iterator[Tensor]:
    for batch in batches:
        yield batch.input_ids
        yield batch.attention_mask
        yield batch.label
