"""Scorecards on disk: written, read, and checked whole."""
