"""What removing modules did, in sentences that every report shares."""

from collections.abc import Iterator

from modeval.report.words import count
from modeval.score.ablation import Ablation, Change, Foresight


def headline(found: Ablation) -> str:
    """Say what was ablated, on how much text, and how well it does whole."""
    sizes = sorted(set(found.modules))
    wide = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return (
        f"{found.model}: {count(len(found.layers), 'layer')} of {wide} experts, "
        f"{count(sum(found.tokens), 'token')} of {count(sum(found.documents), 'document')}; loss "
        f"{found.loss.value:.3f} {ends(found.loss, signed=False)} nats a token"
    )


def share_words(share: float) -> str:
    """Write a share that experts were cut to, with all of its digits.

    >>> share_words(0.75), share_words(0.875)
    ('75 %', '87.5 %')
    """
    return f"{100 * share:.3g} %"


def ends(change: Change, *, signed: bool = True) -> str:
    """Write the interval of a loss."""
    if change.low is None or change.high is None:
        return "(one document: no interval)"
    sign = "+" if signed else ""
    return f"[{change.low:{sign}.3f}, {change.high:{sign}.3f}]"


def safe(found: Ablation) -> Iterator[str]:
    """Say what share is enough, and by which score."""
    margin = f"{found.within:g} nats a token"
    sure = min(found.safe, key=lambda safe: safe.sure)
    measured = min(found.safe, key=lambda safe: safe.measured)
    if sure.sure < 1:
        yield (
            f"Keeping {share_words(sure.sure)} of the experts by {sure.score} is enough: the loss "
            f"of every label surely grows by less than {margin}."
        )
    if measured.measured < sure.sure:
        yield (
            f"Keeping {share_words(measured.measured)} by {measured.score} was enough on these "
            "texts; more documents would show whether it surely is."
        )
    if measured.measured == 1:
        near = min(found.kept, key=lambda kept: max(change.value for change in kept.by_label))
        worst = max(change.value for change in near.by_label)
        yield (
            f"No share that was tested keeps every label within {margin}; the nearest is "
            f"{share_words(near.share)} by {near.score}, with {worst:+.3f} at worst."
        )


def foreseen(found: Ablation) -> Iterator[str]:
    """Say whether static scores foresaw what removals cost."""
    for what in dict.fromkeys(each.of for each in found.foresight):
        mine = [each for each in found.foresight if each.of == what]
        told = ", ".join(_told(each) for each in sorted(mine, key=lambda each: -each.correlation))
        whose = "of random sets" if what == "random sets" else "of each expert alone"
        yield f"What the removal {whose} costs was foreseen by (rank correlation, p): {told}."


def _told(each: Foresight) -> str:
    return f"{each.score} {each.correlation:+.2f} ({each.p:.3f})"


def unused(found: Ablation) -> Iterator[str]:
    """Name the modules that no token chose."""
    for name, layer in zip(found.layers, found.contributions, strict=True):
        unused = [str(module) for module, tokens in enumerate(layer["routed"]) if tokens == 0]
        if unused:
            plural = "s" if len(unused) > 1 else ""
            yield f"{name}: no token chose expert{plural} {', '.join(unused)}."


def verdict(found: Ablation) -> str:
    """Say in a few words whether modules can go."""
    if not found.kept:
        return "Removed one by one"
    if min(each.sure for each in found.safe) < 1:
        return "Some can go"
    enough = min(each.measured for each in found.safe) < 1
    return "Some may go" if enough else "None to spare"
