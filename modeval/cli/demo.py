"""``modeval demo``: the whole pipeline on a small scale, and in one paragraph what it shows."""

import functools
import itertools
import json
import operator
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modeval.cli import complete
from modeval.cli.options import with_examples
from modeval.cli.output import choose_device, stderr, stdout
from modeval.cli.training.train import PAPER, RunRequest, check_finite, train_all
from modeval.errors import DependencyError, RunError
from modeval.spec import MODELS, DataSpec, ModelSpec, RunSpec, TrainSpec, seed_grid

if TYPE_CHECKING:
    from modeval.score.scorecard import Score, Scorecard

RULES = (2, 8)
TASK_SEEDS, MODEL_SEEDS, STEPS, LEARNING_RATE = 6, 1, 1_000, 1e-3
PRECISION = 0.005
MARK = ".modeval-demo"

EXAMPLES = """
[bold]Examples[/]

  [cyan]modeval demo[/]

  Claims of a survey of modular networks, small, in some minutes:
  [cyan]modeval demo --survey[/]

  Somewhere else:
  [cyan]modeval demo --out /tmp/demo[/]
"""


@dataclass(frozen=True, slots=True)
class DemoFinding:
    """The routing scores of one model at one number of rules, over seeds."""

    alignment: "Score"
    information: "Score"


def demo_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for data, runs and scores.")] = (
        Path("runs/demo")
    ),
    *,
    survey: Annotated[
        bool,
        typer.Option(
            "--survey",
            help="Train small models for claims of a survey of modular networks, and say of each "
            "whether it holds here.",
        ),
    ] = False,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N.", autocompletion=complete.devices)
    ] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Generate, train, score and explain, in under two minutes and without arguments.

    Trains the four models of the paper (Monolithic, Modular, Modular-op, GT-Modular) on binary
    operations with 2 and with 8 rules, several seeds each, and shows which rule went to which
    module. Running it again starts afresh.
    """
    started = time.perf_counter()
    _fresh(out)
    if survey:
        show_survey(out, quiet=quiet)
        return
    cards = [demonstrate(rules, out, device=device, quiet=quiet) for rules in RULES]
    show(cards, out, time.perf_counter() - started)


demo_command.__doc__ = with_examples(demo_command, EXAMPLES)


def show_survey(out: Path, *, quiet: bool) -> None:
    """Measure the claims of the survey one by one, then print claim, effect and verdict of each."""
    from modeval.cli.output import progress_bar
    from modeval.pipeline.laboratory import Found
    from modeval.pipeline.survey import CLAIMS
    from modeval.pipeline.survey import survey as measure
    from modeval.score.stored.files import write_text

    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("Claims", total=len(CLAIMS), note="")

        def watch(found: Found) -> None:
            bar.update(task, advance=1, note=found.verdict)

        found = measure(out, watch=watch)
    console = stdout()
    for each in found:
        interval = "" if each.low is None else f" [{each.low:.3g}, {each.high:.3g}]"
        console.print(f"[bold]{each.verdict}[/]: {each.claim}", highlight=False)
        console.print(
            f"    {each.effect}: {each.mean:.3g}{interval}", highlight=False, markup=False
        )
        if each.note:
            console.print(f"    {each.note}", highlight=False, markup=False)
    held = sum(each.verdict.startswith("holds") for each in found)
    write_text(out / "survey.json", json.dumps([asdict(each) for each in found], indent=1) + "\n")
    console.print(
        f"\n{held} of {len(found)} claims hold on these tasks, which are small: means over seeds, "
        f"95 % intervals in brackets. Written to {out / 'survey.json'}.",
        highlight=False,
    )


def requests(rules: int, out: Path) -> list[RunRequest]:
    """Return the four runs at one number of rules."""
    train = TrainSpec(
        seeds=seed_grid(TASK_SEEDS, MODEL_SEEDS),
        steps=STEPS,
        learning_rate=LEARNING_RATE,
        validate_every=STEPS // 2,
    )
    return [
        RunRequest(
            RunSpec(
                name=name, data=DataSpec(rules=rules), model=ModelSpec(**MODELS[name]), train=train
            ),
            out / f"rules-{rules}" / name,
        )
        for name in PAPER
    ]


def demonstrate(rules: int, out: Path, *, device: str, quiet: bool) -> "Scorecard":
    """Generate, train and score at one number of rules; return the scorecard, also written."""
    from modeval.data import write_dataset
    from modeval.evaluate.runs import load_run
    from modeval.pipeline.sources import score_subjects
    from modeval.score.stored.files import write_scorecard

    if not quiet:
        stderr().print(f"\n[bold]{rules} rules[/]: binary operations, regression", highlight=False)
    folder = out / f"rules-{rules}"
    write_dataset(
        folder / "data", DataSpec(rules=rules), task_seeds=range(TASK_SEEDS), samples=1_000
    )
    runs = requests(rules, out)
    check_finite(runs, train_all(runs, device=device, quiet=quiet))
    subjects = [load_run(run.folder, "last") for run in runs]
    first, *others = score_subjects(subjects, precision=PRECISION, device=choose_device(device))
    card = functools.reduce(operator.add, others, first)
    write_scorecard(folder / "scorecard.json", card)
    return card


def show(cards: list["Scorecard"], out: Path, seconds: float) -> None:
    """Print tables, heat maps, what they show, and the commands to go on with."""
    from modeval.report.terminal.scores import render

    console = stdout()
    for card in cards:
        console.rule()
        for part in render(card):
            console.print(part)
    console.rule("What this shows")
    console.print(explain(cards), highlight=False)
    few, many = (str(folder / "scorecard.json") for folder in folders(out))
    console.print(
        f"\nAll of it took {seconds:.0f} s and lies in {out}. {page(cards, out)} Go on with:\n\n"
        f"  modeval report {many}\n"
        f"  modeval plot specialisation {few} {many} --out {out / 'specialisation.png'}\n"
        "  modeval help\n"
        "  modeval train --out runs/mine --model modular --rules 8 --seeds 25\n",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def folders(out: Path) -> list[Path]:
    """Return the folder of each number of rules."""
    return [out / f"rules-{rules}" for rules in RULES]


def page(cards: list["Scorecard"], out: Path) -> str:
    """Write what was found as a page, and say where it is, or what is needed for it."""
    from modeval.cli.output import deliver
    from modeval.report.html import render

    sources = [str(folder / "scorecard.json") for folder in folders(out)]
    try:
        deliver(out / "report.html", render(cards, sources), flag="--out")
    except DependencyError as error:
        return f"No page was written: {error}"
    return f"The pictures are in {out / 'report.html'}: open it in a browser."


def explain(cards: list["Scorecard"]) -> str:
    """Say in one plain paragraph what the scores show: every clause is decided by the numbers."""
    few, many = (_findings(card) for card in cards)
    oracle = many["gt-modular"].alignment.value
    sentences = [
        (
            "GT-Modular is told which rule made each sample and sends every rule to a module of "
            f"its own: its alignment distance is {_number(oracle)}, which also checks the tool."
        )
    ]
    for rules, findings in zip(RULES, (few, many), strict=True):
        op, modular = findings["modular-op"].alignment, findings["modular"].alignment
        sentences.append(
            f"With {rules} rules, routing that sees only the rule (Modular-op) reaches "
            f"{_with_interval(op)} and routing that sees everything (Modular) "
            f"{_with_interval(modular)}, where routing that knows nothing has "
            f"{_number(op.chance)}."
        )
    sentences += [_ordering(many), _growth(few, many)]
    return " ".join(sentences)


def _ordering(findings: dict[str, DemoFinding]) -> str:
    op, modular = findings["modular-op"].alignment, findings["modular"].alignment
    values = (0.0, op.value, modular.value, op.chance)
    pairs = itertools.pairwise(values)
    ordered = all(a is not None and b is not None and a < b for a, b in pairs)
    if ordered:
        return (
            "So both learned something of the rules, and neither came close to what the same "
            "modules can do: seeing the input as well as the rule did not help the router, it "
            "distracted it."
        )
    return (
        "This is not the order of the paper (ground truth, rule only, everything, chance): with "
        "so few seeds that can happen; train longer or with more seeds before believing it."
    )


def _growth(few: dict[str, DemoFinding], many: dict[str, DemoFinding]) -> str:
    """Compare how much of the routing information is missing, a share for any number of rules."""
    grew = [
        (many[name].information.value or 0.0) > (few[name].information.value or 0.0)
        for name in ("modular", "modular-op")
    ]
    verb = {2: "got worse", 0: "did not get worse", 1: "got worse for one of the two"}[sum(grew)]
    return (
        f"From {RULES[0]} to {RULES[1]} rules the share of missing information {verb}. Distances "
        "are lower is better; brackets are 95 % intervals over tasks."
    )


def _findings(card: "Scorecard") -> dict[str, DemoFinding]:
    found = {}
    for record in card.models:
        name = next(key for key, axes in MODELS.items() if axes["scorer"] == record.model["scorer"])
        alignment = card.find(record.id, "alignment_distance")
        information = card.find(record.id, "inverse_mutual_information")
        if alignment is not None and information is not None:
            found[name] = DemoFinding(alignment, information)
    return found


def _with_interval(score: "Score") -> str:
    interval = "" if score.low is None else f" [{_number(score.low)}, {_number(score.high)}]"
    return _number(score.value) + interval


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}" if value else "0"


def _fresh(out: Path) -> None:
    """Make the demo's folder; replace an earlier demo's, and nothing else."""
    from modeval.atomic import new_folders

    if out.exists():
        if not (out / MARK).is_file() and any(out.iterdir()):
            raise RunError(f"{out} holds something else than a demo. Choose another --out.")
        shutil.rmtree(out)
    try:
        with new_folders(out):
            (out / MARK).touch()
    except OSError as error:
        raise RunError(f"Cannot write {out}: {error.strerror}. Choose another --out.") from None
