"""Tells whether a trained model made of parts is really modular."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modeval.record.recording import record

__version__ = version("modeval-cli")
__all__ = ["__version__", "record"]


def __getattr__(name: str) -> Any:
    """Load the public functions when they are asked for: importing modeval loads nothing heavy."""
    if name == "record":
        from modeval.record.recording import record  # noqa: PLC0415 - see above

        return record
    raise AttributeError(f"module 'modeval' has no attribute {name!r}")
