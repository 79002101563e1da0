"""``modeval score``: how modular did models become?"""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from modeval.cli import complete
from modeval.cli.options import numbers, with_examples
from modeval.cli.output import (
    check_target,
    deliver,
    progress_bar,
    stderr,
    stdout,
    tell_written,
)
from modeval.errors import SpecError
from modeval.spec import check_selection

if TYPE_CHECKING:
    from modeval.score.scorecard import Scorecard

WHAT, TRACES, MODELS, HOW = "What to score", "Traces", "Models of Hugging Face", "How"

EXAMPLES = """
[bold]Examples[/]

  A run of modeval train, or a folder of several:
  [cyan]modeval score runs/four --json scores.json[/]

  Recorded or imported routing, layer by layer:
  [cyan]modeval score olmoe.trace --json scores.json[/]

  A mixture-of-experts model on labelled text, recorded and scored at once:
  [cyan]modeval score ./model --data prose.jsonl --data code.jsonl --label domain[/]

  Everything that the reference implementation left below a folder:
  [cyan]modeval score Regression/Logs --json scores.json[/]

  One of its models, whose folders do not tell the objective:
  [cyan]modeval score Logs/Data-Seed_0/GT_Rules_4/Modular_joint_32_128_4_0 --objective regression[/]

  Some seeds, quicker and rougher:
  [cyan]modeval score runs/four --only-model-seeds 0-3 --precision 0.02[/]
"""


def score_command(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Run folders of modeval train, traces, counts, model folders of the reference "
            "implementation, folders above them; or a model folder or hub id of Hugging Face.",
            show_default=False,
            autocompletion=complete.paths,
        ),
    ],
    *,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the scorecard to this file."),
    ] = None,
    origin: Annotated[
        str,
        typer.Option(
            "--from",
            help="What the paths are: auto, run, modarch, trace or model.",
            rich_help_panel=WHAT,
            autocompletion=complete.one_of("auto", "run", "modarch", "trace", "model"),
        ),
    ] = "auto",
    selection: Annotated[
        str,
        typer.Option(
            help="Checkpoint: last, best, or phase-2 for the weights after the second phase of "
            "training.",
            rich_help_panel=WHAT,
            autocompletion=complete.one_of("last", "best", "phase-"),
        ),
    ] = "last",
    objective: Annotated[
        str | None,
        typer.Option(
            help="regression or classification, where the folders of the reference do not tell.",
            rich_help_panel=WHAT,
            autocompletion=complete.one_of("regression", "classification"),
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Score only what has this text in its path.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    task_seeds: Annotated[
        str | None,
        typer.Option(
            "--only-task-seeds",
            metavar="N,N-N",
            help="Score only members of these task seeds.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    model_seeds: Annotated[
        str | None,
        typer.Option(
            "--only-model-seeds",
            metavar="N,N-N",
            help="Score only members of these model seeds.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="Folder of modeval generate to score on, in place of fresh samples. For a model "
            "of Hugging Face: labelled text, as for modeval record; several times.",
            autocompletion=complete.paths,
            rich_help_panel=WHAT,
        ),
    ] = None,
    view: Annotated[
        str,
        typer.Option(
            help="What counts as routing: weight, assignment (each chosen module the same), or "
            "auto (weights where they were recorded).",
            rich_help_panel=TRACES,
            autocompletion=complete.one_of("auto", "weight", "assignment"),
        ),
    ] = "auto",
    prior: Annotated[
        str,
        typer.Option(
            help="Weight of the rules: uniform, or empirical (by their tokens).",
            rich_help_panel=TRACES,
            autocompletion=complete.one_of("uniform", "empirical"),
        ),
    ] = "uniform",
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="N,N-N", help="Score only these layers, from 0.", rich_help_panel=TRACES
        ),
    ] = None,
    phase: Annotated[
        str | None,
        typer.Option(
            help="Score only tokens of this phase: prefill, decode or train.",
            rich_help_panel=TRACES,
            autocompletion=complete.one_of("prefill", "decode", "train"),
        ),
    ] = None,
    text: Annotated[str, typer.Option(help="Column of the text.", rich_help_panel=MODELS)] = "text",
    label: Annotated[
        str,
        typer.Option(
            help="Column of the label; '' takes the name of each file.", rich_help_panel=MODELS
        ),
    ] = "label",
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many tokens.", rich_help_panel=MODELS)
    ] = None,
    precision: Annotated[
        float,
        typer.Option(
            help="Draw samples until each entry of the activation matrix is certain to this much "
            "(half of the 95 % interval), and each loss to four times this share of it.",
            rich_help_panel=HOW,
        ),
    ] = 0.005,
    seed: Annotated[
        int,
        typer.Option(
            help="Seed of samples and resamples, the same for all models.", rich_help_panel=HOW
        ),
    ] = 0,
    interventions: Annotated[
        bool | None,
        typer.Option(
            "--interventions/--no-interventions",
            help="Switch modules of trained cohorts off, to see what they do: necessity, "
            "causal alignment, what can go, hardened routing. By default where it takes less than "
            "some ten seconds. See modeval help interventions.",
            rich_help_panel=HOW,
            show_default=False,
        ),
    ] = None,
    shapley: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Switch modules off in N random orders too, for Shapley values of each module and "
            "rule, which see what single knock-outs miss; 0 for none.",
            rich_help_panel=HOW,
        ),
    ] = 0,
    device: Annotated[
        str,
        typer.Option(
            help="auto, cpu, cuda or cuda:N.", rich_help_panel=HOW, autocompletion=complete.devices
        ),
    ] = "auto",
    trust_code: Annotated[
        bool,
        typer.Option(
            "--trust-code",
            help="Run the code that run folders bring, with your rights: read it first.",
            rich_help_panel=HOW,
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Score models and traces: collapse, alignment, information, load and losses beside chance.

    Models that differ in their seeds only are scored together, with intervals over seeds; traces
    layer by layer, with intervals over documents and a test against permuted labels. What cannot
    be read is named, and stops nothing else.
    """
    # Threads that spin while they wait make short evaluations several times slower on a busy
    # machine. It is read when PyTorch is loaded, so it is set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from modeval.pipeline.scoring import score_asked
    from modeval.pipeline.sources import ScoreOptions

    asked = ScoreOptions(
        origin=_choice("--from", origin, ("auto", "run", "modarch", "trace", "model")),
        selection=check_selection(selection, "--selection"),
        objective=_choice("--objective", objective, (None, "regression", "classification")),
        only=only,
        task_seeds=numbers("--only-task-seeds", task_seeds),
        model_seeds=numbers("--only-model-seeds", model_seeds),
        data=tuple(data or ()),
        view=_choice("--view", view, ("auto", "weight", "assignment")),
        prior=_choice("--prior", prior, ("uniform", "empirical")),
        layers=numbers("--layers", layers),
        phase=_choice("--phase", phase, (None, "prefill", "decode", "train")),
        text=text,
        label=label,
        max_tokens=max_tokens,
        precision=precision,
        seed=seed,
        device=device,
        trust_code=trust_code,
        interventions=True if shapley and interventions is None else interventions,
        shapley=shapley,
        quiet=quiet,
    )
    if json_file is not None:
        check_target(json_file, flag="--json", example="scorecard.json")
    with _Progress(quiet=quiet) as progress:
        asked = replace(asked, watch=progress.tokens, tell=progress.tell, passes=progress.passes)
        scored = score_asked(paths, asked, watch=progress.sources)
    card, failed = scored.card, list(scored.failed)
    if json_file is not None:
        from modeval.score.stored.files import scorecard_text

        if not deliver(json_file, scorecard_text(card), flag="--json"):
            _tell_failures(card, failed)  # standard output is the scorecard's
            return
    if quiet:
        _tell_failures(card, failed)
    else:
        _show(card, json_file)


score_command.__doc__ = with_examples(score_command, EXAMPLES)


def _choice(flag: str, value: Any, choices: tuple[str | None, ...]) -> Any:
    if value not in choices:
        known = ", ".join(choice for choice in choices if choice)
        raise SpecError(f"{flag} {value}: expected one of {known}.")
    return value


WORTH_SAYING = 1.0
"""Seconds from which it is said what interventions took."""


class _Progress:
    """Show how many sources are scored, or the tokens of a model that is run for it."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar = progress_bar(quiet=quiet)
        self._task: Any = None
        self._single = True
        self._began = self._seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._seconds >= WORTH_SAYING:
            self.tell(
                f"Switching modules off took {self._seconds:.1f} s; --no-interventions leaves it "
                "out."
            )

    def sources(self, done: int, every: int) -> None:
        """Show that so many of so many sources are done."""
        self._single = every <= 1
        if every > 1:
            self._show("Scoring", done, every, "")

    def tokens(self, tokens: int, rate: float) -> None:
        """Show that so many tokens are done."""
        self._show("tokens", tokens, None, f"{rate:,.0f} tokens/s")

    def passes(self, done: int, every: int) -> None:
        """Show that so many of so many passes with modules switched off are done; add up time."""
        now = time.monotonic()
        self._began = now if done == 1 else self._began
        self._seconds += now - self._began if done == every else 0.0
        if self._single:
            self._show("Switching modules off", done, every, "passes")

    def tell(self, text: str) -> None:
        """Say something worth knowing."""
        if not self._quiet:
            stderr().print(text, highlight=False, markup=False)

    def _show(self, what: str, done: int, every: int | None, note: str) -> None:
        if self._task is None:
            self._task = self._bar.add_task(what, total=every, note=note)
        self._bar.update(self._task, completed=done, note=note)


def _tell_failures(card: "Scorecard", failed: list[str]) -> None:
    """Name what could not be scored, on standard error."""
    faults = [
        f"failed: {model.title}: {member.note}"
        for model in card.models
        for member in model.members
        if member.status == "failed"
    ]
    for fault in (*failed, *faults):
        stderr().print(fault, style="yellow", markup=False, highlight=False)


def _show(card: "Scorecard", json_file: Path | None) -> None:
    from modeval.report.terminal.scores import render

    console = stdout()
    for part in render(card, "" if json_file is None else str(json_file)):
        console.print(part, highlight=False)
    if json_file is not None:
        tell_written(json_file)
