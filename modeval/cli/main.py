"""The program: run a command, choose the exit code."""

import errno
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from modeval.atomic import reason
from modeval.cli.commands import Program
from modeval.cli.exits import Exit
from modeval.cli.garbage import no_search_while_loading
from modeval.cli.heartbeat import heartbeat
from modeval.cli.output import stderr
from modeval.errors import ModevalError
from modeval.text import brief, for_rich, shortened

OF_THE_SYSTEM = {
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO),
    *(errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENXIO),
}
"""Faults of files that are the user's system's, whatever was read or written."""

LEFT_OUT = {
    "torch": "torch",
    "sklearn": "scikit-learn",
    "safetensors": "safetensors",
    "jaxtyping": "jaxtyping",
}
"""What is needed to train, record and score, and not to read scorecards: module and package."""

app = typer.Typer(
    name="modeval",
    cls=Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:  # noqa: FBT001 - Typer calls it so
    if asked:
        from modeval import __version__

        typer.echo(f"modeval {__version__}")
        raise typer.Exit


@app.callback(epilog="Begin with: modeval demo")
def main(
    *,
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_version),
    ] = False,
) -> None:
    """Tell whether a model made of parts is really modular."""


def run() -> None:
    """Entry point: a user's error is one paragraph and exit code 2, a bug of ours is 4."""
    from modeval.cli.console import fit_streams

    fit_streams()
    try:
        _run()
    except SystemExit as end:
        if end.code == Exit.STOPPED:
            _stop()
        raise
    except KeyboardInterrupt:  # before or after the command itself
        _stop()


def _run() -> None:
    try:
        with no_search_while_loading(), heartbeat(sys.argv[1:]):
            app()
    except ModevalError as error:
        _refuse(str(error))
    except ModuleNotFoundError as error:
        if error.name not in LEFT_OUT:
            _report()
        _refuse(
            f"This takes {error.name}, which an installation for gates and reports leaves out. "
            f"Install it with: pip install {LEFT_OUT[error.name]}"
        )
    except OSError as error:
        if error.errno not in OF_THE_SYSTEM or error.filename is None:
            _report()
        name = brief(str(error.filename), 200)
        _refuse(f"{name}: {reason(error)}. Give a path that can be read or written.")
    except Exception:  # noqa: BLE001 - the last line of defence; the code tells it from a user's error
        _report()


def _stop() -> NoReturn:
    """End as Ctrl-C asks: what is written appears whole or not at all."""
    line = "Stopped by Ctrl-C. Nothing is left half-written."
    stderr().print(line, style="yellow", highlight=False)
    sys.exit(Exit.STOPPED)


def _refuse(message: str) -> NoReturn:
    stderr().print(
        f"[bold red]error:[/] {for_rich(shortened(message), lines=True)}", highlight=False
    )
    sys.exit(Exit.USER_ERROR)


def _report() -> NoReturn:
    traceback.print_exc()
    stderr().print(
        "[bold red]internal error:[/] this is a bug of modeval. Please report it with the "
        "lines above.",
        highlight=False,
    )
    sys.exit(Exit.INTERNAL_ERROR)


if __name__ == "__main__":
    run()
