"""Documents token by token, coloured by the module that took each: a part of the page."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modeval.trace.passages import Passage

Words = Callable[[Sequence[int]], str]
GOLDEN = 137.508
"""Degrees between the hues of two modules that follow each other, so that near numbers differ."""
MOST_NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Coloured:
    """A token as the page shows it.

    Attributes:
        text: its text, or its id.
        module: what took it, in words.
        hue: colour of that module, in degrees; nothing where it is not known.
    """

    text: str
    module: str
    hue: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFigure:
    """One document at one layer.

    Attributes:
        title: label and layer.
        tokens: its tokens.
        busiest: name, hue and number of tokens of the modules that took most of it.
    """

    title: str
    tokens: tuple[Coloured, ...]
    busiest: tuple[tuple[str, int, int], ...]


def hue(module: int) -> int:
    """Return the colour of a module, in degrees.

    >>> [hue(module) for module in (0, 1, 2)]
    [0, 138, 275]
    """
    return round(module * GOLDEN) % 360


def token_figures(
    passages: Sequence[Passage], layers: Sequence[str], words: Words
) -> tuple[TokenFigure, ...]:
    """Return a figure for each document and layer.

    Args:
        passages: documents.
        layers: names of the layers that they were taken at.
        words: gives the text of token ids.
    """
    found = []
    for passage in passages:
        texts = [words([token]) for token in passage.tokens]
        title = passage.label or "document"
        for layer, modules in zip(layers, passage.modules, strict=True):
            found.append(
                TokenFigure(
                    title=f"{title} (document {passage.document}), layer {layer}",
                    tokens=tuple(map(_coloured, texts, modules)),
                    busiest=_busiest(modules),
                )
            )
    return tuple(found)


def _coloured(text: str, module: int) -> Coloured:
    if module < 0:
        return Coloured(text=text, module="no expert", hue=None)
    return Coloured(text=text, module=f"expert {module}", hue=hue(module))


def _busiest(modules: Sequence[int]) -> tuple[tuple[str, int, int], ...]:
    counted = Counter(module for module in modules if module >= 0).most_common(MOST_NAMED)
    return tuple((f"expert {module}", hue(module), times) for module, times in counted)
