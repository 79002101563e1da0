"""``modeval report``: read scorecards again, in the terminal or in a browser."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modeval.cli.options import with_examples
from modeval.cli.output import stderr, stdout
from modeval.errors import ScorecardError

if TYPE_CHECKING:
    from modeval.score.scorecard import Scorecard

EXAMPLES = """
[bold]Examples[/]

  A saved scorecard, as modeval score printed it:
  [cyan]modeval report scorecard.json[/]

  The same as a page with pictures, in one file that loads nothing:
  [cyan]modeval report scorecard.json --html report.html[/]

  Several at once, models of the same task beside each other:
  [cyan]modeval report main.json scorecard.json --html report.html[/]
"""


def report_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCORECARD...", help="Files of modeval score --json.", show_default=False
        ),
    ],
    *,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page instead of printing.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    r"""Show saved scorecards: what was measured, what came out, what cannot be claimed.

    Without --html it prints what modeval score printed, and of traces the map of rules and modules
    in the lowest, a median and the highest layer. The page needs
    pip install "modeval-cli\[report]"; it sorts its tables, has light and dark colours and can be
    sent as it is.
    """
    if html is None:
        _print(paths, read_cards(paths), quiet=quiet)
        return
    from modeval.score.files import check_writable, write_text

    check_output(html, paths, "--html")
    check_writable(html, flag="--html", example="report.html")
    cards = read_cards(paths)
    from modeval.report.html import render

    write_text(html, render(cards, [str(path) for path in paths]), flag="--html")
    if not quiet:
        stderr().print(
            f"Wrote {html}", style="green", markup=False, highlight=False, soft_wrap=True
        )


report_command.__doc__ = with_examples(report_command, EXAMPLES)


def read_cards(paths: Sequence[Path]) -> "list[Scorecard]":
    """Read scorecards; of a folder say how to make one."""
    from modeval.score.files import read_scorecard

    for path in paths:
        if path.is_dir():
            raise ScorecardError(
                f"{path} is a folder, and what is shown is a scorecard. Make one with: "
                f"modeval score {path} --json scorecard.json"
            )
    return [read_scorecard(path) for path in paths]


def check_output(out: Path, sources: Sequence[Path], flag: str) -> None:
    """Refuse to write over what is read."""
    if any(path.exists() and out.exists() and path.samefile(out) for path in sources):
        raise ScorecardError(
            f"{flag} {out} is the scorecard itself. Name another file: {flag} "
            f"{out.with_suffix('.html' if flag == '--html' else '.pdf')}"
        )


def _print(paths: Sequence[Path], cards: "Sequence[Scorecard]", *, quiet: bool) -> None:
    from modeval.report.terminal.maps import render_maps
    from modeval.report.terminal.scores import render

    if quiet:
        return
    console = stdout()
    for path, card in zip(paths, cards, strict=True):
        if len(cards) > 1:
            console.rule()  # without a title: it would cut a long path short
            console.print(str(path), style="bold", markup=False, highlight=False, soft_wrap=True)
        for part in (*render(card), *render_maps(card, width=console.width)):
            console.print(part)
