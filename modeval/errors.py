"""Every error that a user can cause.

A message names the value, says what was expected, and ends with what to type next. The command
line prints it as one paragraph and exits with code 2; a traceback that reaches a user is a bug.
"""

from collections.abc import Sequence
from difflib import get_close_matches


class ModevalError(Exception):
    """Base of all errors that a user can cause and mend."""


class SpecError(ModevalError):
    """A specification (flag, TOML file, argument) says something impossible or unknown."""


class CodeError(SpecError):
    """Code of the user's is missing, was changed, fails, or was not consented to."""


class DataError(ModevalError):
    """A data set folder is missing, damaged, or made from another recipe."""


class RunError(ModevalError):
    """A run folder is missing, damaged, incomplete, or belongs to another run."""


class StoppedError(RunError):
    """A run was stopped by its user or a scheduler before its end; it can go on."""


class CheckpointError(ModevalError):
    """A checkpoint cannot be read, or is not what its path and shapes claim."""


class TraceError(ModevalError):
    """Routing records are missing, damaged, or cannot be scored."""


class ScorecardError(ModevalError):
    """A scorecard is missing, damaged, or of a version that this modeval cannot read."""


class DependencyError(ModevalError):
    """An optional package is needed for what was asked and is not installed."""


def nearest(name: str, known: Sequence[str]) -> str:
    """Return `` (did you mean ...?)`` when something known is near, else nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
