"""What a run carries from step to step beside network and optimiser, and its stored form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from modeval.errors import RunError
from modeval.nn import Network
from modeval.train import files, records
from modeval.train.records import RunRecord
from modeval.train.step import Stepper

MARKS = "marks."


@dataclass(slots=True)
class Memory:
    """What a run carries from step to step.

    Attributes:
        step: steps done.
        loss_sum: ``(S,)`` of the training loss since the last validation.
        loss_count: steps in it.
        best_loss: ``(S,)`` of what the best checkpoint is chosen by.
        best: its weights.
        diverged: ``(S,)`` int64, the step at which a seed was lost, -1 while it is finite.
        marks: elements of parameters that are held, by name; see :mod:`modeval.train.actions`.
        chosen: ``(S, L, N)`` module with the largest weight at the last validation; nothing before
            the first one, and for a network without routing.
    """

    step: int
    loss_sum: Tensor
    loss_count: int
    best_loss: Tensor
    best: dict[str, Tensor]
    diverged: Tensor
    marks: dict[str, Tensor] = field(default_factory=dict)
    chosen: Tensor | None = None


def begin(network: Network, device: torch.device, marks: dict[str, Tensor] | None = None) -> Memory:
    """Return the memory of a run before its first step."""
    seeds = network.seeds
    return Memory(
        step=0,
        loss_sum=torch.zeros(seeds, device=device),
        loss_count=0,
        best_loss=torch.full((seeds,), torch.inf, device=device),
        best={name: tensor.clone() for name, tensor in network.state_dict().items()},
        diverged=torch.full((seeds,), -1, device=device),
        marks={} if marks is None else marks,
    )


def state_of(stepper: Stepper, memory: Memory) -> dict[str, Tensor]:
    """Return all that resuming needs, as tensors by name."""
    last = stepper.network.state_dict()
    state = {f"optimiser.{name}": tensor for name, tensor in stepper.state().items()}
    state |= {f"last.{name}": tensor for name, tensor in last.items()}
    state |= {f"best.{name}": tensor for name, tensor in memory.best.items()}
    state |= {f"{MARKS}{name}": tensor for name, tensor in memory.marks.items()}
    state |= {
        "memory.step": torch.tensor(memory.step),
        "memory.loss_sum": memory.loss_sum,
        "memory.loss_count": torch.tensor(memory.loss_count),
        "memory.best_loss": memory.best_loss,
        "memory.diverged": memory.diverged,
    }
    if memory.chosen is not None:
        state["memory.chosen"] = memory.chosen
    return state


def read_marks(folder: Path, record: RunRecord, device: torch.device) -> dict[str, Tensor]:
    """Return what a stored run holds of its parameters."""
    return {
        name.removeprefix(MARKS): tensor.to(device)
        for name, tensor in files.read_state(folder, record).items()
        if name.startswith(MARKS)
    }


def restore(folder: Path, record: RunRecord, stepper: Stepper, device: torch.device) -> Memory:
    """Put a stored run back into its network and optimiser.

    Raises:
        RunError: what is stored is of another network.
    """
    path = folder / files.STATE
    state = {name: value.to(device) for name, value in files.read_state(folder, record).items()}

    def part(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: state[name] for name in state if name.startswith(prefix)}

    memory, best = part("memory."), part("best.")
    try:
        stepper.network.load_state_dict(part("last."))
        stepper.load_state(part("optimiser."))
        begun = begin(stepper.network, device)
        _check_shapes(begun.best, best)
        _check_shapes(
            {name: getattr(begun, name) for name in ("loss_sum", "best_loss", "diverged")}, memory
        )
        return Memory(
            step=int(memory["step"]),
            loss_sum=memory["loss_sum"],
            loss_count=int(memory["loss_count"]),
            best_loss=memory["best_loss"],
            best=best,
            diverged=memory["diverged"],
            marks=part(MARKS),
            chosen=memory.get("chosen"),
        )
    except (KeyError, RuntimeError, ValueError) as error:
        raise RunError(
            f"{path} does not fit the run's {records.SPEC} ({error}). Train into another folder."
        ) from None


def _check_shapes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise ValueError(f"{name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}")
