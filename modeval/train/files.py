"""Run folders: the one place of this package that reads and writes them.

    run.json             what ran: format, digest, seeds, engine, versions, status of each seed
    spec.toml            the resolved specification; ``modeval train --spec`` takes it
    log.jsonl            a line for each validation
    last.safetensors     weights after the last validation, stacked over seeds
    best.safetensors     each seed's weights at its own best validation
    state.safetensors    everything that resuming needs, written in one piece

Every file is written under a temporary name and renamed. ``state.safetensors`` alone decides where
a run resumes; the others are made again from it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modeval import atomic
from modeval.errors import RunError
from modeval.nn import Network, build
from modeval.spec import RunSpec, Selection, digest, digests, load_toml, read_spec, to_toml

FORMAT = 1
UNWRITTEN = atomic.Fault(
    RunError,
    "What was written before is whole; free some space or choose another --out, then continue "
    "with --resume.",
)
RUN, SPEC, LOG, STATE = "run.json", "spec.toml", "log.jsonl", "state.safetensors"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What ``run.json`` says.

    Attributes:
        digest: of the specification (and of the data folder, if one was used).
        status: ``running`` or ``complete``.
        step: of the last checkpoint.
        engine: how steps were computed; a run resumes with the engine it was started with.
        data: digest of the data folder that was trained on; empty for the stream.
        diverged: for each seed the step at which its loss stopped being finite, or null.
        versions: of modeval and torch.
    """

    digest: str
    status: str
    step: int
    engine: str
    data: str
    diverged: tuple[int | None, ...]
    versions: Mapping[str, str]


def is_run(folder: Path) -> bool:
    """Tell whether a folder was written by ``modeval train``."""
    return (folder / RUN).is_file() and (folder / SPEC).is_file()


def find_runs(folder: Path) -> list[Path]:
    """Return the run folders at or below ``folder``, in order of their names."""
    if is_run(folder):
        return [folder]
    return sorted(path.parent for path in folder.rglob(RUN) if is_run(path.parent))


def read_record(folder: Path) -> RunRecord:
    """Read ``run.json``."""
    path = folder / RUN
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["format"]
        if version != FORMAT:
            raise RunError(
                f"{path} has format {version}; this modeval reads format {FORMAT}. "
                "Use the modeval that wrote it, or train again."
            )
        return RunRecord(
            digest=values["digest"],
            status=values["status"],
            step=values["step"],
            engine=values["engine"],
            data=values["data"],
            diverged=tuple(values["diverged"]),
            versions=values["versions"],
        )
    except FileNotFoundError:
        raise RunError(
            f"No run at {folder}: {RUN} is missing. Make one with: modeval train --out {folder}"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}). Train again into another folder.") from None


def read_run(folder: Path) -> RunSpec:
    """Read the specification of a run folder, and check that it is the run's own.

    Raises:
        RunError: it is not the one that the run was started with, by the digest of ``run.json``.
    """
    record, values = read_record(folder), load_toml(folder / SPEC)
    spec = read_spec(values, where=f"{folder / SPEC}: ")
    if record.digest not in {digest_on(name, record.data) for name in digests(values)}:
        raise RunError(
            f"{folder / SPEC} was changed after the run began (digest mismatch with {RUN}). Put "
            "the settings back, or train into another folder."
        )
    return spec


def digest_on(run: str, data: str) -> str:
    """Return the name of a run that was trained on a data folder, both told by their digests."""
    return digest({"run": run, "data": data}) if data else run


def read_network(folder: Path, selection: Selection = "last") -> Network:
    """Rebuild the trained cohort of a run folder on the CPU."""
    spec = read_run(folder)
    path = folder / f"{selection}.safetensors"
    network = build(spec.data, spec.model, seeds=len(spec.train.seeds))
    weights = load_tensors(path)
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


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; say what is wrong with it when it is damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise RunError(
            f"No {path.name} in {path.parent}: the run stopped before its first validation. "
            f"Continue it with: modeval train --out {path.parent} --resume"
        ) from None
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged or cut short ({error}). Train again.") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic.whole_file(path, UNWRITTEN, also=(SafetensorError,)) as temporary:
        save_file(plain, temporary)


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
    }
    write_text(folder / RUN, json.dumps(values, indent=2) + "\n")


def start_folder(folder: Path, spec: RunSpec) -> None:
    """Make a run folder and write its specification."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot make {folder}: {error.strerror}. Choose another --out.") from None
    write_text(folder / SPEC, to_toml(spec))


def append_log(folder: Path, entry: Mapping[str, Any]) -> None:
    """Add a line to the log."""
    atomic.append(folder / LOG, f"{json.dumps(entry)}\n".encode(), UNWRITTEN)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read the log; a last line cut short by a kill is left out."""
    path = folder / LOG
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


def rewind_log(folder: Path, step: int) -> None:
    """Drop the lines after ``step``: a resumed run writes them again."""
    kept = [json.dumps(entry) + "\n" for entry in read_log(folder) if entry["step"] <= step]
    write_text(folder / LOG, "".join(kept))
