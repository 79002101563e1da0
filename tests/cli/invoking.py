"""What tests of the whole program share: a command run in this process."""

from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from modeval.cli.main import app

PROGRAM: Any = typer.main.get_command(app)
"""The commands, put together once: the runner of Typer would do so for each call."""


def invoke(*words: str) -> Any:
    """Run ``modeval WORDS`` and return what the runner says of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", lambda _: PROGRAM)
        return CliRunner().invoke(app, list(words))
