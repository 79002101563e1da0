"""The README's table of speed is what was measured; which rows miss a goal is told rightly."""

from pathlib import Path
from typing import Any

import pytest
from scripts import load_script

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("bench_here")


def test_the_table_of_the_manual_is_made_from_what_was_measured(script: Any, readme: str) -> None:
    assert script.with_table(readme, script.held()) == readme


def test_every_family_model_and_number_of_rules_was_measured(script: Any) -> None:
    rows = script.held()["rows"]
    assert len({(row["family"], row["rules"], row["model"]) for row in rows}) == 36
    assert all(row["ratio"] > 1 for row in rows)


@pytest.mark.parametrize(
    ("row", "misses"),
    [
        (("attention", 2, 4.9, 0.49), True),
        (("attention", 2, 5.0, 0.1), False),
        (("attention", 2, 3.0, 0.5), False),
        (("recurrent", 2, 1.0, 0.1), False),
        (("recurrent", 8, 3.9, None), True),
        (("recurrent", 8, 4.0, None), False),
        (("mlp", 2, 50.0, 0.4), True),
        (("mlp", 2, 2.0, 0.6), False),
    ],
)
def test_a_row_misses_its_goal_where_neither_the_ratio_nor_the_share_is_reached(
    script: Any, row: tuple[Any, ...], *, misses: bool
) -> None:
    named = dict(zip(("family", "rules", "ratio", "share"), row, strict=True))
    assert bool(script.missed([named])) == misses
