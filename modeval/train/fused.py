"""Compiles and calls the C++ kernels that do a whole training step, one for each family.

A kernel (``fused_mlp.cpp``, ``fused_attention.cpp``, ``fused_recurrent.cpp``, over
``fused_kernels.cpp`` and ``fused_products.cpp``) is compiled once (:mod:`modeval.native`), which
takes some seconds. Where that cannot be, :func:`load` says so and the caller takes another way.

Why kernels: a cohort step by step in PyTorch streams the activations of all seeds through memory,
while one seed at a time stays in the cache of a core. Seeds are shared out over threads; each is
computed in a fixed order, so its bits depend neither on threads nor on the rest of the cohort.
"""

import ctypes
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from modeval.native import KernelError, compiled
from modeval.nn import Network
from modeval.nn.attention import AttentionNetwork
from modeval.nn.bank import Bank, BankMLP
from modeval.nn.layer import LayeredNetwork
from modeval.nn.linear import StackedLinear, StackedMLP
from modeval.nn.mlp import MLPNetwork
from modeval.nn.recurrent import RecurrentNetwork
from modeval.nn.scorers import FixedScorer, ModuleScorer, RuleScorer, Scorer, TableScorer
from modeval.spec import Objective
from modeval.spec.gatings import Fixed, Gate, Soft
from modeval.spec.model import Aggregation
from modeval.types import Batch

__all__ = ("ATTENTION", "MLP", "RECURRENT", "Body", "Fused", "KernelError", "load")

SHARED = ("fused_kernels.cpp", "fused_products.cpp")  # each includes the next
MEAN_DECAY, SQUARE_DECAY = 0.9, 0.999  # of Adam

_TWO_LAYERS = ("hidden.weight", "hidden.bias", "readout.weight", "readout.bias")
_LOGIT = ("scorer.logit.weight", "scorer.logit.bias")
_PROJECTION = ("scorer.projection.weight", "scorer.projection.bias")
_SCORER_MLP = tuple(f"scorer.mlp.{name}" for name in _TWO_LAYERS)
_GATES = ("input_gates.weight", "input_gates.bias", "state_gates.weight", "state_gates.bias")

_MLP = tuple(
    f"{part}.{name}"
    for part in ("encoder_number", "encoder_rule", "experts", "decoder")
    for name in _TWO_LAYERS
)
_ATTENTION = (
    *(f"encoder.{name}" for name in _TWO_LAYERS),
    *(
        f"projections.{layer}.{name}"
        for layer in ("query", "key", "value", "position")
        for name in ("weight", "bias")
    ),
    *(f"experts.{name}" for name in _TWO_LAYERS),
    *(f"decoder.{name}" for name in _TWO_LAYERS),
)
_RECURRENT = (
    *(f"encoder.{name}" for name in _TWO_LAYERS),
    *_GATES,
    *(f"decoder.{name}" for name in _TWO_LAYERS),
)

MLP = (*_MLP, *_LOGIT, *_PROJECTION)
"""The order of parameters in ``fused_mlp.cpp``; a network has those of one scorer at most."""

ATTENTION = (*_ATTENTION, *_LOGIT, *_SCORER_MLP)
"""The order of parameters in ``fused_attention.cpp``."""

RECURRENT = (*_RECURRENT, *_LOGIT, *_SCORER_MLP)
"""The order of parameters in ``fused_recurrent.cpp``."""


def _without_biases(names: tuple[str, ...], of: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if not (name in of and name.endswith(".bias")))


_NO_BIAS = _without_biases(_RECURRENT, _GATES)

COMPUTED: dict[tuple[type, type, Gate, Aggregation], frozenset[tuple[str, ...]]] = {
    (MLPNetwork, FixedScorer, Fixed(), "outputs"): frozenset({_MLP}),
    (MLPNetwork, ModuleScorer, Soft(), "outputs"): frozenset({(*_MLP, *_LOGIT)}),
    (MLPNetwork, TableScorer, Soft(), "outputs"): frozenset({(*_MLP, *_PROJECTION)}),
    (AttentionNetwork, FixedScorer, Fixed(), "outputs"): frozenset({_ATTENTION}),
    (AttentionNetwork, ModuleScorer, Soft(), "outputs"): frozenset({(*_ATTENTION, *_LOGIT)}),
    (AttentionNetwork, RuleScorer, Soft(), "outputs"): frozenset({(*_ATTENTION, *_SCORER_MLP)}),
    (RecurrentNetwork, FixedScorer, Fixed(), "outputs"): frozenset({_RECURRENT, _NO_BIAS}),
    (RecurrentNetwork, ModuleScorer, Soft(), "outputs"): frozenset({(*_NO_BIAS, _LOGIT[0])}),
    (RecurrentNetwork, RuleScorer, Soft(), "outputs"): frozenset(
        {(*_NO_BIAS, *_without_biases(_SCORER_MLP, _SCORER_MLP))}
    ),
}
"""Everything that the kernels compute: network, scorer, gating, aggregation, and the parameters.

The computation is told by the parameters and by what holds them: plain stacked layers alone.

Whatever is not here is refused, so that no kernel ever trains another model than it was given. A
new choice on any axis is therefore trained eagerly until somebody writes its kernel and its line.
"""

BODIES: dict[type, frozenset[tuple[str, ...]]] = {
    MLPNetwork: frozenset({_MLP}),
    AttentionNetwork: frozenset({_ATTENTION}),
    RecurrentNetwork: frozenset({_NO_BIAS}),
}
"""What the kernels compute of each family where weights are given: the parameters without a router.

Whatever router gives them; it is no part of what a kernel computes.
"""

_CHOSEN, _TABLE, _RULE, _MODULE, _GIVEN = range(5)  # enum Routing

_Pointers = ctypes.c_void_p * 32


class _Step(ctypes.Structure):
    """``struct ModevalStep`` of the kernel."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("seeds", "samples", "positions", "features", "outputs", "encoder", "rules"),
                *("modules", "hidden", "width", "heads", "routing", "classification", "threads"),
            )
        ),
        *(
            (name, ctypes.c_float)
            for name in ("clip", "rate", "mean_correction", "square_correction")
        ),
        *((name, _Pointers) for name in ("parameters", "means", "squares", "gradients")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("table", "chosen", "inputs", "rule", "target", "loss"),
                *("given", "d_given", "cost", "workspace"),
            )
        ),
    )


@functools.cache
def load(name: str, cache: Path | None = None) -> ctypes.CDLL:
    """Return a compiled kernel, compiling it when the cache does not hold it yet.

    Args:
        name: of its source without suffix, such as ``fused_mlp``.
        cache: folder for compiled kernels; the user's cache folder unless given.

    Raises:
        KernelError: when there is no compiler, or what it made cannot be loaded.
    """
    library = compiled(name, source_of(name), cache)
    for function in (library.modeval_step, library.modeval_workspace):
        function.argtypes = [ctypes.POINTER(_Step)]
    library.modeval_workspace.restype = ctypes.c_int64
    return library


def source_of(name: str) -> str:
    """Return the whole source of a kernel, what it includes of ours put in."""
    here = Path(__file__)
    source = here.with_name(f"{name}.cpp").read_text(encoding="utf-8")
    for shared in SHARED:
        text = here.with_name(shared).read_text(encoding="utf-8")
        source = source.replace(f'#include "{shared}"\n', text)
    return source


@dataclass(frozen=True, slots=True)
class Body:
    """What a kernel computes of a network whose router, and whose modules, are made outside.

    Attributes:
        named: what is read as the parameters of plain modules, by their names and in their order.
        modules: how many modules that are.
        chosen: the module of each rule, where the rule alone says it; none where routing weights
            come with each call.
    """

    named: Mapping[str, Tensor]
    modules: int
    chosen: tuple[int, ...] = ()


class Fused:
    """Steps of a cohort through the kernel of its family.

    Args:
        network: trained in place.
        objective: what the losses are.
        clip: largest norm of the gradient of a seed; 0 for none.
        body: what comes from outside, with each call; else the kernel computes all of it.

    Raises:
        KernelError: when the network is not one that the kernels know, or there is no kernel.
    """

    def __init__(
        self, network: Network, objective: Objective, *, clip: float = 0.0, body: Body | None = None
    ) -> None:
        if body is None:
            require_computed(network)
        else:
            require_body(network, body)
        family, modules = FAMILIES[type(network)], network.module_count
        self._named: Mapping[str, Tensor] = dict(network.named_parameters())
        self._order = family.parameters
        self._library = load(family.source)
        if body is None:
            self._routing, self._table, self._chosen = _routing(
                cast("Scorer", network.scorer), network.rules, modules
            )
        else:
            self._named, modules = body.named, body.modules
            self._routing = _CHOSEN if body.chosen else _GIVEN
            self._table, self._chosen = torch.empty(0), torch.tensor(body.chosen)
        self._sizes: dict[str, int | float] = {
            **family.sizes(network),
            "seeds": network.seeds,
            "modules": modules,
            "routing": self._routing,
            "classification": int(objective == "classification"),
            "clip": clip,
        }
        self._workspace = torch.empty(0)

    def step(
        self,
        batch: Batch,
        *,
        rate: float,
        count: int,
        means: list[Tensor],
        squares: list[Tensor],
    ) -> Tensor:
        """Do step ``count`` (the first is 1) in place; return the loss of each seed ``(S,)``."""
        return self._call(
            batch,
            rate=rate,
            mean_correction=1 - MEAN_DECAY**count,
            square_correction=1 - SQUARE_DECAY**count,
            means=self._pointers(means),
            squares=self._pointers(squares),
        )

    def gradients(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Return losses and gradients (clipped), in the order of the network's parameters."""
        made = [torch.empty_like(value) for value in self._named.values()]
        return self._call(batch, gradients=self._pointers(made)), made

    def gradients_of(
        self, batch: Batch, named: Mapping[str, Tensor], weight: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor | None]:
        """Return what comes of a body.

        Args:
            batch: of the step.
            named: its parameters, as those of the body that this was made for.
            weight: routing weights ``(S, N, M)``, or with T, unless the rule chooses.

        Returns:
            The loss of each seed, that of each sample (or position; where weights are given), the
            gradients of what is named, and that of the weights.
        """
        held = {name: value.detach().contiguous() for name, value in named.items()}
        made = {name: torch.empty_like(value) for name, value in held.items()}
        more: dict[str, object] = {}
        cost, back = torch.empty(batch.rule.shape), None
        if weight is not None:
            weight, back = weight.contiguous(), torch.empty(weight.shape)
            more = {
                "given": weight.data_ptr(), "d_given": back.data_ptr(), "cost": cost.data_ptr()
            }  # fmt: skip
        gradients = self._pointers(made.values())
        parameters = self._pointers(held.values())
        loss = self._call(batch, parameters=parameters, gradients=gradients, **more)
        return loss, cost, made, back

    def _pointers(self, tensors: Iterable[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
        places = dict(zip(self._named, tensors, strict=True))
        return _Pointers(
            *(places[name].data_ptr() if name in places else None for name in self._order)
        )

    def _call(self, batch: Batch, **more: object) -> Tensor:
        inputs, rule, target = (
            part.contiguous() for part in (batch.inputs, batch.rule, batch.target)
        )
        loss = torch.empty(inputs.shape[0])
        threads = torch.get_num_threads()
        step = _Step(
            samples=inputs.shape[1],
            positions=rule[0, 0].numel(),
            features=inputs.shape[-1],
            outputs=target.shape[-1],
            threads=threads,
            table=self._table.data_ptr(),
            chosen=self._chosen.data_ptr(),
            inputs=inputs.data_ptr(),
            rule=rule.data_ptr(),
            target=target.data_ptr(),
            loss=loss.data_ptr(),
            **self._sizes,
            **{"parameters": self._pointers(self._named.values()), **more},
        )
        needed = threads * self._library.modeval_workspace(ctypes.byref(step))
        if self._workspace.numel() < needed:
            self._workspace = torch.empty(needed)
        step.workspace = self._workspace.data_ptr()
        if self._library.modeval_step(ctypes.byref(step)):
            raise IndexError(f"rules must lie from 0 to {self._sizes['rules']} - 1")
        return loss


# --- what the kernels compute --------------------------------------------------------------------

Sizes = dict[str, int]


def _mlp_sizes(network: Network) -> Sizes:
    own = cast("MLPNetwork", network)
    return {
        "rules": own.rules,
        "encoder": own.decoder.readout.weight.shape[1],
        "hidden": own.experts.hidden.parts()[0].shape[-1],
        "width": own.experts.readout.parts()[0].shape[-1],
    }


def _attention_sizes(network: Network) -> Sizes:
    own = cast("AttentionNetwork", network)
    return {
        "rules": own.rules,
        "encoder": own.decoder.readout.weight.shape[1],
        "hidden": own.experts.hidden.parts()[0].shape[-1],
        "width": own.head,
        "heads": own.heads,
    }


def _recurrent_sizes(network: Network) -> Sizes:
    own = cast("RecurrentNetwork", network)
    return {
        "rules": own.rules,
        "encoder": own.encoder.readout.weight.shape[1],
        "hidden": own.state,
    }


@dataclass(frozen=True, slots=True)
class _Family:
    """What the kernel of a family reads.

    Attributes:
        source: of the kernel, without suffix.
        parameters: their order in the kernel.
        sizes: of a network, beside those that all networks have.
        layers: widths from input to output of each linear layer, after those of its stack; letters
            as in the kernel: E encoder, R rules, M modules, H hidden, W width, A heads of a module,
            and ``?`` for what the batch decides.
    """

    source: str
    parameters: tuple[str, ...]
    sizes: Callable[[Network], Sizes]
    layers: dict[str, str]


FAMILIES: dict[type, _Family] = {
    MLPNetwork: _Family(
        "fused_mlp",
        MLP,
        _mlp_sizes,
        {
            "encoder_number.hidden": "1 E",
            "encoder_number.readout": "E E",
            "encoder_rule.hidden": "R E",
            "encoder_rule.readout": "E E",
            "experts.hidden": "M 3*E H",
            "experts.readout": "M H W",
            "decoder.hidden": "W E",
            "decoder.readout": "E 1",
            "scorer.logit": "M H 1",
            "scorer.projection": "E M",
        },
    ),
    AttentionNetwork: _Family(
        "fused_attention",
        ATTENTION,
        _attention_sizes,
        {
            "encoder.hidden": "? E",
            "encoder.readout": "E E",
            "projections.query": "E M*A*W",
            "projections.key": "E M*A*W",
            "projections.value": "E M*A*W",
            "projections.position": "E M*W",
            "experts.hidden": "M P*W H",
            "experts.readout": "M H E",
            "decoder.hidden": "E E",
            "decoder.readout": "E 1",
            "scorer.logit": "M H 1",
            "scorer.mlp.hidden": "R W",
            "scorer.mlp.readout": "W M",
        },
    ),
    RecurrentNetwork: _Family(
        "fused_recurrent",
        RECURRENT,
        _recurrent_sizes,
        {
            "encoder.hidden": "? E",
            "encoder.readout": "E E",
            "input_gates": "M E 4*H",
            "state_gates": "M H 4*H",
            "decoder.hidden": "H H",
            "decoder.readout": "H ?",
            "scorer.logit": "M 8*H 1",
            "scorer.mlp.hidden": "R H",
            "scorer.mlp.readout": "H M",
        },
    ),
}

_PARTS = (StackedLinear, StackedMLP, nn.ModuleDict, nn.ModuleList)
"""What a network of the kernels is made of, beside its scorer: these very types, no subclasses."""


def require_computed(network: Network) -> None:
    """Refuse a network unless the kernels compute exactly it: every choice, every parameter.

    Raises:
        KernelError: names the first thing that the kernels do not know.
    """
    own = _known(network)
    chosen = _require_choices(own)
    _require_plain_parts(own)
    named = dict(network.named_parameters())
    if (held := tuple(named)) not in COMPUTED[chosen]:
        known = {name for names in COMPUTED[chosen] for name in names}
        odd = [name for name in held if name not in known] or ["another order, or fewer"]
        raise KernelError(f"the fused kernels do not know these parameters: {odd[0]}")
    _require_shapes(network, FAMILIES[type(network)], named, network.module_count)
    if any(not value.requires_grad for value in named.values()):
        raise KernelError("the fused kernels train all parameters, and some are frozen")
    _require_storage(network)


def require_body(network: Network, body: Body) -> None:
    """Refuse a network unless the kernels compute all of it but its router and what makes modules.

    Raises:
        KernelError: names the first thing that the kernels do not know.
    """
    own = _known(network)
    if own.layer_count > 1:
        raise KernelError(f"the fused kernels compute one modular layer, not {own.layer_count}")
    if body.modules == 1:
        raise KernelError("the fused kernels take no weights for a single module")
    _require_plain_parts(own, router=False)
    if tuple(body.named) not in BODIES[type(network)]:
        raise KernelError("the fused kernels do not know the parameters beside the router")
    _require_shapes(network, FAMILIES[type(network)], body.named, body.modules)
    _require_storage(network)


def _known(network: Network) -> LayeredNetwork:
    """Return a network of a family that has kernels; refuse any other, subclasses too."""
    if type(network) not in FAMILIES:
        raise KernelError(f"the fused kernels do not know the network {_called(network)}")
    return cast("LayeredNetwork", network)


def _require_storage(network: Network) -> None:
    """Refuse parameters that are elsewhere than on a processor, or of another type."""
    if any(value.device.type != "cpu" for value in network.parameters()):
        raise KernelError("the fused kernels are for processors only")
    if any(value.dtype != torch.float32 for value in network.parameters()):
        raise KernelError("the fused kernels compute in float32 only")


def _require_choices(network: LayeredNetwork) -> tuple[type, type, Gate, Aggregation]:
    """Refuse a choice that no kernel computes, or not with the others; return all of them."""
    own = (type(network), type(network.scorer), network.gating, network.aggregation)
    axes = {"scorer": network.scorer, "gating": network.gating, "aggregation": network.aggregation}
    for length, (axis, choice) in enumerate(axes.items(), 2):
        if not any(own[:length] == known[:length] for known in COMPUTED):
            raise KernelError(f"the fused kernels do not know the {axis} {_called(choice)}")
    if network.layer_count > 1:
        raise KernelError(f"the fused kernels compute one modular layer, not {network.layer_count}")
    return own


def _require_plain_parts(network: LayeredNetwork, *, router: bool = True) -> None:
    """Refuse parts of other types, and anything hung on a part that changes what it computes.

    Without ``router`` its parts, and those that make modules, may be anything: they are computed as
    they are.
    """
    outside = () if router else outside_of(network)
    for name, part in network.named_modules():
        if name.startswith(outside) and name:
            continue
        known = part is network or part is network.scorer or type(part) in _PARTS
        if not known:
            raise KernelError(f"the fused kernels do not know the part {name}, {_called(part)}")
        hooks = (part._forward_hooks, part._forward_pre_hooks)  # noqa: SLF001 - torch has no reader
        if any(hooks) or "forward" in vars(part):
            raise KernelError(f"the fused kernels do not call what is hooked to {name or 'it'}")
    buffers = {name for name, _ in network.named_buffers() if not name.startswith(outside)}
    if odd := buffers - {"scorer.table"}:
        raise KernelError(f"the fused kernels do not know the buffer {min(odd)}")
    table = getattr(network.scorer, "table", None) if router else None
    if table is not None and table.shape != (network.rules, network.module_count):
        raise KernelError(f"the fused kernels do not know a table of shape {tuple(table.shape)}")


def outside_of(network: nn.Module) -> tuple[str, ...]:
    """Return what the names of the parts begin with that no kernel computes: router and banks."""
    banks = (name for name, part in network.named_modules() if isinstance(part, Bank | BankMLP))
    return ("scorer", *banks)


def _require_shapes(
    network: Network, family: _Family, named: Mapping[str, Tensor], modules: int
) -> None:
    """Refuse parameters of other sizes than the kernel would read."""
    sizes = {"heads": 1, "width": 1, **family.sizes(network)}
    letters = {
        **{name[0].upper(): size for name, size in sizes.items() if name != "heads"},
        "M": modules,
        "A": sizes["heads"],
        "P": sizes["heads"] + 1,
    }
    for name, value in named.items():
        layer, _, kind = name.rpartition(".")
        widths = family.layers[layer].split()
        if kind == "bias":
            del widths[-2]
        expected = [network.seeds, *(_product(width, letters) for width in widths)]
        fits = len(expected) == value.dim() and all(
            want in (0, size) for want, size in zip(expected, value.shape, strict=True)
        )
        if not fits:
            raise KernelError(f"the fused kernels do not know {name} of shape {tuple(value.shape)}")


def _product(width: str, letters: dict[str, int]) -> int:
    """Return a width such as ``3*E``; 0 for one that only the batch knows."""
    if width == "?":
        return 0
    return math.prod(letters[part] if part in letters else int(part) for part in width.split("*"))


def _called(thing: object) -> str:
    """Return the name of a choice, or of the type of a part."""
    for name in ("kind", "__name__"):
        if isinstance(found := getattr(thing, name, None), str):
            return found
    return thing if isinstance(thing, str) else type(thing).__name__


def _routing(scorer: Scorer, rules: int, modules: int) -> tuple[int, Tensor, Tensor]:
    """Return how the kernel routes, the given table ``(R, M)`` and the given choices ``(R,)``."""
    nothing = torch.empty(0), torch.empty(0, dtype=torch.int64)
    if modules == 1:  # whatever a scorer says of a single module, its weight is 1
        return _CHOSEN, torch.ones(rules, 1), torch.zeros(rules, dtype=torch.int64)
    if isinstance(scorer, ModuleScorer):
        return _MODULE, *nothing
    if isinstance(scorer, TableScorer | RuleScorer):
        return _RULE, *nothing
    assert isinstance(scorer, FixedScorer)  # noqa: S101 - the only other one that is computed
    table = scorer.table.float().contiguous()
    one_hot = torch.nn.functional.one_hot(table.argmax(-1), table.shape[-1]).float()
    if torch.equal(table, one_hot):
        return _CHOSEN, table, table.argmax(-1).contiguous()
    return _TABLE, table, nothing[1]
