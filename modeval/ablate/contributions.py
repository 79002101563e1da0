"""What each module contributes, as one pass over the data tells it: four scores that prune.

Where experts are told what was chosen, their calls say how often and with which weight, too, so
that nothing else is recorded: that is what keeps the pass within a tenth of a bare one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modeval.ablate.listening import Heard, listening, settle
from modeval.ablate.losses import add_losses, run_batch
from modeval.ablate.result import Contribution
from modeval.ablate.seams import Seam
from modeval.record.corpus import TokenBatch
from modeval.record.recording import record

Told = Callable[[int], None]


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
    run = _Run(model, batches, documents, told)
    with listening(model, seams, len(labels)) as heard:
        if all(seam.passing == "experts" for seam in seams):
            losses = run.losses(lambda batch: settle(heard, batch, len(labels)))
            if all(one.told for one in heard):
                return tuple(map(_heard, heard)), losses
    with listening(model, seams, len(labels)) as heard:
        recording = record(model, labels, routers=list(routers) if routers else None)

        def labelled(batch: TokenBatch) -> None:
            recording.label(batch.label, documents=batch.document)
            settle(heard, batch, len(labels))

        with recording:
            losses = run.losses(labelled)
    counted = {
        recording.layers[number]: (group.counts.selections[place], group.counts.mass[place])
        for group in recording.groups(local=True)
        for place, number in enumerate(group.layers)
    }
    return tuple(_contribution(seam, counted[seam.name], heard) for seam in seams), losses


@dataclass(frozen=True, slots=True)
class _Run:
    """A model and its texts; what has to be told before each batch differs."""

    model: nn.Module
    batches: Sequence[TokenBatch]
    documents: int
    told: Told | None

    def losses(self, settle: Callable[[TokenBatch], None]) -> NDArray[np.float64]:
        """Run all texts; return the loss of each document."""
        total = torch.zeros(self.documents, dtype=torch.float64)
        done = 0
        with torch.inference_mode():
            for batch in self.batches:
                settle(batch)
                add_losses(total, batch, run_batch(self.model, batch))
                done += batch.tokens
                if self.told is not None:
                    self.told(done)
        losses: NDArray[np.float64] = total.numpy()
        return losses


def _heard(heard: Heard) -> Contribution:
    routed, weight, output, peak = (
        part[:-1, :-1].double().cpu().numpy()
        for part in (heard.routed, heard.weight, heard.output, heard.peak)
    )
    return Contribution(heard.seam.name, heard.seam.choices, routed, weight, output, peak)


def _contribution(
    seam: Seam, counted: tuple[Tensor, Tensor], heard: Sequence[Heard]
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
