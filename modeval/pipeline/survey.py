"""What a survey of modular networks claims, measured on small rule tasks: honest where it fails.

Each claim is a difference between two ways of training, seed by seed: task and model seed are the
same, so that only what is claimed differs. It holds where the 95 % interval of the mean (Student's
t over tasks) lies on the claimed side of 0, is contradicted on the other side, and is not shown in
between. Claims that hold by construction are told to the bit.

Source: Pfeiffer et al. 2023 (Modular Deep Learning, arXiv 2302.11529).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from scipy.special import stdtrit
from torch import Tensor

from modeval.evaluate.cohort import sample_losses
from modeval.evaluate.connected import connection
from modeval.evaluate.history import history_of
from modeval.evaluate.inferred import infer_rules
from modeval.metrics.course import History, forgetting
from modeval.nn import build
from modeval.nn.network import Network, Route
from modeval.spec import RunSpec, from_dict
from modeval.spec.systems import named
from modeval.train.files import read_network
from modeval.train.loop import VALIDATION_SAMPLES, train
from modeval.train.records import is_run, read_run
from modeval.train.stream import Stream, batches, validation_batch
from modeval.train.validation import Validated, by_rule, validate
from modeval.types import Batch

SEEDS, RULES, STEPS = 8, 4, 1_500
FIRST = 1_000
"""First of the seeds: settings were chosen on those from 0, and what is told is measured on others.
"""
PAIR = (100, 101)
"""Model seeds of the two models that are joined by a line."""
Verdict = Literal["holds", "contradicted", "not shown", "holds to the bit", "fails"]
Watch = Callable[["Found"], None]


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a claim.

    Attributes:
        claim: in words.
        effect: what is measured, in words.
        mean: of the effect over seeds; above 0 is what is claimed.
        low: lower end of its 95 % interval; nothing where it is exact.
        high: upper end.
        verdict: what follows.
        note: what to know when reading it.
    """

    claim: str
    effect: str
    mean: float
    low: float | None
    high: float | None
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim: what it says, what is measured, and how.

    Attributes:
        text: the claim.
        effect: what the measurement is.
        measure: gives the effect of each seed, ``(S,)``; above 0 is what is claimed.
        exact: whether it says that all are exactly 0.
        note: what to know when reading it.
    """

    text: str
    effect: str
    measure: "Callable[[Laboratory], Tensor]"
    exact: bool = False
    note: str = ""


class Laboratory:
    """Trains what claims ask for, each once, into folders of its own."""

    def __init__(self, folder: Path, *, steps: int = STEPS, seeds: int = SEEDS) -> None:
        self.folder, self.steps, self.seeds = folder, steps, seeds
        self.tasks = range(FIRST, FIRST + seeds)
        self.history = cache(self._history)

    def run(self, name: str, regime: str = "joint", **more: Any) -> Path:
        """Return the folder of a run, trained if it was not.

        Args:
            name: of a model.
            regime: of training.
            **more: ``label`` of the folder, ``settings`` of the regime, ``data``, ``model``,
                ``seeds`` and settings of training.
        """
        folder = self.folder / str(more.pop("label", f"{name}-{regime}"))
        if not is_run(folder):
            train(self._spec(name, regime, more), folder, device=torch.device("cpu"))
        return folder

    def _spec(self, name: str, regime: str, more: dict[str, Any]) -> RunSpec:
        settings = {"encoder": 16, "width": 48, **more.pop("model", {})}
        data = {"rules": RULES, **more.pop("data", {})}
        training = {
            "seeds": more.pop("seeds", [[task, task] for task in self.tasks]),
            "steps": self.steps,
            "batch": 64,
            "learning_rate": 3e-3,
            "regime": {"kind": regime, **more.pop("settings", {})},
            **more,
        }
        model, told = named(name, settings, training)
        return from_dict(RunSpec, {"name": name, "data": data, "model": model, "train": told})

    def samples(self, folder: Path) -> Batch:
        """Return the samples that all validations of a run use."""
        spec = read_run(folder)
        stream = Stream(spec.data, spec.train.seeds, spec.train.batch, torch.device("cpu"))
        return validation_batch(stream, VALIDATION_SAMPLES)

    def seen(self, folder: Path, selection: str = "last") -> Validated:
        """Return what a validation of some weights of a run tells."""
        objective = read_run(folder).data.objective
        return validate(read_network(folder, selection), self.samples(folder), objective)

    def _history(self, folder: Path) -> History:
        history = history_of(folder, read_run(folder), range(self.seeds))
        assert history is not None  # noqa: S101 - written by this version
        return history

    def forgotten(self, folder: Path) -> Tensor:
        """Return how much each seed of a run forgot."""
        course = self.history(folder).course
        assert course is not None  # noqa: S101 - asked for of several phases alone
        return forgetting(course)


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


def judged(claim: Claim, effect: Tensor) -> Found:
    """Return a verdict on the effects of seeds.

    >>> claim = Claim("a", "b", lambda _: torch.zeros(1))
    >>> judged(claim, torch.tensor([1.0, 1.1, 0.9, 1.0])).verdict
    'holds'
    >>> judged(claim, torch.tensor([1.0, -1.1, 0.9, -1.0])).verdict
    'not shown'
    """
    values = effect.double()
    mean = float(values.mean())
    if claim.exact:
        largest = float(values.abs().max())
        verdict: Verdict = "fails" if largest else "holds to the bit"
        return Found(claim.text, claim.effect, mean, None, None, verdict, claim.note)
    half = float(stdtrit(len(values) - 1, 0.975) * values.std() / math.sqrt(len(values)))
    low, high = mean - half, mean + half
    verdict = "holds" if low > 0 else "contradicted" if high < 0 else "not shown"
    return Found(claim.text, claim.effect, mean, low, high, verdict, claim.note)


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


def _inference(at: Laboratory, *, labelled: bool) -> Tensor:
    told = {"objective": "classification"}
    folder = at.run("supermask-per-rule", "supsup", data=told, label="supsup")
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


# --- collapse and its remedies -------------------------------------------------------------------


def _tilted(at: Laboratory, *remedies: dict[str, Any]) -> Validated:
    label = "-".join(["tilted", *(str(remedy["kind"]) for remedy in remedies)])
    folder = at.run("modular-op", tilt=4.0, remedies=list(remedies), label=label)
    return at.seen(folder)


def _plain(at: Laboratory, *remedies: dict[str, Any]) -> Validated:
    label = "-".join(["plain", *(str(remedy["kind"]) for remedy in remedies)])
    return at.seen(at.run("modular-op", remedies=list(remedies), label=label))


BALANCE = {"kind": "balance", "coefficient": 0.1}
INFORMATION = {"kind": "information", "coefficient": 0.3}


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
def _pairs(at: Laboratory) -> tuple[Tensor, Tensor, Tensor]:
    """Return barriers between two seeds of one task, before and after matching, and losses."""
    pairs = [[task, model] for model in PAIR for task in at.tasks]
    folder = at.run("monolithic", seeds=pairs, label="pairs")
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
        "A winning ticket of a quarter of the weights trains to the dense loss",
        "1.1 x dense loss minus ticket's",
        lambda at: 1.1 * _dense(at) - _ticket(at, "winning"),
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
)
"""What is claimed, and how it is measured."""
