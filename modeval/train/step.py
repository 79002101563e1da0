"""One optimiser step of a cohort: forward, backward, clipping, optimiser, each seed on its own.

Losses are summed over seeds, so that the gradient of a seed is the one that it has alone; clipping
and Adam work seed by seed or element by element. Nothing of one seed, not even a NaN, ever reaches
another one. Nothing in a step waits for the device.

Adam: ``m = 0.9 m + 0.1 g``, ``v = 0.999 v + 0.001 g²``,
``w = w - rate · m / (1 - 0.9ᵗ) / (sqrt(v / (1 - 0.999ᵗ)) + 1e-8)``. Source: Kingma & Ba 2015. A
phase may ask for another optimiser (:mod:`modeval.spec.phases`). Elements that are held have a
gradient of 0 from its first step on, so that no moment ever moves them.

Five engines compute the same step, to rounding: ``fused`` (C++ on processors,
:mod:`modeval.train.fused`), ``compiled`` (``torch.compile`` of the whole step, for GPUs),
``graphed`` (a CUDA graph of the eager step, :mod:`modeval.train.graphed`), ``lean`` (PyTorch on
processors, by the short cuts of a network, :mod:`modeval.nn.lean`), and ``eager``, which is the
definition.
"""

import functools
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from modeval.errors import RunError
from modeval.nn import Network
from modeval.nn.network import Route
from modeval.nn.own.network import OwnNetwork
from modeval.nn.recurrent import RecurrentNetwork
from modeval.spec import Engine, Objective, Phase
from modeval.spec.phases import SAM, SGD, Adam
from modeval.train.fused import Fused, KernelError
from modeval.train.goal import allowed, each_loss, route_of, sought
from modeval.train.graphed import Graphed, Recorder, cuda_recorder
from modeval.train.learners import factors, learning, moving
from modeval.train.optimisers import adam, adam_of_parts, sgd, uphill
from modeval.train.remedies import terms
from modeval.train.routed import RoutedKernel
from modeval.train.slices import Slice, side_by_side, slices_of
from modeval.train.teachers import teacher_of
from modeval.types import Batch, Noise

TAUGHT = "a router that learns otherwise than by gradients is trained step by step (eager)"


class Stepper:
    """Trains a cohort step by step; holds the moments of Adam beside the network's parameters.

    Args:
        network: trained in place.
        objective: what the losses are.
        clip: largest norm of the gradient of a seed; 0 for none.
        engine: ``fused``, ``compiled``, ``graphed``, ``lean``, ``eager``, or ``auto``. ``auto``
            takes on processors the fused kernel, or ``lean`` or ``eager`` where there is no C++
            compiler or no kernel for the network; on GPUs ``compiled``, or ``graphed`` where Triton
            is missing and for recurrent networks, whose unrolled graph takes minutes to compile,
            and ``eager`` for what waits for the device within a step.
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
        given = self.phase.routing != "learned"  # nothing of it is the router's own choice
        self.teacher = None if given else teacher_of(network, self.names, held or {})
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.count = torch.zeros((), device=self.parameters[0].device)
        self.engine: str
        self.engine, self.engine_note = "eager", ""
        network.lean = False  # it may have been trained by another engine before
        self._fused: Fused | None = None
        self._routed: RoutedKernel | None = None
        self._slices: tuple[Slice, ...] | None = None  # not known yet
        self._compiled: Callable[..., Tensor] | None = None
        on_processor = self.count.device.type == "cpu"
        self._graphed: Graphed | None = None
        _check_engine(self, engine)
        if engine == "fused" or (engine == "auto" and on_processor):
            self._take_fused(required=engine == "fused")
        elif engine == "compiled" or (engine == "auto" and self._compiles()):
            self.engine = "compiled"
            self._compiled = torch.compile(self._whole, fullgraph=True, dynamic=False)
        elif engine == "graphed" or (engine == "auto" and not on_processor and self._records()):
            self.record_by(cuda_recorder)
        if engine == "lean" or (engine == "auto" and self.engine == "eager" and on_processor):
            self._be_lean(required=engine == "lean")
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

    def _compiles(self) -> bool:
        taught = self.teacher is not None
        self.engine_note = _not_compiled(self.network, self.phase, taught=taught)
        return not self.engine_note

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
        """Let a kernel do whole steps; else all but the router, which PyTorch computes then."""
        try:
            _require_plain_phase(self)
            self._fused = Fused(self.network, self.objective, clip=self.clip)
        except KernelError as error:
            try:
                given = self.phase.routing != "learned" or self.teacher is not None
                self._routed = RoutedKernel(self.network, self.objective, routed=given)
            except KernelError:  # the first reason says more
                if required:
                    raise RunError(f"engine = fused: {error}. Use --engine auto.") from None
                self.engine_note = self.network.note or str(error)
                return
        self.engine = "fused"

    def _be_lean(self, *, required: bool) -> None:
        """Let the network take its own short cuts on processors, where it has some."""
        if self.network.has_lean and self.count.device.type == "cpu":
            self.engine, self.network.lean = "lean", True
        elif required:
            raise RunError(
                "engine = lean: only attention and recurrent networks have a leaner way, on "
                "processors. Use --engine auto."
            )

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
                {"noise": noise, "route": route_of(self.network, self.phase, batch)},
            )
            return sought(self.network, self.objective, self.phase, output, batch)

        gradients, (_, loss) = torch.func.grad_and_value(total, has_aux=True)(parameters)
        return allowed(gradients, self.masks, self.clip), loss

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
        adam_of_parts(*(parameters, gradients, means, squares, count, learning_rate, self.factors))
        return loss

    def _eager(self, batch: Batch, learning_rate: Tensor, noise: Noise | None) -> Tensor:
        optimiser = self.phase.optimiser
        if self._parts(batch, noise) and not isinstance(optimiser, SAM):
            return _step_by_slices(self, batch, learning_rate, noise)
        gradients, loss, learn = self._slope(batch, noise)
        if isinstance(optimiser, SAM):
            with uphill(self.parameters, gradients, optimiser.radius):
                gradients, *_ = self._slope(batch, noise)
        self.count += 1
        with torch.no_grad():
            _move(self, self.parameters, gradients, self.means, self.squares, learning_rate)
            learn()
        return loss

    def _parts(self, batch: Batch, noise: Noise | None) -> tuple[Slice, ...]:
        """Return the seeds that are worked off together; nothing where that is all of them."""
        if self._slices is None:
            whole = self.teacher is not None or self._routed is not None
            self._slices = () if whole else slices_of(self.network, batch, noise)
        return self._slices

    def _slope(
        self, batch: Batch, noise: Noise | None
    ) -> tuple[list[Tensor], Tensor, Callable[[], None]]:
        """Return the gradients, the loss of each seed, and what a teacher learns from the step."""
        route = route_of(self.network, self.phase, batch)
        if self.teacher is not None:
            route = self.teacher.route(batch, noise)
        if self._routed is not None:
            return _slope_by_kernel(self, self._routed, batch, noise, route)
        if parts := self._parts(batch, noise):
            return _slope_by_slices(self, parts, batch, noise)
        output = self.network(batch.inputs, batch.rule, noise=noise, route=route)
        total, loss = sought(self.network, self.objective, self.phase, output, batch)
        learn: Callable[[], None] = _nothing
        if self.teacher is not None:
            cost = each_loss(output.prediction, batch.target, self.objective).detach().mean(-1)
            total = total + self.teacher.term(output, cost).sum()
            learn = functools.partial(self.teacher.learn, output, cost, noise)
        gradients = _gradients_of(total, self.parameters)
        return allowed(gradients, self.masks, self.clip), loss.detach(), learn


def _move(  # noqa: PLR0917 - what the optimiser takes, in its order
    stepper: Stepper,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    learning_rate: Tensor,
) -> None:
    """Move parameters, of all seeds or of some: those of each rate together."""
    for factor in dict.fromkeys(stepper.factors):
        own = [index for index, each in enumerate(stepper.factors) if each == factor]
        moved, slopes, first, second = (
            [every[index] for index in own] for every in (parameters, gradients, means, squares)
        )
        rate = learning_rate if factor == 1 else learning_rate * factor
        if isinstance(optimiser := stepper.phase.optimiser, SGD):
            sgd(moved, slopes, first, rate=rate, momentum=optimiser.momentum)
        else:
            adam(moved, slopes, first, second, count=stepper.count, rate=rate)


def _slope_of_slice(
    stepper: Stepper, part: Slice, batch: Batch, noise: Noise | None
) -> tuple[list[Tensor], Tensor]:
    """Return the gradients, as they are, and the losses of some seeds."""
    own = part.of_batch(batch)
    route = route_of(part.network, stepper.phase, own)
    output = part.network(own.inputs, own.rule, noise=part.of_noise(noise), route=route)
    total, loss = sought(part.network, stepper.objective, stepper.phase, output, own)
    named = dict(part.network.named_parameters())
    return _gradients_of(total, [named[name] for name in stepper.names]), loss.detach()


def _slope_by_slices(
    stepper: Stepper, parts: tuple[Slice, ...], batch: Batch, noise: Noise | None
) -> tuple[list[Tensor], Tensor, Callable[[], None]]:
    """Return the same, some seeds after the others."""
    gradients = [torch.empty_like(parameter) for parameter in stepper.parameters]

    def work(part: Slice) -> Tensor:
        found, loss = _slope_of_slice(stepper, part, batch, noise)
        for gradient, slope in zip(gradients, found, strict=True):
            gradient[part.first : part.last] = slope
        return loss

    losses = side_by_side(work, parts)
    return allowed(gradients, stepper.masks, stepper.clip), torch.cat(losses), _nothing


def _step_by_slices(
    stepper: Stepper, batch: Batch, learning_rate: Tensor, noise: Noise | None
) -> Tensor:
    """Do a step, some seeds after the others, each to its end while it is in the cache."""
    stepper.count += 1

    def work(part: Slice) -> Tensor:
        found, loss = _slope_of_slice(stepper, part, batch, noise)
        parameters, means, squares = (
            [part.of(value.detach()) for value in every]
            for every in (stepper.parameters, stepper.means, stepper.squares)
        )
        masks = [None if mask is None else part.of(mask) for mask in stepper.masks]
        gradients = allowed(found, masks, stepper.clip)
        with torch.no_grad():
            _move(stepper, parameters, gradients, means, squares, learning_rate)
        return loss

    return torch.cat(side_by_side(work, stepper._parts(batch, noise)))  # noqa: SLF001 - of ours


def _slope_by_kernel(
    stepper: Stepper, kernel: RoutedKernel, batch: Batch, noise: Noise | None, route: Route | None
) -> tuple[list[Tensor], Tensor, Callable[[], None]]:
    """Return the same, of modules that a kernel computes and a router that PyTorch does."""
    slope = kernel.slope(batch, noise, route)
    added = [*terms(stepper.network, slope.output.routed, batch.rule, stepper.phase.remedies)]
    if slope.output.penalty is not None:
        added.append(slope.output.penalty.sum())
    learn: Callable[[], None] = _nothing
    if stepper.teacher is not None:
        added.append(stepper.teacher.term(slope.output, slope.cost).sum())
        learn = functools.partial(stepper.teacher.learn, slope.output, slope.cost, noise)
    more = torch.stack(added).sum() if added else None
    gradients = slope.of(stepper.names, stepper.parameters, more)
    return allowed(gradients, stepper.masks, stepper.clip), slope.loss, learn


def _check_engine(stepper: Stepper, engine: Engine) -> None:
    """Refuse an engine that cannot do the steps that are asked for."""
    optimiser = stepper.phase.optimiser
    if stepper.teacher is not None and engine in {"compiled", "graphed"}:
        raise RunError(f"engine = {engine}: {TAUGHT}. Use --engine auto.")
    if engine == "graphed" and stepper.count.device.type == "cpu":
        raise RunError("engine = graphed: CUDA graphs need a GPU. Use --engine auto.")
    if engine == "compiled" and optimiser != Adam():
        raise RunError(
            f"engine = compiled: only Adam is compiled, not {optimiser.kind}. Use --engine auto."
        )


def _gradients_of(total: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return gradients; the fused optimiser reads memory in order, whatever the strides say."""
    return [
        gradient.contiguous()
        for gradient in torch.autograd.grad(total, parameters, materialize_grads=True)
    ]


def _nothing() -> None:
    """Learn nothing: there is no teacher."""


def _require_plain_phase(stepper: Stepper) -> None:
    """Refuse what no kernel does: parts that do not learn, rates, remedies, optimisers."""
    if len(stepper.names) < len(dict(stepper.network.named_parameters())):
        raise KernelError("the fused kernels train all parameters, and some do not learn")
    if stepper.phase.remedies:
        raise KernelError("the fused kernels do not know remedies")
    if stepper.teacher is not None:
        raise KernelError(TAUGHT)
    if any(factor != 1 for factor in stepper.factors):
        raise KernelError("the fused kernels train all parameters at one rate")
    if any(mask is not None for mask in stepper.masks):
        raise KernelError("the fused kernels train all parameters, and some of them are held")
    if stepper.phase.optimiser != Adam():
        raise KernelError(f"the fused kernels do not know {stepper.phase.optimiser.kind}")
    if stepper.phase.routing != "learned":
        raise KernelError("the fused kernels route by what the router says")


def _not_compiled(network: Network, phase: Phase, *, taught: bool) -> str:
    """Return why compiling a whole step does not pay or cannot be; empty where it does."""
    if taught:
        return TAUGHT
    if isinstance(network, RecurrentNetwork):
        return "compiling an unrolled recurrent network takes minutes"
    if isinstance(network, OwnNetwork):
        return network.note or "a model of your own is run as it is written"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if phase.optimiser != Adam():
        return f"only Adam is compiled, not {phase.optimiser.kind}"
    return ""
