"""``modeval plot``: one figure, fit for a paper."""

from pathlib import Path
from typing import Annotated

import typer

from modeval.cli import complete
from modeval.cli.options import with_examples
from modeval.cli.output import check_target, deliver, stderr, tell_written
from modeval.cli.report import check_output
from modeval.errors import SpecError

WIDTHS = (1.0, 20.0)
PAGE = 10.0
"""Inches: the height of the text of a page."""
TABLES = {"csv": "csv", "tex": "latex", "md": "md", "json": "json"}
"""Suffixes of tables, and their formats."""

EXAMPLES = """
[bold]Kinds[/]

  [cyan]ranking[/]         models ranked by each score, seeds as dots, interval, chance
  [cyan]winners[/]         how often each model has the lowest loss, with Wilson's intervals
  [cyan]losses[/]          loss in and out of distribution against the number of rules
  [cyan]collapse[/]        collapse against the number of rules, a line for each model
  [cyan]specialisation[/]  alignment, information and adaptation against the number of rules
  [cyan]adaptation[/]      how well routing follows other shares of rules, against their number
  [cyan]end-to-end[/]      what training gains over uniform routing, against the number of rules
  [cyan]heatmap[/]         which rule goes to which module, and which it needs where that was tried
  [cyan]removal[/]         loss while modules are removed, the least used first or at random
  [cyan]course[/]          loss on each rule after each phase of training
  [cyan]layers[/]          scores by layer, with the band of permuted labels
  [cyan]budget[/]          where the routing entropy goes, as stacked bars
  [cyan]curves[/]          validation loss, or a score of routing, against steps, seeds as thin
                  lines
  [cyan]trend[/]           values over runs of the gate, from its --history

[bold]Examples[/]

  [cyan]modeval plot ranking scorecard.json --out ranking.pdf[/]

  Across a page of two columns, one score only:
  [cyan]modeval plot ranking scorecard.json --metric alignment_score --width double --out a.pdf[/]

  Of a sweep; the same numbers as a table for a paper, or to load:
  [cyan]modeval plot winners runs/grid --out winners.pdf[/]
  [cyan]modeval plot winners runs/grid --out winners.tex[/]

  Training curves, from run folders or folders above them:
  [cyan]modeval plot curves runs/four --out curves.svg[/]
  [cyan]modeval plot curves runs/four --metric collapse_worst --metric churn --out routing.svg[/]

  From commit to commit, what the gate judged:
  [cyan]modeval plot trend history.jsonl --out trend.svg[/]
"""


def plot_command(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="What to draw, see above.",
            show_default=False,
            autocompletion=complete.figures,
        ),
    ],
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Scorecards or sweeps; for curves run folders, or folders above them; for trend "
            "the --history of modeval gate.",
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
            help="PNG, SVG or PDF; its numbers as CSV, TEX, MD or JSON.",
            show_default=False,
        ),
    ],
    width: Annotated[
        str,
        typer.Option(
            help="single (3.4 inches), double (7 inches) or inches.",
            autocompletion=complete.one_of("single", "double"),
        ),
    ] = "single",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Draw this score. Repeatable.", autocompletion=complete.metrics
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Draw only models whose id or title matches. Repeatable.",
            autocompletion=complete.models,
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

    The same numbers come as a table where FILE ends in .csv, .tex, .md or .json.
    Colours differ without colour vision too. It needs pip install "modeval-cli\[report]".
    """
    inches = _inches(width)
    check_output(out, paths, "--out")
    from modeval.pipeline.plotting import (
        EVERY,
        drawn,
        drawn_numbers,
        left_out,
        read_drawn,
        unknown_kind,
    )
    from modeval.report.paper_figures import FORMATS, Style, save

    suffix = out.suffix.lower().removeprefix(".")
    if kind not in EVERY:
        raise SpecError(unknown_kind(kind))
    if suffix not in {*FORMATS, *TABLES}:
        raise SpecError(
            f"--out {out}: expected a name that ends in "
            f"{', '.join(f'.{each}' for each in (*FORMATS, *TABLES))}. Use --out "
            f"{out.with_suffix('.pdf')}"
        )
    check_target(out, flag="--out", example=f"{kind}.pdf")
    found = read_drawn(kind, paths, model or (), metric or ())
    style = Style(width=inches, title=title, metrics=tuple(metric or ()), layer=layer)
    content: str | bytes
    height = 0.0
    if suffix in TABLES:
        from modeval.report import table_formats

        content = table_formats.FORMATS[TABLES[suffix]](drawn_numbers(found, style))
    else:
        figure = drawn(found, style)
        height = figure.get_figheight()
        content = save(figure, suffix, dpi=dpi)
    if deliver(out, content, flag="--out") and not quiet:
        tell_written(out)
        if said := left_out(found, layer):
            stderr().print(said, markup=False)
        if height > PAGE:
            stderr().print(
                f"It is {height:.0f} inches high, more than a page. Draw less of it with "
                "--metric, --model, or wider with --width double.",
                markup=False,
            )


plot_command.__doc__ = with_examples(plot_command, EXAMPLES)


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
