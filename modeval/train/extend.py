"""A run that goes on for longer, or with more seeds, than it was begun with.

More steps: the run goes on from its last checkpoint. What comes of it is what would have come of
training for so long at once, to the last bit, where nothing depends on the number of steps (the
schedule ``cosine`` does and gatings that are annealed; they are refused). The best checkpoint has
one candidate more where the former end lay between two validations.

More seeds: those that are new are trained as a cohort of their own below the run's folder, up to
the step where the others are, and joined with them. A seed is what it would be in one large cohort:
to the last bit with the fused engine, to rounding with the others.

Both give the run another digest. ``run.json`` keeps the former ones, so that whatever a kill left
between two files is still known as the run's own; a join that was killed is done again.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeval.errors import RunError
from modeval.spec import RunSpec, load_toml, read_spec, to_toml
from modeval.spec.gatings import anneals
from modeval.spec.regimes import Joint
from modeval.train import files, records
from modeval.train.files import ADDING, TARGET
from modeval.train.parts import with_seeds
from modeval.train.records import RunRecord

Pair = tuple[int, int]


def adopt(spec: RunSpec, held: RunSpec) -> RunSpec:
    """Return the spec with the validations of the run, unless others were asked for.

    How often a run is validated follows from its steps if nothing is said; a longer run keeps to
    what it began with.
    """
    if spec.validate_every == _usual(spec) and held.validate_every == _usual(held):
        return replace(spec, train=replace(spec.train, validate_every=held.validate_every))
    return spec


def _usual(spec: RunSpec) -> int:
    return replace(spec, train=replace(spec.train, validate_every=None)).validate_every


def missing_seeds(spec: RunSpec, held: RunSpec, folder: Path) -> tuple[Pair, ...]:
    """Return the seeds that are asked for and not in the run yet.

    Raises:
        RunError: the run has seeds that are not asked for.
    """
    lost = [pair for pair in held.train.seeds if pair not in spec.train.seeds]
    new = tuple(pair for pair in spec.train.seeds if pair not in held.train.seeds)
    if lost and new:
        named = ", ".join(f"(task {task}, model {model})" for task, model in lost[:3])
        raise RunError(
            f"{folder} holds seeds that are not among those asked for: {named}. Ask for seeds that "
            "hold all of them, with --task-seeds and --model-seeds."
        )
    return new


def lengthen(spec: RunSpec, folder: Path, record: RunRecord) -> RunRecord:
    """Have a run folder say that its run goes on for longer.

    Raises:
        RunError: its steps depend on their number.
    """
    cause = ""
    if spec.train.schedule == "cosine":
        cause = "a rate that falls to zero at its last step (schedule cosine)"
    elif spec.train.regime != Joint():
        cause = f"phases that share out its steps (regime {spec.train.regime.kind})"
    elif spec.phases and spec.phases[-1].after:
        cause = "something that is done at the end of its last phase"
    elif anneals(spec.model.gating):
        cause = f"a gating that changes until its last step ({spec.model.gating.kind})"
    if cause:
        raise RunError(
            f"{folder} was trained with {cause}, so a longer run is another one. Choose another "
            "--out."
        )
    longer = _renamed(record, records.digest_on(spec.digest, record.data))
    files.write_record(folder, longer)
    files.write_text(folder / records.SPEC, to_toml(spec))
    return longer


def _renamed(record: RunRecord, digest: str) -> RunRecord:
    former = dict.fromkeys((*record.former, record.digest))
    former.pop(digest, None)
    return replace(record, digest=digest, former=tuple(former), status="running")


# --- more seeds ----------------------------------------------------------------------------------


def begin_adding(spec: RunSpec, folder: Path) -> None:
    """Note what is to become of a run before its new seeds are trained.

    Raises:
        RunError: other seeds are being added already.
    """
    path = folder / TARGET
    if not path.is_file():  # what lies there was joined, and a kill left it
        shutil.rmtree(folder / ADDING, ignore_errors=True)
    elif read_spec(load_toml(path)) != spec:
        raise RunError(
            f"{folder} is about to get other seeds, which {path} names. Repeat the command that "
            f"was interrupted, or remove {folder / ADDING} and {path}."
        )
    files.write_text(path, to_toml(spec))


def pending(folder: Path) -> RunSpec | None:
    """Return the spec of a run that is about to get more seeds; None where none are added."""
    path = folder / TARGET
    return read_spec(load_toml(path)) if path.is_file() else None


def finish_adding(folder: Path) -> None:
    """Join the new seeds of a run with the others, if they are trained and it was not done."""
    added = folder / ADDING
    trained = records.is_run(added) and records.read_record(added).status == "complete"
    if trained and (folder / TARGET).is_file():
        join(folder)


def join(folder: Path) -> RunRecord:
    """Put the trained seeds below a run's folder among its own.

    Every step may be repeated: a kill loses nothing.
    """
    whole = read_spec(load_toml(folder / TARGET))
    record, added = records.read_record(folder), folder / ADDING
    kept = records.read_run(folder).train.seeds
    target = _of_both(whole, kept, records.read_run(added).train.seeds)
    joined = _renamed(record, records.digest_on(target.digest, record.data))
    state, log = files.read_state(folder, record), records.read_log(folder)
    if len(state["memory.diverged"]) < len(target.train.seeds):
        order = _order(target, (*kept, *records.read_run(added).train.seeds))
        others = files.read_state(added, records.read_record(added))
        state = _stacked(state, others, order, folder)
        _join_phases(folder, joined, order)
        log = _merged(log, records.read_log(added), order, len(kept))
    marks = tuple(int(mark) if mark >= 0 else None for mark in state["memory.diverged"])
    joined = replace(joined, diverged=marks, step=int(state["memory.step"]))
    files.write_record(folder, joined)
    files.write_text(folder / records.LOG, "".join(json.dumps(item) + "\n" for item in log))
    files.write_checkpoint(folder, joined, state)
    files.write_text(folder / records.SPEC, to_toml(target))
    done = replace(joined, status="complete")
    files.write_record(folder, done)
    if target == whole:  # else more seeds are still to come
        (folder / TARGET).unlink()
    shutil.rmtree(folder / ADDING, ignore_errors=True)
    return done


def _of_both(whole: RunSpec, kept: Sequence[Pair], new: Sequence[Pair]) -> RunSpec:
    """Return the spec of those seeds of a run that are trained now, in its order."""
    there = {*kept, *new}
    return with_seeds(whole, (pair for pair in whole.train.seeds if pair in there))


def _join_phases(folder: Path, joined: RunRecord, order: list[int]) -> None:
    """Stack the weights after each phase; what a kill left joined stays so."""
    phases = len(records.read_run(folder).stretches)
    added = records.read_record(folder / ADDING)
    for phase in range(1, phases + 1) if phases > 1 else ():
        one = files.read_phase(folder, phase, joined)
        if len(next(iter(one.values()))) == len(order):
            continue
        two = files.read_phase(folder / ADDING, phase, added)
        both = {name: torch.cat([tensor, two[name]])[order] for name, tensor in one.items()}
        files.write_phase(folder, joined, phase, files.phase_step(folder, phase), both)


def _order(target: RunSpec, held: Sequence[Pair]) -> list[int]:
    places = {pair: index for index, pair in enumerate(held)}
    return [places[pair] for pair in target.train.seeds]


def _stacked(
    one: dict[str, Tensor], two: dict[str, Tensor], order: list[int], folder: Path
) -> dict[str, Tensor]:
    """Stack the tensors of two cohorts that are at one step along their axis of seeds."""
    if int(one["memory.step"]) != int(two["memory.step"]):
        raise RunError(
            f"The seeds in {folder} are at step {int(one['memory.step'])}, the new ones at step "
            f"{int(two['memory.step'])}. Remove {folder / ADDING} and add them again."
        )
    return {
        name: torch.cat([tensor, two[name]])[order] if tensor.ndim else tensor
        for name, tensor in one.items()
    }


def _merged(
    one: list[dict[str, Any]], two: list[dict[str, Any]], order: list[int], seeds: int
) -> list[dict[str, Any]]:
    """Join the lines of two logs; what one of them did not measure at a step is null."""
    lines = {item["step"]: [item, None] for item in one}
    for item in two:
        lines.setdefault(item["step"], [None, None])[1] = item
    sizes = (seeds, len(order) - seeds)
    merged = []
    for _, pair in sorted(lines.items()):
        known = next(item for item in pair if item is not None)
        merged.append(dict(known))
        for name, value in known.items():
            if isinstance(value, list):
                parts = [
                    [None] * size if item is None else item[name]
                    for item, size in zip(pair, sizes, strict=True)
                ]
                both = [*parts[0], *parts[1]]
                merged[-1][name] = [both[index] for index in order]
    return merged
