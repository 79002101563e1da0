"""Scorecards on a terminal."""
