"""What is done to a network between the steps of its phases.

    act(action, at) -> None          parameters and marks change in place

Marks say of the elements of a parameter whether they are :data:`FREE`, :data:`PRUNED` (held at 0)
or :data:`KEPT` (held as they are); a parameter without marks is free. Everything happens to each
seed by itself, and whatever is drawn comes from the seed's own generator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from modeval.errors import RunError
from modeval.merge import average, dare, ties
from modeval.nn import Network
from modeval.nn.bank import Bank
from modeval.nn.layer import LayeredNetwork
from modeval.nn.linear import StackedLinear
from modeval.spec.phases import Action, Claim, Keep, Merge, Prune, Rewind, Tilt
from modeval.spec.taught import Evolved
from modeval.train.learners import named, own_names
from modeval.train.teachers import path_names, winning_modules

FREE, PRUNED, KEPT = 0, -1, 1
REDRAWN, RANDOM_PRUNES, RANDOM_DROPS = 101, 102, 103
"""What generators are for, so that no two draws share their numbers."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What an action works on.

    Attributes:
        network: changed in place.
        marks: of its parameters, int8, by name; changed in place.
        seeds: pairs (task seed, model seed).
        phase: number of the phase, from 0.
        values: parameters after so many phases; after 0 those of the start.
        redrawn: parameters of another start.
    """

    network: Network
    marks: dict[str, Tensor]
    seeds: tuple[tuple[int, int], ...]
    phase: int
    values: Callable[[int], dict[str, Tensor]]
    redrawn: Callable[[], dict[str, Tensor]]

    def mark(self, name: str, like: Tensor) -> Tensor:
        """Return the marks of a parameter, made where there were none."""
        if name not in self.marks:
            self.marks[name] = torch.zeros_like(like, dtype=torch.int8)
        return self.marks[name]

    def numbers(self, like: Tensor, purpose: int, place: int) -> Tensor:
        """Return uniform numbers of the shape of a parameter, each seed's from its own generator.

        They are drawn on the processor: the same numbers whatever the device.
        """
        drawn = torch.empty(like.shape)
        for member, (task, model) in zip(drawn, self.seeds, strict=True):
            seed = np.random.SeedSequence((task, model, purpose, self.phase, place))
            member.uniform_(generator=torch.Generator().manual_seed(int(seed.generate_state(1)[0])))
        return drawn.to(like.device)


def tilt(action: Tilt, at: Scene) -> None:
    """Add to the logit of one module in the scorer of each layer."""
    for bias in _tilted(at.network):
        by_module = bias.dim() > 2 and bias.shape[1] == at.network.module_count  # noqa: PLR2004
        part = bias[:, action.module, :1] if by_module else bias[..., action.module]
        part += action.amount


def _tilted(network: Network) -> list[Tensor]:
    """Return what is added to the logits in the scorer of each layer."""
    scorers = [part for name, part in network.named_modules() if name.split(".")[-1] == "scorer"]
    return [bias for scorer in scorers if (bias := _last_bias(scorer)) is not None]


def _last_bias(scorer: nn.Module) -> Tensor | None:
    """Return the parameter that is added to a scorer's logits."""
    free = dict(scorer.named_parameters()).get("logit")
    layers = [part for part in scorer.modules() if isinstance(part, StackedLinear)]
    return free if free is not None else layers[-1].bias if layers else None


def prune(action: Prune, at: Scene) -> None:
    """Set the smallest of the free weights of each seed to 0, and hold them there."""
    every = dict(at.network.named_parameters())
    names = _weights(at.network, action)
    sizes = {
        name: every[name].detach().abs()
        if action.by == "magnitude"
        else at.numbers(every[name], RANDOM_PRUNES, place)
        for place, name in enumerate(names)
    }
    groups = [names] if action.scope == "all" else [[name] for name in names]
    for group in groups:
        flat = torch.cat([sizes[name].flatten(1) for name in group], 1)
        free = torch.cat([at.mark(name, every[name]).flatten(1) == FREE for name in group], 1)
        gone = _smallest(flat, free, action.share)
        widths = [sizes[name][0].numel() for name in group]
        for name, part in zip(group, gone.split(widths, 1), strict=True):
            lost = part.view_as(every[name])
            at.marks[name][lost] = PRUNED
            every[name][lost] = 0.0


def _weights(network: Network, action: Prune) -> list[str]:
    """Return the names of the weights that are pruned, biases apart."""
    names = named(network, action.parameters)
    return sorted(name for name in names if "bias" not in name.rpartition(".")[2])


def _smallest(sizes: Tensor, free: Tensor, share: float) -> Tensor:
    """Tell which of the free elements ``(S, n)`` are the smallest ``share`` of them."""
    order = torch.where(free, sizes, torch.inf).argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1], device=order.device)
    rank = torch.empty_like(order).scatter_(1, order, places.expand_as(order))
    return (rank < (free.sum(1, keepdim=True) * share).round()) & free


def claim(action: Claim, at: Scene) -> None:
    """Keep for good what was not pruned, and free what was."""
    for mark in at.marks.values():
        survived = mark == FREE
        mark[mark == PRUNED] = FREE
        mark[survived] = KEPT
    for prefix, part in at.network.named_modules():
        name = f"{prefix}.shared.weight"
        if isinstance(part, Bank) and "kept" in part.starts and name in at.marks:
            part.own["kept"][:, action.module] = (at.marks[name] == KEPT).float()


def rewind(action: Rewind, at: Scene) -> None:
    """Give parameters earlier values; what is pruned stays 0, and what is kept as it is."""
    values = at.redrawn() if action.redraw else at.values(action.to)
    for name, parameter in at.network.named_parameters():
        if name in named(at.network, action.parameters):
            mark = at.marks.get(name)
            if mark is None:
                parameter.copy_(values[name])
            else:
                parameter.copy_(parameter.where(mark == KEPT, values[name]))
                parameter[mark == PRUNED] = 0.0


def merge(action: Merge, at: Scene) -> None:
    """Give all modules what is made of the parameters that they have for themselves."""
    own = own_names(at.network)
    for place, (name, parameter) in enumerate(at.network.named_parameters()):
        if name not in own:
            continue
        modules = parameter.transpose(0, 1).clone()  # (M, S, ...)
        if action.method == "average":
            merged = average(modules)
        elif action.method == "ties":
            merged = torch.stack([ties(each, density=action.density) for each in modules.unbind(1)])
        else:
            uniform = at.numbers(parameter, RANDOM_DROPS, place).transpose(0, 1)
            merged = average(dare(modules, uniform, density=action.density))
        parameter.copy_(merged.unsqueeze(1).expand_as(parameter))


def keep(action: Keep, at: Scene) -> None:
    """Hold the modules on the winning path of rules, and the genes of that path."""
    network = cast("LayeredNetwork", at.network)
    rules = list(action.rules or range(network.rules))
    every, own = dict(network.named_parameters()), own_names(network)
    won = winning_modules(network, rules)  # (S, L, M)
    for place, path in enumerate(path_names(network)):
        at.mark(path, every[path])[:, rules] = KEPT
        layers = range(network.layer_count) if network.one_routing else network.deciding[place:][:1]
        for layer in layers:
            below = f"layers.{layer - 1}.experts." if layer else "experts."
            for name in sorted(name for name in own if name.startswith(below)):
                at.mark(name, every[name])[won[:, place]] = KEPT


ACTIONS: dict[str, Callable[[Any, Scene], None]] = {
    "tilt": tilt,
    "prune": prune,
    "claim": claim,
    "rewind": rewind,
    "merge": merge,
    "keep": keep,
}
"""The choices of the axis."""


def check_action(action: Action, network: Network) -> None:
    """Refuse, before anything is trained, what could not be done to a network.

    Raises:
        RunError: names what is missing.
    """
    if isinstance(action, Tilt) and not _tilted(network):
        raise RunError(
            "A start is tilted by the bias of the router, and this model's routers have none. Use "
            "--model modular, modular-op or another one that learns routing, or drop the tilt."
        )
    if isinstance(action, Prune) and not _weights(network, action):
        raise RunError(
            f"parameters = {action.parameters!r} of a prune: no weights have such a name."
        )
    if isinstance(action, Keep) and not (
        isinstance(network, LayeredNetwork) and isinstance(network.gating, Evolved)
    ):
        raise RunError(
            "What is kept is the winning path of rules, and this model breeds none. Use --gating "
            "evolved, or drop the keep."
        )
    if isinstance(action, Rewind) and not named(network, action.parameters):
        raise RunError(
            f"parameters = {action.parameters!r} of a rewind: no parameter has such a name."
        )


def other_seed(model: int) -> int:
    """Return the model seed of another start."""
    return int(np.random.SeedSequence((model, REDRAWN)).generate_state(1)[0])


def act(actions: Sequence[Action], at: Scene) -> None:
    """Do one action after another."""
    with torch.no_grad():
        for action in actions:
            ACTIONS[action.kind](cast("Any", action), at)
