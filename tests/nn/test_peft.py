"""LoRA, (IA)3 and Polytropon against the library that most people use for them."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modeval.nn.aggregation import of_pairs
from modeval.nn.bank import Bank
from modeval.spec.computing.computations import LowRank, Rescaled
from modeval.spec.computing.compute import Layer
from modeval.spec.gatings import Concrete

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft", reason="the oracle extra is not installed")

SKILLS, IN, OUT, RANK = 3, 5, 7, 2


class Plain(nn.Module):
    """A model of one linear layer, as peft wants one to wrap."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(IN, OUT)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        return self.linear(x)  # type: ignore[no-any-return]


def bank_of(computation: Any) -> Bank:
    """Return a bank with parameters as they might become."""
    bank = Bank(1, SKILLS, Layer("hidden", IN, OUT), computation)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return bank.double()


def wrapped(bank: Bank, config: Any) -> Any:
    """Return peft's model around the trunk of a bank."""
    model = Plain()
    shared = bank.shared
    assert shared is not None
    with torch.no_grad():
        model.linear.weight.copy_(shared.weight[0].T)
        assert shared.bias is not None
        model.linear.bias.copy_(shared.bias[0])
    return peft.get_peft_model(model, config).double().eval()


def samples(*shape: int) -> Tensor:
    return torch.randn(*shape, IN, generator=torch.Generator().manual_seed(4)).double()


def by_bank(bank: Bank, x: Tensor) -> Tensor:
    """Return what each module of a bank says, ``(M, N, out)``."""
    weight, bias = bank.parts()
    assert bias is not None
    return x @ weight[0] + bias[0].unsqueeze(1)


def lora(bank: Bank) -> Any:
    """Return peft's model with an adapter for each module of a bank."""
    config = peft.LoraConfig(r=RANK, lora_alpha=6, target_modules=["linear"])
    model = wrapped(bank, config)
    for skill in range(SKILLS):
        name = f"skill{skill}"
        model.add_adapter(name, config)
        layer = model.base_model.model.linear
        with torch.no_grad():
            layer.lora_A[name].weight.data = bank.own["down"][0, skill].T.clone()
            layer.lora_B[name].weight.data = bank.own["up"][0, skill].T.clone()
    return model


def test_a_module_of_low_rank_is_a_lora_of_peft() -> None:
    bank = bank_of(LowRank(rank=RANK, alpha=6))
    model, x = lora(bank), samples(4)
    expected = by_bank(bank, x)
    for skill in range(SKILLS):
        model.set_adapter(f"skill{skill}")
        torch.testing.assert_close(model(x), expected[skill])
    merged = model.merge_and_unload()  # of the last one
    torch.testing.assert_close(merged(x), expected[-1])


def test_mixing_parameters_of_low_rank_is_what_peft_calls_cat() -> None:
    bank = bank_of(LowRank(rank=RANK, alpha=6))
    model, x = lora(bank), samples(4)
    shares = [0.5, 0.3, 0.2]
    names = [f"skill{skill}" for skill in range(SKILLS)]
    model.add_weighted_adapter(names, shares, "mixed", combination_type="cat")
    model.set_adapter("mixed")
    model.base_model.model.linear.lora_A["mixed"].double()
    model.base_model.model.linear.lora_B["mixed"].double()
    expected = torch.einsum("m,mno->no", torch.tensor(shares).double(), by_bank(bank, x))
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_a_module_that_rescales_is_an_ia3_of_peft() -> None:
    bank = bank_of(Rescaled())
    config = peft.IA3Config(target_modules=["linear"], feedforward_modules=[])
    model, x = wrapped(bank, config), samples(4)
    expected = by_bank(bank, x)
    layer = model.base_model.model.linear
    for skill in range(SKILLS):
        with torch.no_grad():
            factor = bank.own["factor"][0, skill]
            layer.ia3_l["default"].copy_(factor.view_as(layer.ia3_l["default"]))
        torch.testing.assert_close(model(x), expected[skill])


def test_skills_of_polytropon_weigh_as_in_peft_and_add_what_each_adds_there() -> None:
    """peft averages both factors apart, so that a task of several skills has cross terms there."""
    bank = bank_of(LowRank(rank=RANK, alpha=1))
    config = peft.PolyConfig(
        r=RANK, n_tasks=SKILLS + 2, n_skills=SKILLS, n_splits=1, target_modules=["linear"]
    )
    model, x = wrapped(bank, config), samples(1, 4)
    layer = model.base_model.model.linear
    large = 40.0 * (2 * torch.eye(SKILLS) - 1)  # tasks of one skill each, then of several
    logits = torch.cat((large, torch.tensor([[0.3, -1.0, 2.0], [1.0, 1.0, -40.0]]))).double()
    with torch.no_grad():
        layer.poly_lora_A["default"][0] = bank.own["down"][0]
        layer.poly_lora_B["default"][0] = bank.own["up"][0]
        layer.poly_router["default"].module_logits.copy_(logits)
    weight = Concrete()(logits.unsqueeze(0))[0]
    expected = by_bank(bank, x[0])
    for task in range(SKILLS + 2):
        which = torch.tensor([task])
        theirs = layer.poly_router["default"](task_ids=which, input_ids=x)
        torch.testing.assert_close(theirs[0, 0], weight[task])
    for skill in range(SKILLS):
        found = layer(x, task_ids=torch.tensor([skill]))[0]
        torch.testing.assert_close(found, expected[skill])
    both = layer(x, task_ids=torch.tensor([SKILLS + 1]))[0]  # the first two skills, half each
    down, up = bank.own["down"][0], bank.own["up"][0]
    cross = 0.25 * x[0] @ (down[0] - down[1]) @ (up[0] - up[1]) / RANK
    mixed = torch.einsum("m,mno->no", weight[SKILLS + 1], expected)
    torch.testing.assert_close(both, mixed - cross)
    apart = bank_of(LowRank(rank=RANK, alpha=1, averaged="factors"))
    for task in range(SKILLS + 2):
        pairs = of_pairs(weight[task], SKILLS**2)
        found = layer(x, task_ids=torch.tensor([task]))[0]
        torch.testing.assert_close(found, torch.einsum("m,mno->no", pairs, by_bank(apart, x[0])))
