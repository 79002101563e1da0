"""``modeval score``: finds what is there, writes JSON, and refuses the rest in one sentence."""

import json
from collections.abc import Sequence
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from modeval.cli.score import score_command
from modeval.data import write_dataset
from modeval.errors import ModevalError
from modeval.nn import create
from modeval.score.files import SCHEMA
from modeval.spec import DataSpec, ModelSpec, RunSpec, TrainSpec
from modeval.trace import modarch_weights
from modeval.train import files

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
        for key, shape in modarch_weights.layout(data, model, modarch_weights.Sizes()).items()
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
    record = files.RunRecord(
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
    files.write_tensors(folder / "last.safetensors", network.state_dict())
    return folder


def test_everything_below_a_folder_is_scored(tmp_path: Path) -> None:
    root = tmp_path / "Regression"
    for task, seed in ((0, 0), (0, 1), (1, 0)):
        write_reference(root, "Modular_joint", "module", seed, task)
    write_reference(root, "Monolithic", "none")
    output = run(root, "--json", tmp_path / "card.json", "--precision", "0.05")
    form = card(tmp_path / "card.json")
    assert len(form["models"]) == 2  # type: ignore[arg-type]
    alignment = values(form, "alignment_distance")
    assert [entry["seed"] for entry in alignment] == [
        None,
        {"task": 0, "model": 0},
        {"task": 0, "model": 1},
        {"task": 1, "model": 0},
    ]
    assert alignment[0]["low"] <= alignment[0]["value"] <= alignment[0]["high"]  # type: ignore[operator]
    assert "Monolithic" in output
    assert "rows rules, columns modules" in output


def test_run_folders_are_scored_beside_others(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one")
    write_reference(tmp_path / "Classification", "GT_Modular", "oracle")
    output = run(tmp_path, "--json", tmp_path / "card.json", "--precision", "0.05", "--quiet")
    assert output == ""
    form = card(tmp_path / "card.json")
    assert [model["origin"] for model in form["models"]] == ["run", "modarch"]  # type: ignore[attr-defined]
    assert len(values(form, "in_distribution_error_rate")) == 2


def test_from_and_only_choose_what_is_scored(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    write_reference(tmp_path / "Regression", "Modular_joint", "module")
    write_reference(tmp_path / "Regression", "GT_Modular", "oracle")
    common = ("--json", tmp_path / "card.json", "--precision", "0.05", "--quiet")
    run(tmp_path, "--from", "modarch", "--only", "GT_Modular", *common)
    assert [model["title"] for model in card(tmp_path / "card.json")["models"]] == ["GT-Modular"]  # type: ignore[attr-defined]
    run(tmp_path, "--from", "run", *common)
    assert [model["title"] for model in card(tmp_path / "card.json")["models"]] == ["Modular-op"]  # type: ignore[attr-defined]


def test_a_folder_with_only_a_matrix_is_scored(tmp_path: Path) -> None:
    folder = tmp_path / "Logs" / "Data-Seed_0" / "GT_Rules_2" / "Modular_joint_8_16_2_0"
    folder.mkdir(parents=True)
    np.save(folder / "prob_last.npy", np.array([[0.4, 0.1], [0.1, 0.4]]))
    run(folder, "--json", tmp_path / "card.json", "--quiet")
    [together, own] = values(card(tmp_path / "card.json"), "alignment_distance")
    assert together["value"] == pytest.approx(0.2)
    assert own["samples"] is None


def test_unfinished_models_are_left_out_and_named(tmp_path: Path) -> None:
    write_reference(tmp_path / "Regression", "GT_Modular", "oracle", 0)
    other = write_reference(tmp_path / "Regression", "GT_Modular", "oracle", 1)
    (other / "model_last.pt").rename(other / "model_best.pt")
    output = run(tmp_path, "--json", tmp_path / "card.json", "--precision", "0.05")
    assert "left out" in output
    notes = card(tmp_path / "card.json")["notes"]
    assert "Use --selection best." in notes[0]  # type: ignore[index]
    run(tmp_path, "--selection", "best", "--precision", "0.05", "--quiet")


# --- refusals ------------------------------------------------------------------------------------


def refusal(*arguments: object) -> str:
    with pytest.raises(ModevalError) as error:
        run(*arguments)
    return str(error.value)


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "nothing at" in refusal(tmp_path / "none")


def test_a_folder_of_another_program_says_what_was_sought_and_found(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    message = refusal(tmp_path)
    assert "run.json" in message
    assert "GT_Rules_4" in message
    assert "holiday.jpg" in message


def test_a_file_is_answered_with_its_folder(tmp_path: Path) -> None:
    folder = write_reference(tmp_path / "Regression", "GT_Modular", "oracle")
    assert f"modeval score {folder}" in refusal(folder / "model_last.pt")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--from", "elsewhere"), "--from elsewhere: expected one of auto, run, modarch"),
        (("--objective", "ranking"), "expected one of regression, classification"),
        (("--selection", "first"), "expected one of last, best"),
        (("--precision", "0"), "Use --precision 0.005"),
        (("--only", "nowhere"), "Drop --only"),
        (("--json", "none/card.json"), "no such file or directory"),
        (("--selection", "best"), "--selection last"),
        (("--device", "abacus"), "expected auto, cpu, cuda"),
    ],
)
def test_flags_that_cannot_be_are_refused(
    flags: tuple[str, str], message: str, tmp_path: Path
) -> None:
    write_reference(tmp_path / "Regression", "GT_Modular", "oracle")
    assert message in refusal(tmp_path, *flags)


def test_a_damaged_checkpoint_leaves_no_file_behind(tmp_path: Path) -> None:
    write_reference(tmp_path / "Regression", "Modular_joint", "module")
    folder = write_reference(tmp_path / "Regression", "GT_Modular", "oracle")
    path = folder / "model_last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert "cut short" in refusal(tmp_path, "--json", tmp_path / "card.json", "--precision", "0.1")
    assert not (tmp_path / "card.json").exists()


def test_nothing_but_failed_seeds_is_an_error(tmp_path: Path) -> None:
    folder = write_reference(tmp_path / "Regression", "GT_Modular", "oracle")
    state = torch.load(folder / "model_last.pt", weights_only=True)
    state["decoder.0.bias"][0] = torch.inf
    torch.save(state, folder / "model_last.pt")
    assert "its weights are not finite" in refusal(folder)


def test_a_data_folder_takes_the_place_of_fresh_samples(tmp_path):
    run_folder = write_run(tmp_path / "run")
    spec = DataSpec(rules=2)
    write_dataset(tmp_path / "data", spec, [0], samples=500)
    run(run_folder, "--data", tmp_path / "data", "--json", tmp_path / "card.json", "--quiet")
    form = card(tmp_path / "card.json")
    assert form["dataset"]["samples"] == 500
    assert {entry["samples"] for entry in values(form, "in_distribution_loss")} == {500, 1_000}
    assert values(form, "alignment_distance")
    assert not values(form, "out_of_distribution_loss")


def test_a_shifted_data_folder_gives_a_loss_out_of_distribution(tmp_path):
    run_folder = write_run(tmp_path / "run")
    write_dataset(tmp_path / "data", DataSpec(rules=2, scale=2.0), [0], samples=500)
    run(run_folder, "--data", tmp_path / "data", "--json", tmp_path / "card.json", "--quiet")
    form = card(tmp_path / "card.json")
    assert {entry["scale"] for entry in values(form, "out_of_distribution_loss")} == {2.0}
    assert not values(form, "in_distribution_loss")


def test_a_data_folder_of_another_task_is_refused(tmp_path):
    run_folder = write_run(tmp_path / "run")
    write_dataset(tmp_path / "rules", DataSpec(rules=4), [0], samples=10)
    write_dataset(tmp_path / "seeds", DataSpec(rules=2), [3], samples=10)
    for name, message in (("rules", "rules is 4, not 2"), ("seeds", "task seeds are 3")):
        with pytest.raises(ModevalError, match=message):
            run(run_folder, "--data", tmp_path / name)
