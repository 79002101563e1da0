"""Merging models that were trained apart, and what lies between them.

    average, task_arithmetic, ties, dare, greedy_soup      parameters of one from those of several
    match_units, permute_units                              whose units are whose
    mode_barrier                                            what lies on the line between two

Models are stacked along a first axis of T; everything is a pure function of tensors.
"""

from modeval.merge.barrier import mode_barrier
from modeval.merge.parameters import average, dare, greedy_soup, task_arithmetic, ties
from modeval.merge.units import Units, match_units, permute_units

__all__ = [
    "Units",
    "average",
    "dare",
    "greedy_soup",
    "match_units",
    "mode_barrier",
    "permute_units",
    "task_arithmetic",
    "ties",
]
