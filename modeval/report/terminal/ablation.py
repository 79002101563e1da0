"""An ablation on a terminal: what can go, beside chance, and what matters for what."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from modeval.ablate.result import Ablation, Alone, Change, Foresight, Kept, RandomSets
from modeval.report.terminal.grid import Column, Grid, Prose
from modeval.report.words import count
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
    head = visible(_headline(found))
    shown: list[RenderableType] = [Prose(head, head=len(head))]
    if found.kept:
        shown += [Prose(visible(line)) for line in _safe(found)]
    shown += [Prose(visible(line)) for line in _unused(found)]
    if found.kept:
        shown += [Text(""), _table(found), Text("")]
    if found.alone:
        shown += [_alone(found), Text("")]
    shown += [Prose(visible(line)) for line in _foresight(found)]
    removed = f"Removed experts: {REMOVALS[found.removal]}."
    return [*shown, *(Prose(visible(note), dim=True) for note in (removed, *found.notes))]


def _headline(found: Ablation) -> str:
    sizes = sorted(set(found.modules))
    wide = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return (
        f"{found.model}: {count(len(found.layers), 'layer')} of {wide} experts, "
        f"{count(sum(found.tokens), 'token')} of {count(sum(found.documents), 'document')}; loss "
        f"{found.loss.value:.3f} {_ends(found.loss, signed=False)} nats a token"
    )


def _table(found: Ablation) -> Grid:
    null = {each.share: each for each in found.random}
    drawn = len(found.random[0].changes) if found.random else 0
    worst = [max(enumerate(k.by_label), key=lambda pair: pair[1].value) for k in found.kept]
    return Grid(
        (
            Column("kept, by", tuple(map(_named_set, found.kept)), right=False),
            Column(
                "loss change",
                tuple(f"{k.change.value:+.3f}\n{_ends(k.change)}" for k in found.kept),
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
    return Text(f"{_share(kept.share)}, {kept.score}", style=style)


def _share(share: float) -> str:
    """Write a share that experts were cut to, with all of its digits.

    >>> _share(0.75), _share(0.875)
    ('75 %', '87.5 %')
    """
    return f"{100 * share:.3g} %"


def _range(random: RandomSets) -> str:
    changes = random.changes
    mean = sum(changes) / len(changes)
    return f"{mean:+.3f}\n[{min(changes):+.3f}, {max(changes):+.3f}]"


def _ends(change: Change, *, signed: bool = True) -> str:
    if change.low is None or change.high is None:
        return "(one document: no interval)"
    sign = "+" if signed else ""
    return f"[{change.low:{sign}.3f}, {change.high:{sign}.3f}]"


def _safe(found: Ablation) -> Iterator[str]:
    """Say what share is enough, and by which score."""
    margin = f"{found.within:g} nats a token"
    sure = min(found.safe, key=lambda safe: safe.sure)
    measured = min(found.safe, key=lambda safe: safe.measured)
    if sure.sure < 1:
        yield (
            f"Keeping {_share(sure.sure)} of the experts by {sure.score} is enough: the loss of "
            f"every label surely grows by less than {margin}."
        )
    if measured.measured < sure.sure:
        yield (
            f"Keeping {_share(measured.measured)} by {measured.score} was enough on these texts; "
            f"more documents would show whether it surely is."
        )
    if measured.measured == 1:
        near = min(found.kept, key=lambda kept: max(change.value for change in kept.by_label))
        worst = max(change.value for change in near.by_label)
        yield (
            f"No share that was tested keeps every label within {margin}; the nearest is "
            f"{_share(near.share)} by {near.score}, with {worst:+.3f} at worst."
        )


def _foresight(found: Ablation) -> Iterator[str]:
    for what in dict.fromkeys(each.of for each in found.foresight):
        mine = [each for each in found.foresight if each.of == what]
        told = ", ".join(_told(each) for each in sorted(mine, key=lambda each: -each.correlation))
        whose = "of random sets" if what == "random sets" else "of each expert alone"
        yield f"What the removal {whose} costs was foreseen by (rank correlation, p): {told}."


def _told(each: Foresight) -> str:
    return f"{each.score} {each.correlation:+.2f} ({each.p:.3f})"


def _unused(found: Ablation) -> Iterator[str]:
    for name, layer in zip(found.layers, found.contributions, strict=True):
        unused = [str(module) for module, tokens in enumerate(layer["routed"]) if tokens == 0]
        if unused:
            plural = "s" if len(unused) > 1 else ""
            yield f"{name}: no token chose expert{plural} {', '.join(unused)}."


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
        f"{one.layer}:{one.module} {one.by_label[label].value:+.3f} {_ends(one.by_label[label])}"
        for one in needed
    )
