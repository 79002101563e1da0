"""Consoles and progress bars, made when needed so that ``--help`` loads nothing heavy."""

import os
import typing

if typing.TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def let_threads_sleep() -> None:
    """Have PyTorch's threads sleep while they wait; to be called before PyTorch is loaded.

    Threads that spin make work in many short pieces several times slower on a busy machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def stdout() -> "Console":
    """Return a console on standard output."""
    from modeval.cli.console import PlainConsole

    return PlainConsole()


def stderr() -> "Console":
    """Return a console on standard error: progress, notes and errors."""
    from modeval.cli.console import PlainConsole

    return PlainConsole(stderr=True)


def progress_bar(*, quiet: bool = False) -> "Progress":
    """Return a progress bar on standard error, with a free text beside the time left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=stderr(),
        disable=quiet,
    )


def choose_device(name: str) -> "typing.Any":
    """Return a torch device by name (auto, cpu, cuda, cuda:N); refuse what is absent."""
    import torch

    from modeval.errors import SpecError

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SpecError(f"device = {name!r}: expected auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise SpecError(f"device = {name!r}: expected auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SpecError(
            f"device = {name!r}: this machine has {torch.cuda.device_count()} CUDA devices that "
            "PyTorch can use. Use --device cpu."
        )
    return device
