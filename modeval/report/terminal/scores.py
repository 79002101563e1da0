"""Scorecards for the terminal: what came out and what to do, then scores, then maps."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from modeval.metrics.losses import AT_LENGTH
from modeval.metrics.metric import Metric
from modeval.metrics.table import metric_of
from modeval.report import scorecard_views
from modeval.report.brief import GRAVE, MEANINGS, brief, findings, own_shares
from modeval.report.causes import LEGEND
from modeval.report.scorecard_views import ModelView, TaskGroup
from modeval.report.terminal.ablation import render_ablation
from modeval.report.terminal.courses import course_table
from modeval.report.terminal.findings import STYLES, advice_lines, taste_lines
from modeval.report.terminal.grid import Column, Grid, Prose
from modeval.report.terminal.layers import render_trace
from modeval.report.terminal.maps import side_by_side
from modeval.report.terminal.measured import render_measured
from modeval.report.words import MODULES, count, is_trace, metric_title, number, percent, span
from modeval.score.scorecard import Member, ModelRecord, Score, Scorecard

ARROWS = {"lower": "↓", "higher": "↑", None: ""}


def render(card: Scorecard, source: str = "", *, maps: bool = False) -> list[RenderableType]:
    """Return everything that the terminal shows of a scorecard, in order.

    Args:
        card: the scorecard.
        source: its file, to name commands that can be typed; empty where it was not written.
        maps: whether to draw which experts serve which labels, for traces too.
    """
    shown: list[RenderableType] = []
    grouped = scorecard_views.groups(scorecard_views.entries([card], [source]))
    trained = [group for group in grouped if not is_trace(group.entries[0].record)]
    shown += _against_rules(trained)
    for group in grouped:
        if group in trained:
            shown += _cohorts(group)
        else:
            shown += [part for view in group.entries for part in _traced(view, maps=maps)]
    return [*shown, *notes(card, source)]


def _traced(view: ModelView, *, maps: bool) -> list[RenderableType]:
    """Return what is shown of a language model: its routing, removed modules, or two builds."""
    if removed := view.own.ablations:
        return [part for each in removed for part in (*render_ablation(each), Text(""))]
    return render_trace(view, maps=maps) if findings(view) else render_measured(view)


# --- cohorts -------------------------------------------------------------------------------------


def _cohorts(group: TaskGroup) -> list[RenderableType]:
    seeds = {_seeds(view.record) for view in group.entries}
    title = f"{group.title} · {seeds.pop()}" if len(seeds) == 1 else group.title
    shown: list[RenderableType] = [Text(title, style="bold")]
    shown += [*_findings(group), Text(""), score_table(group.entries, named=len(seeds) > 0)]
    maps = [(view, None, "") for view in group.entries if not view.layered]
    courses = [part for view in group.entries for part in course_table(view)]
    return [*shown, *courses, Text(""), *side_by_side(maps)]


def _seeds(record: ModelRecord) -> str:
    good = sum(member.status == "ok" for member in record.members)
    every = len(record.members)
    return f"{good} of {every} seeds" if good < every else count(every, "seed")


def _findings(group: TaskGroup) -> list[RenderableType]:
    """Return a line for each model, what the words mean, and what to do."""
    lines: list[RenderableType] = []
    seen: list[str] = []
    for view in group.entries:
        found = brief(view)
        style = STYLES.get(found.gravest, "")
        meaning = "" if found.findings else f": {found.meaning}"
        parts = (f"{view.name}: {found.verdict}{meaning}.", own_shares(view), found.figures)
        text = " ".join(filter(None, parts))
        lines.append(Prose(text, len(view.name) + 1, f"bold {style}".strip(), indent="  "))
        seen += found.findings
    lines += taste_lines(group.entries[0]) if len(group.entries) == 1 else []
    words = [word for word in GRAVE if word in seen]
    for word in words:
        title, meaning = MEANINGS[word]
        said = meaning.format(
            module=MODULES.module, modules=MODULES.modules, rule=MODULES.rule, rules=MODULES.rules
        )
        lines.append(Prose(f"{title}: {said}.", dim=True))
    if words:
        gravest = next(e for e in group.entries if words[0] in brief(e).findings)
        several = sum(bool(brief(e).findings) for e in group.entries) > 1
        lines += advice_lines(brief(gravest).advice, gravest.name if several else "")
    return lines


# --- scores --------------------------------------------------------------------------------------


def score_table(entries: Sequence[ModelView], *, named: bool = False) -> Grid:
    """Return scores over seeds, models side by side, intervals and chance levels under them.

    Args:
        entries: models of one task.
        named: whether each heading says its number of seeds.
    """
    rows = _rows(entries)
    titles = []
    for name, scores in rows:
        better = next((score.better for score in scores if score is not None), None)
        text = Text(f"{metric_title(name)} {ARROWS[better]}".rstrip())
        titles.append(text.append(_chance(scores), style="dim"))
    columns = [Column("", tuple(titles), right=False)]
    for index, view in enumerate(entries):
        modules = view.record.modules
        heading = view.name + (f", {_seeds(view.record)}" if named else "")
        if modules not in (1, scorecard_views.rule_count(view.record)):
            heading += f", {count(modules, 'module')}"
        columns.append(Column(heading, tuple(_cell(scores[index]) for _, scores in rows)))
    return Grid(tuple(columns))


def _rows(entries: Sequence[ModelView]) -> list[tuple[str, list[Score | None]]]:
    """Return the metrics that have a row, in order, each number once."""
    rows: list[tuple[str, list[Score | None]]] = []
    seen = []
    there = scorecard_views.metrics_of(entries)
    twins = {row.twin for name in there if (row := metric_of(name)) is not None}
    for name in there:
        row = metric_of(name)
        if row is None or not (_has_row(row) or name in twins):
            continue
        scores = [scorecard_views.overall(view, name) for view in entries]
        values = [None if s is None else (s.value, s.low, s.high) for s in scores]
        twice = row.tells == "loss" and values in seen  # at one length it is the loss of all
        if twice or not any(score is not None for score in scores):
            continue
        seen += [values] if row.tells == "loss" else []
        rows.append((name, scores))
    return rows


def _has_row(row: Metric) -> bool:
    """Tell whether a screen has room for a metric: the others are in the tables of a report."""
    return "table" in row.shown or AT_LENGTH.fullmatch(row.name) is not None


def _cell(score: Score | None) -> Text:
    if score is None:
        return Text("-", style="dim")
    if score.value is None:
        return Text("failed", style="red")
    text = Text(number(score.value))
    ends = span(score.low, score.high)
    return text.append(f"\n{ends}", style="dim") if ends else text


def _chance(scores: Sequence[Score | None]) -> str:
    """Write the chance levels that the models share: even routing, then random maps."""
    known = [score for score in scores if score is not None]
    parts = []
    for levels in ({score.chance for score in known}, {score.chance_hash for score in known}):
        there = {number(level) for level in levels if level is not None}
        if there:
            parts.append(there.pop() if len(there) == 1 else "varies")
    return f"\n({', '.join(parts)})" if parts else ""


# --- against the number of rules -----------------------------------------------------------------


def _against_rules(grouped: Sequence[TaskGroup]) -> list[RenderableType]:
    """Return tables of the glance metrics against the number of rules, where there are several."""
    kinds: dict[str, list[TaskGroup]] = {}
    for group in grouped:
        kinds.setdefault(group.kind, []).append(group)
    shown: list[RenderableType] = []
    for several in kinds.values():
        entries = [view for group in several for view in group.entries]
        if len(several) > 1:
            for metric in scorecard_views.metrics_of(entries):
                row = metric_of(metric)
                if row is not None and {"headline"} & set(row.shown) and row.labels:
                    shown += [_rule_table(entries, metric), Text("")]
    return shown


def _rule_table(entries: Sequence[ModelView], metric: str) -> Grid:
    lines = scorecard_views.against_rules(entries, metric)
    rules = sorted({number_ for line in lines.values() for number_, _ in line})
    scores = {name: dict(line) for name, line in lines.items()}
    better = next(score.better for line in lines.values() for _, score in line)
    title = f"{metric_title(metric)} {ARROWS[better]}"
    columns = [Column(title, tuple(scores), right=False)]
    for number_ in rules:
        cells = tuple(_cell(scores[name].get(number_)) for name in scores)
        columns.append(Column(count(number_, "rule"), cells))
    return Grid(tuple(columns))


# --- notes ---------------------------------------------------------------------------------------


def _who(model: ModelRecord, member: Member) -> str:
    if member.seed is None:
        return model.title
    task, own = member.seed
    return f"{model.title}, task seed {task}, model seed {own}"


def notes(card: Scorecard, source: str = "") -> list[RenderableType]:
    """Return what a reader must know: failed seeds, missing intervals, what was left out.

    Args:
        card: the scorecard.
        source: its file; empty where it was not written.
    """
    lines = [Text.assemble(("note: ", "yellow"), note) for note in card.notes]
    for model in card.models:
        for member in model.members:
            if member.note:
                word = "failed" if member.status == "failed" else "note"
                lines.append(
                    Text.assemble((f"{word}: ", "yellow"), f"{_who(model, member)}: {member.note}")
                )
    return [*lines, *(Prose(line, dim=True) for line in _explanations(card, source))]


def _explanations(card: Scorecard, source: str) -> list[str]:
    cohorts = [model for model in card.models if not is_trace(model)]
    lines = []
    ids = _ids(cohorts)
    if any(score.chance is not None for score in card.scores if score.model in ids):
        lines.append(
            "Under the name of a score, in round brackets, stands chance: even routing, then maps "
            "that send each rule to a module at random."
        )
    if any(len(model.members) > 1 for model in cohorts):
        level = percent(card.level)
        lines.append(f"In square brackets: the {level} interval over seeds.")
    if any(len(model.members) == 1 for model in cohorts):
        lines.append("One seed gives no interval over seeds: train more with --seeds.")
    if any(each.model in _ids(cohorts) for each in card.effects):
        lines.append(LEGEND)
    further = len(_further(card, cohorts))
    if further:
        lines.append(
            f"{count(further, 'further score')}, of load and information: modeval report "
            f"{source or 'SCORECARD'} --format csv"
        )
    return lines


def _ids(models: Sequence[ModelRecord]) -> set[str]:
    return {model.id for model in models}


def _further(card: Scorecard, cohorts: Sequence[ModelRecord]) -> set[str]:
    names = {metric for cohort in cohorts for metric in card.metrics_of(cohort.id)}
    rows = {name: metric_of(name) for name in names}
    return {name for name, row in rows.items() if row is None or not _has_row(row)}
