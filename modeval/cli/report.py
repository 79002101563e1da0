"""``modeval report``: read scorecards again, in the terminal, in a browser or in a paper."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from modeval.cli import complete
from modeval.cli.options import with_examples
from modeval.cli.output import STDOUT, check_target, deliver, stdout, tell_written
from modeval.errors import ScorecardError, SpecError
from modeval.pace import tell

if TYPE_CHECKING:
    from modeval.report.page.tokens import TokenFigure
    from modeval.report.scorecard_views import ModelView
    from modeval.score.scorecard import Scorecard

Format = Literal["text", "md", "csv", "latex", "html", "json"]

EXAMPLES = """
[bold]Examples[/]

  A saved scorecard, as modeval score printed it:
  [cyan]modeval report scorecard.json[/]

  The same as a page with pictures, in one file that loads nothing:
  [cyan]modeval report scorecard.json --html report.html[/]

  Before and after, beside each other:
  [cyan]modeval report main.json scorecard.json --html report.html[/]

  A table for a paper, and every score for a spreadsheet:
  [cyan]modeval report scorecard.json --format latex[/]
  [cyan]modeval report scorecard.json --format csv --table scores --out scores.csv[/]

[bold]Tables[/]

  [cyan]glance[/]    the scores that matter most (usual)
  [cyan]findings[/]  what came out, in words
  [cyan]scores[/]    every score with interval and chance
  [cyan]layers[/]    layer by layer
  [cyan]seeds[/]     seed by seed
  [cyan]rules[/]     scores against the number of rules
  [cyan]experts[/]   which experts get most of each label
  [cyan]load[/]      the share of each expert
  [cyan]course[/]    losses by phase and rule, of models trained in phases
"""


def report_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCORECARD...", help="Files of modeval score --json.", show_default=False
        ),
    ],
    *,
    form: Annotated[
        Format, typer.Option("--format", "-f", help="How a table is written; html is the page.")
    ] = "text",
    table: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Which table, see below.", autocompletion=complete.tables
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write to a file; - prints it."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Short for --format html --out FILE.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Only models whose id or title matches. Repeatable.",
            autocompletion=complete.models,
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR.trace",
            help="With --html: show documents of this trace token by token, coloured by module.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="With --tokens: folder or hub id of a tokenizer; that of the model when it lies "
            "on this machine."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    r"""Show saved scorecards: what came out, who does what, what to do, and the numbers.

    Without --format it prints what modeval score printed, and the map of rules and modules. The
    page needs pip install "modeval-cli\[report]"; it sorts its tables, has light and dark colours
    and can be sent as it is.
    """
    if html is not None:
        form, out = "html", html
    if form == "text" and table is not None:
        form = "md"
    flag = "--html" if html is not None else "--out"
    if tokens is not None and form != "html":
        raise SpecError(f"--tokens {tokens} goes with the page: add --html report.html")
    if out is not None:
        check_output(out, paths, flag)
        check_target(out, flag=flag, example=f"report.{'txt' if form == 'text' else form}")
    cards = choose(read_cards(paths), paths, model or [])
    if form == "text":
        _print(paths, cards, out, quiet=quiet)
        return
    content = _content(form, table, cards, paths, tokens, tokenizer)
    if deliver(out or STDOUT, content, flag=flag) and out is not None and not quiet:
        tell_written(out)


report_command.__doc__ = with_examples(report_command, EXAMPLES)


def read_cards(paths: Sequence[Path]) -> "list[Scorecard]":
    """Read scorecards; of a folder say how to make one."""
    from modeval.score.stored.files import read_scorecard

    for path in paths:
        if path.is_dir():
            raise ScorecardError(
                f"{path} is a folder, and what is shown is a scorecard. Make one with: "
                f"modeval score {path} --json scorecard.json"
            )
    cards = [read_scorecard(path) for path in paths]
    tell("laying out the report", 0)
    return cards


def choose(
    cards: "Sequence[Scorecard]", paths: Sequence[Path], patterns: Sequence[str]
) -> "list[Scorecard]":
    """Keep the models that a pattern names, by id or title; the same in every command.

    Raises:
        SpecError: a pattern names no model of any scorecard.
    """
    from modeval.score.chosen import only_models

    if not patterns:
        return list(cards)
    named = [(str(path), card) for path, card in zip(paths, cards, strict=True)]
    return [card for _, card in only_models(named, patterns)]


def check_output(out: Path, sources: Sequence[Path], flag: str) -> None:
    """Refuse to write over what is read."""
    if any(path.exists() and out.exists() and path.samefile(out) for path in sources):
        raise ScorecardError(
            f"{flag} {out} is the scorecard itself. Name another file: {flag} "
            f"{out.with_suffix('.html' if flag == '--html' else '.pdf')}"
        )


def entries_of(cards: "Sequence[Scorecard]", paths: Sequence[Path]) -> "list[ModelView]":
    """List the models of scorecards, each under a name of its own."""
    from modeval.report.scorecard_views import entries

    return entries(cards, [str(path) for path in paths])


def _content(  # noqa: PLR0917 - one step of the command
    form: str,
    table: str | None,
    cards: "Sequence[Scorecard]",
    paths: Sequence[Path],
    tokens: Path | None,
    tokenizer: str | None,
) -> str:
    if form == "html":
        from modeval.report.html import render

        if table is not None:
            raise SpecError(
                "--table and --format html: the page holds all tables. Leave --table out, or use "
                "--format md."
            )
        figures: Sequence[TokenFigure] = ()
        if tokens is not None:
            from modeval.pipeline.showing import shown_tokens

            figures = shown_tokens(tokens, tokenizer)
        return render(cards, [str(path) for path in paths], figures)
    from modeval.report.table_formats import FORMATS, tables_of

    return FORMATS[form](tables_of(table or "glance", entries_of(cards, paths)))


def _print(
    paths: Sequence[Path], cards: "Sequence[Scorecard]", out: Path | None, *, quiet: bool
) -> None:
    from modeval.report.terminal.scores import render

    console = stdout()
    written = out is not None and out != STDOUT
    if quiet and not written:
        return
    with console.capture() if written else nullcontext() as captured:
        for path, card in zip(paths, cards, strict=True):
            if len(cards) > 1:
                console.rule()  # without a title: it would cut a long path short
                console.print(
                    str(path), style="bold", markup=False, highlight=False, soft_wrap=True
                )
            for part in render(card, str(path), maps=True):
                console.print(part, highlight=False)
    if captured is not None and out is not None:
        deliver(out, captured.get(), flag="--out")
        if not quiet:
            tell_written(out)
