"""The panels of the page: for each kind of picture its figures, tables behind them and words."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from modeval.metrics.table import shown_in
from modeval.report import page_charts, page_maps, routing_views, scorecard_views, tables
from modeval.report.scorecard_views import ModelView, TaskGroup
from modeval.report.tables import Table
from modeval.report.words import count, is_trace, metric_title, vocabulary


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


@dataclass(slots=True)
class Numbers:
    """Gives pictures names that are unique within a page."""

    made: int = field(default=0)

    def __call__(self) -> str:
        """Return a name that no other picture has."""
        self.made += 1
        return f"figure-{self.made}"


# --- figures -------------------------------------------------------------------------------------


def scores(group: TaskGroup, number: Numbers) -> tuple[Panel, Table, list[Table]]:
    """Return pictures of the scores, and them as tables: all models, and seed by seed.

    Only those that belong in a table of scores have pictures; all have rows.
    """
    there = scorecard_views.metrics_of(group.entries)
    pictured = [metric for metric in there if metric in shown_in("table")] or there
    figures = []
    for metric in pictured:
        scored = [scorecard_views.overall(entry, metric) for entry in group.entries]
        known = [score for score in scored if score is not None and score.value is not None]
        if known:
            figures.append(
                Figure(
                    title=metric_title(metric),
                    picture=page_charts.strip_chart(group.entries, metric, number()),
                    remark=tables.ARROWS[known[0].better],
                )
            )
    traced = any(is_trace(entry.record) for entry in group.entries)
    panel = Panel(
        title=group.title,
        figures=tuple(figures),
        text="Dots are layers." if traced else "Dots are seeds.",
    )
    seeds = [table for entry in group.entries if (table := tables.seeds_table(entry))]
    return panel, tables.scores_table(group.entries, f"Scores: {group.title}"), seeds


def layers(entry: ModelView, number: Numbers) -> Panel:
    """Return the scores of a model over its layers."""
    labels, pattern = scorecard_views.layer_names(entry.record.layers)
    there = scorecard_views.metrics_of([entry])
    pictured = [metric for metric in there if metric in shown_in("layers")] or there
    figures = []
    for metric in pictured:
        every = scorecard_views.by_layer(entry, metric)
        known = [score for score in every if score.value is not None]
        if known:
            figures.append(
                Figure(
                    title=metric_title(metric),
                    picture=page_charts.layer_chart(known, labels, metric, number()),
                    remark=tables.ARROWS[known[0].better],
                )
            )
    return Panel(
        title=entry.name,
        figures=tuple(figures),
        text=f"Layers are numbered by their place in {pattern}." if pattern else "",
        tables=(tables.layers_table(entry),),
    )


def against_rules(grouped: Sequence[TaskGroup], number: Numbers) -> list[Panel]:
    """Return the scores against the number of rules, of tasks that differ in it alone."""
    kinds: dict[str, list[TaskGroup]] = {}
    for group in grouped:
        if not is_trace(group.entries[0].record):
            kinds.setdefault(group.kind, []).append(group)
    panels = []
    for several in kinds.values():
        entries = [entry for group in several for entry in group.entries]
        figures = []
        for metric in scorecard_views.metrics_of(entries):
            lines = scorecard_views.against_rules(entries, metric)
            order = list(dict.fromkeys(entry.name for entry in entries))
            if metric in shown_in("table") and any(len(line) > 1 for line in lines.values()):
                picture = page_charts.rules_chart(lines, metric, order, number())
                table = tables.rules_table(entries, metric)
                figures.append(Figure(title=metric_title(metric), picture=picture, table=table))
        if figures:
            title = several[0].title.partition(" · ")[2]
            panels.append(Panel(title=title.capitalize(), figures=tuple(figures)))
    return panels


def first_picture(group: TaskGroup, number: Numbers) -> Figure | None:
    """Return the one picture that belongs beside the finding: who does what, where it tells most.

    Of several seeds or models it is the score that the finding rests on.
    """
    entry = group.entries[0]
    place = routing_views.most_telling(entry)
    if len(group.entries) == 1 and len(routing_views.activations(entry, place)) == 1:
        return _telling_map(entry, place, number)
    metric = next(
        (
            name
            for name in shown_in("headline")
            if any(scorecard_views.overall(entry, name) for entry in group.entries)
        ),
        None,
    )
    if metric is None:
        return None
    return Figure(
        title=metric_title(metric),
        picture=page_charts.strip_chart(group.entries, metric, number()),
        remark="seeds or layers as dots, mean and interval, dashed what chance gives",
    )


def _telling_map(entry: ModelView, place: int | None, number: Numbers) -> Figure | None:
    found = routing_views.mean_map(routing_views.activations(entry, place))
    if len(found.matrix) < 2:  # noqa: PLR2004 - one row is load
        return None
    words = vocabulary(entry.record)
    names, _ = scorecard_views.layer_names(entry.record.layers)
    most, _ = routing_views.brightest([found.matrix])
    rules = routing_views.rule_names(entry.record, len(found.matrix))
    where = "" if place is None else f", layer {names[place]}"
    title = f"{words.modules.capitalize()} of each {words.rule}{where}"
    picture = page_maps.heat_map(found, rules, most, title, number(), words.module)
    tastes = tables.tastes_table(entry, words)
    text = f"Numbers are percent of a {words.rule}; outlined is the {words.module} with most of it."
    return Figure(title=title, picture=picture, text=text, wide=True, table=tastes)


def maps(group: TaskGroup, number: Numbers) -> list[Panel]:
    """Return which rule goes to which module, of all models."""
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


def _brightest(entries: Sequence[ModelView]) -> tuple[float, bool]:
    return routing_views.brightest(
        np.array(each.matrix)
        for entry in entries
        for each in entry.card.activations
        if each.model == entry.record.id
    )


def _single_maps(title: str, entries: Sequence[ModelView], number: Numbers) -> Panel:
    """Return the maps of models with one layer, beside each other."""
    most, clipped = _brightest(entries)
    sizes = {entry.record.modules for entry in entries}
    uniform = sizes.pop() if len(sizes) == 1 else None
    key = page_maps.colour_key(most, uniform, number(), clipped=clipped)
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


def _layered_maps(entry: ModelView, number: Numbers) -> Panel:
    """Return the maps of telling layers, the others folded away."""
    most, clipped = _brightest([entry])
    told, metric = scorecard_views.telling_layers(entry)
    shown = {layer for _, layer in told}
    short, pattern = scorecard_views.layer_names(entry.record.layers)
    opened: list[Figure] = []
    folded: list[Figure] = []
    remarks = {layer: word for word, layer in told} if metric else {}
    order = [layer for _, layer in told] + [n for n in range(len(short)) if n not in shown]
    for layer in order:
        found = routing_views.activations(entry, layer)
        if found:
            figure = _map_figure(
                entry,
                routing_views.mean_map(found),
                most,
                f"Layer {short[layer]}",
                number,
                remark=remarks.get(layer, ""),
                written=layer in shown,
            )
            (opened if layer in shown else folded).append(figure)
    return Panel(
        title=entry.name,
        figures=tuple(opened),
        folded=tuple(folded),
        heading=_others(len(folded)),
        text=f"Layers are numbered by their place in {pattern}." if pattern else "",
        key=page_maps.colour_key(most, entry.record.modules, number(), clipped=clipped),
    )


def _others(amount: int) -> str:
    return "The other layer" if amount == 1 else f"The other {count(amount, 'layer')}"


def _map_figure(
    entry: ModelView,
    found: routing_views.Map,
    most: float,
    title: str,
    number: Numbers,
    *,
    remark: str = "",
    written: bool = True,
) -> Figure:
    rules = routing_views.rule_names(entry.record, found.matrix.shape[0])
    named = f"{entry.name}, {title}" if title != entry.name else title
    return Figure(
        title=title,
        picture=page_maps.heat_map(
            found,
            rules,
            most,
            f"Activation: {named}",
            number(),
            vocabulary(entry.record).module,
            small=not written,
        ),
        remark=remark,
        wide=True,
        table=tables.map_table(entry, found, named) if written else None,
    )


def loads(group: TaskGroup, number: Numbers) -> list[Panel]:
    """Return how the work is shared out over the modules of all models."""
    figures = []
    for entry in group.entries:
        shares = routing_views.shares(entry)
        if entry.record.modules > 1 and shares.size:
            picture = page_charts.load_chart(
                shares, f"Load: {entry.name}", number(), vocabulary(entry.record).module
            )
            figures.append(Figure(title=entry.name, picture=picture))
    panels = [Panel(title=group.title, figures=tuple(figures))] if figures else []
    layered = [entry for entry in group.entries if entry.layered]
    return panels + [panel for entry in layered for panel in _layered_loads(entry, number)]


def _layered_loads(entry: ModelView, number: Numbers) -> list[Panel]:
    told, metric = scorecard_views.telling_layers(entry)
    labels, _ = scorecard_views.layer_names(entry.record.layers)
    every = [routing_views.shares(entry, layer) for layer in range(len(labels))]
    figures = [
        Figure(
            title=f"Layer {labels[layer]}",
            picture=page_charts.load_chart(
                every[layer],
                f"Load: {entry.name}, layer {labels[layer]}",
                number(),
                vocabulary(entry.record).module,
            ),
            remark=word if metric else "",
        )
        for word, layer in told
        if every[layer].size
    ]
    if len(every) > len(told) and all(shares.size for shares in every):
        picture = page_maps.load_map([shares[0] for shares in every], labels, number())
        figures.append(Figure(title="All layers", picture=picture, wide=True))
    return [Panel(title=entry.name, figures=tuple(figures))] if figures else []


def together(entry: ModelView, number: Numbers) -> list[Panel]:
    """Return which modules are chosen together."""
    found = routing_views.coactivations(entry)
    if not found:
        return []
    most = max(max(map(max, each.matrix)) for each in found)
    remarks: dict[int | None, str] = {
        layer: word for word, layer in scorecard_views.telling_layers(entry)[0]
    }
    short, _ = scorecard_views.layer_names(entry.record.layers)
    opened: list[Figure] = []
    folded: list[Figure] = []
    told = [*remarks, *(each.layer for each in found if each.layer not in remarks)]
    for each in sorted(found, key=lambda each: told.index(each.layer)):
        name = entry.name if each.layer is None else f"Layer {short[each.layer]}"
        title = f"{name}, {scorecard_views.seed_name(each.seed)}" if each.seed else name
        full = title if each.layer is None else f"{entry.name}, {title}"
        picture = page_maps.together_map(
            routing_views.square(each), each.modules, most, f"Chosen together: {full}", number()
        )
        open_ = each.layer is None or each.layer in remarks
        remark = "" if len(remarks) == len(short) else remarks.get(each.layer, "")
        figure = Figure(title=title, picture=picture, remark=remark, wide=True)
        (opened if open_ else folded).append(figure)
    return [
        Panel(
            title=entry.name,
            figures=tuple(opened),
            folded=tuple(folded),
            heading=_others(len(folded)),
            text=_together_words(entry, max(len(each.modules) for each in found)),
            key=page_maps.colour_key(most, None, number(), "share of a module's choices"),
        )
    ]


def _together_words(entry: ModelView, shown: int) -> str:
    busiest = f"The {shown} busiest of {entry.record.modules} modules. "
    chance = routing_views.together_chance(entry)
    level = f"Choices that are even and independent give {chance:.3f} everywhere." if chance else ""
    return ((busiest if shown < entry.record.modules else "") + level).strip()


def terms(found: Sequence[ModelView]) -> list[tuple[str, str]]:
    """Return style and title of the terms of the budget that occur."""
    occurring = {
        term for entry in found for row in routing_views.budgets(entry) for term in row.terms
    }
    return [
        (term.replace("_", "-"), text)
        for term, text in page_charts.TERM_TITLES.items()
        if term in occurring
    ]


def budgets(group: TaskGroup, number: Numbers) -> list[Panel]:
    """Return where the routing entropy goes."""
    single = [entry for entry in group.entries if not entry.layered]
    rows = [budget for entry in single for budget in routing_views.budgets(entry)]
    panels = [_budget_panel(rows, group.title, "Model", number)] if rows else []
    for entry in group.entries:
        if entry not in single:
            rows = routing_views.budgets(entry)
            panels += [_budget_panel(rows, entry.name, "Layer", number)] if rows else []
    return panels


def _budget_panel(
    rows: Sequence[routing_views.Budget], title: str, first: str, number: Numbers
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
