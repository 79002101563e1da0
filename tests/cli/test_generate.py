"""``modeval generate``: flags, spec files, what is printed, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from modeval.cli.training.generate import choose_tasks, generate_command
from modeval.data import open_dataset
from modeval.errors import DataError, ModevalError, SpecError
from modeval.spec import DataSpec, RunSpec, TrainSpec, to_toml

APP = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
APP.command()(generate_command)


def generate(*arguments: object) -> Any:
    """Run the command; an error that a user can cause is raised."""
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    if isinstance(result.exception, ModevalError):
        raise result.exception
    return result


def test_flags_make_the_data_set_that_they_describe(tmp_path: Path) -> None:
    out = tmp_path / "data"
    result = generate(
        out, "--task", "sets", "--search", "product", "--rules", 3, "--length", 4, "--scale", 2,
        "--rule-probabilities", "0.5,0.25,0.25", "--samples", 30, "--task-seeds", 2,
        "--data-seed", 1, "--shard-size", 20,
    )  # fmt: skip
    assert result.exit_code == 0
    dataset = open_dataset(out)
    assert dataset.spec == DataSpec(
        task="sets",
        search="product",
        rules=3,
        length=4,
        scale=2.0,
        rule_probabilities=(0.5, 0.25, 0.25),
    )
    assert (dataset.task_seeds, dataset.data_seed, dataset.samples) == ((0, 1), 1, 30)
    assert len(dataset.shards) == 2


def test_the_place_and_the_digest_are_printed(tmp_path: Path) -> None:
    result = generate(tmp_path / "data", "--samples", 20, "--task-seeds", 1)
    digest = open_dataset(tmp_path / "data").digest
    assert f"Wrote {tmp_path / 'data'}: 20 samples of each of 1 task (" in result.stdout
    assert f"Digest: {digest}" in result.stdout
    assert f"modeval train --data {tmp_path / 'data'}" in result.stdout


def test_json_is_all_that_is_printed_when_asked_for(tmp_path: Path) -> None:
    result = generate(tmp_path / "data", "--samples", 20, "--json")
    printed = json.loads(result.stdout)
    assert printed["digest"] == open_dataset(tmp_path / "data").digest
    assert printed["folder"] == str(tmp_path / "data")
    assert printed["task_seeds"] == [0, 1, 2, 3, 4]


def test_a_spec_file_says_the_same_as_flags_and_flags_win(tmp_path: Path) -> None:
    spec = RunSpec(data=DataSpec(rules=2), train=TrainSpec(seeds=((3, 0), (8, 0), (3, 1))))
    (tmp_path / "spec.toml").write_text(to_toml(spec))
    generate(tmp_path / "data", "--spec", tmp_path / "spec.toml", "--rules", 5, "--samples", 20)
    dataset = open_dataset(tmp_path / "data")
    assert dataset.spec == DataSpec(rules=5)
    assert dataset.task_seeds == (3, 8)


def test_the_flag_counts_task_seeds_before_the_file_does() -> None:
    assert choose_tasks({"train": {"seeds": [[3, 0]]}}, 2) == (0, 1)
    assert choose_tasks({}, None) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "sest"), 'Did you mean "sets"'),
        (("--rules", 0), "rules = 0"),
        (("--rules", 6, "--operation", "named"), "--rules 5"),
        (("--rule-probabilities", "1,x"), "expected numbers"),
        (("--rule-probabilities", "1,1"), "one for each rule"),
        (("--samples", 0), "--samples 10000"),
        (("--task-seeds", 0), "expected 1 or more"),
        (("--format", "pickle"), "one of safetensors, parquet"),
        (("--spec", "none.toml"), "No spec file"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        generate(tmp_path / "data", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_folder_is_replaced_only_by_force(tmp_path: Path) -> None:
    generate(tmp_path / "data", "--samples", 20)
    with pytest.raises(DataError, match="--force"):
        generate(tmp_path / "data", "--samples", 30)
    generate(tmp_path / "data", "--samples", 30, "--force")
    assert open_dataset(tmp_path / "data").samples == 30


def test_the_same_command_twice_writes_once(tmp_path: Path) -> None:
    command = (tmp_path / "data", "--samples", 20, "--shard-size", 8, "--task-seeds", 2)
    first = generate(*command)
    before = (tmp_path / "data" / "dataset.json").stat().st_mtime_ns
    again = generate(*command)
    assert again.exit_code == 0
    assert "holds this data set already" in " ".join(again.output.split())
    assert next(line for line in first.output.splitlines() if "Digest" in line) in again.output
    assert (tmp_path / "data" / "dataset.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rules", 5), "rules is 4 there and 5 here"),
        (("--samples", 30), "samples is 20 there and 30 here"),
        (("--data-seed", 1), "data_seed is 0 there and 1 here"),
        (("--task-seeds", 1), r"task seeds is \[0, 1, 2, 3, 4\] there and \[0\] here"),
        (("--format", "parquet"), "format is safetensors there and parquet here"),
        (("--shard-size", 3), "shard_size is 20 there and 3 here"),
    ],
)
def test_what_differs_from_a_data_set_is_named(
    tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    generate(tmp_path / "data", "--samples", 20)
    with pytest.raises(DataError, match=message):
        generate(tmp_path / "data", "--samples", 20, *arguments)


def test_missing_parents_of_a_data_set_are_made(tmp_path: Path) -> None:
    generate(tmp_path / "a" / "b" / "data", "--samples", 20)
    assert open_dataset(tmp_path / "a" / "b" / "data").samples == 20


def test_a_table_is_written_for_other_programs(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    generate(tmp_path / "data", "--samples", 20, "--task-seeds", 2, "--format", "parquet")
    assert parquet.read_table(tmp_path / "data" / "part-00000.parquet").num_rows == 40


def test_the_help_shows_examples() -> None:
    assert "modeval generate data/train" in generate("--help").stdout
