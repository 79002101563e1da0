"""``modeval plot``: one figure, fit for a paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modeval.cli.options import with_examples
from modeval.cli.output import check_target, deliver, tell_written
from modeval.cli.report import check_output, choose, read_cards
from modeval.errors import RunError, ScorecardError, SpecError, nearest

if TYPE_CHECKING:
    from modeval.report.paper_figures import Curves, Style
    from modeval.report.scorecard_views import Entry

CURVES = "curves"
WIDTHS = (1.0, 20.0)

EXAMPLES = """
[bold]Kinds[/]

  [cyan]ranking[/]         models ranked by each score, seeds as dots, interval, chance
  [cyan]collapse[/]        collapse against the number of rules, a line for each model
  [cyan]specialisation[/]  alignment, information and adaptation against the number of rules
  [cyan]heatmap[/]         which rule goes to which module
  [cyan]layers[/]          scores by layer, with the band of permuted labels
  [cyan]budget[/]          where the routing entropy goes, as stacked bars
  [cyan]curves[/]          validation loss against steps, seeds as thin lines

[bold]Examples[/]

  [cyan]modeval plot ranking scorecard.json --out ranking.pdf[/]

  Across a page of two columns, one score only:
  [cyan]modeval plot ranking scorecard.json --metric alignment_score --width double --out a.pdf[/]

  Training curves, from run folders or folders above them:
  [cyan]modeval plot curves runs/four --out curves.svg[/]
"""


def plot_command(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="What to draw, see above.", show_default=False)
    ],
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Scorecards; for curves run folders, or folders above them.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="PNG, SVG or PDF, by its suffix.",
            show_default=False,
        ),
    ],
    width: Annotated[
        str, typer.Option(help="single (3.4 inches), double (7 inches) or inches.")
    ] = "single",
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Draw this score. Repeatable.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Draw only models whose id or title matches. Repeatable."
        ),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Layer of a heat map, counted from 0.")
    ] = None,
    title: Annotated[str, typer.Option(help="Title; usually the caption's job.")] = "",
    dpi: Annotated[int, typer.Option(min=50, max=1200, help="Dots per inch of a PNG.")] = 300,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    r"""Draw a figure for a paper: vector graphics with embedded fonts, the same bytes each time.

    Colours differ without colour vision too. It needs pip install "modeval-cli\[report]".
    """
    inches = _inches(width)
    check_output(out, paths, "--out")
    from modeval.report.paper_figures import FORMATS, KINDS, Style

    suffix = out.suffix.lower().removeprefix(".")
    if kind not in (*KINDS, CURVES):
        raise SpecError(_unknown(kind, (*KINDS, CURVES)))
    if suffix not in FORMATS:
        raise SpecError(
            f"--out {out}: expected a name that ends in "
            f"{', '.join(f'.{each}' for each in FORMATS)}. Use --out {out.with_suffix('.pdf')}"
        )
    check_target(out, flag="--out", example=f"{kind}.pdf")
    style = Style(width=inches, title=title, metrics=tuple(metric or ()), layer=layer)
    content = _figure(kind, paths, tuple(model or ()), style, suffix, dpi)
    if deliver(out, content, flag="--out") and not quiet:
        tell_written(out)


plot_command.__doc__ = with_examples(plot_command, EXAMPLES)


def _figure(  # noqa: PLR0917 - what the command was given, in its order
    kind: str, paths: Sequence[Path], models: Sequence[str], style: "Style", suffix: str, dpi: int
) -> bytes:
    from modeval.report import paper_figures

    if kind == CURVES:
        figure = paper_figures.draw_curves(_only_curves(read_curves(paths), models), style)
    else:
        figure = paper_figures.draw(kind, _only_entries(paths, models), style)
    return paper_figures.save(figure, suffix, dpi=dpi)


def _unknown(kind: str, kinds: Sequence[str]) -> str:
    import difflib

    near = difflib.get_close_matches(kind.lower(), kinds, n=1)
    advice = f"Did you mean {near[0]}?" if near else f"Expected one of {', '.join(kinds)}."
    return f"{kind}: there is no such figure. {advice}"


def _inches(width: str) -> float:
    from modeval.report.paper_figures import WIDTHS as NAMED

    if width in NAMED:
        return NAMED[width]
    low, high = WIDTHS
    try:
        inches = float(width)
    except ValueError:
        inches = 0.0
    if not low <= inches <= high:
        raise SpecError(
            f"--width {width}: expected single, double, or {low:g} to {high:g} inches. Use "
            "--width single."
        )
    return inches


def _only_entries(paths: Sequence[Path], wanted: Sequence[str]) -> "list[Entry]":
    from modeval.report.scorecard_views import entries

    cards = choose(read_cards(paths), paths, wanted)
    found = entries(cards, [path.name for path in paths])
    if not found:
        raise ScorecardError("The scorecards hold no model. Score one: modeval score RUN")
    return found


def _only_curves(found: "Sequence[Curves]", wanted: Sequence[str]) -> "list[Curves]":
    from fnmatch import fnmatchcase

    names = list(dict.fromkeys(each.name for each in found))
    for pattern in wanted:
        if not any(fnmatchcase(name.lower(), pattern.lower()) for name in names):
            raise SpecError(
                f"--model {pattern}: no such model{nearest(pattern, names)}. There are "
                f"{', '.join(names)}; * stands for any letters."
            )
    return [
        each
        for each in found
        if not wanted or any(fnmatchcase(each.name.lower(), each_.lower()) for each_ in wanted)
    ]


def read_curves(paths: Sequence[Path]) -> "list[Curves]":
    """Read the logs of runs at or below folders."""
    import numpy as np

    from modeval.report.paper_figures import Curves
    from modeval.spec import title_of
    from modeval.train.files import read_log, read_run

    folders = [run for path in paths for run in _runs(path)]
    found = []
    for folder in dict.fromkeys(folders):
        spec = read_run(folder)
        log = read_log(folder)
        values = [
            [np.nan if loss is None else loss for loss in entry["validation_loss"]] for entry in log
        ]
        found.append(
            Curves(
                name=title_of(spec.model),
                task=f"{spec.data.rules} rules, {spec.data.task}, {spec.data.objective}",
                steps=np.array([entry["step"] for entry in log], dtype=np.float64),
                values=np.array(values, dtype=np.float64).reshape(len(log), -1).T,
            )
        )
    return found


def _runs(path: Path) -> list[Path]:
    from modeval.train.files import find_runs

    if path.is_file():
        raise RunError(
            f"{path} is a file; curves are drawn from the log in a run folder: "
            f"modeval plot curves {path.parent} --out curves.pdf"
        )
    found = find_runs(path)
    if not found:
        raise RunError(
            f"{path} holds no run of modeval train, at its top or below it. Name a folder with a "
            "run.json, or train one: modeval train --out runs/first"
        )
    return found
