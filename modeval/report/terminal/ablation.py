"""An ablation on a terminal: what can go, beside chance, and what matters for what."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from modeval.ablate.result import Ablation, Alone, Change, Foresight, RandomSets
from modeval.report.words import count
from modeval.text import visible

MOST = 3
"""Modules that are named for each label."""
SIGNIFICANT = 0.05

REMOVALS = {
    "reroute": "the router chooses among the modules that are left",
    "renormalise": "the modules that are left of a token take over the weight of those removed",
    "zero": "what a removed module would have added is missing",
    "swap": "tokens of a removed module go to another one",
}


def render_ablation(found: Ablation) -> list[RenderableType]:
    """Return what removing modules does: sentences, and a table of the keep-sets."""
    shown: list[RenderableType] = [
        Text(visible(_headline(found)), style="bold"),
        Text(f"Removed modules: {REMOVALS[found.removal]}."),
    ]
    if found.kept:
        shown += [_table(found), *(Text(visible(line)) for line in _safe(found))]
    shown += [Text(visible(line)) for line in (*_foresight(found), *_unused(found))]
    if found.alone:
        shown.append(_alone(found))
    return [*shown, *(Text(visible(note), style="dim") for note in found.notes)]


def _headline(found: Ablation) -> str:
    sizes = sorted(set(found.modules))
    wide = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return (
        f"{found.model}: {count(len(found.layers), 'layer')} of {wide} modules, "
        f"{count(sum(found.tokens), 'token')} of {count(sum(found.documents), 'document')}; loss "
        f"{found.loss.value:.3f} {_ends(found.loss, signed=False)} nats a token"
    )


def _table(found: Ablation) -> Table:
    table = Table(
        "keep", "by", "loss change", "random keep-sets", "p", "worst label", box=SIMPLE_HEAD
    )
    null = {each.share: each for each in found.random}
    for kept in found.kept:
        worst, mine = max(enumerate(kept.by_label), key=lambda pair: pair[1].value)
        table.add_row(
            f"{kept.share:.1%}".replace(".0%", "%"),
            kept.score,
            f"{kept.change.value:+.3f} {_ends(kept.change)}",
            _range(null[kept.share]),
            f"{kept.p:.3f}",
            f"{visible(found.labels[worst])} {mine.value:+.3f}",
            style="bold" if kept.p <= SIGNIFICANT else "",
        )
    return table


def _range(random: RandomSets) -> str:
    changes = random.changes
    mean = sum(changes) / len(changes)
    return f"{mean:+.3f} [{min(changes):+.3f}, {max(changes):+.3f}] of {len(changes)}"


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
            f"Keeping {sure.sure:.1%} of the modules by {sure.score} is enough: the loss of every "
            f"label surely grows by less than {margin}."
        )
    if measured.measured < sure.sure:
        yield (
            f"Keeping {measured.measured:.1%} by {measured.score} was enough on these texts; more "
            f"documents would show whether it surely is."
        )
    if measured.measured == 1:
        near = min(found.kept, key=lambda kept: max(change.value for change in kept.by_label))
        worst = max(change.value for change in near.by_label)
        yield (
            f"No share that was tested keeps every label within {margin}; the nearest is "
            f"{near.share:.1%} by {near.score}, with {worst:+.3f} at worst."
        )


def _foresight(found: Ablation) -> Iterator[str]:
    for what in dict.fromkeys(each.of for each in found.foresight):
        mine = [each for each in found.foresight if each.of == what]
        told = ", ".join(_told(each) for each in sorted(mine, key=lambda each: -each.correlation))
        whose = "of random sets" if what == "random sets" else "of each module alone"
        yield f"What the removal {whose} costs was foreseen by (rank correlation, p): {told}."


def _told(each: Foresight) -> str:
    return f"{each.score} {each.correlation:+.2f} ({each.p:.3f})"


def _unused(found: Ablation) -> Iterator[str]:
    for name, layer in zip(found.layers, found.contributions, strict=True):
        unused = [str(module) for module, tokens in enumerate(layer["routed"]) if tokens == 0]
        if unused:
            yield f"{name}: no token chose {', '.join(unused)}."


def _alone(found: Ablation) -> Table:
    """Show which modules each label needs: those whose removal alone surely costs it something."""
    table = Table("label", "needs most (layer:module, what its removal adds)", box=SIMPLE_HEAD)
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
