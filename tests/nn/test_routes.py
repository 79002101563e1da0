"""Routes change weights as they say, keep what they promise to keep, and reach every system."""

import pytest
import torch
from torch import Tensor

from modeval.data.tasks import draw, stack_tasks
from modeval.nn import create
from modeval.nn.routes import (
    even,
    given,
    in_turn,
    keep_only,
    knock_out,
    on_largest,
    on_top,
    only,
    rounded,
    sampled,
    shuffle,
    swap,
)
from modeval.spec import DataSpec, RunSpec, from_dict, to_dict, without_unread
from modeval.spec.systems import SYSTEMS, named, system_of


def weights(shape: tuple[int, ...] = (2, 50, 5), seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


KEEPING = {
    "knock_out": knock_out([1, 3]),
    "keep_only": keep_only([0, 4]),
    "only": only(2),
    "on_largest": on_largest,
    "on_top": on_top(2),
    "sampled": sampled(generator()),
    "rounded": rounded,
    "shuffle": shuffle(generator()),
    "swap": swap(0, 4),
    "even": even,
    "in_turn": in_turn(swap(0, 1), knock_out([0])),
}


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("shape", [(2, 50, 5), (2, 10, 4, 5)])
def test_a_sample_keeps_its_total_whatever_the_route(name: str, shape: tuple[int, ...]) -> None:
    for scale in (1.0, 0.4):
        weight = scale * weights(shape)
        routed = KEEPING[name](weight, 0)
        torch.testing.assert_close(routed.sum(-1), weight.sum(-1))
        assert routed.shape == weight.shape


@pytest.mark.parametrize("route", [on_largest, on_top(2), sampled(generator()), rounded])
def test_what_is_hard_already_stays_as_it_is(route) -> None:
    hard = on_largest(weights(), 0)
    assert torch.equal(route(hard, 0), hard)


def test_a_knocked_out_module_gets_nothing_and_what_it_had_goes_to_the_others_or_is_lost() -> None:
    weight = weights()
    over, lost = (knock_out([2], renormalise=renew)(weight, 0) for renew in (True, False))
    assert not over[..., 2].any()
    assert not lost[..., 2].any()
    kept = [0, 1, 3, 4]
    assert torch.equal(lost[..., kept], weight[..., kept])
    torch.testing.assert_close(over[..., kept] / over[..., :1], weight[..., kept] / weight[..., :1])
    assert torch.equal(keep_only(kept)(weight, 0), over)


def test_a_sample_whose_only_module_is_off_has_none() -> None:
    assert not knock_out([1])(torch.tensor([[[0.0, 1.0]]]), 0).any()


def test_each_seed_may_lose_modules_of_its_own() -> None:
    off = torch.tensor([[True, False, False, False, False], [False] * 4 + [True]])
    routed = knock_out(off)(weights(), 0)
    assert (routed == 0).any(1).tolist() == off.tolist()


def test_a_route_of_one_layer_leaves_the_others_alone() -> None:
    weight = weights()
    for route in (knock_out([0], layer=1), only(0, layer=1), swap(0, 1, layer=1)):
        assert torch.equal(route(weight, 0), weight)
        assert not torch.equal(route(weight, 1), weight)
    assert torch.equal(given(torch.zeros(5), layer=1)(weight, 0), weight)


def test_shuffled_samples_keep_the_loads_and_swapped_modules_exchange_them() -> None:
    weight = weights()
    torch.testing.assert_close(shuffle(generator())(weight, 0).sum(1), weight.sum(1))
    loads = weight.sum(1)[:, [4, 1, 2, 3, 0]]
    torch.testing.assert_close(swap(0, 4)(weight, 0).sum(1), loads)


def test_modules_are_sampled_as_often_as_they_weigh_and_alike_in_each_seed() -> None:
    weight = torch.tensor([0.1, 0.6, 0.3]).expand(2, 20_000, 3)
    drawn = sampled(generator())(weight, 0)
    assert drawn.mean(1)[0].tolist() == pytest.approx([0.1, 0.6, 0.3], abs=0.02)
    assert torch.equal(drawn[0], drawn[1])


ROUTED = [each.name for each in SYSTEMS if each.choices.get("scorer") != "none"]


@pytest.mark.parametrize("system", ROUTED)
def test_routes_reach_the_answers_of_every_system_and_a_route_of_nothing_changes_nothing(
    system: str,
) -> None:
    small = {"encoder": 6, "width": 12}
    model, train = named(system, small, {"steps": 20, "batch": 16})
    task = system_of(system).tasks[0]
    given = {"task": task, "rules": 4, "length": 3, **system_of(system).data}
    data = from_dict(DataSpec, without_unread(DataSpec, given))
    made = {"data": to_dict(data), "model": model, "train": train}
    network = create(data, from_dict(RunSpec, made).model, (1, 2))
    draws = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=draws))
    tasks = stack_tasks(data, [0, 0])
    batch = draw(data, tasks, [torch.Generator().manual_seed(7) for _ in range(2)], samples=40)
    x, rule = batch.inputs, batch.rule
    with torch.inference_mode():
        plain = network(x, rule)
        same = network(x, rule, route=lambda weight, _: weight)
        off = network(x, rule, route=knock_out(range(network.module_count)))
    torch.testing.assert_close(same.prediction, plain.prediction)
    assert not torch.allclose(plain.prediction, off.prediction)
    assert not torch.stack([each.weight for each in off.routed]).any()
