"""Tokens of a trace in words: what modules took."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modeval.errors import CheckpointError
from modeval.report.page.tokens import TokenFigure, token_figures
from modeval.report.terminal.contexts import numbers
from modeval.trace.contexts import Taken, parse_module, taken
from modeval.trace.files import open_trace
from modeval.trace.passages import layers_shown, passages

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


def shown_tokens(path: Path | str, tokenizer: str | None = None) -> tuple[TokenFigure, ...]:
    """Return a document of each label of a trace, token by token, at a few layers.

    Args:
        path: the trace.
        tokenizer: folder or hub id; nothing for that of the model, if it lies on this machine.

    Raises:
        ModevalError: the trace cannot be read, or has no token ids.
    """
    trace = open_trace(path)
    layers = layers_shown(len(trace.header.layers))
    found = passages(trace, layers)
    words = words_of(path, tokenizer)
    names = [f"{layer} ({trace.header.layers[layer]})" for layer in layers]
    spaced = words if words is not None else lambda tokens: f"{numbers(tokens)} "
    return token_figures(found, names, spaced)


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
