"""Tokens of a trace in words: what modules took."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modeval.errors import CheckpointError
from modeval.trace.contexts import Taken, parse_module, taken
from modeval.trace.files import open_trace

Words = Callable[[Sequence[int]], str]


def show_modules(
    path: Path | str,
    modules: Sequence[str],
    *,
    contexts: int = 5,
    width: int = 8,
    seed: int = 0,
) -> tuple[Taken, ...]:
    """Return what some modules of a trace took.

    Args:
        path: the trace.
        modules: ``LAYER:MODULE``, the layer by number or name.
        contexts: tokens to show of each label.
        width: tokens to show beside each.
        seed: draws those that are shown.

    Raises:
        ModevalError: the trace cannot be read, or there is no such layer or module.
    """
    trace = open_trace(path)
    wanted = [parse_module(text, trace.header.layers, trace.header.modules) for text in modules]
    return tuple(
        taken(trace, layer, module, contexts=contexts, width=width, seed=seed)
        for layer, module in wanted
    )


def words_of(path: Path | str, tokenizer: str | None) -> Words | None:
    """Return what writes tokens of a trace as text; nothing where no tokenizer is at hand.

    Args:
        path: the trace.
        tokenizer: folder or hub id; nothing for that of the model, if it lies on this machine.

    Raises:
        CheckpointError: the tokenizer that was named cannot be loaded.
    """
    name = tokenizer or open_trace(path).header.source.model
    if not name:
        return None
    try:
        from transformers import AutoTokenizer  # noqa: PLC0415 - an extra, and slow to import

        made: Any = AutoTokenizer.from_pretrained(name, local_files_only=tokenizer is None)
    except Exception as error:  # noqa: BLE001 - whatever a foreign folder makes it raise
        if tokenizer is None:
            return None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"--tokenizer {tokenizer} cannot be loaded: {reason} Expected a folder with "
            "tokenizer.json, or the id of a model on the hub."
        ) from None

    def words(tokens: Sequence[int]) -> str:
        text: str = made.decode(list(tokens))
        return text

    return words
