"""``modeval score``: finds what is there, writes JSON, and refuses the rest in one sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scoring import card, refusal, run, values, write_reference, write_run

from modeval.data import write_dataset
from modeval.errors import ModevalError
from modeval.spec import DataSpec


def test_everything_below_a_folder_is_scored(tmp_path: Path) -> None:
    root = tmp_path / "Regression"
    for task, seed in ((0, 0), (0, 1), (1, 0)):
        write_reference(root, "Modular_joint", "module", seed, task)
    write_reference(root, "Monolithic", "none")
    output = run(root, "--json", tmp_path / "card.json", "--precision", "0.05")
    form = card(tmp_path / "card.json")
    assert len(form["models"]) == 2
    alignment = values(form, "alignment_distance")
    assert [entry["seed"] for entry in alignment] == [
        None,
        {"task": 0, "model": 0},
        {"task": 0, "model": 1},
        {"task": 1, "model": 0},
    ]
    assert alignment[0]["low"] <= alignment[0]["value"] <= alignment[0]["high"]
    assert "Monolithic" in output
    assert "numbers are percent of a row" in output


def test_run_folders_are_scored_beside_others(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one")
    write_reference(tmp_path / "Classification", "GT_Modular", "oracle")
    output = run(tmp_path, "--json", tmp_path / "card.json", "--precision", "0.05", "--quiet")
    assert output == ""
    form = card(tmp_path / "card.json")
    assert [model["origin"] for model in form["models"]] == ["run", "modarch"]
    assert len(values(form, "in_distribution_error_rate")) == 2


def test_from_and_only_choose_what_is_scored(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    write_reference(tmp_path / "Regression", "Modular_joint", "module")
    write_reference(tmp_path / "Regression", "GT_Modular", "oracle")
    common = ("--json", tmp_path / "card.json", "--precision", "0.05", "--quiet")
    run(tmp_path, "--from", "modarch", "--only", "GT_Modular", *common)
    assert [model["title"] for model in card(tmp_path / "card.json")["models"]] == ["GT-Modular"]
    run(tmp_path, "--from", "run", *common)
    assert [model["title"] for model in card(tmp_path / "card.json")["models"]] == ["Modular-op"]


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
    assert "Use --selection best." in notes[0]
    run(tmp_path, "--selection", "best", "--precision", "0.05", "--quiet")


# --- refusals ------------------------------------------------------------------------------------


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
        (("--from", "elsewhere"), "expected one of auto, run, modarch, trace, model"),
        (("--layers", "0-"), "--layers 0-: expected numbers from 0, as 0,4,8-11"),
        (("--layers", "0"), "--layers is for traces, and there is none here"),
        (("--view", "assignment"), "--view is for traces"),
        (("--prior", "flat"), "expected one of uniform, empirical"),
        (("--data", "a", "--data", "b"), "give --data once"),
        (("--objective", "ranking"), "expected one of regression, classification"),
        (("--selection", "first"), "expected last, best, or phase-1"),
        (("--precision", "0"), "Use --precision 0.005"),
        (("--only", "nowhere"), "Drop --only"),
        (("--selection", "best"), "--selection last"),
        (("--device", "abacus"), "expected auto, cpu, cuda"),
    ],
)
def test_flags_that_cannot_be_are_refused(
    flags: tuple[str, str], message: str, tmp_path: Path
) -> None:
    write_reference(tmp_path / "Regression", "GT_Modular", "oracle")
    assert message in refusal(tmp_path, *flags)


def cut_short(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:1000])
    return path


def test_a_damaged_checkpoint_alone_leaves_no_file_behind(tmp_path: Path) -> None:
    folder = write_reference(tmp_path / "Regression", "GT_Modular", "oracle")
    cut_short(folder / "model_last.pt")
    assert "cut short" in refusal(tmp_path, "--json", tmp_path / "card.json", "--precision", "0.1")
    assert not (tmp_path / "card.json").exists()


def test_a_damaged_seed_is_marked_and_the_others_score_as_they_would_without_it(
    tmp_path: Path,
) -> None:
    root = tmp_path / "Regression"
    folders = [write_reference(root, "Modular_joint", "module", seed) for seed in range(3)]
    whole = ("--precision", "0.1", "--quiet", "--json")
    run(root, "--only-model-seeds", "0,2", *whole, tmp_path / "alone.json")
    path = cut_short(folders[1] / "model_last.pt")
    output = run(root, *whole, tmp_path / "card.json")
    assert "cut short" in output.replace("\n", "")
    form, alone = card(tmp_path / "card.json"), card(tmp_path / "alone.json")
    members = form["models"][0]["members"]
    assert [member["status"] for member in members] == ["ok", "failed", "ok"]
    assert str(path) in members[1]["note"]
    assert form["scores"] == alone["scores"]
    assert [entry["seeds"] for entry in values(form, "alignment_distance")] == [2, 1, 1]


def test_a_damaged_cohort_is_marked_and_stops_no_other(tmp_path: Path) -> None:
    write_reference(tmp_path / "Regression", "Modular_joint", "module")
    folder = write_reference(tmp_path / "Regression", "GT_Modular", "oracle")
    cut_short(folder / "model_last.pt")
    cut_short(write_run(tmp_path / "run") / "last.safetensors")
    (write_run(tmp_path / "worse") / "run.json").write_text("{")
    output = run(tmp_path, "--json", tmp_path / "card.json", "--precision", "0.1")
    form = card(tmp_path / "card.json")
    found = {
        (model["title"], member["status"])
        for model in form["models"]
        for member in model["members"]
    }
    assert found == {("Modular", "ok"), ("GT-Modular", "failed"), ("Modular-op", "failed")}
    assert any("worse" in note and "damaged" in note for note in form["notes"])
    assert "failed: GT-Modular, task seed" in " ".join(output.split())


@pytest.mark.parametrize("which", ["run", "reference"])
def test_only_some_seeds_can_be_scored(tmp_path: Path, which: str) -> None:
    """A member scores the same beside others and without them."""
    if which == "run":
        write_run(tmp_path / "run", seeds=4)
    else:
        for seed in range(4):
            write_reference(tmp_path / "Regression", "Modular_joint", "module", seed)
    common = ("--precision", "0.1", "--quiet", "--json")
    run(tmp_path, *common, tmp_path / "all.json")
    run(tmp_path, "--only-model-seeds", "1-2", *common, tmp_path / "some.json")
    some = {
        (entry["metric"], str(entry["seed"])): entry["value"]
        for entry in card(tmp_path / "some.json")["scores"]
        if entry["seed"] is not None
    }
    every = {
        (entry["metric"], str(entry["seed"])): entry["value"]
        for entry in card(tmp_path / "all.json")["scores"]
    }
    assert {seed for _, seed in some} == {str({"task": 0, "model": seed}) for seed in (1, 2)}
    for key, value in some.items():
        if which == "run" or "loss" not in key[0]:
            assert value == pytest.approx(every[key], rel=1e-5), key
    assert "leave no member" in refusal(tmp_path, "--only-task-seeds", "7")


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
