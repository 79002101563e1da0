"""The commands, each loaded when it is called: one is wanted at a time, and all take long."""

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class Entry:
    """A command of the program.

    Attributes:
        home: module of this package that it stands in.
        name: of the function there, or of the group.
        about: first line of its help, for the list of commands.
    """

    home: str
    name: str
    about: str

    def load(self, called: str) -> Any:
        """Return the command, or group, ready to be called."""
        found = getattr(import_module(f"modeval.cli.{self.home}"), self.name)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(rich_markup_mode="rich", add_completion=False)
            alone.command(called, cls=_class_of(self.home))(found)
            return typer.main.get_command(alone)
        group = typer.main.get_group(found)
        group.name = called
        return group


def _class_of(home: str) -> type[TyperCommand] | None:
    """Return the class of a command, where it takes flags from specifications."""
    if home not in {"training.generate", "training.train"}:
        return None
    from modeval.cli.flags import SettingsCommand

    return SettingsCommand


COMMANDS: dict[str, Entry] = {
    "demo": Entry(
        "demo",
        "demo_command",
        "Generate, train, score and explain, in under two minutes and without arguments.",
    ),
    "generate": Entry(
        "training.generate",
        "generate_command",
        "Write a data set whose ground-truth rules are known.",
    ),
    "train": Entry(
        "training.train",
        "train_command",
        "Train a cohort of seeds as one stacked program.",
    ),
    "sweep": Entry(
        "training.sweep",
        "sweep",
        "Train and score whole grids: on this machine, in shards, or on a cluster.",
    ),
    "record": Entry(
        "record",
        "record_command",
        "Record which experts a model uses for labelled text, as a trace that can be scored.",
    ),
    "import": Entry(
        "import_trace",
        "import_command",
        "Read routing that another program wrote, as a trace or as counts.",
    ),
    "trace": Entry(
        "trace", "trace", "Look at routing traces, merge them, write them in other forms."
    ),
    "score": Entry(
        "score",
        "score_command",
        "Score models and traces: collapse, alignment, information, load and losses beside chance.",
    ),
    "ablate": Entry(
        "ablate",
        "ablate_command",
        "Remove modules of a mixture-of-experts model: which matter for what, and how many can go?",
    ),
    "structure": Entry(
        "structure",
        "structure_command",
        "Tell structure without routing: clusters of dense networks, redundancy of modules.",
    ),
    "compare": Entry(
        "compare",
        "compare_command",
        "Set scorecards side by side: what changed, by how much, and is it more than noise?",
    ),
    "gate": Entry(
        "gate",
        "gate_command",
        "Check scorecards against a policy, and end with an exit code that a pipeline understands.",
    ),
    "report": Entry(
        "report",
        "report_command",
        "Show saved scorecards: what came out, who does what, what to do, and the numbers.",
    ),
    "plot": Entry(
        "plot",
        "plot_command",
        "Draw a figure for a paper: vector graphics with embedded fonts, the same bytes each time.",
    ),
    "findings": Entry(
        "training.findings",
        "findings_command",
        'Check the findings of "Is a Modular Architecture Enough?" on trained models.',
    ),
    "log": Entry(
        "log",
        "log_command",
        "Send saved scores to TensorBoard, Weights & Biases or MLflow, or write OpenMetrics text.",
    ),
    "metrics": Entry(
        "metrics", "metrics_command", "List the metrics, or explain one with a worked example."
    ),
    "systems": Entry(
        "training.systems",
        "systems_command",
        "List the systems that can be trained by name, or explain one.",
    ),
    "help": Entry(
        "manual.help",
        "help_command",
        "Read about a topic: words, values, policies, formats and others.",
    ),
    "docs": Entry(
        "manual.docs",
        "docs_command",
        "Write the reference of commands, library, metrics, systems and formats as one page.",
    ),
    "bench": Entry(
        "bench.app", "bench", "Measure speed on this machine, always as ratios within one run."
    ),
}
"""Every command by the name that calls it, in the order of the list."""


class Loaded(MutableMapping[str, Any]):
    """The commands by name, each loaded when it is asked for; names alone load nothing."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = COMMANDS[name].load(name)
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS


class Program(TyperGroup):
    """The program: it lists commands without loading them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = Loaded()
        self._listing = False

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - as the base class has it
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; for the list of them its name and what it does are enough."""
        if self._listing:
            return TyperCommand(cmd_name, callback=None, help=COMMANDS[cmd_name].about)
        return super().get_command(ctx, cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the program."""
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False
