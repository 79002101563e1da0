"""Teachers: how routers learn that no gradient of the loss reaches.

    teacher.route(batch, noise) -> how a step is routed, where not by the logits
    teacher.term(output, cost) -> what is added to the loss of each seed, (S,)
    teacher.learn(output, cost, noise) -> after the step

``cost`` is the loss of each sample or position. A gating that needs a teacher has one in
:data:`TEACHERS`; all that a teacher remembers is in its ``state``, seeds first, so that a run
resumes where it was and a seed is taught as it is alone.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from modeval.nn.layer import LayeredNetwork
from modeval.nn.linear import per_rule
from modeval.nn.network import Network, Output, Route
from modeval.nn.recurrent import RecurrentNetwork
from modeval.nn.scorers import BiasedScorer, FreeScorer
from modeval.spec.taught import BalancedTopK, Evolved, QLearning, Reinforce
from modeval.types import Batch, Noise

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


@runtime_checkable
class Teacher(Protocol):
    """What teaches a router; see the module."""

    @property
    def state(self) -> dict[str, Tensor]:
        """What it remembers; loading copies into these tensors."""

    def route(self, batch: Batch, noise: Noise | None) -> Route | None:
        """Return how a step is routed, where not as its gating says."""

    def term(self, output: Output, cost: Tensor) -> Float[Tensor, " seeds"]:
        """Return what is added to the loss of each seed."""

    def learn(self, output: Output, cost: Tensor, noise: Noise | None) -> None:
        """Learn from a step that is done."""


class _ChosenByGating:
    """A teacher that leaves the choice to the gating."""

    @property
    def state(self) -> dict[str, Tensor]:
        """Return nothing, unless more is remembered than the network holds."""
        return {}

    def route(self, batch: Batch, noise: Noise | None) -> Route | None:
        """Give no route."""
        del batch, noise
        return None


class Rewarded(_ChosenByGating):
    """Teaches a policy by what came of its choices (REINFORCE).

    The term's gradient is ``mean over decisions of (C - b) d log p_a``, C being the cost that a
    decision may have caused: the loss of its sample or position; where positions hand on a state,
    that of all positions from it on. In expectation over the draws it is the gradient of the mean
    loss: b depends on earlier steps alone. A weighted policy learner has ``w p_a`` in the place of
    ``log p_a``, w being ``p_a`` where C is above b, else ``1 - p_a``, without gradient.

    Attributes:
        mean: ``(S,)`` mean cost of late, unless divided by how much it has seen.
        usage: ``(S, L, M)`` share of each module of late, likewise.
        seen: ``()`` weight of all that was seen: 1 after many steps.
    """

    def __init__(self, network: LayeredNetwork, gating: Reinforce) -> None:
        device = next(network.parameters()).device
        self.gating = gating
        self.hands_on = isinstance(network, RecurrentNetwork)
        self.layers = network.deciding
        shape = (network.seeds, len(self.layers), network.module_count)
        self.mean = torch.zeros(network.seeds, device=device)
        self.usage = torch.zeros(shape, device=device)
        self.seen = torch.zeros((), device=device)

    @property
    def state(self) -> dict[str, Tensor]:
        """Return what was seen of late."""
        return {"mean": self.mean, "usage": self.usage, "seen": self.seen}

    def term(self, output: Output, cost: Tensor) -> Float[Tensor, " seeds"]:
        """Return the weighted log likelihood of the choices that were made."""
        seen = self.seen.clamp(min=1e-12)
        later, ahead = cost.detach(), torch.ones_like(cost[:1, :1])
        if self.hands_on:
            later, ahead = _from_here_on(later), _from_here_on(ahead)
        expected = (self.mean / seen).view(-1, *[1] * (cost.dim() - 1))
        advantage = later - expected * ahead
        total = torch.zeros_like(self.mean)
        for place, layer in enumerate(self.layers):
            routed = output.routed[layer]
            chosen = routed.weight.argmax(-1, keepdim=True)
            likelihood = routed.logits.log_softmax(-1).gather(-1, chosen).squeeze(-1)
            weighed = advantage
            if self.gating.weighted:
                likelihood = likelihood.exp()
            if self.gating.collaboration:
                shares = self.usage[:, place] / seen - 1 / self.usage.shape[-1]
                popular = shares.gather(1, chosen.flatten(1)).view_as(advantage)
                weighed = weighed - self.gating.collaboration * popular
            if self.gating.weighted:
                share = likelihood.detach()
                weighed = weighed * torch.where(weighed > 0, share, 1 - share)
            total = total + (weighed * likelihood).flatten(1).mean(1)
        return total

    def learn(self, output: Output, cost: Tensor, noise: Noise | None) -> None:
        """Note the cost and the choices of a step."""
        del noise
        new = 1 - self.gating.baseline
        if self.gating.baseline:
            self.mean.lerp_(cost.flatten(1).mean(1), new)
        sent = [output.routed[layer].weight.flatten(1, -2).mean(1) for layer in self.layers]
        self.usage.lerp_(torch.stack(sent, 1), new)
        self.seen.lerp_(torch.ones_like(self.seen), new)


class Valued(_ChosenByGating):
    """Teaches a router to foretell what choices are worth (Q-learning).

    The term is ``mean over decisions of (Q_a - target)^2 / 2``, the target being what is known
    after the decision: minus the cost, where nothing follows; the largest Q of the next decision,
    where one does. What follows the last layer is nothing, or where positions hand on a state, the
    first layer at the next position, whose largest Q comes on top of minus the cost of this one.
    """

    def __init__(self, network: LayeredNetwork, gating: QLearning) -> None:
        del gating
        self.hands_on = isinstance(network, RecurrentNetwork)
        self.layers = network.deciding

    def term(self, output: Output, cost: Tensor) -> Float[Tensor, " seeds"]:
        """Return the squared error of the values of what was chosen."""
        every = [output.routed[layer] for layer in self.layers]
        best = [routed.logits.detach().amax(-1) for routed in every]
        after = -cost.detach()
        if self.hands_on:
            after = after + F.pad(best[0][:, :, 1:], (0, 1))
        total = cost.new_zeros(len(cost))
        for routed, target in zip(every, [*best[1:], after], strict=True):
            chosen = routed.weight.argmax(-1, keepdim=True)
            value = routed.logits.gather(-1, chosen).squeeze(-1)
            total = total + 0.5 * (value - target).square().flatten(1).mean(1)
        return total

    def learn(self, output: Output, cost: Tensor, noise: Noise | None) -> None:
        """Remember nothing beside the values."""
        del output, cost, noise


class Bred:
    """Breeds paths by binary tournament (PathNet).

    Attributes:
        paths: ``(S, P, L, R)`` the module of each rule in each layer, on each path.
        pair: ``(S, 2)`` the paths on trial.
        losses: ``(S, 2)`` their summed losses.
        age: ``()`` steps of the trial.
        held: ``(S, L, R)`` genes that stay as they are, where any are.
    """

    def __init__(
        self, network: LayeredNetwork, gating: Evolved, held: Mapping[str, Tensor] = NOTHING
    ) -> None:
        self.gating, self.modules = gating, network.module_count
        routers = [network.scorer, *(layer.scorer for layer in network.layers)]
        self.routers = [cast("FreeScorer", routers[layer]) for layer in network.deciding]
        self.held = _held_genes(network, held)
        device = next(network.parameters()).device
        shape = (network.seeds, gating.population, len(self.routers), network.rules)
        self.paths = torch.zeros(shape, dtype=torch.int64, device=device)
        self.pair = torch.zeros(network.seeds, 2, dtype=torch.int64, device=device)
        self.losses = torch.zeros(network.seeds, 2, device=device)
        self.age = torch.zeros((), dtype=torch.int64)

    @property
    def state(self) -> dict[str, Tensor]:
        """Return the population and the trial in progress."""
        return {"paths": self.paths, "pair": self.pair, "losses": self.losses, "age": self.age}

    def route(self, batch: Batch, noise: Noise | None) -> Route | None:
        """Send the first half of the batch along one path on trial, the rest along the other."""
        if noise is None:
            return None
        if int(self.age) == 0:
            self._begin(noise)
        rules = self.paths.shape[-1]
        genes = torch.stack(
            [paths[pair] for paths, pair in zip(self.paths, self.pair, strict=True)]
        )  # (S, 2, L, R)
        tables = F.one_hot(genes, self.modules).to(batch.inputs.dtype)
        second = _second_half(batch.rule).expand_as(batch.rule)
        place = (batch.rule + rules * second).flatten(1)

        def along(weight: Tensor, layer: int) -> Tensor:
            table = tables[:, :, min(layer, tables.shape[2] - 1)].flatten(1, 2)
            return per_rule(table, place).view_as(weight)

        return along

    def term(self, output: Output, cost: Tensor) -> Float[Tensor, " seeds"]:
        """Add nothing: modules learn by the loss, paths by its size."""
        del output
        return cost.new_zeros(len(cost))

    def learn(self, output: Output, cost: Tensor, noise: Noise | None) -> None:
        """Note the losses of a step; at the end of a trial the loser becomes like the winner."""
        del output
        if noise is None:
            return
        half = cost.shape[1] // 2
        both = (cost[:, :half], cost[:, half:])
        self.losses += torch.stack([part.flatten(1).mean(1) for part in both], 1)
        self.age += 1
        if int(self.age) >= self.gating.trial:
            self._end(noise)

    def _begin(self, noise: Noise) -> None:
        """Draw the first population, around the path that routing takes now, if it is new."""
        fresh = not bool(self.paths.any())
        for seed, generator in enumerate(_generators(noise)):
            if fresh:
                shape = self.paths[seed].shape
                self.paths[seed] = torch.randint(self.modules, shape, generator=generator)
                for layer, router in enumerate(self.routers):
                    self.paths[seed, 0, layer] = router.logit[seed].detach().argmax(-1)
                if self.held is not None:
                    now = self.paths[seed, :1].expand_as(self.paths[seed])
                    self.paths[seed] = now.where(self.held[seed], self.paths[seed])
            drawn = torch.randperm(self.gating.population, generator=generator)
            self.pair[seed] = drawn[:2]
        if fresh:
            self._follow(self.paths[:, 0])

    def _end(self, noise: Noise) -> None:
        """Overwrite each loser by a mutated copy of its winner, which routing follows from now."""
        winners = []
        for seed, generator in enumerate(_generators(noise, place=1)):
            lost = int(self.losses[seed].argmax())
            won = self.paths[seed, self.pair[seed, 1 - lost]].clone()
            winners.append(won)
            copy = mutated(won.cpu(), self.modules, self.gating.mutations, generator)
            copy = copy.to(won.device)
            if self.held is not None:
                copy = won.where(self.held[seed], copy)
            self.paths[seed, self.pair[seed, lost]] = copy
        self._follow(torch.stack(winners))
        self.losses.zero_()
        self.age.zero_()

    def _follow(self, paths: Int64[Tensor, "seeds layers rules"]) -> None:
        """Make paths those that evaluation follows."""
        with torch.no_grad():
            for layer, router in enumerate(self.routers):
                router.logit.copy_(F.one_hot(paths[:, layer], self.modules))


def mutated(
    path: Int64[Tensor, "layers rules"],
    modules: int,
    mutations: float,
    generator: torch.Generator,
) -> Int64[Tensor, "layers rules"]:
    """Return a copy of a path of which ``mutations`` genes, on average, moved by up to 2 modules.

    >>> generator = torch.Generator().manual_seed(0)
    >>> mutated(torch.zeros(1, 4, dtype=torch.int64), 3, 1.0, generator).tolist()
    [[0, 0, 0, 1]]
    """
    chosen = torch.rand(path.shape, generator=generator) < mutations / path.numel()
    shift = torch.randint(-2, 3, path.shape, generator=generator)
    return torch.where(chosen, (path + shift) % modules, path)


def winning_modules(network: LayeredNetwork, rules: Collection[int]) -> Tensor:
    """Return the modules on the winning path of some rules, ``(S, L, M)``: what PathNet freezes.

    A regime that goes on to other rules keeps these modules as they are, each seed its own.

    Args:
        network: with the gating ``evolved``.
        rules: numbers of the rules that are done.
    """
    routers = [network.scorer, *(layer.scorer for layer in network.layers)]
    every = [cast("FreeScorer", routers[layer]).logit for layer in network.deciding]
    paths = torch.stack([logit.detach()[:, list(rules)].argmax(-1) for logit in every], 1)
    return F.one_hot(paths, network.module_count).amax(-2).bool()


def path_names(network: LayeredNetwork) -> list[str]:
    """Return the names of the parameters that hold the winning path, one for each that decides."""
    return [f"layers.{n - 1}.scorer.logit" if n else "scorer.logit" for n in network.deciding]


def _held_genes(network: LayeredNetwork, held: Mapping[str, Tensor]) -> Tensor | None:
    """Return which genes are held ``(S, L, R)``: those whose logits are; nothing where none are."""
    names = path_names(network)
    if not any(name in held for name in names):
        return None
    every = dict(network.named_parameters())
    marks = [held.get(name, torch.zeros_like(every[name])) for name in names]
    return torch.stack([(mark != 0).any(-1) for mark in marks], 1)


class Evened(_ChosenByGating):
    """Moves biases that only choosing reads towards even load: no gradient, no term of the loss.

    ``b_m += rate sign(mean load - load_m)``, the load of a module being how many samples of the
    step chose it. What it has learned is in the network.
    """

    def __init__(self, network: LayeredNetwork, gating: BalancedTopK) -> None:
        self.rate, self.layers = gating.rate, network.deciding
        routers = [network.scorer, *(layer.scorer for layer in network.layers)]
        self.routers = [cast("BiasedScorer", routers[layer]) for layer in network.deciding]

    def term(self, output: Output, cost: Tensor) -> Float[Tensor, " seeds"]:
        """Add nothing to the loss."""
        del output
        return cost.new_zeros(len(cost))

    def learn(self, output: Output, cost: Tensor, noise: Noise | None) -> None:
        """Raise the biases of modules that few chose, lower those of the others."""
        del cost, noise
        for layer, router in zip(self.layers, self.routers, strict=True):
            load = (output.routed[layer].weight > 0).flatten(1, -2).sum(1).float()
            router.bias += self.rate * (load.mean(-1, keepdim=True) - load).sign()


def teacher_of(
    network: Network, learns: Collection[str], held: Mapping[str, Tensor] = NOTHING
) -> Teacher | None:
    """Return what teaches the router of a network, where a gradient does not and it may learn.

    Args:
        network: that is trained.
        learns: names of the parameters that learn.
        held: elements of parameters that do not move, where not 0, by name.
    """
    if not isinstance(network, LayeredNetwork):
        return None
    make = TEACHERS.get(type(network.gating))
    if make is None or not any("scorer." in name for name in learns):
        return None
    if make is Bred:
        return Bred(network, cast("Evolved", network.gating), held)
    return make(network, network.gating)


TEACHERS: dict[type, Callable[..., Teacher]] = {
    Reinforce: Rewarded,
    QLearning: Valued,
    Evolved: Bred,
    BalancedTopK: Evened,
}
"""Gatings whose router is taught, and by what."""


# --- pieces --------------------------------------------------------------------------------------


def _from_here_on(cost: Tensor) -> Tensor:
    """Return the sum over each position and all after it."""
    return cost.flip(2).cumsum(2).flip(2)


def _second_half(rule: Tensor) -> Tensor:
    """Return 0 for the first half of the samples and 1 for the others, to fit ``rule``."""
    number = torch.arange(rule.shape[1], device=rule.device)
    return (number >= rule.shape[1] // 2).long().view(1, -1, *[1] * (rule.dim() - 2))


def _generators(noise: Noise, place: int = 0) -> list[torch.Generator]:
    """Return a generator for each seed, started by chance of its own at this step."""
    numbers = noise.uniform.flatten(1)[:, place].double().cpu()
    return [torch.Generator().manual_seed(int(number * 2**24)) for number in numbers]
