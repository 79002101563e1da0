"""``modeval generate``: write a data set whose rules are known."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from modeval.cli.flags import COMMON, Given, Section, completing, one_of, with_settings
from modeval.cli.options import merge, read_file, with_examples
from modeval.cli.output import progress_bar, stderr, stdout
from modeval.errors import DataError, SpecError
from modeval.spec import DataSpec, TrainSpec, differences, from_dict, to_dict

if TYPE_CHECKING:
    from modeval.data import Dataset

Storage = Literal["safetensors", "parquet"]

TASK, FILES = "Task", "Files"
TASK_SEEDS = 5

EXAMPLES = """
[bold]Examples[/]

  Ten thousand samples of each of five tasks with four linear rules:
  [cyan]modeval generate data/train[/]

  Other samples of the same tasks, to test on, and a shifted version of them:
  [cyan]modeval generate data/test --data-seed 1[/]
  [cyan]modeval generate data/shifted --data-seed 1 --scale 2[/]

  Search among positions, and longer sequences than in training:
  [cyan]modeval generate data/sets --task sets --search product[/]
  [cyan]modeval generate data/long --task sets --search product --length 30[/]

  The task of a spec file as a table for other programs:
  [cyan]modeval generate data/table --spec spec.toml --format parquet[/]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRequest:
    """What to write, and where.

    Attributes:
        out: folder to write.
        data: family of tasks.
        task_seeds: tasks to draw.
        samples: samples of each task.
        data_seed: seed of the samples.
        shard_size: samples of each task in a shard; 0 to choose it.
        storage: format of the shards.
        force: replace an earlier data set.
    """

    out: Path
    data: DataSpec
    task_seeds: tuple[int, ...]
    samples: int = 10_000
    data_seed: int = 0
    shard_size: int = 0
    storage: Storage = "safetensors"
    force: bool = False


@with_settings(Section("data", DataSpec, TASK))
def generate_command(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    *,
    settings: Given,
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with a section data, as for train; flags win.",
            rich_help_panel=COMMON,
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(metavar="SAMPLES", help="Samples of each task.", rich_help_panel=COMMON)
    ] = 10_000,
    task_seeds: Annotated[
        int | None,
        typer.Option(
            metavar="TASKS",
            help=f"Number of tasks, with seeds 0, 1, ...; those of the spec file, or {TASK_SEEDS}.",
            rich_help_panel=COMMON,
        ),
    ] = None,
    data_seed: Annotated[
        int,
        typer.Option(
            metavar="SEED",
            help="Another seed gives other samples of each task.",
            rich_help_panel=COMMON,
        ),
    ] = 0,
    storage: Annotated[
        str,
        typer.Option(
            "--format",
            parser=one_of("--format", get_args(Storage)),
            metavar="|".join(get_args(Storage)),
            autocompletion=completing(get_args(Storage)),
            help="Parquet is for other programs.",
            rich_help_panel=FILES,
        ),
    ] = "safetensors",
    shard_size: Annotated[
        int,
        typer.Option(
            metavar="SAMPLES",
            help="Samples of each task in one file; 0 for files of about 64 MB.",
            rich_help_panel=FILES,
        ),
    ] = 0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace an earlier data set.", rich_help_panel=FILES),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=FILES)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress bar.", rich_help_panel=FILES)
    ] = False,
) -> None:
    """Write a data set whose ground-truth rules are known.

    The folder holds samples and dataset.json with the whole recipe: the same recipe gives the
    same samples again. Train and score take it in place of the endless stream. The same command
    twice leaves the data set as it is.
    """
    values = merge(read_file(spec), settings)
    request = DataRequest(
        out=out,
        data=from_dict(DataSpec, values["data"], where="data."),
        task_seeds=choose_tasks(values, task_seeds),
        samples=samples,
        data_seed=data_seed,
        shard_size=shard_size,
        storage=cast("Storage", storage),
        force=force,
    )
    made = None if force else already(request)
    if made is None:
        with progress_bar(quiet=quiet or as_json) as bar:
            job = bar.add_task("Writing samples", total=samples, note="")
            made = generate(request, lambda done: bar.update(job, completed=done))
    elif not quiet:
        stderr().print(
            f"{out} holds this data set already; nothing was written.",
            highlight=False,
            markup=False,
        )
    if as_json:
        typer.echo(json.dumps(summary(made)))
    else:
        stdout().print(describe(made), highlight=False, markup=False, soft_wrap=True)


generate_command.__doc__ = with_examples(generate_command, EXAMPLES)


def generate(request: DataRequest, progress: Callable[[int], None] = lambda _: None) -> "Dataset":
    """Write what was requested.

    Args:
        request: what to write, and where.
        progress: called with the samples of each task written so far.
    """
    from modeval.data import write_dataset

    return write_dataset(
        request.out,
        request.data,
        request.task_seeds,
        samples=request.samples,
        data_seed=request.data_seed,
        shard_size=request.shard_size,
        storage=request.storage,
        force=request.force,
        progress=progress,
    )


def already(request: DataRequest) -> "Dataset | None":
    """Return the data set that a folder holds if it is the one requested; None if it holds none.

    Raises:
        DataError: it holds another one, and each difference is named.
    """
    from modeval.data import is_dataset, open_dataset

    if not is_dataset(request.out):
        return None
    held = open_dataset(request.out)
    settings = differences(DataSpec, to_dict(request.data), to_dict(held.spec))
    settings |= {
        name: (asked, its)
        for name, asked, its in (
            ("task seeds", list(request.task_seeds), list(held.task_seeds)),
            ("data_seed", request.data_seed, held.data_seed),
            ("samples", request.samples, held.samples),
            ("format", request.storage, _storage_of(request.out)),
        )
        if asked != its
    }
    largest = max(shard.rule.shape[1] for shard in held.shards)
    if request.shard_size and largest != min(request.shard_size, request.samples):
        settings["shard_size"] = (request.shard_size, largest)
    if settings:
        listed = "; ".join(
            f"{name} is {its} there and {asked} here" for name, (asked, its) in settings.items()
        )
        raise DataError(
            f"{request.out} holds another data set: {listed}. Give another folder, or --force to "
            "replace it."
        )
    return held


def _storage_of(folder: Path) -> str:
    return next(path.suffix for path in sorted(folder.glob("part-*"))).removeprefix(".")


def choose_tasks(values: Mapping[str, Any], count: int | None) -> tuple[int, ...]:
    """Return the task seeds that a flag counts, else those that a spec file trains on."""
    train = values.get("train", {})
    if count is None and isinstance(train, Mapping) and "seeds" in train:
        pairs = from_dict(TrainSpec, {"seeds": train["seeds"]}, where="train.").seeds
        return tuple(dict.fromkeys(task for task, _ in pairs))
    if count is not None and count < 1:
        raise SpecError(f"--task-seeds {count}: expected 1 or more.")
    return tuple(range(TASK_SEEDS if count is None else count))


def summary(dataset: "Dataset") -> dict[str, Any]:
    """Return what was written as plain values."""
    return {
        "folder": str(dataset.folder),
        "digest": dataset.digest,
        "data": asdict(dataset.spec),
        "task_seeds": list(dataset.task_seeds),
        "data_seed": dataset.data_seed,
        "samples": dataset.samples,
        "shards": len(dataset.shards),
    }


def describe(dataset: "Dataset") -> str:
    """Say in words what was written, and what to do with it."""
    tasks, shards = len(dataset.task_seeds), len(dataset.shards)
    return (
        f"Wrote {dataset.folder}: {dataset.samples:,} samples of each of {tasks} "
        f"task{'s' * (tasks != 1)} ({dataset.spec.task} {dataset.spec.objective}, "
        f"{dataset.spec.rules} rules) in {shards} shard{'s' * (shards != 1)}.\n"
        f"Digest: {dataset.digest}\n"
        f"Train on it: modeval train --data {dataset.folder} --out runs/{dataset.folder.name}"
    )
