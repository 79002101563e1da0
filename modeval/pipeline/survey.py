"""What a survey of modular networks claims, measured on small rule tasks: honest where it fails.

Each claim is a difference between two ways of training, seed by seed: task and model seed are the
same, so that only what is claimed differs. It holds where the 95 % interval of the mean (Student's
t over tasks) lies on the claimed side of 0, is contradicted on the other side, and is not shown in
between. Claims that hold by construction are told to the bit.

Source: Pfeiffer et al. 2023 (Modular Deep Learning, arXiv 2302.11529).
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeval.evaluate.cohort import sample_losses
from modeval.evaluate.connected import connection
from modeval.evaluate.inferred import infer_rules
from modeval.nn import build, create
from modeval.nn.network import Network, Route
from modeval.pipeline.laboratory import RULES, SEEDS, STEPS, Claim, Found, Laboratory, judged
from modeval.pipeline.survey_flatness import FLATNESS_CLAIMS, OPTIMISERS
from modeval.pipeline.survey_modules import BALANCE, INFORMATION, MODULE_CLAIMS
from modeval.train.files import read_network
from modeval.train.records import read_run
from modeval.train.stream import Stream, batches
from modeval.train.validation import Validated, by_rule, validate
from modeval.types import Batch

PAIR = (100, 101)
"""Model seeds of the two models that are joined by a line."""
Watch = Callable[[Found], None]


def survey(
    folder: Path, *, watch: Watch = lambda _found: None, steps: int = STEPS, seeds: int = SEEDS
) -> tuple[Found, ...]:
    """Measure every claim, and return what came of each.

    Args:
        folder: where runs are trained.
        watch: told of each as it is found.
        steps: of each run.
        seeds: tasks, each with a model seed of its own.
    """
    laboratory = Laboratory(folder, steps=steps, seeds=seeds)
    found = []
    for claim in CLAIMS:
        found.append(judged(claim, claim.measure(laboratory)))
        watch(found[-1])
    return tuple(found)


# --- continual learning --------------------------------------------------------------------------


def _naive(at: Laboratory) -> Tensor:
    return at.forgotten(at.run("monolithic", "sequential"))


def _replay(at: Laboratory) -> Tensor:
    return _naive(at) - at.forgotten(at.run("monolithic", "replay"))


def _progressive(at: Laboratory) -> Tensor:
    return at.forgotten(at.run("progressive", "progressive"))


def _packnet(at: Laboratory) -> Tensor:
    return at.forgotten(at.run("packnet", "packnet"))


def _laterals(at: Laboratory) -> Tensor:
    alone = at.seen(at.run("gt-modular", "separate")).rule_loss[:, 1:].mean(1)
    return alone - at.seen(at.run("progressive", "progressive")).rule_loss[:, 1:].mean(1)


def _inference(at: Laboratory, *, labelled: bool, telling: float = 0.0) -> Tensor:
    told = {"objective": "classification", "telling": telling}
    label = f"supsup-{telling:g}" if telling else "supsup"
    folder = at.run("supermask-per-rule", "supsup", data=told, label=label)
    network, spec = read_network(folder), read_run(folder)
    right = []
    for rule in range(RULES):
        source = Stream(spec.data, spec.train.seeds, 512, torch.device("cpu"), 77, (rule,))
        batch = next(batches(source))
        target = batch.target if labelled else None
        inferred = infer_rules(network, batch.inputs, "classification", target, together=8)
        right.append((inferred == rule).double().mean(1))
    return torch.stack(right).mean(0) - 1 / RULES


# --- sub-networks --------------------------------------------------------------------------------


def _ticket(at: Laboratory, ticket: str) -> Tensor:
    settings = {"rounds": 2, "share": 0.5, "ticket": ticket}
    label, steps = f"lottery-{ticket}", 3 * at.steps  # so that each round has as many as others
    folder = at.run("monolithic", "lottery", settings=settings, steps=steps, label=label)
    return at.seen(folder).loss


def _dense(at: Laboratory) -> Tensor:
    _ticket(at, "winning")
    return at.seen(at.folder / "lottery-winning", "phase-1").loss


def _as_good(at: Laboratory) -> Tensor:
    lacks = _ticket(at, "winning") - _dense(at)
    folder = at.folder / "lottery-winning"
    spec = read_run(folder)
    start = create(spec.data, spec.model, [model for _, model in spec.train.seeds])
    gained = validate(start, at.samples(folder), spec.data.objective).loss - _dense(at)
    return 0.05 * gained - lacks


# --- collapse and its remedies -------------------------------------------------------------------


def _tilted(at: Laboratory, *remedies: dict[str, Any]) -> Validated:
    label = "-".join(["tilted", *(str(remedy["kind"]) for remedy in remedies)])
    folder = at.run("modular-op", tilt=4.0, remedies=list(remedies), label=label)
    return at.seen(folder)


def _plain(at: Laboratory, *remedies: dict[str, Any]) -> Validated:
    label = "-".join(["plain", *(str(remedy["kind"]) for remedy in remedies)])
    return at.seen(at.run("modular-op", remedies=list(remedies), label=label))


def _provoked(at: Laboratory) -> Tensor:
    return _tilted(at).routing["collapse_worst"] - _plain(at).routing["collapse_worst"]


def _balanced(at: Laboratory) -> Tensor:
    return _tilted(at).routing["collapse_worst"] - _tilted(at, BALANCE).routing["collapse_worst"]


def _balance_told(at: Laboratory) -> Tensor:
    name = "inverse_mutual_information"
    return _plain(at).routing[name] - _plain(at, BALANCE).routing[name]


def _trained_information(at: Laboratory) -> Tensor:
    name = "inverse_mutual_information"
    return _plain(at).routing[name] - _plain(at, INFORMATION).routing[name]


def _information_pays(at: Laboratory) -> Tensor:
    return _plain(at).loss - _plain(at, INFORMATION).loss


def _curriculum(at: Laboratory) -> Tensor:
    folder = at.run("modular-op", "curriculum")
    name = "alignment_distance"
    return _plain(at).routing[name] - at.seen(folder).routing[name]


def _distracted(at: Laboratory) -> Tensor:
    name = "alignment_distance"
    return at.seen(at.run("modular")).routing[name] - _plain(at).routing[name]


# --- merging and connection ----------------------------------------------------------------------


def _merged(at: Laboratory, method: str) -> Tensor:
    folder = at.run(
        "diff-per-rule", "merged", settings={"method": method}, label=f"merged-{method}"
    )
    return at.seen(folder).loss


def _apart(at: Laboratory) -> Tensor:
    _merged(at, "average")
    return at.seen(at.folder / "merged-average", "phase-2").loss


@cache
def _pairs(at: Laboratory, optimiser: str = "adam") -> tuple[Tensor, Tensor, Tensor]:
    """Return barriers between two seeds of one task, before and after matching, and losses."""
    pairs = [[task, model] for model in PAIR for task in at.tasks]
    label = "pairs" if optimiser == "adam" else f"pairs-{optimiser}"
    folder = at.run("monolithic", seeds=pairs, label=label, **OPTIMISERS[optimiser])
    network = read_network(folder)
    state = {name: value.detach() for name, value in network.named_parameters()}
    one, two = ({n: v[part] for n, v in state.items()} for part in _halves(at.seeds))
    batch = at.samples(folder)
    half = Batch(*(part[: at.seeds] for part in (batch.inputs, batch.rule, batch.target)))
    spec = read_run(folder)
    pair = build(spec.data, spec.model, seeds=at.seeds)
    found = connection(pair, one, two, half, "regression")
    return found.barrier, found.matched, found.loss


def _halves(seeds: int) -> tuple[slice, slice]:
    return slice(0, seeds), slice(seeds, 2 * seeds)


def _barrier(at: Laboratory) -> Tensor:
    barrier, _, loss = _pairs(at)
    return barrier - 0.02 * loss


def _matching(at: Laboratory) -> Tensor:
    barrier, after, _ = _pairs(at)
    return barrier - after


def _nearer(at: Laboratory) -> Tensor:
    return _pairs(at)[1] - _pairs(at, "sam")[1]


# --- modules -------------------------------------------------------------------------------------


def _without(at: Laboratory, *, owner: bool) -> Tensor:
    """Return what is added to the loss of rules when a module is removed."""
    folder = at.run("gt-modular", data={"objective": "classification"}, label="gt")
    network, batch = read_network(folder), at.samples(folder)
    whole = _rule_losses(network, batch, None)
    harm = [_rule_losses(network, batch, removed(module)) - whole for module in range(RULES)]
    table = torch.stack(harm, 1)  # (S, M, R)
    own = table.diagonal(dim1=1, dim2=2).sum(1)
    return own / RULES if owner else table.abs().sum((1, 2)) - own.abs()


def removed(module: int) -> Route:
    """Return a route that takes nothing to a module."""

    def route(weight: Tensor, layer: int) -> Tensor:
        del layer
        kept = torch.ones(weight.shape[-1])
        kept[module] = 0
        return weight * kept

    return route


def _rule_losses(network: Network, batch: Batch, route: Route | None) -> Tensor:
    with torch.no_grad():
        prediction = network(batch.inputs, batch.rule, route=route).prediction
    each, _ = sample_losses(prediction, batch.target, "classification")
    return by_rule(each, batch.rule, RULES).double()


def _many_rules(at: Laboratory) -> Tensor:
    data = {"rules": 8, "objective": "classification"}
    found = [
        at.seen(at.run(name, data=data, label=f"{name}-8")).loss
        for name in ("monolithic", "gt-modular")
    ]
    return found[0] - found[1]


def _post_hoc(at: Laboratory) -> Tensor:
    folder = at.run("low-rank-per-rule", "post-hoc")
    new = slice(RULES // 2, None)
    before = at.seen(folder, "phase-1").rule_loss[:, new].mean(1)
    return before - at.seen(folder).rule_loss[:, new].mean(1)


def _post_hoc_kept(at: Laboratory) -> Tensor:
    folder = at.run("low-rank-per-rule", "post-hoc")
    old = slice(None, RULES // 2)
    return at.seen(folder).rule_loss[:, old].sum(1) - at.seen(folder, "phase-1").rule_loss[
        :, old
    ].sum(1)


CLAIMS: tuple[Claim, ...] = (
    Claim("Training on one rule after another forgets", "forgetting", _naive),
    Claim("Replay of kept samples forgets less", "forgetting without minus with replay", _replay),
    Claim("Progressive columns forget nothing", "forgetting", _progressive, exact=True),
    Claim("PackNet forgets nothing", "forgetting", _packnet, exact=True),
    Claim(
        "Laterals to earlier columns help later rules",
        "loss on later rules, separate modules minus progressive columns",
        _laterals,
    ),
    Claim(
        "The mask of a rule can be told from 8 labelled samples (SupSup)",
        "share inferred right minus chance",
        lambda at: _inference(at, labelled=True),
    ),
    Claim(
        "The mask of a rule can be told by how sure it is (SupSup)",
        "share inferred right minus chance",
        lambda at: _inference(at, labelled=False),
        note="Inputs are drawn alike for every rule here, so there is little that could tell it.",
    ),
    Claim(
        "... where inputs of a rule lie near a line of its own",
        "share inferred right minus chance",
        lambda at: _inference(at, labelled=False, telling=0.9),
    ),
    Claim(
        "A winning ticket of a quarter of the weights trains to the dense loss",
        "a twentieth of what dense training gained minus what the ticket lacks",
        _as_good,
    ),
    Claim(
        "A random ticket of that size does worse",
        "loss, random minus winning ticket",
        lambda at: _ticket(at, "random") - _ticket(at, "winning"),
    ),
    Claim(
        "The mask without its start does worse",
        "loss, redrawn minus winning ticket",
        lambda at: _ticket(at, "redrawn") - _ticket(at, "winning"),
    ),
    Claim("A biased start provokes collapse", "collapse (worst), biased minus plain", _provoked),
    Claim(
        "The load-balancing loss lowers provoked collapse",
        "collapse (worst), without minus with the loss",
        _balanced,
    ),
    Claim(
        "The load-balancing loss makes modules tell more of the rules",
        "inverse mutual information, without minus with the loss",
        _balance_told,
        note="Even load is not specialisation.",
    ),
    Claim(
        "Training for information raises it",
        "inverse mutual information, without minus with the loss",
        _trained_information,
    ),
    Claim(
        "... and answers get better with it",
        "loss, without minus with training for information",
        _information_pays,
        note="A score that is trained for need no longer tell what it told.",
    ),
    Claim(
        "A curriculum of rules specialises modules",
        "alignment distance, joint minus curriculum",
        _curriculum,
    ),
    Claim(
        "Routers that see the input are distracted by it",
        "alignment distance, Modular minus Modular-op",
        _distracted,
    ),
    Claim(
        "Averaging task vectors costs what modules had",
        "loss, merged minus apart",
        lambda at: _merged(at, "average") - _apart(at),
    ),
    Claim(
        "TIES merges better than averaging",
        "loss, average minus TIES",
        lambda at: _merged(at, "average") - _merged(at, "ties"),
    ),
    Claim(
        "Two seeds of one task are not connected by a line",
        "barrier minus 2 % of the loss",
        _barrier,
    ),
    Claim("Matching units lowers the barrier", "barrier before minus after", _matching),
    *FLATNESS_CLAIMS,
    Claim(
        "SAM lowers the barrier between seeds of one task",
        "barrier once units are matched, Adam minus SAM",
        _nearer,
    ),
    Claim(
        "Removing a module harms its own rule",
        "loss added to the rule",
        lambda at: _without(at, owner=True),
    ),
    Claim(
        "... and no other one",
        "loss added to other rules",
        lambda at: _without(at, owner=False),
        exact=True,
    ),
    Claim(
        "With many rules, given modules beat one network",
        "loss, Monolithic minus GT-Modular, 8 rules",
        _many_rules,
    ),
    Claim(
        "Modules on a frozen trunk learn new rules",
        "loss on new rules, before minus after",
        _post_hoc,
    ),
    Claim(
        "... and leave old ones as they were",
        "loss on old rules, after minus before",
        _post_hoc_kept,
        exact=True,
    ),
    *MODULE_CLAIMS,
)
"""What is claimed, and how it is measured."""
