"""The formats that verdicts of a gate can be written in: one entry each, loaded when asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeval.gate.verdicts import GateResult


@dataclass(frozen=True, slots=True)
class GateFormat:
    """A format of verdicts.

    Attributes:
        flag: of the command.
        help: what it is, for the list of options.
        example: a file that it may be written to.
        home: module of this package with a function ``render(result, exit_code) -> str``.
    """

    flag: str
    help: str
    example: str
    home: str

    def render(self, result: "GateResult", exit_code: int) -> str:
        """Return the text of the file."""
        module = import_module(f"modeval.report.verdicts.{self.home}")
        render: Callable[[GateResult, int], str] = module.render
        return render(result, exit_code)


GATE_FORMATS: dict[str, GateFormat] = {
    "json": GateFormat("--json", "JSON, all that is known.", "gate.json", "gate_json"),
    "junit": GateFormat("--junit", "JUnit XML: a test for each verdict.", "gate.xml", "junit"),
    "markdown": GateFormat(
        "--markdown",
        "Markdown; added to the end of the file that GITHUB_STEP_SUMMARY names.",
        "gate.md",
        "markdown",
    ),
    "comment": GateFormat(
        "--comment",
        "Markdown for a pull request: before, after, verdict.",
        "comment.md",
        "comment",
    ),
    "sarif": GateFormat("--sarif", "SARIF 2.1.0, for code scanning.", "gate.sarif", "sarif"),
    "gitlab": GateFormat(
        "--gitlab", "Code Quality of GitLab (JSON).", "gl-code-quality.json", "gitlab"
    ),
    "badge": GateFormat("--badge", "A badge for shields.io (JSON).", "badge.json", "badge"),
}
"""Formats by the name of their option."""
