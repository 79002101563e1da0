"""Modular models that are no mixture of experts: adapters that are mixed by sample or by token.

Each class is read as it mixes: all modules that have a share are chosen, with their shares.

=====================  ==================================  =========================================
class (library)        one row is                          its modules
=====================  ==================================  =========================================
PolyRouter (peft)      a sample; one layer for each split  skills, by the task of the sample
XLoraClassifier (peft) a token; one layer for each LoRA    adapters, weighted by a classifier
                       layer of the model
ArrowLoraLinearLayer   a token                             adapters, by likeness to their prototypes
  (peft)
BertFusion (adapters)  a token                             adapters, by attention of AdapterFusion
lora_route (HydraLoRA) a token                             the B matrices of one LoRA layer
lily_router (peft)     a token, with the mean share of     the B matrices that layers share
                       all tokens of its call
MixLoraSparseMoe       a token                             the LoRA experts of a feed-forward layer
  (mixlora)
=====================  ==================================  =========================================
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from modeval.errors import TraceError
from modeval.record.routers.readers import Choice, Router, dense

Finder = Callable[[str, nn.Module, Mapping[str, nn.Module]], Iterator[Router]]


def find_adapters(named: Mapping[str, nn.Module]) -> list[Router]:
    """Return the routers of adapters that are mixed.

    Raises:
        TraceError: adapters are mixed by what is no share of anything.
    """
    return [
        router
        for name, module in named.items()
        if (finder := _finder(name, module)) is not None
        for router in finder(name, module, named)
    ]


def _finder(name: str, module: nn.Module) -> Finder | None:
    found = FINDERS.get(type(module).__name__)
    if found is not None and all(hasattr(module, part) for part in found[1]):
        return found[0]
    for part, finder in BY_PART.items():
        if hasattr(module, part):
            return finder
    last = name.rpartition(".")[2]
    return _hydra if last == "lora_route" and isinstance(module, nn.Linear) else None


def _poly(name: str, module: Any, named: Mapping[str, nn.Module]) -> Iterator[Router]:
    del named
    for split in range(module.n_splits):
        yield Router(
            name=name if module.n_splits == 1 else f"{name}.{split}",
            module=module,
            parent=module,
            modules=module.n_skills,
            choices=module.n_skills,
            read=partial(_split_of, split),
            row="sample",
        )


def _split_of(split: int, router: Router, output: Tensor) -> Choice:
    """Read shares of skills ``(B, splits, skills)``, one row for each sample."""
    del router
    return dense(output[:, split])


def _xlora(name: str, module: Any, named: Mapping[str, nn.Module]) -> Iterator[Router]:
    layers = [each for each, part in named.items() if hasattr(part, "lora_A")]
    if len(layers) != module.n_layers:
        layers = [f"{name}.{layer}" for layer in range(module.n_layers)]
    if not (module.config.enable_softmax or module.config.enable_softmax_topk):
        raise TraceError(
            f"{name} (X-LoRA) scales its adapters without a softmax: its scalings have signs and "
            "no sum, so that they are no shares. Say what you take for the choice: "
            f"modeval.record(model, routers={{{name!r}: function}})."
        )
    for layer, called in enumerate(layers):
        yield Router(
            name=called,
            module=module,
            parent=module,
            modules=module.n_classes,
            choices=module.config.top_k_lora or module.n_classes,
            read=partial(_scalings_of, layer),
        )


def _scalings_of(layer: int, router: Router, output: Tensor) -> Choice:
    """Read scalings ``(B, T, layers, adapters)`` as one layer uses them: perhaps the K largest."""
    config: Any = getattr(router.module, "config", None)
    scalings = output[:, :, layer].float()
    if config.top_k_lora is not None:
        kept = torch.zeros_like(scalings).scatter(-1, scalings.topk(config.top_k_lora).indices, 1.0)
        scalings = scalings * kept
    if config.enable_softmax_topk:
        used = scalings != 0
        shares = scalings.masked_fill(~used, float("-inf")).softmax(-1)
        scalings = shares.masked_fill(~used, 0.0)
    return dense(scalings)


def _arrow(name: str, module: Any, named: Mapping[str, nn.Module]) -> Iterator[Router]:
    del named
    yield Router(
        name=name,
        module=module,
        parent=module,
        modules=len(module.task_adapter_names),
        choices=module.top_k,
        read=_likeness,
        where="arguments",
    )


def _likeness(router: Router, given: Any) -> Choice:
    """Read the inputs of an Arrow layer: the K likest prototypes of a token, by either sign."""
    arguments, by_name = given
    module: Any = router.module
    inputs = arguments[0] if arguments else by_name["x"]
    tokens = inputs.reshape(-1, inputs.shape[-1]).to(module.prototypes.dtype)
    likeness, chosen = (tokens @ module.prototypes.T).abs().topk(module.top_k, dim=1)
    return Choice(chosen, (likeness / module.temperature).softmax(-1), len(module.prototypes))


def _fusion(name: str, module: nn.Module, named: Mapping[str, nn.Module]) -> Iterator[Router]:
    del named
    yield Router(
        name=name,
        module=module,
        parent=module,
        modules=0,
        choices=None,
        read=_attention,
        where="arguments",
    )


def _attention(router: Router, given: Any) -> Choice:
    """Read ``query (B, T, d)`` and ``key (B, T, adapters, d)``: the attention that fusion pays."""
    arguments, by_name = given
    module: Any = router.module
    if module.training and module.dropout.p > 0:
        raise TraceError(
            f"{router.name} (AdapterFusion) drops scores at random while it trains, so that its "
            "attention cannot be worked out beside it. Record it in evaluation: model.eval()."
        )
    parts = dict(zip(("query", "key"), arguments, strict=False)) | dict(by_name)
    query, key = parts["query"], parts["key"]
    query = module.query(query) if module.config["query"] else query
    key = module.key(key) if module.config["key"] else key
    scores = (query.unsqueeze(2) @ key.transpose(-2, -1)).squeeze(2)
    return dense((scores / module.T).softmax(-1))


def _hydra(name: str, module: nn.Module, named: Mapping[str, nn.Module]) -> Iterator[Router]:
    del named
    wide = int(getattr(module, "out_features", 0))
    yield Router(name=name, module=module, parent=module, modules=wide, choices=wide, read=_soft)


def _soft(router: Router, output: Tensor) -> Choice:
    """Read the logits of HydraLoRA, all of whose B matrices are mixed by a softmax."""
    del router
    return dense(output.float().softmax(-1))


def _lily(name: str, module: Any, named: Mapping[str, nn.Module]) -> Iterator[Router]:
    del named
    for adapter in sorted({*module.active_adapters} & {*module.lily_router}):
        router = module.lily_router[adapter]
        wide = int(router.out_features)
        if wide > 1:
            yield Router(
                name=f"{name}.lily_router.{adapter}",
                module=router,
                parent=module,
                modules=wide,
                choices=wide,
                read=_mean_share,
                note=LILY,
            )


def _mean_share(router: Router, output: Tensor) -> Choice:
    """Read the logits of Lily ``(B, T, matrices)``: all tokens of a call get the mean share."""
    del router
    shares = output.float().softmax(-1)
    return dense(shares.flatten(0, -2).mean(0).expand(shares.shape))


def _mixlora(name: str, module: Any, named: Mapping[str, nn.Module]) -> Iterator[Router]:
    """Find a layer of experts: itself, or the feed-forward layer whose forward it replaced."""
    del named
    moe = _experts_of(module)
    if moe is None:
        return
    if moe.jitter_noise_ > 0:
        raise TraceError(
            f"{name} (MixLoRA) multiplies its inputs by noise before it chooses (jitter_noise_ = "
            f"{moe.jitter_noise_:g}), so that its choice cannot be worked out beside it. Set "
            "jitter_noise_ to 0 while it is recorded."
        )
    yield Router(
        name=name,
        module=module,
        parent=module,
        modules=moe.num_experts_,
        choices=moe.topk_,
        read=_largest,
        where="arguments",
    )


def _experts_of(module: Any) -> Any:
    """Return the MixLoRA layer that a module runs; None where adapters lie there, switched off."""
    runs = getattr(module.forward, "__self__", None)
    if runs is None:  # some library put itself around
        (runs,) = getattr(module, "mixlora_moes", {"": module}).values()
    return runs if hasattr(runs, "gate_") else None


def _largest(router: Router, given: Any) -> Choice:
    """Read the inputs ``(B, T, d)`` of a MixLoRA layer: the K largest shares of its gate."""
    arguments, by_name = given
    moe = _experts_of(router.module)
    inputs = arguments[0] if arguments else by_name["hidden_states"]
    tokens = inputs.reshape(-1, inputs.shape[-1]).to(moe.dtype_)
    share, chosen = (tokens @ moe.gate_.T).softmax(-1, dtype=moe.dtype_).topk(moe.topk_, dim=-1)
    return Choice(chosen, share, moe.num_experts_)


LILY = (
    "Lily mixes by the mean of its router over all tokens of a call, padding too: each token is "
    "recorded with that mean. To tell labels apart, give the model one sample a call."
)
NO_CHOICE = {
    "vblora_logits_A": "VB-LoRA chooses vectors by parameters, the same for every input",
    "lora_monteclora_sampler": "MonteCLoRA draws its mixture at random, whatever the input",
    "adaption_gate": "adaption prompts have one gate, a parameter",
    "shadow_update_gate": "ShadowPEFT gates how much of a state is kept, and chooses no module",
}
"""Adapters with gates that are no routing: an attribute that tells them, and why."""


def no_choice(named: Mapping[str, nn.Module]) -> str:
    """Say why adapters of this model have nothing to record; empty where there are none such."""
    return next(
        (
            f"{why}: there is no routing in it. "
            for part, why in NO_CHOICE.items()
            if any(hasattr(module, part) for module in named.values())
        ),
        "",
    )


BY_PART: dict[str, Finder] = {"lily_router": _lily, "mixlora_moes": _mixlora}
"""An attribute that tells a class whose name is that of many."""
FINDERS: dict[str, tuple[Finder, tuple[str, ...]]] = {
    "PolyRouter": (_poly, ("n_splits", "n_skills")),
    "XLoraClassifier": (_xlora, ("n_layers", "n_classes", "config")),
    "ArrowLoraLinearLayer": (_arrow, ("task_adapter_names", "top_k", "temperature")),
    "MixLoraSparseMoe": (_mixlora, ("gate_", "topk_", "num_experts_", "jitter_noise_")),
    "BertFusion": (_fusion, ("config", "dense_size", "T", "dropout")),
}
"""Classes by name, with the attributes that tell them from others of that name."""
