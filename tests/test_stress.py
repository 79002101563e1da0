"""Small versions of fixtures/try_to_break.py: kills lose nothing, damage causes no traceback."""

import sys
from typing import Any

import pytest
from scripts import load_script

pytest.importorskip("pyarrow", reason="traces are Parquet files")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("try_to_break")


@pytest.mark.slow
def test_kills_lose_nothing_but_time(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.loop, "VALIDATION_SAMPLES", 64)
    tally = script.kill_all(6, seed=1, names=script.WRITERS[:-1])  # a recording takes seconds
    assert tally.faults == []
    assert tally.outcomes["kills"] >= 6


@pytest.mark.slow
def test_damaged_files_cause_no_traceback(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.loop, "VALIDATION_SAMPLES", 64)
    tally = script.fuzz_all(120, seed=1)
    assert tally.faults == []
    assert tally.outcomes["refused"] > 40
