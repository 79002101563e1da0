"""Calling one module of the user's: what it predicts, how it routed, and routing it otherwise.

The protocol, for one member and without an axis of seeds:

    forward(inputs, rule) -> prediction, weights

``inputs`` are ``(N, F)``, or ``(N, T, F)`` for sequences, ``rule`` is ``(N,)`` or ``(N, T)``. A
prediction is ``(N, D)`` or ``(N, T, D)``. Weights are ``(N, M)`` or ``(N, T, M)``, a tuple of them
where there are several modular layers, nothing where nothing is routed; :class:`Output
<modeval.nn.network.Output>` is understood as well. Routing can be changed from outside, for hard
gaps and knock-outs, in one of two ways:

* ``forward(inputs, rule, route)`` calls ``weights = route(weights, layer)`` before it uses them;
* ``routers = ("name", ...)`` of the class names submodules whose outputs are routing weights: they
  are listened to and replaced by hooks, and ``forward`` returns a prediction alone.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeval.errors import CodeError
from modeval.nn.network import Output
from modeval.nn.own.signature import require_call

Given = tuple[Tensor | None, ...]
"""Routing weights that a layer is to use, one for each layer; nothing for its own."""
Forward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Call:
    """How a module of the user's is called.

    Attributes:
        name: of it, for messages.
        sequence: whether samples have positions.
        routers: submodules whose outputs are routing weights.
        forward: ``(module, inputs, rule)``, and ``route`` where it takes it.
        takes_route: whether ``forward`` takes ``route``.
    """

    name: str
    sequence: bool
    routers: tuple[str, ...] = ()
    forward: Forward | None = None
    takes_route: bool = False

    @property
    def can_be_routed(self) -> bool:
        """Tell whether weights can be changed from outside."""
        return self.takes_route or bool(self.routers)

    def __call__(
        self,
        module: Callable[..., Any],
        listened: nn.Module,
        values: Sequence[Tensor],
        given: Given,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the prediction and the weights of each layer.

        Args:
            module: what is called.
            listened: the module whose submodules are listened to.
            values: inputs and rule.
            given: weights to use.
        """
        extra = {"route": _route(given)} if self.takes_route else {}
        with _heard(listened, self.routers, given) as heard:
            if self.forward is None:
                said = module(*values, **extra)
            else:
                said = self.forward(module, *values, **extra)
        prediction, weights = _parts(said, self.name)
        if self.routers:
            weights = tuple(self._positions(name, heard[name]) for name in self.routers)
        return prediction, tuple(self._spread(weight, values[1]) for weight in weights)

    def _positions(self, name: str, heard: list[Tensor]) -> Tensor:
        if not heard:
            raise CodeError(
                f"{self.name}: its router {name} was never called. Name in routers the submodules "
                "that forward calls and whose outputs are the routing weights."
            )
        return heard[0] if len(heard) == 1 else torch.stack(heard, 1)

    def _spread(self, weight: Tensor, rule: Tensor) -> Tensor:
        """Return weights of each position where a sequence is routed as a whole."""
        if self.sequence and weight.dim() == 2:  # noqa: PLR2004 - samples and modules
            return weight.unsqueeze(1).expand(-1, rule.shape[1], -1)
        return weight


def call_of(
    module: nn.Module,
    *,
    name: str,
    sequence: bool,
    forward: Forward | None = None,
    routers: Sequence[str] | None = None,
) -> Call:
    """Return how a module is called.

    Raises:
        CodeError: it names routers that it does not have.
    """
    named = getattr(module, "routers", ()) if routers is None else routers
    named = (named,) if isinstance(named, str) else tuple(named)
    known = dict(module.named_modules())
    for router in named:
        if router not in known:
            some = ", ".join(sorted(filter(None, known))) or "none"
            raise CodeError(f"{name}: routers names {router!r}, and its submodules are {some}.")
    called = module.forward if forward is None else forward
    _check_forward(module, called, name, alone=forward is None)
    takes_route = "route" in inspect.signature(called).parameters
    return Call(name, sequence, named, forward, takes_route)


FORWARD = (
    "forward(inputs, rule), which may take route as well: inputs (N, F) or (N, T, F) for "
    "sequences, rule (N,) or (N, T)"
)
RETURNED = (
    "a prediction (N, D) or (N, T, D), or the pair of it and routing weights (N, M) or (N, T, M)"
)


def _check_forward(module: nn.Module, called: Forward, name: str, *, alone: bool) -> None:
    """Refuse a forward that does not take what it is given."""
    if alone and type(module).forward is nn.Module.forward:
        raise CodeError(f"{name} has no forward: expected {FORWARD}.")
    signature = inspect.signature(called)
    free = [each for each in signature.parameters.values() if each.name != "route"]
    without = signature.replace(parameters=free)

    def like(*_values: Any) -> None: ...

    like.__signature__ = without  # type: ignore[attr-defined]
    values = ["inputs", "rule"] if alone else ["module", "inputs", "rule"]
    form = FORWARD if alone else FORWARD.replace("forward(", "a function (module, ", 1)
    require_call(like, values, form, f"{name}: forward")


def _parts(said: Any, name: str) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return prediction and weights of whatever form the protocol allows."""
    if isinstance(said, Output):
        return said.prediction, tuple(each.weight for each in said.routed)
    if isinstance(said, Tensor):
        return said, ()
    if isinstance(said, tuple) and len(said) == 2 and isinstance(said[0], Tensor):  # noqa: PLR2004
        prediction, weights = said
        if weights is None:
            return prediction, ()
        if isinstance(weights, Tensor):
            return prediction, (weights,)
        layers = tuple(weights) if isinstance(weights, tuple | list) else (weights,)
        for weight in layers:
            if not isinstance(weight, Tensor):
                kind = type(weight).__name__
                raise CodeError(
                    f"{name}: as routing weights forward returned {kind}: "
                    f"expected {RETURNED}, each a torch.Tensor."
                )
        return prediction, layers
    raise CodeError(f"{name}: forward returned {type(said).__name__}: expected {RETURNED}.")


def _route(given: Given) -> Callable[[Tensor, int], Tensor]:
    def route(weight: Tensor, layer: int = 0) -> Tensor:
        """Return the weights to use in the place of a layer's own."""
        chosen = given[layer] if layer < len(given) else None
        return weight if chosen is None else chosen

    return route


@contextlib.contextmanager
def _heard(
    module: nn.Module, routers: Sequence[str], given: Given
) -> Iterator[dict[str, list[Tensor]]]:
    """Listen to routers, and have them say what is given instead."""
    heard: dict[str, list[Tensor]] = {name: [] for name in routers}
    handles = []
    for layer, name in enumerate(routers):
        chosen = given[layer] if layer < len(given) else None

        def hook(
            _module: nn.Module,
            _inputs: Any,
            output: Tensor,
            *,
            own: list[Tensor] = heard[name],
            chosen: Tensor | None = chosen,
        ) -> Tensor:
            if chosen is not None:  # at one position after the other where it is called so
                output = chosen if chosen.shape == output.shape else chosen[:, len(own)]
            own.append(output)
            return output

        handles.append(module.get_submodule(name).register_forward_hook(hook))
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
