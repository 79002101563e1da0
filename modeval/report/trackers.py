"""Scorecards for trackers of experiments, each through its own library, and as OpenMetrics text."""

import io
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from modeval.atomic import Fault, new_folders, write_bytes
from modeval.errors import DependencyError, ModevalError, ScorecardError
from modeval.score.chosen import distinct_title
from modeval.score.scorecard import ModelRecord, Score, Scorecard
from modeval.text import visible

UNWRITTEN = Fault(
    ScorecardError, "Nothing was left there; free some space or name another folder with --out."
)
BATCH = 500
"""Metrics in one request to MLflow, whose servers take a thousand."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number as trackers take it.

    Attributes:
        name: path of the number, as ``tiny-moe/layer_3/homogeneity``.
        value: the number, finite.
        labels: what the name is made of, for OpenMetrics.
    """

    name: str
    value: float
    labels: tuple[tuple[str, str], ...]


def scalars(card: Scorecard) -> Iterator[Scalar]:
    """Return the scores over seeds, of each layer and over layers, with the ends of intervals.

    A score without a value is left out: a tracker would draw it as zero.
    """
    models = {model.id: model for model in card.models}
    for score in card.scores:
        if score.value is None or score.seed is not None:
            continue
        record = models[score.model]
        labels = (
            ("model", distinct_title(card, record)),
            ("layer", _layer(record, score)),
            ("metric", score.metric),
        )
        name = "/".join(part for _, part in labels if part)
        yield Scalar(name, score.value, labels)
        for end, value in (("low", score.low), ("high", score.high)):
            if value is not None:
                yield Scalar(f"{name}/{end}", value, (*labels, ("end", end)))


def _layer(record: ModelRecord, score: Score) -> str:
    if score.over is not None:
        return f"{score.over} of layers"
    if score.layer is None:
        return ""
    return record.layers[score.layer] if record.layers else str(score.layer)


# --- trackers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tracker:
    """Something that takes scalars.

    Attributes:
        title: its name for people.
        package: what must be installed.
        where: what ``--out`` means to it.
        log: sends the scalars.
        manual: what to read, or set, where it refuses.
    """

    title: str
    package: str
    where: str
    log: Callable[[list[Scalar], str, int], None]
    manual: str


def log(card: Scorecard, to: str, *, where: str, step: int) -> int:
    """Send a scorecard to a tracker and return how many numbers it got.

    Args:
        card: the scorecard.
        to: a key of :data:`TRACKERS`.
        where: a folder, file, project or experiment, as the tracker has it.
        step: place of these numbers on the tracker's axis of time.

    Raises:
        DependencyError: its library is not installed.
        ScorecardError: the scorecard has no number to send, or the tracker refused them.
    """
    tracker = TRACKERS[to]
    if tracker.package and find_spec(tracker.package) is None:
        raise DependencyError(
            f"{tracker.title} needs its own library. Install it with: pip install {tracker.package}"
        )
    values = list(scalars(card))
    if not values:
        raise ScorecardError("The scorecard has no score over seeds to log. Score again.")
    try:
        tracker.log(values, where, step)
    except ModevalError:
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ScorecardError(
            f"{tracker.title} did not take the numbers: {said.rstrip('.')}. It says where it keeps "
            f"them and how to sign in: {tracker.manual}"
        ) from error
    return len(values)


def _tensorboard(values: list[Scalar], where: str, step: int) -> None:
    """Write a file of events as a whole: TensorBoard's own writer is a thread that may die."""
    from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415 - optional
    from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415
    from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415

    now, content = time.time(), io.BytesIO()
    writer = RecordWriter(content)
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for scalar in values:
        summary = Summary(value=[Summary.Value(tag=scalar.name, simple_value=scalar.value)])
        writer.write(Event(wall_time=now, step=step, summary=summary).SerializeToString())
    name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.{step}"
    with new_folders(Path(where)):
        write_bytes(Path(where) / name, content.getvalue(), UNWRITTEN)


def _wandb(values: list[Scalar], where: str, step: int) -> None:
    import wandb  # noqa: PLC0415 - optional

    with wandb.init(project=where) as run:
        run.log({scalar.name: scalar.value for scalar in values}, step=step)


def _mlflow(values: list[Scalar], where: str, step: int) -> None:
    import mlflow  # noqa: PLC0415 - optional

    mlflow.set_experiment(where)
    named = {_ascii(scalar.name): scalar.value for scalar in values}
    with mlflow.start_run():
        for part in batched(named.items(), BATCH):
            mlflow.log_metrics(dict(part), step=step)


def batched(items: Iterable[tuple[str, float]], size: int) -> Iterator[list[tuple[str, float]]]:
    """Yield so many at a time.

    >>> [len(part) for part in batched([("a", 1.0)] * 5, 2)]
    [2, 2, 1]
    """
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def _ascii(name: str) -> str:
    """Return a name of the characters that MLflow takes."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-./ ") else "_" for c in name)


TRACKERS: dict[str, Tracker] = {
    "tensorboard": Tracker(
        "TensorBoard",
        "tensorboard",
        "folder of event files",
        _tensorboard,
        "name a folder that can be written with --out.",
    ),
    "wandb": Tracker(
        "Weights & Biases",
        "wandb",
        "project",
        _wandb,
        "wandb login, or WANDB_MODE=offline in the environment.",
    ),
    "mlflow": Tracker(
        "MLflow",
        "mlflow",
        "experiment",
        _mlflow,
        "MLFLOW_TRACKING_URI=sqlite:///mlflow.db in the environment, for one.",
    ),
}
"""Trackers by the name that ``modeval log --to`` takes."""


# --- OpenMetrics ---------------------------------------------------------------------------------


def open_metrics(card: Scorecard) -> str:
    """Return the scores as OpenMetrics text, which Prometheus and others scrape.

    >>> print(open_metrics(Scorecard()), end="")
    # TYPE modeval_score gauge
    # HELP modeval_score Scores of modeval, over seeds.
    # EOF
    """
    lines = ["# TYPE modeval_score gauge", "# HELP modeval_score Scores of modeval, over seeds."]
    for scalar in scalars(card):
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in scalar.labels if value)
        lines.append(f"modeval_score{{{labels}}} {scalar.value!r}")
    return "\n".join([*lines, "# EOF", ""])


def _escaped(value: str) -> str:
    return visible(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
