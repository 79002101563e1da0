"""REAP (pruning of experts): the state of its observer, a dictionary of statistics by layer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from modeval.trace.importers.format import Counts, Format, Note, Options
from modeval.trace.importers.reading import array_of, load_torch, refuse, tallies, torch_holds

FREQUENCY, TOKENS = "expert_frequency", "total_tokens"
WEIGHTS = "weighted_expert_frequency_sum"


def read_observer(path: Path, options: Options, note: Note) -> Iterator[Counts]:
    """Read how often each expert was chosen, of how many tokens, and with what summed weight."""
    state = load_torch(path)
    if not isinstance(state, dict):
        refuse(path, "", "holds no dictionary of layers")
    for key, layer in state.items():
        place = f"layer {key}"
        if not isinstance(layer, dict) or FREQUENCY not in layer:
            refuse(path, place, f"has no {FREQUENCY}: expected the state of REAP's observer")
        selections = tallies(array_of(layer[FREQUENCY]), 1, path, place, FREQUENCY)
        tokens = float(array_of(layer[TOKENS])) if TOKENS in layer else None
        choices = options.choices
        if choices is None and tokens and selections.sum() % tokens == 0:
            choices = int(selections.sum() / tokens)
        weights = array_of(layer[WEIGHTS]) if WEIGHTS in layer else None
        mass = None if weights is None else tallies(weights, 1, path, place, WEIGHTS)
        known = mass is not None and tokens and np.isclose(mass.sum(), tokens, rtol=1e-3)
        yield Counts(
            int(key) if str(key).isdecimal() else str(key),
            selections,
            choices=choices,
            mass=mass if known else None,  # sums of weights that are shares of each token
            samples=tokens,
        )
    note("REAP's observer counts all tokens of its calibration data; labels are unknown.")


FORMATS = (
    Format(
        name="reap",
        about="REAP observer state: .pt, a dictionary of layers with expert_frequency",
        patterns=("*.pt",),
        sniff=lambda path, start: torch_holds(path, start, FREQUENCY.encode()),
        read=read_observer,
        engine="reap",
        counts=True,
        sized=True,
        phase="prefill",
    ),
)
