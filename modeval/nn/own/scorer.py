"""A scorer that a file of the user's defines, for one member and without an axis of seeds.

    forward(inputs, rule) -> logits (N, M)

It is an ``nn.Module`` made from its :class:`place <modeval.nn.build.Slot>`: ``ClassName(at)``, with
``at.features``, ``at.rules``, ``at.modules``, ``at.state``, ``at.units``, ``at.outputs`` and
``at.numbers`` (of logits: M, or more where the gating takes several for each module). Its
parameters are stacked by the cohort. ``forward`` has what it looks at as parameters, by name:

    inputs   (N, F)      raw inputs
    rule     (N,)        the rule
    state    (N, D)      what came into the layer
    hidden   (N, M, H)   hidden units of each module
    outputs  (N, M, O)   outputs of each module
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from modeval.errors import CodeError
from modeval.nn.network import LooksAt
from modeval.nn.own.members import Members, maker
from modeval.nn.own.signature import require_tensor
from modeval.nn.scorers import Seen
from modeval.spec.own import Code, blamed, loaded

_SEEN: dict[str, LooksAt] = {
    "rule": "rule",
    "inputs": "input",
    "state": "module",
    "hidden": "module",
    "outputs": "module",
}
"""What a scorer may ask for, and what it looks at then."""


FORWARD = f"forward of some of {', '.join(_SEEN)}, by these names, which returns logits (N, M)"
TRIED = 5
"""Samples on which a scorer is tried."""


class OwnScorer(nn.Module):
    """The user's scorers of a cohort, stacked."""

    def __init__(self, code: Code, at: Any) -> None:
        super().__init__()
        self.code, self.rules, self.numbers, self.outputs = code, at.rules, at.numbers, at.outputs
        self.members = Members(
            maker(loaded(code), code, (at,), f"{code.name}(at)", FORWARD), at.seeds, code
        )
        self.asked = _asked(self.members.template, code)
        _try(self.members.template, self.asked, code, at)
        looks = [_SEEN[name] for name in self.asked]
        order: tuple[LooksAt, ...] = ("nothing", "rule", "input", "module")
        self.looks_at: LooksAt = max(looks, key=order.index, default="nothing")
        self.alone = False

    def forward(self, seen: Seen) -> Tensor:
        """Return the logits of each sample, or of each rule where it looks at no more."""
        values = self._values(seen)
        tensors = self.members.tensors()
        with blamed(self.code):
            if not self.alone:
                try:
                    return self._checked(vmap(self._one)(tensors, values))
                except RuntimeError:  # something that cannot be stacked
                    self._checked(self._in_turn(tensors, values))
                    self.alone = True
            return self._checked(self._in_turn(tensors, values))

    def _one(self, tensors: dict[str, Tensor], values: dict[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(self.members.template, tensors, (), values)
        return found

    def _in_turn(self, tensors: dict[str, Tensor], values: dict[str, Tensor]) -> Tensor:
        seeds = range(self.members.seeds)
        return torch.stack(
            [
                self._one(
                    {name: value[seed] for name, value in tensors.items()},
                    {name: value[seed] for name, value in values.items()},
                )
                for seed in seeds
            ]
        )

    def _values(self, seen: Seen) -> dict[str, Tensor]:
        seeds = self.members.seeds
        if self.looks_at in ("nothing", "rule"):
            rows = torch.arange(self.rules, device=seen.rule.device).expand(seeds, -1)
            return {"rule": rows} if self.asked else {}
        gives: dict[str, Callable[[], Tensor]] = {
            "rule": lambda: seen.rule,
            "inputs": lambda: seen.inputs,
            "state": seen.state,
            "hidden": seen.hidden,
            "outputs": lambda: self._outputs(seen),
        }
        try:
            return {name: gives[name]() for name in self.asked}
        except LookupError:
            raise CodeError(
                f"{self.code.name}: forward asks for {', '.join(self.asked)}, and not all of that "
                "exists where this layer routes. Ask for inputs and rule alone."
            ) from None

    def _outputs(self, seen: Seen) -> Tensor:
        same = torch.eye(self.outputs, device=seen.rule.device)
        return seen.outputs().times(same.expand(self.members.seeds, -1, -1))

    def _checked(self, logits: Tensor) -> Tensor:
        if logits.dim() != 3 or logits.shape[-1] != self.numbers:  # noqa: PLR2004 - S, N, M
            raise CodeError(
                f"{self.code.name}: its logits are {tuple(logits.shape[1:])} for one member: "
                f"expected (N, {self.numbers})."
            )
        return logits


def _asked(template: nn.Module, code: Code) -> tuple[str, ...]:
    if type(template).forward is nn.Module.forward:
        raise CodeError(f"{code.code} has no forward: expected {FORWARD}.")
    names = tuple(inspect.signature(template.forward).parameters)
    for name in names:
        if name not in _SEEN:
            raise CodeError(
                f"{code.name}: forward asks for {name}, and a scorer may ask for "
                f"{', '.join(_SEEN)}, by these names."
            )
    return names


def _try(template: nn.Module, asked: tuple[str, ...], code: Code, at: Any) -> None:
    """Run a scorer as it was made, on a few samples, and refuse what gives no logits.

    Raises:
        CodeError: says what it gave.
    """
    shapes = {
        "inputs": (TRIED, at.features),
        "state": (TRIED, at.state),
        "hidden": (TRIED, at.modules, at.units),
        "outputs": (TRIED, at.modules, at.outputs),
    }
    if torch.empty(0).is_meta or not all(all(shapes.get(name, (1,))) for name in asked):
        return  # nothing is computed here, or not all of it exists in this place
    by_rule = not set(asked) - {"rule"}
    rule = torch.arange(at.rules) if by_rule else torch.arange(TRIED) % at.rules
    generator = torch.Generator().manual_seed(0)
    values = {
        name: rule if name == "rule" else torch.randn(shapes[name], generator=generator)
        for name in asked
    }
    was = template.training
    with torch.no_grad(), torch.random.fork_rng(devices=[]), blamed(code):
        said = template.eval()(**values)
    template.train(was)
    seen = ", ".join(f"{name} {tuple(value.shape)}" for name, value in values.items())
    logits = require_tensor(
        said, f"logits ({len(rule)}, {at.numbers}) for {seen}", f"{code.name}: its forward"
    )
    if asked and tuple(logits.shape) != (len(rule), at.numbers):
        raise CodeError(
            f"{code.name}: its logits are {tuple(logits.shape)} for one member, for {seen}: "
            f"expected ({len(rule)}, {at.numbers}), a number for each module."
        )
