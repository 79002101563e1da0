"""Figures for papers, as objects of matplotlib, which a notebook shows."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeval.errors import RunError, ScorecardError, SpecError, nearest
from modeval.metrics.table import metric_of
from modeval.pace import tell
from modeval.report import paper_figures
from modeval.report.paper.curves import LOSS
from modeval.report.paper_figures import KINDS, Curves, Style
from modeval.report.scorecard_views import ModelView, entries, mean_course
from modeval.report.tables import Table
from modeval.score.chosen import only_models
from modeval.score.scorecard import Scorecard
from modeval.score.stored.files import read_scorecard

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modeval.report.verdicts.history import Run

CURVES, TREND = "curves", "trend"
EVERY = (*KINDS, CURVES, TREND)
Sources = str | Path | Scorecard | Sequence[str | Path | Scorecard]


def plot(
    kind: str,
    sources: Sources,
    *,
    models: Sequence[str] = (),
    metrics: Sequence[str] = (),
    layer: int | None = None,
    width: float = 3.4,
    title: str = "",
) -> "Figure":
    """Draw a figure for a paper.

    Args:
        kind: ``ranking``, ``winners``, ``losses``, ``collapse``, ``specialisation``,
            ``adaptation``, ``end-to-end``, ``heatmap``, ``removal``, ``course``, ``layers``,
            ``budget``, ``curves`` or ``trend``.
        sources: scorecards, their files, or folders of sweeps; for curves run folders, or folders
            above them; for trends what ``modeval gate --history`` wrote.
        models: patterns of the models to draw; all when empty.
        metrics: scores to draw; those that the kind is about when empty.
        layer: layer of a heat map, counted from 0.
        width: in inches.
        title: usually the caption's job.

    Returns:
        The figure, which a notebook shows and ``savefig`` writes. A ``UserWarning`` names the
        models that such a figure shows nothing of.

    Raises:
        SpecError: there is no such kind, or no such model.

    >>> import modeval
    >>> card = modeval.score("fixtures/tiny-moe.counts.safetensors")
    >>> type(modeval.plot("layers", card)).__name__  # doctest: +SKIP
    'Figure'
    """
    style = Style(width=width, title=title, metrics=tuple(metrics), layer=layer)
    found = read_drawn(kind, sources, models, metrics)
    figure = drawn(found, style)
    if said := left_out(found, layer):
        warnings.warn(said, stacklevel=2)
    return figure


def plot_numbers(
    kind: str,
    sources: Sources,
    *,
    models: Sequence[str] = (),
    metrics: Sequence[str] = (),
    layer: int | None = None,
) -> list[Table]:
    """Return what a figure shows as tables; see :func:`plot`.

    They are made from the same numbers as the figure, in its order.
    """
    style = Style(metrics=tuple(metrics), layer=layer)
    return drawn_numbers(read_drawn(kind, sources, models, metrics), style)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What a figure is drawn from.

    Attributes:
        kind: of the figure.
        entries: models of scorecards.
        curves: training curves.
        runs: runs of the gate.
    """

    kind: str
    entries: list[ModelView] = field(default_factory=list)
    curves: list[Curves] = field(default_factory=list)
    runs: "list[Run]" = field(default_factory=list)


def read_drawn(
    kind: str, sources: Sources, models: Sequence[str] = (), metrics: Sequence[str] = ()
) -> Drawn:
    """Read what a figure of that kind is drawn from; see :func:`plot`."""
    if kind not in EVERY:
        raise SpecError(unknown_kind(kind))
    several: list[Any] = [sources] if isinstance(sources, str | Path | Scorecard) else [*sources]
    if kind == CURVES:
        runs = [Path(source) for source in several]
        return Drawn(kind=kind, curves=chosen_curves(read_curves(runs, metrics), models))
    if kind == TREND:
        return Drawn(kind=kind, runs=chosen_runs([Path(source) for source in several], models))
    named = [_named(source, number) for number, source in enumerate(several)]
    return Drawn(kind=kind, entries=chosen_entries(named, models))


def drawn(found: Drawn, style: Style) -> "Figure":
    """Return the figure."""
    tell("drawing the figure", 0)
    if found.kind == TREND:
        return paper_figures.draw_trend(found.runs, style)
    figure: Figure = (
        paper_figures.draw_curves(found.curves, style)
        if found.kind == CURVES
        else paper_figures.draw(found.kind, found.entries, style)
    )
    return figure


def drawn_numbers(found: Drawn, style: Style) -> list[Table]:
    """Return the numbers of the figure as tables."""
    if found.kind == CURVES:
        return paper_figures.curve_numbers(found.curves)
    if found.kind == TREND:
        return paper_figures.trend_numbers(found.runs, style)
    return paper_figures.numbers(found.kind, found.entries, style)


# --- what a figure shows nothing of --------------------------------------------------------------


def _has_one_module(view: ModelView, _layer: int | None) -> bool:
    return view.record.modules == 1


def _has_one_layer(view: ModelView, _layer: int | None) -> bool:
    return not view.layered


def _is_untouched(view: ModelView, layer: int | None) -> bool:
    from modeval.report.causes import falling  # noqa: PLC0415 - with its figure alone

    return falling(view, layer) is None


def _has_one_phase(view: ModelView, _layer: int | None) -> bool:
    return mean_course(view) is None


Absent = Callable[[ModelView, int | None], bool]
UNROUTED: tuple[Absent, str] = (_has_one_module, "a single module has nothing to route")
ABSENT: dict[str, tuple[Absent, str]] = {
    **dict.fromkeys(
        ("collapse", "specialisation", "adaptation", "end-to-end", "heatmap", "budget"), UNROUTED
    ),
    "layers": (_has_one_layer, "it takes several routed layers"),
    "removal": (_is_untouched, "it takes modules that were switched off"),
    "course": (_has_one_phase, "it takes several phases of training"),
}
"""Which models kinds of figures show nothing of, and why."""


def undrawn(found: Drawn, layer: int | None = None) -> tuple[str, ...]:
    """Return the models that a figure shows nothing of."""
    if found.kind not in ABSENT:
        return ()
    absent, _ = ABSENT[found.kind]
    return tuple(dict.fromkeys(view.name for view in found.entries if absent(view, layer)))


def left_out(found: Drawn, layer: int | None = None) -> str:
    """Say which models a figure shows nothing of, and why; nothing where it shows all."""
    names = undrawn(found, layer)
    if not names:
        return ""
    verb = "is" if len(names) == 1 else "are"
    return f"{', '.join(names)} {verb} not in it: {ABSENT[found.kind][1]}."


# --- reading -------------------------------------------------------------------------------------


def unknown_kind(kind: str) -> str:
    """Say that there is no such figure."""
    if Path(kind).exists():
        return (
            f"{kind}: the kind of the figure comes first: modeval plot KIND {kind} --out "
            f"figure.pdf. There are {', '.join(EVERY)}."
        )
    near = get_close_matches(kind.lower(), EVERY, n=1)
    known = f"Expected one of {', '.join(EVERY)}."
    return f"{kind}: there is no such figure. {f'Did you mean {near[0]}?' if near else known}"


def _named(source: str | Path | Scorecard, number: int) -> tuple[str, Scorecard]:
    if isinstance(source, Scorecard):
        return f"scorecard {number + 1}", source
    path = Path(source)
    if path.is_dir():
        from modeval.sweep.collect import collect  # noqa: PLC0415 - files do without
        from modeval.sweep.plan import is_sweep, read_sweep  # noqa: PLC0415 - likewise

        if is_sweep(path):
            return str(source), collect(read_sweep(path)).card
        raise ScorecardError(
            f"{path} is a folder, and what is drawn is a scorecard. Make one with: "
            f"modeval score {path} --json scorecard.json"
        )
    return str(source), read_scorecard(path)


def chosen_entries(
    named: Sequence[tuple[str, Scorecard]], models: Sequence[str]
) -> list[ModelView]:
    """Return the models of scorecards that match one of the patterns."""
    kept = only_models([*named], [*models])
    views = entries([card for _, card in kept], [Path(name).name for name, _ in kept])
    if not views:
        raise ScorecardError("The scorecards hold no model. Score one: modeval score RUN")
    return views


def chosen_runs(paths: Sequence[Path], models: Sequence[str]) -> "list[Run]":
    """Return runs of the gate, oldest first, with the models that match one of the patterns."""
    from modeval.report.verdicts.history import read_history  # noqa: PLC0415 - trends alone

    runs = sorted((run for path in paths for run in read_history(path)), key=lambda run: run.date)
    names = list(dict.fromkeys(kept.model for run in runs for kept in run.values))
    patterns = _known_patterns(models, names)
    return [
        replace(
            run,
            values=tuple(
                kept
                for kept in run.values
                if not patterns
                or any(fnmatchcase(kept.model.lower(), pattern) for pattern in patterns)
            ),
        )
        for run in runs
    ]


def chosen_curves(curves: Sequence[Curves], models: Sequence[str]) -> list[Curves]:
    """Return the training curves of the models that match one of the patterns."""
    names = list(dict.fromkeys(each.name for each in curves))
    patterns = _known_patterns(models, names)
    return [
        each
        for each in curves
        if not patterns or any(fnmatchcase(each.name.lower(), pattern) for pattern in patterns)
    ]


def _known_patterns(models: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return patterns in small letters; refuse one that fits no name."""
    for pattern in models:
        if not any(fnmatchcase(name.lower(), pattern.lower()) for name in names):
            raise SpecError(
                f"--model {pattern}: no such model{nearest(pattern, names)}. There are "
                f"{', '.join(names)}; * stands for any letters."
            )
    return [pattern.lower() for pattern in models]


def read_curves(paths: Sequence[Path], metrics: Sequence[str] = ()) -> list[Curves]:
    """Read the logs of runs at or below folders.

    Args:
        paths: the folders.
        metrics: what to read: ``validation_loss`` when empty, or scores of routing.

    Raises:
        RunError: a folder holds no run.
        SpecError: no validation tells a metric.
    """
    from modeval.spec import MODEL_TITLES, title_of  # noqa: PLC0415 - curves alone
    from modeval.train.records import read_log, read_run  # noqa: PLC0415 - curves alone

    folders = dict.fromkeys(run for path in paths for run in _runs(path))
    specs = {folder: read_run(folder) for folder in folders}
    logs = {folder: read_log(folder) for folder in folders}
    asked = _known_curves([*dict.fromkeys(metrics)] or [LOSS], [*logs.values()])
    sizes = {(spec.model.encoder, spec.model.width) for spec in specs.values()}
    order = list(MODEL_TITLES.values())
    found = []
    for folder, spec in specs.items():
        size = f", {spec.model.encoder}x{spec.model.width}" if len(sizes) > 1 else ""
        task = (spec.data.task, spec.data.objective, size, spec.data.rules)
        title = title_of(spec.model)
        named = f"{spec.data.rules} rules, {spec.data.task}, {spec.data.objective}{size}"
        rank = order.index(title) if title in order else len(order)
        for number, metric in enumerate(asked):
            told = [entry for entry in logs[folder] if metric in entry]
            if told or metric == LOSS:  # what has no routing has no curve of it
                curves = _curves(told, metric, name=title, task=named)
                found.append((number, task, rank, title, curves))
    return [curves for *_, curves in sorted(found, key=lambda each: each[:4])]


def _curves(log: Sequence[dict[str, Any]], metric: str, *, name: str, task: str) -> Curves:
    import numpy as np  # noqa: PLC0415 - with the figures alone

    values = [[np.nan if value is None else value for value in entry[metric]] for entry in log]
    return Curves(
        name=name,
        task=task,
        steps=np.array([entry["step"] for entry in log], dtype=np.float64),
        values=np.array(values, dtype=np.float64).reshape(len(log), -1).T,
        metric=metric,
    )


def _known_curves(asked: list[str], logs: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """Return what is asked for; refuse what no validation tells."""
    told = dict.fromkeys(name for log in logs for entry in log for name in entry)
    known = [name for name in told if name == LOSS or metric_of(name) is not None]
    for name in asked:
        if known and name not in known:
            raise SpecError(
                f"--metric {name}: the logs of these runs do not tell it{nearest(name, known)}. "
                f"Name one of {', '.join(known)}."
            )
    return asked


def _runs(path: Path) -> list[Path]:
    if path.is_file():
        raise RunError(
            f"{path} is a file; curves are drawn from the log in a run folder: "
            f"modeval plot curves {path.parent} --out curves.pdf"
        )
    from modeval.train.records import find_runs  # noqa: PLC0415 - curves alone

    found = find_runs(path)
    if not found:
        raise RunError(
            f"{path} holds no run of modeval train, at its top or below it. Name a folder with a "
            "run.json, or train one: modeval train --out runs/first"
        )
    return found
