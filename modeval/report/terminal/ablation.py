"""An ablation on a terminal: what can go, beside chance, and what matters for what."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from modeval.report.removal import ends, foreseen, headline, safe, share_words, unused
from modeval.report.terminal.grid import Column, Grid, Prose
from modeval.score.ablation import Ablation, Alone, Kept, RandomSets
from modeval.text import visible

MOST = 3
"""Modules that are named for each label."""
SIGNIFICANT = 0.05

REMOVALS = {
    "reroute": "the router chooses among the experts that are left",
    "renormalise": "the experts that are left of a token take over the weight of those removed",
    "zero": "what a removed expert would have added is missing",
    "swap": "tokens of a removed expert go to another one",
}


def render_ablation(found: Ablation) -> list[RenderableType]:
    """Return what removing modules does: sentences, and a table of the keep-sets."""
    head = visible(headline(found))
    shown: list[RenderableType] = [Prose(head, head=len(head))]
    if found.kept:
        shown += [Prose(visible(line)) for line in safe(found)]
    shown += [Prose(visible(line)) for line in unused(found)]
    if found.kept:
        shown += [Text(""), _table(found), Text("")]
    if found.alone:
        shown += [_alone(found), Text("")]
    shown += [Prose(visible(line)) for line in foreseen(found)]
    removed = f"Removed experts: {REMOVALS[found.removal]}."
    return [*shown, *(Prose(visible(note), dim=True) for note in (removed, *found.notes))]


def _table(found: Ablation) -> Grid:
    null = {each.share: each for each in found.random}
    drawn = len(found.random[0].changes) if found.random else 0
    worst = [max(enumerate(k.by_label), key=lambda pair: pair[1].value) for k in found.kept]
    return Grid(
        (
            Column("kept, by", tuple(map(_named_set, found.kept)), right=False),
            Column(
                "loss change",
                tuple(f"{k.change.value:+.3f}\n{ends(k.change)}" for k in found.kept),
            ),
            Column(
                f"of {drawn} random sets",
                tuple(_range(null[kept.share]) for kept in found.kept),
            ),
            Column("p", tuple(f"{kept.p:.3f}" for kept in found.kept)),
            Column(
                "worst label",
                tuple(f"{visible(found.labels[n])}\n{mine.value:+.3f}" for n, mine in worst),
            ),
        )
    )


def _named_set(kept: Kept) -> Text:
    """Write what was kept, in bold where it is surely better than random sets."""
    style = "bold" if kept.p <= SIGNIFICANT else ""
    return Text(f"{share_words(kept.share)}, {kept.score}", style=style)


def _range(random: RandomSets) -> str:
    changes = random.changes
    mean = sum(changes) / len(changes)
    return f"{mean:+.3f}\n[{min(changes):+.3f}, {max(changes):+.3f}]"


def _alone(found: Ablation) -> Table:
    """Show which modules each label needs: those whose removal alone surely costs it something."""
    table = Table("label", "needs most (layer:expert, what its removal adds)", box=SIMPLE_HEAD)
    for number, label in enumerate(found.labels):
        needed = [one for one in found.alone if (one.by_label[number].low or 0) > 0]
        needed.sort(key=lambda one, r=number: -one.by_label[r].value)  # type: ignore[misc]
        table.add_row(visible(label), _named(needed[:MOST], number) or "none that can be shown")
    return table


def _named(needed: Sequence[Alone], label: int) -> str:
    return ", ".join(
        f"{one.layer}:{one.module} {one.by_label[label].value:+.3f} {ends(one.by_label[label])}"
        for one in needed
    )
