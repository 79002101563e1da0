"""Exit codes."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes: a build script can tell a bad model from a bad command."""

    OK = 0
    GATE_FAILED = 1
    USER_ERROR = 2
    INCONCLUSIVE = 3
    INTERNAL_ERROR = 4
    STOPPED = 130
