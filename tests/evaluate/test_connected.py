"""What lies between two models, and which rule samples are of when nothing says it."""

from dataclasses import replace

import pytest
import torch

from modeval.errors import RunError
from modeval.evaluate.connected import connection
from modeval.evaluate.inferred import infer_rules
from modeval.nn import Network, create
from modeval.nn.linear import StackedMLP
from modeval.spec import MODELS, DataSpec, ModelSpec
from modeval.spec.computing.computations import LowRank
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches

CPU = torch.device("cpu")
DATA = DataSpec(rules=3)
LOW_RANK = LowRank()
SUFFIXES = {"hidden.weight": 1, "hidden.bias": 0, "readout.weight": 0}


def parameters(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


@pytest.mark.parametrize("name", ["monolithic", "modular", "gt-modular"])
def test_two_models_that_differ_in_the_order_of_units_are_one_model(name: str) -> None:
    network = create(DATA, ModelSpec(**MODELS[name], encoder=8, width=24), (0, 1))
    one, two = parameters(network), parameters(network)
    generator = torch.Generator().manual_seed(0)
    for prefix, part in network.named_modules():
        if isinstance(part, StackedMLP):  # written out, apart from what is tested
            bias = two[f"{prefix}.hidden.bias"]
            for index in torch.cartesian_prod(*(torch.arange(n) for n in bias.shape[:-1])):
                at = tuple(index.flatten().tolist())
                order = torch.randperm(bias.shape[-1], generator=generator)
                for suffix, axis in SUFFIXES.items():
                    value = two[f"{prefix}.{suffix}"]
                    value[at] = value[at].index_select(axis, order)
                if prefix == "experts" and name == "modular":
                    logit = two["scorer.logit.weight"]
                    logit[at] = logit[at].index_select(0, order)
    batch = next(batches(Stream(DATA, ((0, 0), (1, 1)), 128, CPU)))
    with torch.no_grad():
        outputs = [
            torch.func.functional_call(network, each, (batch.inputs, batch.rule)).prediction
            for each in (one, two)
        ]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)
    known = replace(batch, target=outputs[0])  # both are right, so that what lies between is wrong
    found = connection(network, one, two, known, "regression")
    assert bool((found.barrier > 1e-3).all())
    assert float(found.matched.max()) < 1e-5


def test_modules_around_a_trunk_have_no_units_to_match() -> None:
    model = ModelSpec(scorer="oracle", computation=LOW_RANK, encoder=8, width=24)
    network = create(DATA, model, (0,))
    batch = next(batches(Stream(DATA, ((0, 0),), 16, CPU)))
    with pytest.raises(RunError, match="computation full"):
        connection(network, parameters(network), parameters(network), batch, "regression")


def test_the_rule_of_labelled_samples_is_found_and_that_of_others_is_not() -> None:
    data = DataSpec(rules=3, objective="classification")
    network = create(data, ModelSpec(scorer="oracle", encoder=8, width=24), (0, 1))
    stepper = Stepper(network, "classification", engine="eager")
    source = batches(Stream(data, ((0, 0), (1, 1)), 64, CPU))
    for _ in range(150):
        stepper.step(next(source), torch.tensor(2e-2))
    right = []
    for rule in range(3):
        batch = next(batches(Stream(data, ((0, 0), (1, 1)), 160, CPU, 5, (rule,))))
        found = infer_rules(network, batch.inputs, "classification", batch.target, together=16)
        assert found.shape == (2, 10)
        right.append((found == rule).double().mean())
        unlabelled = infer_rules(network, batch.inputs, "classification", together=16)
        assert unlabelled.shape == (2, 10)
    assert float(torch.stack(right).mean()) > 0.8
    with pytest.raises(ValueError, match="no entropy"):
        infer_rules(network, batch.inputs, "regression")
