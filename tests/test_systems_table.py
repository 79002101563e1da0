"""The table of systems is what was measured, and its numbers are what systems are."""

import json
from pathlib import Path
from typing import Any

import pytest
from scripts import load_script

from modeval.spec.systems import BY_NAME

ROOT = Path(__file__).parents[1]
HELD = json.loads((ROOT / "fixtures/systems/systems.json").read_text(encoding="utf-8"))
ROWS: dict[str, dict[str, Any]] = HELD["systems"]


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("train_systems")


def test_the_table_beside_the_numbers_is_made_from_them(script: Any) -> None:
    page = (ROOT / "fixtures/systems/README.md").read_text(encoding="utf-8")
    assert script.with_table(page, ROWS) == page
    assert page.count("| `gt-modular`") == 1


def test_the_table_of_the_manual_has_one_system_of_each_kind(script: Any, readme: str) -> None:
    assert script.with_table(readme, ROWS) == readme
    assert set(script.PART) <= set(BY_NAME)
    assert len({BY_NAME[name].source for name in script.PART}) >= 0.8 * len(script.PART)
    with pytest.raises(SystemExit, match="no place for the table"):
        script.with_table("a page", ROWS)


def test_every_row_is_a_system_and_nearly_every_system_has_a_row() -> None:
    assert set(ROWS) <= set(BY_NAME)
    assert len(ROWS) >= 0.9 * len(BY_NAME)


def test_no_seed_of_any_system_failed() -> None:
    assert {name: row["failed"] for name, row in ROWS.items() if row["failed"]} == {}


@pytest.mark.parametrize("name", ["gt-modular", "gumbel", "switch", "hash", "hard-sharing"])
def test_hard_routing_adds_no_loss_when_it_is_made_hard(name: str) -> None:
    assert ROWS[name]["hard_gap"][0] == 0
    assert ROWS[name]["softness"][0] == 0


def test_systems_are_told_apart_by_their_scores_as_their_definitions_say() -> None:
    given = [name for name in ROWS if name.endswith("-per-rule") or name == "gt-modular"]
    assert len(given) > 8
    assert all(ROWS[name]["alignment"][0] == 1 for name in given)
    assert ROWS["global-weights"]["information"][0] == 1
    assert ROWS["expert-choice"]["collapse"][0] < 0.1 < ROWS["switch"]["collapse"][0]
    assert ROWS["noisy-top-k"]["collapse"][0] < ROWS["top-k"]["collapse"][0]
    assert ROWS["cross-stitch"]["alignment"][0] > 0.5


def test_a_sample_uses_fewer_parameters_where_routing_is_sparse() -> None:
    for name, row in ROWS.items():
        assert row["active"] <= row["parameters"], name
    for name in ("top-k", "switch", "gt-modular", "low-rank-per-rule"):
        assert ROWS[name]["active"] < ROWS[name]["parameters"]
    assert ROWS["modular"]["active"] == ROWS["modular"]["parameters"]
