"""The agreement of two builds on a terminal: one sentence, then a line for each layer."""

from rich.console import RenderableType
from rich.text import Text

from modeval.report.scorecard_views import layer_names
from modeval.report.terminal.grid import Column, Grid, Prose
from modeval.report.words import count
from modeval.score.comparison.agreement import Agreement, LayerAgreement, Share
from modeval.text import visible

COLUMNS = {
    "agreement_shared": "choices shared",
    "agreement_exact": "same set",
    "agreement_first": "same first",
    "agreement_different": "differs so far",
    "agreement_weights": "weight moved",
}
"""Metrics by their headings; those that were not measured have no column."""


def render_agreement(
    agreement: Agreement, names: tuple[str, ...], title: str
) -> list[RenderableType]:
    """Return what two builds share.

    Args:
        agreement: what was measured.
        names: names of all layers.
        title: what is compared with what.
    """
    worst = min(agreement.layers, key=lambda layer: layer.measured["agreement_shared"].value)
    shared = worst.measured["agreement_shared"]
    chance = worst.chance["agreement_shared"]
    headline = (
        f"{percent(agreement.different.value)} of {count(agreement.tokens, 'token')} "
        f"({_ends(agreement.different)}) go to other experts at one layer at least; in the worst "
        f"layer, {visible(names[worst.layer])}, {percent(shared.value)} of the choices are shared "
        f"({_ends(shared)}; builds that know nothing of each other: {percent(chance)})."
    )
    shown: list[RenderableType] = [Text(visible(title), style="bold"), Text(headline)]
    shown += _table(agreement, names)
    if worst.ceiling is not None:
        shown.append(_ceiling(worst.ceiling))
    if any(layer.flips for layer in agreement.layers):
        shown.append(_flips(agreement))
    return [*shown, *(Text(visible(note), style="dim") for note in agreement.notes)]


def _table(agreement: Agreement, names: tuple[str, ...]) -> list[RenderableType]:
    measured = [name for name in COLUMNS if name in agreement.layers[0].measured]
    short, pattern = layer_names([names[layer.layer] for layer in agreement.layers])
    layers = agreement.layers
    columns = [Column("layer", tuple(short), right=False)]
    for name in measured:
        shares = [layer.measured[name] for layer in layers]
        columns.append(Column(COLUMNS[name], tuple(percent(share.value) for share in shares)))
        columns.append(Column("95 % interval", tuple(map(_ends, shares)), style="dim", joined=True))
    chance = tuple(percent(layer.chance["agreement_shared"]) for layer in layers)
    columns.append(Column("shared by chance", chance))
    if any(layer.ties is not None for layer in layers):
        columns.append(Column("ties", tuple(map(_share, layers))))
    if any(layer.ties for layer in layers):
        columns.append(Column("same set, no tie", tuple(_if_known(each.untied) for each in layers)))
    legend = [Prose(f"layer: {pattern}", dim=True)] if pattern else []
    return [Text(""), Grid(tuple(columns)), Text(""), *legend]


def _share(layer: LayerAgreement) -> str:
    return "" if layer.ties is None else percent(layer.ties)


def _if_known(share: Share | None) -> str:
    return "" if share is None else _cell(share)


def _cell(share: Share) -> str:
    return f"{percent(share.value)} {_ends(share)}".strip()


def _ends(share: Share) -> str:
    if share.low is None or share.high is None:
        return "no interval: one document"
    return f"[{percent(share.low)}, {percent(share.high)}]"


def percent(share: float) -> str:
    """Write a share to a tenth of a percent: 99.7 % of agreement is not all.

    >>> percent(0.9968), percent(0.0004), percent(0.0), percent(1.0)
    ('99.7 %', '0.04 %', '0 %', '100 %')
    """
    apart = min(share, 1 - share)
    digits = 0 if apart == 0 else 1 if apart >= 0.001 else 2  # noqa: PLR2004 - still seen
    return f"{share:.{digits}%}".replace("%", " %")


def _ceiling(share: Share) -> Text:
    return Text(
        f"The first build recorded twice shares {_cell(share)} of its choices there: no other "
        "build can be expected to do better."
    )


def _flips(agreement: Agreement) -> Text:
    first = [layer.flips[0] for layer in agreement.layers if layer.flips]
    last = [layer.flips[-1] for layer in agreement.layers if layer.flips]
    return Text(
        f"Of the tenth of the tokens with the smallest margin {percent(max(first))} change their "
        f"experts in the worst layer, of the tenth with the largest {percent(max(last))}."
    )
