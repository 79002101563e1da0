"""``modeval compare``: what changed between scorecards, traces or runs?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modeval.cli import complete
from modeval.cli.options import with_examples
from modeval.cli.output import check_target, deliver, stdout, tell_written
from modeval.errors import SpecError

if TYPE_CHECKING:
    from modeval.score.comparison.compare import Comparison

EXAMPLES = """
[bold]Examples[/]

  A model before and after a change, seeds paired:
  [cyan]modeval compare main.json scorecard.json[/]

  The models of one scorecard:
  [cyan]modeval compare scorecard.json[/]

  A quantised build against the full one, token by token, and a gate on it:
  [cyan]modeval compare full.trace int4.trace --agreement agreement.json[/]
  [cyan]modeval gate agreement.json --min agreement.layers.worst.shared=0.95[/]

  Checkpoints of one model, recorded on the same texts, with their saturation:
  [cyan]modeval compare step-1000.trace step-2000.trace --json course.json[/]
"""


def compare_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Scorecards, traces, counts (.counts.safetensors) or run folders, the first being "
            "what the others are compared with; one scorecard for the models in it.",
            show_default=False,
        ),
    ],
    *,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all of it, layer by layer."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Compare only models whose id or title matches. Repeatable.",
            autocompletion=complete.models,
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Show this metric. Repeatable; all for all of them.",
            autocompletion=complete.shown_metrics,
        ),
    ] = None,
    agreement_file: Annotated[
        Path | None,
        typer.Option(
            "--agreement",
            metavar="FILE",
            help="Two traces of one model on the same tokens: write how alike they route, as a "
            "scorecard for modeval gate.",
        ),
    ] = None,
    again: Annotated[
        Path | None,
        typer.Option(
            "--again",
            metavar="TRACE",
            help="With --agreement: the first build recorded once more, which is all the agreement "
            "that can be expected of another.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Set scorecards side by side: what changed, by how much, and is it more than noise?

    Seeds that both have are paired, layers stand against themselves. From three on, the course of
    each number is drawn.
    """
    if json_file is not None:
        check_target(json_file, flag="--json", example="comparison.json")
    if agreement_file is not None or again is not None:
        _agree(paths, agreement_file, again, quiet=quiet)
        return
    from modeval.pipeline.comparing import compare

    comparison = compare(*paths, models=model or [])
    metrics = _metrics(comparison, metric or [])
    if json_file is not None:
        from modeval.report.terminal.comparison import render_comparison_json

        written = deliver(json_file, render_comparison_json(comparison), flag="--json")
        if not written:
            return
        if not quiet:
            tell_written(json_file)
    if quiet:
        return
    from modeval.report.terminal.comparison import render_comparison

    console = stdout()
    for part in render_comparison(comparison, metrics=metrics):
        console.print(part, highlight=False)


compare_command.__doc__ = with_examples(compare_command, EXAMPLES)


def _agree(paths: list[Path], target: Path | None, again: Path | None, *, quiet: bool) -> None:
    """Compare two builds token by token."""
    from modeval.report.terminal.agreement import render_agreement
    from modeval.score.comparison.agreement import agreement
    from modeval.score.comparison.agreement_card import agreement_card
    from modeval.score.stored.files import scorecard_text
    from modeval.trace.files import open_trace

    if target is None:
        raise SpecError(
            "--again goes with --agreement: modeval compare full.trace int4.trace --agreement "
            f"agreement.json --again {again}"
        )
    check_target(target, flag="--agreement", example="agreement.json")
    if len(paths) != 2:  # noqa: PLR2004 - a pair
        raise SpecError(
            f"--agreement compares two traces, not {len(paths)}: modeval compare full.trace "
            f"int4.trace --agreement {target}"
        )
    found = agreement(*paths, again=again)
    card = agreement_card(found, *paths)
    if deliver(target, scorecard_text(card), flag="--agreement") and not quiet:
        console = stdout()
        names = open_trace(paths[0]).header.layers
        for part in render_agreement(found, names, card.models[0].title):
            console.print(part, highlight=False)
        tell_written(target)


def _metrics(comparison: "Comparison", asked: list[str]) -> list[str] | None:
    """Return the metrics to show; nothing for the usual ones."""
    from modeval.errors import nearest

    known = list(
        dict.fromkeys(row.metric for lineage in comparison.lineages for row in lineage.rows)
    )
    if "all" in asked:
        return known
    for name in asked:
        if name not in known:
            raise SpecError(
                f"--metric {name}: not among what can be compared here"
                f"{nearest(name, known)}. There are {', '.join(known)}; or all."
            )
    return asked or None
