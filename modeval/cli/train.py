"""``modeval train``: a cohort of seeds of one model, or of several models, into run folders."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from modeval.cli.options import data_values, merge, with_examples
from modeval.cli.output import choose_device, progress_bar, stderr, stdout
from modeval.errors import RunError, SpecError
from modeval.spec import (
    MODEL_TITLES,
    MODELS,
    DataSpec,
    ModelSpec,
    RunSpec,
    TrainSpec,
    from_dict,
    load_toml,
    seed_grid,
    to_dict,
    to_toml,
)

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

    from modeval.data import Dataset
    from modeval.train.files import RunRecord

D, M, T = DataSpec(), ModelSpec(), TrainSpec()
DATA, MODEL, TRAIN, MACHINE = "Task", "Model", "Training", "Machine and files"
PAPER = ("monolithic", "modular", "modular-op", "gt-modular")

EXAMPLES = """
[bold]Examples[/]

  Five task seeds x two model seeds of Modular on four linear rules:
  [cyan]modeval train --out runs/modular --rules 4 --task-seeds 5 --model-seeds 2[/]

  The paper's four models side by side, then their scores:
  [cyan]modeval train --out runs/four --model all --rules 8 --steps 2000 --learning-rate 1e-3[/]
  [cyan]modeval score runs/four[/]

  Continue after an interruption:
  [cyan]modeval train --out runs/modular --resume[/]
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One run to train: its specification and its folder."""

    spec: RunSpec
    folder: Path


@dataclass(frozen=True, slots=True)
class _Machine:
    """Where and how runs are trained."""

    device: Any
    engine: Any
    dataset: "Dataset | None"


def train_command(  # noqa: PLR0917
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Run folder; several models get one each below it.")
    ],
    spec: Annotated[
        Path | None, typer.Option(help="TOML file with sections data, model, train; flags win.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(MODELS)}, or all for the paper's four. May be repeated.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help=f"binary (MLP), sets (attention), series (LSTM) ({D.task}).", rich_help_panel=DATA
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help=f"regression or classification ({D.objective}).", rich_help_panel=DATA),
    ] = None,
    rules: Annotated[
        int | None, typer.Option(help=f"Number of rules ({D.rules}).", rich_help_panel=DATA)
    ] = None,
    operation: Annotated[
        str | None,
        typer.Option(help=f"binary: linear or named ({D.operation}).", rich_help_panel=DATA),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(help=f"sets: nearest or product ({D.search}).", rich_help_panel=DATA),
    ] = None,
    dimension: Annotated[
        int | None,
        typer.Option(help=f"series: size of the state ({D.dimension}).", rich_help_panel=DATA),
    ] = None,
    order: Annotated[
        int | None,
        typer.Option(help=f"series: earlier states used ({D.order}).", rich_help_panel=DATA),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(help=f"sets, series: positions ({D.length}).", rich_help_panel=DATA),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help=f"Inputs are multiplied by this ({D.scale}).", rich_help_panel=DATA),
    ] = None,
    rule_probabilities: Annotated[
        str | None,
        typer.Option(help="Shares of the rules, as 0.5,0.3,0.2.", rich_help_panel=DATA),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of modeval generate, in place of the endless stream.", rich_help_panel=DATA
        ),
    ] = None,
    modules: Annotated[
        int | None, typer.Option(help="Number of modules, if not the rules.", rich_help_panel=MODEL)
    ] = None,
    encoder: Annotated[
        int | None,
        typer.Option(help=f"Width of the encoders ({M.encoder}).", rich_help_panel=MODEL),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(help=f"Width of the module bank ({M.width}).", rich_help_panel=MODEL),
    ] = None,
    heads: Annotated[
        int | None,
        typer.Option(help=f"Attention heads of each module ({M.heads}).", rich_help_panel=MODEL),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            help=f"parameters (as the paper) or width ({M.match}).", rich_help_panel=MODEL
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Models in the cohort; task seeds run fastest.", rich_help_panel=TRAIN),
    ] = None,
    task_seeds: Annotated[
        int | None, typer.Option(help="Number of task seeds.", rich_help_panel=TRAIN)
    ] = None,
    model_seeds: Annotated[
        int | None, typer.Option(help="Number of model seeds.", rich_help_panel=TRAIN)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help=f"Optimiser steps ({T.steps}).", rich_help_panel=TRAIN)
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help=f"Samples of a step per model ({T.batch}).", rich_help_panel=TRAIN),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help=f"Learning rate of Adam ({T.learning_rate}).", rich_help_panel=TRAIN),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help=f"constant, steps or cosine ({T.schedule}).", rich_help_panel=TRAIN),
    ] = None,
    milestones: Annotated[
        str | None,
        typer.Option(
            help="Steps at which --schedule steps halves the rate.", rich_help_panel=TRAIN
        ),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(
            help="Largest gradient norm of each model; 0 for none.", rich_help_panel=TRAIN
        ),
    ] = None,
    validate_every: Annotated[
        int | None,
        typer.Option(
            help=f"Steps between validations ({T.validate_every}).", rich_help_panel=TRAIN
        ),
    ] = None,
    *,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue what is in the run folder from its last checkpoint."
        ),
    ] = False,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=MACHINE)
    ] = "auto",
    engine: Annotated[
        str, typer.Option(help="auto, eager, compiled or fused.", rich_help_panel=MACHINE)
    ] = "auto",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress bar.", rich_help_panel=MACHINE)
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print what came of each run.", rich_help_panel=MACHINE),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the resolved spec and stop.", rich_help_panel=MACHINE
        ),
    ] = False,
) -> None:
    """Train a cohort of seeds as one stacked program.

    All seeds train together, and each is exactly what it would be alone. The run folder holds the
    resolved spec, a log, and the last and best weights of each seed.
    """
    file = load_toml(spec) if spec else {}
    dataset = _open_data(data)
    if dataset is not None:  # what it was made from, unless file or flags ask for something else
        file = {**file, "data": {**to_dict(dataset.spec), **file.get("data", {})}}
    values = {
        "data": data_values(
            task=task, objective=objective, rules=rules, operation=operation, search=search,
            dimension=dimension, order=order, length=length, scale=scale,
            rule_probabilities=rule_probabilities,
        ),
        "model": {
            "modules": modules, "encoder": encoder, "width": width, "heads": heads, "match": match,
        },
        "train": {
            "steps": steps, "batch": batch, "learning_rate": learning_rate, "schedule": schedule,
            "milestones": _numbers(milestones, "--milestones"), "clip": clip,
            "validate_every": validate_every,
            "seeds": _seeds(seeds, task_seeds, model_seeds),
        },
    }  # fmt: skip
    if resume and not (spec or model) and (kept := _kept(out)):
        requests = [_again(folder, values) for folder in kept]
        if kept != [out] and not quiet:
            stderr().print(
                f"Continuing the runs that had begun below {out}; repeat --model for others.",
                markup=False,
                highlight=False,
            )
    else:
        requests = plan(merge(file, values), model or [], out)
    if dry_run:
        stdout().print(to_toml(requests[0].spec), end="", markup=False, highlight=False)
        return
    from modeval.train.step import Engine

    if engine not in get_args(Engine):
        raise SpecError(f"engine = {engine!r}: expected one of {', '.join(get_args(Engine))}.")
    records = train_all(
        requests, device=device, engine=engine, resume=resume, dataset=dataset, quiet=quiet
    )
    if as_json:
        typer.echo(_as_json(requests, records))
    check_finite(requests, records)


train_command.__doc__ = with_examples(train_command, EXAMPLES)


def _kept(out: Path) -> list[Path]:
    from modeval.train.files import find_runs

    return find_runs(out) if out.is_dir() else []


def _again(folder: Path, flags: Mapping[str, Mapping[str, Any]]) -> Request:
    """Return the run that a folder holds; flags that say something else make it another run."""
    from modeval.train.files import SPEC

    return Request(from_dict(RunSpec, merge(load_toml(folder / SPEC), flags)), folder)


def plan(values: Mapping[str, Any], names: list[str], out: Path) -> list[Request]:
    """Resolve specifications and folders: a name stands for choices on the axes of the model."""
    settings = dict(values.get("model", {}))
    if not names and settings.get("scorer"):
        return [Request(from_dict(RunSpec, dict(values)), out)]  # a spec file says it all
    wanted = list(PAPER) if names == ["all"] else names or [str(values.get("name", "modular"))]
    for name in wanted:
        if name not in MODELS:
            raise SpecError(
                f"model = {name!r}: expected one of {', '.join(MODELS)}, or all for the four of "
                "the paper."
            )
    if settings.pop("scorer", None) == "none":
        settings.pop("modules", None)  # the single module of a Monolithic in the spec file
    requests = []
    for name in wanted:
        model = {**settings, **MODELS[name]}
        if settings.get("modules") and (name != "monolithic" or len(wanted) == 1):
            model["modules"] = settings["modules"]
        spec = from_dict(RunSpec, {**values, "name": name, "model": model})
        requests.append(Request(spec, out if len(wanted) == 1 else out / name))
    return requests


def train_all(
    requests: list[Request],
    *,
    device: str = "auto",
    engine: str = "auto",
    resume: bool = False,
    dataset: "Dataset | None" = None,
    quiet: bool = False,
) -> list["RunRecord"]:
    """Train each request in turn, with a progress bar; runs that are complete are left alone."""
    from modeval.data import require
    from modeval.train.files import is_run, read_record

    for request in requests:
        if dataset is not None:
            require(dataset, request.spec.data, [task for task, _ in request.spec.train.seeds])
    machine = _Machine(choose_device(device), engine, dataset)
    several = len(requests) > 1
    records: list["RunRecord"] = []
    with progress_bar(quiet=quiet) as bar:
        for request in requests:
            going_on = resume and is_run(request.folder)
            if going_on and several:
                kept = read_record(request.folder)
                if kept.status == "complete":
                    records.append(kept)
                    continue
            record = _train_one(request, machine, bar, resume=going_on if several else resume)
            records.append(record)
            if not quiet:
                seeds = len(request.spec.train.seeds)
                models = "1 model" if seeds == 1 else f"{seeds} models"
                stderr().print(f"Wrote {request.folder} ({models}).", markup=False, highlight=False)
    return records


def check_finite(requests: list[Request], records: list["RunRecord"]) -> None:
    """Raise an error that names the seeds whose loss stopped being finite, if there are any."""
    lost = [
        f"{request.folder}: seed (task {task}, model {model}) diverged by step {step}"
        for request, record in zip(requests, records, strict=True)
        for (task, model), step in zip(request.spec.train.seeds, record.diverged, strict=True)
        if step is not None
    ]
    if lost:
        raise RunError(
            "\n".join(lost) + "\nTheir loss is not finite; the other seeds are trained and saved, "
            "and modeval score marks these. Use a smaller --learning-rate, or --clip 1."
        )


def _as_json(requests: list[Request], records: list["RunRecord"]) -> str:
    """Return what came of each run, as run.json says it, beside its folder and its seeds."""
    runs = [
        {"folder": str(request.folder), "name": request.spec.name, **asdict(record)}
        | {
            "seeds": [
                dict(zip(("task", "model"), s, strict=True)) for s in request.spec.train.seeds
            ]
        }
        for request, record in zip(requests, records, strict=True)
    ]
    return json.dumps(runs, indent=2)


def _train_one(
    request: Request, machine: _Machine, bar: "ProgressBar", *, resume: bool
) -> "RunRecord":
    from modeval.train.loop import Progress, train

    title = MODEL_TITLES.get(request.spec.name, request.spec.name)
    task = bar.add_task(title, total=request.spec.train.steps, note="starting")
    told: set[str] = set()

    def watch(progress: Progress) -> None:
        if progress.engine_note and not bar.disable and progress.engine_note not in told:
            told.add(progress.engine_note)
            bar.console.print(
                f"{title} trains on engine {progress.engine}: {progress.engine_note}.",
                highlight=False,
                markup=False,
            )
        lost = f", {progress.diverged} diverged" if progress.diverged else ""
        bar.update(
            task,
            completed=progress.step,
            note=f"loss {progress.loss:.4f}, {progress.models_per_second:,.0f} models x steps/s "
            f"({progress.engine}){lost}",
        )

    return train(
        request.spec,
        request.folder,
        device=machine.device,
        engine=machine.engine,
        resume=resume,
        dataset=machine.dataset,
        watch=watch,
    )


def _open_data(folder: Path | None) -> "Dataset | None":
    if folder is None:
        return None
    from modeval.data import open_dataset

    return open_dataset(folder)


def _seeds(total: int | None, tasks: int | None, models: int | None) -> Any:
    """Return the pairs that the three seed flags stand for, or None when none was given."""
    if total is None and tasks is None and models is None:
        return None
    for name, value in (("--seeds", total), ("--task-seeds", tasks), ("--model-seeds", models)):
        if value is not None and value < 1:
            raise SpecError(f"{name} = {value}: expected 1 or more.")
    if total is None:
        return [list(pair) for pair in seed_grid(tasks or 1, models or 1)]
    fastest = tasks or (total // models if models else min(total, 5))
    if models is not None and fastest * models != total:
        raise SpecError(
            f"--seeds {total} is not --task-seeds {fastest} x --model-seeds {models}. Give two of "
            f"the three, or --seeds {fastest * models}."
        )
    return [list(pair) for pair in seed_grid(fastest, -(-total // fastest))[:total]]


def _numbers(text: str | None, flag: str) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise SpecError(f"{flag} {text!r}: expected whole numbers, as 1000,2000.") from None
