"""Tiny random models of many architectures: what is recorded is what the experts were given.

The other account of the routing is taken inside the expert blocks: the arguments with which the
experts are called, the rows that reach each expert, or the rows looked up in tables of experts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from architectures import (  # type: ignore[import-not-found, unused-ignore]
    CASES,
    LATENT,
    NLLB,
    Case,
    batch,
    build,
)
from torch import nn

from modeval.errors import TraceError
from modeval.record.recording import record
from modeval.record.routers.readers import READERS
from modeval.trace.files import concatenate, read_trace
from modeval.trace.fold import fold_groups

transformers = pytest.importorskip("transformers")

LABELS = ("law", "code", "poems")


# --- the other account ---------------------------------------------------------------------------


Sets = list[set[int]]


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    return [part for part in (*args, *kwargs.values()) if isinstance(part, torch.Tensor)]


def _by_arguments(module: nn.Module, parts: list[torch.Tensor]) -> Sets:
    """Experts called with (hidden, chosen, weights): a weight of zero uses no expert."""
    chosen, weight = parts[1], parts[2]
    return [
        {int(one) for one, share in zip(row, shares, strict=True) if share != 0}
        for row, shares in zip(chosen, weight, strict=True)
    ]


def _by_marks(module: nn.Module, parts: list[torch.Tensor]) -> Sets:
    return [set(row.nonzero().flatten().tolist()) for row in parts[1].flatten(0, 1)]


def _by_shares(module: nn.Module, parts: list[torch.Tensor]) -> Sets:
    return [set((row > 0).nonzero().flatten().tolist()) for row in parts[2]]


def _by_nonzero_inputs(module: nn.Module, parts: list[torch.Tensor]) -> Sets:
    experts: Any = module.num_experts
    rows = parts[0].view(experts, -1, parts[0].shape[-1])
    return [set(row.nonzero().flatten().tolist()) for row in rows.abs().sum(-1).T]


INSIDE: dict[str, Callable[[nn.Module, list[torch.Tensor]], Sets]] = {
    "SwitchTransformersExperts": _by_marks,
    "NllbMoeExperts": _by_shares,
    "Llama4TextExperts": _by_nonzero_inputs,
}


@contextmanager
def watch_experts(model: nn.Module) -> Iterator[dict[str, Sets]]:
    """Write down for each block which experts each of its tokens went to."""
    seen: dict[str, Sets] = {}
    handles = []

    def keep(handle) -> None:
        handles.append(handle)

    for name, module in model.named_modules():
        block = name.rpartition(".")[0]
        kind = type(module).__name__
        if kind == "JetMoeParallelExperts" and name.endswith("input_linear"):
            outer = model.get_submodule(block.removesuffix(".experts"))
            keep(_watch_rows(outer, module, block, seen))
        elif kind == "Embedding" and name.endswith("down_embed"):
            keep(_watch_lookup(module, block, seen))
        elif name.endswith(".experts") and not kind.startswith("JetMoe"):
            read = INSIDE.get(kind, _by_arguments)

            def hook(module, args, kwargs, *, block=block, read=read):
                seen[block] = read(module, _given(args, kwargs))

            keep(module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _watch_lookup(module: nn.Module, block: str, seen: dict[str, Sets]):
    def hook(module, args):
        seen[block] = [set(row.tolist()) for row in args[0]]

    return module.register_forward_pre_hook(hook)


def _watch_rows(outer: nn.Module, module: nn.Module, block: str, seen: dict[str, Sets]):
    """JetMoE sends sorted copies of rows to its experts: find whose copies they are."""
    rows: list[torch.Tensor] = []

    def remember(module, args, kwargs):
        hidden = _given(args, kwargs)[0]
        rows[:] = [hidden.reshape(-1, hidden.shape[-1])]

    def hook(module, args):
        inputs, sizes = args
        sets: Sets = [set() for _ in rows[0]]
        for expert, part in enumerate(inputs.split(list(sizes))):
            for token in (part[:, None] == rows[0]).all(-1).nonzero()[:, 1].tolist():
                sets[token].add(expert)
        seen[block] = sets

    outer.register_forward_pre_hook(remember, with_kwargs=True)
    return module.register_forward_pre_hook(hook)


# --- tests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_recorded_choices_are_those_the_experts_were_given(case: Case, tmp_path) -> None:
    model, inputs = build(case), batch(case)
    path = tmp_path / "live.trace"
    with (
        torch.no_grad(),
        watch_experts(model) as seen,
        record(model, LABELS, trace=path, tokens=True) as recording,
    ):
        recording.label(["poems", "law", "code"])
        model(**inputs)

    coverage = recording.coverage()
    assert coverage.expected == coverage.hooked == coverage.recorded == case.layers
    assert {layer.modules for layer in coverage.layers} == {case.modules}
    assert {layer.choices for layer in coverage.layers} == {case.choices}

    header, chunks = read_trace(path)
    rows = concatenate(list(chunks))
    for number, name in enumerate(header.layers):
        decoder = "decoder." in name
        mask = inputs["decoder_attention_mask" if decoder else "attention_mask"]
        ids = inputs["decoder_input_ids" if decoder else "input_ids"]
        expected = [
            row for row, keep in zip(_block_of(seen, name), mask.flatten(), strict=True) if keep
        ]
        mine = rows[rows.layer == number]
        assert [set(row[row >= 0].tolist()) for row in mine.chosen] == expected, name
        sample, place = mask.nonzero().T
        assert mine.document.tolist() == sample.tolist()
        assert mine.label.tolist() == [(2, 0, 1)[one] for one in sample]
        assert mine.position.tolist() == (mask.cumsum(1) - 1)[sample, place].tolist()
        assert mine.token is not None
        assert mine.token.tolist() == ids[sample, place].tolist()

    for group, folded in zip(recording.groups(), fold_groups(path), strict=True):
        assert group.layers == folded.layers
        whole = folded.counts.pooled().tensors()
        for name, part in group.counts.pooled().tensors().items():
            torch.testing.assert_close(part, whole[name], rtol=1e-6, atol=1e-6)
        group.counts.softness()


def test_routers_whose_experts_compute_something_else_are_refused() -> None:
    """The experts of NLLB take a mask for numbers of experts, in transformers 5.0 to 5.24."""
    model, inputs = build(NLLB), batch(NLLB)
    message = r"Expert \d of model.encoder.* a mask where their numbers belong"
    with pytest.raises(TraceError, match=message), torch.no_grad(), record(model):
        model(**inputs)
    choices = {"router": lambda output: output[1]}
    with torch.no_grad(), record(model, routers=choices) as recording:
        model(**inputs)
    assert recording.coverage().recorded == 2


def _block_of(seen: dict[str, Sets], router: str) -> Sets:
    block = router
    while block and block not in seen:
        block = block.rpartition(".")[0]
    return seen[block]


def test_top_k_of_logits_is_wrong_for_a_biased_router(tmp_path) -> None:
    model = build(Case("deepseek_v3", LATENT))
    inputs = batch(Case("deepseek_v3"))
    logits: list[torch.Tensor] = []
    gate = model.get_submodule("model.layers.0.mlp.gate")
    gate.register_forward_hook(lambda module, args, output: logits.append(output[0]))
    path = tmp_path / "live.trace"
    with torch.no_grad(), record(model, trace=path):
        model(**inputs)
    _, chunks = read_trace(path)
    rows = concatenate(list(chunks))
    chosen = np.sort(rows[rows.layer == 0].chosen, axis=1)
    naive = logits[0].topk(2).indices[inputs["attention_mask"].flatten() > 0].sort(-1).values
    assert (chosen != naive.numpy()).any(axis=1).mean() > 0.2


@pytest.mark.slow
def test_every_router_class_that_transformers_declares_is_known() -> None:
    """The registry of the installed transformers names no class without a reader."""
    import ast  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    models = Path(transformers.__file__).parent / "models"
    declared: set[str] = set()
    for file in models.glob("*/modeling_*.py"):
        text = file.read_text(encoding="utf-8")
        if '"router_logits"' not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "router_logits":
                        declared |= _recorded(value)
    assert len(declared) > 20
    assert declared - set(READERS) == set()


def _recorded(value) -> set[str]:
    import ast  # noqa: PLC0415

    calls = [node for node in ast.walk(value) if isinstance(node, ast.Call)]
    return {
        getattr(call.args[0], "id", "")
        for call in calls
        if call.args and getattr(call.func, "id", "") == "OutputRecorder"
    }
