"""Tells whether a trained model made of parts is really modular."""

from importlib.metadata import version

__version__ = version("modeval-cli")
