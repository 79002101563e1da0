"""Find the routers of a model.

Looked for in this order:

1. what the user names (``routers="layers.*.gate"``, with a function that reads its output);
2. the class names of :data:`READERS`: all router classes of transformers 5.24, and older ones;
3. the classes that a Hugging Face model declares in its registry of recordable outputs;
4. adapters that are mixed (see ``modeval.record.routers.adapters``);
5. beside a child named ``experts``: the arguments with which the experts are called, or a child
   named like a router. Logits are read as top-k only when nothing biases the choice.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from modeval.errors import TraceError
from modeval.record.routers.adapters import find_adapters, no_choice
from modeval.record.routers.readers import (
    CHOICE_NAMES,
    READERS,
    Choice,
    Router,
    RouterReader,
    UserReader,
    any_selected,
    by_user,
    selected,
)

HOLDERS = (
    "DataParallel",
    "DeepSpeedEngine",
    "DistributedDataParallel",
    "FullyShardedDataParallel",
)
ADAPTED = ("base_model.lora_model.model.", "base_model.model.")  # where PEFT keeps the model
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
ROUTER_NAMES = ("gate", "router", "wg", "gating", "moe_gate", "gate_network")
INDEX_NAMES = ("index", "indices", "selected_experts", "topk_ids", "expert_ids")

Patterns = str | Sequence[str] | Mapping[str, UserReader]


@dataclass(frozen=True, slots=True)
class FoundRouters:
    """Routers of a model, in the order of its modules, and what has none.

    Attributes:
        routers: what to listen to.
        missing: names of modules that hold experts, for which no router was found.
    """

    routers: tuple[Router, ...]
    missing: tuple[str, ...]


# --- finding -------------------------------------------------------------------------------------


def find_routers(
    model: nn.Module, patterns: Patterns | None = None, *, modules: int | None = None
) -> FoundRouters:
    """Return the routers of a model, and the modules with experts for which none was found.

    Args:
        model: any module.
        patterns: names of routers with ``*`` and ``?``, of the whole name or of its end; a mapping
            gives for each a function of the router's output. Nothing else is looked for then.
        modules: number of modules of the named routers, when nothing in them says it.

    Raises:
        TraceError: nothing was found, a pattern matches nothing, or a router does not say how many
            modules it has.

    >>> block = nn.ModuleDict({"gate": nn.Linear(8, 4), "expert": nn.Linear(8, 8)})
    >>> found = find_routers(block, {"gate": lambda logits: logits.argmax(-1, keepdim=True)})
    >>> [(router.name, router.modules) for router in found.routers]
    [('gate', 4)]
    """
    named = dict(named_modules(model))
    if patterns is not None:
        return FoundRouters(tuple(_by_pattern(named, patterns, modules)), ())
    routers = _by_class(named)
    routers += _by_registry(named, routers)
    routers += _beside_experts(named, routers)
    adapters = find_adapters(named)
    if routers and any(type(router.module).__name__ == "XLoraClassifier" for router in adapters):
        raise TraceError(
            "X-LoRA runs its model twice for each token, so that its experts are counted twice. "
            "Name what you want to record with routers=: its classifier, or the model's routers."
        )
    routers += adapters
    order = {id(module): index for index, module in enumerate(named.values())}
    routers.sort(key=lambda router: order[id(router.module)])
    if not routers:
        raise TraceError(
            f"{type(model).__name__} has no router that modeval knows. {no_choice(named)}"
            "Name them: modeval.record(model, routers={'layers.*.gate': lambda output: "
            "output[2]}), with a function that takes the chosen modules from a router's output. "
            f"{_likely(named)}"
        )
    return FoundRouters(tuple(routers), _without_router(named, routers))


def clean_name(name: str) -> str:
    """Return a module's name without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Iterate over the modules of a model by names that are the same however it is wrapped."""
    inner = model
    while type(inner).__name__ in HOLDERS:
        inner = inner.get_submodule("module")
    adapted = is_a(inner, "PeftModel")
    for name, module in inner.named_modules():
        clean = clean_name(name)
        prefix = next((part for part in ADAPTED if f"{clean}.".startswith(part)), "")
        if not adapted or not prefix:
            yield clean, module
        elif clean != prefix.rstrip("."):
            yield clean.removeprefix(prefix), module


def is_a(module: nn.Module, kind: str) -> bool:
    """Return whether a module is of a class of that name, or of one that derives from it."""
    return any(parent.__name__ == kind for parent in type(module).__mro__)


def core_of(module: nn.Module) -> nn.Module:
    """Return the module that adapters (of PEFT) are put around."""
    while True:
        inner = module._modules.get("base_layer", module._modules.get("original_module"))  # noqa: SLF001 - no other module is asked
        if inner is None:
            return module
        module = inner


def _parent(named: Mapping[str, nn.Module], name: str) -> nn.Module:
    return named[name.rpartition(".")[0]]


def _by_class(named: Mapping[str, nn.Module]) -> list[Router]:
    routers: list[Router] = []
    for name, module in named.items():
        reader = _entry(module)
        if reader is None or reader.read is None or _within(name, routers):
            continue
        parent, core = _parent(named, name), core_of(module)
        choices = reader.choices or _find_choices(core, parent)
        routers.append(
            Router(
                name=name,
                module=module,
                parent=parent,
                modules=_find_modules(core, parent, reader.modules) or _rows(core),
                choices=choices,
                read=reader.read,
                capacity=reader.capacity,
                doubt=reader.doubt,
                split=_split(named, name),
            )
        )
    return routers


def _split(named: Mapping[str, nn.Module], name: str) -> tuple[nn.Module, bool] | None:
    block, _, branch = name.rpartition(".")[0].rpartition(".")
    if branch in ("text_moe", "vision_moe") and "MoeBlock" in type(named[block]).__name__:
        return named[block], branch == "vision_moe"
    return None


def _entry(module: nn.Module) -> RouterReader | None:
    """Return the entry of a class or of one it derives from (quantised and patched classes)."""
    for kind in type(core_of(module)).__mro__:
        if kind.__name__ in READERS:
            return READERS[kind.__name__]
    return None


def _within(name: str, routers: Iterable[Router]) -> bool:
    return any(name == router.name or name.startswith(router.name + ".") for router in routers)


def _by_registry(named: Mapping[str, nn.Module], known: Sequence[Router]) -> list[Router]:
    """Find modules of the classes that Hugging Face models declare as recordable routers."""
    kinds = tuple(set(_declared(named.values())))
    if not kinds:
        return []
    return [
        _generic(named, name, module, "registry")
        for name, module in named.items()
        if isinstance(core_of(module), kinds) and not _entry(module) and not _within(name, known)
    ]


def _declared(modules: Iterable[nn.Module]) -> Iterator[type]:
    try:
        from transformers.utils.output_capturing import (  # noqa: PLC0415 - an extra
            _CAN_RECORD_REGISTRY,
        )
    except ImportError:
        return
    registry: Any = _CAN_RECORD_REGISTRY
    for module in modules:
        if not hasattr(module, "_can_record_outputs"):
            continue
        declared = (registry.get(module) or {}).get("router_logits", ())
        for recorder in declared if isinstance(declared, list) else (declared,):
            kind = getattr(recorder, "target_class", recorder)
            if isinstance(kind, type):
                yield kind


def _beside_experts(named: Mapping[str, nn.Module], known: Sequence[Router]) -> list[Router]:
    routers: list[Router] = []
    for block in _without_router(named, known):
        prefix = f"{block}." if block else ""
        experts = named[f"{prefix}experts"]
        if _index_argument(core_of(experts)):
            router = _generic(named, f"{prefix}experts", experts, "experts")
            routers.append(replace(router, read=_arguments, where="arguments"))
            continue
        names = [f"{prefix}{child}" for child, _ in named[block].named_children()]
        gates = [name for name in names if _named_as_router(name)]
        if len(gates) == 1:
            routers.append(_generic(named, gates[0], named[gates[0]], "name"))
    return routers


def _named_as_router(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last in ROUTER_NAMES or "router" in last


def _without_router(named: Mapping[str, nn.Module], routers: Sequence[Router]) -> tuple[str, ...]:
    """Return the names of modules with a child ``experts`` of more than one, and no router."""
    missing = []
    for name, module in named.items():
        block, _, last = name.rpartition(".")
        if last != "experts" or not _holds_many(core_of(module)):
            continue
        prefix = f"{block}." if block else ""
        if not any(router.name.startswith(prefix) for router in routers):
            missing.append(block)
    return tuple(missing)


def _holds_many(experts: nn.Module) -> bool:
    banks = [part for part in experts.parameters(recurse=False) if part.ndim > 2]  # noqa: PLR2004
    return bool(banks) or len(list(experts.children())) > 1


def _index_argument(experts: nn.Module) -> bool:
    if isinstance(experts, (nn.ModuleList, nn.ModuleDict)) and _undefined_forward(experts):
        return False
    names = inspect.signature(experts.forward).parameters
    return any(name.endswith(INDEX_NAMES) for name in names)


def _undefined_forward(module: nn.Module) -> bool:
    return getattr(type(module).forward, "__name__", "") == "_forward_unimplemented"


def _arguments(router: Router, given: Any) -> Choice:
    """Read the arguments of the experts: those that were really used."""
    arguments, by_name = given
    return any_selected(router, (*arguments, *by_name.values()))


def _generic(
    named: Mapping[str, nn.Module],
    name: str,
    module: nn.Module,
    found: Literal["registry", "experts", "name", "pattern"],
    modules: int | None = None,
) -> Router:
    parent = _parent(named, name) if name else module
    return Router(
        name=name,
        module=module,
        parent=parent,
        modules=modules or _find_modules(core_of(module), parent, "num_experts"),
        told=bool(modules),
        choices=_find_choices(core_of(module), parent),
        read=selected,
        found=found,
    )


def _by_pattern(
    named: Mapping[str, nn.Module], patterns: Patterns, modules: int | None
) -> Iterator[Router]:
    given = [patterns] if isinstance(patterns, str) else patterns
    seen: set[str] = set()
    for pattern in given:
        names = [name for name in named if name and _matches(name, pattern)]
        if not names:
            raise TraceError(
                f"No module is named {pattern!r}: expected a name, or a pattern of names such as "
                f"'layers.*.gate'. {_likely(named)}"
            )
        for name in names:
            if name in seen:
                continue
            seen.add(name)
            reader = _entry(named[name])
            router = _generic(named, name, named[name], "pattern", modules)
            if isinstance(patterns, Mapping):
                yield replace(router, read=by_user(patterns[pattern]), row="either")
            elif reader is not None and reader.read is not None:
                yield _refuse_unknown(
                    replace(
                        router,
                        read=reader.read,
                        choices=reader.choices or router.choices,
                        modules=router.modules or _rows(core_of(named[name])),
                    )
                )
            else:
                yield _refuse_unknown(router)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _likely(named: Mapping[str, nn.Module]) -> str:
    likely = [name for name in named if _named_as_router(name)] or [name for name in named if name]
    return f"Modules of this model: {', '.join(likely[:8])}{', ...' if likely[8:] else ''}."


def _find_modules(module: nn.Module, parent: nn.Module, attribute: str) -> int:
    """Return M: an attribute, the experts' own number, or the outputs of a linear router; or 0."""
    value: Any = module
    for part in attribute.split("."):
        value = getattr(value, part, None)
    if isinstance(value, int):
        return value
    for holder in (parent, module):
        number = getattr(holder, "num_experts", getattr(holder, "num_local_experts", None))
        if isinstance(number, int):
            return number
    experts = getattr(parent, "experts", None)
    number = _count(core_of(experts)) if isinstance(experts, nn.Module) else 0
    return number or getattr(module, "out_features", 0)


def _count(experts: nn.Module) -> int:
    """Return how many experts a module holds: as its children, or as slices of its tensors."""
    if isinstance(experts, (nn.ModuleList, nn.ModuleDict)):
        return len(experts)
    banks = {part.shape[0] for part in experts.parameters(recurse=False) if part.ndim > 2}  # noqa: PLR2004
    return banks.pop() if len(banks) == 1 else 0


def _rows(module: nn.Module) -> int:
    """Return M of a router class that is known to keep its weights as ``(M, width)``."""
    matrices = [weight for weight in module.parameters() if weight.ndim == 2]  # noqa: PLR2004
    return int(matrices[0].shape[0]) if len(matrices) == 1 else 0


def _refuse_unknown(router: Router) -> Router:
    """Refuse a router of which nothing, not even its first output, will say how many it has."""
    if router.modules or any(True for _ in router.module.parameters()):
        return router
    raise TraceError(
        f"Router {router.name} ({type(router.module).__name__}) does not say how many modules it "
        "chooses from. Say it: modeval.record(model, routers=..., modules=8)."
    )


def _find_choices(module: nn.Module, parent: nn.Module) -> int | None:
    for holder in (
        module,
        parent,
        getattr(module, "config", None),
        getattr(parent, "config", None),
    ):
        own = isinstance(holder, nn.Module)
        for name in (*CHOICE_NAMES, "top_k_experts"):
            if name == "top_k" and not own:
                continue  # a configuration means by it how tokens are sampled
            number = getattr(holder, name, None)
            if isinstance(number, int) and not isinstance(number, bool):
                return number
    return None
