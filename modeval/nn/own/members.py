"""Members of a cohort that are modules of the user's: stacked where they can be, else in turn."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from modeval.errors import CodeError
from modeval.nn.own.call import Call, Given
from modeval.nn.own.signature import require_call
from modeval.spec.own import Code, blamed

Run = tuple[Tensor, tuple[Tensor, ...]]
"""Prediction ``(S, ...)``, and weights ``(S, ...)`` of each layer."""


class Members(nn.Module):
    """S modules of one class whose parameters and buffers lie stacked along a first axis.

    All of them run as one program (``torch.func.vmap``) where that gives what each gives alone,
    else one after the other.

    Attributes:
        alone: why they run one after the other; empty where they run as one.
        random: whether training draws chance of its own, as dropout does.
    """

    def __init__(self, make: Callable[[], nn.Module], seeds: int, code: Code) -> None:
        super().__init__()
        self.make, self.code, self.seeds = make, code, seeds
        self.alone, self.random = "", False
        template = made(make, 0, code)
        self._template = [template]  # in a list: its parameters are no parameters of the cohort
        for name, value in template.named_parameters():
            stacked = value.detach().expand(seeds, *value.shape).clone()
            _hang(self, name, nn.Parameter(stacked, requires_grad=value.requires_grad))
        for name, buffer in template.named_buffers():
            _hang(self, name, buffer.detach().expand(seeds, *buffer.shape).clone())

    @property
    def template(self) -> nn.Module:
        """Return a member whose own parameters are never read."""
        return self._template[0]

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Make each member anew, from its own seed alone."""
        stacked = self.tensors()
        for index, generator in enumerate(generators):
            member = made(self.make, generator.initial_seed(), self.code)
            for name, value in _named(member):
                stacked[name][index].copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and buffers by their names in a member."""
        return dict(_named(self))

    def run(
        self, call: Call, values: Sequence[Tensor], given: Given, noise: Tensor | None = None
    ) -> Run:
        """Run all members, each on its own samples.

        Args:
            call: how a member is called.
            values: inputs and rule, with the axis of seeds.
            given: weights to use, with the axis of seeds.
            noise: uniform numbers of each seed; nothing at evaluation.
        """
        self.template.train(noise is not None)
        with blamed(self.code):
            if self.alone:
                return self._in_turn(call, values, given, noise)
            return self._as_one(call, values, given)

    def _as_one(self, call: Call, values: Sequence[Tensor], given: Given) -> Run:
        def one(tensors: dict[str, Tensor], values: Sequence[Tensor], given: Given) -> Run:
            return self._member(call, tensors, values, given)

        there = tuple(None if each is None else 0 for each in given)
        mapped = vmap(one, in_dims=(0, 0, there), randomness="error")
        return mapped(self.tensors(), tuple(values), given)

    def _in_turn(
        self, call: Call, values: Sequence[Tensor], given: Given, noise: Tensor | None
    ) -> Run:
        runs = []
        for seed in range(self.seeds):
            own = {name: value[seed] for name, value in self.tensors().items()}
            held = tuple(None if each is None else each[seed] for each in given)
            with torch.random.fork_rng(enabled=self.random and noise is not None):
                if self.random and noise is not None and noise.numel():
                    torch.manual_seed(int(float(noise[seed].flatten()[0]) * 2**31))
                runs.append(self._member(call, own, [each[seed] for each in values], held))
        layers = zip(*(weights for _, weights in runs), strict=True)
        return (
            torch.stack([prediction for prediction, _ in runs]),
            tuple(torch.stack(weights) for weights in layers),
        )

    def _member(
        self, call: Call, tensors: dict[str, Tensor], values: Sequence[Tensor], given: Given
    ) -> Run:
        def module(*inputs: Any, **named: Any) -> Any:
            return functional_call(self.template, tensors, inputs, named)

        return call(module, self.template, values, given)

    def one(self, call: Call, values: Sequence[Tensor]) -> Run:
        """Run the template on samples of one member, without gradients, as at evaluation."""
        self.template.eval()
        tensors = {name: value.detach() for name, value in _named(self.template)}
        with torch.no_grad(), blamed(self.code):
            return self._member(call, tensors, values, ())

    def try_as_one(self, call: Call, values: Sequence[Tensor]) -> None:
        """Find out whether the members can run as one, on samples of one member."""
        twice = [value.expand(2, *value.shape).clone() for value in values]
        tensors = {name: value.detach() for name, value in _named(self.template)}
        stacked = {name: torch.stack([value, value]) for name, value in tensors.items()}

        def one(tensors: dict[str, Tensor], values: Sequence[Tensor]) -> Run:
            return self._member(call, tensors, values, ())

        for training in (True, False):
            self.template.train(training)
            try:
                mapped, _ = vmap(one, randomness="error")(stacked, tuple(twice))
            except Exception as error:  # noqa: BLE001 - whatever vmap cannot do
                self.alone = _reason(error)
                self.random = self.random or "random" in str(error)
                continue
            if not training:
                single, _ = one(tensors, values)
                if not torch.allclose(mapped[1], single, rtol=1e-4, atol=1e-5, equal_nan=True):
                    self.alone = "together they compute something else than alone"


def maker(
    kind: Any, code: Code, values: Sequence[Any], form: str, forward: str = "forward"
) -> Callable[[], nn.Module]:
    """Return what makes one member: the user's class or function, given what it has parameters for.

    Args:
        kind: the class or function.
        code: where it is from.
        values: what it may take, by position.
        form: how it is called, for messages.
        forward: what it has to have, for messages.

    Raises:
        CodeError: it cannot be called.
    """
    if not callable(kind):
        raise CodeError(f"{code.code} is {type(kind).__name__}: expected a class, as {form}.")
    by_position = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.POSITIONAL_ONLY,
    )
    takes = [
        each for each in inspect.signature(kind).parameters.values() if each.kind in by_position
    ]
    given = values[: len(takes)]
    names = form.partition("(")[2].rstrip(")").split(", ")[: len(given)]
    require_call(
        kind, names, f"a class of torch.nn.Module, made as {form}, with a {forward}", code.code
    )

    def make() -> nn.Module:
        made = kind(*given)
        if not isinstance(made, nn.Module):
            raise CodeError(
                f"{code.code} makes {type(made).__name__}: expected a torch.nn.Module, as {form}."
            )
        return made

    return make


def made(make: Callable[[], nn.Module], seed: int, code: Code) -> nn.Module:
    """Return one member, drawn from its own seed; nobody else's numbers are touched."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(mode=False), blamed(code):
        torch.manual_seed(seed)
        return make()


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _reason(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0].rstrip(".")
    return first if len(first) <= 160 else f"{first[:157]}..."  # noqa: PLR2004 - a line of note


def _hang(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Register a tensor under a dotted name."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:  # noqa: SLF001 - torch has no reader for children by name
            root.add_module(part, nn.Module())
        child = root._modules[part]  # noqa: SLF001
        assert child is not None  # noqa: S101 - added above
        root = child
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(last, tensor)
    else:
        root.register_buffer(last, tensor)
