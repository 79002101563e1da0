"""One optimiser step of a cohort: forward, backward, clipping, optimiser, each seed on its own.

Losses are summed over seeds, so that the gradient of a seed is the one that it has alone; clipping
and Adam work seed by seed or element by element. Nothing of one seed, not even a NaN, ever reaches
another one. Nothing in a step waits for the device.

Adam: ``m = 0.9 m + 0.1 g``, ``v = 0.999 v + 0.001 g²``,
``w = w - rate · m / (1 - 0.9ᵗ) / (sqrt(v / (1 - 0.999ᵗ)) + 1e-8)``. Source: Kingma & Ba 2015. A
phase may ask for another optimiser (:mod:`modeval.spec.phases`). Elements that are held have a
gradient of 0 from its first step on, so that no moment ever moves them.

Four engines compute the same step, to rounding: ``fused`` (C++ on processors,
:mod:`modeval.train.fused`), ``compiled`` (``torch.compile`` of the whole step, for GPUs),
``graphed`` (a CUDA graph of the eager step, :mod:`modeval.train.graphed`), and ``eager``, which is
the definition.
"""

import functools
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from modeval.errors import RunError
from modeval.nn import Network
from modeval.nn.network import Output, Route
from modeval.nn.own.network import OwnNetwork
from modeval.nn.recurrent import RecurrentNetwork
from modeval.spec import Engine, Objective, Phase
from modeval.spec.phases import SAM, SGD, Adam
from modeval.train.fused import MEAN_DECAY, SQUARE_DECAY, Fused, KernelError
from modeval.train.graphed import Graphed, Recorder, cuda_recorder
from modeval.train.learners import factors, learning, moving
from modeval.train.remedies import terms
from modeval.train.teachers import teacher_of
from modeval.types import Batch, Noise

EPSILON = 1e-8
TAUGHT = "a router that learns by reward or by breeding is trained step by step (eager)"


def losses(
    prediction: Float[Tensor, "seeds samples *positions outputs"],
    target: Float[Tensor, "seeds samples *positions outputs"],
    objective: Objective,
) -> Float[Tensor, " seeds"]:
    """Return the mean loss of each seed: absolute error, or cross-entropy of the logits."""
    return _each(prediction, target, objective).flatten(1).mean(1)


def _each(prediction: Tensor, target: Tensor, objective: Objective) -> Tensor:
    """Return the loss of each output of each sample."""
    if objective == "regression":
        return (prediction - target).abs()
    return F.binary_cross_entropy_with_logits(prediction, target, reduction="none")


class Stepper:
    """Trains a cohort step by step; holds the moments of Adam beside the network's parameters.

    Args:
        network: trained in place.
        objective: what the losses are.
        clip: largest norm of the gradient of a seed; 0 for none.
        engine: ``fused``, ``compiled``, ``graphed``, ``eager``, or ``auto``. ``auto`` takes on
            processors the fused kernel, or ``eager`` where there is no C++ compiler or no kernel
            for the network; on GPUs ``compiled``, or ``graphed`` where Triton is missing and for
            recurrent networks, whose unrolled graph takes minutes to compile, and ``eager`` for
            what waits for the device within a step.
        phase: what learns, at which rates, with which remedies; everything, at one rate, with none
            when absent.
        held: elements of parameters that do not move, where not 0, by the parameter's name.

    Attributes:
        engine: what really computes the steps.
        engine_note: why it is not a faster one; empty when there is nothing to say.

    Raises:
        RunError: when an engine that was asked for by name cannot be had.
    """

    def __init__(
        self,
        network: Network,
        objective: Objective,
        *,
        clip: float = 0.0,
        engine: Engine = "auto",
        phase: Phase | None = None,
        held: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.network, self.objective, self.clip = network, objective, clip
        self.phase = phase or Phase()
        # what does not learn is not in the list, so that no engine can move it
        named = learning(network, self.phase.learns)
        self.names, self.parameters = list(named), list(named.values())
        self.factors = factors(network, self.names, self.phase)
        self.masks = moving(network, self.names, self.phase, held or {})
        self.teacher = teacher_of(network, self.names)
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.count = torch.zeros((), device=self.parameters[0].device)
        self.engine: str
        self.engine, self.engine_note = "eager", ""
        self._fused: Fused | None = None
        self._compiled: Callable[..., Tensor] | None = None
        on_processor = self.count.device.type == "cpu"
        self._graphed: Graphed | None = None
        if self.teacher is not None and engine in {"compiled", "graphed"}:
            raise RunError(f"engine = {engine}: {TAUGHT}. Use --engine auto.")
        if engine == "graphed" and on_processor:
            raise RunError("engine = graphed: CUDA graphs need a GPU. Use --engine auto.")
        if engine == "fused" or (engine == "auto" and on_processor):
            self._take_fused(required=engine == "fused")
        elif engine == "compiled" and self.phase.optimiser != Adam():
            raise RunError(
                f"engine = compiled: only Adam is compiled, not {self.phase.optimiser.kind}. Use "
                "--engine auto."
            )
        elif engine == "compiled" or (engine == "auto" and self._compiling_pays()):
            self.engine = "compiled"
            self._compiled = torch.compile(self._whole, fullgraph=True, dynamic=False)
        elif engine == "graphed" or (engine == "auto" and not on_processor and self._records()):
            self.record_by(cuda_recorder)
        self._may_fall_back = engine == "auto"

    def step(
        self, batch: Batch, learning_rate: Tensor, noise: Noise | None = None
    ) -> Float[Tensor, " seeds"]:
        """Change the network by one step and return the loss of each seed before it.

        Args:
            batch: the samples of the step, on the network's device.
            learning_rate: of shape ``()``, on the network's device.
            noise: of the step, for a network whose ``chance`` asks for it.
        """
        if self._fused is not None:
            self.count += 1
            return self._fused.step(
                batch,
                rate=float(learning_rate),  # on a processor: no wait
                count=int(self.count),
                means=self.means,
                squares=self.squares,
            )
        if self._graphed is not None:
            return self._try_graphed(self._graphed, batch, learning_rate, noise)
        if self._compiled is None:
            return self._eager(batch, learning_rate, noise)
        return self._try_compiled(self._compiled, batch, learning_rate, noise)

    def state(self) -> dict[str, Tensor]:
        """Return the moments and the step count; with the parameters, all that a resume needs."""
        state = {f"mean.{name}": mean for name, mean in zip(self.names, self.means, strict=True)}
        for name, square in zip(self.names, self.squares, strict=True):
            state[f"square.{name}"] = square
        if self.teacher is not None:
            state |= {f"taught.{name}": part for name, part in self.teacher.state.items()}
        return state | {"count": self.count}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what :meth:`state` returned; the network's parameters are the caller's."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def record_by(self, recorder: Recorder) -> None:
        """Record the next step, and replay it from then on."""
        moved = [*self.parameters, *self.means, *self.squares, self.count, *self.network.buffers()]
        self.engine, self._graphed = "graphed", Graphed(self._eager, moved, recorder)

    def _records(self) -> bool:
        """Tell whether a step can be expected to be recorded: nothing of it waits."""
        return self.teacher is None and not isinstance(self.network, OwnNetwork)

    def _try_graphed(
        self, graphed: Graphed, batch: Batch, learning_rate: Tensor, noise: Noise | None
    ) -> Tensor:
        """Replay a step; where it cannot be recorded, ``auto`` goes on without."""
        try:
            return graphed(batch, learning_rate, noise)
        except RuntimeError as error:  # nothing was changed
            reason = str(error).strip().partition("\n")[0]
            if not self._may_fall_back:
                raise RunError(f"engine = graphed: {reason}. Use --engine auto.") from error
            self.engine, self.engine_note, self._graphed = "eager", reason, None
            return self._eager(batch, learning_rate, noise)

    def _take_fused(self, *, required: bool) -> None:
        try:
            self._require_plain_phase()
            self._fused = Fused(self.network, self.objective, clip=self.clip)
        except KernelError as error:
            if required:
                raise RunError(f"engine = fused: {error}. Use --engine auto.") from None
            self.engine_note = self.network.note or str(error)
        else:
            self.engine = "fused"

    def _require_plain_phase(self) -> None:
        """Refuse what no kernel does: parts that do not learn, rates, remedies, optimisers."""
        if len(self.names) < len(dict(self.network.named_parameters())):
            raise KernelError("the fused kernels train all parameters, and some do not learn")
        if self.phase.remedies:
            raise KernelError("the fused kernels do not know remedies")
        if self.teacher is not None:
            raise KernelError(TAUGHT)
        if any(factor != 1 for factor in self.factors):
            raise KernelError("the fused kernels train all parameters at one rate")
        if any(mask is not None for mask in self.masks):
            raise KernelError("the fused kernels train all parameters, and some of them are held")
        if self.phase.optimiser != Adam():
            raise KernelError(f"the fused kernels do not know {self.phase.optimiser.kind}")
        if self.phase.routing != "learned":
            raise KernelError("the fused kernels route by what the router says")

    def _sought(self, output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what is minimised, summed over seeds, and the loss of each seed."""
        each = losses(output.prediction, batch.target, self.objective)
        total = each.sum()
        if output.penalty is not None:
            total = total + output.penalty.sum()
        told = output.routed[: 1 if self.network.one_routing else None]
        for term in terms(self.network, told, batch.rule, self.phase.remedies):
            total = total + term
        return total, each

    def _route(self, batch: Batch) -> Route | None:
        """Return what decides instead of the router, where the phase says so."""
        if self.phase.routing == "learned":
            return None
        given = F.one_hot(batch.rule, self.network.module_count)

        def oracle(weight: Tensor, layer: int) -> Tensor:
            del layer  # the same for all
            return given.to(weight.dtype).view_as(weight)

        return oracle

    def _held(self, gradients: list[Tensor]) -> list[Tensor]:
        """Return gradients that are 0 where nothing may move, of a norm that is small enough."""
        free = [
            gradient if mask is None else gradient * mask
            for gradient, mask in zip(gradients, self.masks, strict=True)
        ]
        return clipped(free, self.clip) if self.clip else free

    def _try_compiled(
        self,
        compiled: Callable[..., Tensor],
        batch: Batch,
        learning_rate: Tensor,
        noise: Noise | None,
    ) -> Tensor:
        """Do a step as one graph; where it cannot be compiled, ``auto`` goes on without."""
        from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415 - slow, loaded by now

        parameters = [parameter.detach() for parameter in self.parameters]
        state = (parameters, self.means, self.squares, self.count)
        try:
            with warnings.catch_warnings():  # hints of the compiler are not for the user
                warnings.simplefilter("ignore")
                parts: tuple[Tensor, ...] = (batch.inputs, batch.rule, batch.target)
                if noise is not None:  # a compiler takes tensors, not what holds them
                    parts = (*parts, noise.uniform, noise.progress)
                return compiled(*state, parts, learning_rate)
        except TorchDynamoException as error:  # nothing was computed yet
            reason = str(error).strip().partition("\n")[0]
            if not self._may_fall_back:
                raise RunError(f"engine = compiled: {reason}. Use --engine auto.") from error
            self.engine, self.engine_note, self._compiled = "eager", reason, None
            return self._eager(batch, learning_rate, noise)

    def _compiling_pays(self) -> bool:
        if self.teacher is not None:
            self.engine_note = TAUGHT
        elif isinstance(self.network, RecurrentNetwork):
            self.engine_note = "compiling an unrolled recurrent network takes minutes"
        elif isinstance(self.network, OwnNetwork):
            self.engine_note = self.network.note or "a model of your own is run as it is written"
        elif importlib.util.find_spec("triton") is None:
            self.engine_note = "Triton is not installed"
        elif self.phase.optimiser != Adam():
            self.engine_note = f"only Adam is compiled, not {self.phase.optimiser.kind}"
        return not self.engine_note

    def _gradients(
        self, parameters: list[Tensor], batch: Batch, noise: Noise | None
    ) -> tuple[list[Tensor], Tensor]:
        """Return the gradients, clipped, and the loss of each seed."""

        def total(values: list[Tensor]) -> tuple[Tensor, Tensor]:
            named = dict(zip(self.names, values, strict=True))
            output = torch.func.functional_call(
                self.network,
                named,
                (batch.inputs, batch.rule),
                {"noise": noise, "route": self._route(batch)},
            )
            return self._sought(output, batch)

        gradients, (_, loss) = torch.func.grad_and_value(total, has_aux=True)(parameters)
        return self._held(gradients), loss

    def _whole(  # noqa: PLR0917 - a compiler sees through positions
        self,
        parameters: list[Tensor],
        means: list[Tensor],
        squares: list[Tensor],
        count: Tensor,
        parts: tuple[Tensor, ...],
        learning_rate: Tensor,
    ) -> Tensor:
        """Do a step in operations that a compiler fuses into one graph."""
        noise = Noise(*parts[3:]) if len(parts) > 3 else None  # noqa: PLR2004 - those of a batch
        gradients, loss = self._gradients(parameters, Batch(*parts[:3]), noise)
        count += 1
        rate = learning_rate / (1 - MEAN_DECAY ** count.double()).float()
        root = (1 - SQUARE_DECAY ** count.double()).float().sqrt()
        for index, gradient in enumerate(gradients):
            mean, square = means[index], squares[index]
            mean.lerp_(gradient, 1 - MEAN_DECAY)
            square.mul_(SQUARE_DECAY).addcmul_(gradient, gradient, value=1 - SQUARE_DECAY)
            step = rate * mean / (square.sqrt() / root + EPSILON)
            factor = self.factors[index]
            parameters[index].sub_(step if factor == 1 else factor * step)
        return loss

    def _eager(self, batch: Batch, learning_rate: Tensor, noise: Noise | None) -> Tensor:
        gradients, loss, learn = self._slope(batch, noise)
        optimiser = self.phase.optimiser
        if isinstance(optimiser, SAM):
            gradients = self._uphill(gradients, optimiser.radius, batch, noise)
        self.count += 1
        for factor in dict.fromkeys(self.factors):
            if isinstance(optimiser, SGD):
                self._sgd(gradients, learning_rate, factor, optimiser.momentum)
            else:
                self._adam(gradients, learning_rate, factor)
        with torch.no_grad():
            learn()
        return loss

    def _slope(
        self, batch: Batch, noise: Noise | None
    ) -> tuple[list[Tensor], Tensor, Callable[[], None]]:
        """Return the gradients, the loss of each seed, and what a teacher learns from the step."""
        route = self._route(batch)
        if self.teacher is not None:
            route = self.teacher.route(batch, noise)
        output = self.network(batch.inputs, batch.rule, noise=noise, route=route)
        total, loss = self._sought(output, batch)
        learn: Callable[[], None] = _nothing
        if self.teacher is not None:
            cost = _each(output.prediction, batch.target, self.objective).detach().mean(-1)
            total = total + self.teacher.term(output, cost).sum()
            learn = functools.partial(self.teacher.learn, output, cost, noise)
        # the fused optimiser reads memory in order, whatever the strides say
        gradients = [
            gradient.contiguous()
            for gradient in torch.autograd.grad(total, self.parameters, materialize_grads=True)
        ]
        return self._held(gradients), loss.detach(), learn

    def _uphill(
        self, gradients: list[Tensor], radius: float, batch: Batch, noise: Noise | None
    ) -> list[Tensor]:
        """Return the gradients at a point uphill; parameters are as they were to the bit."""
        squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]
        scale = radius / torch.stack(squares).sum(0).sqrt().clamp(min=1e-12)
        before = [parameter.detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.add_(gradient * scale.view(-1, *[1] * (gradient.dim() - 1)))
        found, *_ = self._slope(batch, noise)
        with torch.no_grad():
            for parameter, value in zip(self.parameters, before, strict=True):
                parameter.copy_(value)
        return found

    def _sgd(
        self, gradients: list[Tensor], learning_rate: Tensor, factor: float, momentum: float
    ) -> None:
        """Move the parameters whose rate is the run's times ``factor`` by their velocity."""
        rate = learning_rate * factor
        with torch.no_grad():
            for index, each in enumerate(self.factors):
                if each == factor:
                    self.means[index].mul_(momentum).add_(gradients[index])
                    self.parameters[index].sub_(rate * self.means[index])

    def _adam(self, gradients: list[Tensor], learning_rate: Tensor, factor: float) -> None:
        """Move the parameters whose rate is the run's times ``factor``."""
        own = [index for index, each in enumerate(self.factors) if each == factor]
        options: dict[str, Any] = {"weight_decay": 0.0, "amsgrad": False, "maximize": False}
        with torch.no_grad():
            # what torch.optim.Adam calls, with one count for all parameters
            torch._fused_adam_(
                [self.parameters[index] for index in own],
                [gradients[index] for index in own],
                [self.means[index] for index in own],
                [self.squares[index] for index in own],
                [],
                [self.count] * len(own),
                lr=learning_rate if factor == 1 else learning_rate * factor,
                beta1=MEAN_DECAY,
                beta2=SQUARE_DECAY,
                eps=EPSILON,
                **options,
            )


def _nothing() -> None:
    """Learn nothing: there is no teacher."""


def clipped(gradients: list[Tensor], largest: float) -> list[Tensor]:
    """Scale the gradients of each seed to a norm over all its parameters of at most ``largest``."""
    squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]
    norm = torch.stack(squares).sum(0).sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    return [gradient * factor.view(-1, *[1] * (gradient.dim() - 1)) for gradient in gradients]
