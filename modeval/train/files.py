"""Run folders: the one place of this package that reads and writes them.

    run.json             what ran: format, digest, seeds, engine, versions, status of each seed
    spec.toml            the resolved specification; ``modeval train --spec`` takes it
    code/                copies of files of the user's that the model is made of, where it is
    log.jsonl            a line for each validation
    last.safetensors     weights after the last validation, stacked over seeds
    best.safetensors     each seed's weights at its own best validation
    phase-1.safetensors  weights after a phase of training, where there are several
    state.safetensors    everything that resuming needs, written in one piece

Every file is written under a temporary name and renamed. A checkpoint is one generation: the state
holds all of it and alone decides where a run resumes; ``last`` and ``best`` are copies out of it
for readers, made again whenever a run resumes. Each says in its header which run and which step it
is of, and has a checksum, so that what a death between two files left is told from a checkpoint: a
reader then takes the weights out of the state.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from modeval import atomic
from modeval.errors import RunError
from modeval.nn import Network, build
from modeval.spec import RunSpec, Selection, phase_selected, to_toml
from modeval.spec.model import codes
from modeval.spec.own import take, text_of
from modeval.tensors import DamagedError, Stored, read_tensors, write_tensors
from modeval.train.records import FORMAT, LOG, RUN, SPEC, RunRecord, read_log, read_record, read_run

UNWRITTEN = atomic.Fault(
    RunError,
    "What was written before is whole; free some space or choose another --out, then continue "
    "with --resume.",
)
STATE, CODE = "state.safetensors", "code"
ADDING, TARGET = ".adding", "adding.toml"
"""Below a run's folder: new seeds while they are trained, and the spec that is to be."""
WEIGHTS = ("last.safetensors", "best.safetensors")


def read_network(folder: Path, selection: Selection = "last") -> Network:
    """Rebuild the trained cohort of a run folder on the CPU.

    Raises:
        RunError: there are no weights yet, or they are damaged or another run's.
    """
    spec = read_run(folder)
    path = folder / f"{selection}.safetensors"
    network = build(spec.data, spec.model, seeds=len(spec.train.seeds))
    weights = read_weights(folder, selection, read_record(folder))
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != found:
        wrong = min(set(expected.items()) ^ set(found.items()))[0]
        raise RunError(
            f"{path} does not hold the network of {SPEC}: {wrong} is "
            f"{found.get(wrong, 'missing')}, expected {expected.get(wrong, 'nothing')}. "
            "The folder mixes two runs; train again."
        )
    network.load_state_dict(weights)
    return network


def read_weights(folder: Path, selection: Selection, record: RunRecord) -> dict[str, Tensor]:
    """Return the weights of the last checkpoint, from their own file or out of the state.

    Raises:
        RunError: there are none yet, or they are damaged or another run's.
    """
    phase = phase_selected(selection)
    if phase is not None:
        return read_phase(folder, phase, record)
    if record.status != "complete" and (folder / STATE).is_file() and not is_whole(folder, record):
        # the writer died between two files of a checkpoint, or is between them now
        prefix, state = f"{selection}.", _load(folder / STATE, record).tensors
        return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
    path = folder / f"{selection}.safetensors"
    stored = _load(path, record)
    if _step(stored) not in (None, record.step):
        raise RunError(
            f"{path} is of step {_step(stored)}, and {RUN} says {record.step}: the folder mixes "
            f"two checkpoints. {_again(folder)}"
        )
    return stored.tensors


def phase_path(folder: Path, phase: int) -> Path:
    """Return where the weights after a phase lie, phases counted from 1."""
    return folder / f"phase-{phase}.safetensors"


def read_phase(folder: Path, phase: int, record: RunRecord) -> dict[str, Tensor]:
    """Return the weights after a phase, counted from 1.

    Raises:
        RunError: the run has no such phase, or has not come so far, or they are damaged.
    """
    path = phase_path(folder, phase)
    if not path.is_file():
        phases = len(read_run(folder).stretches)
        if phase <= phases and phases > 1:
            reason = f"its run is at step {record.step}. Continue it with --resume"
        else:
            several = "phases" if phases > 1 else "phase, whose weights are called last"
            reason = f"its run has {phases} {several}"
        raise RunError(f"There is no {path.name} in {folder}: {reason}.")
    try:
        stored = read_tensors(path)
    except DamagedError as error:
        raise RunError(
            f"{path} is damaged or cut short: {error}. Train again, into another folder."
        ) from None
    _check_run(path, stored, record)
    return stored.tensors


def phase_step(folder: Path, phase: int) -> int:
    """Return the step after which a phase, counted from 1, ends."""
    return read_run(folder).stretches[phase - 1][1]


def write_phase(
    folder: Path, record: RunRecord, phase: int, step: int, weights: Mapping[str, Tensor]
) -> None:
    """Write the weights after a phase, counted from 1."""
    words = {"modeval.run": record.digest, "modeval.step": str(step)}
    write_tensors(phase_path(folder, phase), weights, UNWRITTEN, words=words)


def is_whole(folder: Path, record: RunRecord) -> bool:
    """Tell whether the files of weights are there, undamaged, and of the run's last checkpoint."""
    try:
        weights = [_load(folder / name, record) for name in WEIGHTS]
    except RunError:
        return False
    return all(_step(stored) in (None, record.step) for stored in weights)


def read_state(folder: Path, record: RunRecord) -> dict[str, Tensor]:
    """Return the tensors that a run goes on from.

    Raises:
        RunError: they are damaged or another run's.
    """
    return _load(folder / STATE, record).tensors


def write_checkpoint(
    folder: Path, record: RunRecord, state: Mapping[str, Tensor], *, again: bool = False
) -> None:
    """Write the state, the weights out of it, and ``run.json``, in this order.

    Args:
        folder: the run's.
        record: with the step of the checkpoint.
        state: names of weights begin with ``last.`` and ``best.``.
        again: the state was read from the folder, where it is already.
    """
    words = {"modeval.run": record.digest, "modeval.step": str(record.step)}
    if not again:
        write_tensors(folder / STATE, state, UNWRITTEN, words=words)
    for name in WEIGHTS:
        prefix = name.removesuffix("safetensors")
        weights = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
        write_tensors(folder / name, weights, UNWRITTEN, words=words)
    write_record(folder, record)


def _load(path: Path, record: RunRecord) -> Stored:
    try:
        stored = read_tensors(path)
    except FileNotFoundError:
        if record.status == "complete":
            raise RunError(
                f"There is no {path.name} in {path.parent}, though the run is complete. "
                f"{_again(path.parent)}"
            ) from None
        raise RunError(
            f"No {path.name} in {path.parent}: the run stopped before its first validation. "
            f"Continue it with: modeval train --out {path.parent} --resume"
        ) from None
    except DamagedError as error:
        raise RunError(f"{path} is damaged or cut short: {error}. {_again(path.parent)}") from None
    _check_run(path, stored, record)
    return stored


def _check_run(path: Path, stored: Stored, record: RunRecord) -> None:
    run = stored.words.get("modeval.run", record.digest)
    if run not in (record.digest, *record.former):
        raise RunError(
            f"{path} is of another run (digest {run}, {RUN} says {record.digest}). The folder "
            "mixes two runs; train again."
        )


def _again(folder: Path) -> str:
    if (folder / STATE).is_file():
        return f"Make it again from {STATE} with: modeval train --out {folder} --resume"
    return "Put the right file back, or train again."


def _step(stored: Stored) -> int | None:
    """Return the step that weights are of; None for those of version 0.1, which do not say."""
    step = stored.words.get("modeval.step", "")
    return int(step) if step.isdecimal() else None


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    atomic.write_text(path, text, UNWRITTEN)


def write_record(folder: Path, record: RunRecord) -> None:
    """Write ``run.json``."""
    values = {
        "format": FORMAT,
        "digest": record.digest,
        "status": record.status,
        "step": record.step,
        "engine": record.engine,
        "data": record.data,
        "diverged": list(record.diverged),
        "versions": dict(record.versions),
        "engines": [list(each) for each in record.engines],
        "former": list(record.former),
    }
    write_text(folder / RUN, json.dumps(values, indent=2) + "\n")


def is_empty(folder: Path) -> bool:
    """Tell whether there is nothing to lose: no folder, or what a run left that never began."""
    if not folder.exists():
        return True
    beginnings = {SPEC, LOG, CODE, ADDING, TARGET} if not (folder / RUN).exists() else set()
    return folder.is_dir() and all(
        path.name in beginnings or path.name.endswith(atomic.PARTIAL) for path in folder.iterdir()
    )


@contextlib.contextmanager
def alone(folder: Path, *, resume: bool) -> Iterator[None]:
    """Hold a run folder for this process, from before it is looked at until all is written.

    Folders that are made for it and stay empty when it fails are removed again.

    Raises:
        RunError: another process holds it, or it cannot be made.
    """
    if resume and not folder.exists():
        raise RunError(f"Nothing to resume at {folder}: there is no run. Drop --resume.")
    with contextlib.ExitStack() as made:
        try:
            made.enter_context(atomic.new_folders(folder))
        except OSError as error:
            raise RunError(
                f"Cannot make {folder}: {atomic.reason(error)}. Choose another --out."
            ) from None
        if not made.enter_context(atomic.locked(folder)):
            raise RunError(
                f"Another process trains into {folder}. Wait for it, or choose another --out."
            )
        yield


def start_folder(folder: Path, spec: RunSpec) -> None:
    """Write the specification of a run into its folder, and begin its log."""
    with contextlib.ExitStack() as made:
        for code in codes(spec.model):
            path = folder / CODE / code.path.name
            made.enter_context(atomic.new_file(path, text_of(code), UNWRITTEN))
        made.enter_context(
            atomic.new_file(
                folder / SPEC, to_toml(spec).encode("utf-8", "backslashreplace"), UNWRITTEN
            )
        )
        write_text(folder / LOG, "")


def take_code(folder: Path) -> None:
    """Run the code that a run folder brings, so that its network can be built.

    Whoever calls this has asked the user: code does what it likes.

    Raises:
        CodeError: a copy is missing, or is not what the run was made with.
    """
    for code in codes(read_run(folder).model):
        take(folder / CODE / code.path.name, code)


def append_log(folder: Path, item: Mapping[str, Any]) -> None:
    """Add a line to the log."""
    atomic.append(folder / LOG, f"{json.dumps(item)}\n".encode(), UNWRITTEN)


def rewind_log(folder: Path, step: int) -> None:
    """Drop the lines after ``step``: a resumed run writes them again."""
    kept = [json.dumps(item) + "\n" for item in read_log(folder) if item["step"] <= step]
    write_text(folder / LOG, "".join(kept))
