"""Data set folders: ``dataset.json`` with the whole recipe beside shards of samples.

A folder appears complete or not at all. Each shard holds the same samples of every task, as
tensors ``inputs``, ``rule`` and ``target`` with axes (task, sample, ...), or in Parquet as one row
for each sample, task after task. What is drawn depends on neither the shards nor the format, a
larger data set begins with the samples of a smaller one, and other tasks beside it change nothing.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Generator, Tensor

from modeval import atomic
from modeval.data import parquet
from modeval.data.batches import parts_of, recut
from modeval.data.tasks import draw, stack_tasks, task_parameters
from modeval.errors import DataError, SpecError
from modeval.spec import (
    DataSpec,
    differences,
    digest,
    from_dict,
    sparse,
    to_dict,
    without_unread,
)
from modeval.types import Batch

Storage = Literal["safetensors", "parquet"]

FORMAT = "modeval-dataset"
VERSION = 1
MANIFEST = "dataset.json"
BLOCK = 256
"""Samples drawn at once for each task. Part of the format: another number draws other samples."""
SHARD_BYTES = 2**26
"""Size of a shard where none is asked for."""
UNWRITTEN = atomic.Fault(
    DataError,
    "Nothing is left of it. Free some space, give another folder, or use fewer --samples.",
)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What ``dataset.json`` says of a shard.

    Attributes:
        file: its name in the folder.
        samples: samples of each task in it.
        bytes: its size.
        sha256: hash of the file.
    """

    file: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set folder, open for reading.

    Attributes:
        folder: where it lies.
        spec: family of tasks that the samples were drawn from.
        task_seeds: tasks, in the order of the shards' first axis.
        data_seed: seed of the samples.
        samples: samples of each task.
        digest: name of the content: two folders with one digest hold the same files.
        shards: samples in order, each shard ``(tasks, n, ...)``; memory-mapped unless from Parquet.
    """

    folder: Path
    spec: DataSpec
    task_seeds: tuple[int, ...]
    data_seed: int
    samples: int
    digest: str
    shards: tuple[Batch, ...]


# --- writing -------------------------------------------------------------------------------------


def write_dataset(
    folder: Path,
    spec: DataSpec,
    task_seeds: Sequence[int],
    *,
    samples: int,
    data_seed: int = 0,
    shard_size: int = 0,
    storage: Storage = "safetensors",
    force: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Dataset:
    """Draw a data set, write it to a new folder and open it.

    Args:
        folder: appears complete or not at all.
        spec: family of tasks, with its shift (``scale``, ``length``, ``rule_probabilities``) if it
            has one.
        task_seeds: tasks to draw.
        samples: samples of each task.
        data_seed: seed of the samples; another one gives other samples of the same tasks.
        shard_size: samples of each task in a shard; 0 for shards of about 64 MiB.
        storage: format of the shards.
        force: replace an earlier data set in ``folder``.
        progress: called with the number of samples of each task written so far.

    Raises:
        DataError: the folder is taken, cannot be written, or the disk is full.
        DependencyError: Parquet is asked for without its package.
        SpecError: no samples, no tasks, or seeds out of range.
    """
    _check_request(task_seeds, samples, data_seed, shard_size)
    if spec.hidden:
        raise SpecError(
            f"hidden = {spec.hidden}: a data set holds true rules. Leave --hidden out of modeval "
            "generate, and give it to modeval train without --data."
        )
    if spec.held_out:
        raise SpecError(
            f"held_out = {spec.held_out}: a data set is for scoring, too, and holds all rules. "
            "Leave --held-out out of modeval generate, and give it to modeval train without --data."
        )
    if storage == "parquet":
        parquet.require_arrow()
    encode = {"safetensors": _to_safetensors, "parquet": parquet.to_bytes}[storage]
    if not shard_size:
        shard_size = max(1, SHARD_BYTES // (sample_bytes(spec) * len(task_seeds)))
    full, rest = divmod(samples, shard_size)
    sizes = [shard_size] * full + [rest] * (rest > 0)
    _check_free(folder.resolve(), force=force)
    if storage == "safetensors":  # Parquet may take less
        _check_room(folder.resolve(), sample_bytes(spec) * samples * len(task_seeds))
    with atomic.whole_folder(folder, UNWRITTEN, replace=force) as draft:
        shards: list[FileRecord] = []
        for part in recut(_blocks(spec, task_seeds, data_seed), sizes):
            name = f"part-{len(shards):05d}.{storage}"
            content = encode(part, task_seeds)
            write_bytes(draft / name, content)
            checksum = hashlib.sha256(content).hexdigest()
            shards.append(FileRecord(name, part.rule.shape[1], len(content), checksum))
            progress(sum(shard.samples for shard in shards))
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "storage": storage,
            "recipe": {
                "data": to_dict(spec),
                "task_seeds": list(task_seeds),
                "data_seed": data_seed,
                "samples": samples,
            },
            "rules_sha256": _rules_hash(spec, task_seeds),
            "shards": [asdict(shard) for shard in shards],
        }
        # The first keys are not part of what they name.
        head = {
            "digest": _content_digest(manifest, spec),
            "modeval": importlib.metadata.version("modeval-cli"),
        }
        write_bytes(draft / MANIFEST, (json.dumps(head | manifest, indent=2) + "\n").encode())
    return open_dataset(folder, verify=False)


def sample_bytes(spec: DataSpec) -> int:
    """Return the bytes of one sample: inputs and target in float32, rules in int64."""
    positions = spec.length if spec.sequence else 1
    return positions * (4 * (spec.features + spec.outputs) + 8)


def write_bytes(path: Path, content: bytes) -> None:
    """Write one file: the only place where a data set touches the disk."""
    path.write_bytes(content)


def _blocks(spec: DataSpec, task_seeds: Sequence[int], data_seed: int) -> Iterator[Batch]:
    """Draw without end, in blocks of a fixed size, each task from a generator of its own."""
    tasks = stack_tasks(spec, task_seeds)
    words = [
        np.random.SeedSequence([data_seed, s]).generate_state(1, np.uint64) for s in task_seeds
    ]
    generators = [Generator().manual_seed(int(word[0])) for word in words]
    while True:
        yield draw(spec, tasks, generators, samples=BLOCK)


def _to_safetensors(part: Batch, _task_seeds: Sequence[int]) -> bytes:
    names = ("inputs", "rule", "target")
    tensors = {name: value.contiguous() for name, value in zip(names, parts_of(part), strict=True)}
    return safetensors.torch.save(tensors)


def _content_digest(manifest: dict[str, Any], spec: DataSpec) -> str:
    """Return the name of the content: of the recipe only what differs from the defaults."""
    recipe = manifest["recipe"] | {"data": {"task": spec.task, **sparse(spec)}}
    return digest(manifest | {"recipe": recipe})


def _rules_hash(spec: DataSpec, task_seeds: Sequence[int]) -> str:
    content = hashlib.sha256()
    for seed in task_seeds:
        for value in task_parameters(spec, seed).values():
            content.update(value.numpy().tobytes())
    return content.hexdigest()


def _check_request(
    task_seeds: Sequence[int], samples: int, data_seed: int, shard_size: int
) -> None:
    if samples < 1:
        raise SpecError(f"samples = {samples}: expected 1 or more. Use --samples 10000.")
    if shard_size < 0:
        raise SpecError(f"shard_size = {shard_size}: expected 1 or more, or 0 to choose it.")
    if not task_seeds:
        raise SpecError("No task seeds: expected at least one. Use --task-seeds 5.")
    if len(set(task_seeds)) < len(task_seeds):
        raise SpecError(f"task seeds {list(task_seeds)}: each may stand once.")
    for seed in (*task_seeds, data_seed):
        if not 0 <= seed < 2**32:
            raise SpecError(f"seed {seed}: expected a number from 0 to 2**32 - 1.")


def _check_free(folder: Path, *, force: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not is_dataset(folder):
        raise DataError(
            f"{folder} exists and is no modeval data set, so it is never replaced. "
            "Give another folder."
        )
    if not force:
        raise DataError(
            f"{folder} holds a data set already. Give another folder, or --force to replace it."
        )


# --- reading -------------------------------------------------------------------------------------


def _check_room(folder: Path, wanted: int) -> None:
    """Refuse what does not fit on the disk, before hours are spent on it."""
    there = next(each for each in folder.parents if each.exists())
    free = shutil.disk_usage(there).free
    if wanted > free:
        raise DataError(
            f"{folder} would hold {wanted / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free there. "
            "Give fewer --samples or --task-seeds, or another disk; modeval train without --data "
            "draws samples without end and stores none."
        )


def is_dataset(folder: Path) -> bool:
    """Whether a folder claims to be a modeval data set, of whatever version."""
    try:
        return bool(_read_manifest(folder)["format"] == FORMAT)
    except (DataError, KeyError):
        return False


def open_dataset(folder: Path, *, verify: bool = True) -> Dataset:
    """Open a data set folder.

    Shards of safetensors are memory-mapped: only what is used is read. Parquet is for other
    programs; its shards are decoded into memory.

    Args:
        folder: written by :func:`write_dataset`.
        verify: compare each shard with its hash, for which all of it is read once; sizes and
            shapes are checked in any case.

    Raises:
        DataError: missing, foreign, damaged, or of a version that this modeval cannot read.
        DependencyError: it is Parquet and the package is not installed.
    """
    manifest = _read_manifest(folder)
    _check_manifest(folder, manifest)
    try:
        recipe = manifest["recipe"]
        spec = _read_spec(recipe["data"])
        task_seeds = tuple(int(seed) for seed in recipe["task_seeds"])
        data_seed, samples = int(recipe["data_seed"]), int(recipe["samples"])
        entries = [FileRecord(**item) for item in manifest["shards"]]
        decode = {"safetensors": _from_safetensors, "parquet": parquet.from_file}
        read = decode[manifest["storage"]]
        same_rules = manifest["rules_sha256"] == _rules_hash(spec, task_seeds)
    except (KeyError, TypeError, ValueError, AttributeError, SpecError) as error:
        raise damaged(folder / MANIFEST, f"it cannot be understood ({error})") from error
    if not same_rules:
        raise damaged(folder / MANIFEST, "its seeds do not give the rules that it was drawn with")
    if sum(item.samples for item in entries) != samples:
        raise damaged(folder / MANIFEST, f"its shards do not add up to {samples} samples")
    shards = []
    for item in entries:
        path = folder / Path(item.file).name
        _check_file(path, item, verify=verify)
        try:
            part = read(path, spec)
        except (SafetensorError, OSError, ValueError) as error:
            raise damaged(path, f"it cannot be read ({error})") from error
        _check_shapes(path, part, spec, (len(task_seeds), item.samples))
        shards.append(part)
    return Dataset(
        folder, spec, task_seeds, data_seed, samples, str(manifest["digest"]), tuple(shards)
    )


def require(dataset: Dataset, spec: DataSpec, task_seeds: Sequence[int] = ()) -> None:
    """Refuse a data set that was made from another recipe than the one asked for.

    Raises:
        DataError: names each setting that differs, with both values.
    """
    differing = [
        f"{name} is {its}, not {mine}"
        for name, (mine, its) in differences(DataSpec, to_dict(spec), to_dict(dataset.spec)).items()
    ]
    missing = [str(seed) for seed in task_seeds if seed not in dataset.task_seeds]
    if missing:
        held_seeds = ", ".join(map(str, dataset.task_seeds))
        differing.append(f"task seeds are {held_seeds}, without {', '.join(missing)}")
    if differing:
        raise DataError(
            f"{dataset.folder} was made from another recipe: {'; '.join(differing)}. "
            "Ask for what it holds, or make the right one with: modeval generate OUT ..."
        )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        found = (
            f"{folder} is no modeval data set: it has no {MANIFEST}"
            if (folder.exists())
            else f"No data set at {folder}"
        )
        raise DataError(f"{found}. Make one with: modeval generate {folder}") from None
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from None
    except (ValueError, RecursionError):
        raise damaged(path, "it is not valid JSON") from None
    if not isinstance(manifest, dict):
        raise damaged(path, "it is not a JSON object")
    return manifest


def _check_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{folder} is no modeval data set: its {MANIFEST} belongs to something else. "
            "Make one with: modeval generate OUT"
        )
    version = manifest.get("version")
    if version != VERSION:
        raise DataError(
            f"{folder} has data set format {version}; this modeval reads {VERSION}. Generate it "
            "again, or install the modeval that wrote it: "
            f"pip install modeval-cli=={manifest.get('modeval', '...')}"
        )
    unsigned = {k: v for k, v in manifest.items() if k not in ("digest", "modeval")}
    if manifest.get("digest") not in _signatures(unsigned):
        raise damaged(folder / MANIFEST, "it was changed after it was written (digest mismatch)")


def _signatures(manifest: dict[str, Any]) -> set[str]:
    """Return the digests that a manifest may carry: version 0.1 hashed every setting."""
    try:
        return {digest(manifest), _content_digest(manifest, _read_spec(manifest["recipe"]["data"]))}
    except (KeyError, TypeError, AttributeError, SpecError):
        return {digest(manifest)}  # what is wrong with it is said where it is read


def _read_spec(values: dict[str, Any]) -> DataSpec:
    """Read a task; version 0.1 kept settings that it does not read."""
    return from_dict(DataSpec, without_unread(DataSpec, values))


def _check_file(path: Path, record: FileRecord, *, verify: bool) -> None:
    try:
        size = path.stat().st_size
        if size != record.bytes:
            raise damaged(path, f"it has {size} bytes and should have {record.bytes}")
        if verify:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != record.sha256:
                raise damaged(path, "its content was changed (digest mismatch)")
    except FileNotFoundError:
        raise damaged(path, "it is missing") from None
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from None


def _from_safetensors(path: Path, _spec: DataSpec) -> Batch:
    with safe_open(os.fspath(path), framework="pt") as file:
        return Batch(*(file.get_tensor(name) for name in ("inputs", "rule", "target")))


def _check_shapes(path: Path, part: Batch, spec: DataSpec, lead: tuple[int, int]) -> None:
    shape = (*lead, spec.length) if spec.sequence else lead
    expected: dict[str, tuple[Tensor, tuple[int, ...], torch.dtype]] = {
        "inputs": (part.inputs, (*shape, spec.features), torch.float32),
        "rule": (part.rule, shape, torch.int64),
        "target": (part.target, (*shape, spec.outputs), torch.float32),
    }
    for name, (value, size, dtype) in expected.items():
        if value.shape != size or value.dtype != dtype:
            raise damaged(
                path,
                f"{name} is {value.dtype} {tuple(value.shape)} and should be {dtype} {size}",
            )


def damaged(path: Path, reason: str) -> DataError:
    """Return the error that names a damaged file of a data set, and the way out."""
    return DataError(
        f"{path} is damaged: {reason}. Delete {path.parent} and write it again with modeval "
        "generate; the recipe stands in dataset.json."
    )
