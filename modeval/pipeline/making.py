"""Making data sets, trained cohorts, and traces out of what other programs wrote."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from modeval.data import Dataset, open_dataset, require, write_dataset
from modeval.pipeline.machine import choose_device
from modeval.spec import DataSpec, Engine, ModelSpec, RunSpec, TrainSpec
from modeval.trace.importers.format import Options
from modeval.trace.importers.import_files import Imported, import_source
from modeval.train.loop import Progress
from modeval.train.loop import train as train_run
from modeval.train.records import RunRecord


def nobody(_progress: Any) -> None:
    """Tell nobody how far it is."""


def generate(
    out: str | Path,
    data: DataSpec | None = None,
    *,
    task_seeds: Sequence[int] = (0,),
    samples: int = 10_000,
    data_seed: int = 0,
    shard_size: int = 0,
    storage: Literal["safetensors", "parquet"] = "safetensors",
    force: bool = False,
    watch: Callable[[int], None] = nobody,
) -> Dataset:
    """Write samples of tasks whose rules are known, as a folder.

    Args:
        out: folder to write.
        data: family of tasks; the first task of the paper when absent.
        task_seeds: tasks to draw.
        samples: samples of each task.
        data_seed: another seed gives other samples of each task.
        shard_size: samples of each task in a shard; 0 to choose it.
        storage: format of the shards.
        force: whether an earlier data set there is replaced.
        watch: is told the samples of each task that are written.

    Raises:
        DataError: the folder is in use, or cannot be written.

    >>> import tempfile, modeval
    >>> from modeval.spec import DataSpec
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = modeval.generate(folder + "/data", DataSpec(rules=4), samples=100)
    >>> made.samples, made.spec.rules
    (100, 4)
    """
    return write_dataset(
        Path(out),
        data or DataSpec(),
        tuple(task_seeds),
        samples=samples,
        data_seed=data_seed,
        shard_size=shard_size,
        storage=storage,
        force=force,
        progress=watch,
    )


def train(
    out: str | Path,
    *,
    data: DataSpec | None = None,
    model: ModelSpec | None = None,
    training: TrainSpec | None = None,
    spec: RunSpec | None = None,
    dataset: str | Path | None = None,
    device: str = "auto",
    engine: Engine = "auto",
    resume: bool = False,
    watch: Callable[[Progress], None] = nobody,
) -> RunRecord:
    """Train a cohort of seeds of one model as one stacked program, into a run folder.

    Args:
        out: run folder to write.
        data: the task; the first of the paper when absent.
        model: the model; Modular when absent.
        training: steps, rates and seeds.
        spec: all three at once, in their place.
        dataset: folder of ``generate`` to train on in place of fresh samples.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        engine: ``auto``, ``fused`` or ``eager``.
        resume: whether to go on with what is in the folder.
        watch: is told how far it is.

    Raises:
        RunError: the folder is in use, or cannot be gone on with.

    >>> import tempfile, modeval
    >>> from modeval.spec import DataSpec, TrainSpec
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = modeval.train(
    ...         folder + "/run", data=DataSpec(rules=2), training=TrainSpec(steps=2), device="cpu"
    ...     )
    >>> run.status
    'complete'
    """
    whole = spec or RunSpec(
        data=data or DataSpec(), model=model or ModelSpec(), train=training or TrainSpec()
    )
    held = None if dataset is None else open_dataset(Path(dataset))
    if held is not None:
        require(held, whole.data, [task for task, _ in whole.train.seeds])
    return train_run(
        whole,
        Path(out),
        device=choose_device(device),
        engine=engine,
        resume=resume,
        dataset=held,
        watch=watch,
    )


def import_trace(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - what the command calls it
    options: Options | None = None,
) -> Imported:
    """Read the routing that another program wrote, as a trace or as counts.

    Args:
        sources: files, or folders of files, of one format.
        out: new folder, ``NAME.trace``; sources that hold only counts become
            ``NAME.counts.safetensors``.
        format: name of the format; detected when absent. ``modeval import --list`` names them.
        options: what the files do not say: labels, numbers of modules and choices.

    Raises:
        TraceError: with the file, the place in it and the reason. Nothing was written then.

    >>> import tempfile, modeval
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = modeval.import_trace("fixtures/routing.csv", folder + "/a.trace")
    >>> made.format
    'csv'
    """
    paths = [sources] if isinstance(sources, str | Path) else [*sources]
    return import_source([Path(path) for path in paths], Path(out), name=format, options=options)
