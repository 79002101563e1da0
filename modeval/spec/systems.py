"""Systems of the literature, by their usual names, as choices on the axes of the model space.

A system is a row of :data:`SYSTEMS`: choices of the model, a regime where its definition has one,
and what to read of its scores. Nothing else knows systems; ``modeval train --model NAME`` lays the
choices under the other settings, and a row is all that a new one takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from modeval.errors import SpecError, nearest

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
    phase: Mapping[str, Any] = field(default_factory=dict)
    regime: str = "joint"
    tasks: tuple[str, ...] = ("binary", "sets", "series")


def _own(  # noqa: PLR0917 - a row
    kind: str,
    title: str,
    what: str,
    formula: str,
    source: str,
    expect: str,
    phase: Mapping[str, Any] | None = None,
) -> System:
    """Return a system with modules of one kind, one for each rule, on a trunk."""
    cells = kind not in ("prompt", "adapter", "parallel-adapter")
    return System(
        name=f"{kind}-per-rule",
        title=f"{title} per rule",
        what=what,
        formula=formula,
        source=source,
        expect=f"Routing is given, so its scores are perfect; {expect}",
        choices={"scorer": "oracle", "computation": {"kind": kind}},
        phase=phase or {},
        tasks=("binary", "sets", "series") if cells else ("binary", "sets"),
    )


BALANCE = {"remedies": [{"kind": "balance", "coefficient": 0.01}]}

SYSTEMS: tuple[System, ...] = (
    System(
        name="monolithic",
        title="Monolithic",
        what="A single network without modules: what modular ones are compared with.",
        formula="y = f(x, c)",
        source=PAPER,
        expect="It has no routing, so only losses are scored.",
        choices={"scorer": "none", "modules": 1},
    ),
    System(
        name="modular",
        title="Modular",
        what="Each module scores itself, and all are mixed by softmax.",
        formula="y = sum_m p_m f_m(x, c),  p = softmax_m s_m(f_m's hidden units)",
        source=PAPER,
        expect="It is distracted by inputs: information on them in its routing, given the rule.",
        choices={"scorer": "module"},
    ),
    System(
        name="modular-shared",
        title="Modular (shared scorer)",
        what="As Modular, with one scorer for all modules, on their outputs beside the input.",
        formula="p = softmax_m s(f_m(x, c), x, c)",
        source=f"the code of {PAPER}",
        expect="As Modular.",
        choices={"scorer": "shared"},
    ),
    System(
        name="modular-op",
        title="Modular-op",
        what="Routing looks at the rule alone.",
        formula="p = softmax(g(c))",
        source=PAPER,
        expect="No distraction by inputs at all; often specialises better than Modular.",
        choices={"scorer": "rule"},
    ),
    System(
        name="gt-modular",
        title="GT-Modular",
        what="Routing is the ground truth: one module for each rule.",
        formula="p = onehot(c)",
        source=PAPER,
        expect="All scores of routing are perfect: the other end of each scale.",
        choices={"scorer": "oracle"},
    ),
    System(
        name="hash",
        title="Hash routing",
        what="A fixed hash of the rule chooses the module: the null that routing has to beat.",
        formula="p = onehot(hash(c) mod M)",
        source="Roller et al. 2021 (Hash Layers, arXiv 2106.04426)",
        expect="Softness and hard gap are 0; collapse and alignment are those of a random map.",
        choices={"scorer": "hash"},
    ),
    System(
        name="global-weights",
        title="Global weights",
        what="One learned weight for each module, the same for all samples.",
        formula="p = softmax(w),  w free",
        source=f"{SURVEY}, aggregation",
        expect="Routing tells nothing of the rule: inverse mutual information is 1.",
        choices={"scorer": "global"},
    ),
    System(
        name="top-k",
        title="Top-2 MoE",
        what="A router beside the modules; the two best share a sample.",
        formula="p = softmax over the 2 largest of g(x, c)",
        source="Shazeer et al. 2017 without noise; Jiang et al. 2024 (Mixtral, arXiv 2401.04088)",
        expect="Each sample has exactly two modules, so softness lies below log 2.",
        choices={"scorer": "both", "gating": {"kind": "top-k", "k": 2}},
        phase=BALANCE,
    ),
    System(
        name="hierarchical",
        title="Hierarchical MoE",
        what="A router of routers: a group of modules is chosen, then modules of the group.",
        formula="y = sum_g p_g sum_m p_(m|g) f_m(x),  both softmax of g(x, c)",
        source="Shazeer et al. 2017 (arXiv 1701.06538), appendix B; Jordan & Jacobs 1994",
        expect="As a flat router; modules of a group are used by like rules.",
        choices={"scorer": "both", "level": "hierarchical"},
    ),
    System(
        name="global-routing",
        title="Global routing",
        what="One routing for all layers.",
        formula="p^(l) = p = softmax(g(x, c)) in each layer l",
        source=f"{SURVEY}, level of routing",
        expect="All layers have the same scores; M choices where layers by themselves have M^L.",
        choices={"scorer": "both", "level": "global"},
        sizes={"layers": 2},
    ),
    System(
        name="noisy-top-k",
        title="Noisy top-2 MoE",
        what="Top-2 of noisy scores, the scale learned; importance and load are kept even.",
        formula="p = softmax over the 2 largest of l + e softplus(n),  + CV(sum p)^2 + CV(load)^2",
        source="Shazeer et al. 2017 (arXiv 1701.06538), equations 3 to 5 and 8 to 11",
        expect="As Top-2 MoE, with load even both in weights and in samples.",
        choices={"scorer": "both", "gating": {"kind": "noisy-top-k", "k": 2}},
        phase={
            "remedies": [
                {"kind": "importance", "coefficient": 0.1},
                {"kind": "load", "coefficient": 0.1},
            ]
        },
    ),
    System(
        name="switch",
        title="Switch",
        what="One module for each sample, within its capacity, kept even by a loss.",
        formula="y = p_a f_a(x),  a = argmax p,  dropped beyond capacity N / M",
        source="Fedus et al. 2022 (Switch Transformers, arXiv 2101.03961)",
        expect="Softness and hard gap near 0; load is even, which says nothing of rules.",
        choices={"scorer": "both", "gating": {"kind": "switch", "capacity": 1.25}},
        phase=BALANCE,
    ),
    System(
        name="expert-choice",
        title="Expert choice",
        what="Modules take the samples that want them most.",
        formula="each m takes the N / M samples with the largest p_m",
        source="Zhou et al. 2022 (arXiv 2202.09368)",
        expect="Load is even by construction: collapse tells nothing. Some samples get no module.",
        choices={"scorer": "both", "gating": {"kind": "expert-choice", "capacity": 1.0}},
    ),
    System(
        name="base",
        title="BASE",
        what="In training a batch is assigned to modules in equal parts, as well as possible.",
        formula="max sum_n l_(n, a_n) with N / M samples each;  y = sigmoid(l_a) f_a(x)",
        source="Lewis et al. 2021 (BASE Layers, arXiv 2103.16716)",
        expect="Softness 0; at evaluation load may be uneven, where training's was not.",
        choices={"scorer": "both", "gating": {"kind": "base"}},
    ),
    System(
        name="sinkhorn",
        title="S-BASE",
        what="As BASE, the assignment being the best of a doubly balanced matrix.",
        formula="a = argmax of exp(l) after scaling rows and columns in turn;  y = p_a f_a(x)",
        source="Clark et al. 2022 (S-BASE, arXiv 2202.01169)",
        expect="As BASE.",
        choices={"scorer": "both", "gating": {"kind": "sinkhorn"}},
    ),
    System(
        name="gumbel",
        title="Gumbel routing",
        what="A module is drawn for each sample, gradients passing straight through.",
        formula="a ~ softmax((l + g) / t),  t from 5 to 0.5",
        source="Jang et al. 2017 (arXiv 1611.01144); Maddison et al. 2017",
        expect="Hard at evaluation: softness and hard gap are 0.",
        choices={"scorer": "rule", "gating": {"kind": "gumbel"}},
    ),
    System(
        name="epsilon-greedy",
        title="Epsilon-greedy",
        what="The best module, or in training now and then a random one.",
        formula="y = p_a f_a(x),  a = argmax p or, with probability e, uniform",
        source=f"{SURVEY}, learned routing",
        expect="Fewer dead modules than without exploration.",
        choices={"scorer": "rule", "gating": {"kind": "epsilon-greedy"}},
    ),
    System(
        name="routing-network",
        title="Routing network",
        what="A policy for each rule draws the module; what came of it is its reward (REINFORCE).",
        formula="a ~ softmax(l_c),  gradient of the router E[(R - b) d log p_a],  R = -loss",
        source="Rosenbaum et al. 2018 (Routing Networks, arXiv 1711.01239)",
        expect="Hard, so softness and hard gap are 0; policies collapse early and differ by seed.",
        choices={"scorer": "rule", "gating": {"kind": "reinforce"}},
    ),
    System(
        name="pathnet",
        title="PathNet",
        what="Paths of a module for each rule and layer compete; losers copy winners and mutate.",
        formula="p = onehot(gene_c),  loser := mutate(winner) every few steps, fitness -loss",
        source="Fernando et al. 2017 (PathNet, arXiv 1701.08734)",
        expect="Hard, so softness and hard gap are 0; rules may come to share modules.",
        choices={"scorer": "table", "gating": {"kind": "evolved"}},
    ),
    System(
        name="threshold",
        title="Variable-size routing",
        what="Each module decides by itself whether it is active.",
        formula="active = {m: sigmoid(l_m) > 1/2}, equal weights",
        source=f"{SURVEY}, routing of variable size",
        expect="The number of modules of a sample is learned.",
        choices={"scorer": "rule", "gating": {"kind": "threshold"}},
    ),
    System(
        name="smear",
        title="SMEAR",
        what="Parameters of modules are averaged by the router, then run once.",
        formula="y = f_theta(x),  theta = sum_m p_m theta_m",
        source="Muqeeth et al. 2024 (SMEAR, arXiv 2306.03745)",
        expect="As Modular with linear modules; a rectifier makes mixtures something else.",
        choices={"scorer": "both", "aggregation": "parameters"},
        tasks=("binary", "series"),
    ),
    System(
        name="molora",
        title="Mixture of LoRAs",
        what="A router mixes low-rank differences from one trunk.",
        formula="y = W x + sum_m p_m (alpha / r) B_m A_m x",
        source="Zadouri et al. 2024 (MoLORA, arXiv 2309.05444)",
        expect="Knocking out a module costs little: the trunk does most.",
        choices={"scorer": "both", "computation": {"kind": "low-rank"}},
    ),
    System(
        name="mov",
        title="Mixture of vectors",
        what="A router mixes (IA)3 vectors, before they rescale one trunk.",
        formula="y = (sum_m p_m l_m) * (W x + b)",
        source="Zadouri et al. 2024 (MoV, arXiv 2309.05444)",
        expect="As a mixture of LoRAs, with far fewer parameters.",
        choices={
            "scorer": "both",
            "computation": {"kind": "rescaled"},
            "aggregation": "parameters",
        },
        tasks=("binary", "series"),
    ),
    System(
        name="polytropon",
        title="Polytropon",
        what="Each rule has some of the skills, low-rank ones, averaged; its router learns faster.",
        formula="theta_t = W + sum_s z_ts / sum z_t  B_s A_s,  z_t ~ Concrete(sigmoid(l_t))",
        source="Ponti et al. 2023 (Polytropon, arXiv 2202.13914)",
        expect="Rules that share structure share skills; a rule may have several.",
        choices={
            "scorer": "table",
            "gating": {"kind": "concrete"},
            "computation": {"kind": "low-rank"},
            "aggregation": "parameters",
        },
        phase={
            "rates": [{"parameters": "scorer.*", "factor": 10.0}],
            "remedies": [{"kind": "reuse", "coefficient": 1e-3}],
        },
        tasks=("binary", "series"),
    ),
    System(
        name="cross-stitch",
        title="Cross-stitch",
        what="A column of modules for each rule; after each layer columns read each other.",
        formula="x_i <- sum_j a_ij f_j(x_j),  a starting at 0.9 of its own;  y from column c",
        source="Misra et al. 2016 (arXiv 1604.03539)",
        expect="|a| / sum |a| is its routing, near the truth from the start; read the knock-outs.",
        choices={
            "scorer": "stitch",
            "gating": {"kind": "linear"},
            "aggregation": "stitch",
        },
        sizes={"layers": 2},
        tasks=("binary", "sets"),
    ),
    System(
        name="sluice",
        title="Sluice",
        what="Cross-stitch in two subspaces that are kept apart, and a learned sum over layers.",
        formula="x_ig <- sum_jh a_(ig, jh) f_jh(x_j);  y from sum_l b_cl x_cl;"
        "  loss + w |W_g' W_h|^2",
        source="Ruder et al. 2019 (arXiv 1705.08142)",
        expect="As cross-stitch; what is shared may lie in one subspace.",
        choices={
            "scorer": "stitch",
            "gating": {"kind": "linear"},
            "aggregation": "sluice",
        },
        sizes={"layers": 2},
        tasks=("binary", "sets"),
    ),
    System(
        name="hypernetwork",
        title="Linear hypernetwork",
        what="The rule's embedding generates a difference of the weights.",
        formula="W_t = W + sum_m a_tm D_m,  a_t linear in the rule's encoding",
        source="von Oswald et al. 2020 (arXiv 1906.00695), with a linear generator",
        expect="|a| / sum |a| is a proxy of routing only; read the knock-outs first.",
        choices={
            "scorer": "rule",
            "gating": {"kind": "linear"},
            "computation": {"kind": "diff"},
            "aggregation": "parameters",
        },
        tasks=("binary", "series"),
    ),
    _own(
        "low-rank",
        "LoRA",
        "Each rule has a low-rank difference from a shared trunk, all trained together.",
        "y = W x + (alpha / r) B_c A_c x",
        "Hu et al. 2022 (LoRA, arXiv 2106.09685)",
        "how much knocking a module out costs tells what the trunk left to it.",
    ),
    _own(
        "rescaled",
        "(IA)3",
        "Each rule rescales the outputs of a shared trunk.",
        "y = l_c * (W x + b)",
        "Liu et al. 2022 ((IA)3, arXiv 2205.05638)",
        "vectors of rules that need the same may be alike.",
    ),
    _own(
        "prompt",
        "Prompt",
        "Each rule has a learned vector before the input of a shared trunk.",
        "y = f([v_c, x])",
        "Lester et al. 2021 (prompt tuning, arXiv 2104.08691)",
        "prompts of equal rules may be alike.",
    ),
    _own(
        "adapter",
        "Adapter",
        "Each rule has a bottleneck after the hidden units of a shared trunk.",
        "h + U_c s(D_c h)",
        "Houlsby et al. 2019 (arXiv 1902.00751)",
        "at the start all modules are the trunk.",
    ),
    _own(
        "parallel-adapter",
        "Parallel adapter",
        "Each rule has a bottleneck beside a shared trunk.",
        "f(x) + U_c s(D_c x)",
        "He et al. 2022 (arXiv 2110.04366)",
        "at the start all modules are the trunk.",
    ),
    System(
        name="prefix-per-rule",
        title="Prefix per rule",
        what="Each rule has learned keys and values before those of one attention.",
        formula="(1 - g) attn(x) + g attn(P_c),  g the prefix's share of the softmax",
        source="Li & Liang 2021 (prefix tuning, arXiv 2101.00190)",
        expect="Routing is given, so its scores are perfect; knock-outs tell what prefixes add.",
        choices={"scorer": "oracle", "computation": {"kind": "prefix"}},
        tasks=("sets",),
    ),
    System(
        name="hard-sharing",
        title="Hard parameter sharing",
        what="One trunk, and a readout of each rule: multi-task learning as of old.",
        formula="y = W_c h(x)",
        source=f"Caruana 1997; {SURVEY}, sharing",
        expect="Routing is given, so its scores are perfect; each readout serves its rule alone.",
        choices={"scorer": "oracle", "computation": {"kind": "head"}},
        tasks=("binary", "sets"),
    ),
    System(
        name="soft-sharing",
        title="Soft parameter sharing",
        what="A network for each rule, all drawn together by the loss.",
        formula="loss + w sum_(a<b) |theta_a - theta_b|^2",
        source=f"Duong et al. 2015 (ACL); {SURVEY}, sharing",
        expect="The dearer the distance, the more alike the modules: redundancy grows with w.",
        choices={"scorer": "oracle", "computation": {"kind": "tied"}},
    ),
    _own(
        "masked",
        "Movement pruning",
        "Each rule keeps a part of a shared trunk; what moves away from 0 is kept.",
        "y = (W * b_c) x,  gradient of a score W dL/dW",
        "Sanh et al. 2020 (arXiv 2005.07683)",
        "masks of rules that need the same may overlap more than chance.",
    ),
    _own(
        "magnitude",
        "Magnitude pruning",
        "Each rule keeps the largest weights of its own version of a trunk.",
        "y = ((W + D_c) * b_c) x,  b_c the largest of |W + D_c|",
        "Zhu & Gupta 2017 (arXiv 1710.01878)",
        "masks begin equal and part as the versions do.",
    ),
    _own(
        "sparse-diff",
        "Sparse fine-tuning (LT-SFT)",
        "Each rule has a sparse difference from a trunk: learn all, keep the largest, begin again.",
        "y = (W + b_c * D_c) x,  b_c the largest of |D_c| after the first phase",
        "Ansell et al. 2022 (LT-SFT, arXiv 2110.07560)",
        "supports of rules that need the same may overlap more than chance.",
    ),
    _own(
        "diff-pruning",
        "Diff pruning",
        "Each rule has a difference from a trunk of which the loss keeps little.",
        "y = (W + z_c * D_c) x,  z_c hard concrete,  loss + w P(z_c > 0)",
        "Guo et al. 2021 (diff pruning, arXiv 2012.07463)",
        "the share of z that is not 0 is what rules cost beside the trunk.",
        phase={"rates": [{"parameters": "*own_logit", "factor": 10.0}]},
    ),
    _own(
        "supermask",
        "Supermask",
        "Each rule learns which part of a random trunk to keep; the trunk never changes.",
        "y = (W * b_c) x,  W random and frozen",
        "Ramanujan et al. 2020 (arXiv 1911.13299); Wortsman et al. 2020 (SupSup)",
        "the trunk's weights are those of the start, to the bit.",
    ),
    _own(
        "diff",
        "Task vectors",
        "Each rule has a dense difference from a shared trunk.",
        "y = (W + D_c) x + b + d_c",
        "Ilharco et al. 2023 (task vectors, arXiv 2212.04089)",
        "differences can be added, taken away and merged (regime merged).",
    ),
    System(
        name="progressive",
        title="Progressive network",
        what="Rules come one by one; each gets a column that reads the earlier, frozen ones.",
        formula="y = W_c h_c + sum_(j < c) U_(c, j) h_j",
        source="Rusu et al. 2016 (progressive networks, arXiv 1606.04671)",
        expect="Forgets nothing, to the bit.",
        choices={"scorer": "oracle", "computation": {"kind": "columns"}},
        regime="progressive",
        tasks=("binary", "sets"),
    ),
    System(
        name="packnet",
        title="PackNet",
        what="Rules come one by one; each gets a part of one trunk, which then stays as it is.",
        formula="y = (W * kept_c) x,  kept_c containing kept_(c - 1)",
        source="Mallya & Lazebnik 2018 (PackNet, arXiv 1711.05769)",
        expect="Forgets nothing, to the bit; what is left for later rules shrinks.",
        choices={"scorer": "oracle", "computation": {"kind": "packed"}},
        regime="packnet",
    ),
    System(
        name="adapter-fusion",
        title="AdapterFusion",
        what="Adapters learned each from its own rule, then frozen and mixed by attention.",
        formula="y = V sum_m softmax_m((Q h) . (K f_m(h))) f_m(h)",
        source="Pfeiffer et al. 2021 (AdapterFusion, arXiv 2005.00247)",
        expect="Attention is the routing; that of related rules may be alike.",
        choices={
            "scorer": "attention",
            "computation": {"kind": "adapter"},
            "aggregation": "attend",
        },
        regime="fusion",
        tasks=("binary", "sets"),
    ),
)
"""Every system that is whole; what is not here is not built in yet, or is none of these choices."""

BY_NAME: Mapping[str, System] = MappingProxyType({system.name: system for system in SYSTEMS})


def system_of(name: str) -> System:
    """Return the system of a name.

    Raises:
        SpecError: there is none; the nearest is named.
    """
    if name not in BY_NAME:
        raise SpecError(
            f"{name}: there is no such system{nearest(name, list(BY_NAME))}. modeval systems lists "
            "them."
        )
    return BY_NAME[name]


def named(
    name: str, model: Mapping[str, Any], train: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of model and training with the choices of a system laid over them.

    Settings of a choice stay as given: ``top-k`` with ``k = 3`` is Top-2 MoE with 3 modules.

    >>> named("top-k", {"gating": {"k": 3}, "width": 64}, {"phases": []})[0]["gating"]
    {'kind': 'top-k', 'k': 3}
    """
    system = system_of(name)
    settings, training = {**system.sizes, **model}, dict(train)
    for axis, choice in system.choices.items():
        given = settings.get(axis)
        both = isinstance(choice, Mapping) and isinstance(given, Mapping)
        settings[axis] = {**choice, **given} if both and given is not None else choice
    if "phases" in training:
        return settings, training
    if system.regime != "joint":
        training.setdefault("regime", {"kind": system.regime})
    if system.phase and kind_of(training.get("regime", "joint")) == "joint":
        training["phases"] = [dict(system.phase)]
    else:  # each phase of a regime has what the system's single one would have
        training = {**system.phase, **training}
    return settings, training


def kind_of(choice: Any) -> str:
    """Return the kind that a name or a table of settings says, as a file and flags give them."""
    return str(choice.get("kind", "")) if isinstance(choice, Mapping) else str(choice)


def contradictions(name: str, model: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the choices of a system that settings say otherwise: what it is, and what they say."""
    found: dict[str, tuple[Any, Any]] = {}
    for axis, choice in system_of(name).choices.items():
        kind = choice["kind"] if isinstance(choice, Mapping) else choice
        given = model.get(axis)
        given = given.get("kind", kind) if isinstance(given, Mapping) else given
        if given is not None and given != kind:
            found[axis] = (kind, given)
    return found
