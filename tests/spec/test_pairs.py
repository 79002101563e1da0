"""What never goes together: the table that users see is what specifications refuse."""

import itertools
import json
from typing import Any

import pytest

from modeval.cli.training.systems import systems_command
from modeval.spec import ModelSpec
from modeval.spec.pairs import AXES, Impossible, grouped, impossible, refusal

USUAL = {axis: choices[0] for axis, choices in AXES.items()} | {"scorer": "both"}
KNOWN = impossible()
PAIRS = {frozenset((pair.first, pair.second)) for pair in KNOWN}


def named(point: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the choices of a point, without those that other models do not read."""
    return [(axis, getattr(choice, "kind", choice)) for axis, choice in point.items()]


@pytest.mark.parametrize("task", AXES["task"])
def test_a_point_is_refused_where_two_of_its_choices_stand_in_the_table_and_only_there(
    task: str,
) -> None:
    axes = [axis for axis in AXES if axis != "task"]
    for one, other in itertools.combinations(axes, 2):
        for first, second in itertools.product(AXES[one], AXES[other]):
            point = {**USUAL, "task": task, one: first, other: second}
            special = {point["aggregation"], point["level"]} & {"sluice", "global"}
            point["layers"] = 2 if special else 1
            pairs = itertools.combinations(named(point), 2)
            expected = any(frozenset(pair) in PAIRS for pair in pairs)
            why = refusal(point)
            if expected or why is None:
                assert (why is not None) == expected, (point, why)
            elif task == "sets":  # a third choice has the last word: heads that modules share
                assert point["aggregation"] in ("parameters", "inputs"), (point, why)
            else:  # or cells, which compute position by position
                assert (task, point["level"]) == ("series", "sample"), (point, why)


def test_a_reason_says_what_to_type_and_names_one_of_both_choices() -> None:
    for pair in KNOWN:
        assert "Use --" in pair.reason or "Drop --" in pair.reason, pair
        assert any(name in pair.reason for _, name in (pair.first, pair.second)), pair


def test_groups_hold_each_pair_once() -> None:
    held = [
        frozenset((group.choice, (group.axis, other)))
        for group in grouped(KNOWN)
        for other in group.others
    ]
    assert sorted(map(sorted, held)) == sorted(map(sorted, PAIRS))
    assert len(grouped(KNOWN)) < len(KNOWN) / 3


def test_choices_that_no_axis_knows_are_in_no_pair() -> None:
    assert all(pair.first[0] in AXES and pair.second[0] in AXES for pair in KNOWN)
    assert {"scorer", "gating", "computation", "aggregation", "level"} <= set(
        ModelSpec.__dataclass_fields__
    )


def test_the_command_lists_them_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for file in (None, "-"):
        systems_command(None, invalid=True, as_json=file)
        said.append(capsys.readouterr().out)
    assert "computation adapter: not with aggregation parameters" in said[0]
    assert f"{len(KNOWN)} pairs" in said[0]
    first: Impossible = KNOWN[0]
    assert json.loads(said[1])[0] == {
        "choices": dict((first.first, first.second)),
        "reason": first.reason,
    }
