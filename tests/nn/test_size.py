"""Parameters that a sample uses, of those that there are."""

from typing import Any

import pytest
import torch

from modeval.evaluate.cohort import evaluate
from modeval.evaluate.subject import Subject
from modeval.nn import count_parameters, create
from modeval.nn.size import size_of
from modeval.spec import DataSpec, ModelSpec, from_dict

TASKS = {
    "binary": DataSpec(rules=3),
    "sets": DataSpec(task="sets", rules=3, length=3),
    "series": DataSpec(task="series", rules=3, dimension=3, length=3),
}


def built(task: str, modules: int = 3, **choices: Any) -> Any:
    given: dict[str, Any] = {
        "scorer": "rule",
        "match": "width",
        "encoder": 6,
        "width": 12,
    } | choices
    return create(TASKS[task], ModelSpec(modules=modules, **given), (1, 2))


def evaluated(task: str, **choices: Any) -> Any:
    given: dict[str, Any] = {
        "scorer": "rule",
        "match": "width",
        "encoder": 6,
        "width": 12,
    } | choices
    model = ModelSpec(**given)
    network = create(TASKS[task], model, (1, 2))
    subject = Subject(
        title="",
        origin="run",
        data=TASKS[task],
        model=model,
        objective_known=True,
        seeds=((0, 1), (0, 2)),
        sources=("", ""),
        faults=("", ""),
        selection="last",
        network=network,
    )
    return evaluate(subject, precision=0.5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("layers", [1, 2])
def test_one_module_more_adds_what_a_module_has(task: str, layers: int) -> None:
    three, four = (built(task, modules, layers=layers, scorer="input") for modules in (3, 4))
    router = layers * 7  # a logit more of a hidden layer of 6 units, in each layer
    size = size_of(three)
    assert size is not None
    assert size.total == count_parameters(three)
    assert count_parameters(four) - count_parameters(three) == sum(size.modules) + router


@pytest.mark.parametrize("kind", ["low-rank", "prompt", "adapter", "masked", "head", "tied"])
def test_what_modules_share_belongs_to_none_of_them(kind: str) -> None:
    three, four = (
        built("binary", modules, computation=from_kind(kind), scorer="input") for modules in (3, 4)
    )
    size = size_of(three)
    assert size is not None
    assert count_parameters(four) - count_parameters(three) == sum(size.modules) + 7


def from_kind(kind: str) -> Any:
    return from_dict(
        ModelSpec, {"scorer": "rule", "computation": {"kind": kind}, "modules": 3}
    ).computation


def test_a_sample_of_ground_truth_routing_uses_one_module() -> None:
    found = evaluated("binary", scorer="oracle")
    size = size_of(built("binary", scorer="oracle"))
    assert size is not None
    assert found.parameters == size.total
    assert found.active == size.total - 2 * size.modules[0]


def test_a_sample_of_soft_routing_uses_all_modules() -> None:
    found = evaluated("sets", scorer="rule")
    assert found.active == found.parameters


def test_the_size_of_a_scorecard_is_that_of_one_seed() -> None:
    size = size_of(built("binary"))
    assert size is not None
    assert size.active(torch.tensor([3.0])).item() == size.total
