"""Claims of the survey about modules and about networks without any."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeval.counting.count import count
from modeval.data import draw, stack_tasks
from modeval.evaluate.cohort import sample_losses
from modeval.evaluate.interventions import intervene, plan
from modeval.evaluate.structure.clusters import clusterability
from modeval.evaluate.structure.monolithic import monolithic_chain
from modeval.metrics.budget import EntropyBudget, entropy_budget
from modeval.metrics.causal import causal_information
from modeval.nn import build
from modeval.nn.network import Network
from modeval.pipeline.laboratory import RULES, Claim, Laboratory
from modeval.train.files import read_network
from modeval.train.records import read_log, read_run
from modeval.train.stream import Stream, generators
from modeval.types import Batch

BALANCE = {"kind": "balance", "coefficient": 0.1}
INFORMATION = {"kind": "information", "coefficient": 0.3}
SHUFFLES = 20
HELD_OUT = 8
TREES = {
    "rules": 48,
    "operation": "named",
    "skills": 4,
    "skills_per_rule": 3,
    "composition": "tree",
    "told": "skills",
    "held_out": HELD_OUT,
}
"""Arrangements of three of four operations; the last ones are never trained on."""


# --- remedies ------------------------------------------------------------------------------------


def _needed(at: Laboratory, folder: Path) -> Tensor:
    """Return how much the modules that rules need tell of them, of each seed."""
    network, batch = read_network(folder).requires_grad_(requires_grad=False), at.samples(folder)

    def losses(prediction: Tensor, samples: Batch) -> Tensor:
        return sample_losses(prediction, samples.target, "regression")[0]

    found = intervene(network, batch, losses, planned=plan(network, RULES))
    assert found is not None  # noqa: S101 - each rule has samples among thousands
    return causal_information(found.necessity, found.floor).mean(1)


def _information_needed(at: Laboratory) -> Tensor:
    told = at.run("modular-op", remedies=[INFORMATION], label="plain-information")
    plain = at.run("modular-op", remedies=[], label="plain")
    return _needed(at, told) - _needed(at, plain)


def _budget(at: Laboratory, label: str, *remedies: dict[str, object]) -> EntropyBudget:
    """Return where the routing entropy of a run with a biased start goes, of each seed."""
    folder = at.run("modular-op", tilt=4.0, remedies=list(remedies), label=label)
    weight = at.output(folder).routed[0].weight
    return entropy_budget(count(at.samples(folder).rule, weight, rules=RULES))


def _spent_on_rules(at: Laboratory) -> Tensor:
    with_, without = _budget(at, "tilted-balance", BALANCE), _budget(at, "tilted")
    rules = with_.rule_specialization - without.rule_specialization
    rest = with_.input_distraction + with_.softness
    return rules - (rest - without.input_distraction - without.softness)


def _bias_balanced(at: Laboratory) -> Tensor:
    """Return how much less busy the busiest module is with a bias than without, of each seed."""

    def busiest(rate: float) -> Tensor:
        gating = {"kind": "balanced-top-k", "k": 1, "rate": rate}
        label = f"biased-{rate:g}"
        folder = at.run("modular", tilt=4.0, model={"gating": gating}, label=label)
        weight = at.output(folder).routed[0].weight
        return (weight > 0).double().mean(1).amax(-1)

    return busiest(1e-9) - busiest(1e-2)


# --- structure without modules -------------------------------------------------------------------


def _clusters(at: Laboratory) -> Tensor:
    network = read_network(at.run("monolithic", label="monolithic-joint"))
    effects = []
    for seed in range(at.seeds):
        chain = monolithic_chain(network, seed)
        found = clusterability(chain, clusters=RULES, shuffles=SHUFFLES)
        effects.append(sum(found.shuffled) / SHUFFLES - found.cut)
    return torch.tensor(effects, dtype=torch.float64)


# --- transfer and composition --------------------------------------------------------------------


def _few_shot(at: Laboratory) -> Tensor:
    """Return the loss on the last rule after a few steps, from scratch less on a frozen trunk."""
    new, few = RULES - 1, max(1, at.steps // 30)
    told: dict[str, Any] = {"name": "low-rank-per-rule", "validate_every": few}
    scratch = at.run(**told, phases=[{"rules": [new]}], steps=few, label="few-scratch")
    old = {"first": new / RULES}
    trunk = at.run(**told, regime="post-hoc", settings=old, label="few-trunk")
    met, _, _ = read_run(trunk).stretches[1]
    after = next(entry for entry in read_log(trunk) if entry["step"] > met)
    first, second = (
        torch.tensor([seed[new] for seed in entry["rule_loss"]], dtype=torch.float64)
        for entry in (read_log(scratch)[-1], after)
    )
    return first - second


def _held_out(at: Laboratory) -> Tensor:
    """Return the loss on arrangements that were held out, of one network less of composed ones."""
    found = []
    for name, label in (("monolithic", "tree-one"), ("module-network", "tree-modules")):
        folder = at.run(name, data=TREES, label=label)
        spec = read_run(folder)
        tasks = stack_tasks(spec.data, [task for task, _ in spec.train.seeds], torch.device("cpu"))
        stream = Stream(spec.data, spec.train.seeds, 64, torch.device("cpu"))
        shares = torch.zeros(spec.data.rules)
        shares[-HELD_OUT:] = 1 / HELD_OUT
        batch = draw(
            spec.data, tasks, generators(stream, 7, 0), samples=1024, rule_probabilities=shares
        ).as_told()
        found.append(_loss(read_network(folder), batch))
    return found[0] - found[1]


def _loss(network: Network, batch: Batch) -> Tensor:
    with torch.no_grad():
        prediction: Tensor = network(batch.inputs, batch.rule).prediction
    return (prediction - batch.target).abs().flatten(1).mean(1).double()


# --- aggregation ---------------------------------------------------------------------------------


def _mixed(at: Laboratory) -> tuple[Network, Network, Batch]:
    """Return a trained network that mixes outputs, the same one mixing parameters, and samples."""
    folder = at.run("modular-op", remedies=[], label="plain")
    spec = read_run(folder)
    outputs = read_network(folder)
    parameters = build(spec.data, replace(spec.model, aggregation="parameters"), seeds=at.seeds)
    parameters.load_state_dict(outputs.state_dict())
    return outputs, parameters, at.samples(folder)


def _mixing_harms(at: Laboratory) -> Tensor:
    outputs, parameters, batch = _mixed(at)
    return _loss(parameters, batch) - _loss(outputs, batch)


def _linear_mixing(at: Laboratory) -> Tensor:
    """Return how far below a thousandth both differ where modules have one hidden layer."""
    outputs, parameters, batch = _mixed(at)
    found = []
    for network in (outputs, parameters):
        state = network.state_dict()
        with torch.no_grad():
            for name in ("experts.hidden.weight", "experts.hidden.bias"):
                state[name].copy_(state[name][:, :1].expand_as(state[name]).clone())
            prediction: Tensor = network(batch.inputs, batch.rule).prediction
        found.append(prediction.double())
    return 1e-3 - (found[0] - found[1]).abs().flatten(1).amax(1)


# --- search and many rules -----------------------------------------------------------------------


def _deeper(at: Laboratory, name: str) -> Tensor:
    deep, flat = (
        at.seen(at.run(name, model={"layers": layers}, label=f"{name}-{layers}")).loss
        for layers in (3, 1)
    )
    return (deep - flat).double()


def _gap(at: Laboratory, rules: int, *names: str) -> Tensor:
    data = {"rules": rules, "objective": "classification"}
    worse, better = (
        at.seen(at.run(name, data=data, label=f"{name}-{rules}")).loss.double() for name in names
    )
    return worse - better


def _more_rules(at: Laboratory) -> Tensor:
    pair = ("monolithic", "gt-modular")
    return _gap(at, 8, *pair) - _gap(at, 2, *pair)


MODULE_CLAIMS: tuple[Claim, ...] = (
    Claim(
        "... and rules come to need modules of their own",
        "information of rule and needed module, with minus without training for information",
        _information_needed,
    ),
    Claim(
        "What the load-balancing loss frees is spent on telling rules apart",
        "entropy budget after a biased start: gain for rules minus gain for inputs and softness",
        _spent_on_rules,
        note="Below 0: balance is bought with routing that says nothing of the rule.",
    ),
    Claim(
        "A bias that only choosing reads mends provoked collapse without a loss",
        "share of the busiest module, without minus with the bias",
        _bias_balanced,
    ),
    Claim(
        "A network without modules falls apart into clusters",
        "normalised cut, shuffled weights minus its own",
        _clusters,
    ),
    Claim(
        "Modules on a trunk learn a new rule faster than all of a network does",
        "loss on the new rule after 50 steps, from scratch minus on the trunk",
        _few_shot,
    ),
    Claim(
        "Given modules solve arrangements of skills that were never trained on",
        "loss on held-out trees, Monolithic minus module network",
        _held_out,
    ),
    Claim(
        "Mixing parameters is mixing outputs where modules differ by what is linear",
        "0.001 minus the largest difference of an answer, modules of one hidden layer",
        _linear_mixing,
    ),
    Claim(
        "... and costs answers where they do not",
        "loss, parameters mixed minus outputs mixed",
        _mixing_harms,
    ),
    Claim(
        "Paths are harder to find the more layers there are (breeding)",
        "loss, 3 layers minus 1",
        partial(_deeper, name="pathnet"),
    ),
    Claim(
        "... and so are policies (REINFORCE)",
        "loss, 3 layers minus 1",
        partial(_deeper, name="routing-network"),
    ),
    Claim(
        "Given modules help more, the more rules there are",
        "loss, Monolithic minus GT-Modular, with 8 rules minus with 2",
        _more_rules,
    ),
    Claim(
        "Learned routing does not reach given modules",
        "loss, Modular minus GT-Modular, 8 rules",
        lambda at: _gap(at, 8, "modular", "gt-modular"),
    ),
)
"""What is claimed of them, and how it is measured."""
