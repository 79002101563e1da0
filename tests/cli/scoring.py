"""What tests of ``modeval score`` share: runs of the command, and small things to score."""

import json
from collections.abc import Sequence
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch
import typer
from typer.testing import CliRunner

from modeval.cli.score import score_command
from modeval.errors import ModevalError
from modeval.evaluate import reference_weights
from modeval.nn import create
from modeval.score.stored.files import SCHEMA
from modeval.spec import DataSpec, ModelSpec, RunSpec, TrainSpec
from modeval.tensors import write_tensors
from modeval.train import files, records

app = typer.Typer(rich_markup_mode="rich")
app.command()(score_command)


def run(*arguments: object) -> str:
    """Run the command; errors that a user sees are raised."""
    texts = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, texts, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def card(path: Path) -> dict[str, object]:
    form: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(form, json.loads(SCHEMA.read_text(encoding="utf-8")))
    return form


def values(form: dict[str, object], metric: str) -> list[dict[str, object]]:
    scores: Sequence[dict[str, object]] = form["scores"]  # type: ignore[assignment]
    return [entry for entry in scores if entry["metric"] == metric]


def write_reference(root: Path, name: str, scorer: str, seed: int = 0, task: int = 0) -> Path:
    """Write a small reference checkpoint with random weights."""
    data = DataSpec(task="binary", rules=2)
    modules = 1 if scorer == "none" else 0
    model = ModelSpec(scorer=scorer, modules=modules, encoder=8, width=16)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    state = {
        key: torch.randn(shape, generator=generator) * 0.3
        for key, shape in reference_weights.layout(data, model, reference_weights.Sizes()).items()
    }
    folder = root / "Logs" / f"Data-Seed_{task}" / "GT_Rules_2" / f"{name}_8_16_2_{seed}"
    folder.mkdir(parents=True)
    torch.save(state, folder / "model_last.pt")
    return folder


def write_run(folder: Path, seeds: int = 2) -> Path:
    """Write a small run folder with random weights."""
    spec = RunSpec(
        data=DataSpec(rules=2),
        model=ModelSpec(scorer="rule", encoder=8, width=16),
        train=TrainSpec(seeds=tuple((0, seed) for seed in range(seeds))),
    )
    files.start_folder(folder, spec)
    record = records.RunRecord(
        digest=spec.digest,
        status="complete",
        step=1,
        engine="eager",
        data="",
        diverged=(None,) * seeds,
        versions={},
    )
    files.write_record(folder, record)
    network = create(spec.data, spec.model, range(seeds))
    write_tensors(folder / "last.safetensors", network.state_dict(), files.UNWRITTEN)
    return folder


def refusal(*arguments: object) -> str:
    with pytest.raises(ModevalError) as error:
        run(*arguments)
    return str(error.value)
