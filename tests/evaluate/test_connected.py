"""What lies between two models, and which rule samples are of when nothing says it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modeval.errors import RunError
from modeval.evaluate.connected import connection
from modeval.evaluate.inferred import infer_rules
from modeval.evaluate.merging import between_modules
from modeval.nn import Network, create
from modeval.nn.linear import StackedMLP
from modeval.spec import MODELS, DataSpec, ModelSpec, RunSpec, from_dict
from modeval.spec.computing.computations import LowRank
from modeval.spec.systems import named
from modeval.train.files import read_network
from modeval.train.loop import train
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


def test_supsup_infers_the_rule_better_than_chance(tmp_path: Path) -> None:
    rules, seeds = 4, 8
    training = {
        "seeds": [[seed, seed] for seed in range(seeds)],
        "steps": 200,
        "validate_every": 200,
        "batch": 48,
        "learning_rate": 2e-2,
        "regime": {"kind": "supsup"},
    }
    model, told = named("supermask-per-rule", {"encoder": 8, "width": 24}, training)
    data = {"rules": rules, "objective": "classification", "telling": 0.9}
    spec = from_dict(RunSpec, {"data": data, "model": model, "train": told})
    train(spec, tmp_path / "run", device=CPU, engine="eager")
    network = read_network(tmp_path / "run")
    right: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for rule in range(rules):
        batch = next(batches(Stream(spec.data, spec.train.seeds, 480, CPU, 5, (rule,))))
        for known, found in right.items():
            target = batch.target if known else None
            inferred = infer_rules(network, batch.inputs, "classification", target, together=16)
            assert inferred.shape == (seeds, 30)
            found.append((inferred == rule).double().mean(1))
    for found in right.values():
        share = torch.stack(found).mean(0)
        low = share.mean() - 2.365 * share.std() / seeds**0.5  # of Student's t for 8 seeds
        assert float(low) > 1 / rules + 0.05
    with pytest.raises(ValueError, match="no entropy"):
        infer_rules(network, batch.inputs, "regression")


# --- modules that are merged ---------------------------------------------------------------------


PARTS = (
    ("hidden", "weight", -1),
    ("hidden", "bias", -1),
    ("readout", "weight", -2),
    ("readout", "bias", None),
)


def in_orders(network: Network) -> None:
    """Make all modules copies of the first, each with its hidden units in an order of its own."""
    held = {name: value.detach() for name, value in network.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    trunks = "experts.hidden.shared.weight" in held
    for seed in range(network.seeds):
        for module in range(network.module_count):
            order = torch.arange(held["decoder.hidden.weight"].shape[1])
            for part, kind, axis in PARTS:
                own = held[f"experts.{part}.{'own_' if trunks else ''}{kind}"][seed]
                trunk = held[f"experts.{part}.shared.{kind}"][seed] if trunks else 0
                whole = own[0] + trunk
                if (part, kind) == ("hidden", "weight"):
                    order = torch.randperm(whole.shape[-1], generator=generator)
                if module and axis is not None:
                    whole = whole.index_select(axis, order)
                own[module] = whole - trunk


@pytest.mark.parametrize("name", ["gt-modular", "diff-per-rule"])
def test_modules_that_differ_in_the_order_of_units_are_connected_once_units_are_matched(
    name: str,
) -> None:
    model, _ = named(name, {"encoder": 8, "width": 24}, {})
    network = create(DATA, from_dict(ModelSpec, model), (0, 1))
    for parameter in network.parameters():
        parameter.detach().normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    in_orders(network)
    batch = next(batches(Stream(DATA, ((0, 0), (1, 1)), 128, CPU)))
    with torch.no_grad():
        answers = network(batch.inputs, batch.rule).prediction
    barrier, after = between_modules(network, replace(batch, target=answers), "regression")
    assert after is not None
    assert float(barrier.min()) > 1e-2
    assert float(after.max()) < 1e-5


def test_the_barrier_between_modules_is_that_of_models_which_are_written_out() -> None:
    network = create(DATA, ModelSpec(**MODELS["gt-modular"], encoder=8, width=24), (0,))
    batch = next(batches(Stream(DATA, ((0, 0),), 96, CPU)))
    start = parameters(network)

    def loss(share: float, module: int, rules: tuple[int, int]) -> float:
        """Return the loss on two rules of a network that is one module, as a plain model is."""
        after = (module + 1) % 3
        held = dict(start)
        for name in (name for name in held if name.startswith("experts.")):
            both = start[name][:, module] * (1 - share) + start[name][:, after] * share
            held[name] = both.unsqueeze(1).expand_as(start[name])
        with torch.no_grad():
            told = (batch.inputs, batch.rule)
            answer = torch.func.functional_call(network, held, told).prediction
        each = (answer - batch.target).abs().squeeze(-1)
        return sum(float(each[batch.rule == rule].mean()) for rule in rules) / 2

    rises = []
    for module in range(3):
        rules = (module, (module + 1) % 3)
        along = [loss(step / 10, module, rules) for step in range(11)]
        line = [along[0] + (along[-1] - along[0]) * step / 10 for step in range(11)]
        rises.append(max(a - b for a, b in zip(along, line, strict=True)))
    barrier, _ = between_modules(network, batch, "regression")
    assert float(barrier) == pytest.approx(sum(rises) / 3, abs=1e-6)
