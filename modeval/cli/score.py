"""``modeval score``: how modular did trained models become?"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from modeval.cli.options import with_examples
from modeval.cli.output import choose_device, let_threads_sleep, progress_bar, stderr, stdout
from modeval.errors import CheckpointError, RunError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

    from modeval.data import Dataset
    from modeval.score.scorecard import Scorecard
    from modeval.trace.subject import Subject

Origin = Literal["auto", "run", "modarch"]
Loader = "Callable[[], list[Subject]]"

WHAT, HOW = "What to score", "How"

EXAMPLES = """
[bold]Examples[/]

  A run of modeval train, or a folder of several:
  [cyan]modeval score runs/four --json scores.json[/]

  Everything that the reference implementation left below a folder:
  [cyan]modeval score Regression/Logs --json scores.json[/]

  One of its models, whose folders do not tell the objective:
  [cyan]modeval score Logs/Data-Seed_0/GT_Rules_4/Modular_joint_32_128_4_0 --objective regression[/]

  Quicker and rougher:
  [cyan]modeval score runs/four --precision 0.02[/]
"""


def score_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Run folders of modeval train, model folders of the reference implementation, or "
            "folders above them.",
            show_default=False,
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
            "--from", help="What the paths are: auto, run or modarch.", rich_help_panel=WHAT
        ),
    ] = "auto",
    selection: Annotated[
        str, typer.Option(help="Checkpoint: last or best.", rich_help_panel=WHAT)
    ] = "last",
    objective: Annotated[
        str | None,
        typer.Option(
            help="regression or classification, where the folders of the reference do not tell.",
            rich_help_panel=WHAT,
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
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Score on this folder of modeval generate, in place of fresh samples.",
            rich_help_panel=WHAT,
        ),
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
        int, typer.Option(help="Seed of the samples, the same for all models.", rich_help_panel=HOW)
    ] = 0,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=HOW)
    ] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Score trained models: collapse, alignment, information, adaptation and losses beside chance.

    Models that differ in their seeds only are scored together, with intervals over seeds.
    """
    let_threads_sleep()
    _check_choices(origin, selection, objective, precision)
    if json_file is not None:
        from modeval.score.files import check_writable

        check_writable(json_file)
    loaders, left_out = _find(paths, origin, selection, objective, only)
    dataset = _open_data(data)
    with progress_bar(quiet=quiet or len(loaders) < 2) as progress:  # noqa: PLR2004
        task = progress.add_task("Scoring", total=len(loaders), note="")
        cards = []
        for loader in loaders:
            cards += score_subjects(
                loader(),
                precision=precision,
                device=choose_device(device),
                seed=seed,
                dataset=dataset,
            )
            progress.advance(task)
    card = _together(cards, left_out)
    if dataset is not None:
        held = {"folder": str(dataset.folder), "digest": dataset.digest, "samples": dataset.samples}
        card = replace(card, dataset=held)
    if json_file is not None:
        from modeval.score.files import write_scorecard

        write_scorecard(json_file, card)
    if not quiet:
        _show(card, json_file)


score_command.__doc__ = with_examples(score_command, EXAMPLES)


def score_subjects(
    subjects: "list[Subject]",
    *,
    precision: float,
    device: Any = "cpu",
    seed: int = 0,
    dataset: "Dataset | None" = None,
) -> "list[Scorecard]":
    """Evaluate and score cohorts."""
    from modeval.score.cohorts import score
    from modeval.trace.own import evaluate

    return [
        score(
            subject,
            evaluate(subject, precision=precision, device=device, seed=seed, dataset=dataset),
            precision=precision,
        )
        for subject in subjects
    ]


def _open_data(folder: Path | None) -> "Dataset | None":
    if folder is None:
        return None
    from modeval.data import open_dataset

    return open_dataset(folder)


def _check_choices(origin: str, selection: str, objective: str | None, precision: float) -> None:
    for flag, value, choices in (
        ("--from", origin, ("auto", "run", "modarch")),
        ("--selection", selection, ("last", "best")),
        ("--objective", objective, (None, "regression", "classification")),
    ):
        if value not in choices:
            known = ", ".join(choice for choice in choices if choice)
            raise SpecError(f"{flag} {value}: expected one of {known}.")
    if not 1e-4 <= precision <= 0.5:  # noqa: PLR2004 - outside, no number of samples makes sense
        raise SpecError(f"--precision {precision}: expected 0.0001 to 0.5. Use --precision 0.005.")


def _find(
    paths: list[Path], origin: str, selection: str, objective: str | None, only: str | None
) -> "tuple[list[Callable[[], list[Subject]]], list[str]]":
    """Return one loader for each cohort at or below the paths, and what cannot be scored."""
    from modeval.trace.modarch import cohorts, find_models, load, missing
    from modeval.trace.own import find_own, load_run

    options: Any = {"selection": selection, "objective": objective}
    runs: list[Path] = []
    models: list[Path] = []
    for path in paths:
        _check_path(path)
        own = find_own(path) if origin in ("auto", "run") else []
        foreign = list(find_models(path)) if origin in ("auto", "modarch") else []
        if not own and not foreign:
            raise _nothing(path, origin)
        wanted = [folder for folder in own if only is None or only in str(folder)]
        models += [each for each in foreign if only is None or only in str(each)]
        runs += wanted
    loaders: list[Any] = [_bound(load_run, folder, selection) for folder in dict.fromkeys(runs)]
    left_out: list[str] = []
    for group in cohorts(list(dict.fromkeys(models))):
        reasons = [missing(folder, selection) for folder in group]  # type: ignore[arg-type]
        left_out += [reason for reason in reasons if reason]
        kept = [folder for folder, reason in zip(group, reasons, strict=True) if not reason]
        if kept:
            loaders.append(lambda kept=kept: load(kept, **options))
    if not loaders:
        if left_out:
            raise CheckpointError(left_out[0])
        raise SpecError(f"--only {only}: no path that was found has this text in it. Drop --only.")
    return loaders, left_out


def _bound(load_run: Any, folder: Path, selection: str) -> Any:
    return lambda: [load_run(folder, selection)]


def _check_path(path: Path) -> None:
    if not path.exists():
        raise RunError(f"There is nothing at {path}. Give a folder that exists.")
    if path.is_file():
        selection = " --selection best" if "best" in path.name else ""
        raise RunError(
            f"{path} is a file; models are scored by their folder: "
            f"modeval score {path.parent}{selection}"
        )


def _nothing(path: Path, origin: str) -> Exception:
    looked = {
        "run": "a run of modeval train (run.json)",
        "modarch": "a model of the reference implementation "
        "(.../Data-Seed_0/GT_Rules_4/Modular_joint_32_128_4_0 or the like)",
    }
    sought = " or ".join(text for name, text in looked.items() if origin in ("auto", name))
    held = sorted(entry.name for entry in path.iterdir())
    found = ", ".join(held[:6]) + (", ..." if len(held) > 6 else "") if held else "nothing"  # noqa: PLR2004
    return RunError(
        f"{path.resolve()} holds neither at its top nor below it {sought}; found there: {found}. "
        "Give such a folder or one above it, or train one: modeval train --out runs/first"
    )


def _together(cards: "list[Scorecard]", left_out: list[str]) -> "Scorecard":
    members = [member for card in cards for model in card.models for member in model.members]
    if all(member.status == "failed" for member in members):
        first = members[0]
        raise CheckpointError(
            f"Nothing can be scored: {first.source}: {first.note}"
            + (f" (and {len(members) - 1} more)" if len(members) > 1 else "")
            + ". Train again, perhaps with a lower learning rate, or use --selection best."
        )
    card = cards[0]
    for other in cards[1:]:
        card += other
    return replace(card, notes=tuple(left_out))


def _show(card: "Scorecard", json_file: Path | None) -> None:
    from modeval.report.console import render

    console = stdout()
    for part in render(card):
        console.print(part)
    if json_file is not None:
        stderr().print(f"Wrote {json_file}", style="green", highlight=False)
