"""Routing that is changed does what changing the parameters would do, and leaves no trace."""

import pytest
import torch
from architectures import (  # type: ignore[import-not-found, unused-ignore]
    CASES,
    NLLB,
    Case,
    batch,
    build,
)
from small_models import mixtral  # type: ignore[import-not-found, unused-ignore]
from torch import nn

from modeval.ablate.changing import REMOVALS, Removal, changed, unrouted
from modeval.ablate.listening import listening
from modeval.ablate.seams import Seam, find_seams
from modeval.errors import TraceError

GONE = (1, 2)
KINDS = [
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "gpt_oss",
    "granitemoe",
    "phimoe",
    "dbrx",
    "llama4_text",
    "switch_transformers",
    "jetmoe",
    "ernie4_5_moe",
    "glm4_moe",
    "gemma4_text",
    "minimax_m2",
    "longcat_flash",
    "zaya",
]


def case_of(kind: str) -> Case:
    return next(case for case in CASES if case.kind == kind)


def loss(model: nn.Module, case: Case, inputs=None) -> torch.Tensor:
    given = inputs or batch(case)
    with torch.no_grad():
        logits = model(**given).logits
    target = given.get("decoder_input_ids", given["input_ids"])
    return nn.functional.cross_entropy(
        logits[:, :-1].double().flatten(0, 1), target[:, 1:].flatten()
    )


def without(seams: tuple[Seam, ...], gone=GONE) -> list[torch.Tensor]:
    kept = torch.ones(seams[0].modules, dtype=torch.bool)
    kept[list(gone)] = False
    return [kept] * len(seams)


def remove_parameters(model: nn.Module, seam: Seam, module: int) -> None:
    """Set all parameters of one expert to zero, however they are kept."""
    experts = seam.experts
    if seam.passing in ("table", "sorted"):
        block = model.get_submodule(seam.name.rpartition(".")[0])
        experts = block.get_submodule("experts") if seam.passing == "table" else block
    for name, part in experts.named_parameters():
        if name.startswith("router"):
            continue
        if seam.passing == "marks":
            if f"expert_{module}." in name:
                part.data.zero_()
        elif type(experts).__name__ == "DbrxExperts":
            part.data.view(seam.modules, -1, part.shape[-1])[module] = 0
        else:
            part.data[module] = 0


@pytest.mark.parametrize("kind", KINDS)
def test_removing_by_routing_is_removing_the_parameters(kind: str) -> None:
    case = case_of(kind)
    model = build(case)
    seams = find_seams(model)
    before = loss(model, case)
    with changed(seams, without(seams), "zero"):
        routed = loss(model, case)
    assert torch.equal(loss(model, case), before), "the model was written to"
    for seam in seams:
        for module in GONE:
            remove_parameters(model, seam, module)
    removed = loss(model, case)
    assert abs(routed - removed) < 1e-5
    assert abs(removed - before) > 1e-6, "the removed experts did nothing: the test shows nothing"


@pytest.mark.parametrize(
    "kind", ["mixtral", "olmoe", "qwen3_moe", "gpt_oss", "phimoe", "granitemoe"]
)
def test_routing_around_is_a_model_without_those_experts(kind: str) -> None:
    """Pruning tools take rows out of the router and experts out of the block."""
    case = case_of(kind)
    model = build(case)
    seams = find_seams(model)
    with changed(seams, without(seams), "reroute") as changes:
        routed = loss(model, case)
    assert unrouted(changes) == 0
    stay = [module for module in range(8) if module not in GONE]
    for seam in seams:
        for part in (seam.router, seam.experts):
            for parameter in part.parameters():
                if parameter.shape[0] == 8:
                    parameter.data = parameter.data[stay]
            for name in ("num_experts", "num_local_experts"):
                if hasattr(part, name):
                    setattr(part, name, len(stay))
    assert abs(routed - loss(model, case)) < 1e-5


@pytest.mark.parametrize(
    "kind", ["deepseek_v3", "llama4_text", "switch_transformers", "dbrx", "zaya"]
)
def test_routers_of_all_kinds_choose_again_among_those_that_are_left(kind: str) -> None:
    case = case_of(kind)
    model = build(case)
    seams = find_seams(model)
    with changed(seams, without(seams), "reroute") as changes:
        around = loss(model, case)
    assert around.isfinite()
    assert unrouted(changes) == 0
    with changed(seams, without(seams), "zero"):
        assert loss(model, case) != around


def test_a_table_of_experts_cannot_be_rerouted_and_that_is_counted() -> None:
    model = build(case_of("deepseek_v4"))
    seams = find_seams(model)
    with changed(seams, without(seams), "reroute") as changes:
        assert loss(model, case_of("deepseek_v4")).isfinite()
    assert 0 < unrouted(changes) < 1


def test_the_ways_of_removal_differ_as_their_formulas_say() -> None:
    model = mixtral(num_hidden_layers=1)
    (seam,) = seams = find_seams(model)
    given: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    ids = torch.arange(3, 40).unsqueeze(0)

    def watch(module, arguments):
        given["now"] = (arguments[1].clone(), arguments[2].clone())

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            model(input_ids=ids)
        return given["now"]

    inner = seam.experts.register_forward_pre_hook(watch)
    chosen, weight = run()
    inner.remove()
    gone = torch.isin(chosen, torch.tensor([1]))
    assert gone.any()
    for removal in REMOVALS:
        with changed(seams, without(seams, (1,)), removal, seed=3) as (change,):
            after = seam.experts.register_forward_pre_hook(watch)
            now, left = run()
            after.remove()
        if removal == "zero":
            assert torch.equal(left, weight.masked_fill(gone, 0))
        elif removal == "renormalise":
            torch.testing.assert_close(left.sum(-1), weight.sum(-1))
            assert not left[gone].any()
        elif removal == "swap":
            assert torch.equal(left, weight)
            assert (now[gone] == change.partner[1]).all()
            assert torch.equal(now[~gone], chosen[~gone])
        else:
            assert not (now == 1).any()
            torch.testing.assert_close(left.sum(-1), torch.ones(len(left)))


@pytest.mark.parametrize("removal", REMOVALS)
def test_a_model_that_fails_while_it_is_changed_is_whole_afterwards(removal: Removal) -> None:
    model = mixtral()
    seams = find_seams(model)
    ids = torch.arange(3, 12).unsqueeze(0)
    before = model(input_ids=ids).logits
    gate = model.get_submodule("model.layers.0.mlp.gate")
    with pytest.raises(RuntimeError), changed(seams, without(seams, (0,)), removal):
        gate(torch.ones(2, 5))
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_cannot_be_changed_is_refused_by_name_with_the_reason() -> None:
    with pytest.raises(TraceError, match=r"model\.layers\.0\.mlp \(DogeCDMoE\).*inside"):
        find_seams(build(case_of("doge")))
    with pytest.raises(TraceError, match=r"NllbMoeTop2Router.*compute something else"):
        find_seams(build(NLLB))
    with pytest.raises(TraceError, match="no router that modeval knows"):
        find_seams(nn.Linear(2, 2))
    gate = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(TraceError, match="called with"):
        find_seams(gate, ["0"])


HEARD = {
    "mixtral": "",
    "longcat_flash": "",
    "llama4_text": "",
    "jetmoe": "mlp",
    "switch_transformers": "",
}


@pytest.mark.parametrize("kind", HEARD)
def test_what_a_module_is_heard_to_add_is_what_is_missing_without_it(kind: str) -> None:
    """However experts are called: the norms of both are the same, module by module."""
    case = case_of(kind)
    model = build(case)
    seam = next(each for each in find_seams(model) if HEARD[kind] in each.name)
    said: list[torch.Tensor] = []
    block = model.get_submodule(seam.name.rpartition(".")[0])

    def keep(_block: nn.Module, _arguments: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        assert isinstance(first, torch.Tensor)
        said.append(first.detach().double().flatten(0, -2))

    handle = block.register_forward_hook(keep)
    loss(model, case)
    (whole,) = said
    with listening(model, [seam], 1) as heard:
        heard[0].label = torch.zeros(len(whole), dtype=torch.long)
        loss(model, case)
    assert heard[0].whole
    for module in range(seam.modules):
        kept = torch.ones(seam.modules, dtype=torch.bool)
        kept[module] = False
        with changed((seam,), [kept], "zero"):
            loss(model, case)
        missing = float((said[-1] - whole).norm(dim=-1).sum())
        assert float(heard[0].output[0, module]) == pytest.approx(missing, rel=1e-4, abs=1e-5)
    handle.remove()
