"""Scorecards for the terminal: a table of scores beside chance, and a map of who does what."""

import math
from collections.abc import Iterable

import torch
from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from torch import Tensor

from modeval.metrics import METRICS, match
from modeval.report.terminal.layers import render_trace
from modeval.report.words import number, task
from modeval.score.cohorts import FURTHER_METRICS
from modeval.score.scorecard import LOSS_TITLES, Member, ModelRecord, Score, Scorecard
from modeval.spec import MODEL_TITLES

SHADES = " ░▒▓█"
"""From 0 to 1 on the scale of square roots, so that shares of a few percent show as well."""
COLOURS = (
    "#440154",
    "#482777",
    "#3e4a89",
    "#31688e",
    "#26828e",
    "#1f9e89",
    "#35b779",
    "#6dcd59",
    "#b4de2c",
    "#fde725",
)
"""Likewise; after the palette viridis, which also reads well without colour vision."""
ARROWS = {"lower": "↓", "higher": "↑", None: ""}
SHORT = {
    "inverse_mutual_information": "Inverse information",
    "in_distribution_loss": "Loss",
    "out_of_distribution_loss": "Loss, shifted",
    "in_distribution_error_rate": "Error rate",
    "out_of_distribution_error_rate": "Error rate, shifted",
    "hard_gap": "Loss added if hard",
}
"""Titles that must fit beside four models on 80 columns."""
TITLES = {name: metric.title for name, metric in METRICS.items()} | LOSS_TITLES | SHORT
GROUP = 4
"""Models side by side in one table."""


def render(card: Scorecard) -> list[RenderableType]:
    """Return everything that the terminal shows of a scorecard, in order."""
    shown: list[RenderableType] = []
    cohorts = [model for model in card.models if model.origin != "trace"]
    for models in _by_task(cohorts):
        shown.append(Text(task(models[0]), style="bold"))
        shown += [
            score_table(card, models[start : start + GROUP])
            for start in range(0, len(models), GROUP)
        ]
        maps = [heat_map(card, model) for model in models if _matrices(card, model)]
        if maps:
            shown += [Columns(maps, padding=(0, 3)), Text("")]
    for model in card.models:
        if model.origin == "trace":
            shown += render_trace(card, model)
    return [*shown, *notes(card)]


def _by_task(models: Iterable[ModelRecord]) -> list[list[ModelRecord]]:
    groups: dict[str, list[ModelRecord]] = {}
    for model in models:
        groups.setdefault(f"{dict(model.data)}{model.modules * (model.modules > 1)}", [])
    for model in models:
        same = [key for key in groups if key.startswith(str(dict(model.data)))]
        groups[same[0]].append(model)
    return [sorted(group, key=_place) for group in groups.values() if group]


def _place(model: ModelRecord) -> int:
    """Order the models of the paper as the paper does, and others after them."""
    titles = list(MODEL_TITLES.values())
    return titles.index(model.title) if model.title in titles else len(titles)


# --- scores --------------------------------------------------------------------------------------


def score_table(card: Scorecard, models: Iterable[ModelRecord]) -> RenderableType:
    """Return scores over seeds, models side by side, intervals under them, chance beside them."""
    models = list(models)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("", no_wrap=True)
    for model in models:
        table.add_column(_heading(model), justify="right", no_wrap=True)
    table.add_column("\nuniform\nrouting", justify="right", style="dim")
    table.add_column("\nhashed\nrouting", justify="right", style="dim")
    for name in _names(card, models):
        scores = [card.find(model.id, name) for model in models]
        first = next(score for score in scores if score is not None)
        table.add_row(
            f"{_title(name)} {ARROWS[first.better]}",
            *(_cell(score) for score in scores),
            *_chance(scores),
        )
    return table


def _heading(model: ModelRecord) -> str:
    good = sum(member.status == "ok" for member in model.members)
    every = len(model.members)
    seeds = f"{good} of {every} seeds" if good < every else f"{every} seed{'s' * (every > 1)}"
    rules = model.data["rules"]
    modules = f", {model.modules} modules" if model.modules not in (1, rules) else ""
    first, hyphen, rest = model.title.rpartition("-")  # two lines: four models fit on 80 columns
    return f"{first}{hyphen}\n{rest}\n{seeds}{modules}"


def _names(card: Scorecard, models: list[ModelRecord]) -> list[str]:
    """Return the metrics that some of the models have, in order, but for the further ones."""
    wanted = {model.id for model in models}
    names = dict.fromkeys(score.metric for score in card.scores if score.model in wanted)
    return [name for name in names if name not in FURTHER_METRICS]


def _title(name: str) -> str:
    if name in TITLES:
        return TITLES[name]
    kind, _, place = name.partition("_at_length_")
    length, _, factor = place.partition("_")
    what = {"loss": "Loss", "error_rate": "Error rate"}.get(kind, kind)
    return f"{what}, length {length}" + (f" {factor}" if factor else "") if place else name


def _cell(score: Score | None) -> Text:
    if score is None:
        return Text("-", style="dim")
    if score.value is None:
        return Text("failed", style="red")
    text = Text(number(score.value))
    if score.low is not None and score.high is not None:
        text.append(f"\n{_short(score.low)}\N{EN DASH}{_short(score.high)}", style="dim")
    return text


def _short(value: float) -> str:
    """Write an end of an interval in four or five characters, so that four models fit abreast."""
    size = abs(value)
    if size >= 1:
        return f"{value:.2f}" if size < 10 else f"{value:.4g}"  # noqa: PLR2004
    if value != 0 and size < 0.01:  # noqa: PLR2004 - below, fixed notation loses digits
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3f}".replace("0.", ".", 1).replace("1.000", "1.00")


def _chance(scores: list[Score | None]) -> tuple[str, str]:
    """Return the chance levels, if they are the same for all models."""
    uniform = {score.chance for score in scores if score and score.chance is not None}
    hashed = {score.chance_hash for score in scores if score and score.chance_hash is not None}
    return tuple(  # type: ignore[return-value]
        number(levels.pop()) if len(levels) == 1 else ("varies" if levels else "")
        for levels in (uniform, hashed)
    )


# --- activation maps -----------------------------------------------------------------------------


def _matrices(card: Scorecard, model: ModelRecord) -> list[Tensor]:
    return [
        torch.tensor(each.matrix, dtype=torch.float64)
        for each in card.activations
        if each.model == model.id
    ]


def heat_map(card: Scorecard, model: ModelRecord) -> RenderableType:
    """Draw A: a row for each rule, a column for each module, modules in the order of their rules.

    Over several seeds it is the mean of the ordered matrices. A bright diagonal says that each
    rule has a module of its own; a bright column, that one module does everything.
    """
    matrices = _matrices(card, model)
    mean = torch.stack([matrix[:, matched_order(matrix)] for matrix in matrices]).mean(0)
    seeds = f", mean of {len(matrices)} seeds" if len(matrices) > 1 else ""
    title = Text(f"{model.title}{seeds}", style="bold")
    return Padding(Group(title, draw(mean)), (0, 0, 1, 0))


def matched_order(matrix: Tensor) -> list[int]:
    """Return the modules in the order of the rules they are matched with, the others after them.

    >>> matched_order(torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]))
    [2, 0, 1]
    """
    module, _ = match(matrix)
    first = [int(index) for index in module if index >= 0]
    return first + [index for index in range(matrix.shape[1]) if index not in first]


def draw(matrix: Tensor) -> Text:
    """Draw a matrix of shares as coloured shades; without colour the shades tell it."""
    text = Text()
    for row in matrix.tolist():
        for share in row:
            level = math.sqrt(min(max(share, 0.0), 1.0))
            shade = SHADES[min(int(level * len(SHADES)), len(SHADES) - 1)]
            colour = COLOURS[min(int(level * len(COLOURS)), len(COLOURS) - 1)]
            text.append(shade * 2, style=f"{colour} on {COLOURS[0]}")
        text.append("\n")
    text.append("rows rules, columns modules\n", style="dim")
    return text.append(legend(), style="dim")


def legend() -> str:
    """Say from which share of a rule each shade is drawn.

    >>> legend()
    '░ from 4%  ▒ 16%  ▓ 36%  █ 64%'
    """
    shares = [(level / len(SHADES)) ** 2 for level in range(1, len(SHADES))]
    first, *others = (f"{share:.0%}" for share in shares)
    return "  ".join(
        f"{shade} {share}"
        for shade, share in zip(SHADES[1:], (f"from {first}", *others), strict=True)
    )


# --- notes ---------------------------------------------------------------------------------------


def _who(model: ModelRecord, member: Member) -> str:
    if member.seed is None:
        return model.title
    task, own = member.seed
    return f"{model.title}, task seed {task}, model seed {own}"


def notes(card: Scorecard) -> list[RenderableType]:
    """Return what a reader must know: failed seeds, missing intervals, what was left out."""
    lines = [f"[yellow]note:[/] {_plain(note)}" for note in card.notes]
    for model in card.models:
        for member in model.members:
            if member.note:
                word = "failed" if member.status == "failed" else "note"
                lines.append(f"[yellow]{word}:[/] {_who(model, member)}: {_plain(member.note)}")
    cohorts = [model for model in card.models if model.origin != "trace"]
    if any(len(model.members) == 1 for model in cohorts):
        lines.append("[dim]One seed gives no interval over seeds: train more with --seeds.[/]")
    if any(len(model.members) > 1 for model in cohorts):
        lines.append(f"[dim]Under a value stands its {card.level:.0%} interval over seeds.[/]")
    names = {model.id for model in cohorts}
    further = {score.metric for score in card.scores if score.model in names} & set(FURTHER_METRICS)
    if further:
        lines.append(
            f"[dim]{len(further)} further scores, of load and information, are in the scorecard: "
            "--json writes it, modeval report shows it.[/]"
        )
    if any(model.modules == 1 for model in cohorts):
        lines.append("[dim]A single module has no routing, so it has losses only.[/]")
    return [Text.from_markup(line) for line in lines]


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
