"""A system of the literature: a row of :data:`modeval.spec.systems.SYSTEMS`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SURVEY = "Pfeiffer et al. 2023 (Modular Deep Learning, arXiv 2302.11529)"
PAPER = "Mittal et al. 2022 (arXiv 2206.02713)"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system by its usual name.

    Attributes:
        name: for ``--model``.
        title: in tables and figures.
        what: what it is, in a sentence.
        formula: what a layer computes.
        source: where it is defined.
        expect: what its own definition says of its scores.
        choices: settings of the model, as in a spec file.
        sizes: settings that it needs more of than usual, and that others may replace.
        data: settings of the task that it needs.
        phase: settings of the single phase of its training, where they differ.
        regime: how it is trained unless something else is asked for.
        tasks: tasks that it is defined for.
    """

    name: str
    title: str
    what: str
    formula: str
    source: str
    expect: str
    choices: Mapping[str, Any]
    sizes: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    phase: Mapping[str, Any] = field(default_factory=dict)
    regime: str = "joint"
    tasks: tuple[str, ...] = ("binary", "sets", "series")
