"""Rows for scores over time: what training did, beside what came of it."""

from modeval.metrics.levels import ANY, FROM_ZERO, NONE, UNIT, ZERO, Bounds
from modeval.metrics.metric import Better, Metric, Place

CONTINUAL: tuple[Place, ...] = ("table", "comparison")


def _row(
    name: str,
    title: str,
    about: tuple[str, str],
    source: str,
    *shown: Place,
    better: Better = "lower",
    bounds: Bounds = FROM_ZERO,
) -> Metric:
    question, formula = about
    return Metric(
        name=name,
        title=title,
        formula_id=f"course/{name}",
        better=better,
        bounds=bounds,
        ideal=ZERO if bounds is not ANY else NONE,
        chance=NONE,
        source=source,
        needs="outputs",
        about=f"{question}\n\n``{formula}``",
        labels=False,
        tells="loss",
        shown=shown,
    )


GEM = "Lopez-Paz & Ranzato 2017 (arXiv 1706.08840), for losses"

FRANKLE = "Frankle et al. 2020 (arXiv 1912.05671), section 2"

OVER_TIME: tuple[Metric, ...] = (
    _row(
        "average_loss",
        "Average loss in the end",
        (
            "How well does a model know, in the end, all rules that it met?",
            "mean over met rules r of L[P, r], L[p, r] being the loss after phase p",
        ),
        GEM,
        *CONTINUAL,
    ),
    _row(
        "backward_transfer",
        "Backward transfer",
        (
            "Do later rules help those that were learned before?",
            "mean over rules learned before the last phase of L[learned(r), r] - L[P, r]",
        ),
        GEM,
        *CONTINUAL,
        better="higher",
        bounds=ANY,
    ),
    _row(
        "forward_transfer",
        "Forward transfer",
        (
            "Do earlier rules help those that come later, before a sample of them was seen?",
            "mean over rules met after the first phase of L[0, r] - L[met(r) - 1, r]",
        ),
        GEM,
        *CONTINUAL,
        better="higher",
        bounds=ANY,
    ),
    _row(
        "forgetting",
        "Forgetting",
        (
            "How much worse is a model, in the end, on rules that it had learned?",
            "mean over rules r learned before phase P of L[P, r] - min_(p < P) L[p, r]",
        ),
        "Chaudhry et al. 2018 (arXiv 1801.10112), equation 3, for losses",
        *CONTINUAL,
        bounds=ANY,
    ),
    _row(
        "interference",
        "Interference",
        (
            "How much does a phase of other rules cost a rule that is learned?",
            "mean over learned r and later phases p that do not draw r of L[p, r] - L[p - 1, r]",
        ),
        "own",
        *CONTINUAL,
        bounds=ANY,
    ),
    _row(
        "few_shot_loss",
        "Few-shot loss",
        (
            "How good is a model on a new rule after few samples of it?",
            "mean over later rules of L at the first validation in the phase that they are met in",
        ),
        "own",
        *CONTINUAL,
    ),
    _row(
        "merging_gap",
        "Loss added by merging",
        (
            "How much worse are modules once they are merged into one?",
            "mean over rules of L[p, r] - L[p - 1, r], phase p being the one that merges",
        ),
        "Ilharco et al. 2023 (arXiv 2212.04089), section 4",
        *CONTINUAL,
        bounds=ANY,
    ),
    _row(
        "mode_barrier",
        "Barrier between modules",
        (
            "How far does the loss rise between modules that are merged, on samples of both?",
            "mean over modules of max_a L((1-a) t1 + a t2) - ((1-a) L(t1) + a L(t2))",
        ),
        FRANKLE,
        *CONTINUAL,
    ),
    _row(
        "mode_barrier_matched",
        "Barrier once units are matched",
        (
            "And once the hidden units of one are in the order of the other's?",
            "as mode_barrier, t2 with its units permuted to be most like those of t1",
        ),
        f"{FRANKLE}; Ainsworth et al. 2023 (arXiv 2209.04836), section 3.2",
        *CONTINUAL,
    ),
    _row(
        "steps_to_threshold",
        "Steps to twice the last loss",
        (
            "How soon is a model nearly as good as it is in the end?",
            "first validated step at which the loss is at most twice the last one",
        ),
        "Mittal et al. 2022 (arXiv 2206.02713), convergence speed",
    ),
    _row(
        "churn",
        "Router churn",
        (
            "How much does routing change its mind while it is trained?",
            "mean over validations of the share of samples whose largest module is a new one",
        ),
        "own; the complement of router saturation between checkpoints",
        bounds=UNIT,
    ),
)
"""Scores of what training did; they come from the log of a run."""
