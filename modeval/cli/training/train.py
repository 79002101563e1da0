"""``modeval train``: a cohort of seeds of one model, or of several models, into run folders."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from modeval.cli.flags import (
    COMMON,
    Given,
    Section,
    completing,
    count_of,
    one_of,
    with_settings,
    words,
)
from modeval.cli.options import merge, read_file, with_examples
from modeval.cli.output import choose_device, progress_bar, stderr
from modeval.errors import RunError, SpecError
from modeval.spec import (
    MODELS,
    DataSpec,
    Engine,
    ModelSpec,
    RunSpec,
    TrainSpec,
    choices_of,
    from_dict,
    name_of,
    seed_grid,
    title_of,
    to_dict,
    to_toml,
)
from modeval.spec.checks import suggestion
from modeval.spec.own import is_code, with_own
from modeval.spec.phases import RemedyName, said
from modeval.spec.regimes import Regime
from modeval.spec.settings import flag_of
from modeval.spec.systems import BY_NAME, contradictions, kind_of
from modeval.spec.systems import named as choices_named

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

    from modeval.data import Dataset
    from modeval.train.records import RunRecord

TASK, MODEL, TRAINING, MACHINE = "Task", "Model", "Training", "Machine and files"
PAPER = ("monolithic", "modular", "modular-op", "gt-modular")
NAMES = (*BY_NAME, "all")

EXAMPLES = """
[bold]Examples[/]

  Five task seeds x two model seeds of Modular on four linear rules:
  [cyan]modeval train --out runs/modular --task-seeds 5 --model-seeds 2[/]

  The paper's four models side by side, then their scores:
  [cyan]modeval train --out runs/four --model all --steps 2000 --lr 1e-3[/]
  [cyan]modeval score runs/four[/]

  Rules one after another, naively and with PackNet; then what each forgot:
  [cyan]modeval train --out runs/naive --regime sequential[/]
  [cyan]modeval train --out runs/packnet --regime packnet[/]
  [cyan]modeval score runs/naive runs/packnet[/]

  A start that provokes collapse, and something against it:
  [cyan]modeval train --out runs/mended --tilt 4 --remedy balance=0.1[/]

  Continue after an interruption, then train for longer, with more seeds:
  [cyan]modeval train --out runs/modular --resume[/]
  [cyan]modeval train --out runs/modular --resume --steps 20000[/]
  [cyan]modeval train --out runs/modular --resume --seeds 20[/]
"""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run to train: its specification and its folder."""

    spec: RunSpec
    folder: Path


@dataclass(frozen=True, slots=True)
class _Machine:
    """Where and how runs are trained."""

    device: Any
    engine: Any
    dataset: "Dataset | None"


@with_settings(
    Section("data", DataSpec, TASK),
    Section("model", ModelSpec, MODEL),
    Section("train", TrainSpec, TRAINING),
)
def train_command(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Run folder; several models get one each below it.",
            rich_help_panel=COMMON,
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help=f"{', '.join(MODELS)}, all for the paper's four, what modeval systems lists, or "
            "FILE.py:CLASS for your own.",
            autocompletion=completing(NAMES),
            rich_help_panel=COMMON,
        ),
    ] = None,
    *,
    settings: Given,
    seeds: Annotated[
        int | None,
        typer.Option(
            parser=count_of("--seeds"),
            metavar="MODELS",
            help="Models in the cohort; task seeds run fastest.",
            rich_help_panel=COMMON,
        ),
    ] = None,
    task_seeds: Annotated[
        int | None,
        typer.Option(
            parser=count_of("--task-seeds"),
            metavar="TASKS",
            help="Number of task seeds.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    model_seeds: Annotated[
        int | None,
        typer.Option(
            parser=count_of("--model-seeds"),
            metavar="MODELS",
            help="Number of model seeds.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    remedy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X",
            help="Add a term to the loss, X times: " + ", ".join(get_args(RemedyName)) + ". "
            "Repeatable.",
            autocompletion=completing(get_args(RemedyName)),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES=X",
            help="Multiply the learning rate of parameters by X: a pattern of their names, or own, "
            "modules, routers, trunk. Repeatable.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with sections data, model, train; flags win.",
            rich_help_panel=COMMON,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of modeval generate, in place of the endless stream.",
            rich_help_panel=TASK,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue what is in the run folder from its last checkpoint, to the same bits; "
            "with more --steps or --seeds, for longer or with more models.",
            rich_help_panel=COMMON,
        ),
    ] = False,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|cuda:N",
            help="Where to compute.",
            autocompletion=completing(("auto", "cpu", "cuda")),
            rich_help_panel=MACHINE,
        ),
    ] = "auto",
    engine: Annotated[
        str,
        typer.Option(
            parser=one_of("--engine", get_args(Engine)),
            metavar="|".join(get_args(Engine)),
            autocompletion=completing(get_args(Engine)),
            help="How steps are computed.",
            rich_help_panel=MACHINE,
        ),
    ] = "auto",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress bar.", rich_help_panel=MACHINE)
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print what came of each run.", rich_help_panel=MACHINE),
    ] = False,
    trust_code: Annotated[
        bool,
        typer.Option(
            "--trust-code",
            help="Run the code that a run folder brings, when it is resumed.",
            rich_help_panel=MACHINE,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the resolved spec and stop.", rich_help_panel=COMMON),
    ] = False,
) -> None:
    """Train a cohort of seeds as one stacked program.

    All seeds train together, and each is exactly what it would be alone. The run folder holds the
    resolved spec, a log, and the last and best weights of each seed. The same command twice trains
    once.
    """
    names = [name for text in model or [] for name in words(text)]
    settings["model"] = with_own(settings["model"])
    grid = _seeds(seeds, task_seeds, model_seeds)
    if grid is not None:
        settings["train"]["seeds"] = grid
    settings["train"] |= _named_numbers(remedy or (), rate or ())
    file, dataset = read_file(spec), _open_data(data)
    if dataset is not None:  # what it was made from, unless file or flags ask for something else
        file = {**file, "data": {**to_dict(dataset.spec), **file.get("data", {})}}
    if resume and not (spec or names) and (kept := _kept(out)):
        requests = [_again(folder, settings, trust_code=trust_code) for folder in kept]
        if kept != [out] and not quiet:
            stderr().print(
                f"Continuing the runs that had begun below {out}; repeat --model for others.",
                markup=False,
                highlight=False,
            )
    else:
        _refuse_contradictions(names, settings["model"])
        requests = plan(merge(file, settings), names, out)
    if dry_run:
        typer.echo(resolved(requests[0].spec), nl=False)  # as it is: a console would break lines
        return
    records = train_all(
        requests, device=device, engine=engine, resume=resume, dataset=dataset, quiet=quiet
    )
    if as_json:
        typer.echo(_as_json(requests, records))
    check_finite(requests, records)


train_command.__doc__ = with_examples(train_command, EXAMPLES)


def _named_numbers(remedies: Sequence[str], rates: Sequence[str]) -> dict[str, Any]:
    """Return the settings that the flags for remedies and rates stand for."""
    terms = [_pair("--remedy", text, 0.01) for text in remedies]
    factors = [_pair("--rate", text) for text in rates]
    lists = {
        "remedies": [{"kind": name, "coefficient": number} for name, number in terms],
        "rates": [{"parameters": name, "factor": number} for name, number in factors],
    }
    return {name: values for name, values in lists.items() if values}


def _pair(flag: str, text: str, usual: float | None = None) -> tuple[str, float]:
    """Return the name and the number of a flag like ``balance=0.1``.

    >>> _pair("--remedy", "balance=0.1"), _pair("--remedy", "balance", 0.01)
    (('balance', 0.1), ('balance', 0.01))
    """
    name, given, number = text.partition("=")
    if not given and usual is not None:
        return name, usual
    try:
        return name, float(number)
    except ValueError:
        raise SpecError(
            f"{flag} {text}: expected a name and a number, as {flag} {name}=0.1"
        ) from None


def resolved(spec: RunSpec) -> str:
    """Return a specification as a file, and in comments what its regime stands for."""
    lines = [
        f"# phase-{number}: {said(phase)}" for number, (*_, phase) in enumerate(spec.stretches, 1)
    ]
    return to_toml(spec) + ("\n" + "\n".join(lines) + "\n" if spec.phases else "")


def _kept(out: Path) -> list[Path]:
    from modeval.train.records import find_runs

    return find_runs(out) if out.is_dir() else []


def _again(folder: Path, flags: Mapping[str, Mapping[str, Any]], *, trust_code: bool) -> RunRequest:
    """Return the run that a folder holds; flags that say something else make it another run."""
    from modeval.train.files import take_code
    from modeval.train.records import SPEC

    if trust_code:
        take_code(folder)
    return RunRequest(from_dict(RunSpec, merge(read_file(folder / SPEC), flags)), folder)


def _refuse_contradictions(names: Sequence[str], flags: Mapping[str, Any]) -> None:
    """Refuse a flag that says something else than the name of a model stands for."""
    for name in names:
        known = contradictions(name, flags) if name in BY_NAME else {}
        for setting, (value, given) in known.items():
            raise SpecError(
                f"--model {name} stands for {setting} {value}, and {flag_of(setting)} says "
                f"{given}. Drop one of the two."
            )


def plan(values: Mapping[str, Any], names: list[str], out: Path) -> list[RunRequest]:
    """Resolve specifications and folders: a name stands for choices on the axes of the model."""
    settings = dict(values.get("model", {}))
    if not names and settings.get("scorer"):
        named = {"name": _name_of(settings), **values}
        return [RunRequest(from_dict(RunSpec, named), out)]  # a spec file says it all
    usual = str(values.get("name") or usual_model(values.get("train", {})))
    wanted = list(PAPER) if names == ["all"] else names or [usual]
    for name in wanted:
        if name not in BY_NAME and not is_code(name):
            raise SpecError(
                f"--model {name}: expected one of {', '.join(BY_NAME)}, all for the four of the "
                f"paper, or path/to/file.py:ClassName for your own.{suggestion(name, NAMES)}"
            )
    if settings.pop("scorer", None) == "none":
        settings.pop("modules", None)  # the single module of a Monolithic in the spec file
    requests = []
    for name in wanted:
        if is_code(name):
            requests.append(_own(name, values, settings, out, several=len(wanted) > 1))
            continue
        model, training = choices_named(name, settings, values.get("train", {}))
        if settings.get("modules") and (name != "monolithic" or len(wanted) == 1):
            model["modules"] = settings["modules"]
        spec = from_dict(RunSpec, {**values, "name": name, "model": model, "train": training})
        requests.append(RunRequest(spec, out if len(wanted) == 1 else out / name))
    return requests


def _own(
    code: str, values: Mapping[str, Any], settings: Mapping[str, Any], out: Path, *, several: bool
) -> RunRequest:
    """Return the run of a model that a file of the user's defines, which names its folder."""
    name = name_of(code.rpartition(":")[2])
    model = {**settings, "own": {"code": code}}
    spec = from_dict(RunSpec, {**values, "name": name, "model": model})
    return RunRequest(spec, out / name if several else out)


def usual_model(training: Mapping[str, Any]) -> str:
    """Return the model that a regime is usually meant for.

    >>> usual_model({"regime": {"kind": "packnet"}}), usual_model({})
    ('packnet', 'modular')
    """
    kind = kind_of(training.get("regime", "joint"))
    regimes = choices_of(Regime)
    return str(regimes[kind].model) if kind in regimes else "modular"  # type: ignore[attr-defined]


def _name_of(settings: Mapping[str, Any]) -> str:
    """Return the name of the model that the settings of a spec file make."""
    for name, choices in MODELS.items():
        if choices["scorer"] == settings["scorer"]:
            return name
    return "modular"


def train_all(
    requests: list[RunRequest],
    *,
    device: str = "auto",
    engine: str = "auto",
    resume: bool = False,
    dataset: "Dataset | None" = None,
    quiet: bool = False,
) -> list["RunRecord"]:
    """Train each request in turn, with a progress bar; runs that are complete are left alone."""
    from modeval.data import require
    from modeval.train.records import is_run, read_record

    for request in requests:
        if dataset is not None:
            require(dataset, request.spec.data, [task for task, _ in request.spec.train.seeds])
    machine = _Machine(choose_device(device), engine, dataset)
    several = len(requests) > 1
    records: list["RunRecord"] = []
    with progress_bar(quiet=quiet) as bar:
        for request in requests:
            before = read_record(request.folder) if is_run(request.folder) else None
            going_on = resume and (before is not None or not several)
            record = _train_one(request, machine, bar, resume=going_on)
            records.append(record)
            if not quiet:
                done = before is not None and before.status == "complete" and before == record
                bar.console.print(
                    _complete(request.folder) if done else _written(request.folder, record),
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
    return records


def _written(folder: Path, record: "RunRecord") -> str:
    models = len(record.diverged)
    return f"Wrote {folder} ({'1 model' if models == 1 else f'{models} models'})."


def _complete(folder: Path) -> str:
    return f"{folder} is complete already: nothing was trained. Score it: modeval score {folder}"


def check_finite(requests: list[RunRequest], records: list["RunRecord"]) -> None:
    """Raise an error that names the seeds whose loss stopped being finite, if there are any."""
    lost = [
        f"{request.folder}: seed (task {task}, model {model}) diverged by step {step}"
        for request, record in zip(requests, records, strict=True)
        for (task, model), step in zip(_seeds_of(request), record.diverged, strict=True)
        if step is not None
    ]
    if lost:
        raise RunError(
            "\n".join(lost) + "\nTheir loss is not finite; the other seeds are trained and saved, "
            "and modeval score marks these. Use a smaller --learning-rate, or --clip 1."
        )


def _seeds_of(request: RunRequest) -> tuple[tuple[int, int], ...]:
    """Return the seeds of a run as its folder says: a resumed one may have more than asked for."""
    from modeval.train.records import read_run

    return read_run(request.folder).train.seeds


def _as_json(requests: list[RunRequest], records: list["RunRecord"]) -> str:
    """Return what came of each run, as run.json says it, beside its folder and its seeds."""
    runs = [
        {"folder": str(request.folder), "name": request.spec.name, **asdict(record)}
        | {"seeds": [dict(zip(("task", "model"), s, strict=True)) for s in _seeds_of(request)]}
        for request, record in zip(requests, records, strict=True)
    ]
    return json.dumps(runs, indent=2)


def _train_one(
    request: RunRequest, machine: _Machine, bar: "ProgressBar", *, resume: bool
) -> "RunRecord":
    from modeval.train.loop import Progress, train

    title = title_of(request.spec.model)
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
        if progress.part and not bar.disable and progress.part not in told:
            told.add(progress.part)
            bar.console.print(f"{title}: {progress.part}.", highlight=False, markup=False)
        lost = f", {progress.diverged} diverged" if progress.diverged else ""
        bar.update(
            task,
            completed=progress.step,
            note=f"loss {progress.loss:.4f}, {progress.models_per_second:,.0f} models x steps/s "
            f"({progress.engine}){lost}",
        )

    record = train(
        request.spec,
        request.folder,
        device=machine.device,
        engine=machine.engine,
        resume=resume,
        dataset=machine.dataset,
        watch=watch,
    )
    bar.update(task, total=record.step, completed=record.step)
    return record


def _open_data(folder: Path | None) -> "Dataset | None":
    if folder is None:
        return None
    from modeval.data import open_dataset

    return open_dataset(folder)


def _seeds(total: int | None, tasks: int | None, models: int | None) -> Any:
    """Return the pairs that the three seed flags stand for, or None when none was given."""
    if total is None and tasks is None and models is None:
        return None
    if total is None:
        return [list(pair) for pair in seed_grid(tasks or 1, models or 1)]
    fastest = tasks or (total // models if models else min(total, 5))
    if models is not None and fastest * models != total:
        raise SpecError(
            f"--seeds {total} is not --task-seeds {fastest} x --model-seeds {models}. Give two of "
            f"the three, or --seeds {fastest * models}."
        )
    return [list(pair) for pair in seed_grid(fastest, -(-total // fastest))[:total]]
