"""Training a cohort: draw, step, validate, keep the best of each seed, checkpoint, resume.

Nothing of a step waits for the device: losses are summed where they arise and read at validations
only. A checkpoint may be taken after any step, because the data of a step are a function of its
number (:mod:`modeval.train.stream`).
"""

import contextlib
import itertools
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

import torch
from torch import Tensor

from modeval.data import Dataset
from modeval.data import batches as dataset_batches
from modeval.errors import RunError, StoppedError
from modeval.nn import Network, create
from modeval.nn.own.resolve import resolved
from modeval.spec import Engine, Phase, RunSpec, TrainSpec, run_differences
from modeval.spec.phases import replayed
from modeval.text import brief
from modeval.train import extend, files, records
from modeval.train.actions import Scene, act, check_action, other_seed
from modeval.train.learners import check_rates, learning
from modeval.train.memory import Memory, begin, read_marks, restore, state_of
from modeval.train.parts import Part, parts, telling, with_seeds
from modeval.train.records import RunRecord
from modeval.train.step import Stepper
from modeval.train.stream import (
    VALIDATION_SAMPLES,
    Stream,
    batches,
    uniform_numbers,
    validation_batch,
)
from modeval.train.validation import churn, validate
from modeval.types import Batch, Noise


@dataclass(frozen=True, slots=True)
class Progress:
    """What a watcher is told now and then.

    Attributes:
        step: steps done, of ``steps``.
        loss: mean training loss since the last report, over the seeds that are finite.
        models_per_second: models x steps per second since this process began to train.
        engine: how steps are computed.
        engine_note: why not by a faster engine; empty when there is nothing to say.
        diverged: seeds whose loss is no longer finite.
        part: which seeds these are, where memory does not hold all of them at once.
    """

    step: int
    steps: int
    loss: float
    models_per_second: float
    engine: str
    engine_note: str
    diverged: int
    part: str = ""


@dataclass(frozen=True, slots=True)
class _Session:
    """A run in progress: what was asked for, where it is kept, and what changes with each step."""

    spec: RunSpec
    folder: Path
    record: RunRecord
    stepper: Stepper
    memory: Memory
    stream: Stream
    watch: Callable[[Progress], None]


class _Options(TypedDict):
    """How a run is trained, whichever run it is."""

    device: torch.device
    engine: Engine
    dataset: Dataset | None
    watch: Callable[[Progress], None]


def learning_rate(train: TrainSpec, step: int) -> float:
    """Return the rate of step ``step`` (the first is 0)."""
    if train.schedule == "steps":
        return train.learning_rate * 0.5 ** sum(step >= milestone for milestone in train.milestones)
    if train.schedule == "cosine":
        turn = torch.pi * step / train.steps
        return train.learning_rate * 0.5 * (1 + float(torch.cos(torch.tensor(turn))))
    return train.learning_rate


def train(
    spec: RunSpec,
    folder: Path,
    *,
    device: torch.device,
    engine: Engine = "auto",
    resume: bool = False,
    dataset: Dataset | None = None,
    watch: Callable[[Progress], None] = lambda _progress: None,
) -> RunRecord:
    """Train a cohort into a run folder, from the start or from its last checkpoint.

    With ``resume`` a run may be asked for more steps or more seeds than it was begun with; see
    :mod:`modeval.train.extend`. A run that is complete is left as it is.

    Raises:
        RunError: when the folder belongs to another run, or cannot be written.
    """
    options: _Options = {"device": device, "engine": engine, "dataset": dataset, "watch": watch}
    spec = replace(spec, model=resolved(spec.data, spec.model))
    with files.alone(folder, resume=resume):
        if not (resume and records.is_run(folder)):
            return _train_parts(spec, folder, resume=resume, **options)
        held = records.read_run(folder)
        spec = extend.adopt(spec, held)
        if spec == held:  # go on with whatever was begun
            spec = extend.pending(folder) or spec
        extend.finish_adding(folder)
        held = records.read_run(folder)
        new = extend.missing_seeds(spec, held, folder)
        before = with_seeds(spec, held.train.seeds) if new else spec
        record = _train_into(before, folder, resume=True, **options)
        for part in parts(spec, new, options["device"], VALIDATION_SAMPLES):
            record = _add(spec, folder, part, record, **options)
        return record


def _train_parts(
    spec: RunSpec, folder: Path, *, resume: bool, **options: Unpack[_Options]
) -> RunRecord:
    """Train a run from its start, in as many parts as memory needs."""
    coming = parts(spec, spec.train.seeds, options["device"], VALIDATION_SAMPLES)
    first = next(coming)
    begun = _open(spec, folder, resume=resume, dataset=options["dataset"])
    if begun is not None or len(first.seeds) == len(spec.train.seeds):
        return _train_into(spec, folder, resume=resume, **options)
    extend.begin_adding(spec, folder)
    some, watch = with_seeds(spec, first.seeds), options["watch"]
    record = _train_into(some, folder, resume=resume, **options | {"watch": telling(watch, first)})
    for part in coming:
        record = _add(spec, folder, part, record, **options)
    return record


def _train_into(
    spec: RunSpec, folder: Path, *, resume: bool, **options: Unpack[_Options]
) -> RunRecord:
    record = _open(spec, folder, resume=resume, dataset=options["dataset"])
    if record is not None and record.status == "complete" and files.is_whole(folder, record):
        return record
    return _train(spec, folder, record, **options)


def _add(
    spec: RunSpec, folder: Path, part: Part, record: RunRecord, **options: Unpack[_Options]
) -> RunRecord:
    """Train seeds that a run does not have yet, by its engine, and put them among its own."""
    options["watch"] = telling(options["watch"], part)
    extend.begin_adding(spec, folder)
    below = folder / files.ADDING
    if options["engine"] == "auto":
        options["engine"] = cast("Engine", record.engine)
    train(with_seeds(spec, part.seeds), below, resume=records.is_run(below), **options)
    return extend.join(folder)


def _train(
    spec: RunSpec,
    folder: Path,
    record: RunRecord | None,
    *,
    device: torch.device,
    engine: Engine,
    dataset: Dataset | None,
    watch: Callable[[Progress], None],
) -> RunRecord:
    network = create(spec.data, spec.model, [model for _, model in spec.train.seeds]).to(device)
    stretches = [_Stretch(*each, number) for number, each in enumerate(spec.stretches)]
    _check_stretches(stretches, network, spec, engine, dataset)
    now = _stretch_of(stretches, folder, record)
    stored = record is not None and (folder / files.STATE).is_file()
    held = read_marks(folder, record, device) if stored and record is not None else {}
    if not stored:
        act(now.phase.before, _scene(network, held, spec, folder, now.number))
    stepper = _stepper(network, spec, engine, record, now.phase, held)
    if record is None:
        check_rates(network, [stretch.phase for stretch in stretches])
        record = _new_record(spec, stepper.engine, dataset)
        files.start_folder(folder, spec)
        files.write_record(folder, record)
    memory = restore(folder, record, stepper, device) if stored else begin(network, device, held)
    record = _on_engine(record, stepper.engine, memory.step)
    files.rewind_log(folder, memory.step)
    stream = now.stream(spec, device)
    session = _Session(spec, folder, record, stepper, memory, stream, watch)
    if memory.step:  # what a death within the last checkpoint left behind
        _checkpoint(session, again=True)
    with _interruptions() as interrupted:
        for stretch in stretches[now.number :]:
            if stretch is not now:
                network.turn()
                act(
                    stretch.phase.before,
                    _scene(network, memory.marks, spec, folder, stretch.number),
                )
                stepper = _stepper(network, spec, engine, None, stretch.phase, memory.marks)
                record = _on_engine(record, stepper.engine, memory.step)
                stream = stretch.stream(spec, device)
                session = replace(session, stepper=stepper, stream=stream, record=record)
            begin_step = memory.step if dataset is not None else memory.step - stretch.first
            source = _source(stream, dataset, begin_step)
            _run(session, source, stretch, interrupted)
            if memory.step < stretch.end:
                break
    if memory.step < spec.train.steps:
        _checkpoint(session)
        raise StoppedError(
            f"Stopped after step {memory.step} of {spec.train.steps}; nothing is lost. Repeat the "
            "command with --resume to go on."
        )
    done = replace(record, status="complete", step=memory.step, diverged=_diverged(memory.diverged))
    files.write_record(folder, done)
    return done


def _scene(
    network: Network, marks: dict[str, Tensor], spec: RunSpec, folder: Path, phase: int
) -> Scene:
    """Return what the actions of a phase work on."""
    where = next(network.parameters()).device
    models = [model for _, model in spec.train.seeds]

    def started(seeds: Sequence[int]) -> dict[str, Tensor]:
        fresh = create(spec.data, spec.model, seeds).to(where)
        return {name: value.detach() for name, value in fresh.named_parameters()}

    def values(phases: int) -> dict[str, Tensor]:
        if phases == 0:
            return started(models)
        stored = files.read_phase(folder, phases, records.read_record(folder))
        return {name: tensor.to(where) for name, tensor in stored.items()}

    return Scene(
        network=network,
        marks=marks,
        seeds=spec.train.seeds,
        phase=phase,
        values=values,
        redrawn=lambda: started([other_seed(model) for model in models]),
    )


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A phase in its place: its first step, the step after its last, and its number."""

    first: int
    end: int
    phase: Phase
    number: int

    def stream(self, spec: RunSpec, device: torch.device) -> Stream:
        """Return where the batches of the phase come from."""
        train, phase = spec.train, self.phase
        return Stream(
            spec.data,
            train.seeds,
            train.batch,
            device,
            phase=self.number,
            rules=phase.rules,
            replay=phase.replay,
            earlier=replayed(spec.phases, self.number) if phase.replay else (),
            buffer=phase.buffer,
        )


def _stretch_of(stretches: Sequence[_Stretch], folder: Path, record: RunRecord | None) -> _Stretch:
    """Return the phase of the last step that was done."""
    if record is None or len(stretches) == 1 or not (folder / files.STATE).is_file():
        return stretches[0]
    step = int(files.read_state(folder, record)["memory.step"])
    return next(each for each in stretches if step <= each.end)


def _check_stretches(
    stretches: Sequence[_Stretch],
    network: Network,
    spec: RunSpec,
    engine: Engine,
    dataset: Dataset | None,
) -> None:
    """Refuse, before anything is written, what a later phase could not do."""
    if dataset is not None and any(stretch.phase.rules for stretch in stretches):
        raise RunError(
            "A phase that draws some of the rules needs fresh samples, and --data gives a fixed "
            "order. Drop --data, or the rules of the phases."
        )
    masked = False
    for stretch in stretches:
        phase = stretch.phase
        masked = masked or any(action.masks for action in phase.before)
        if stretch.number:
            learning(network, phase.learns)
        if masked and engine == "fused":
            raise RunError(
                "engine = fused: the fused kernels train all parameters, and what is pruned is "
                "held. Use --engine auto."
            )
        if stretch.number and engine != "auto":
            _stepper(network, spec, engine, None, phase, {})
        masked = masked or any(action.masks for action in phase.after)
        for action in (*phase.before, *phase.after):
            check_action(action, network)


def _run(
    session: _Session,
    source: Iterator[Batch],
    stretch: _Stretch,
    interrupted: Callable[[], bool],
) -> None:
    """Train through one phase."""
    train, memory, stepper = session.spec.train, session.memory, session.stepper
    validation = validation_batch(session.stream, VALIDATION_SAMPLES)
    started, first = time.perf_counter(), memory.step
    report_every = max(1, min(50, session.spec.validate_every // 4))
    for batch, noise in zip(
        itertools.islice(source, stretch.end - memory.step),
        _noise(session, stretch),
        strict=False,
    ):
        rate = torch.tensor(learning_rate(train, memory.step), device=session.stream.device)
        memory.loss_sum += stepper.step(batch, rate, noise)
        memory.loss_count += 1
        memory.step += 1
        ends = memory.step == stretch.end
        due = memory.step % session.spec.validate_every == 0 or ends
        if memory.step % report_every == 0 or due:
            done = (memory.step - first) * len(train.seeds)
            session.watch(_progress(session, done / (time.perf_counter() - started)))
        if ends:
            _end(session, stretch)
        if due:
            _validate(session, validation)
            _checkpoint(session)
        if interrupted():
            return


def _end(session: _Session, stretch: _Stretch) -> None:
    """Do what a phase ends with, and keep its weights where there are several.

    They are written before the checkpoint: one that is there has them, whatever died in between.
    """
    spec, memory, network = session.spec, session.memory, session.stepper.network
    act(
        stretch.phase.after,
        _scene(network, memory.marks, spec, session.folder, stretch.number),
    )
    if len(spec.stretches) > 1:
        files.write_phase(
            session.folder, session.record, stretch.number + 1, memory.step, network.state_dict()
        )


def _noise(session: _Session, stretch: _Stretch) -> Iterator[Noise | None]:
    """Yield what chance each step takes; nothing for networks that take none."""
    columns, stream = session.stepper.network.chance, session.stream
    if columns < 0:
        yield from itertools.repeat(None)
    first, steps = session.memory.step, session.spec.train.steps
    numbers = uniform_numbers(stream, columns, start=first - stretch.first)
    for number, uniform in enumerate(numbers, first):
        yield Noise(uniform, torch.tensor(number / steps, device=stream.device))


@contextlib.contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C and let the step end; a second one stops at once."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may listen to signals
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: object) -> None:
        del frame
        noted.append(number)
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, previous)


def _progress(session: _Session, speed: float) -> Progress:
    memory = session.memory
    mean = (memory.loss_sum / max(memory.loss_count, 1)).nan_to_num(float("nan"), posinf=torch.nan)
    return Progress(
        step=memory.step,
        steps=session.spec.train.steps,
        loss=float(mean.nanmean()),
        models_per_second=speed,
        engine=session.stepper.engine,
        engine_note=session.stepper.engine_note,
        diverged=int((~mean.isfinite()).sum()),
    )


def _validate(session: _Session, validation: Batch) -> None:
    """Measure, keep the best of each seed, mark seeds that are lost, and write a line of log."""
    spec, stepper, memory = session.spec, session.stepper, session.memory
    found = validate(stepper.network, validation, spec.data.objective)
    training = memory.loss_sum / memory.loss_count
    lost = ~(found.loss.isfinite() & training.isfinite())
    memory.diverged = torch.where(lost & (memory.diverged < 0), memory.step, memory.diverged)
    judged = found.wrong if spec.train.best_by == "accuracy" else found.loss
    improved = (judged < memory.best_loss) & ~lost
    memory.best_loss = torch.where(improved, judged, memory.best_loss)
    for name, tensor in stepper.network.state_dict().items():
        mask = improved.view(-1, *[1] * (tensor.dim() - 1))
        memory.best[name] = torch.where(mask, tensor, memory.best[name])
    entry: dict[str, Any] = {
        "step": memory.step,
        "learning_rate": learning_rate(spec.train, memory.step - 1),
        "loss": _finite(training),
        "validation_loss": _finite(found.loss),
        "rule_loss": [_finite(row) for row in found.rule_loss],
    }
    entry |= {name: _finite(values) for name, values in found.routing.items()}
    if found.chosen is not None:
        if memory.chosen is not None:
            entry["churn"] = _finite(churn(found.chosen, memory.chosen.long()))
        memory.chosen = found.chosen.to(torch.int16)
    files.append_log(session.folder, entry)
    memory.loss_sum = torch.zeros_like(memory.loss_sum)
    memory.loss_count = 0


def _finite(values: Tensor) -> list[float | None]:
    """Return numbers for JSON: what is not finite becomes null."""
    return [float(value) if value.isfinite() else None for value in values.cpu()]


def _diverged(marks: Tensor) -> tuple[int | None, ...]:
    return tuple(int(mark) if mark >= 0 else None for mark in marks.cpu())


# --- beginning, checkpoint, resuming -------------------------------------------------------------


def _open(
    spec: RunSpec, folder: Path, *, resume: bool, dataset: Dataset | None
) -> RunRecord | None:
    """Return the record to continue, or None for a fresh start; refuse what would destroy a run."""
    if files.is_empty(folder):
        if resume:
            raise RunError(f"Nothing to resume at {folder}: there is no run. Drop --resume.")
        return None
    if not records.is_run(folder):
        raise RunError(
            f"{folder} exists and is not a run of modeval. Choose another --out, or empty it first."
        )
    record = records.read_record(folder)
    if record.data and dataset is None:
        raise RunError(
            f"{folder} was trained on a data set folder (digest {record.data}). Name it again with "
            "--data."
        )
    longer = _check_same(spec, folder, record, dataset, resume=resume)
    if longer:
        return extend.lengthen(spec, folder, record)
    if record.status == "complete":
        return record
    if not resume:
        raise RunError(
            f"{folder} holds this run, stopped at step {record.step}. Continue it with --resume, "
            "or choose another --out."
        )
    return record


def _check_same(
    spec: RunSpec, folder: Path, record: RunRecord, dataset: Dataset | None, *, resume: bool
) -> bool:
    """Refuse to go on with another run than the folder's; name each setting that differs.

    Returns:
        Whether it is the same run for more steps.
    """
    settings = run_differences(spec, records.read_run(folder))
    here, there = settings.get("train.steps", (0, 0))
    longer = resume and here > there
    if longer:
        del settings["train.steps"]
    differing = [
        f"{name} is {brief(its, 60)} there and {brief(mine, 60)} here"
        for name, (mine, its) in settings.items()
    ]
    if dataset is not None and dataset.digest != record.data:
        held = f"data {record.data}" if record.data else "the endless stream"
        differing.append(f"it was trained on {held}, not on data {dataset.digest}")
    if differing:
        more = {"train.steps", "train.seeds"}
        again = ", or add --resume for more" if settings.keys() <= more and not resume else ""
        raise RunError(
            f"{folder} holds another run: {'; '.join(differing)}. Choose another --out, or repeat "
            f"the settings in its {records.SPEC}{again}."
        )
    return longer


def _digest(spec: RunSpec, dataset: Dataset | None) -> str:
    return records.digest_on(spec.digest, "" if dataset is None else dataset.digest)


def _new_record(spec: RunSpec, engine: str, dataset: Dataset | None) -> RunRecord:
    return RunRecord(
        digest=_digest(spec, dataset),
        status="running",
        step=0,
        engine=engine,
        data="" if dataset is None else dataset.digest,
        diverged=(None,) * len(spec.train.seeds),
        versions={"torch": str(torch.__version__), "python": platform.python_version()},
    )


def _checkpoint(session: _Session, *, again: bool = False) -> None:
    """Write what resuming needs in one piece; then what readers want, made from it."""
    state = state_of(session.stepper, session.memory)
    marks = _diverged(session.memory.diverged)
    record = replace(session.record, status="running", step=session.memory.step, diverged=marks)
    files.write_checkpoint(session.folder, record, state, again=again)


def _stepper(  # noqa: PLR0917 - what a step is made of
    network: Network,
    spec: RunSpec,
    engine: Engine,
    record: RunRecord | None,
    phase: Phase,
    held: Mapping[str, Tensor],
) -> Stepper:
    """Return what computes the steps: by the engine asked for, else by the one the run began with.

    A run goes on where that one cannot be had: its numbers then differ in their last digits.
    """

    def by(name: Engine) -> Stepper:
        return Stepper(
            network, spec.data.objective, clip=spec.clip, engine=name, phase=phase, held=held
        )

    if record is None or engine not in ("auto", record.engine):
        return by(engine)
    try:
        return by(cast("Engine", record.engine))
    except RunError as error:
        stepper = by("auto")
        stepper.engine_note = f"the run began on {record.engine}, which cannot be had here: {error}"
        return stepper


def _on_engine(record: RunRecord, engine: str, step: int) -> RunRecord:
    """Note from which step on another engine computes."""
    if record.engine == engine:
        return record
    before = record.engines or ((0, record.engine),)
    return replace(record, engine=engine, engines=(*before, (step, engine)))


def _source(stream: Stream, dataset: Dataset | None, start: int) -> Iterator[Batch]:
    if dataset is None:
        return batches(stream, start=start)
    return dataset_batches(
        dataset, stream.seeds, batch=stream.batch, start_step=start, device=stream.device
    )
