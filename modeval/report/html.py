"""A report as one HTML file: pictures, tables and words, without anything from a network."""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from modeval.errors import DependencyError, ScorecardError
from modeval.metrics.table import shown_in
from modeval.report import page_charts, routing_views, scorecard_views, tables
from modeval.report.brief import brief
from modeval.report.scorecard_views import Entry, Group
from modeval.report.tables import Table
from modeval.report.words import (
    CHANCE,
    cautions,
    count,
    is_trace,
    measured,
    metric_title,
)
from modeval.score.scorecard import Scorecard

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture and the words under it.

    Attributes:
        title: above it.
        picture: SVG.
        remark: beside the title.
        text: under it.
        wide: whether it keeps its size and scrolls, rather than shrink.
        table: the same as numbers.
    """

    title: str
    picture: str
    remark: str = ""
    text: str = ""
    wide: bool = False
    table: Table | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Figures of one kind and one model, some of them folded away.

    Attributes:
        title: usually the model.
        figures: in the open.
        folded: under a heading that opens them.
        heading: that heading.
        text: above them.
        key: a picture above them that says what colours mean.
        tables: folded away too.
    """

    title: str
    figures: tuple[Figure, ...] = ()
    folded: tuple[Figure, ...] = ()
    heading: str = ""
    text: str = ""
    key: str = ""
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was measured of the models of one group.

    Attributes:
        common: terms and texts that all of them share.
        table: terms in which they differ; nothing for one model.
    """

    common: tuple[tuple[str, str], ...]
    table: Table | None


@dataclass(slots=True)
class _Numbers:
    """Gives pictures names that are unique within a page."""

    made: int = field(default=0)

    def __call__(self) -> str:
        self.made += 1
        return f"figure-{self.made}"


def render(cards: Sequence[Scorecard], sources: Sequence[str]) -> str:
    """Return the report of one or several scorecards as HTML.

    The file stands alone: style and script are in it, pictures are inline SVG, and a policy in its
    head forbids it to load anything. It works without the script, which sorts tables and changes
    between light and dark. The same scorecards give the same bytes.

    Args:
        cards: scorecards.
        sources: what to call each of them, such as the name of its file.

    Raises:
        DependencyError: jinja2 or matplotlib is not installed.
        ScorecardError: there is no model in them.
    """
    environment = _environment()
    found = scorecard_views.entries(cards, sources)
    if not found:
        raise ScorecardError(
            f"{', '.join(sources)}: no model to report on. Score something: modeval score RUN"
        )
    grouped = scorecard_views.groups(found)
    script, style = _template_text("report.js"), _template_text("report.css")
    number = _Numbers()
    context = {
        "title": _title(found),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": style,
        "sources": sources,
        "versions": ", ".join(dict.fromkeys(card.modeval for card in cards)),
        "counted": f"{count(len(found), 'model')} from {', '.join(sources)}",
        "brief": [_brief(group) for group in grouped],
        "limits": [(group.title, _limits(group)) for group in grouped],
        "facts": [(group.title, _facts(group)) for group in grouped],
        "chance": _chance(cards),
        "levels": _levels(cards),
        "scores": [_scores(group, number) for group in grouped],
        "layers": [_layers(entry, number) for entry in found if entry.layered],
        "maps": [panel for group in grouped for panel in _maps(group, number)],
        "loads": [panel for group in grouped for panel in _loads(group, number)],
        "together": [panel for entry in found for panel in _together(entry, number)],
        "budgets": [panel for group in grouped for panel in _budgets(group, number)],
        "terms": _terms(found),
        "meaning": tables.meaning_table(scorecard_views.metrics_of(found)),
        "members": _members(found),
        "notes": list(dict.fromkeys(note for card in cards for note in card.notes)),
    }
    return environment.get_template("report.html").render(context).strip() + "\n"


def _environment() -> "Environment":
    try:
        import matplotlib as _  # noqa: F401, ICN001, PLC0415 - an extra: colours and ticks
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415
        from markupsafe import Markup  # noqa: PLC0415
    except ImportError as error:
        raise missing_extra("An HTML report", error) from None
    environment = Environment(
        loader=PackageLoader("modeval.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = Markup
    return environment


def missing_extra(what: str, error: ImportError) -> DependencyError:
    """Return the error that says how to install what reports need."""
    return DependencyError(
        f'{what} needs {error.name}, which is not installed: pip install "modeval-cli[report]"'
    )


def _template_text(name: str) -> str:
    return (resources.files("modeval.report") / "templates" / name).read_text(encoding="utf-8")


def _title(found: Sequence[Entry]) -> str:
    names = list(dict.fromkeys(entry.record.title for entry in found))
    most = 3
    listed = ", ".join(names[:most])
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")


# --- words ---------------------------------------------------------------------------------------


def _brief(group: Group) -> tuple[str, list[tuple[Entry, str]], Table]:
    lines = [(entry, brief(entry).sentence) for entry in group.entries]
    return group.title, lines, tables.glance_table(group.entries, "At a glance")


def _limits(group: Group) -> list[tuple[str, list[str]]]:
    """Return what cannot be claimed, what is the same for all models first."""
    each = [(entry.name, cautions(entry.card, entry.record)) for entry in group.entries]
    times = Counter(text for _, texts in each for text in texts)
    shared = [text for text in times if times[text] == len(each) and len(each) > 1]
    routed = [name for name, texts in each if texts]
    if len(each) > 1:
        shared = [text for text in times if times[text] == len(routed) and len(routed) > 1]
    own = [(name, [text for text in texts if text not in shared]) for name, texts in each]
    title = "All models" if len(routed) == len(each) else "All models with routing"
    whole = [(title, shared)] if shared else []
    return [*whole, *((name, texts) for name, texts in own if texts)]


def _facts(group: Group) -> Facts:
    each = [dict(measured(entry.card, entry.record)) for entry in group.entries]
    terms = list(dict.fromkeys(term for facts in each for term in facts))
    same = [term for term in terms if len({facts.get(term) for facts in each}) == 1]
    rows = [
        (tables.words(term), *(tables.words(facts.get(term, "")) for facts in each))
        for term in terms
        if term not in same
    ]
    table = Table(
        "Where the models differ",
        ("Of", *(entry.name for entry in group.entries)),
        tuple(rows),
        sortable=False,
    )
    return Facts(
        common=tuple((term, each[0][term]) for term in same), table=table if rows else None
    )


def _levels(cards: Sequence[Scorecard]) -> str:
    """Return the levels of the intervals that there are."""
    shown = [card for card in cards if any(score.low is not None for score in card.scores)]
    return ", ".join(dict.fromkeys(f"{card.level:.0%}".replace("%", " %") for card in shown))


def _chance(cards: Sequence[Scorecard]) -> dict[str, str]:
    """Return what the levels of chance mean; those that no score has are empty."""
    scores = [score for card in cards for score in card.scores]
    return {
        name: text
        for name, text in CHANCE.items()
        if any(getattr(score, name) is not None for score in scores)
    }


def _members(found: Sequence[Entry]) -> Table:
    rows = [
        (
            tables.words(entry.name),
            tables.words(scorecard_views.seed_name(member.seed)),
            tables.words(member.status),
            tables.value(member.precision),
            tables.words(member.note),
            tables.words(member.source),
        )
        for entry in found
        for member in entry.record.members
    ]
    titles = ("Model", "Seed", "Status", "Certainty of A, ±", "Note", "Read from")
    return tables.filled("What was read", titles, rows)


# --- figures -------------------------------------------------------------------------------------


def _scores(group: Group, number: _Numbers) -> tuple[Panel, Table, list[Table]]:
    """Return pictures of the scores, and them as tables: all models, and seed by seed."""
    figures: dict[bool, list[Figure]] = {True: [], False: []}
    for metric in scorecard_views.metrics_of(group.entries):
        scored = [scorecard_views.overall(entry, metric) for entry in group.entries]
        known = [score for score in scored if score is not None and score.value is not None]
        if not known:
            continue
        figures[metric in shown_in("table")].append(
            Figure(
                title=metric_title(metric),
                picture=page_charts.strip_chart(group.entries, metric, number()),
                remark=tables.ARROWS[known[0].better],
            )
        )
    first, others = figures[True] or figures[False], figures[False] if figures[True] else []
    panel = Panel(
        title=group.title,
        figures=tuple(first),
        folded=tuple(others),
        heading=f"{count(len(others), 'further score')}",
        text="Dots are layers."
        if any(is_trace(entry.record) for entry in group.entries)
        else "Dots are seeds.",
    )
    seeds = [table for entry in group.entries if (table := tables.seeds_table(entry))]
    return panel, tables.scores_table(group.entries, f"Scores: {group.title}"), seeds


def _layers(entry: Entry, number: _Numbers) -> Panel:
    labels, pattern = scorecard_views.layer_names(entry.record.layers)
    figures: dict[bool, list[Figure]] = {True: [], False: []}
    for metric in scorecard_views.metrics_of([entry]):
        scores = [
            score for score in scorecard_views.by_layer(entry, metric) if score.value is not None
        ]
        if scores:
            figures[metric in shown_in("layers")].append(
                Figure(
                    title=metric_title(metric),
                    picture=page_charts.layer_chart(scores, labels, metric, number()),
                    remark=tables.ARROWS[scores[0].better],
                )
            )
    return Panel(
        title=entry.name,
        figures=tuple(figures[True] or figures[False]),
        folded=tuple(figures[False] if figures[True] else ()),
        heading=f"{count(len(figures[False]), 'further score')} by layer",
        text=f"Layers are numbered by their place in {pattern}." if pattern else "",
        tables=(tables.layers_table(entry),),
    )


def _maps(group: Group, number: _Numbers) -> list[Panel]:
    routed = [
        entry
        for entry in group.entries
        if entry.record.modules > 1
        and any(
            each.model == entry.record.id and len(each.matrix) > 1  # one row is load
            for each in entry.card.activations
        )
    ]
    layered = [entry for entry in routed if entry.layered]
    single = [entry for entry in routed if not entry.layered]
    panels = [_single_maps(group.title, single, number)] if single else []
    return panels + [_layered_maps(entry, number) for entry in layered]


def _brightest(entries: Sequence[Entry]) -> tuple[float, bool]:
    return routing_views.brightest(
        np.array(each.matrix)
        for entry in entries
        for each in entry.card.activations
        if each.model == entry.record.id
    )


def _single_maps(title: str, entries: Sequence[Entry], number: _Numbers) -> Panel:
    """Return the maps of models with one layer, beside each other."""
    most, clipped = _brightest(entries)
    sizes = {entry.record.modules for entry in entries}
    uniform = sizes.pop() if len(sizes) == 1 else None
    key = page_charts.colour_key(most, uniform, number(), clipped=clipped)
    first, rest = [], []
    for entry in entries:
        matrices = routing_views.activations(entry)
        mean = routing_views.mean_map(matrices)
        over = f"mean of {mean.averaged} seeds" if mean.averaged > 1 else ""
        first.append(_map_figure(entry, mean, most, entry.name, number, remark=over))
        rest += [
            _map_figure(
                entry,
                routing_views.ordered_map(each),
                most,
                f"{entry.name}, {scorecard_views.seed_name(each.seed)}",
                number,
                written=False,
            )
            for each in matrices
            if mean.averaged > 1
        ]
    text = (
        "Modules have no identity across seeds: those of each seed are put in the order of their "
        "rules before the mean is taken."
        if rest
        else ""
    )
    return Panel(
        title=title,
        figures=tuple(first),
        folded=tuple(rest),
        heading=f"Seed by seed: {count(len(rest), 'map')}",
        text=text,
        key=key,
    )


def _layered_maps(entry: Entry, number: _Numbers) -> Panel:
    """Return the maps of telling layers, the others folded away."""
    most, clipped = _brightest([entry])
    told, metric = scorecard_views.telling_layers(entry)
    shown = {layer for _, layer in told}
    short, pattern = scorecard_views.layer_names(entry.record.layers)
    figures: dict[bool, list[Figure]] = {True: [], False: []}
    remarks = {layer: word for word, layer in told} if metric else {}
    order = [layer for _, layer in told] + [n for n in range(len(short)) if n not in shown]
    for layer in order:
        found = routing_views.activations(entry, layer)
        if found:
            figures[layer in shown].append(
                _map_figure(
                    entry,
                    routing_views.mean_map(found),
                    most,
                    f"Layer {short[layer]}",
                    number,
                    remark=remarks.get(layer, ""),
                    written=layer in shown,
                )
            )
    return Panel(
        title=entry.name,
        figures=tuple(figures[True]),
        folded=tuple(figures[False]),
        heading=f"The other {count(len(figures[False]), 'layer')}",
        text=f"Layers are numbered by their place in {pattern}." if pattern else "",
        key=page_charts.colour_key(most, entry.record.modules, number(), clipped=clipped),
    )


def _map_figure(
    entry: Entry,
    found: routing_views.Map,
    most: float,
    title: str,
    number: _Numbers,
    *,
    remark: str = "",
    written: bool = True,
) -> Figure:
    rules = routing_views.rule_names(entry.record, found.matrix.shape[0])
    named = f"{entry.name}, {title}" if title != entry.name else title
    return Figure(
        title=title,
        picture=page_charts.heat_map(found, rules, most, f"Activation: {named}", number()),
        remark=remark,
        wide=True,
        table=tables.map_table(entry, found, named) if written else None,
    )


def _loads(group: Group, number: _Numbers) -> list[Panel]:
    figures = []
    for entry in group.entries:
        shares = routing_views.shares(entry)
        if entry.record.modules > 1 and shares.size:
            picture = page_charts.load_chart(shares, f"Load: {entry.name}", number())
            figures.append(Figure(title=entry.name, picture=picture))
    panels = [Panel(title=group.title, figures=tuple(figures))] if figures else []
    layered = [entry for entry in group.entries if entry.layered]
    return panels + [panel for entry in layered for panel in _layered_loads(entry, number)]


def _layered_loads(entry: Entry, number: _Numbers) -> list[Panel]:
    told, metric = scorecard_views.telling_layers(entry)
    labels, _ = scorecard_views.layer_names(entry.record.layers)
    every = [routing_views.shares(entry, layer) for layer in range(len(labels))]
    figures = [
        Figure(
            title=f"Layer {labels[layer]}",
            picture=page_charts.load_chart(
                every[layer], f"Load: {entry.name}, layer {labels[layer]}", number()
            ),
            remark=word if metric else "",
        )
        for word, layer in told
        if every[layer].size
    ]
    if len(every) > len(told) and all(shares.size for shares in every):
        picture = page_charts.load_map([shares[0] for shares in every], labels, number())
        figures.append(Figure(title="All layers", picture=picture, wide=True))
    return [Panel(title=entry.name, figures=tuple(figures))] if figures else []


def _together(entry: Entry, number: _Numbers) -> list[Panel]:
    found = routing_views.coactivations(entry)
    if not found:
        return []
    most = max(max(map(max, each.matrix)) for each in found)
    remarks: dict[int | None, str] = {
        layer: word for word, layer in scorecard_views.telling_layers(entry)[0]
    }
    short, _ = scorecard_views.layer_names(entry.record.layers)
    figures: dict[bool, list[Figure]] = {True: [], False: []}
    told = [*remarks, *(each.layer for each in found if each.layer not in remarks)]
    for each in sorted(found, key=lambda each: told.index(each.layer)):
        name = entry.name if each.layer is None else f"Layer {short[each.layer]}"
        title = f"{name}, {scorecard_views.seed_name(each.seed)}" if each.seed else name
        full = title if each.layer is None else f"{entry.name}, {title}"
        picture = page_charts.together_map(
            routing_views.square(each), each.modules, most, f"Chosen together: {full}", number()
        )
        open_ = each.layer is None or each.layer in remarks
        remark = "" if len(remarks) == len(short) else remarks.get(each.layer, "")
        figures[open_].append(Figure(title=title, picture=picture, remark=remark, wide=True))
    return [
        Panel(
            title=entry.name,
            figures=tuple(figures[True]),
            folded=tuple(figures[False]),
            heading=f"The other {count(len(figures[False]), 'layer')}",
            text=_together_words(entry, max(len(each.modules) for each in found)),
            key=page_charts.colour_key(most, None, number(), "share of a module's choices"),
        )
    ]


def _together_words(entry: Entry, shown: int) -> str:
    busiest = f"The {shown} busiest of {entry.record.modules} modules. "
    chance = routing_views.together_chance(entry)
    level = f"Choices that are even and independent give {chance:.3f} everywhere." if chance else ""
    return ((busiest if shown < entry.record.modules else "") + level).strip()


def _terms(found: Sequence[Entry]) -> list[tuple[str, str]]:
    """Return style and title of the terms of the budget that occur."""
    occurring = {
        term for entry in found for row in routing_views.budgets(entry) for term in row.terms
    }
    return [
        (term.replace("_", "-"), text)
        for term, text in page_charts.TERM_TITLES.items()
        if term in occurring
    ]


def _budgets(group: Group, number: _Numbers) -> list[Panel]:
    single = [entry for entry in group.entries if not entry.layered]
    rows = [budget for entry in single for budget in routing_views.budgets(entry)]
    panels = [_budget_panel(rows, group.title, "Model", number)] if rows else []
    for entry in group.entries:
        if entry not in single:
            rows = routing_views.budgets(entry)
            panels += [_budget_panel(rows, entry.name, "Layer", number)] if rows else []
    return panels


def _budget_panel(
    rows: Sequence[routing_views.Budget], title: str, first: str, number: _Numbers
) -> Panel:
    terms = [term for term in page_charts.TERM_TITLES if any(term in row.terms for row in rows)]
    table = tables.filled(
        f"Entropy budget in nats: {title}",
        (first, *(page_charts.TERM_TITLES[term] for term in terms), "log M"),
        [
            (
                tables.words(row.label),
                *(tables.value(row.terms.get(term)) for term in terms),
                tables.value(row.total),
            )
            for row in rows
        ],
    )
    picture = page_charts.budget_chart(rows, f"Entropy budget: {title}", number())
    undivided = (
        "These scorecards do not tell input distraction from softness."
        if routing_views.UNDIVIDED in terms
        else ""
    )
    figure = Figure(title="", picture=picture, text=undivided, table=table)
    return Panel(title=title, figures=(figure,))
