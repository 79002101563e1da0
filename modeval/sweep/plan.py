"""What a sweep is to do: a numbered list of cohorts in a folder, and how far each has come.

    sweep.json          the grid, and each cohort with its number, folder, spec and expected time
    runs/NAME/          run folders
    cards/NAME.json     the scorecard of a cohort that is done
    failed/NAME.json    why a cohort could not be trained or scored
    claims/NAME/        held by the worker that is at it, for as long as it lives
    code/DIGEST/        files of the user's that define models, scorers or gatings of the grid

All of it may lie on a file system that several machines share.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from modeval import atomic
from modeval.errors import CodeError, RunError, SpecError
from modeval.pace import counted
from modeval.spec import RunSpec, read_spec, to_dict
from modeval.spec.model import codes
from modeval.spec.own import Code, take, text_of
from modeval.spec.sweep import unfold

FORMAT = 1
FILE = "sweep.json"
LOCK = "lock"
PARTS = ("runs", "cards", "failed", "claims")
UNWRITTEN = atomic.Fault(
    RunError, "Nothing of the sweep is lost; free some space and repeat the command."
)

State = Literal["done", "failed", "running", "stopped", "waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """One run of a sweep.

    Attributes:
        number: its place in the list, from 1; never changes once it is given.
        name: of its folder and files: model, rules and digest.
        spec: what it trains.
        seconds: how long it should take here, if that was measured.
    """

    number: int
    name: str
    spec: RunSpec
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A planned sweep.

    Attributes:
        folder: where it lies.
        name: of the grid.
        grid: the grid as it was given last.
        cohorts: all that were ever asked for, in order of their numbers.
    """

    folder: Path
    name: str
    grid: Mapping[str, Any]
    cohorts: tuple[Cohort, ...]

    def run_folder(self, cohort: Cohort) -> Path:
        """Return where a cohort is trained."""
        return self.folder / "runs" / cohort.name

    def card(self, cohort: Cohort) -> Path:
        """Return its scorecard."""
        return self.folder / "cards" / f"{cohort.name}.json"

    def failure(self, cohort: Cohort) -> Path:
        """Return the file that says why it failed."""
        return self.folder / "failed" / f"{cohort.name}.json"

    def claim(self, cohort: Cohort) -> Path:
        """Return the folder that its worker holds."""
        return self.folder / "claims" / cohort.name


def plan(grid: Mapping[str, Any], folder: Path) -> Sweep:
    """Plan a grid into a folder; cohorts that the folder has already keep number and results.

    Raises:
        SpecError: the grid is none, or the folder holds something else.
        CodeError: a file of the user's that the grid names is missing, or fails.
    """
    asked = unfold(grid)
    asked = replace(asked, runs=tuple(map(_resolved, asked.runs)))
    known = read_sweep(folder).cohorts if is_sweep(folder) else ()
    if not known and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(f"{folder} holds something that is no sweep. Choose another --out.")
    digests = {cohort.spec.digest for cohort in known}
    new = [run for run in asked.runs if run.digest not in digests]
    cohorts = [
        Cohort(number=number, name=_name(run), spec=run)
        for number, run in enumerate(new, len(known) + 1)
    ]
    return Sweep(folder=folder, name=asked.name, grid=grid, cohorts=(*known, *cohorts))


def _resolved(run: RunSpec) -> RunSpec:
    """Return a run with the digests of the files of the user's that it names."""
    if not codes(run.model):
        return run
    from modeval.nn.own.resolve import resolved  # noqa: PLC0415 - it loads torch

    return replace(run, model=resolved(run.data, run.model))


def take_code(sweep: Sweep, *, trust: bool) -> None:
    """Run the files of the user's that a sweep keeps, so that its networks can be built.

    Args:
        sweep: a planned sweep.
        trust: that the user was asked: code does what it likes.

    Raises:
        CodeError: there is such a file and no consent, or it is not the one that was planned.
    """
    found = dict.fromkeys(code for cohort in sweep.cohorts for code in codes(cohort.spec.model))
    for code in found:
        path = _kept(sweep, code)
        if not trust:
            raise CodeError(
                f"{path} is code that the sweep trains with, and code is run only if you say so. "
                "Read it; to run it with your rights add --trust-code."
            )
        take(path, code)


def _kept(sweep: Sweep, code: Code) -> Path:
    return sweep.folder / "code" / code.digest / code.path.name


def _name(run: RunSpec) -> str:
    return f"{run.name}-{run.data.task}-r{run.data.rules}-{run.digest}"


def write_sweep(sweep: Sweep) -> None:
    """Write the list, the folders of its parts and code of the user's: whole, or not at all."""
    if sweep.folder.exists():
        _fill(sweep)
        return
    with atomic.whole_folder(sweep.folder, UNWRITTEN) as draft:
        _fill(replace(sweep, folder=draft))


def _fill(sweep: Sweep) -> None:
    kept = {_kept(sweep, code): code for each in sweep.cohorts for code in codes(each.spec.model)}
    form = {
        "format": FORMAT,
        "name": sweep.name,
        "grid": sweep.grid,
        "cohorts": [
            {
                "number": cohort.number,
                "name": cohort.name,
                "seconds": cohort.seconds,
                "spec": to_dict(cohort.spec),
            }
            for cohort in counted(sweep.cohorts, "writing the plan, cohorts")
        ],
    }
    with contextlib.ExitStack() as made, atomic.reported(sweep.folder, UNWRITTEN):
        for part in PARTS:
            made.enter_context(atomic.new_folders(sweep.folder / part))
        for path, code in kept.items():
            if not path.is_file():
                made.enter_context(atomic.new_file(path, text_of(code), UNWRITTEN))
        atomic.write_text(sweep.folder / FILE, json.dumps(form, indent=1) + "\n", UNWRITTEN)


def is_sweep(folder: Path) -> bool:
    """Tell whether a folder holds a planned sweep."""
    return (folder / FILE).is_file()


def read_sweep(folder: Path) -> Sweep:
    """Read a planned sweep.

    Raises:
        RunError: there is none, or it is damaged or of another version.
    """
    path = folder / FILE
    try:
        form = json.loads(path.read_text(encoding="utf-8"))
        if form["format"] != FORMAT:
            raise RunError(
                f"{path} has format {form['format']!r}; this modeval reads format {FORMAT}. Use "
                "the modeval that wrote it."
            )
        items = counted(form["cohorts"], f"reading {path}, cohorts")
        cohorts = tuple(_cohort(item, str(path)) for item in items)
        return Sweep(folder=folder, name=form["name"], grid=form["grid"], cohorts=cohorts)
    except FileNotFoundError:
        raise RunError(
            f"No sweep at {folder}: {FILE} is missing. Plan one with: modeval sweep plan grid.toml "
            f"--out {folder}"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise RunError(
            f"{path} is damaged ({error}). Plan the same grid into the same folder again; what is "
            "done is kept."
        ) from None


def _cohort(item: Mapping[str, Any], where: str) -> Cohort:
    seconds = item["seconds"]
    return Cohort(
        number=int(item["number"]),
        name=_plain_name(str(item["name"])),
        spec=read_spec(item["spec"], where=f"{where}: "),
        seconds=None if seconds is None else float(seconds),
    )


def _plain_name(name: str) -> str:
    """Refuse a name that leads out of the folder."""
    if not name or Path(name).name != name:
        raise ValueError(f"{name!r} is no name of a cohort")
    return name


def with_seconds(sweep: Sweep, seconds: Sequence[float | None]) -> Sweep:
    """Return the sweep with expected times."""
    pairs = zip(sweep.cohorts, seconds, strict=True)
    return replace(sweep, cohorts=tuple(replace(each, seconds=took) for each, took in pairs))


def state_of(sweep: Sweep, cohort: Cohort) -> State:
    """Tell how far a cohort has come."""
    if sweep.card(cohort).is_file():
        return "done"
    if is_claimed(sweep, cohort):
        return "running"
    if sweep.failure(cohort).is_file():
        return "failed"
    return "stopped" if sweep.run_folder(cohort).is_dir() else "waiting"


def is_claimed(sweep: Sweep, cohort: Cohort) -> bool:
    """Tell whether a living worker holds a cohort."""
    claim = sweep.claim(cohort)
    if not claim.is_dir():
        return False
    with held(claim) as free:
        return not free


@contextlib.contextmanager
def held(claim: Path) -> Iterator[bool]:
    """Hold a claim for this process alone; give whether it is.

    Both the folder, which every version locked, and a file in it: NFS locks no folders.
    """
    with atomic.locked(claim) as folder, atomic.locked(claim / LOCK) as file:
        yield folder and file


def check_claims(sweep: Sweep) -> None:
    """Refuse a sweep on a file system on which two workers would do one cohort.

    Raises:
        RunError: a claim there keeps nobody out.
    """
    with atomic.reported(sweep.folder, UNWRITTEN):
        why = atomic.why_unlocked(sweep.folder / "claims")
    if why:
        raise RunError(
            f"Claims in {sweep.folder} would keep no other worker out: {why}. Move the sweep to "
            f"another file system, or give each worker a part of its own: modeval sweep run "
            f"{sweep.folder} --shard 1/4 (1/1 for a single worker)."
        )


def share(cohorts: Sequence[Cohort], number: int, of: int) -> list[Cohort]:
    """Return the cohorts of shard ``number`` (from 1) of ``of``.

    >>> [len(share([None] * 5, number, 2)) for number in (1, 2)]
    [3, 2]
    """
    return list(cohorts[number - 1 :: of])
