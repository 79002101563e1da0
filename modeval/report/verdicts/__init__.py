"""The verdicts of a gate, one file for each format."""
