"""``modeval log``: scores to a tracker of experiments."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from modeval.cli.options import with_examples
from modeval.cli.output import deliver, stdout

Target = Literal["tensorboard", "wandb", "mlflow", "openmetrics"]

EXAMPLES = """
[bold]Examples[/]

  Beside the curves of training:
  [cyan]modeval log card.json --to tensorboard --out runs/board --step 1000[/]

  For Prometheus to scrape:
  [cyan]modeval log card.json --to openmetrics --out scores.prom[/]
"""


def log_command(
    scorecards: Annotated[
        list[Path], typer.Argument(metavar="SCORECARD...", help="Files of modeval score --json.")
    ],
    *,
    to: Annotated[Target, typer.Option("--to", help="Where the numbers go.")],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            help="Folder (tensorboard), project (wandb), experiment (mlflow) or file, - for the "
            "terminal (openmetrics).",
        ),
    ] = "modeval",
    step: Annotated[
        int, typer.Option(help="Step of the first scorecard; those after it count on.", min=0)
    ] = 0,
) -> None:
    """Send saved scores to TensorBoard, Weights & Biases or MLflow, or write OpenMetrics text."""
    from modeval.report.trackers import log, open_metrics
    from modeval.score.stored.files import read_scorecard

    cards = [read_scorecard(path) for path in scorecards]
    if to == "openmetrics":
        card = cards[0]
        for other in cards[1:]:
            card = card + other
        text = open_metrics(card)
        deliver(Path(out), text, flag="--out")
        return
    sent = sum(log(card, to, where=out, step=step + index) for index, card in enumerate(cards))
    stdout().print(f"Logged {sent} numbers to {to}.", highlight=False)


log_command.__doc__ = with_examples(log_command, EXAMPLES)
