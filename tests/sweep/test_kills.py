"""A small version of fixtures/kill_a_sweep.py: killed workers lose nothing but time."""

import sys

import pytest
from scripts import load_script

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers are forked")


@pytest.fixture(scope="module")
def script():
    return load_script("kill_a_sweep")


@pytest.mark.slow
def test_a_sweep_whose_workers_are_killed_ends_with_the_same_bits(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script.loop, "VALIDATION_SAMPLES", 64)
    outcome = script.try_it(tmp_path, cohorts=4, kills=4, seed=1, longest=0.6)
    assert outcome.whole, outcome
    assert outcome.kills
    assert outcome.resumed


def test_other_bits_are_told_from_the_same(script, tmp_path):
    from safetensors.torch import save_file  # noqa: PLC0415
    from torch import tensor  # noqa: PLC0415

    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    found = []
    for value, note in ((1.0, "a"), (1.0, "a"), (1.0, "b"), (1.0000001, "a")):
        save_file({"w": tensor([value])}, run / "last.safetensors", metadata={"note": note})
        found.append(script.bits(tmp_path)["runs/one/last.safetensors"])
    assert found[0] == found[1]
    assert len(set(found)) == 3
