"""A report as one HTML file: pictures, tables and words, without anything from a network."""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from modeval.errors import DependencyError, ScorecardError
from modeval.report import scorecard_views, tables
from modeval.report.brief import GRAVE, Brief, brief, own_shares, tastes_in_words
from modeval.report.changes import READINGS, Change, change, reading
from modeval.report.page import courses, panels
from modeval.report.page.panels import Figure, Numbers
from modeval.report.page.tokens import TokenFigure
from modeval.report.scorecard_views import ModelView, TaskGroup
from modeval.report.tables import Table
from modeval.report.terminal.comparison import compared
from modeval.report.words import (
    CHANCE,
    MODULES,
    OWN_CHANCE,
    Vocabulary,
    cautions,
    chance_name,
    count,
    is_trace,
    measured,
    metric_title,
    number,
    span,
    vocabulary,
    whole,
)
from modeval.score.comparison.compare import Lineage, Row, compare
from modeval.score.scorecard import Scorecard
from modeval.text import visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

FEW_TRACES = 2
"""Traces of one group up to which the page begins with who does what in each."""
COMMAND = re.compile(r"(modeval (?!PATH)[^();,]*[^();,. ])")
"""A command in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFacts:
    """What was measured of the models of one group.

    Attributes:
        common: terms and texts that all of them share.
        table: terms in which they differ; nothing for one model.
    """

    common: tuple[tuple[str, str], ...]
    table: Table | None


def render(
    cards: Sequence[Scorecard], sources: Sequence[str], tokens: Sequence[TokenFigure] = ()
) -> str:
    """Return the report of one or several scorecards as HTML.

    The file stands alone: style and script are in it, pictures are inline SVG, and a policy in its
    head forbids it to load anything. It works without the script, which sorts tables and changes
    between light and dark. The same scorecards give the same bytes.

    Args:
        cards: scorecards.
        sources: what to call each of them, such as the name of its file.
        tokens: documents token by token, from :func:`modeval.report.page.tokens.token_figures`.

    Raises:
        DependencyError: jinja2 is not installed.
        ScorecardError: there is no model in them.
    """
    environment = _environment()
    views = scorecard_views.entries(cards, sources)
    if not views:
        raise ScorecardError(
            f"{', '.join(sources)}: no model to report on. Score something: modeval score RUN"
        )
    grouped = scorecard_views.groups(views)
    script, style = _template_text("report.js"), _template_text("report.css")
    numbers = Numbers()
    spoken = [vocabulary(view.record) for view in views]
    known = spoken[0] if len(set(spoken)) == 1 else MODULES
    changes = _changes(cards, sources)
    context = {
        "title": _title(views),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": style,
        "sources": sources,
        "versions": ", ".join(dict.fromkeys(card.modeval for card in cards)),
        "counted": f"{count(len(views), 'model')} from {', '.join(sources)}",
        "brief": [_brief(group, numbers, compared=bool(changes)) for group in grouped],
        "changes": changes,
        "glance": [
            tables.glance_table(group.entries, f"At a glance: {group.title}") for group in grouped
        ],
        "limits": _limits(views),
        "facts": [(group.title, _facts(group)) for group in grouped],
        "chance": _chance(cards, known),
        "first_level": _first_level(cards),
        "words": known,
        "levels": _levels(cards),
        "rules": panels.against_rules(grouped, numbers),
        "scores": [panels.scores(group, numbers) for group in grouped],
        "courses": [panel for group in grouped for panel in courses.courses(group, numbers)],
        "layers": [panels.layers(view, numbers) for view in views if view.layered],
        "maps": [panel for group in grouped for panel in panels.maps(group, numbers)],
        "tokens": tokens,
        "loads": [panel for group in grouped for panel in panels.loads(group, numbers)],
        "together": [panel for view in views for panel in panels.together(view, numbers)],
        "budgets": [panel for group in grouped for panel in panels.budgets(group, numbers)],
        "terms": panels.terms(views),
        "meaning": tables.meaning_table(scorecard_views.metrics_of(views)),
        "members": _members(views),
        "notes": list(dict.fromkeys(note for card in cards for note in card.notes)),
    }
    page = environment.get_template("report.html").render(context)
    return visible(page.strip(), lines=True) + "\n"


def _environment() -> "Environment":
    try:
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
    environment.filters["whole"] = whole
    environment.filters["short"] = "{:.6g}".format
    environment.filters["commands"] = _commands
    return environment


def missing_extra(what: str, error: ImportError) -> DependencyError:
    """Return the error that says how to install what reports need."""
    return DependencyError(
        f'{what} needs {error.name}, which is not installed: pip install "modeval-cli[report]"'
    )


def _commands(text: str) -> "Markup":
    """Set the commands of a text as code: from ``modeval`` to its end, or to what closes it."""
    from markupsafe import Markup, escape  # noqa: PLC0415 - there is no page without it

    parts = COMMAND.split(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(_whole_words(part)) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def _whole_words(command: str) -> "Markup":
    """Keep the words of a command whole: a browser breaks lines within ``--resume``, too."""
    from markupsafe import Markup  # noqa: PLC0415 - there is no page without it

    return Markup(" ").join(Markup("<span>{}</span>").format(word) for word in command.split(" "))


def _template_text(name: str) -> str:
    return (resources.files("modeval.report") / "templates" / name).read_text(encoding="utf-8")


def _title(view: Sequence[ModelView]) -> str:
    names = list(dict.fromkeys(model_view.record.title for model_view in view))
    most = 3
    listed = ", ".join(names[:most])
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")


# --- words ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class First:
    """What a reader meets first: what came out of the models of one task.

    Attributes:
        title: the task.
        models: each with what came out of it.
        advised: the model that the advice is for, where there are several.
        advice: what to do next, of the finding that most needs it.
        picture: who does what, or the score that the finding rests on.
        own: by the name of a model, what of each rule goes to the module of its own; for cohorts.
        tastes: model, heading, and for each rule which modules get most of it; nothing of seeds.
    """

    title: str
    models: tuple[tuple[ModelView, Brief], ...]
    advised: str
    advice: tuple[str, ...]
    picture: Figure | None
    own: dict[str, str]
    tastes: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]


def _brief(group: TaskGroup, numbers: Numbers, *, compared: bool) -> First:
    found = [(view, brief(view)) for view in group.entries]
    ranked = [(view, each) for view, each in found if each.findings]
    ranked.sort(key=lambda pair: GRAVE.index(pair[1].gravest))
    traced = is_trace(group.entries[0].record)
    single = len(group.entries) == 1
    advised = [] if compared and traced else ranked[:1]  # what changed has its own advice
    listed = group.entries if single or (traced and len(group.entries) <= FEW_TRACES) else ()
    tastes = [("" if single else view.name, *tastes_in_words(view)) for view in listed]
    return First(
        title=group.title,
        own={} if traced else {view.name: own_shares(view) for view in group.entries},
        tastes=tuple((who, heading, tuple(each)) for who, heading, each in tastes if each),
        models=tuple(found),
        advised=advised[0][0].name if advised and len(ranked) > 1 else "",
        advice=advised[0][1].advice if advised else (),
        picture=panels.first_picture(group, numbers),
    )


def _changes(cards: Sequence[Scorecard], sources: Sequence[str]) -> list[tuple[str, Change, Table]]:
    """Return what changed from the first scorecard to the last, where models stand in both."""
    if len(cards) < 2:  # noqa: PLR2004 - one has no before
        return []
    comparison = compare(list(zip(sources, cards, strict=True)))
    made = []
    for lineage in comparison.lineages:
        layered = len(lineage.columns[0].model.layers) > 1
        metrics = compared(lineage)
        rows = [
            row
            for row in lineage.rows
            if row.metric in metrics and (row.over or not layered or row.layer is None)
        ]
        titles = dict.fromkeys(column.model.title for column in lineage.columns)
        title = " → ".join(titles)
        made.append((title, change(lineage, rows), _change_table(lineage, rows)))
    return made


def _change_table(lineage: Lineage, rows: Sequence[Row]) -> Table:
    known = vocabulary(lineage.columns[0].model)
    last = len(lineage.columns) - 1
    listed = []
    for row in rows:
        contrast, said = row.contrasts[last], reading(lineage, row, last)
        title = known.spoken(metric_title(row.metric))
        difference = "" if contrast is None else number(contrast.value)
        ends = "" if contrast is None else span(contrast.low, contrast.high)
        listed.append(
            (
                tables.words(f"{title}, {row.over}" if row.over else title),
                *(tables.scored(score) for score in row.scores),
                tables.value(
                    None if contrast is None else contrast.value, f"{difference} {ends}".strip()
                ),
                tables.words("" if said is None else READINGS[said]),
                tables.words(tables.ARROWS[row.better if row.better in tables.ARROWS else None]),
            )
        )
    titles = ("Score", *(column.label for column in lineage.columns), "Difference", "Which is", "")
    return tables.filled("Scores before and after", titles, listed)


def _limits(views: Sequence[ModelView]) -> list[tuple[str, list[str]]]:
    """Return what cannot be claimed, each sentence once, with the models that it is of."""
    of: dict[str, list[str]] = {}
    for view in views:
        for text in cautions(view.card, view.record):
            of.setdefault(text, []).append(view.name)
    routed = {name for names in of.values() for name in names}
    by_names: dict[tuple[str, ...], list[str]] = {}
    for text, names in of.items():
        by_names.setdefault(tuple(dict.fromkeys(names)), []).append(text)
    ordered = sorted(by_names.items(), key=lambda pair: -len(pair[0]))
    return [
        ("All models" if len(names) == len(routed) > 1 else ", ".join(names), texts)
        for names, texts in ordered
    ]


def _facts(group: TaskGroup) -> PageFacts:
    each = [dict(measured(view.card, view.record)) for view in group.entries]
    terms = list(dict.fromkeys(term for facts in each for term in facts))
    same = [term for term in terms if len({facts.get(term) for facts in each}) == 1]
    rows = [
        (tables.words(term), *(tables.words(facts.get(term, "")) for facts in each))
        for term in terms
        if term not in same
    ]
    table = Table(
        "Where the models differ",
        ("Of", *(view.name for view in group.entries)),
        tuple(rows),
        sortable=False,
    )
    return PageFacts(
        common=tuple((term, each[0][term]) for term in same), table=table if rows else None
    )


def _levels(cards: Sequence[Scorecard]) -> str:
    """Return the levels of the intervals that there are."""
    shown = [card for card in cards if any(score.low is not None for score in card.scores)]
    return ", ".join(dict.fromkeys(f"{card.level:.0%}".replace("%", " %") for card in shown))


def _chance(cards: Sequence[Scorecard], known: Vocabulary) -> dict[str, str]:
    """Return what the levels of chance mean; those that no score has are absent."""
    scores = [score for card in cards for score in card.scores]
    levels = {
        name: known.spoken(text)
        for name, text in CHANCE.items()
        if any(getattr(score, name) is not None for score in scores)
    }
    if _first_level(cards) == "chance":
        levels["chance"] = known.spoken(OWN_CHANCE)
    return levels


def _first_level(cards: Sequence[Scorecard]) -> str:
    """Return what the line of chance is called: by routing, if any score is of routing."""
    names = {
        chance_name(score.metric)
        for card in cards
        for score in card.scores
        if score.chance is not None
    }
    return "chance" if names == {"chance"} else "uniform routing"


def _members(views: Sequence[ModelView]) -> Table:
    rows = [
        (
            tables.words(view.name),
            tables.words(scorecard_views.seed_name(member.seed)),
            tables.words(member.status),
            tables.value(member.precision, "exact" if member.precision == 0 else None),
            tables.words(member.note),
            tables.words(member.source),
        )
        for view in views
        for member in view.record.members
    ]
    titles = ("Model", "Seed", "Status", "Certainty of A, ±", "Note", "Read from")
    return tables.filled("What was read", titles, rows)
