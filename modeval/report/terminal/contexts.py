"""What a module took, on a terminal: shares of labels, and tokens among their neighbours."""

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from modeval.report.words import count, percent
from modeval.text import visible
from modeval.trace.contexts import Context, LabelTaken, Taken

MOST_LABELS = 64
"""Labels that are shown, those that a module took most of first."""

Words = Callable[[Sequence[int]], str]
"""Gives the text of token ids."""


def numbers(tokens: Sequence[int]) -> str:
    """Write token ids as they are, where no tokenizer is known.

    >>> numbers([5, 17])
    '5 17'
    """
    return " ".join(map(str, tokens))


def render_taken(taken: Taken, words: Words) -> list[RenderableType]:
    """Return what a module took.

    Args:
        taken: what it took.
        words: gives the text of token ids.
    """
    share = taken.tokens / max(taken.of, 1)
    even = taken.choices / taken.modules
    headline = (
        f"Layer {taken.layer} ({visible(taken.name)}), module {taken.module}: "
        f"{count(taken.tokens, 'token')} of {taken.of:,} ({percent(share)}; if all modules were "
        f"used alike {percent(even)})"
    )
    ordered = sorted(taken.labels, key=lambda label: -label.share)
    first, more = ordered[:MOST_LABELS], len(ordered) - MOST_LABELS
    shown: list[RenderableType] = [Text(headline, style="bold"), _table(taken, first)]
    if more > 0:
        shown.append(Text(f"and {count(more, 'more label')}: --json has all", style="dim"))
    for each in (label for label in taken.labels if label in first):
        if each.contexts:
            shown.append(Text(visible(each.label), style="bold"))
            shown += [_line(context, words) for context in each.contexts]
    return [*shown, *([Text(taken.missing, style="dim")] if taken.missing else [])]


def _table(taken: Taken, labels: Sequence[LabelTaken]) -> Table:
    table = Table("label", "tokens", "share of the label", "share of the module", box=SIMPLE_HEAD)
    for each in labels:
        mine = each.tokens / max(taken.tokens, 1)
        table.add_row(visible(each.label), f"{each.tokens:,}", percent(each.share), percent(mine))
    return table


def _line(context: Context, words: Words) -> Text:
    """Write a token between its neighbours, in brackets so that it shows without colour, too."""
    before, token, after = (
        visible(words(part)) for part in (context.before, [context.token], context.after)
    )
    line = Text(f"  {context.document}:{context.position}  ", style="dim")
    line.append(before, style="not dim")
    line.append(f"[{token}]", style="bold reverse not dim")
    line.append(after, style="not dim")
    return line
