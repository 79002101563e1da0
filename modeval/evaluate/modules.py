"""Modules that a user trained as something to evaluate: any ``nn.Module`` on a known task."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeval.errors import ModevalError, SpecError
from modeval.evaluate.subject import Subject
from modeval.nn.own.call import Call, Given, call_of
from modeval.nn.own.members import Run
from modeval.nn.own.network import TRIED, OwnNetwork, form_of, samples
from modeval.spec import DataSpec, ModelSpec
from modeval.spec.own import Code, digest_of_text


class Trained(nn.Module):
    """Modules of the user's, one for each seed, run one after the other as they are."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def run(
        self, call: Call, values: Sequence[Tensor], given: Given, noise: Tensor | None = None
    ) -> Run:
        """Run each module on the samples of its seed, as at evaluation."""
        del noise  # they are trained
        runs = []
        for seed, module in enumerate(self.each):
            held = tuple(None if weight is None else weight[seed] for weight in given)
            runs.append(call(module, module, [value[seed] for value in values], held))
        layers = zip(*(weights for _, weights in runs), strict=True)
        return (
            torch.stack([prediction for prediction, _ in runs]),
            tuple(torch.stack(weights) for weights in layers),
        )


def subject_of(
    modules: Sequence[nn.Module],
    task: DataSpec,
    seeds: Sequence[tuple[int, int]],
    *,
    title: str = "",
    forward: Callable[..., Any] | None = None,
    routers: Sequence[str] | None = None,
) -> Subject:
    """Return modules as a cohort that can be evaluated.

    Args:
        modules: one for each seed, of one architecture.
        task: that they were trained on.
        seeds: task seed and model seed of each; the task seed decides the rules' functions.
        title: what people call the model; the name of its class when empty.
        forward: ``(module, inputs, rule) -> (prediction, weights)``, where a module's own forward
            is not of this form; with a fourth parameter ``route`` its routing can be changed.
        routers: submodules whose outputs are routing weights, in the place of returned ones.

    Raises:
        SpecError: seeds do not fit, or a module does not keep to the protocol.
    """
    pairs = _pairs(seeds, len(modules))
    kind = type(modules[0])
    name = title or kind.__name__
    call = call_of(modules[0], name=name, sequence=task.sequence, forward=forward, routers=routers)
    whole, half = (_said(call, modules[0], task, half=half) for half in (False, True))
    form = form_of(whole, half, task, name)
    network = OwnNetwork(Trained(modules), call, form, seeds=len(modules), rules=task.rules)
    network.looks_at = getattr(kind, "looks_at", network.looks_at)
    network.sparse = bool(getattr(kind, "sparse", False))
    return Subject(
        title=name,
        origin="module",
        data=task,
        model=ModelSpec(own=_code(kind), modules=form.modules, layers=form.layers),
        objective_known=True,
        seeds=pairs,
        sources=(f"{kind.__name__} in memory",) * len(modules),
        faults=tuple(_fault(module) for module in modules),
        selection="last",
        network=network,
    )


def _said(call: Call, module: nn.Module, task: DataSpec, *, half: bool) -> Run:
    """Run a module on a few samples, on the device where it is."""
    some = next((value for value in (*module.parameters(), *module.buffers())), torch.zeros(()))
    kept = slice(TRIED // 2 if half else TRIED)
    inputs, rule = (value[kept].to(some.device) for value in samples(task))
    try:
        prediction, weights = call(module, module, (inputs, rule), ())
    except ModevalError:
        raise
    except Exception as error:
        raise SpecError(
            f"{call.name} failed on inputs {tuple(inputs.shape)} and rules {tuple(rule.shape)} "
            f"({type(error).__name__}: {error}). Give forward=, a function of module, inputs and "
            "rule that calls it as it wants to be called."
        ) from error
    return prediction.cpu(), tuple(weight.cpu() for weight in weights)


def _pairs(seeds: Sequence[tuple[int, int]], modules: int) -> tuple[tuple[int, int], ...]:
    form = "a pair (task seed, model seed) for each module, as seeds=[(0, 0), (0, 1)]"
    pairs = []
    for pair in seeds:
        if not isinstance(pair, tuple | list) or len(pair) != 2:  # noqa: PLR2004 - a pair
            raise SpecError(f"seeds holds {pair!r}: expected {form}.")
        pairs.append((int(pair[0]), int(pair[1])))
    if len(set(pairs)) != len(pairs) or len(pairs) != modules:
        raise SpecError(f"seeds = {pairs} for {modules} modules: expected {form}, all different.")
    return tuple(pairs)


def _code(kind: type[nn.Module]) -> Code:
    """Return where a class is from; one that was typed in has no file."""
    try:
        file = Path(inspect.getsourcefile(kind) or "").name
        text = inspect.getsource(kind)
    except (OSError, TypeError):
        file, text = "", ""
    file = file if file.endswith(".py") else "interactive.py"
    return Code(f"{file}:{kind.__name__}", digest_of_text(text.encode()))


def _fault(module: nn.Module) -> str:
    finite = all(bool(value.isfinite().all()) for value in module.parameters())
    return "" if finite else "its weights are not finite"
