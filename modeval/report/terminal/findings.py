"""The first lines of a screen: did it specialise, who does what, what to do next?"""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from modeval.report import routing_views, scorecard_views
from modeval.report.brief import MEANINGS, Brief, brief
from modeval.report.routing_views import Taste
from modeval.report.scorecard_views import Entry
from modeval.report.terminal.grid import Prose
from modeval.report.words import Vocabulary, count, percent, vocabulary

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
MANY_RULES = 12
"""Rules up to which each has a line that names its modules."""


def finding_word(word: str) -> Text:
    """Return a finding as it stands in a table."""
    return Text(MEANINGS[word][0].lower(), style=STYLES[word])


def finding_lines(entry: Entry) -> list[RenderableType]:
    """Return what came out for one model, who does what, and what to do."""
    found = brief(entry)
    shown: list[RenderableType] = [_verdict(found)]
    if found.figures:
        shown.append(Prose(found.figures))
    shown += taste_lines(entry)
    return [*shown, *advice_lines(found.advice)]


def _verdict(found: Brief) -> Prose:
    styles = {STYLES[word] for word in found.findings}
    style = f"bold {styles.pop()}".strip() if len(styles) == 1 else "bold"
    return Prose(f"{found.verdict}: {found.meaning}.", head=len(found.verdict), style=style)


def advice_lines(advice: Sequence[str]) -> list[RenderableType]:
    """Return what to do next, one line for each thing."""
    return [Prose(f"Next: {text}", head=len("Next:")) for text in advice]


def taste_lines(entry: Entry) -> list[RenderableType]:
    """Name the modules that get most of each rule, in the layer that tells most."""
    words = vocabulary(entry.record)
    place = routing_views.most_telling(entry)
    found = routing_views.tastes(entry, place)
    if not found or len(found) > MANY_RULES:
        return []
    names, _ = scorecard_views.layer_names(entry.record.layers)
    where = "" if place is None else f" in layer {names[place]}, where they tell most"
    heading = f"{words.modules.capitalize()} of each {words.rule}{where}:"
    width = max(len(taste.rule) for taste in found)
    return [
        Prose(heading),
        *(
            Prose(f"  {taste.rule:<{width}}  {taste_words(taste, words)}", indent="    ")
            for taste in found
        ),
    ]


def taste_words(taste: Taste, words: Vocabulary) -> str:
    """Write which modules get most of a rule.

    >>> from modeval.report.words import EXPERTS
    >>> taste = Taste(rule="code", modules=(4, 7), shares=(0.25, 0.25), even=False)
    >>> taste_words(taste, EXPERTS)
    'experts 4 (25 %), 7 (25 %)'
    """
    listed = ", ".join(
        f"{module} ({percent(share)})"
        for module, share in zip(taste.modules, taste.shares, strict=True)
    )
    name = words.module if len(taste.modules) == 1 else words.modules
    text = f"spread over many; most to {name} {listed}" if taste.even else f"{name} {listed}"
    if taste.own is None or (
        taste.elsewhere * 3 < taste.own_share and taste.own in taste.modules[:1]
    ):
        return text
    return (
        f"{text}; most its own: {taste.own} ({percent(taste.own_share)}, "
        f"elsewhere {percent(taste.elsewhere)})"
    )


def layers_counted(entry: Entry) -> str:
    """Say how many layers of how many modules there are, and how many of them are chosen."""
    record = entry.record
    words = vocabulary(record)
    sizes = sorted(set(record.layer_modules)) or [record.modules]
    modules = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    chosen = sorted({value for value in record.model.get("choices", ()) if value})
    choices = f", {' or '.join(map(str, chosen))} chosen" if chosen else ""
    layers = count(max(len(record.layers), 1), "layer")
    return f"{layers} of {modules} {words.modules}{choices}"
