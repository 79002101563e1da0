"""The table of all metrics: what each asks, how it is read, and where it comes from."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from modeval.errors import TraceError
from modeval.metrics import (
    adaptation,
    alignment,
    budget,
    collapse,
    information,
    load,
    selections,
    tokens,
)

Better = Literal["lower", "higher", "neither"]
Needs = Literal["joint", "counts", "table", "tokens", "logits"]

PAPER = "Mittal, Bengio, Lajoie 2022, arXiv 2206.02713"
OWN = "this project"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric: how to compute it and how to read it.

    Question and formula are those of the function's docstring, so they cannot drift apart.

    Attributes:
        name: key in :data:`METRICS`, in scorecards and in gates.
        title: for people.
        formula_id: names the formula, so that two numbers can be told to be the same metric.
        version: counts changes of what the function returns.
        better: the direction.
        range: smallest and largest value, in terms of R, M and K.
        ideal: value of one module for each rule, M = R.
        chance: value when routing knows nothing of the rule (uniform over the modules).
        source: publication, with equation or section.
        needs: what the function takes. ``joint``: the joint distribution ``(..., R, M)``;
            ``counts``: :class:`~modeval.types.RoutingCounts`; ``table``: whole counts
            ``(..., R, M)``; ``tokens``: choices of single tokens; ``logits``: logits or weights of
            single tokens.
        function: the metric itself.
        shape: what it returns for each batch member; empty for one number.
        usage_only: it looks at p(m) alone, so the joint may be given as that one row.
    """

    name: str
    title: str
    formula_id: str
    version: int = 1
    better: Better
    range: str
    ideal: str
    chance: str
    source: str
    needs: Needs = "joint"
    function: Callable[..., Any]
    shape: str = ""
    usage_only: bool = False

    @property
    def question(self) -> str:
        """The question that the metric answers, in words."""
        return _paragraphs(self.function)[0]

    @property
    def formula(self) -> str:
        """The formula, in the words of the docstring."""
        return _paragraphs(self.function)[1].replace("``", "")

    def uniform_value(self, rules: int, modules: int) -> float:
        """Return the value of uniform routing, for metrics of the joint distribution."""
        if self.needs != "joint" or self.shape:
            raise TraceError(
                f"{self.name} has no chance level that follows from rules and modules alone: "
                f"{self.chance}. Use a permutation null instead."
            )
        joint = torch.full((rules, modules), 1 / (rules * modules), dtype=torch.float64)
        return float(self.function(joint))


def _paragraphs(function: Callable[..., Any]) -> list[str]:
    text = inspect.getdoc(function) or ""
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


_ROWS = (
    Metric(
        name="collapse_avg",
        title="Collapse (average)",
        formula_id="2206.02713/16",
        better="lower",
        range="[0, 1]",
        ideal="0",
        chance="0",
        source=f"{PAPER}, eq. 16",
        function=collapse.collapse_avg,
        usage_only=True,
    ),
    Metric(
        name="collapse_worst",
        title="Collapse (worst)",
        formula_id="2206.02713/17",
        better="lower",
        range="[0, 1]",
        ideal="0",
        chance="0",
        source=f"{PAPER}, eq. 17",
        function=collapse.collapse_worst,
        usage_only=True,
    ),
    Metric(
        name="alignment_distance",
        title="Alignment distance",
        formula_id="2206.02713/18",
        better="lower",
        range="[1 - min(R,M)/R, 1 - min(R,M)/(R M)]",
        ideal="0",
        chance="1 - min(R,M)/(R M)",
        source=f"{PAPER}, eq. 18",
        function=alignment.alignment_distance,
    ),
    Metric(
        name="inverse_mutual_information",
        title="Inverse mutual information",
        formula_id="2206.02713/19",
        better="lower",
        range="[0, 1]",
        ideal="0",
        chance="1",
        source=f"{PAPER}, eq. 19",
        function=information.inverse_mutual_information,
    ),
    Metric(
        name="adaptation_distance",
        title="Adaptation distance",
        formula_id="2206.02713/20-half",
        better="lower",
        range="[0, 1)",
        ideal="0",
        chance="depends on R and M: .2567 at 2, .3540 at 16",
        source=f"{PAPER}, eq. 20 with the 1/2 of its figures",
        function=adaptation.adaptation_distance,
    ),
    Metric(
        name="alignment_score",
        title="Alignment score",
        formula_id="modeval/alignment-score",
        better="higher",
        range="[0, 1]",
        ideal="1",
        chance="0",
        source=OWN,
        function=alignment.alignment_score,
    ),
    Metric(
        name="matched_adaptation_distance",
        title="Matched adaptation distance",
        formula_id="modeval/matched-adaptation",
        better="lower",
        range="[0, 1)",
        ideal="0",
        chance="1/2 E sum|p - 1/R| at M = R",
        source=OWN,
        function=adaptation.matched_adaptation_distance,
    ),
    Metric(
        name="mutual_information",
        title="Mutual information",
        formula_id="mutual-information/plug-in",
        better="higher",
        range="[0, log min(R,M)]",
        ideal="log R",
        chance="0; (R-1)(M-1)/(2N) from N samples",
        source="Cover & Thomas, section 2.3",
        function=information.mutual_information,
    ),
    Metric(
        name="homogeneity",
        title="Homogeneity",
        formula_id="v-measure/homogeneity",
        better="higher",
        range="[0, 1]",
        ideal="1",
        chance="0",
        source="Rosenberg & Hirschberg 2007, section 3",
        function=information.homogeneity,
    ),
    Metric(
        name="completeness",
        title="Completeness",
        formula_id="v-measure/completeness",
        better="higher",
        range="[0, 1]",
        ideal="1",
        chance="0",
        source="Rosenberg & Hirschberg 2007, section 3",
        function=information.completeness,
    ),
    Metric(
        name="v_measure",
        title="V-measure",
        formula_id="v-measure/1",
        better="higher",
        range="[0, 1]",
        ideal="1",
        chance="0",
        source="Rosenberg & Hirschberg 2007, section 3",
        function=information.v_measure,
    ),
    Metric(
        name="imbalance",
        title="Imbalance",
        formula_id="modeval/budget-1",
        better="lower",
        range="[0, log M]",
        ideal="0",
        chance="0",
        source=OWN,
        function=budget.imbalance,
    ),
    Metric(
        name="rule_specialization",
        title="Rule specialization",
        formula_id="modeval/budget-2",
        better="higher",
        range="[0, log min(R,M)]",
        ideal="log R",
        chance="0",
        source=OWN,
        function=budget.rule_specialization,
    ),
    Metric(
        name="input_distraction",
        title="Input distraction",
        formula_id="modeval/budget-3",
        better="lower",
        range="[0, log M]",
        ideal="0",
        chance="none: 0 for uniform weights, log M for a router by input alone",
        source=OWN,
        needs="counts",
        function=budget.input_distraction,
    ),
    Metric(
        name="softness",
        title="Softness",
        formula_id="modeval/budget-4",
        better="lower",
        range="[0, log M]",
        ideal="0",
        chance="log M for uniform weights",
        source=OWN,
        needs="counts",
        function=budget.softness,
    ),
    Metric(
        name="dead_fraction",
        title="Dead modules",
        formula_id="modeval/dead-0.1",
        better="lower",
        range="[0, 1 - 1/M]",
        ideal="0",
        chance="0",
        source=OWN,
        function=load.dead_fraction,
        usage_only=True,
    ),
    Metric(
        name="effective_modules",
        title="Effective modules",
        formula_id="hill-1",
        better="higher",
        range="[1, M]",
        ideal="M",
        chance="M",
        source="Hill 1973, order 1",
        function=load.effective_modules,
        usage_only=True,
    ),
    Metric(
        name="effective_share",
        title="Effective share of modules",
        formula_id="hill-1/M",
        better="higher",
        range="[1/M, 1]",
        ideal="1",
        chance="1",
        source="Hill 1973, order 1",
        function=load.effective_share,
        usage_only=True,
    ),
    Metric(
        name="load_cv",
        title="Load variation",
        formula_id="cv",
        better="lower",
        range="[0, sqrt(M-1)]",
        ideal="0",
        chance="0",
        source="Shazeer et al. 2017, arXiv 1701.06538, section 4",
        function=load.load_cv,
        usage_only=True,
    ),
    Metric(
        name="load_gini",
        title="Load inequality (Gini)",
        formula_id="gini",
        better="lower",
        range="[0, 1 - 1/M]",
        ideal="0",
        chance="0",
        source="Gini 1912",
        function=load.load_gini,
        usage_only=True,
    ),
    Metric(
        name="max_violation",
        title="Maximal violation",
        formula_id="2408.15664/MaxVio",
        better="lower",
        range="[0, M-1]",
        ideal="0",
        chance="0",
        source="Wang et al. 2024, arXiv 2408.15664, section 4.1",
        function=load.max_violation,
        usage_only=True,
    ),
    Metric(
        name="imbalance_ratio",
        title="Busiest over mean",
        formula_id="max-over-mean",
        better="lower",
        range="[1, M]",
        ideal="1",
        chance="1",
        source="expert-parallel load balancing",
        function=load.imbalance_ratio,
        usage_only=True,
    ),
    Metric(
        name="corrected_mutual_information",
        title="Mutual information (Miller-Madow)",
        formula_id="mutual-information/miller-madow",
        better="higher",
        range="(-inf, log min(R,M)]",
        ideal="log R",
        chance="0",
        source="Miller 1955",
        needs="table",
        function=information.corrected_mutual_information,
    ),
    Metric(
        name="adjusted_mutual_information",
        title="Adjusted mutual information",
        formula_id="ami/arithmetic",
        better="higher",
        range="(-1, 1]",
        ideal="1",
        chance="0",
        source="Vinh, Epps, Bailey 2010, JMLR 11",
        needs="table",
        function=information.adjusted_mutual_information,
    ),
    Metric(
        name="domain_specialization",
        title="Domain specialization",
        formula_id="2409.02060/10",
        better="neither",
        range="[0, 1]",
        ideal="one 1 a rule",
        chance="K/M",
        source="Muennighoff et al. 2024, arXiv 2409.02060, eq. 10",
        needs="counts",
        function=selections.domain_specialization,
        shape="R,M",
    ),
    Metric(
        name="coactivation",
        title="Co-activation",
        formula_id="2409.02060/9-all-pairs",
        better="neither",
        range="[0, 1]",
        ideal="0 off the diagonal",
        chance="(K-1)/(M-1)",
        source="Muennighoff et al. 2024, arXiv 2409.02060, eq. 9",
        needs="counts",
        function=selections.coactivation,
        shape="M,M",
    ),
    Metric(
        name="saturation",
        title="Router saturation",
        formula_id="2409.02060/8",
        better="neither",
        range="[0, 1]",
        ideal="1",
        chance="K/M",
        source="Muennighoff et al. 2024, arXiv 2409.02060, eq. 8",
        needs="tokens",
        function=tokens.saturation,
    ),
    Metric(
        name="temporal_persistence",
        title="Temporal persistence",
        formula_id="2401.04088/table-5",
        better="neither",
        range="[0, 1]",
        ideal="none",
        chance="1/M; first or second 1 - (M-2)(M-3)/(M(M-1))",
        source="Jiang et al. 2024, arXiv 2401.04088, table 5",
        needs="tokens",
        function=tokens.temporal_persistence,
    ),
    Metric(
        name="vocabulary_specialization",
        title="Vocabulary specialization",
        formula_id="2409.02060/vocabulary-10",
        better="neither",
        range="[K/M, 1]",
        ideal="none",
        chance="by permutation of the tokens",
        source="Muennighoff et al. 2024, arXiv 2409.02060, section 5.4",
        needs="tokens",
        function=tokens.vocabulary_specialization,
    ),
    Metric(
        name="lexical_information",
        title="Lexical information",
        formula_id="mutual-information/token",
        better="neither",
        range="[0, log M]",
        ideal="none",
        chance="0; by permutation of the tokens",
        source="Xue et al. 2024, arXiv 2402.01739, section 4",
        needs="tokens",
        function=tokens.lexical_information,
    ),
    Metric(
        name="semantic_information",
        title="Semantic information",
        formula_id="modeval/semantic-within-token",
        better="higher",
        range="(-log M, log min(R,M)]",
        ideal="H(r|x)",
        chance="0",
        source=OWN,
        needs="tokens",
        function=tokens.semantic_information,
    ),
    Metric(
        name="cross_layer_nmi",
        title="Cross-layer dependence",
        formula_id="nmi/arithmetic",
        better="neither",
        range="[0, 1]",
        ideal="none",
        chance="by permutation of the tokens",
        source="Strehl & Ghosh 2002",
        needs="tokens",
        function=tokens.cross_layer_nmi,
        shape="L-1",
    ),
    Metric(
        name="router_margin",
        title="Router margin",
        formula_id="modeval/margin-k",
        better="neither",
        range="[0, inf)",
        ideal="none",
        chance="none",
        source=OWN,
        needs="logits",
        function=tokens.router_margin,
    ),
    Metric(
        name="weight_entropy",
        title="Weight entropy",
        formula_id="entropy",
        better="neither",
        range="[0, log M]",
        ideal="0",
        chance="log M for uniform weights",
        source="Shannon 1948",
        needs="logits",
        function=tokens.weight_entropy,
    ),
)

METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}
"""Every metric by name."""

PAPER_METRICS = (
    "collapse_avg",
    "collapse_worst",
    "alignment_distance",
    "inverse_mutual_information",
    "adaptation_distance",
)
"""The five metrics of the paper."""

STATIC_METRICS = tuple(
    row.name for row in _ROWS if row.needs in ("joint", "counts") and not row.shape
)
"""Metrics that give one number from folded routing: what :func:`measure` measures."""
