"""Working through a sweep: claim a cohort, train it, score it, and go to the next.

Any number of workers may be at one sweep. A claim is a lock on a folder, which dies with its
worker: no cohort is ever done twice at a time, and none stays claimed by the dead. A cohort that
was cut off goes on from its last checkpoint, to the same bits.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modeval import atomic
from modeval.errors import ModevalError, StoppedError
from modeval.sweep.plan import UNWRITTEN, Cohort, Sweep, check_claims, held, share, state_of

Train = Callable[[Cohort, Path, bool], None]
Score = Callable[[Path, Path], None]
ATTEMPTS = 4
PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker does with a cohort.

    Attributes:
        train: trains a cohort into a folder; the last argument says to go on with what lies there.
        score: scores a run folder into a file.
        begun: is told which cohort is next.
        ended: is told of a cohort that is done (no error) or failed.
        stopped: says whether to stop before the next cohort.
    """

    train: Train
    score: Score
    begun: Callable[[Cohort], None] = lambda _cohort: None
    ended: Callable[[Cohort, str], None] = lambda _cohort, _error: None
    stopped: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a worker's pass over a sweep.

    Attributes:
        done: cohorts that it finished.
        failed: cohorts that failed under it.
        before: cohorts that were done or had failed already.
        elsewhere: cohorts that another worker holds.
    """

    done: int = 0
    failed: int = 0
    before: int = 0
    elsewhere: int = 0


def work(
    sweep: Sweep, worker: Worker, *, shard: tuple[int, int] | None = None, retry: bool = False
) -> Outcome:
    """Do what is left of a shard of a sweep.

    A cohort that fails is marked with the reason and stops nothing else. What another worker holds
    is looked at again when the rest is done: its claim dies with it.

    Args:
        sweep: what is to be done.
        worker: how.
        shard: number and count of the shards, the first is 1, that this worker does alone; when
            absent it shares all of the sweep with others, which takes locks.
        retry: try cohorts again that failed before.

    Raises:
        RunError: the file system has no locks, and no shard is given.
        StoppedError: it was interrupted; everything that was done is kept.
    """
    if shard is None:
        check_claims(sweep)
    total = Outcome()
    left = share(sweep.cohorts, *(shard or (1, 1)))
    while left:
        elsewhere: list[Cohort] = []
        before = total
        for cohort in left:
            if worker.stopped():
                return replace(total, elsewhere=len(elsewhere))
            outcome = _one(sweep, cohort, worker, retry=retry)
            if outcome == "elsewhere":
                elsewhere.append(cohort)
            else:
                total = replace(total, **{outcome: getattr(total, outcome) + 1})
        left = elsewhere if total != before else []  # whoever held them may have died meanwhile
        total = replace(total, elsewhere=len(elsewhere))
    return total


def _one(sweep: Sweep, cohort: Cohort, worker: Worker, *, retry: bool) -> str:
    settled = ("done",) if retry else ("done", "failed")
    if state_of(sweep, cohort) in settled:
        return "before"
    with _claimed(sweep.claim(cohort)) as mine:
        if not mine:
            return "elsewhere"
        if sweep.card(cohort).is_file():  # another worker was quicker
            return "before"
        worker.begun(cohort)
        sweep.failure(cohort).unlink(missing_ok=True)
        try:
            _do(sweep, cohort, worker)
        except StoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - out of memory too must stop nothing else
            said = str(error) if isinstance(error, ModevalError) else _in_words(error)
            _mark(sweep, cohort, said)
            worker.ended(cohort, said)
            return "failed"
        worker.ended(cohort, "")
    return "done"


@contextlib.contextmanager
def _claimed(claim: Path) -> Iterator[bool]:
    """Hold a claim; try again for a moment, because whoever asks for its state holds it briefly."""
    claim.mkdir(parents=True, exist_ok=True)
    for attempt in range(ATTEMPTS):
        with held(claim) as mine:
            if mine or attempt == ATTEMPTS - 1:
                yield mine
                return
        time.sleep(PAUSE)


def _do(sweep: Sweep, cohort: Cohort, worker: Worker) -> None:
    folder = sweep.run_folder(cohort)
    worker.train(cohort, folder, folder.is_dir())
    worker.score(folder, sweep.card(cohort))


def _in_words(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _mark(sweep: Sweep, cohort: Cohort, error: str) -> None:
    form = {"cohort": cohort.name, "error": error}
    atomic.write_text(sweep.failure(cohort), json.dumps(form, indent=1) + "\n", UNWRITTEN)


def failures(sweep: Sweep, cohorts: Sequence[Cohort]) -> dict[str, str]:
    """Return why cohorts failed, by their names."""
    found = {}
    for cohort in cohorts:
        path = sweep.failure(cohort)
        if path.is_file():
            found[cohort.name] = _reason(path)
    return found


def _reason(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["error"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{path} is damaged, so its reason is not known"
