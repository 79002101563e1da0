"""Adapters that are mixed: each class is recorded as it mixes them, by sample or by token."""

# ruff: noqa: PT012, SIM117 - what must fail is the whole recording
import re
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import mixtral, padded  # type: ignore[import-not-found, unused-ignore]
from torch import nn

from modeval.errors import TraceError
from modeval.record.recording import record

pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, about names that transformers changes
NEEDED = "adapters of peft are compared with: pip install peft"


def plain():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("splits", [1, 2])
def test_polytropon_routes_whole_samples_by_their_task(splits: int) -> None:
    peft = pytest.importorskip("peft", reason=NEEDED)
    config = peft.PolyConfig(
        task_type="CAUSAL_LM",
        r=4,
        n_tasks=3,
        n_skills=4,
        n_splits=splits,
        target_modules=["q_proj", "v_proj"],
    )
    model = peft.get_peft_model(plain(), config).eval()
    for name, part in model.named_parameters():
        if "module_logits" in name:
            part.data.normal_()
    ids, mask = padded([[5, 6, 7], [9], [8, 3]])
    tasks = torch.tensor([2, 0, 2])
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([1, 0, 1])
        model(input_ids=ids, attention_mask=mask, task_ids=tasks)
    assert len(recording.layers) == 4 * splits
    name = "model.layers.0.self_attn.q_proj.poly_router.default"
    assert recording.layers[0] == (name if splits == 1 else f"{name}.0")
    counts = recording.counts()
    assert counts.mass.shape[-1] == 4
    assert counts.samples[0].sum(0).tolist() == [1.0, 2.0]  # samples, not tokens
    router: Any = model.get_submodule(f"base_model.model.{name}")
    shares = router(tasks, ids)[:, splits - 1].double()
    mass = counts.mass[splits - 1].sum(0)
    torch.testing.assert_close(mass[1], shares[[0, 2]].sum(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mass[0], shares[1], rtol=1e-4, atol=1e-4)


def test_labels_of_tokens_do_not_fit_a_router_of_samples() -> None:
    peft = pytest.importorskip("peft", reason=NEEDED)
    config = peft.PolyConfig(
        task_type="CAUSAL_LM", r=4, n_tasks=2, n_skills=4, target_modules=["q_proj"]
    )
    model = peft.get_peft_model(plain(), config).eval()
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(TraceError, match="expected one label for each sample"):
        with torch.no_grad(), record(model, 2) as recording:
            recording.label([[0, 1, 1]])
            model(input_ids=ids, task_ids=torch.tensor([1]))


def xlora(tmp_path, base=plain, **options):
    peft = pytest.importorskip("peft", reason=NEEDED)
    folders = {}
    for number in range(3):
        torch.manual_seed(number)
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        peft.get_peft_model(base(), config).save_pretrained(tmp_path / str(number))
        folders[str(number)] = str(tmp_path / str(number))
    model = base()
    model.config.use_cache = False
    config = peft.XLoraConfig(
        task_type="CAUSAL_LM", hidden_size=32, xlora_depth=1, adapters=folders, **options
    )
    torch.manual_seed(0)
    return peft.get_peft_model(model, config).eval()


@pytest.mark.parametrize(
    "options",
    [
        {"layerwise_scalings": True},
        {"layerwise_scalings": True, "top_k_lora": 2},
        {"layerwise_scalings": True, "top_k_lora": 2, "enable_softmax_topk": True},
        {},
    ],
    ids=str,
)
def test_xlora_is_recorded_as_each_of_its_layers_scales(tmp_path, options) -> None:
    model = xlora(tmp_path, **options)
    ids, mask = padded([[5, 6, 7], [9]])
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([1, 0])
        model(input_ids=ids, attention_mask=mask)
    names = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(2)]
    assert recording.layers == tuple(names)
    counts = recording.counts()
    assert counts.samples[0].sum(0).tolist() == [1.0, 3.0]
    scalings = model.get_latest_scalings().double()
    for number, name in enumerate(names):
        layer: Any = dict(model.named_modules())[f"base_model.lora_model.model.{name}"]
        used = layer.forward.__self__.get_maybe_topk_scalings(scalings)
        used = used / used.sum(-1, keepdim=True)
        expected = used[mask > 0].sum(0)
        found = counts.mass[number].sum((0, 1))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_is_no_share_or_is_counted_twice_is_refused(tmp_path) -> None:
    model = xlora(tmp_path, enable_softmax=False)
    with pytest.raises(TraceError, match="scales its adapters without a softmax"):
        record(model)
    model = xlora(tmp_path, base=mixtral)
    with pytest.raises(TraceError, match="X-LoRA runs its model twice"):
        record(model)


class Around(nn.Module):
    """A model whose only layer is one of mixed adapters."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 8)
        self.layer = layer

    def forward(self, input_ids, attention_mask=None):
        return self.layer(self.embed(input_ids))


def masses(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is recorded of one layer, and the tokens that it is of."""
    torch.manual_seed(0)
    model = Around(layer).eval()
    ids, mask = padded([[5, 6, 7], [9]])
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([1, 0])
        model(ids, mask)
        assert recording.counts().samples[0].sum(0).tolist() == [1.0, 3.0]
        return recording.counts().mass[0].sum((0, 1)), model.embed(ids)[mask > 0]


def test_arrow_chooses_by_likeness() -> None:
    pytest.importorskip("peft", reason=NEEDED)
    from peft.tuners.lora import arrow  # noqa: PLC0415

    adapters = ["a", "b", "c", "d"]
    settings = types.SimpleNamespace(
        top_k=2,
        router_temperature=0.7,
        rng_seed=0,
        task_adapter_names=adapters,
        use_gks=False,
        ts_adapter_names=[],
        gks_adapter_names=[],
    )
    torch.manual_seed(1)
    layer = arrow.ArrowLoraLinearLayer(8, settings)
    layer.task_adapter_names = adapters
    layer.prototypes = torch.randn(4, 8)
    down = nn.ModuleDict({name: nn.Linear(8, 2, bias=False) for name in adapters})
    up = nn.ModuleDict({name: nn.Linear(2, 8, bias=False) for name in adapters})

    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.arrow = layer

        def forward(self, x):
            return self.arrow(x, down, up, nn.Identity(), dict.fromkeys(adapters, 1.0))

    mass, tokens = masses(Calls())
    score = (tokens @ layer.prototypes.T).abs()
    kept = score.masked_fill(score < score.topk(2).values[:, -1:], float("-inf"))
    expected = (kept / 0.7).softmax(-1).sum(0).double()
    torch.testing.assert_close(mass, expected, rtol=1e-4, atol=1e-4)


class BertFusion(nn.Module):
    """Stands in for the class of that name of the package ``adapters``: attention over adapters."""

    def __init__(self, *, projected: bool = True) -> None:
        super().__init__()
        self.config = {"query": projected, "key": projected}
        self.dense_size, self.T = 8, 2.0
        self.dropout = nn.Dropout(0.1)
        if projected:
            self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
        self.shares: list[torch.Tensor] = []

    def forward(self, query, key, value, residual):
        asked = self.query(query) if self.config["query"] else query
        offered = self.key(key) if self.config["key"] else key
        scores = self.dropout(torch.einsum("btd,btnd->btn", asked, offered))
        share = (scores / self.T).softmax(-1)
        self.T = max(self.T - 0.5, 1.0)  # it cools while it is used
        self.shares.append(share)
        return torch.einsum("btn,btnd->btd", share, value) + residual


class Fused(nn.Module):
    """Three adapters, and fusion of them."""

    def __init__(self, *, projected: bool) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.fusion = BertFusion(projected=projected)

    def forward(self, hidden):
        told = torch.stack([adapter(hidden) for adapter in self.adapters], 2)
        return self.fusion(hidden, told, value=told, residual=hidden)


@pytest.mark.parametrize("projected", [True, False])
def test_the_attention_of_adapter_fusion_is_recorded(*, projected: bool) -> None:
    layer = Fused(projected=projected)
    mass, _ = masses(layer)
    _, mask = padded([[5, 6, 7], [9]])
    expected = layer.fusion.shares[0][mask > 0].sum(0).double()
    torch.testing.assert_close(mass, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(TraceError, match="drops scores at random while it trains"):
        with record(Around(layer).train()) as recording:
            recording.model(torch.tensor([[1, 2]]))


class Hydra(nn.Module):
    """One A matrix and several B matrices, mixed by a softmax, as HydraLoRA has them."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_A = nn.Linear(8, 2, bias=False)
        self.lora_B = nn.ModuleList(nn.Linear(2, 8, bias=False) for _ in range(3))
        self.lora_route = nn.Linear(8, 3, bias=False)

    def forward(self, hidden):
        shares = self.lora_route(hidden).softmax(-1)
        parts = torch.stack([up(self.lora_A(hidden)) for up in self.lora_B], -1)
        return hidden + (parts * shares.unsqueeze(-2)).sum(-1)


def test_hydra_lora_is_recorded_as_a_softmax() -> None:
    layer = Hydra()
    mass, tokens = masses(layer)
    expected = layer.lora_route(tokens).softmax(-1).sum(0).double()
    torch.testing.assert_close(mass, expected.detach(), rtol=1e-5, atol=1e-5)


def test_lily_gives_all_tokens_of_a_call_the_mean_of_its_router(monkeypatch) -> None:
    peft = pytest.importorskip("peft", reason=NEEDED)
    if not hasattr(peft, "LilyConfig"):
        pytest.skip("this peft has no Lily")
    config = peft.LilyConfig(r=4, num_B=3, stride_A=1, target_modules=["q_proj"])
    model = peft.get_peft_model(plain(), config).eval()
    used: list[torch.Tensor] = []
    einsum = torch.einsum

    def watched(equation, *operands):
        if equation == "e,eio->io":
            used.append(operands[0].double())
        return einsum(equation, *operands)

    monkeypatch.setattr(torch, "einsum", watched)
    ids, mask = padded([[5, 6, 7], [9]])
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([1, 0])
        model(input_ids=ids, attention_mask=mask)
    assert recording.layers[0] == "model.layers.0.self_attn.q_proj.lily_router.default"
    counts = recording.counts()
    assert len(used) == len(recording.layers) == 2
    for layer, shares in enumerate(used):
        mass = counts.mass[layer].sum(0)
        torch.testing.assert_close(mass, torch.outer(torch.tensor([1.0, 3.0]).double(), shares),
                                   rtol=1e-5, atol=1e-5)  # fmt: skip
    assert any("mean of its router" in note for note in recording.header().notes)


class MixLoraSparseMoe(nn.Module):
    """Stands in for the class of that name of the package ``mixlora``: experts of one MLP."""

    def __init__(self, base: nn.Module, noise: float = 0.0) -> None:
        super().__init__()
        self.base_layer_, self.gate_ = base, torch.randn(4, 8)
        self.num_experts_, self.topk_, self.jitter_noise_ = 4, 2, noise
        self.dtype_ = torch.float32
        self.used: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, hidden_states):
        logits = nn.functional.linear(hidden_states.flatten(0, 1), self.gate_)
        share, chosen = logits.softmax(1).topk(2)
        self.used.append((chosen, share / share.sum(1, keepdim=True)))
        return self.base_layer_.down(hidden_states)


class Feed(nn.Module):
    """A feed-forward layer whose forward MixLoRA replaces, as it does."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.down = nn.Linear(8, 8)
        moe = MixLoraSparseMoe(self, noise)
        self.mixlora_moes = {"default": moe}
        self.forward = moe.forward


def test_mixlora_is_recorded_where_it_replaced_a_layer() -> None:
    layer = Feed()
    mass, _ = masses(layer)
    _, mask = padded([[5, 6, 7], [9]])
    chosen, share = layer.mixlora_moes["default"].used[0]
    table = torch.zeros(len(chosen), 4).scatter(1, chosen, share)
    expected = table[mask.flatten() > 0].sum(0).double()
    torch.testing.assert_close(mass, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(TraceError, match="multiplies its inputs by noise before it chooses"):
        record(Around(Feed(noise=0.1)))


def test_adapters_whose_gates_choose_nothing_are_refused_with_the_reason() -> None:
    peft = pytest.importorskip("peft", reason=NEEDED)
    config = peft.VBLoRAConfig(r=2, num_vectors=8, vector_length=4, target_modules=["q_proj"])
    with pytest.raises(TraceError, match="by parameters, the same for every input"):
        record(peft.get_peft_model(plain(), config))
    config = peft.AdaptionPromptConfig(adapter_len=2, adapter_layers=1, task_type="CAUSAL_LM")
    with pytest.raises(TraceError, match="one gate, a parameter"):
        record(peft.get_peft_model(plain(), config))


TUNERS = {
    **dict.fromkeys(("poly", "xlora", "lily", "arrow.py"), "read"),
    **dict.fromkeys(("vblora", "adaption_prompt", "shadow", "monteclora.py"), "refused"),
    "lora": "Arrow and MonteCLoRA, whose own files stand here, and LoRA on experts of the model",
    "tuners_utils.py": "names of parameters only",
    "supertuning": "chooses parameters before it trains",
}


def test_every_tuner_of_peft_that_speaks_of_routers_is_known() -> None:
    peft = pytest.importorskip("peft", reason=NEEDED)
    speaks = re.compile(r"router|softmax|mixture|gating|gate_|topk|experts", re.IGNORECASE)
    found = set()
    for path in (root := Path(peft.__file__).parent / "tuners").rglob("*.py"):
        if speaks.search(path.read_text(encoding="utf-8")):
            found.add(path.relative_to(root).parts[0])
            found |= {path.name} & TUNERS.keys()
    assert found <= TUNERS.keys()


def test_another_class_of_the_same_name_is_not_read() -> None:
    other = type("BertFusion", (nn.Linear,), {})
    with pytest.raises(TraceError, match="no router that modeval knows"):
        record(Around(other(8, 3)))


def test_a_users_function_may_give_one_row_for_each_sample() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pick = nn.Linear(8, 3)

        def forward(self, hidden):
            return hidden + self.pick(hidden.mean(1)).softmax(-1).sum()

    model = Around(Pooled()).eval()
    ids, mask = padded([[5, 6, 7], [9]])
    read = {"pick": lambda logits: logits.softmax(-1)}
    with torch.no_grad(), record(model, 2, routers=read) as recording:
        recording.label([1, 0])
        model(ids, mask)
    assert recording.counts().samples[0].sum(0).tolist() == [1.0, 1.0]
