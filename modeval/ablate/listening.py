"""Hearing what each module gives to each token that chose it, while a model runs.

==========  ==============================================================================
``experts`` called with each choice as a row of its own: the same arithmetic in another order
``table``   all modules run for all tokens; what comes out counts where a weight is not zero (its
            input was weighted, so the norm is that of what the module adds)
``sorted``  rows come out sorted by module, before they are weighted
``marks``   each token has one module, so that what comes out is that module's
==========  ==============================================================================
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from modeval.ablate.seams import Seam, passed, passing_on
from modeval.record.corpus import TokenBatch

TINY = 1e-30
"""Weight below which it is none."""


@dataclass(slots=True)
class Heard:
    """Sums of one layer: ``(R + 1, M + 1)``, the last row and column for what does not count.

    Attributes:
        seam: the layer.
        routed: tokens that chose a module.
        weight: weight that they gave it, those of a token adding up to one.
        output: sum over tokens of weight times the norm of a module's output.
        peak: largest number in a module's output, by size.
        label: ``(N,)`` label of each row of the batch that runs; R for padding.
        pending: what the experts of a call were given, until they return.
        columns: choices of a row that experts can be called with, once that is known.
        whole: whether all calls were of all rows.
    """

    seam: Seam
    routed: Tensor
    weight: Tensor
    output: Tensor
    peak: Tensor
    label: Tensor | None = None
    pending: list[Any] = field(default_factory=list)
    whole: bool = True
    columns: int = 0

    @property
    def told(self) -> bool:
        """Whether all that tokens chose was seen, and was a module."""
        return self.whole and not bool(self.routed[:-1, -1].any())


def settle(heard: Sequence[Heard], batch: TokenBatch, rules: int) -> None:
    """Tell the labels of the batch that comes next; padding has none."""
    label = torch.where(batch.attention_mask > 0, batch.label.unsqueeze(1), rules).flatten()
    for one in heard:
        one.label = label


@contextlib.contextmanager
def listening(model: nn.Module, seams: Sequence[Seam], rules: int) -> Iterator[list[Heard]]:
    """Return a context in which the modules of each layer are heard."""
    heard = []
    with contextlib.ExitStack() as exits:
        for seam in seams:
            shape = (rules + 1, seam.modules + 1)
            device = next(seam.router.parameters()).device
            routed, weight, output = torch.zeros(3, *shape, device=device, dtype=torch.float64)
            one = Heard(seam, routed, weight, output, torch.zeros(shape, device=device))
            one.whole = _hear(model, one, exits)
            heard.append(one)
        yield heard


def _hear(model: nn.Module, one: Heard, exits: contextlib.ExitStack) -> bool:
    """Install what listens to a layer; return whether there is a place to listen at."""
    seam = one.seam
    block = model.get_submodule(seam.name.rpartition(".")[0])
    listeners: list[Any] = []
    if seam.passing == "experts":
        listeners = [
            seam.experts.register_forward_pre_hook(partial(_spread, one), with_kwargs=True),
            seam.experts.register_forward_hook(partial(_gather, one)),
        ]
    elif seam.passing == "marks":
        hook = partial(_marked, one)
        listeners = [seam.experts.register_forward_hook(hook, with_kwargs=True)]
    else:
        last = block._modules.get("experts" if seam.passing == "table" else "output_linear")  # noqa: SLF001
        if last is None:
            return False
        after = _of_table if seam.passing == "table" else _of_sorted
        listeners = [
            seam.router.register_forward_hook(partial(_remember, one)),
            last.register_forward_hook(partial(after, one)),
        ]
    for each in listeners:
        exits.callback(each.remove)
    return True


def _spread(
    heard: Heard, experts: nn.Module, arguments: tuple[Any, ...], by_name: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Give each choice a row of its own, with its weight."""
    hidden, chosen, weight = passed(experts, arguments, by_name)
    if heard.label is None or len(chosen) != len(heard.label):
        heard.whole = False
        return None
    heard.pending.append((hidden, chosen, weight))
    flat = hidden.reshape(-1, hidden.shape[-1]).repeat_interleave(chosen.shape[-1], 0)
    rows = (flat, chosen.reshape(-1, 1), weight.reshape(-1, 1))
    if not heard.columns:
        heard.columns = _columns(experts, arguments, by_name, rows)
    if heard.columns > 1:
        flat, chosen, weight = rows
        rows = (flat, chosen.expand(-1, 2), torch.cat((weight, torch.zeros_like(weight)), -1))
    return passing_on(experts, arguments, by_name, rows)


def _columns(
    experts: nn.Module,
    arguments: tuple[Any, ...],
    by_name: dict[str, Any],
    rows: tuple[Tensor, Tensor, Tensor],
) -> int:
    """Return how many choices a row must have: some experts cannot be called with one (LongCat)."""
    hidden, chosen, weight = (part[:1] for part in rows)
    positional, named = passing_on(experts, arguments, by_name, (hidden, chosen, weight))
    try:
        experts.forward(*positional, **named)
    except (ValueError, IndexError, RuntimeError):
        return 2
    return 1


def _gather(heard: Heard, experts: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
    """Add up what each module gave, and return what the experts would have returned.

    Outputs come weighted, so that their norms are what is wanted and their sum is what was to be
    returned; only the largest number of each is divided by its weight again.
    """
    del experts, arguments
    if not heard.pending:
        return None
    hidden, chosen, weight = heard.pending.pop()
    each = output.reshape(*chosen.shape, -1)
    rows = torch.as_tensor(heard.label, device=chosen.device).unsqueeze(1)
    place = _place(heard, rows, chosen)
    share = weight.double()
    all_of = share.sum(-1, keepdim=True)
    share = torch.where(all_of > 0, share / all_of, 0.0)
    for total, part in ((heard.routed, torch.ones_like(share)), (heard.weight, share)):
        total.view(-1).index_add_(0, place, part.flatten())
    _add(heard, place, _norm(each), _largest(each), weight)
    first, *others = each.unbind(1)
    mixed: Tensor = sum(others, first)
    return mixed.reshape(hidden.shape).to(hidden.dtype)


def _place(heard: Heard, label: Tensor, chosen: Tensor) -> Tensor:
    """Return where in a table of labels and modules choices are counted."""
    wide = heard.output.shape[-1]
    return (label * wide + chosen.long().clamp(0, wide - 1)).flatten()


def _norm(each: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(each, dim=-1, dtype=torch.float32)
    return size


def _largest(each: Tensor) -> Tensor:
    return torch.maximum(each.amax(-1), each.amin(-1).neg()).float()


def _add(
    heard: Heard, place: Tensor, size: Tensor, largest: Tensor, weight: Tensor | None = None
) -> None:
    """Add norms, and largest numbers, divided by the weight that outputs were multiplied by."""
    heard.output.view(-1).index_add_(0, place, size.flatten().double())
    if weight is not None:
        given = weight.float().abs()
        largest = torch.where(given > 0, largest / given.clamp(min=TINY), 0.0)
    heard.peak.view(-1).scatter_reduce_(0, place, largest.flatten(), "amax")


# --- other seams ----------------------------------------------------------------------------------


def _marked(
    heard: Heard, experts: nn.Module, arguments: Any, by_name: dict[str, Any], output: Tensor
) -> None:
    """Hear experts that are called with marks ``(N, 1, M)`` and weights ``(N, 1)``."""
    _, mark, weight = passed(experts, arguments, by_name)
    if heard.label is None or len(mark) != len(heard.label):
        heard.whole = False
        return
    most, chosen = mark.flatten(0, 1).max(-1)
    chosen = torch.where(most > 0, chosen, heard.seam.modules)
    place = _place(heard, heard.label.to(chosen.device), chosen)
    each = output.flatten(0, -2)
    _add(heard, place, _norm(each), _largest(each), weight.flatten())


def _remember(heard: Heard, router: nn.Module, arguments: Any, output: Any) -> None:
    del router, arguments
    heard.pending = [output]


def _of_table(heard: Heard, experts: nn.Module, arguments: Any, output: Tensor) -> None:
    """Hear experts that run for all tokens: ``(M N, D)`` beside a table ``(N, M)``."""
    del experts, arguments
    table = heard.pending.pop()[0]
    if heard.label is None or len(table) != len(heard.label):
        heard.whole = False
        return
    token, chosen = (table != 0).nonzero(as_tuple=True)
    each = output.reshape(table.shape[1], len(table), -1)[chosen, token]
    place = _place(heard, heard.label.to(token.device)[token], chosen)
    _add(heard, place, _norm(each), _largest(each))


def _of_sorted(heard: Heard, experts: nn.Module, arguments: Any, output: Tensor) -> None:
    """Hear rows that are sorted by expert: (order, rows, weights, sizes, logits) of the router."""
    del experts, arguments
    _, row, weight, sizes, logits = heard.pending.pop()
    if heard.label is None or len(logits) != len(heard.label):
        heard.whole = False
        return
    chosen = torch.repeat_interleave(
        torch.arange(heard.seam.modules, device=row.device),
        torch.as_tensor(sizes, device=row.device),
    )
    place = _place(heard, heard.label.to(row.device)[row], chosen)
    _add(heard, place, _norm(output) * weight, _largest(output))
