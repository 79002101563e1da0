"""What the output of each router class means: the modules that were really used.

Every library returns its routing in another shape, and taking the top-k of whatever looks like
logits is wrong for most current models: biases, groups and capacities decide too. So each router
class has a *reader* that takes from its output the modules that were really used.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from modeval.errors import TraceError

BIASES = ("e_score_correction_bias", "expert_bias", "balancing_bias", "score_bias", "router_bias")
NLLB = (
    "transformers 5 gives the experts of NLLB a mask where their numbers belong, so that experts 0 "
    "and 1 compute all. Record its routers alone if you want to know what they would choose: "
    "routers={'router': lambda output: output[1]}"
)
WIDEST = 1 << 15  # modules that a trace can number
CHOICE_NAMES = ("top_k", "num_experts_per_tok", "num_selected_experts", "moe_topk", "moe_top_k")


@dataclass(frozen=True, slots=True)
class Choice:
    """What one call of a router decided.

    Attributes:
        chosen: ``(..., K)`` numbers of the modules used for each token; -1 where fewer were.
        weight: ``(..., K)`` their weights on any scale (they are divided by their sum later), or
            nothing when they are not known.
        modules: number of modules M, where the output has a value for each of them.
        inferred: whether nothing says what was chosen, so that the K largest logits are taken.
    """

    chosen: Int[Tensor, "*rows choices"]
    weight: Float[Tensor, "*rows choices"] | None = None
    modules: int | None = None
    inferred: bool = False


Reader = Callable[["Router", Any], Choice]
"""Takes the choice out of what the router returned (or of what the experts were given)."""

UserReader = Callable[[Any], Any]
"""A user's function of a router's output: chosen modules, (chosen, weights), or dense weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """One module to listen to.

    Attributes:
        name: qualified name of the module; wrappers (compile, FSDP) are left out of it.
        module: the module whose call tells the choices.
        parent: the module that calls it.
        modules: number of modules M it chooses from, of its configuration, its experts or its
            weights; 0 while only its first output can say it.
        told: whether the user said so.
        choices: number of modules K chosen for each token; unknown until it has run when nothing
            says it.
        read: reader of its output, or of its arguments.
        where: whether ``read`` looks at the module's output or at its arguments.
        found: how it was found.
        capacity: whether choices are those before or after tokens were dropped.
        row: whether one row of its output is a token or a whole sample; either, where a function of
            the user reads it.
        note: what whoever reads its counts must know.
        doubt: why its experts may compute something else than it chose, so that the tokens they
            are given are looked at; empty where there is no such doubt.
        split: a block around it that sends it a part of the tokens only: those whose type in the
            block's argument ``moe_mm_token_type_ids`` is text (False) or an image (True).
    """

    name: str
    module: nn.Module
    parent: nn.Module
    modules: int
    choices: int | None
    read: Reader
    where: Literal["output", "arguments"] = "output"
    found: Literal["class", "registry", "experts", "name", "pattern"] = "class"
    told: bool = False
    capacity: Literal["before", "after"] = "before"
    row: Literal["token", "sample", "either"] = "token"
    note: str = ""
    doubt: str = ""
    split: tuple[nn.Module, bool] | None = None


# --- readers -------------------------------------------------------------------------------------


def selected(router: Router, output: Any) -> Choice:
    """Read ``(logits, weights, chosen, ...)``, what nearly all routers return."""
    if isinstance(output, tuple) and len(output) > 2 and _whole(output[2]):  # noqa: PLR2004
        return Choice(output[2], output[1])
    return any_selected(router, output)


def any_selected(router: Router, output: Any) -> Choice:
    """Read a tuple in any order: the chosen modules are its whole numbers.

    Weights are the real numbers of the same shape, or are gathered from a table of all modules.
    """
    parts = [part for part in _flat(output) if isinstance(part, Tensor) and part.ndim > 0]
    chosen = [
        part
        for part in parts
        if _whole(part) and part.ndim > 1 and part.shape[-1] in _widths(router)
    ]
    if not chosen:
        return _read_logits(router, parts)
    found = chosen[0]
    real = [part for part in parts if part.is_floating_point()]
    same = [part for part in real if part.shape == found.shape]
    tables = [part for part in real if part.shape[:-1] == found.shape[:-1] != part.shape]
    wide = {part.shape[-1] for part in tables if part.shape[-1] >= found.shape[-1]}
    modules = router.modules or (wide.pop() if len(wide) == 1 else None)
    if same:
        return Choice(found, same[0], modules)
    table = [part for part in tables if part.shape[-1] == modules]
    weight = table[-1].gather(-1, found.long()) if len(table) == 1 else None
    return Choice(found, weight, modules)


def probabilities_first(router: Router, output: Any) -> Choice:
    """Read ``(probabilities, weights, chosen)``: weights are scaled by expert, shares are not."""
    probabilities, _, chosen = output[:3]
    del router
    return Choice(chosen, probabilities.gather(-1, chosen))


def best_of_logits(router: Router, output: Any) -> Choice:
    """Read logits of which the K largest are taken after a softmax."""
    logits = next(part for part in _flat(output) if isinstance(part, Tensor))
    return _largest(router, logits.float().softmax(-1).to(logits.dtype))


def best_of_softmax(router: Router, output: Any) -> Choice:
    """Read logits, as older blocks do: softmax in 32 bits, then the K largest."""
    logits = next(part for part in _flat(output) if isinstance(part, Tensor))
    return _largest(router, logits.float().softmax(-1))


def last_logits(router: Router, output: Any) -> Choice:
    """Read tuples that end in the logits and group tokens by expert: the K largest."""
    weight, chosen = output[-1].topk(_choices(router), dim=-1)
    return Choice(chosen, weight.softmax(-1))


def scores_and_logits(router: Router, output: Any) -> Choice:
    """Read ``(scores, logits)`` of Llama 4: the K largest logits, weighted by a sigmoid."""
    weight, chosen = output[1].topk(_choices(router), dim=-1)
    return Choice(chosen, weight.float().sigmoid())


def marks(router: Router, output: Any) -> Choice:
    """Read ones and zeros for each module, all zero for a token dropped for want of capacity.

    They are the whole numbers of the output, which stood second in transformers 5.0.
    """
    mark = next(part for part in _flat(output) if _whole(part))
    del router
    most, chosen = mark.max(-1, keepdim=True)
    return Choice(
        torch.where(most > 0, chosen, -1), torch.ones_like(mark[..., :1], dtype=torch.float32)
    )


def nonzero_of_two(router: Router, output: Any) -> Choice:
    """Read ``(mask of the first, weights, logits)`` of NLLB: up to two modules have a weight.

    This is what the router decided. The experts of transformers 5.24 take the mask for numbers of
    experts, so that only experts 0 and 1 compute anything: a fault of theirs, not of the routing.
    """
    del router
    weight, chosen = output[1].topk(2, dim=-1)
    return Choice(torch.where(weight > 0, chosen, -1), weight)


def skipping(router: Router, output: Any) -> Choice:
    """Read ``(logits, weights, chosen)`` where a weight of zero means that no expert was used."""
    del router
    return Choice(torch.where(output[1] == 0, -1, output[2]), output[1])


def product_keys(router: Router, output: Any) -> Choice:
    """Read the two halves of the keys of a Doge block: an expert is a pair of them."""
    logits = output[1]
    keys = logits.shape[-1]
    (first, second), (row, column) = logits.topk(keys, dim=-1)
    scores = (first.unsqueeze(-1) + second.unsqueeze(-2)).flatten(-2)
    numbers = (row.unsqueeze(-1) * keys + column.unsqueeze(-2)).flatten(-2)
    weight, place = scores.topk(_choices(router), dim=-1)
    return Choice(numbers.gather(-1, place), weight.softmax(-1))


def dense(weight: Float[Tensor, "*rows modules"]) -> Choice:
    """Read weights of all modules, largest first; a module whose weight is zero was not chosen."""
    share, chosen = weight.sort(-1, descending=True)
    return Choice(torch.where(share > 0, chosen, -1), share, weight.shape[-1])


def by_user(function: UserReader) -> Reader:
    """Return the reader that a user's function of the output stands for.

    Raises:
        TraceError: later, when the function returns something else than it should.
    """

    def read(router: Router, output: Any) -> Choice:
        answer = function(output)
        if isinstance(answer, Choice):
            return answer
        if isinstance(answer, Tensor):
            return Choice(answer) if _whole(answer) else dense(answer)
        if isinstance(answer, tuple) and len(answer) == 2 and _whole(answer[0]):  # noqa: PLR2004
            return Choice(*answer)
        raise TraceError(
            f"The function for router {router.name} returned {_describe(answer)}: expected a "
            "tensor of the chosen modules (whole numbers), a pair (chosen, weights), or a tensor "
            "of the weights of all modules."
        )

    return read


def settled(router: Router, choice: Choice, *, first: bool) -> Router:
    """Return a router with the number of modules that its output shows.

    Raises:
        TraceError: nothing says how many there are, or the output has another number than was said.
    """
    shown = choice.modules
    if not router.modules and shown is None:
        raise TraceError(
            f"Router {router.name} ({type(router.module).__name__}) does not say how many modules "
            "it chooses from. Say it: modeval.record(model, routers=..., modules=8)."
        )
    if shown is None or shown == router.modules:
        return router
    if router.told or not first:
        raise TraceError(
            f"Router {router.name} gives values of {shown} modules, and there were said to be "
            f"{router.modules}. Correct modules=, or the function that reads its output."
        )
    return replace(router, modules=shown)


@dataclass(frozen=True, slots=True)
class RouterReader:
    """How a router class is read.

    Attributes:
        read: its reader; nothing for a class that calls the real router inside, of class
            ``inside``.
        inside: class of the router within.
        modules: attribute (dotted) that holds M.
        choices: K when no attribute tells it.
        capacity: whether choices are those before or after tokens were dropped.
        note: what whoever reads its counts must know.
        doubt: why its experts may compute something else than it chose.
    """

    read: Reader | None = selected
    inside: str = ""
    modules: str = "num_experts"
    choices: int | None = None
    capacity: Literal["before", "after"] = "before"
    doubt: str = ""


# Those that return (logits, weights, chosen): 66 of the 78 of transformers 5.24.
_TRIPLES = """
AfmoeTokenChoiceRouter AriaTextTopKRouter AXK1TopkRouter AXK2TopkRouter BailingHybridTopkRouter
BeamTopKRouter Cohere2MoeTopKRouter DeepseekOcr2TextTopkRouter DeepseekV2TopkRouter
DeepseekV3TopkRouter DeepseekV32TopkRouter DeepseekV4TopKRouter Dots1TopkRouter
Dots3NoteTextTopkRouter Ernie4_5_MoeTopKRouter ExaoneMoeTopkRouter FlexOlmoTopKRouter
FlintTopKRouter Glm4MoeTopkRouter Glm4MoeLiteTopkRouter Glm4vMoeTextTopkRouter
Glm5NextTextTopkRouter GlmMoeDsaTopkRouter GptOssTopKRouter GraniteMoeTopKRouter
GraniteMoeSWATopKRouter GraniteMoeHybridTopKRouter GraniteMoeSharedTopKRouter HunYuanMoEV1Gate
HYV3TopKRouter HYV4TopkRouter HYV4VLTopkRouter InklingTopkRouter Inkling2TopKRouter
Inkling2LoopTopKRouter JambaTopKRouter KimiLinearTopkRouter Kolibri1TopKRouter LagunaTopKRouter
LaraMiniTopKRouter Lfm2MoeTopKRouter MellumTopKRouter
MiMoV2FlashTopkRouter MiniMaxTopKRouter MiniMaxM2TopKRouter MiniMaxM3VLTopKRouter
Mistral4TopkRouter MistralLarge4TextTopkRouter MixtralTopKRouter MuseSparkTopkRouter
NemotronHTopkRouter OlmoeTopKRouter OpenAIPrivacyFilterTopKRouter PhimoeTopKRouter
Qwen2MoeTopKRouter Qwen3_5MoeTopKRouter Qwen3MoeTopKRouter Qwen3NextTopKRouter
Qwen3OmniMoeTextTopKRouter Qwen3OmniMoeThinkerTextTopKRouter Qwen3OmniMoeTalkerTextTopKRouter
Qwen3VLMoeTextTopKRouter Qwen4ExpTextTopKRouter SolarOpenTopkRouter Step3p7TopKRouter
UnlimitedOcrTextTopkRouter
"""

# Routers of transformers 5.24 that its registry does not list, and older ones that differ.
_OTHERS = "DeepseekV4HashRouter Dots3NoteVisionTopKRouter Ernie4_5_VLMoeMoeTopKRouter MoEGate"

READERS: dict[str, RouterReader] = {
    **{name: RouterReader() for name in (_TRIPLES + _OTHERS).split()},
    "DbrxRouter": RouterReader(best_of_logits, modules="layer.out_features"),
    "DiffusionGemmaTextRouter": RouterReader(probabilities_first, modules="proj.out_features"),
    "DogeCDMoE": RouterReader(product_keys),
    "Ernie4_5_VLMoeMoeBlock": RouterReader(None, inside="Ernie4_5_VLMoeMoeTopKRouter"),
    "Gemma4TextRouter": RouterReader(probabilities_first, modules="proj.out_features"),
    "JetMoeAttention": RouterReader(None, inside="JetMoeTopKGating"),
    "JetMoeTopKGating": RouterReader(last_logits),
    "Llama4Router": RouterReader(scores_and_logits),
    "LongcatFlashTopkRouter": RouterReader(modules="n_routed_experts"),
    "NllbMoeTop2Router": RouterReader(nonzero_of_two, choices=2, capacity="after", doubt=NLLB),
    "SwitchTransformersTop1Router": RouterReader(marks, choices=1, capacity="after"),
    "ZayaRouter": RouterReader(skipping),
    "GraniteMoeTopKGating": RouterReader(last_logits),
    "GraniteMoeSharedTopKGating": RouterReader(last_logits),
    "GraniteMoeHybridTopKGating": RouterReader(last_logits),
}
"""Router classes by name, so that nothing of another library is imported to find them."""


def _read_logits(router: Router, parts: list[Tensor]) -> Choice:
    real = [part for part in parts if part.is_floating_point()]
    tables = [part for part in real if part.shape[-1] == (router.modules or part.shape[-1])]
    bias = _biased(router.module, router.parent, modules_of=router.modules)
    if not tables or bias or router.choices is None:
        because = f"{bias} takes part in the choice" if bias else "it holds no chosen modules"
        raise TraceError(
            f"The output of router {router.name} ({type(router.module).__name__}) cannot be read: "
            f"{_describe(parts)}, and {because}. Say what it means: modeval.record(model, "
            f"routers={{{router.name!r}: lambda output: output[2]}})."
        )
    choice = best_of_softmax(router, tables[-1])
    return replace(choice, modules=tables[-1].shape[-1], inferred=True)


def _largest(router: Router, table: Tensor) -> Choice:
    number, modules = _choices(router), table.shape[-1]
    if number > modules:
        raise TraceError(
            f"Router {router.name} chooses {number} of {modules} modules, as it seems: the number "
            "of choices was found in the wrong place. Say what is chosen: modeval.record(model, "
            f"routers={{{router.name!r}: function}})."
        )
    weight, chosen = table.topk(number, dim=-1)
    return Choice(chosen, weight)


def _choices(router: Router) -> int:
    if router.choices is None:
        raise TraceError(
            f"Router {router.name} does not say how many modules it chooses (looked for "
            f"{', '.join(CHOICE_NAMES)}). Say it: modeval.record(model, routers={{{router.name!r}: "
            "function}) with a function that returns the chosen modules."
        )
    return router.choices


def _widths(router: Router) -> Iterable[int]:
    widest = router.modules or WIDEST
    return range(1, widest + 1) if router.choices is None else (router.choices,)


def _whole(part: Any) -> bool:
    return (
        isinstance(part, Tensor)
        and not part.is_floating_point()
        and not part.is_complex()
        and part.dtype is not torch.bool
    )


def _flat(output: Any) -> Iterator[Any]:
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        for part in output:
            yield from _flat(part)
    else:
        yield output


def _describe(answer: Any) -> str:
    if isinstance(answer, (tuple, list)):
        return "(" + ", ".join(map(_describe, answer)) + ")"
    if isinstance(answer, Tensor):
        return f"{str(answer.dtype).removeprefix('torch.')} {list(answer.shape)}"
    return type(answer).__name__


def _biased(*modules: nn.Module, modules_of: int) -> str:
    """Return the name of what biases or groups the choice, so that logits alone do not tell it.

    A bias of the choice is a tensor of one number for each module, other than the bias of the
    logits themselves; a group is whatever is called one.
    """
    for module in modules:
        tensors = [*module.named_parameters(), *module.named_buffers()]
        for name, tensor in tensors:
            last = name.rpartition(".")[2]
            each = "bias" in last and last != "bias" and tensor.numel() == modules_of
            if last in BIASES or each:
                return name
        for name, value in vars(module).items():
            if "group" in name and isinstance(value, int) and value > 1:
                return f"a limit to {value} groups ({name})"
    return ""
