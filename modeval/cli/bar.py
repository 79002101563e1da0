"""Progress bars: only commands that work for a while load this."""

from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from modeval.pace import tell


class Bar(Progress):
    """A progress bar that what is printed meanwhile goes through.

    It shows once something is done: what is refused before leaves no empty bar behind. Where no
    terminal shows it, as in the log of a pipeline, the lines of
    :mod:`modeval.cli.heartbeat` say how far it is.

    Attributes:
        busy: consoles of the bars that are drawn.
    """

    busy: list[Console]

    def __enter__(self) -> Self:
        return self

    def update(self, task_id: TaskID, **settings: Any) -> None:
        """Show what a task has come to."""
        self.start()
        super().update(task_id, **settings)
        self._tell()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Show that a task has come so much further."""
        self.start()
        super().advance(task_id, advance)
        self._tell()

    def _tell(self) -> None:
        """Tell how far the first task is that goes on, with a share of the one within it."""
        going = [(task, task.total) for task in self.tasks if task.total and not task.finished]
        if going:
            (first, every), *within = going
            part = sum(min(task.completed / total, 1) for task, total in within[:1])
            tell(first.description, first.completed + part, every)
            return
        for task in self.tasks:
            if not task.total and task.completed:  # nobody knows how much there is
                tell(task.description, task.completed)

    def start(self) -> None:
        """Begin to draw, if that was not done before."""
        if self.disable or self.live.is_started:
            return
        if self.console.is_terminal and self.console not in self.busy:
            self.busy.append(self.console)
        super().start()

    def stop(self) -> None:
        """Draw for the last time, if it was drawn at all."""
        if not self.live.is_started:
            return
        super().stop()
        if self.console in self.busy:
            self.busy.remove(self.console)


def bar_on(console: Console, busy: list[Console], *, quiet: bool) -> Bar:
    """Return a progress bar with a free text beside the time left.

    Args:
        console: where it is drawn.
        busy: consoles of the bars that are drawn.
        quiet: whether it is never drawn.
    """
    bar = Bar(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        disable=quiet,
    )
    bar.busy = busy
    return bar
