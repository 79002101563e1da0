"""A step recorded once as a CUDA graph, and replayed: a launch instead of hundreds.

A cohort's step is many small operations, and on a GPU starting them takes longer than doing them,
above all for recurrent networks. What is recorded reads and writes memory that stays where it is:
batches are copied into it, and parameters and moments are changed in place as they always are.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from modeval.types import Batch, Noise

WARM_UP = 3  # steps before recording, for what is set up at first use

Step = Callable[[Batch, Tensor, Noise | None], Tensor]


Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]
"""Records what a function launches: gives what launches it again, and where its result lies."""


def cuda_recorder(run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Record on a GPU, after some runs on a stream of their own."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = run()
    return graph.replay, loss


class Graphed:
    """Steps of a cohort by replaying one of them.

    Args:
        step: what is recorded; it may not wait for the device.
        state: all that a step changes, so that recording leaves it as it was.
        recorder: of the device.
    """

    def __init__(
        self, step: Step, state: Sequence[Tensor], recorder: Recorder = cuda_recorder
    ) -> None:
        self._step, self._state, self._recorder = step, state, recorder
        self._inputs: list[Tensor] = []
        self._loss: Tensor | None = None
        self._replay: Callable[[], object] | None = None

    def __call__(self, batch: Batch, learning_rate: Tensor, noise: Noise | None) -> Tensor:
        """Do a step; return the loss of each seed.

        Raises:
            RuntimeError: the step cannot be recorded; nothing was changed.
        """
        given = [batch.inputs, batch.rule, batch.target, learning_rate]
        if noise is not None:
            given += [noise.uniform, noise.progress]
        if self._replay is None or [part.shape for part in given] != [
            part.shape for part in self._inputs
        ]:
            self._record(given)
        for kept, part in zip(self._inputs, given, strict=True):
            kept.copy_(part)
        assert self._replay is not None  # noqa: S101 - recorded above
        assert self._loss is not None  # noqa: S101 - the same
        self._replay()
        return self._loss.clone()

    def _record(self, given: Sequence[Tensor]) -> None:
        self._inputs = [part.clone() for part in given]
        inputs, rule, target, rate, *chance = self._inputs
        noise = Noise(*chance) if chance else None
        before = [part.detach().clone() for part in self._state]
        try:
            self._replay, self._loss = self._recorder(
                lambda: self._step(Batch(inputs, rule, target), rate, noise)
            )
        finally:
            with torch.no_grad():
                for part, held in zip(self._state, before, strict=True):
                    part.copy_(held)
