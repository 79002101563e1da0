"""Systems of the literature, by their usual names, as choices on the axes of the model space.

A system is a row of :data:`SYSTEMS`: choices of the model, a regime where its definition has one,
and what to read of its scores. Nothing else knows systems; ``modeval train --model NAME`` lays the
choices under the other settings, and a row is all that a new one takes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from modeval.errors import SpecError, nearest
from modeval.spec.module_systems import MODULE_SYSTEMS
from modeval.spec.system import PAPER, SURVEY, System

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
        name="sequence-routing",
        title="Sequence-level MoE",
        what="One routing for all positions of a sequence.",
        formula="p_nt = softmax(mean_t g(x_nt, c_nt)) for each position t of sequence n",
        source="Kudugunta et al. 2021 (arXiv 2110.03742), sentence-level; the survey's example",
        expect="Rules change within a sequence and routing does not: alignment is near 0.",
        choices={"scorer": "both", "level": "sample"},
        tasks=("sets", "series"),
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
        name="weighted-policy",
        title="Weighted policy learner",
        what="As the routing network; a policy moves slowly near a choice that is sure.",
        formula="gradient of the router E[(R - b) w d p_a],  w = 1 - p_a if R > b, else p_a",
        source="Rosenbaum et al. 2018 (Routing Networks, arXiv 1711.01239); Abdallah & Lesser 2008",
        expect="As the routing network: hard, so softness and hard gap are 0.",
        choices={"scorer": "rule", "gating": {"kind": "reinforce", "weighted": True}},
    ),
    System(
        name="q-learning",
        title="Q-learning of routes",
        what="A router foretells what each module earns for the rule, and takes the best.",
        formula="m = argmax_m Q_cm,  router (Q_cm - R)^2 / 2,  R = -loss or the next max Q",
        source="Rosenbaum et al. 2018 (Routing Networks, arXiv 1711.01239); Watkins & Dayan 1992",
        expect="Hard, so softness and hard gap are 0; the first good module may keep a rule.",
        choices={"scorer": "rule", "gating": {"kind": "q-learning"}},
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
    *MODULE_SYSTEMS,
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
    plain = kind_of(training.get("regime", "joint")) == "joint"
    if system.phase and plain and not {"remedies", "rates"} & training.keys():
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
