"""Scores of tasks whose rules are made of skills: does routing find what each rule is made of?"""

from collections.abc import Iterator

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.metrics.chance import hash_joints, uniform_joint
from modeval.metrics.skills import discreteness, skill_match
from modeval.score.card import better_of
from modeval.score.chance import HASH_MAPS, ChanceLevel
from modeval.score.entries import Members, entries
from modeval.score.measure import PERMUTATIONS_OF_SAMPLES, Measured
from modeval.score.routing import Routing
from modeval.score.scorecard import Score
from modeval.score.subjects import Subject
from modeval.spec import DataSpec, ModelSpec
from modeval.spec.layouts import layout, skills_of_rules


def skill_scores(
    model: str, subject: Subject, routing: Routing, members: Members
) -> Iterator[Score]:
    """Yield the scores of skills; none for rules that are each one of their own.

    Rules are permuted for what chance gives: which rule is made of what is then unknown.

    Args:
        model: id of the model.
        subject: what was scored.
        routing: of its usable seeds.
        members: its seeds.
    """
    if not subject.data.skills:
        return
    [group] = routing.groups
    joint = group.joint(routing.prior, routing.view)  # (S, L, R, M)
    true = true_skills(subject.data, subject.model, joint.shape[1])
    generator = torch.Generator().manual_seed(0)
    orders = [
        torch.randperm(true.shape[-2], generator=generator) for _ in range(PERMUTATIONS_OF_SAMPLES)
    ]
    null = torch.stack([skill_match(joint, true[:, order]) for order in orders])
    matched = Measured(skill_match(joint, true), null=null)
    levels = [_level(each, joint.shape[-1]) for each in true]
    samples = int(group.counts.samples.sum((-2, -1)).amax())
    base = Score(model=model, metric="skill_match", better=better_of("skill_match"))
    yield from entries(base, matched, members, levels=levels, samples=samples)
    base = Score(model=model, metric="discreteness", better=better_of("discreteness"))
    yield from entries(base, Measured(discreteness(joint)), members, samples=samples)


def true_skills(
    data: DataSpec, model: ModelSpec, layers: int
) -> Float64[Tensor, "layers rules skills"]:
    """Return what each rule is made of, as each layer should see it: 1 where it uses a skill.

    Where modules are functions a layer is a place of the layout, with one skill of each rule.
    """
    used = torch.tensor(skills_of_rules(data))
    every = torch.zeros(data.rules, data.skills, dtype=torch.float64)
    if model.aggregation == "functions":
        return torch.stack(
            [every.scatter(1, used[:, [place.skill]], 1.0) for place in layout(data)]
        )
    return every.scatter(1, used, 1.0).expand(layers, -1, -1)


def _level(true: Float64[Tensor, "rules skills"], modules: int) -> ChanceLevel:
    """Return what uniform routing scores, and maps of each rule to as many modules as skills."""
    rules = len(true)
    each = min(max(round(float(true.sum(-1).mean())), 1), modules)
    generator = torch.Generator().manual_seed(0)
    maps = hash_joints(rules, modules, draws=HASH_MAPS, generator=generator, choices=each)
    hashed = skill_match(maps, true.expand(len(maps), -1, -1))
    return ChanceLevel(
        uniform=float(skill_match(uniform_joint(rules, modules), true)),
        hash_mean=float(hashed.mean()),
        hashed=hashed,
        bounds=(0.0, 1.0),
    )
