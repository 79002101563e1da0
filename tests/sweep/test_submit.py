"""Workers as jobs: submitit's local executor, and what is said where nothing can be sent."""

import sys
import time

import pytest

from modeval.errors import DependencyError, SpecError
from modeval.sweep.plan import plan, read_sweep, state_of, write_sweep
from modeval.sweep.submit import Job, array_limit, submit

GRID = {
    "models": ["modular", "gt-modular"],
    "data": {"rules": [2]},
    "model": {"encoder": 4, "width": 8},
    "train": {"steps": 4, "batch": 8},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # submitit does not wait for its processes
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_two_local_jobs_do_a_sweep_between_them(tmp_path):
    pytest.importorskip("submitit")
    write_sweep(plan(GRID, tmp_path))
    numbers = submit(Job(tmp_path, device="cpu"), jobs=2, cluster="local")
    assert len(set(numbers)) == 2
    sweep = read_sweep(tmp_path)
    deadline = time.monotonic() + 240
    while {state_of(sweep, cohort) for cohort in sweep.cohorts} != {"done"}:
        assert time.monotonic() < deadline, [p.read_text() for p in tmp_path.glob("logs/*.err")]
        time.sleep(0.2)


def test_a_job_that_is_stopped_is_the_same_job_again(tmp_path):
    helpers = pytest.importorskip("submitit.helpers")
    job = Job(tmp_path, device="cpu", engine="eager")
    again = job.checkpoint()
    assert isinstance(again, helpers.DelayedSubmission)
    assert again.function == job


@pytest.mark.parametrize(("says", "limit"), [("MaxArraySize            = 501", 500), ("", 1000)])
def test_arrays_are_as_large_as_the_site_allows(tmp_path, monkeypatch, says, limit):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho 'MaxJobCount = 7'; echo '{says}'\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert array_limit() == limit


def test_without_submitit_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(DependencyError, match=r"modeval-cli\[slurm\]"):
        submit(Job(tmp_path), jobs=1)


def test_a_parameter_that_the_scheduler_does_not_know_is_refused(tmp_path):
    pytest.importorskip("submitit")
    with pytest.raises(SpecError, match="work here with: modeval sweep run"):
        submit(Job(tmp_path), jobs=1, cluster="local", parameters={"patience": 3})
