"""What each module contributes, as one pass over the data tells it: four scores that prune.

Experts are called with each choice as a row of its own, which is the same arithmetic in another
order, so that the output of every module is seen for every token that chose it.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modeval.ablate.losses import add_losses, run_batch
from modeval.ablate.result import Contribution
from modeval.ablate.seams import Seam, passed, passing_on
from modeval.record.corpus import TokenBatch
from modeval.record.recording import record

Told = Callable[[int], None]


@dataclass(slots=True)
class _Heard:
    """Sums of one layer: ``(R + 1, M + 1)``, the last row and column for what does not count.

    Attributes:
        seam: the layer.
        output: sum over tokens of weight times the norm of a module's output.
        peak: largest number in a module's output, by size.
        label: ``(N,)`` label of each row of the batch that runs; R for padding.
        pending: what the experts of a call were given, until they return.
        whole: whether all calls were of all rows.
    """

    seam: Seam
    output: Tensor
    peak: Tensor
    label: Tensor | None = None
    pending: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    whole: bool = True


def contributions(
    model: nn.Module,
    seams: Sequence[Seam],
    batches: Sequence[TokenBatch],
    labels: Sequence[str],
    *,
    routers: Sequence[str] | None = None,
    documents: int,
    told: Told | None = None,
) -> tuple[tuple[Contribution, ...], NDArray[np.float64]]:
    """Return what each module contributes to each label, and the loss of each document.

    Args:
        model: a causal language model, in evaluation.
        seams: its layers.
        batches: its texts.
        labels: names of the labels.
        routers: names of the routers, when they are not found.
        documents: number of documents.
        told: is told the tokens that are done.
    """
    total = torch.zeros(documents, dtype=torch.float64)
    done = 0
    recording = record(model, labels, routers=list(routers) if routers else None)
    with torch.inference_mode(), recording, _listening(seams, len(labels)) as heard:
        for batch in batches:
            recording.label(batch.label, documents=batch.document)
            _settle(heard, batch, len(labels))
            add_losses(total, batch, run_batch(model, batch))
            done += batch.tokens
            if told is not None:
                told(done)
    counted = {
        recording.layers[number]: (group.counts.selections[place], group.counts.mass[place])
        for group in recording.groups(local=True)
        for place, number in enumerate(group.layers)
    }
    found = tuple(_contribution(seam, counted[seam.name], heard) for seam in seams)
    losses: NDArray[np.float64] = total.numpy()
    return found, losses


def _settle(heard: Sequence[_Heard], batch: TokenBatch, rules: int) -> None:
    label = torch.where(batch.attention_mask > 0, batch.label.unsqueeze(1), rules).flatten()
    for one in heard:
        one.label = label


@contextlib.contextmanager
def _listening(seams: Sequence[Seam], rules: int) -> Iterator[list[_Heard]]:
    heard = []
    with contextlib.ExitStack() as exits:
        for seam in seams:
            if seam.passing != "experts":
                continue
            shape = (rules + 1, seam.modules + 1)
            device = next(seam.router.parameters()).device
            one = _Heard(
                seam,
                torch.zeros(shape, device=device, dtype=torch.float64),
                torch.zeros(shape, device=device),
            )
            before = seam.experts.register_forward_pre_hook(partial(_spread, one), with_kwargs=True)
            after = seam.experts.register_forward_hook(partial(_gather, one))
            exits.callback(before.remove)
            exits.callback(after.remove)
            heard.append(one)
        yield heard


def _spread(
    heard: _Heard, experts: nn.Module, arguments: tuple[Any, ...], by_name: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Give each choice a row of its own, with the weight one."""
    hidden, chosen, weight = passed(experts, arguments, by_name)
    if heard.label is None or len(chosen) != len(heard.label):
        heard.whole = False
        return None
    heard.pending.append((hidden, chosen, weight))
    flat = hidden.reshape(-1, hidden.shape[-1]).repeat_interleave(chosen.shape[-1], 0)
    one = torch.ones_like(weight).reshape(-1, 1)
    return passing_on(experts, arguments, by_name, (flat, chosen.reshape(-1, 1), one))


def _gather(heard: _Heard, experts: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
    """Add up what each module gave, and return what the experts would have returned."""
    del experts, arguments
    if not heard.pending:
        return None
    hidden, chosen, weight = heard.pending.pop()
    each = output.reshape(*chosen.shape, -1)
    size = torch.linalg.vector_norm(each, dim=-1, dtype=torch.float32)
    rows = torch.as_tensor(heard.label, device=chosen.device).unsqueeze(1)
    wide = heard.output.shape[-1]
    place = (rows * wide + chosen.long().clamp(0, wide - 1)).flatten()
    heard.output.view(-1).index_add_(0, place, (size * weight).flatten().double())
    largest = each.abs().amax(-1).float().flatten()
    heard.peak.view(-1).scatter_reduce_(0, place, largest, "amax")
    mixed = torch.einsum("nk,nkd->nd", weight.to(each.dtype), each)
    return mixed.reshape(hidden.shape).to(hidden.dtype)


def _contribution(
    seam: Seam, counted: tuple[Tensor, Tensor], heard: Sequence[_Heard]
) -> Contribution:
    selections, mass = (part.sum(0).double().cpu().numpy() for part in counted)
    mine = next((one for one in heard if one.seam is seam and one.whole), None)
    return Contribution(
        layer=seam.name,
        choices=seam.choices,
        routed=selections,
        weight=mass,
        output=None if mine is None else mine.output[:-1, :-1].cpu().numpy(),
        peak=None if mine is None else mine.peak[:-1, :-1].double().cpu().numpy(),
    )
