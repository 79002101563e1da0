"""The first lines of a screen: did it specialise, who does what, what to do next?"""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from modeval.report.brief import MEANINGS, Brief, brief, tastes_in_words
from modeval.report.scorecard_views import ModelView
from modeval.report.terminal.grid import Prose
from modeval.report.words import count, vocabulary

STYLES = {
    "specialist": "green",
    "partial": "green",
    "faint": "yellow",
    "unproven": "yellow",
    "untested": "yellow",
    "blind": "red",
    "collapsed": "red",
    "unlabelled": "",
}
"""Colours of findings."""


def finding_word(word: str) -> Text:
    """Return a finding as it stands in a table."""
    return Text(MEANINGS[word][0].lower(), style=STYLES[word])


def finding_lines(view: ModelView) -> list[RenderableType]:
    """Return what came out for one model, who does what, and what to do."""
    found = brief(view)
    shown: list[RenderableType] = [_verdict(found)]
    if found.figures:
        shown.append(Prose(found.figures))
    shown += taste_lines(view)
    return [*shown, *advice_lines(found.advice)]


def _verdict(found: Brief) -> Prose:
    style = f"bold {STYLES.get(found.gravest, '')}".strip()
    return Prose(f"{found.verdict}: {found.meaning}.", head=len(found.verdict), style=style)


def advice_lines(advice: Sequence[str], of: str = "") -> list[RenderableType]:
    """Return what to do next, one line for each thing.

    Args:
        advice: what to do.
        of: the model that it is for, where there are several.
    """
    head = f"Next, for {of}:" if of else "Next:"
    return [Prose(f"{head} {text}", head=len(head)) for text in advice]


def taste_lines(view: ModelView) -> list[RenderableType]:
    """Name the modules that get most of each rule, in the layer that tells most."""
    heading, found = tastes_in_words(view)
    if not found:
        return []
    width = max(len(rule) for rule, _ in found)
    return [
        Prose(heading),
        *(Prose(f"  {rule:<{width}}  {said}", indent="    ") for rule, said in found),
    ]


def layers_counted(view: ModelView) -> str:
    """Say how many layers of how many modules there are, and how many of them are chosen."""
    record = view.record
    words = vocabulary(record)
    sizes = sorted(set(record.layer_modules)) or [record.modules]
    modules = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    chosen = sorted({value for value in record.model.get("choices", ()) if value})
    choices = f", {' or '.join(map(str, chosen))} chosen" if chosen else ""
    layers = count(max(len(record.layers), 1), "layer")
    return f"{layers} of {modules} {words.modules}{choices}"
