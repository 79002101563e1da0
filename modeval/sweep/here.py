"""A worker on this machine: train with an engine, score as ``modeval score`` does."""

from collections.abc import Callable
from pathlib import Path

import torch

from modeval.evaluate.cohort import evaluate
from modeval.evaluate.runs import load_run
from modeval.score.cohorts import score
from modeval.score.stored.files import write_scorecard
from modeval.spec import Engine
from modeval.sweep.plan import Cohort
from modeval.sweep.run import Worker
from modeval.train.extend import pending
from modeval.train.loop import Progress, train
from modeval.train.records import is_run, read_record


def worker(
    *,
    device: torch.device,
    engine: Engine = "auto",
    precision: float = 0.005,
    begun: Callable[[Cohort], None] = lambda _cohort: None,
    ended: Callable[[Cohort, str], None] = lambda _cohort, _error: None,
    watch: Callable[[Progress], None] = lambda _progress: None,
) -> Worker:
    """Return what trains and scores cohorts here."""

    def train_into(cohort: Cohort, folder: Path, resume: bool) -> None:  # noqa: FBT001 - as it is called
        begins = not (resume and is_run(folder))
        if not begins and read_record(folder).status == "complete" and not pending(folder):
            return
        train(cohort.spec, folder, device=device, engine=engine, resume=not begins, watch=watch)

    def score_into(folder: Path, card: Path) -> None:
        subject = load_run(folder, "last")
        evaluation = evaluate(subject, precision=precision, device=device)
        write_scorecard(card, score(subject, evaluation, precision=precision))

    return Worker(train=train_into, score=score_into, begun=begun, ended=ended)
