"""However recordings are merged, the scorecard is the same."""

import json
import random
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from modeval.cli import main as program

PARTS = ("one", "two", "three")
NAMES = ("id", "title", "source", "model", "models")
"""Names of files, and what records tell of them."""


def recording(part: str) -> str:
    """Return 12 documents of two layers, routed by word and label, with few choices in common."""
    draw = random.Random(part)
    rows = ["layer,document,position,label,token,chosen,chosen_2"]
    for document in range(12):
        label = draw.choice("aabc")
        for position in range(draw.randint(12, 30)):
            token = draw.randrange(30)
            for layer in range(2):
                own = "abc".index(label) if draw.random() < 0.3 else token * (layer + 3) % 7
                other = (own + draw.randint(1, 6)) % 7
                rows.append(f"{layer},{document},{position},{label},{token},{own},{other}")
    return "\n".join(rows) + "\n"


def without_names(form: Any) -> Any:
    if isinstance(form, dict):
        return {key: without_names(part) for key, part in form.items() if key not in NAMES}
    return [without_names(part) for part in form] if isinstance(form, list) else form


def test_the_order_in_which_recordings_are_merged_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def modeval(command: str) -> None:
        result = CliRunner().invoke(program.app, shlex.split(command))
        assert result.exit_code == 0, result.output or result.exception

    for part in PARTS:
        Path(f"{part}.csv").write_text(recording(part))
        modeval(f"import {part}.csv --modules 7 --out {part}.trace")
    found = []
    for number, order in enumerate((PARTS, PARTS[::-1])):
        files = " ".join(f"{part}.trace" for part in order)
        modeval(f"trace merge {files} --out all-{number}.trace")
        modeval(f"score all-{number}.trace --json card-{number}.json --quiet")
        found.append(without_names(json.loads(Path(f"card-{number}.json").read_text())))
    scored = {score["metric"] for score in found[0]["scores"]}
    assert {"mutual_information", "semantic_information", "temporal_persistence"} <= scored
    assert found[0] == found[1]
