"""What a benchmark is asked for is checked before anything is measured."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from modeval.cli.bench.metrics import bench_metrics_command
from modeval.cli.bench.record import bench_record_command
from modeval.cli.bench.trace import bench_trace_command
from modeval.cli.bench.train import bench_train_command
from modeval.cli.main import app
from modeval.errors import SpecError

COMMANDS: dict[str, Callable[..., Any]] = {
    "metrics": bench_metrics_command,
    "record": bench_record_command,
    "trace": bench_trace_command,
    "train": bench_train_command,
}
NUMBERS = [
    (name, f"--{parameter.name.replace('_', '-')}")
    for name, command in COMMANDS.items()
    for parameter in inspect.signature(command, eval_str=True).parameters.values()
    if "int" in str(parameter.annotation) and "bool" not in str(parameter.annotation)
]


def asked(*words: str) -> Any:
    return CliRunner().invoke(app, ["bench", *words])


def test_every_benchmark_has_numbers_to_check() -> None:
    assert {name for name, _ in NUMBERS} == {*COMMANDS}


@pytest.mark.parametrize(("name", "option"), NUMBERS)
@pytest.mark.parametrize("value", ["0", "-3"])
def test_a_number_below_one_is_refused(name: str, option: str, value: str) -> None:
    result = asked(name, option, value)
    assert result.exit_code == 2, result.output
    assert not isinstance(result.exception, SpecError)
    assert option in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("metrics --documents 9 --rules 5", "Type --documents 10"),
        ("record --choices 5 --modules 4", "there are 4 modules"),
        ("record --hidden 130", "heads are of 64"),
        ("trace --choices 9 --modules 8", "there are 8 modules"),
        ("trace --folder not-there", "no folder is there"),
        ("train --seconds 1 --budget 1", "give one"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(words: str, message: str) -> None:
    result = asked(*words.split())
    assert isinstance(result.exception, SpecError)
    assert message in str(result.exception)
