"""Scorecards to report on: cohorts made by hand from matrices, traces scored from counts."""

from dataclasses import replace

import torch

from modeval.counting.count import count_choices
from modeval.metrics import METRICS
from modeval.score.scorecard import (
    Activation,
    Coactivation,
    Effect,
    Finding,
    Member,
    ModelRecord,
    PhaseLosses,
    Profile,
    Removal,
    Score,
    Scorecard,
)
from modeval.score.traces import Reading, score_trace
from modeval.spec import DataSpec, ModelSpec, to_dict
from modeval.trace.fold import LayerGroup
from modeval.trace.trace import Source, TraceHeader
from modeval.types import RoutingCounts

ROUTING = (
    "collapse_worst",
    "alignment_distance",
    "alignment_score",
    "inverse_mutual_information",
    "adaptation_distance",
)
BUDGET = ("imbalance", "rule_specialization", "input_distraction", "softness")


def matrices(seeds, rules, modules, strength, generator=None):
    """Return activation matrices ``(S, R, M)``; at strength 0 uniform, at 9 about one to one."""
    generator = generator or torch.Generator().manual_seed(rules + seeds)
    logits = torch.randn(seeds, rules, modules, generator=generator, dtype=torch.float64)
    own = strength * torch.eye(rules, modules, dtype=torch.float64)
    columns = torch.randperm(modules, generator=generator)
    return (0.3 * logits + own)[..., columns].softmax(-1)


def cohort(title="Modular", *, rules=4, modules=4, seeds=3, strength=2.0, failed=0, encoder=32):
    """Return the scorecard of a cohort whose routing metrics are those of its matrices."""
    pairs = [(place % 2, place // 2) for place in range(seeds + failed)]
    good = pairs[:seeds]
    name = f"{title.lower()}-r{rules}-x{encoder}"
    scores = [*_losses(name, pairs, good)]
    activations = ()
    if modules > 1:
        found = matrices(seeds, rules, modules, strength)
        joint = found / rules
        uniform = torch.full((rules, modules), 1 / (rules * modules), dtype=torch.float64)
        for metric in ROUTING:
            function = METRICS[metric].function
            base = Score(
                model=name,
                metric=metric,
                chance=float(function(uniform)),
                chance_hash=0.4,
                better=METRICS[metric].better,
                samples=9_000 * seeds,
            )
            scores += _over(base, function(joint).tolist(), pairs, good)
        activations = tuple(
            Activation(
                model=name,
                seed=pair,
                matrix=tuple(map(tuple, matrix.tolist())),
                prior=(1 / rules,) * rules,
            )
            for pair, matrix in zip(good, found, strict=True)
        )
    record = ModelRecord(
        id=name,
        title=title,
        origin="run",
        selection="last",
        data=to_dict(DataSpec(rules=rules)),
        model=to_dict(ModelSpec(encoder=encoder)),
        digest="0123456789abcdef",
        modules=modules,
        adaptation="reweight" if modules > 1 else "none",
        members=tuple(
            Member(
                seed=pair,
                source="runs/one/last.safetensors",
                status="ok" if pair in good else "failed",
                note="" if pair in good else "its weights are not finite",
                precision=0.004 if pair in good else None,
            )
            for pair in pairs
        ),
    )
    return Scorecard(
        modeval="0.1.0",
        precision=0.005,
        models=(record,),
        scores=tuple(scores),
        activations=activations,
    )


def _losses(name, pairs, good):
    for place, metric in enumerate(("in_distribution_loss", "out_of_distribution_loss")):
        base = Score(model=name, metric=metric, samples=50_000)
        yield from _over(
            base, [0.02 + 0.01 * place + 0.001 * n for n in range(len(good))], pairs, good
        )


def _over(base, values, pairs, good):
    own = dict(zip(good, values, strict=True))
    mean = sum(values) / len(values)
    several = len(values) > 1
    low, high = (min(values), max(values)) if several else (None, None)
    yield replace(base, value=mean, low=low, high=high, seeds=len(values))
    for pair in pairs:
        note = "" if pair in own else "not a finite number"
        yield replace(base, seed=pair, value=own.get(pair), note=note, samples=9_000)


def paper():
    """Return four models at two numbers of rules in one scorecard."""
    made = [
        cohort(title, rules=rules, modules=1 if title == "Monolithic" else rules, strength=strength)
        for rules in (2, 8)
        for title, strength in (
            ("GT-Modular", 30.0),
            ("Modular", 0.5),
            ("Modular-op", 2.0),
            ("Monolithic", 0.0),
        )
    ]
    card = made[0]
    for other in made[1:]:
        card += other
    routed = [model for model in card.models if model.modules > 1]
    return replace(card, removals=tuple(_removal(m, s.seed) for m in routed for s in m.members))


def with_course(card):
    """Return a card whose models were trained in two phases, the first of rule 0 alone."""
    courses = []
    for record in card.models:
        others = record.data["rules"] - 1
        courses.append(
            PhaseLosses(
                model=record.id,
                phases=("start", "phase-1", "phase-2"),
                drawn=((0,), tuple(range(1, others + 1))),
                matrix=(
                    (1.0,) * (others + 1),
                    (0.1, *(1.5,) * others),
                    (0.9, *(0.2,) * (others - 1), None),
                ),
            )
        )
    return replace(card, courses=tuple(courses))


def _removal(model, seed):
    steps = tuple(range(model.modules + 1))
    line = tuple(0.1 + step for step in steps)
    low, high = (tuple(factor * loss for loss in line) for factor in (0.5, 1.5))
    by_use = tuple(loss**2 for loss in line)
    return Removal(
        model=model.id,
        seed=seed,
        removed=steps,
        by_use=by_use,
        random=line,
        low=low,
        high=high,
        orders=20,
    )


def switched_off(card):
    """Return a scorecard whose modules are needed in quite another way than they are used."""
    effects = []
    for each in card.activations:
        rules, modules = len(each.matrix), len(each.matrix[0])
        first = tuple(1.0 if module == 0 else 0.0 for module in range(modules))
        rows = (first,) * rules
        effects.append(
            Effect(
                model=each.model,
                layer=each.layer,
                seed=each.seed,
                intact=(0.1,) * rules,
                necessity=rows,
                silenced=rows,
                sufficiency=rows,
                floor=((1e-6,) * modules,) * rules,
                needed=rows,
                samples=100,
            )
        )
    return replace(card, effects=tuple(effects))


def trace(
    name="OLMoE", *, layers=5, modules=8, rules=3, choices=2, labelled=True, documents=60, length=20
):
    """Return the scorecard of a trace that tells its rules apart best in the middle layers."""
    generator = torch.Generator().manual_seed(layers)
    blocks = 10
    document = torch.arange(documents).repeat_interleave(length)
    rule = document % rules
    counts = []
    for layer in range(layers):
        told = 2.0 * min(layer, layers - 1 - layer)
        taste = torch.randn(rules, modules, generator=generator) * told
        logits = taste[rule] + torch.randn(len(rule), modules, generator=generator)
        weight, chosen = logits.softmax(-1).topk(choices)
        counts.append(
            count_choices(
                rule if labelled else torch.zeros_like(rule),
                chosen,
                weight / weight.sum(-1, keepdim=True),
                rules=rules if labelled else 1,
                modules=modules,
                block=document // rules % blocks,
                blocks=blocks,
            )
        )
    parts = {
        part: torch.stack([getattr(count, part) for count in counts])
        for part in counts[0].tensors()
    }
    header = TraceHeader(
        layers=tuple(f"model.layers.{layer}.mlp.gate" for layer in range(layers)),
        modules=(modules,) * layers,
        choices=(choices,) * layers,
        labels=tuple(f"domain {label}" for label in range(rules)) if labelled else (),
        source=Source("transformers 5.23", name, "live"),
        weight_scale="renormalised",
        phase="prefill",
        capacity="before",
        padding="excluded",
    )
    group = LayerGroup(tuple(range(layers)), RoutingCounts(**parts))
    reading = Reading(source=f"{name}.trace", name=name, documents=documents)
    return score_trace(header, [group], reading, permutations=99)


def large(layers=60, modules=256, rules=16, together=32):
    """Return a scorecard of the size of the largest models, without scoring one."""
    generator = torch.Generator().manual_seed(0)
    names = tuple(f"model.layers.{layer}.mlp.gate" for layer in range(layers))
    record = ModelRecord(
        id="large",
        title="Large",
        origin="trace",
        selection=None,
        data={"task": "trace", "documents": 900, "tokens": 10**6, "phase": "decode"},
        model={"model": "large", "engine": "vllm 0.21", "choices": [8] * layers},
        digest="0",
        modules=modules,
        rules=tuple(f"a rule with quite a long name, number {rule}" for rule in range(rules)),
        layers=names,
        layer_modules=(modules,) * layers,
        members=(Member(seed=None, source="large.trace"),),
    )
    scores, activations, profiles, pairs = [], [], [], []
    for layer in range(layers):
        logits = torch.randn(rules, modules, generator=generator, dtype=torch.float64)
        matrix = (1.5 * logits).softmax(-1)
        share = matrix.mean(0)
        activations.append(_matrix(Activation, layer, matrix, prior=(1 / rules,) * rules))
        beside = torch.rand(together, together, generator=generator, dtype=torch.float64)
        pairs.append(_matrix(Coactivation, layer, beside, modules=tuple(range(together))))
        profiles.append(
            Profile(
                model="large",
                metric="module_share",
                axis="module",
                layer=layer,
                values=tuple(share.tolist()),
            )
        )
        budget = torch.rand(4, generator=generator, dtype=torch.float64)
        budget *= torch.log(torch.tensor(float(modules))) / budget.sum()
        values = dict(zip(BUDGET, budget.tolist(), strict=True)) | {
            "alignment_score": float(METRICS["alignment_score"].function(matrix / rules))
        }
        scores += [
            Score(
                model="large",
                metric=metric,
                layer=layer,
                value=value,
                low=value * 0.9,
                high=value * 1.1,
                null_low=0.0,
                null_high=0.01,
                better="higher",
            )
            for metric, value in values.items()
        ]
    return Scorecard(
        models=(record,),
        scores=tuple(scores),
        findings=tuple(Finding(model="large", layer=n, word="partial") for n in range(layers)),
        profiles=tuple(profiles),
        activations=tuple(activations),
        coactivations=tuple(pairs),
    )


def _matrix(kind, layer, matrix, **rest):
    rows = tuple(map(tuple, matrix.tolist()))
    return kind(model="large", layer=layer, matrix=rows, **rest)
