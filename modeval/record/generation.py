"""Knowing when a model generates, and what of each of its calls is prompt, written, or ended.

What :meth:`generate` is told stands nowhere in the calls of the model that it makes: these come
without a mask where nothing is padded, with one of pairs where the cache has a fixed size, and with
padding in place of sequences that have ended. So it is listened to at three places: where it is
called, where it prepares the inputs of a call, and where it looks which sequences have ended.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from modeval.errors import TraceError
from modeval.record.frames import DECODE, PREFILL, TRAIN, Frame, put_mask
from modeval.record.masks import MARKS, marks

BATCHING = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
DRAFTS = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
IDS = ("inputs_embeds", "input_ids", "inputs")


@dataclass(slots=True)
class Run:
    """One call of ``generate``.

    Attributes:
        module: the model that generates.
        prompt: tokens of each sequence that it was given.
        drafted: whether tokens are guessed first and then verified, several in a call.
        mask: ``(B, T)`` tokens that are not padding, of all tokens so far; nothing when none is.
        told: whether the model prepares its inputs where this can be heard.
        finished: ``(B,)`` sequences that have ended.
        fed: tokens of each sequence that the model was given so far.
        calls: calls of the model so far.
    """

    module: nn.Module
    prompt: int
    drafted: bool
    mask: Bool[Tensor, "batch positions"] | None = None
    told: bool = False
    finished: Bool[Tensor, " batch"] | None = None
    fed: int = 0
    calls: int = 0


class Generation:
    """What is known of the calls of ``generate`` that run, one within the other.

    Attributes:
        runs: these calls, innermost last.
        started: whether the first forward of the outermost has begun.
        drafting: whether a model runs as its own draft, whose tokens are not counted.
        drafted: whether tokens were verified several at a time in any call so far.
    """

    def __init__(self, call: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self.runs: list[Run] = []
        self.started = False
        self.drafting = False
        self.drafted = False
        self._call = call

    @contextlib.contextmanager
    def around(self, module: nn.Module) -> Iterator[None]:
        """Listen to what a model is told when it generates; refuse to batch continuously."""

        def generate(original: Any, *arguments: Any, **by_name: Any) -> Any:
            if self.drafting or any(run.module is module for run in self.runs):
                with self._draft():
                    return original(*arguments, **by_name)
            run = Run(module, _prompt(module, arguments, by_name), _drafted(module, by_name))
            self.drafted |= run.drafted
            self.started = self.started and bool(self.runs)
            with self._call(), self._watch(run):
                return original(*arguments, **by_name)

        with contextlib.ExitStack() as exits:
            exits.enter_context(_replaced(module, "generate", generate))
            for name in BATCHING:
                exits.enter_context(_replaced(module, name, _refuse_batching))
            yield

    def tells(self, module: nn.Module) -> bool:
        """Return whether ``generate`` has told what is padding in the next call of this model."""
        return bool(self.runs) and self.runs[-1].told and self.runs[-1].module is module

    @contextlib.contextmanager
    def _draft(self) -> Iterator[None]:
        before, self.drafting = self.drafting, True
        try:
            yield
        finally:
            self.drafting = before

    @contextlib.contextmanager
    def _watch(self, run: Run) -> Iterator[None]:
        """Hear with which mask inputs are prepared, and which sequences have ended."""

        def prepare(original: Any, *arguments: Any, **by_name: Any) -> Any:
            if not self.drafting:
                coder = bool(getattr(run.module.config, "is_encoder_decoder", False))
                mask = by_name.get("decoder_attention_mask" if coder else "attention_mask")
                run.told = True
                run.mask = None
                if isinstance(mask, Tensor) and mask.ndim == MARKS:
                    run.mask = marks(mask)
            return original(*arguments, **by_name)

        def criteria(original: Any, *arguments: Any, **by_name: Any) -> Any:
            return _heard(original(*arguments, **by_name), run, self)

        with (
            _replaced(run.module, "prepare_inputs_for_generation", prepare),
            _replaced(run.module, "_get_stopping_criteria", criteria),
        ):
            self.runs.append(run)
            try:
                yield
            finally:
                self.runs.pop()

    def settle(self, frame: Frame, mask: Tensor | None) -> None:
        """Say of a call within ``generate`` what is padding, prompt, ended or seen before.

        Args:
            frame: the call.
            mask: ``(B, P)`` tokens of the prompt that count, given by hand.
        """
        run = self.runs[-1]
        if frame.module is not run.module or frame.length is None or frame.batch is None:
            return  # an encoder, or a part of the model that looks at images
        past = 0
        if frame.past.cached:
            past = run.fed if frame.past.tokens is None else frame.past.tokens
        end = past + frame.length
        frame.past = replace(frame.past, tokens=past)
        if run.calls == 0 and not run.drafted:  # tokens may be put before it that nobody gave
            run.prompt = max(run.prompt, end)
        whole = run.mask if mask is None else mask
        if run.told or mask is not None:
            put_mask(frame, None if whole is None else _as_long(whole, frame.batch, end), past)
        if not frame.past.cached and run.calls:  # without a cache all is fed again
            _leave_out(frame, run.fed)
        if frame.phase != TRAIN:
            given = min(max(run.prompt - past, 0), frame.length)
            frame.phase = PREFILL if given == frame.length else DECODE
            frame.prompt = given if 0 < given < frame.length else None
        if run.finished is not None and len(run.finished) == frame.batch:
            frame.going = ~run.finished.unsqueeze(1)
        run.fed, run.calls = end, run.calls + 1


def _leave_out(frame: Frame, seen: int) -> None:
    """Count only those tokens of a call that were not counted before."""
    if frame.length is None or frame.batch is None:
        return
    fresh = (torch.arange(frame.length) >= seen).expand(frame.batch, frame.length)
    frame.mask = fresh if frame.mask is None else frame.mask & fresh.to(frame.mask.device)


def _as_long(mask: Tensor, batch: int, length: int) -> Tensor:
    """Return a mask of so many rows and positions: what is written is no padding."""
    rows = mask.repeat_interleave(max(batch // max(len(mask), 1), 1), 0)
    more = length - rows.shape[1]
    if more <= 0:
        return rows[:, :length]
    return torch.cat([rows, rows.new_ones(len(rows), more)], 1)


def _prompt(module: nn.Module, arguments: tuple[Any, ...], by_name: Mapping[str, Any]) -> int:
    """Return how many tokens of each sequence ``generate`` is given."""
    if bool(getattr(getattr(module, "config", None), "is_encoder_decoder", False)):
        ids = by_name.get("decoder_input_ids")
        return int(ids.shape[1]) if isinstance(ids, Tensor) else 1
    for part in (*(by_name.get(name) for name in IDS), *arguments[:1]):
        if isinstance(part, Tensor) and part.ndim > 1:
            return int(part.shape[1])
    return 1


def _drafted(module: nn.Module, by_name: Mapping[str, Any]) -> bool:
    configs = (by_name.get("generation_config"), getattr(module, "generation_config", None))
    told = [by_name.get(name) for name in DRAFTS]
    told += [getattr(config, name, None) for config in configs for name in DRAFTS]
    return any(value is not None and value is not False for value in told)


def _heard(criteria: Any, run: Run, generation: Generation) -> Any:
    """Return stopping criteria that also tell which sequences have ended."""
    kind: Any = type(criteria)

    class Heard(kind):  # type: ignore[misc]
        """Criteria that are listened to."""

        def __call__(self, *arguments: Any, **by_name: Any) -> Any:
            done = super().__call__(*arguments, **by_name)
            if isinstance(done, Tensor) and done.ndim == 1 and not generation.drafting:
                before = run.finished
                if before is None or before.shape != done.shape:
                    before = torch.zeros_like(done)
                run.finished = done | before
            return done

    return Heard(criteria) if isinstance(criteria, list) else criteria


def _refuse_batching(original: Any, *_: Any, **__: Any) -> Any:
    raise TraceError(
        f"{original.__name__} batches requests continuously: their tokens come mixed, from another "
        "thread, and cannot be told apart. Record model.generate(...) instead."
    )


@contextlib.contextmanager
def _replaced(module: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Let a function stand before a method of one object, and be given it."""
    original: Any = getattr(module, name, None)
    if not callable(original):
        yield
        return
    own = name in vars(module)
    object.__setattr__(
        module, name, functools.wraps(original)(functools.partial(function, original))
    )
    try:
        yield
    finally:
        if own:
            object.__setattr__(module, name, original)
        else:
            object.__delattr__(module, name)
