"""Knowing when a model generates: labels hold to its end, and sequences end one by one."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modeval.record.frames import DECODE, Frame


class Generation:
    """What is known of the call of ``generate`` that runs.

    Attributes:
        active: whether one runs.
        started: whether its first forward has begun.
    """

    def __init__(self) -> None:
        self.active = False
        self.started = False
        self._stop: Tensor | None = None
        self._finished: Tensor | None = None

    def begin_batch(self) -> None:
        """Forget the sequences of the batch before."""
        self.started, self._finished = True, None

    @contextlib.contextmanager
    def around(self, module: nn.Module) -> Iterator[None]:
        """Know when a model generates: labels hold to its end, and sequences end one by one."""
        original: Any = module.generate
        own = "generate" in vars(module)

        @functools.wraps(original)
        def generate(*arguments: Any, **by_name: Any) -> Any:
            if self.active:
                return original(*arguments, **by_name)
            self.active, self.started = True, False
            self._stop = _stop_tokens(module, by_name)
            try:
                return original(*arguments, **by_name)
            finally:
                self.active = False

        object.__setattr__(module, "generate", generate)
        try:
            yield
        finally:
            if own:
                object.__setattr__(module, "generate", original)
            else:
                object.__delattr__(module, "generate")

    def leave_out_finished(self, frame: Frame) -> None:
        """Leave out what is fed to a sequence that has ended while others of its batch go on.

        So a batch counts what its samples would count one by one.
        """
        if frame.phase != DECODE or frame.tokens is None or self._stop is None:
            return
        ended = torch.isin(frame.tokens[:, -1], self._stop.to(frame.tokens.device))
        before = self._finished
        if before is not None and before.shape == ended.shape:
            ended = ended | before
        self._finished = ended
        frame.going = ~ended.unsqueeze(1)


def _stop_tokens(module: nn.Module, by_name: Mapping[str, Any]) -> Tensor | None:
    """Return the tokens that end a sequence in this call of generate."""
    given = by_name.get("eos_token_id")
    for config in (
        by_name.get("generation_config"),
        getattr(module, "generation_config", None),
        getattr(module, "config", None),
    ):
        given = getattr(config, "eos_token_id", None) if given is None else given
    if given is None:
        return None
    return torch.as_tensor(given, dtype=torch.int64).reshape(-1)
