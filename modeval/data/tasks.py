"""Tasks as data: the parameters of their rules, and endless samples drawn from them.

A task is a seed. Its rule parameters come from ``numpy.random.RandomState(seed)``, number for
number those of the reference implementation, so that a model trained there can be scored here on
the task it was trained on. Samples come from one ``torch.Generator`` for each member of a cohort,
so that a member draws alone exactly what it draws among others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Generator, Tensor

from modeval.data.binary import along, named_operations, weighted_sum
from modeval.data.composition import compose_coefficients, composed_operations, vary
from modeval.data.rules import draw_rules
from modeval.data.series import follow
from modeval.data.sets import draw_positions, search_and_retrieve
from modeval.spec import DataSpec
from modeval.types import Batch


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What the rules of ``binary`` and ``sets`` weigh their two numbers with.

    Attributes:
        alpha: ``(S, R)`` coefficient of the first number; ``(S, 0)`` for the named operations,
            which have none.
        beta: ``(S, R)`` coefficient of the second number; likewise.
    """

    alpha: Float[Tensor, "seeds rules"]
    beta: Float[Tensor, "seeds rules"]


@dataclass(frozen=True, slots=True)
class Dynamics:
    """The switching linear systems of ``series``, written for row vectors.

    Attributes:
        weights: ``(S, R, (order + 1) * d, d)``: for each rule the maps of the last state, of the
            one before it and so on, and under them the map of the input.
        decoder: ``(S, d, 1)`` direction whose sign is the label; width 0 for regression.
    """

    weights: Float[Tensor, "seeds rules history states"]
    decoder: Float[Tensor, "seeds states outputs"]


TaskStack = Coefficients | Dynamics
"""The rules of one family of tasks, stacked over the members of a cohort."""


def task_parameters(spec: DataSpec, task_seed: int) -> dict[str, Float64[Tensor, "..."]]:
    """What are the rules of the task with this seed?

    In the order of the draws: ``alpha`` and ``beta``, ``(R,)`` each, for ``binary`` with linear
    operations and for ``sets``; ``transition`` ``(R, order, d, d)``, ``drive`` ``(R, d, d)`` and,
    for classification, ``decoder`` ``(d, 1)`` for ``series``; nothing for the named operations.

    Args:
        spec: family of tasks.
        task_seed: from 0 to 2**32 - 1.

    >>> task_parameters(DataSpec(rules=2), 0)["alpha"]
    tensor([1.7641, 0.4002], dtype=torch.float64)
    """
    drawn = np.random.RandomState(task_seed).randn
    if spec.skills:
        return {name: torch.from_numpy(value) for name, value in _of_skills(spec, drawn).items()}

    def normal(rules: int, *shape: int) -> Any:
        return vary(spec, drawn(rules, *shape))

    if spec.task == "series":
        size, order = spec.dimension, spec.order
        parameters = {
            "transition": normal(spec.rules, order, size, size) / np.sqrt(order * size),
            "drive": normal(spec.rules, size, size) / np.sqrt(size),
        }
        if spec.objective == "classification":
            parameters["decoder"] = drawn(size, 1)
    elif spec.task == "binary" and spec.operation == "named":
        parameters = {}
    else:
        parameters = {"alpha": normal(spec.rules), "beta": normal(spec.rules)}
    return {name: torch.from_numpy(value) for name, value in parameters.items()}


def _of_skills(spec: DataSpec, drawn: Callable[..., Any]) -> dict[str, Any]:
    """Return the coefficients of rules that are made of skills; the named ones have none."""
    if spec.operation == "named":
        return {}
    alpha, beta = drawn(spec.skills), drawn(spec.skills)
    return dict(zip(("alpha", "beta"), compose_coefficients(spec, alpha, beta), strict=True))


def stack_tasks(
    spec: DataSpec,
    task_seeds: Sequence[int],
    device: torch.device | str = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
) -> TaskStack:
    """Stack the rules of a cohort's tasks; a seed may stand more than once."""
    known = {seed: task_parameters(spec, seed) for seed in task_seeds}

    def stack(part: Callable[[dict[str, Tensor]], Tensor]) -> Tensor:
        return torch.stack([part(known[seed]) for seed in task_seeds]).to(device, dtype)

    if spec.task == "series":
        unread = torch.empty(spec.dimension, 0, dtype=torch.float64)
        return Dynamics(
            weights=stack(lambda of: torch.cat([of["transition"].flatten(1, 2), of["drive"]], 1)),
            decoder=stack(lambda of: of.get("decoder", unread)),
        )
    nothing = torch.empty(0, dtype=torch.float64)
    return Coefficients(
        alpha=stack(lambda of: of.get("alpha", nothing)),
        beta=stack(lambda of: of.get("beta", nothing)),
    )


def draw(
    spec: DataSpec,
    tasks: TaskStack,
    generators: Sequence[Generator],
    *,
    samples: int,
    dtype: torch.dtype = torch.float32,
    rule_probabilities: Tensor | None = None,
) -> Batch:
    """Draw fresh samples for each member of a cohort, each from its own generator.

    The result lies on the generators' device, where no step waits for the host. The same spec,
    tasks, generator states and number of samples give the same batch. One call for the samples of
    many training steps costs much less than a call for each step, but gives other samples than
    many small calls: to resume exactly, keep the number.

    Memory: the batch itself, ``S * samples * T * (features + outputs + 2)`` float32 numbers, and
    about as much again of working space. Larger requests are for the caller to cut.

    Args:
        spec: family of tasks; ``scale``, ``length`` and ``rule_probabilities`` may differ from the
            spec that ``tasks`` were made with.
        tasks: rules of each member, from :func:`stack_tasks`.
        generators: one for each member, all on one device.
        samples: samples for each member.
        dtype: of inputs and target.
        rule_probabilities: ``(R,)`` shares of the rules that override the spec's, or ``(P, R)``:
            the samples in P equal consecutive parts, each with shares of its own.
    """
    device = generators[0].device
    positions = (spec.length,) if spec.sequence else ()
    rule = torch.empty(len(generators), samples, *positions, dtype=torch.int64, device=device)
    inputs = torch.empty(*rule.shape, spec.features, dtype=dtype, device=device)
    for member, generator in enumerate(generators):
        draw_rules(spec, generator, out=rule[member], probabilities=rule_probabilities)
        if spec.task == "sets":
            draw_positions(spec, generator, out=inputs[member])
        else:
            inputs[member].normal_(generator=generator)
    if spec.scale != 1:
        inputs *= spec.scale
    if spec.telling and isinstance(tasks, Coefficients):
        inputs = along(inputs, *_weights(tasks, inputs, rule), spec.telling)
    values = target(spec, tasks, inputs, rule, _noise(spec, rule, generators))
    return Batch(inputs, rule, values, _shown(spec, rule, generators))


def _shown(spec: DataSpec, rule: Tensor, generators: Sequence[Generator]) -> Tensor | None:
    """Draw what a model is told, after all else; None where it is told the truth."""
    if not spec.hidden:
        return None
    shown = torch.empty_like(rule)
    for member, generator in enumerate(generators):
        wrong = torch.rand(rule[member].shape, device=rule.device, generator=generator)
        other = torch.randint(
            spec.rules, rule[member].shape, device=rule.device, generator=generator
        )
        shown[member] = torch.where(wrong < spec.hidden, other, rule[member])
    return shown


def _noise(spec: DataSpec, rule: Tensor, generators: Sequence[Generator]) -> Tensor | None:
    """Draw what is added to targets, after all else: without noise the draws are what they were."""
    if not spec.noise:
        return None
    noise = torch.empty(*rule.shape, spec.outputs, device=rule.device)
    for member, generator in enumerate(generators):
        noise[member].normal_(generator=generator)
    return noise * spec.noise


def target(
    spec: DataSpec,
    tasks: TaskStack,
    inputs: Float[Tensor, "seeds samples *positions features"],
    rule: Int64[Tensor, "seeds samples *positions"],
    noise: Float[Tensor, "seeds samples *positions outputs"] | None = None,
) -> Float[Tensor, "seeds samples *positions outputs"]:
    """What should a model answer to these inputs under these rules?

    For regression the value, for classification whether it is at least zero, as 0 or 1; of the
    value with noise, if there is any.
    """
    if isinstance(tasks, Dynamics):
        value = follow(tasks.weights.to(inputs.dtype), inputs, rule)
        if spec.objective == "classification":
            value = value @ tasks.decoder.to(inputs.dtype).unsqueeze(1)
    elif spec.task == "binary" and spec.operation == "named":
        made = composed_operations(spec, inputs, rule) if spec.skills else None
        value = named_operations(inputs, rule) if made is None else made
    else:
        found = inputs
        if spec.task == "sets":
            found = search_and_retrieve(inputs, rule, search=spec.search)
        value = weighted_sum(found, *_weights(tasks, inputs, rule))
    if noise is not None:
        value = value + noise.to(value.dtype)
    return (value >= 0).to(value.dtype) if spec.objective == "classification" else value


def _weights(tasks: Coefficients, inputs: Tensor, rule: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coefficients of each sample: each member reads its own row, at any position."""
    flat = rule.flatten(1)
    first, second = (
        weights.to(inputs.dtype).gather(1, flat).view_as(rule)
        for weights in (tasks.alpha, tasks.beta)
    )
    return first, second
