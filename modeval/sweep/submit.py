"""Sweeps on a cluster: workers as one job array, through submitit.

Each job is a worker like any other: it takes whatever cohort is free. When its time runs out it is
put in the queue again, and goes on from the last checkpoint to the same bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeval.errors import DependencyError, SpecError
from modeval.sweep.plan import read_sweep
from modeval.sweep.run import Outcome, work


@dataclass(frozen=True, slots=True)
class Job:
    """A worker as a job: a picklable call, and what is to be done when its time runs out.

    Attributes:
        folder: of the sweep.
        device: as ``modeval train --device`` takes it.
        engine: likewise.
    """

    folder: Path
    device: str = "auto"
    engine: str = "auto"

    def __call__(self) -> Outcome:
        """Work through what is left of the sweep."""
        import torch  # noqa: PLC0415 - on the node that does the work

        from modeval.sweep.here import worker  # noqa: PLC0415

        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        engine: Any = self.engine
        return work(read_sweep(self.folder), worker(device=torch.device(name), engine=engine))

    def checkpoint(self) -> Any:
        """Be put in the queue again (submitit calls this shortly before the time runs out)."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415 - optional

        return DelayedSubmission(self)


def submit(
    job: Job,
    *,
    jobs: int,
    cluster: str = "slurm",
    parameters: Mapping[str, Any] | None = None,
    at_once: int = 256,
) -> list[str]:
    """Submit workers as one array and return the numbers of the jobs.

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
        with executor.batch():
            submitted = [executor.submit(job) for _ in range(jobs)]
    except (RuntimeError, ValueError, TypeError, NameError, OSError) as error:
        raise SpecError(
            f"The jobs could not be submitted to {cluster}: {error}. Check the scheduler, or work "
            f"here with: modeval sweep run {job.folder}"
        ) from None
    return [each.job_id for each in submitted]
