"""Metrics of single tokens of a trace: what words tell, what neighbours and layers repeat.

They are measured on whole documents, as many as make up a sample of tokens: enough for numbers of
two digits, and few enough to cost less than the counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from modeval.metrics.information import v_measure
from modeval.metrics.tokens import (
    conditional_rule_information,
    lexical_information,
    router_margin,
    semantic_information_null,
    temporal_persistence,
    vocabulary_specialization,
)
from modeval.pace import counted
from modeval.trace.documents import contents
from modeval.trace.files import Trace, read_columns

ENTRIES = 1 << 16
"""Choices of a layer that are looked at, about."""
SHUFFLES = 4
LEAST_SHARED = 0.1
"""Share of the labels' entropy that must be left when the token is known, so that its identity and
the label can be told apart."""
ALL_OF_IT = 0.1
"""Share of the information that may be left beyond the words when all of it is vocabulary."""
SURE = 2.0
"""Standard deviations of what shuffled labels give."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """One metric of the tokens of one layer.

    Attributes:
        metric: its name.
        layer: number of the layer in the header.
        value: the number, corrected by shuffled tokens where that can be.
        tokens: how many it was measured on.
        plug_in: what the formula gives as it stands, where the value is corrected.
        shuffled: what tokens in another order give; nothing where that means nothing.
    """

    metric: str
    layer: int
    value: float
    tokens: int
    plug_in: float | None = None
    shuffled: float | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """Tokens of one layer, in order of documents and positions.

    Attributes:
        document: ``(N,)``.
        label: ``(N,)``; -1 without.
        chosen: ``(N, K)``.
        token: ``(N,)`` numbers in the vocabulary; nothing where they were not kept.
        logits: ``(N, M)`` where all were kept.
    """

    document: Int64[Tensor, "tokens"]
    label: Int64[Tensor, "tokens"]
    chosen: Int64[Tensor, "tokens choices"]
    token: Int64[Tensor, "tokens"] | None
    logits: Tensor | None


def sample_layers(trace: Trace, layers: tuple[int, ...]) -> dict[int, Sampled]:
    """Return tokens of whole documents, the same documents in each layer.

    Which documents follows from what they hold, so that no order of files and no numbers decide.
    Of a document that is longer than all that is looked at only the beginning is.
    """
    header = trace.header
    names = ["document", "position", "label", "layer", "chosen"]
    names += [name for name in ("token", "logits") if name in header.columns]
    choices = max([1, *header.choices])
    room = ENTRIES // choices
    looked_at = None
    if trace.rows * choices // max(len(header.layers), 1) > ENTRIES:
        looked_at = _looked_at(trace, [*names[:5], *(["token"] if "token" in names else [])], room)
    found: dict[int, list[dict[str, np.ndarray]]] = {layer: [] for layer in layers}
    for columns in read_columns(trace, names):
        kept = columns["document"] >= 0
        if looked_at is not None:
            kept = np.isin(columns["document"], looked_at) & (columns["position"] < room)
        for layer in np.unique(columns["layer"][kept]):
            if int(layer) in found:
                here = kept & (columns["layer"] == layer)
                found[int(layer)].append({name: part[here] for name, part in columns.items()})
    return {
        layer: _sampled(pieces, header.modules[layer], header.choices[layer])
        for layer, pieces in found.items()
        if pieces
    }


def _looked_at(trace: Trace, names: Sequence[str], room: int) -> np.ndarray:
    """Return the numbers of documents that have about so many tokens together, and one at least."""
    every = contents(read_columns(trace, names))
    order = np.argsort(every.total, kind="stable")
    tokens = np.cumsum(every.rows[order]) / len(trace.header.layers)
    return every.document[order[: int(np.searchsorted(tokens, room)) + 1]]


def _sampled(pieces: list[dict[str, np.ndarray]], modules: int, choices: int) -> Sampled:
    joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    document = _by_content(joined)
    order = np.lexsort((joined.get("position", document), document))

    def column(name: str) -> Tensor:
        return torch.from_numpy(joined[name][order].astype(np.int64))

    logits = joined.get("logits")
    whole = logits is not None and logits.shape[1] == modules
    return Sampled(
        document=torch.from_numpy(document[order]),
        label=column("label"),
        chosen=column("chosen")[:, : choices or None],
        token=column("token") if "token" in joined else None,
        logits=torch.from_numpy(logits[order]) if whole and logits is not None else None,
    )


def _by_content(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Number documents in the order of what they hold, so that no order of files shows."""
    _, document = np.unique(columns["document"], return_inverse=True)
    document = document.reshape(-1)
    state = np.zeros(len(document), dtype=np.uint64)
    for name in ("position", "label", "token"):
        if name in columns:
            state = _stirred(state + columns[name].astype(np.int64).astype(np.uint64))
    for chosen in columns["chosen"].T:
        state = _stirred(state + chosen.astype(np.int64).astype(np.uint64))
    content = np.zeros(int(document.max(initial=-1)) + 1, dtype=np.uint64)
    np.add.at(content, document, state)
    place = np.empty(len(content), dtype=np.int64)
    place[np.argsort(content, kind="stable")] = np.arange(len(content))
    found: np.ndarray = place[document]
    return found


def _stirred(state: np.ndarray) -> np.ndarray:
    """Return well mixed bits of each number (the finaliser of SplitMix64)."""
    state = (state + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = state ^ (state >> np.uint64(29))
    return mixed


def token_scores(
    samples: Mapping[int, Sampled],
    modules: Sequence[int],
    words: Mapping[int, "Words"],
    generator: torch.Generator,
) -> Iterator[TokenScore]:
    """Return the metrics of the tokens of each layer, as far as the trace tells.

    Args:
        samples: tokens by layer.
        modules: number of modules of each layer of the header.
        words: what words tell in each layer.
        generator: shuffles tokens.
    """
    for layer, sampled in counted(samples.items(), "looking at tokens, layers"):
        yield from _of_order(layer, sampled)
        yield from _of_words(layer, sampled, modules[layer], generator)
        if layer in words:
            found = words[layer]
            value, plain = found.semantic, found.plain
            yield TokenScore("semantic_information", layer, value, len(sampled.label), plain)
        if sampled.logits is not None and sampled.chosen.shape[1] < modules[layer]:
            margin = float(router_margin(sampled.logits, choices=sampled.chosen.shape[1]))
            yield TokenScore("router_margin", layer, margin, len(sampled.label))
    for first, second in zip(samples, [*samples][1:], strict=False):
        shared = _across(samples[first], samples[second], modules[first], modules[second])
        if shared is not None:
            yield TokenScore("cross_layer_nmi", first, shared, len(samples[first].label))


def _of_order(layer: int, sampled: Sampled) -> Iterator[TokenScore]:
    if bool((sampled.document[1:] == sampled.document[:-1]).any()):
        value = float(temporal_persistence(sampled.chosen, sampled.document))
        yield TokenScore("temporal_persistence", layer, value, len(sampled.document))


def _of_words(
    layer: int, sampled: Sampled, modules: int, generator: torch.Generator
) -> Iterator[TokenScore]:
    token, chosen = sampled.token, sampled.chosen
    if token is None or bool((token < 0).any()) or not bool((chosen >= 0).any()):
        return
    count = len(token)
    mixed = token[torch.randperm(count, generator=generator)]
    plain, chance = (
        float(lexical_information(token, chosen)),
        float(lexical_information(mixed, chosen)),
    )
    yield TokenScore("lexical_information", layer, max(plain - chance, 0.0), count, plain, chance)
    if int(torch.bincount(token).max()) >= 10:  # noqa: PLR2004 - see vocabulary_specialization
        value, null = (
            float(vocabulary_specialization(each, chosen, modules=modules))
            for each in (token, mixed)
        )
        yield TokenScore("vocabulary_specialization", layer, value, count, None, null)


@dataclass(frozen=True, slots=True)
class Words:
    """How much a layer tells of labels, and how much of it beyond the words.

    Attributes:
        told: ``I(r; m)`` in nats, less what shuffled labels give.
        semantic: ``I(r; m | x)``, likewise: beyond the token's identity.
        plain: ``I(r; m | x)`` as it stands.
        spread: standard deviation of what shuffled labels give.
        shared: share of the labels' entropy that is left when the token is known.
    """

    told: float
    semantic: float
    plain: float
    spread: float
    shared: float

    @property
    def all_vocabulary(self) -> bool | None:
        """Return whether words tell all; nothing where that cannot be told."""
        doubt = SURE * self.spread
        if self.shared < LEAST_SHARED or self.told <= doubt:
            return None
        return self.semantic <= ALL_OF_IT * self.told + doubt


def words_of_layers(samples: Mapping[int, Sampled], generator: torch.Generator) -> dict[int, Words]:
    """Return what words tell in each layer where that can be told."""
    found = {}
    for layer, sampled in counted(samples.items(), "what words tell, layers"):
        words = words_of(sampled, generator)
        if words is not None:
            found[layer] = words
    return found


def words_of(sampled: Sampled, generator: torch.Generator) -> Words | None:
    """Return how much of what a layer tells is vocabulary; nothing without labels or tokens."""
    labelled = sampled.label >= 0
    if sampled.token is None or len(sampled.label[labelled].unique()) < 2:  # noqa: PLR2004
        return None
    label, token = sampled.label[labelled], sampled.token[labelled]
    chosen, nothing = sampled.chosen[labelled], torch.zeros_like(label)
    plain = float(conditional_rule_information(label, token, chosen))
    null = semantic_information_null(label, token, chosen, generator=generator, shuffles=SHUFFLES)
    told = float(conditional_rule_information(label, nothing, chosen))
    chance = semantic_information_null(
        label, nothing, chosen, generator=generator, shuffles=SHUFFLES
    )
    left = _entropy(label, token)
    return Words(
        told=told - float(chance.mean()),
        semantic=plain - float(null.mean()),
        plain=plain,
        spread=float(null.std()),
        shared=left / max(_entropy(label, nothing), 1e-12),
    )


def _entropy(label: Tensor, given: Tensor) -> float:
    """Return H(label | given) in nats."""
    both = given * (int(label.max()) + 1) + label
    parts = []
    for code in (both, given):
        share = torch.unique(code, return_counts=True)[1].double() / len(code)
        parts.append(float(torch.special.entr(share).sum()))
    return parts[0] - parts[1]


def _across(first: Sampled, second: Sampled, mine: int, its: int) -> float | None:
    """Return the dependence of the first choices of two layers on the same tokens."""
    if first.document.shape != second.document.shape or not torch.equal(
        first.document, second.document
    ):
        return None
    one, two = first.chosen[:, 0], second.chosen[:, 0]
    known = (one >= 0) & (two >= 0)
    if not bool(known.any()):
        return None
    table = torch.bincount(one[known] * its + two[known], minlength=mine * its)
    joint = table.view(mine, its).double() / int(known.sum())
    return float(v_measure(joint))
