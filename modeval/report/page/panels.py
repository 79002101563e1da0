"""The panels of the page: for each kind of picture its figures, tables behind them and words."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from modeval.metrics.table import shown_in
from modeval.report import causes, routing_views, scorecard_views, tables
from modeval.report.page import charts, heatmaps
from modeval.report.scorecard_views import ModelView, TaskGroup
from modeval.report.tables import Table
from modeval.report.words import MODULES, count, is_trace, metric_title, title_for, vocabulary

MOST_FOLDED = 128
"""Layers of one kind of picture that are folded away; of more, evenly spaced ones are drawn."""


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
        scored = [scorecard_views.overall(view, metric) for view in group.entries]
        known = [score for score in scored if score is not None and score.value is not None]
        if known:
            figures.append(
                Figure(
                    title=title_for(group.entries[0].record, metric),
                    picture=charts.strip_chart(group.entries, metric, number()),
                    remark=tables.ARROWS[known[0].better],
                )
            )
    traced = any(is_trace(view.record) for view in group.entries)
    panel = Panel(
        title=group.title,
        figures=tuple(figures),
        text="Dots are layers." if traced else "Dots are seeds.",
    )
    seeds = [table for view in group.entries if (table := tables.seeds_table(view))]
    return panel, tables.scores_table(group.entries, f"Scores: {group.title}"), seeds


def layers(view: ModelView, number: Numbers) -> Panel:
    """Return the scores of a model over its layers."""
    labels, pattern = scorecard_views.layer_names(view.record.layers)
    there = scorecard_views.metrics_of([view])
    pictured = [metric for metric in there if metric in shown_in("layers")] or there
    figures = []
    for metric in pictured:
        every = scorecard_views.by_layer(view, metric)
        known = [score for score in every if score.value is not None]
        if known:
            figures.append(
                Figure(
                    title=title_for(view.record, metric),
                    picture=charts.layer_chart(known, labels, metric, number()),
                    remark=tables.ARROWS[known[0].better],
                )
            )
    return Panel(
        title=view.name,
        figures=tuple(figures),
        text=f"Layers are numbered by their place in {pattern}." if pattern else "",
        tables=(tables.layers_table(view),),
    )


def against_rules(grouped: Sequence[TaskGroup], number: Numbers) -> list[Panel]:
    """Return the scores against the number of rules, of tasks that differ in it alone."""
    kinds: dict[str, list[TaskGroup]] = {}
    for group in grouped:
        if not is_trace(group.entries[0].record):
            kinds.setdefault(group.kind, []).append(group)
    panels = []
    for several in kinds.values():
        entries = [view for group in several for view in group.entries]
        figures = []
        for metric in scorecard_views.metrics_of(entries):
            lines = scorecard_views.against_rules(entries, metric)
            order = list(dict.fromkeys(view.name for view in entries))
            if metric in shown_in("table") and any(len(line) > 1 for line in lines.values()):
                picture = charts.rules_chart(lines, metric, order, number())
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
    view = group.entries[0]
    index = routing_views.most_telling(view)
    if len(group.entries) == 1 and len(routing_views.activations(view, index)) == 1:
        return _telling_map(view, index, number)
    metric = next(
        (
            name
            for name in shown_in("headline")
            if any(scorecard_views.overall(view, name) for view in group.entries)
        ),
        None,
    )
    if metric is None:
        return None
    return Figure(
        title=metric_title(metric),
        picture=charts.strip_chart(group.entries, metric, number()),
        remark="seeds or layers as dots, mean and interval, dashed what chance gives",
    )


def _telling_map(view: ModelView, place: int | None, number: Numbers) -> Figure | None:
    shares = routing_views.mean_map(routing_views.activations(view, place))
    if len(shares.matrix) < 2:  # noqa: PLR2004 - one row is load
        return None
    words = vocabulary(view.record)
    names, _ = scorecard_views.layer_names(view.record.layers)
    most, _ = routing_views.brightest([shares.matrix])
    rules = routing_views.rule_names(view.record, len(shares.matrix))
    where = "" if place is None else f", layer {names[place]}"
    title = f"{words.modules.capitalize()} of each {words.rule}{where}"
    picture = heatmaps.heat_map(shares, rules, most, title, number(), words.module)
    tastes = tables.tastes_table(view, words)
    text = f"Numbers are percent of a {words.rule}; outlined is the {words.module} with most of it."
    return Figure(title=title, picture=picture, text=text, wide=True, table=tastes)


def maps(group: TaskGroup, number: Numbers) -> list[Panel]:
    """Return which rule goes to which module, of all models."""
    routed = [
        view
        for view in group.entries
        if view.record.modules > 1
        and any(len(each.matrix) > 1 for each in view.own.activations)  # one row is load
    ]
    layered = [view for view in routed if view.layered]
    single = [view for view in routed if not view.layered]
    panels = [_single_maps(group.title, single, number)] if single else []
    return panels + [_layered_maps(view, number) for view in layered]


def _brightest(entries: Sequence[ModelView]) -> tuple[float, bool]:
    return routing_views.brightest(
        np.array(each.matrix) for view in entries for each in view.own.activations
    )


def _single_maps(title: str, entries: Sequence[ModelView], number: Numbers) -> Panel:
    """Return the maps of models with one layer, beside each other."""
    most, clipped = _brightest(entries)
    sizes = {view.record.modules for view in entries}
    uniform = sizes.pop() if len(sizes) == 1 else None
    key = heatmaps.colour_key(most, uniform, number(), clipped=clipped)
    first, rest = [], []
    for view in entries:
        matrices = routing_views.activations(view)
        mean = routing_views.mean_map(matrices)
        over = f"mean of {mean.averaged} seeds" if mean.averaged > 1 else ""
        first.append(_map_figure(view, mean, most, view.name, number, remark=over))
        need = causes.needed_map(view)
        if need is not None:
            needed = f"{view.name}, {causes.NEEDED}"
            first.append(_map_figure(view, need, most, needed, number, remark=over, what="Need"))
        rest += [
            _map_figure(
                view,
                routing_views.ordered_map(each),
                most,
                f"{view.name}, {scorecard_views.seed_name(each.seed)}",
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
    if any(causes.effects(view) for view in entries):
        text = f"{text} {causes.LEGEND}".strip()
    return Panel(
        title=title,
        figures=tuple(first),
        folded=tuple(rest),
        heading=f"Seed by seed: {count(len(rest), 'map')}",
        text=text,
        key=key,
    )


def _layered_maps(view: ModelView, number: Numbers) -> Panel:
    """Return the maps of telling layers, the others folded away."""
    most, clipped = _brightest([view])
    told, metric = scorecard_views.telling_layers(view)
    shown = {layer for _, layer in told}
    short, pattern = scorecard_views.layer_names(view.record.layers)
    opened: list[Figure] = []
    folded: list[Figure] = []
    remarks = {layer: word for word, layer in told} if metric else {}
    others = _spread([layer for layer in range(len(short)) if layer not in shown])
    for layer in [*(layer for _, layer in told), *others]:
        activations = routing_views.activations(view, layer)
        if activations:
            figure = _map_figure(
                view,
                routing_views.mean_map(activations),
                most,
                f"Layer {short[layer]}",
                number,
                remark=remarks.get(layer, ""),
                written=layer in shown,
            )
            (opened if layer in shown else folded).append(figure)
    return Panel(
        title=view.name,
        figures=tuple(opened),
        folded=tuple(folded),
        heading=_others(len(folded), len(short) - len(shown)),
        text=f"Layers are numbered by their place in {pattern}." if pattern else "",
        key=heatmaps.colour_key(
            most,
            view.record.modules,
            number(),
            f"share of a {vocabulary(view.record).rule}",
            clipped=clipped,
        ),
    )


def _others(amount: int, of: int) -> str:
    if of > MOST_FOLDED:
        return f"{amount} of the other {of:,} layers, evenly spaced"
    return "The other layer" if amount == 1 else f"The other {count(amount, 'layer')}"


def _spread(layers: Sequence[int]) -> list[int]:
    """Return layers, evenly spaced ones of very many: pictures of a thousand are no page.

    >>> _spread(range(1000))[:3], len(_spread(range(1000))), len(_spread(range(57)))
    ([0, 7, 15], 128, 57)
    """
    if len(layers) <= MOST_FOLDED:
        return [*layers]
    return [layers[n * len(layers) // MOST_FOLDED] for n in range(MOST_FOLDED)]


def _map_figure(
    model_view: ModelView,
    view: routing_views.Map,
    most: float,
    title: str,
    number: Numbers,
    *,
    remark: str = "",
    written: bool = True,
    what: str = "Activation",
) -> Figure:
    rules = routing_views.rule_names(model_view.record, view.matrix.shape[0])
    named = f"{model_view.name}, {title}" if not title.startswith(model_view.name) else title
    return Figure(
        title=title,
        picture=heatmaps.heat_map(
            view,
            rules,
            most,
            f"{what}: {named}",
            number(),
            vocabulary(model_view.record).module,
            small=not written,
        ),
        remark=remark,
        wide=True,
        table=tables.map_table(model_view, view, named) if written else None,
    )


def loads(group: TaskGroup, number: Numbers) -> list[Panel]:
    """Return how the work is shared out over the modules of all models."""
    figures = []
    for view in group.entries:
        shares = routing_views.shares(view)
        if view.record.modules > 1 and shares.size:
            picture = charts.load_chart(
                shares, f"Load: {view.name}", number(), vocabulary(view.record).module
            )
            figures.append(Figure(title=view.name, picture=picture))
    panels = [Panel(title=group.title, figures=tuple(figures))] if figures else []
    layered = [view for view in group.entries if view.layered]
    return panels + [panel for view in layered for panel in _layered_loads(view, number)]


def _layered_loads(view: ModelView, number: Numbers) -> list[Panel]:
    told, metric = scorecard_views.telling_layers(view)
    labels, _ = scorecard_views.layer_names(view.record.layers)
    every = [routing_views.shares(view, layer) for layer in range(len(labels))]
    figures = [
        Figure(
            title=f"Layer {labels[layer]}",
            picture=charts.load_chart(
                every[layer],
                f"Load: {view.name}, layer {labels[layer]}",
                number(),
                vocabulary(view.record).module,
            ),
            remark=word if metric else "",
        )
        for word, layer in told
        if every[layer].size
    ]
    if len(every) > len(told) and all(shares.size for shares in every):
        picture = heatmaps.load_map([shares[0] for shares in every], labels, number())
        figures.append(Figure(title="All layers", picture=picture, wide=True))
    return [Panel(title=view.name, figures=tuple(figures))] if figures else []


def together(view: ModelView, number: Numbers) -> list[Panel]:
    """Return which modules are chosen together."""
    coactivations = routing_views.coactivations(view)
    if not coactivations:
        return []
    most = max(max(map(max, each.matrix)) for each in coactivations)
    remarks: dict[int | None, str] = {
        layer: word for word, layer in scorecard_views.telling_layers(view)[0]
    }
    short, _ = scorecard_views.layer_names(view.record.layers)
    opened: list[Figure] = []
    folded: list[Figure] = []
    rest = dict.fromkeys(each.layer or 0 for each in coactivations if each.layer not in remarks)
    places = {layer: place for place, layer in enumerate([*remarks, *_spread([*rest])])}
    drawn = [each for each in coactivations if each.layer in places]
    for each in sorted(drawn, key=lambda each: places[each.layer]):
        name = view.name if each.layer is None else f"Layer {short[each.layer]}"
        title = f"{name}, {scorecard_views.seed_name(each.seed)}" if each.seed else name
        full = title if each.layer is None else f"{view.name}, {title}"
        picture = heatmaps.together_map(
            routing_views.square(each),
            each.modules,
            most,
            f"Chosen together: {full}",
            number(),
            vocabulary(view.record).module,
        )
        open_ = each.layer is None or each.layer in remarks
        remark = "" if len(remarks) == len(short) else remarks.get(each.layer, "")
        figure = Figure(title=title, picture=picture, remark=remark, wide=True)
        (opened if open_ else folded).append(figure)
    return [
        Panel(
            title=view.name,
            figures=tuple(opened),
            folded=tuple(folded),
            heading=_others(len(folded), max(len(rest), len(folded))),
            text=_together_words(view, max(len(each.modules) for each in coactivations)),
            key=heatmaps.colour_key(
                most, None, number(), f"share of {vocabulary(view.record).a_module}'s choices"
            ),
        )
    ]


def _together_words(view: ModelView, shown: int) -> str:
    modules = vocabulary(view.record).modules
    busiest = f"The {shown} busiest of {view.record.modules} {modules}. "
    chance = routing_views.together_chance(view)
    level = f"Choices that are even and independent give {chance:.3f} everywhere." if chance else ""
    return ((busiest if shown < view.record.modules else "") + level).strip()


def terms(found: Sequence[ModelView]) -> list[tuple[str, str]]:
    """Return style and title of the terms of the budget that occur."""
    occurring = {
        term for views in found for row in routing_views.budgets(views) for term in row.terms
    }
    spoken = {vocabulary(view.record) for view in found}
    known = spoken.pop() if len(spoken) == 1 else MODULES
    return [
        (term.replace("_", "-"), known.spoken(text))
        for term, text in charts.TERM_TITLES.items()
        if term in occurring
    ]


def budgets(group: TaskGroup, number: Numbers) -> list[Panel]:
    """Return where the routing entropy goes."""
    single = [view for view in group.entries if not view.layered]
    rows = [budget for view in single for budget in routing_views.budgets(view)]
    panels = [_budget_panel(rows, group.title, "Model", number)] if rows else []
    for view in group.entries:
        if view not in single:
            rows = routing_views.budgets(view)
            panels += [_budget_panel(rows, view.name, "Layer", number)] if rows else []
    return panels


def _budget_panel(
    rows: Sequence[routing_views.Budget], title: str, first: str, number: Numbers
) -> Panel:
    terms = [term for term in charts.TERM_TITLES if any(term in row.terms for row in rows)]
    table = tables.filled(
        f"Entropy budget in nats: {title}",
        (first, *(charts.TERM_TITLES[term] for term in terms), "log M"),
        [
            (
                tables.words(row.label),
                *(tables.value(row.terms.get(term)) for term in terms),
                tables.value(row.total),
            )
            for row in rows
        ],
    )
    picture = charts.budget_chart(rows, f"Entropy budget: {title}", number())
    undivided = (
        "These scorecards do not tell input distraction from softness."
        if routing_views.UNDIVIDED in terms
        else ""
    )
    figure = Figure(title="", picture=picture, text=undivided, table=table)
    return Panel(title=title, figures=(figure,))
