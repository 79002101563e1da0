"""Compiles and calls the C++ kernels that do a whole training step, one for each family.

A kernel (``fused_mlp.cpp``, ``fused_attention.cpp``, ``fused_recurrent.cpp``, over
``fused_kernels.cpp``) is compiled once (:mod:`modeval.native`), which takes some seconds. Where
that cannot be, :func:`load` says so and the caller takes another way.

Why kernels: a cohort step by step in PyTorch streams the activations of all seeds through memory,
while one seed at a time stays in the cache of a core. Seeds are shared out over threads; each is
computed in a fixed order, so its bits depend neither on threads nor on the rest of the cohort.
"""

import ctypes
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from modeval.native import KernelError, compiled
from modeval.nn import Network
from modeval.nn.attention import AttentionNetwork
from modeval.nn.mlp import MLPNetwork
from modeval.nn.recurrent import RecurrentNetwork
from modeval.nn.routing import FixedScorer, ModuleScorer, Scorer, SharedScorer, TableScorer
from modeval.spec import Objective
from modeval.types import Batch

__all__ = ("ATTENTION", "MLP", "RECURRENT", "Fused", "KernelError", "load")

KERNELS = "fused_kernels.cpp"
MEAN_DECAY, SQUARE_DECAY = 0.9, 0.999  # of Adam

_TWO_LAYERS = ("hidden.weight", "hidden.bias", "readout.weight", "readout.bias")
_SCORERS = (
    "scorer.logit.weight",
    "scorer.logit.bias",
    *(f"scorer.mlp.{name}" for name in _TWO_LAYERS),
)

MLP = (
    *(f"encoder_number.{name}" for name in _TWO_LAYERS),
    *(f"encoder_rule.{name}" for name in _TWO_LAYERS),
    *(f"experts.{name}" for name in _TWO_LAYERS),
    *(f"decoder.{name}" for name in _TWO_LAYERS),
    "scorer.logit.weight",
    "scorer.logit.bias",
    "scorer.projection.weight",
    "scorer.projection.bias",
)
"""The order of parameters in ``fused_mlp.cpp``; a network has those of one scorer at most."""

ATTENTION = (
    *(f"encoder.{name}" for name in _TWO_LAYERS),
    *(
        f"projections.{layer}.{name}"
        for layer in ("query", "key", "value", "position")
        for name in ("weight", "bias")
    ),
    *(f"experts.{name}" for name in _TWO_LAYERS),
    *(f"decoder.{name}" for name in _TWO_LAYERS),
    *_SCORERS,
)
"""The order of parameters in ``fused_attention.cpp``."""

RECURRENT = (
    *(f"encoder.{name}" for name in _TWO_LAYERS),
    "input_gates.weight",
    "input_gates.bias",
    "state_gates.weight",
    "state_gates.bias",
    *(f"decoder.{name}" for name in _TWO_LAYERS),
    *_SCORERS,
)
"""The order of parameters in ``fused_recurrent.cpp``."""

_CHOSEN, _TABLE, _RULE, _MODULE = range(4)  # enum Routing

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
            for name in ("table", "chosen", "inputs", "rule", "target", "loss", "workspace")
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
    here = Path(__file__)
    shared = here.with_name(KERNELS).read_text(encoding="utf-8")
    source = here.with_name(f"{name}.cpp").read_text(encoding="utf-8")
    source = source.replace(f'#include "{KERNELS}"\n', shared)
    library = compiled(name, source, cache)
    for function in (library.modeval_step, library.modeval_workspace):
        function.argtypes = [ctypes.POINTER(_Step)]
    library.modeval_workspace.restype = ctypes.c_int64
    return library


class Fused:
    """Steps of a cohort through the kernel of its family.

    Raises:
        KernelError: when the network is not one that the kernels know, or there is no kernel.
    """

    def __init__(self, network: Network, objective: Objective, *, clip: float = 0.0) -> None:
        family = _family(network)
        if isinstance(network.scorer, SharedScorer):
            raise KernelError("the fused kernels do not know the shared scorer")
        self._named = dict(network.named_parameters())
        if any(value.device.type != "cpu" for value in self._named.values()):
            raise KernelError("the fused kernels are for processors only")
        if any(value.dtype != torch.float32 for value in self._named.values()):
            raise KernelError("the fused kernels compute in float32 only")
        self._order = family.parameters
        self._library = load(family.source)
        self._routing, self._table, self._chosen = _routing(
            cast("Scorer", network.scorer), cast("int", network.rules), network.module_count
        )
        self._sizes: dict[str, int | float] = {
            **family.sizes,
            "seeds": network.seeds,
            "modules": network.module_count,
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
            parameters=self._pointers(self._named.values()),
            table=self._table.data_ptr(),
            chosen=self._chosen.data_ptr(),
            inputs=inputs.data_ptr(),
            rule=rule.data_ptr(),
            target=target.data_ptr(),
            loss=loss.data_ptr(),
            **self._sizes,
            **more,
        )
        needed = threads * self._library.modeval_workspace(ctypes.byref(step))
        if self._workspace.numel() < needed:
            self._workspace = torch.empty(needed)
        step.workspace = self._workspace.data_ptr()
        if self._library.modeval_step(ctypes.byref(step)):
            raise IndexError(f"rules must lie from 0 to {self._sizes['rules']} - 1")
        return loss


@dataclass(frozen=True, slots=True)
class _Family:
    """A kernel, the order of its parameters, and the sizes that the networks do not all have."""

    source: str
    parameters: tuple[str, ...]
    sizes: Mapping[str, int]


def _family(network: Network) -> _Family:
    if isinstance(network, MLPNetwork):
        sizes = {
            "rules": network.rules,
            "encoder": network.decoder.readout.weight.shape[1],
            "hidden": network.experts.hidden.weight.shape[-1],
            "width": network.experts.readout.weight.shape[-1],
        }
        return _Family("fused_mlp", MLP, sizes)
    if isinstance(network, AttentionNetwork):
        sizes = {
            "rules": network.rules,
            "encoder": network.decoder.readout.weight.shape[1],
            "hidden": network.experts.hidden.weight.shape[-1],
            "width": network.head,
            "heads": network.heads,
        }
        return _Family("fused_attention", ATTENTION, sizes)
    if isinstance(network, RecurrentNetwork):
        sizes = {
            "rules": network.rules,
            "encoder": network.encoder.readout.weight.shape[1],
            "hidden": network.state,
        }
        return _Family("fused_recurrent", RECURRENT, sizes)
    raise KernelError("the fused kernels do not know this network")


def _routing(scorer: Scorer, rules: int, modules: int) -> tuple[int, Tensor, Tensor]:
    """Return how the kernel routes, the given table ``(R, M)`` and the given choices ``(R,)``."""
    nothing = torch.empty(0), torch.empty(0, dtype=torch.int64)
    if modules == 1:  # whatever a scorer says of a single module, its weight is 1
        return _CHOSEN, torch.ones(rules, 1), torch.zeros(rules, dtype=torch.int64)
    if isinstance(scorer, ModuleScorer):
        return _MODULE, *nothing
    if isinstance(scorer, TableScorer):
        return _RULE, *nothing
    assert isinstance(scorer, FixedScorer)  # noqa: S101 - the shared scorer was refused
    table = scorer.table.float().contiguous()
    one_hot = torch.nn.functional.one_hot(table.argmax(-1), table.shape[-1]).float()
    if torch.equal(table, one_hot):
        return _CHOSEN, table, table.argmax(-1).contiguous()
    return _TABLE, table, nothing[1]
