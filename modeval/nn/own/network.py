"""A cohort of the user's models as a network like any other.

What a specification says of other models is found out here by running a member on a few samples:
how many modular layers there are, of how many modules, and whether a sample's routing depends on
the others of its batch. The rest a class may say of itself: ``looks_at`` (nothing, rule, input,
module; the most that routing looks at) and ``sparse`` (a weight of 0 means: not chosen).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from modeval.errors import CodeError
from modeval.nn.network import LooksAt, Network, Output, Route, Routed
from modeval.nn.own.call import Call, Given, call_of
from modeval.nn.own.members import Members, Run, maker
from modeval.nn.own.signature import require_tensor
from modeval.spec.data import DataSpec
from modeval.spec.model import ModelSpec
from modeval.spec.own import Code, loaded
from modeval.types import Noise

TRIED = 6
"""Samples on which a member is tried."""


@runtime_checkable
class Cohort(Protocol):
    """What runs the members of a cohort."""

    def run(
        self, call: Call, values: Sequence[Tensor], given: Given, noise: Tensor | None = None
    ) -> Run:
        """Return predictions and weights of all members."""


@dataclass(frozen=True, slots=True)
class Form:
    """What was found out of a member.

    Attributes:
        layers: modular layers.
        modules: of each of them.
        batchwise: whether a sample's routing depends on its batch.
    """

    layers: int
    modules: int
    batchwise: bool


class OwnNetwork(Network):
    """A cohort of models of the user's; ``note`` says where its members run one by one."""

    def __init__(
        self, cohort: nn.Module, call: Call, form: Form, *, seeds: int, rules: int
    ) -> None:
        super().__init__()
        self.members, self.call = cohort, call
        self.seeds, self.rules = seeds, rules
        self.layer_count, self.module_count = form.layers, form.modules
        self.batchwise = form.batchwise
        self.widest = widest(cohort)
        self.chance = 0  # noise is what tells training from evaluation
        self.routable = call.can_be_routed

    def forward(
        self,
        inputs: Tensor,
        rule: Tensor,
        *,
        noise: Noise | None = None,
        route: Route | None = None,
    ) -> Output:
        """Predict, and say how each sample was routed."""
        drawn = None if noise is None else noise.uniform
        given: list[Tensor | None] = [None] * self.layer_count
        cohort: Any = self.members
        if route is not None and self.module_count > 1:
            if not self.routable:
                raise CodeError(
                    f"{self.call.name}: its routing cannot be changed from outside. Have forward "
                    "take route and use route(weights, layer), or name its routers."
                )
            for layer in range(self.layer_count):
                _, weights = cohort.run(self.call, (inputs, rule), tuple(given), drawn)
                given[layer] = route(weights[layer], layer)
        prediction, weights = cohort.run(self.call, (inputs, rule), tuple(given), drawn)
        weights = weights or (prediction.new_ones(*rule.shape, 1),)
        return Output(prediction, tuple(_routed(weight, prediction) for weight in weights))


def _routed(weight: Tensor, prediction: Tensor) -> Routed:
    tiny = torch.finfo(weight.dtype).tiny
    return Routed(weight, lambda: weight.clamp(min=tiny).log(), prediction)


# --- from a specification ------------------------------------------------------------------------


def own_network(data: DataSpec, model: ModelSpec, seeds: int) -> Network:
    """Return a cohort of the user's model.

    Raises:
        CodeError: its code is not loaded, fails, or does not keep to the protocol.
    """
    if model.own is None:
        raise CodeError("There is no model of your own: --model path/to/file.py:ClassName.")
    code = model.own
    make = maker(loaded(code), code, (data, model), f"{code.name}(task, model)")
    members = Members(make, seeds, code)
    call = call_of(members.template, name=code.name, sequence=data.sequence)
    if not any(value.requires_grad for value in members.parameters()):
        raise CodeError(
            f"{code.name} has no parameter that learns: expected a torch.nn.Module with some, as "
            "nn.Linear(task.features, task.outputs) in its __init__."
        )
    form = tried(members, call, data, code.name)
    if model.modules not in (0, form.modules) or model.layers not in (1, form.layers):
        raise CodeError(
            f"{code.name} routes to {form.modules} modules in {form.layers} layers, and the "
            f"specification says {model.modules} in {model.layers}: have the class read "
            "model.modules and model.layers, or drop --modules and --layers."
        )
    inputs, rule = samples(data)
    members.try_as_one(call, (inputs, rule))
    network = OwnNetwork(members, call, form, seeds=seeds, rules=data.rules)
    network.chance = 1 if members.random else 0
    if members.alone:
        network.note = f"its members run one after the other ({members.alone})"
    network.looks_at, network.sparse = _facts(loaded(code), code)
    return network


def _facts(kind: Any, code: Code) -> tuple[LooksAt, bool]:
    looks: LooksAt = getattr(kind, "looks_at", "module")
    if looks not in get_args(LooksAt):
        raise CodeError(
            f"{code.name}: looks_at = {looks!r}: expected one of {', '.join(get_args(LooksAt))}."
        )
    return looks, bool(getattr(kind, "sparse", False))


def widest(module: nn.Module) -> int:
    """Return about how many numbers the widest part of a model holds for one sample."""
    sizes = [max(value.shape[1:], default=1) for value in module.parameters()]
    return max(sizes, default=1) * 4


def samples(data: DataSpec) -> tuple[Tensor, Tensor]:
    """Return a few inputs and rules of one member."""
    shape = (TRIED, data.length) if data.sequence else (TRIED,)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(*shape, data.features, generator=generator)
    rule = torch.arange(inputs[..., 0].numel()).view(shape) % data.rules
    return inputs, rule


def tried(members: Members, call: Call, data: DataSpec, name: str) -> Form:
    """Run a member on a few samples, and say what it is.

    Raises:
        CodeError: it does not keep to the protocol.
    """
    inputs, rule = samples(data)
    first = slice(TRIED // 2)
    whole = members.one(call, (inputs, rule))
    half = members.one(call, (inputs[first], rule[first]))
    return form_of(whole, half, data, name)


def form_of(run: Run, half: Run, data: DataSpec, name: str) -> Form:
    """Check what a member said of some samples, and of the first half of them."""
    prediction, weights = run
    shape = (TRIED, data.length) if data.sequence else (TRIED,)
    values = f"a prediction {(*shape, data.outputs)}"
    require_tensor(prediction, values, f"{name}: its forward")
    if tuple(prediction.shape) != (*shape, data.outputs):
        raise CodeError(
            f"{name}: it predicts {tuple(prediction.shape)} for inputs "
            f"{(*shape, data.features)}: expected {(*shape, data.outputs)}."
        )
    for weight in weights:
        if tuple(weight.shape[:-1]) != shape or weight.dim() != len(shape) + 1:
            raise CodeError(
                f"{name}: its routing weights are {tuple(weight.shape)} for samples {shape}: "
                f"expected ({', '.join(map(str, shape))}, M), a weight for each module."
            )
        require_tensor(
            weight, "routing weights (..., M)", f"{name}: as routing weights its forward"
        )
    counts = {weight.shape[-1] for weight in weights} or {1}
    if len(counts) > 1:
        raise CodeError(
            f"{name}: its layers have {', '.join(map(str, sorted(counts)))} modules, and all "
            "layers of a cohort have the same number. Return the weights of one kind of layer."
        )
    return Form(
        layers=max(len(weights), 1),
        modules=counts.pop(),
        batchwise=any(
            not torch.allclose(whole[: TRIED // 2], part, atol=1e-5)
            for whole, part in zip(weights, half[1], strict=True)
        ),
    )
