"""Sweeps on a cluster: workers as one job array, through submitit.

Clusters limit how many jobs an array may have; more workers are sent as several arrays.

Each job is a worker like any other: it takes whatever cohort is free. When its time runs out it is
put in the queue again, and goes on from the last checkpoint to the same bits.
"""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeval.errors import DependencyError, SpecError
from modeval.sweep.plan import read_sweep, take_code
from modeval.sweep.run import Outcome, work

USUAL_LIMIT = 1000
"""Jobs of an array where SLURM does not say its limit: it is 1001 unless somebody changed it."""


@dataclass(frozen=True, slots=True)
class Job:
    """A worker as a job: a picklable call, and what is to be done when its time runs out.

    Attributes:
        folder: of the sweep.
        device: as ``modeval train --device`` takes it.
        engine: likewise.
        trust_code: run the files of the user's that the sweep keeps.
    """

    folder: Path
    device: str = "auto"
    engine: str = "auto"
    trust_code: bool = False

    def __call__(self) -> Outcome:
        """Work through what is left of the sweep."""
        import torch  # noqa: PLC0415 - on the node that does the work

        from modeval.sweep.here import worker  # noqa: PLC0415

        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        engine: Any = self.engine
        sweep = read_sweep(self.folder)
        take_code(sweep, trust=self.trust_code)
        return work(sweep, worker(device=torch.device(name), engine=engine))

    def checkpoint(self) -> Any:
        """Be put in the queue again (submitit calls this shortly before the time runs out)."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415 - optional

        return DelayedSubmission(self)


def array_limit() -> int:
    """Return how many jobs an array of this SLURM may have: ``MaxArraySize``, as it says itself."""
    try:
        told = subprocess.run(
            ["scontrol", "show", "config"],  # noqa: S607 - whichever SLURM is on the path
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return USUAL_LIMIT
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", told, re.MULTILINE)
    return max(int(found[1]) - 1, 1) if found else USUAL_LIMIT  # the last number is below it


def _arrays(jobs: int, limit: int) -> list[int]:
    """Return how many jobs each array gets.

    >>> _arrays(2500, 1000)
    [1000, 1000, 500]
    """
    return [min(limit, jobs - start) for start in range(0, jobs, limit)]


def submit(
    job: Job,
    *,
    jobs: int,
    cluster: str = "slurm",
    parameters: Mapping[str, Any] | None = None,
    at_once: int = 256,
) -> list[str]:
    """Submit workers as one array, or as many as their limit asks for; return the jobs' numbers.

    Args:
        job: the worker.
        jobs: how many.
        cluster: ``slurm``, or ``local`` for processes on this machine.
        parameters: of the scheduler, as submitit names them: ``timeout_min``, ``slurm_partition``,
            ``gpus_per_node``, ``cpus_per_task``, ...
        at_once: how many of the array may run at the same time.

    Raises:
        DependencyError: submitit is not installed.
        SpecError: there is no such scheduler here, or a parameter that it does not know.
    """
    try:
        import submitit  # noqa: PLC0415 - optional
    except ImportError:
        raise DependencyError(
            'Submitting takes submitit. Install it with: pip install "modeval-cli[slurm]"'
        ) from None
    try:
        executor = submitit.AutoExecutor(folder=job.folder / "logs", cluster=cluster)
        executor.update_parameters(name="modeval", **dict(parameters or {}))
        if cluster == "slurm":
            executor.update_parameters(slurm_array_parallelism=min(jobs, at_once))
        submitted = []
        for size in _arrays(jobs, array_limit() if cluster == "slurm" else jobs):
            with executor.batch():
                submitted += [executor.submit(job) for _ in range(size)]
    except (RuntimeError, ValueError, TypeError, NameError, OSError) as error:
        raise SpecError(
            f"The jobs could not be submitted to {cluster}: {error}. Check the scheduler, or work "
            f"here with: modeval sweep run {job.folder}"
        ) from None
    return [each.job_id for each in submitted]
