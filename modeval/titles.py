"""What the paper's models are called; to know that, nothing else has to be loaded."""

MODEL_TITLES = {
    "monolithic": "Monolithic",
    "modular": "Modular",
    "modular-shared": "Modular (shared scorer)",
    "modular-op": "Modular-op",
    "gt-modular": "GT-Modular",
}
"""Titles by the names that specifications have for them, in the paper's order."""
