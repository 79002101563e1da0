"""Flags that come from specifications: names, values, help, suggestions, completion."""

import os
import subprocess
import sys
from dataclasses import dataclass, fields
from typing import Literal

import pytest
import typer
from typer.testing import CliRunner

from modeval.cli.commands import COMMANDS
from modeval.cli.flags import Given, Section, SettingsCommand, joined, with_settings
from modeval.cli.main import app
from modeval.errors import SpecError
from modeval.spec import DataSpec, ModelSpec, TrainSpec
from modeval.spec.settings import descriptions, flag_of, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Soft:
    """All modules.

    Attributes:
        kind: its name.
        temperature: of the softmax.
    """

    kind: Literal["soft"] = "soft"
    temperature: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """The largest.

    Attributes:
        kind: its name.
        choices: modules that are kept.
        temperature: of the softmax.
        noisy: whether noise is added.
    """

    kind: Literal["top-k"] = "top-k"
    choices: int = 2
    temperature: float = 1.0
    noisy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """What a later version may add.

    Attributes:
        gating: how logits become weights.
        depths: of the layers.
        dropout: share that is left out; if not given, none.
    """

    gating: Soft | TopK = Soft()
    depths: tuple[int, ...] = setting((), unit="layers")
    dropout: float | None = setting(None, aliases=("--drop",))


APP = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich")
SEEN: list[Given] = []


@APP.command(cls=SettingsCommand)
@with_settings(Section("model", Later, "Model"))
def command(*, settings: Given, quiet: bool = False) -> None:
    """Take settings."""
    SEEN.append(settings)


def given(*arguments):
    SEEN.clear()
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return SEEN[0]["model"]


def test_a_choice_with_settings_of_its_own_becomes_flags():
    assert given() == {}
    assert given("--gating", "top-k", "--gating-choices", 1) == {
        "gating": {"kind": "top-k", "choices": 1}
    }
    assert given("--gating-temperature", 2, "--gating-noisy")["gating"] == {
        "temperature": 2.0,
        "noisy": True,
    }


def test_lists_are_separated_by_commas_or_spaces():
    for words in (["1,2,3"], ["1 2 3"], ["1", "2", "3"], ["1,", "2,", "3"]):
        assert given("--depths", *words, "--quiet") == {"depths": [1, 2, 3]}
    assert joined(["--shares", "0.5", "0.5", "data/x"], {"--shares"}) == [
        "--shares", "0.5,0.5", "data/x"
    ]  # fmt: skip


def test_another_name_of_a_flag_is_the_same_flag():
    assert given("--drop", 0.5) == given("--dropout", "0.5") == {"dropout": 0.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gating", "topk"], 'expected one of soft, top-k. Did you mean "top-k"?'),
        (["--gating-choices", "1.5"], "expected a whole number, as --gating-choices 8"),
        (["--gating-choices", "1,2"], "For several values plan a sweep: modeval sweep plan --help"),
        (["--dropout", "half"], "expected a number"),
        (["--depths", "1,x"], "expected whole numbers, as 1000,2000"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_with_what_to_type(arguments, message):
    with pytest.raises(SpecError) as caught:
        given(*arguments)
    assert message in str(caught.value)


def test_help_says_what_the_field_says():
    text = CliRunner().invoke(APP, ["--help"], env={"COLUMNS": "200"}).stdout
    for part in (
        "--gating ",
        "soft|top-k",
        "How logits become weights. [default: soft]",
        "Modules that are kept. (top-k) [default: 2]",
        "Of the softmax. (soft, top-k)",
        "LAYERS,...",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("name", "kinds"), [("train", (DataSpec, ModelSpec, TrainSpec)), ("generate", (DataSpec,))]
)
def test_every_setting_is_a_flag_with_help_in_its_group(name, kinds):
    text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).stdout
    for kind in kinds:
        for entry in fields(kind):
            assert descriptions(kind)[entry.name]
            assert not entry.metadata.get(
                "flag", True
            ) or f"{flag_of(entry.name)} " in text.replace(",", " ")
    groups = ["Common", "Task", "Model", "Training"] if name == "train" else ["Common", "Task"]
    places = [text.index(f"─ {group} ─") for group in groups]
    assert places == sorted(places)


@pytest.mark.parametrize("name", ["train", "generate", "demo"])
def test_examples_can_be_pasted_from_eighty_columns(name):
    text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80"}).stdout
    examples = [line.strip() for line in text.splitlines() if line.startswith("   modeval ")]
    source = COMMANDS[name].load(name).callback.__doc__
    assert examples
    for example in examples:
        assert f"[cyan]{example}[/]" in source


def completed(words):
    """Return what a shell offers after these words."""
    environment = {
        **os.environ,
        "_MODEVAL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    program = "import sys; sys.argv[0] = 'modeval'; from modeval.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("modeval train --task s", ["sets", "series"]),
        ("modeval train --model modular-", ["modular-shared", "modular-op"]),
        ("modeval train --engine f", ["fused"]),
        ("modeval generate --format p", ["parquet"]),
    ],
)
def test_a_shell_completes_values(words, offered):
    assert completed(words) == offered


def test_the_program_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "modeval", "train", "--out", "x", "--model", "moduler"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert 'Did you mean "modular"?' in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_several_numbers_for_one_are_told_together():
    words_given = ["--rules", "2", "4", "-q"]
    assert joined(words_given, (), together=True) == ["--rules", "2,4", "-q"]
    assert joined(words_given, ()) == words_given
    assert joined(["--rules", "2", "data"], (), together=True) == ["--rules", "2", "data"]
