"""Compiles and calls the C++ kernel that does a whole training step of the MLP family.

The kernel (``fused_mlp.cpp``) is compiled once with the C++ compiler of the system, for the
processor at hand, and kept in the user's cache under a name that says source, compiler and
processor. Where there is no compiler, :func:`load` says so and the caller takes another way.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modeval.nn import Network
from modeval.nn.mlp import MLPNetwork
from modeval.nn.routing import FixedScorer, ModuleScorer, TableScorer
from modeval.spec import Objective
from modeval.types import Batch

SOURCE = "fused_mlp.cpp"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math")
FOR_THIS_PROCESSOR = (("-march=native",), ("-mcpu=native",), ())
SECONDS_TO_COMPILE = 300

PARAMETERS = (
    "encoder_number.hidden.weight",
    "encoder_number.hidden.bias",
    "encoder_number.readout.weight",
    "encoder_number.readout.bias",
    "encoder_rule.hidden.weight",
    "encoder_rule.hidden.bias",
    "encoder_rule.readout.weight",
    "encoder_rule.readout.bias",
    "experts.hidden.weight",
    "experts.hidden.bias",
    "experts.readout.weight",
    "experts.readout.bias",
    "decoder.hidden.weight",
    "decoder.hidden.bias",
    "decoder.readout.weight",
    "decoder.readout.bias",
    "scorer",  # the weight of whichever scorer there is
    "scorer bias",
)
"""The kernel's order of parameters."""

_SCORER_NAMES = {
    "scorer.projection.weight": "scorer",
    "scorer.logit.weight": "scorer",
    "scorer.projection.bias": "scorer bias",
    "scorer.logit.bias": "scorer bias",
}
_CHOSEN, _TABLE, _RULE, _MODULE = range(4)  # enum Routing

_Pointers = ctypes.c_void_p * len(PARAMETERS)


class _Step(ctypes.Structure):
    """``struct ModevalStep`` of the kernel."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("seeds", "samples", "encoder", "rules", "modules", "hidden", "width"),
                *("routing", "classification", "threads"),
            )
        ),
        *((name, ctypes.c_float) for name in ("clip", "rate", "mean_correction", "square_correction")),
        *((name, _Pointers) for name in ("parameters", "means", "squares", "gradients")),
        *(
            (name, ctypes.c_void_p)
            for name in ("table", "chosen", "inputs", "rule", "target", "loss", "workspace")
        ),
    )


class KernelError(Exception):
    """The kernel cannot be had here; the message says why, for a note to the user."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler of this machine, and what its ``--version`` says."""

    path: str
    version: str


@functools.cache
def load(cache: Path | None = None) -> ctypes.CDLL:
    """Return the compiled kernel, compiling it when the cache does not hold it yet.

    Args:
        cache: folder for compiled kernels; the user's cache folder unless given.

    Raises:
        KernelError: when there is no compiler, or what it made cannot be loaded.
    """
    source = Path(__file__).with_name(SOURCE).read_text(encoding="utf-8")
    compiler = find_compiler()
    key = "\n".join((source, *FLAGS, compiler.path, compiler.version, _processor()))
    name = f"fused_mlp-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    library = _cached(cache or _user_cache(), name, source, compiler)
    for function in (library.modeval_mlp_step, library.modeval_mlp_workspace):
        function.argtypes = [ctypes.POINTER(_Step)]
    library.modeval_mlp_workspace.restype = ctypes.c_int64
    return library


def find_compiler() -> Compiler:
    """Return the C++ compiler of this machine.

    Raises:
        KernelError: when there is none.
    """
    for name in COMPILERS:
        path = shutil.which(name)
        if path is None:
            continue
        try:
            answer = subprocess.run(  # noqa: S603 - a compiler found on the user's own path
                [path, "--version"], capture_output=True, text=True, timeout=60, check=False
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if answer.returncode == 0:
            return Compiler(path, answer.stdout)
    raise KernelError(f"no C++ compiler found (looked for {', '.join(COMPILERS)})")


def _cached(folder: Path, name: str, source: str, compiler: Compiler) -> ctypes.CDLL:
    """Load from the cache; else compile next to it and rename, so that no one sees half a file."""
    try:
        return ctypes.CDLL(str(folder / name))
    except OSError:
        pass  # not there yet, or not usable: made anew below
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as private:
            made = Path(private, name)
            _compile(source, made, compiler)
            made.replace(folder / name)
        return ctypes.CDLL(str(folder / name))
    except OSError as error:
        raise KernelError(f"the compiled kernel cannot be kept in {folder} ({error})") from None


def _compile(source: str, target: Path, compiler: Compiler) -> None:
    written = target.with_suffix(".cpp")
    written.write_text(source, encoding="utf-8")
    answer = None
    for processor in FOR_THIS_PROCESSOR:
        command = [compiler.path, *FLAGS, *processor, str(written), "-o", str(target)]
        try:
            answer = subprocess.run(  # noqa: S603 - as above
                command, capture_output=True, text=True, timeout=SECONDS_TO_COMPILE, check=False
            )
        except subprocess.SubprocessError as error:
            raise KernelError(f"{compiler.path} did not finish: {error}") from None
        if answer.returncode == 0:
            return
    lines = answer.stderr.strip().splitlines() if answer is not None else []
    raise KernelError(f"{compiler.path} failed: {lines[0] if lines else 'it gave no reason'}")


def _processor() -> str:
    """Return what tells processors apart for which code may differ."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    flags = sorted({line for line in text.splitlines() if line.startswith(("flags", "Features"))})
    model = sorted({line for line in text.splitlines() if line.startswith("model")})
    return "\n".join((platform.machine(), *model, *flags))


def _user_cache() -> Path:
    return Path.home() / ".cache" / "modeval" / str(os.getuid() if hasattr(os, "getuid") else 0)


class FusedMLP:
    """Steps of a cohort of MLPs through the kernel.

    Raises:
        KernelError: when the network is not one that the kernel knows, or there is no kernel.
    """

    def __init__(self, network: Network, objective: Objective, *, clip: float = 0.0) -> None:
        if not isinstance(network, MLPNetwork):
            raise KernelError("the fused kernel knows the MLP family only")
        named = {_SCORER_NAMES.get(name, name): value for name, value in network.named_parameters()}
        unknown = sorted(set(named) - set(PARAMETERS))
        if unknown:
            raise KernelError("the fused kernel does not know the shared scorer")
        strange = [
            name
            for name, value in named.items()
            if value.device.type != "cpu" or value.dtype != torch.float32
        ]
        if strange:
            raise KernelError("the fused kernel computes in float32 on processors only")
        self.named = named
        self.order = [_SCORER_NAMES.get(name, name) for name, _ in network.named_parameters()]
        self._library = load()
        experts = network.experts
        self._sizes = {
            "seeds": network.seeds,
            "encoder": network.encoder_number.readout.weight.shape[-1],
            "rules": network.rules,
            "modules": network.module_count,
            "hidden": experts.hidden.weight.shape[-1],
            "width": experts.readout.weight.shape[-1],
            "classification": int(objective == "classification"),
            "clip": clip,
        }
        self._routing, self._table, self._chosen = _routing(network)
        self._workspace = torch.empty(0)

    def step(
        self,
        batch: Batch,
        *,
        rate: float,
        corrections: tuple[float, float],
        means: list[Tensor],
        squares: list[Tensor],
    ) -> Tensor:
        """Change parameters and moments by one step of Adam; return the loss of each seed ``(S,)``."""
        pointers = {"means": self._pointers(means), "squares": self._pointers(squares)}
        return self._call(
            batch, rate=rate, mean_correction=corrections[0], square_correction=corrections[1],
            **pointers,
        )

    def gradients(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Return the losses and the gradients, clipped, in the order of the network's parameters."""
        made = [torch.empty_like(self.named[name]) for name in self.order]
        return self._call(batch, gradients=self._pointers(made)), made

    def _pointers(self, tensors: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
        places = dict(zip(self.order, tensors, strict=True))
        return _Pointers(
            *(places[name].data_ptr() if name in places else None for name in PARAMETERS)
        )

    def _call(self, batch: Batch, **more: object) -> Tensor:
        inputs, rule, target = (
            part.contiguous() for part in (batch.inputs, batch.rule, batch.target)
        )
        loss = torch.empty(inputs.shape[0])
        threads = torch.get_num_threads()
        step = _Step(
            samples=inputs.shape[1],
            routing=self._routing,
            threads=threads,
            parameters=self._pointers([self.named[name] for name in self.order]),
            table=self._table.data_ptr(),
            chosen=self._chosen.data_ptr(),
            inputs=inputs.data_ptr(),
            rule=rule.data_ptr(),
            target=target.data_ptr(),
            loss=loss.data_ptr(),
            **self._sizes,
            **more,
        )
        needed = threads * self._library.modeval_mlp_workspace(ctypes.byref(step))
        if self._workspace.numel() < needed:
            self._workspace = torch.empty(needed)
        step.workspace = self._workspace.data_ptr()
        if self._library.modeval_mlp_step(ctypes.byref(step)):
            raise IndexError(f"rules must lie from 0 to {self._sizes['rules']} - 1")
        return loss


def _routing(network: MLPNetwork) -> tuple[int, Tensor, Tensor]:
    """Return how the kernel routes, the given table ``(R, M)`` and the given choices ``(R,)``."""
    nothing = torch.empty(0), torch.empty(0, dtype=torch.int64)
    if isinstance(network.scorer, ModuleScorer):
        return _MODULE, *nothing
    if isinstance(network.scorer, TableScorer):
        return _RULE, *nothing
    assert isinstance(network.scorer, FixedScorer)  # noqa: S101 - the shared scorer was refused
    table = network.scorer.table.float().contiguous()
    one_hot = torch.nn.functional.one_hot(table.argmax(-1), table.shape[-1]).float()
    if torch.equal(table, one_hot):
        return _CHOSEN, table, table.argmax(-1).contiguous()
    return _TABLE, table, nothing[1]
