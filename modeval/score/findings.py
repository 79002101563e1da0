"""Findings: what may be said of how a layer routes, in a word, with a test behind each.

    specialist   the lower bound of what is told is at least .75 of what could be
    partial      at least .1
    faint        labels at random tell less, and less than that is proven
    blind        proven to be as good as nothing
    collapsed    little is told, and few modules do all the work
    unproven     neither more than nothing nor nothing is proven
    untested     documents are not known, so nothing could be held against permuted labels
    unlabelled   there are no labels; the work is shared out over many

What is told is the mutual information as a share of log min(R, M), corrected for few documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modeval.metrics.finding import THRESHOLDS, evenness, most_information
from modeval.score.entries import Members
from modeval.score.estimates import estimated, one_layer, permuted_layers, scaled
from modeval.score.inference.equivalence import Equivalence, equivalence
from modeval.score.inference.estimate import Estimate
from modeval.score.inference.lifts import Lifts, lifts, lifts_of_counts
from modeval.score.inference.multiple import holm
from modeval.score.measure import Measured, Measurements
from modeval.score.routing import LayerStack, Routing
from modeval.score.scorecard import Finding, Word

INFORMATION = "mutual_information"
LEVEL = 0.05
NORMAL = 1.959964
MOST_OF_A_RULE = 0.5
"""Share of a rule that one module must get to be said to tell it apart."""


@dataclass(frozen=True, slots=True)
class Told:
    """How much a layer tells of the rules, as a share of what it could.

    Attributes:
        found: corrected value, interval and error.
        answer: whether it is something, nothing, or unproven; nothing where untested.
        p_adjusted: that labels at random tell as much, corrected over seeds and layers.
        certain: whether it stays the same without any one of the documents.
    """

    found: Estimate
    answer: Equivalence | None
    p_adjusted: float | None
    certain: bool

    @property
    def proven(self) -> float:
        """Return what is told at least."""
        if self.found.low is None:
            return self.found.value if self.certain else 0.0
        return self.found.low


def findings(
    model: str,
    routing: Routing,
    measurements: Measurements,
    members: Members,
    vocabulary: tuple[bool | None, ...] = (),
) -> Iterator[Finding]:
    """Return a finding for each usable seed and layer.

    Args:
        model: id of the model.
        routing: what was scored.
        measurements: what was measured of it.
        members: its seeds.
        vocabulary: of each layer, whether all that is told is told by the tokens' identity.
    """
    measured = measurements.metrics.get(INFORMATION)
    corrected = _corrected(measured) if measured is not None else None
    lifted = {
        id(group): _lifts(routing, group) for group in routing.groups if _tells(routing, group)
    }
    evenly = {
        id(group): evenness(group.joint(routing.prior, routing.view)) for group in routing.groups
    }
    for seed, number in enumerate(members.usable):
        for index, group, within in routing.each_layer():
            layer = index if len(routing.layers) > 1 else None
            even = float(evenly[id(group)][seed, within])
            base = Finding(
                model=model, layer=layer, seed=members.seeds[number], word=_unlabelled(even)
            )
            if measured is None or not _tells(routing, group):
                yield base
                continue
            told = _told(routing, group, measured, corrected, seed, index)
            choices = max(group.choices[within], 1) if routing.view == "assignment" else 1
            narrow = _narrow(lifted[id(group)], told, (seed, within), choices)
            yield Finding(
                model=model,
                layer=layer,
                seed=members.seeds[number],
                word=_word(told, even),
                told=told.found.value,
                low=told.found.low,
                high=told.found.high,
                p_adjusted=told.p_adjusted,
                margin=THRESHOLDS.nothing,
                narrow=narrow is not None,
                rule=None if narrow is None else narrow[0],
                module=None if narrow is None else narrow[1],
                share=None if narrow is None else narrow[2],
                vocabulary=vocabulary[index] if vocabulary else None,
            )


def _tells(routing: Routing, group: LayerStack) -> bool:
    return group.labelled and routing.rules > 1


def _unlabelled(even: float) -> Word:
    return "unlabelled" if even >= THRESHOLDS.balanced else "collapsed"


def _word(told: Told, even: float) -> Word:
    if told.found.value < THRESHOLDS.blind and even < THRESHOLDS.balanced:
        return "collapsed"
    if told.answer is None:
        return "untested"
    if told.answer.answer == "something":
        if told.proven >= THRESHOLDS.specialist:
            return "specialist"
        return "partial" if told.proven >= THRESHOLDS.blind else "faint"
    return "blind" if told.answer.answer == "nothing" else "unproven"


def _told(  # noqa: PLR0917 - one step of findings, cut out to fit a glance
    routing: Routing,
    group: LayerStack,
    measured: Measured,
    corrected: Tensor | None,
    seed: int,
    index: int,
) -> Told:
    most = most_information(routing.rules, group.modules)
    estimate = scaled(estimated(measured, seed, one_layer(index), (0.0, most)), 1 / most)
    if estimate.error is not None and estimate.low is None and routing.evidence == "samples":
        estimate = _of_samples(estimate, group.counts.samples.shape[-2])
    p = None if corrected is None else float(corrected[seed, index])
    certain = measured.left is not None and not bool(
        measured.left.left[:, seed, index].std(unbiased=False) > 0
    )
    if p is None:
        return Told(estimate, None, None, certain)
    answer = equivalence(estimate, THRESHOLDS.nothing, p_something=p, level=LEVEL)
    return Told(estimate, answer, p, certain)


def _of_samples(estimate: Estimate, blocks: int) -> Estimate:
    """Give a number from samples drawn anew the interval that its error says."""
    reach = NORMAL * (estimate.error or 0.0)
    return replace(
        estimate,
        low=max(estimate.value - reach, 0.0),
        high=min(estimate.value + reach, 1.0),
        freedom=float(max(blocks - 1, 1)),
    )


def _corrected(measured: Measured) -> Tensor | None:
    """Return p values ``(S, L)`` corrected over all seeds and layers; nothing where untested."""
    p = torch.full(measured.value.shape, torch.nan, dtype=torch.float64)
    for seed in range(len(p)):
        for layer, null in permuted_layers(measured, [seed], better="higher").items():
            p[seed, layer] = null.p_value
    known = p.isfinite()
    if not bool(known.any()):
        return None
    p[known] = holm(p[known])
    return p


# --- one rule told apart by one module -----------------------------------------------------------


def _lifts(routing: Routing, group: LayerStack) -> Lifts:
    if group.units is not None and routing.evidence == "documents":
        return lifts(group.units, view=routing.view)
    return lifts_of_counts(
        group.counts.conditional(view=routing.view), group.counts.samples.sum(-2)
    )


def _narrow(
    found: Lifts, told: Told, at: tuple[int, int], choices: int
) -> tuple[int, int, float] | None:
    """Return rule, module and share where one module tells a rule apart and all tell little."""
    if told.found.value >= THRESHOLDS.blind:
        return None
    share = (found.share[at] * choices).clamp(max=1)  # of its samples, not of its choices
    apart = found.lift[at] >= 2  # noqa: PLR2004 - twice as often as other rules
    if found.tested:
        apart = found.named(LEVEL)[at]
    shown = torch.where(apart & (share >= MOST_OF_A_RULE), share, torch.zeros_like(share))
    if not bool((shown > 0).any()):
        return None
    rule, module = divmod(int(shown.argmax()), share.shape[-1])
    return rule, module, float(share[rule, module])
