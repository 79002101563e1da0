"""Metrics of single tokens in scorecards: what is vocabulary is told to be vocabulary."""

from pathlib import Path

import numpy as np
import pytest
import torch

from modeval.score import tokens
from modeval.score.stored.checks import check_scorecard
from modeval.score.tokens import Sampled, words_of
from modeval.score.traces import Reading, score_trace
from modeval.trace.convert import merge
from modeval.trace.counts import gather
from modeval.trace.files import TraceWriter, open_trace
from modeval.trace.trace import Source, TraceHeader, make_chunk

DOCUMENTS, LENGTH, MODULES, VOCABULARY = 60, 60, 8, 40


def world(router: str, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Two labels that share their words but use them in other proportions."""
    draw = np.random.default_rng(seed)
    document = np.repeat(np.arange(DOCUMENTS), LENGTH)
    label = document % 2
    taste = np.exp(1.2 * draw.standard_normal((2, VOCABULARY)))
    shares = taste / taste.sum(1, keepdims=True)
    token = np.array([draw.choice(VOCABULARY, p=shares[one]) for one in label])
    hashed = (token * 7919 + 13) % MODULES
    by_label = np.where(
        draw.random(len(label)) < 0.7, label, draw.integers(MODULES, size=len(label))
    )
    chosen = {"hash": hashed, "label": by_label}[router][:, None]
    return {"document": document, "label": label, "token": token, "chosen": chosen}


def sampled(parts: dict[str, np.ndarray]) -> Sampled:
    return Sampled(
        **{name: torch.from_numpy(part.astype(np.int64)) for name, part in parts.items()},
        logits=None,
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("router", "told"), [("hash", True), ("label", False)])
@pytest.mark.parametrize("seed", range(3))
def test_a_router_by_words_alone_is_told_from_one_that_knows_the_labels(router, told, seed):
    found = words_of(sampled(world(router, seed=seed)), generator())
    assert found is not None
    assert found.told > 0.01
    assert found.all_vocabulary is told


def test_words_that_are_of_one_label_each_tell_nothing_of_what_else_could() -> None:
    parts = world("label")
    parts["token"] = parts["token"] + VOCABULARY * parts["label"]
    found = words_of(sampled(parts), generator())
    assert found is not None
    assert found.all_vocabulary is None


def write(path: Path, router: str, *, order: np.ndarray | None = None) -> Path:
    """Write a trace of two layers; documents stand in an order, and are numbered in it."""
    header = TraceHeader(
        layers=("first", "second"),
        modules=(MODULES,) * 2,
        choices=(1, 1),
        labels=("a", "b"),
        source=Source("an engine", "a model", "live"),
        weight_scale="none",
        phase="prefill",
        padding="excluded",
        token_ids=True,
    )
    parts = world(router)
    if order is not None:
        document = np.repeat(np.arange(len(order)), LENGTH)
        rows = (order[:, None] * LENGTH + np.arange(LENGTH)).ravel()
        parts = {name: part[rows] for name, part in parts.items()} | {"document": document}
    position = np.arange(len(parts["label"])) % LENGTH
    with TraceWriter(path, header) as writer:
        for layer in range(2):
            writer.append(make_chunk(layer=layer, position=position, **parts))
    return path


def test_a_trace_with_tokens_says_what_words_neighbours_and_layers_tell(tmp_path: Path) -> None:
    path = write(tmp_path / "a.trace", "hash")
    reading = Reading(source="a", name="a")
    header, groups = gather(path)
    card = score_trace(header, groups, reading, permutations=99, trace=open_trace(path))
    check_scorecard(card, where="a trace with tokens")
    assert [finding.vocabulary for finding in card.findings] == [True, True]

    def score(name: str, layer: int = 0) -> float:
        found = card.find("a", name, layer=layer)
        assert found is not None, name
        assert found.value is not None
        return found.value

    assert score("lexical_information") > 1.2
    assert score("vocabulary_specialization") == 1
    assert abs(score("semantic_information")) < 0.05
    assert score("cross_layer_nmi") == pytest.approx(1)
    assert 0.1 < score("temporal_persistence") < 0.4
    assert card.find("a", "cross_layer_nmi", layer=1) is None
    whole = card.find("a", "lexical_information", over="mean")
    assert whole is not None
    again = score_trace(header, groups, reading, permutations=99, trace=open_trace(path))
    assert again == card


def test_which_documents_are_looked_at_follows_from_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another order, with other numbers, in one file or in two that are merged either way."""
    monkeypatch.setattr(tokens, "ENTRIES", DOCUMENTS * LENGTH // 4)
    order = np.random.default_rng(0).permutation(DOCUMENTS)
    paths = [write(tmp_path / "plain.trace", "hash")]
    paths += [write(tmp_path / "other.trace", "hash", order=order)]
    halves = [
        write(tmp_path / f"half{number}.trace", "hash", order=half)
        for number, half in enumerate((order[:17], order[17:]))
    ]
    paths += [merge(halves, tmp_path / "one.trace").path]
    paths += [merge(halves[::-1], tmp_path / "two.trace").path]
    found = [tokens.sample_layers(open_trace(path), (0, 1)) for path in paths]
    for layer in (0, 1):
        first = found[0][layer]
        assert 0.2 < len(first.label) / (DOCUMENTS * LENGTH) < 0.3
        assert len(first.document.unique()) * LENGTH == len(first.label)
        for other in found[1:]:
            for name in ("document", "label", "chosen", "token"):
                assert torch.equal(getattr(other[layer], name), getattr(first, name)), name


def test_of_a_document_beyond_what_is_looked_at_the_beginning_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "ENTRIES", 20)
    path = write(tmp_path / "a.trace", "hash")
    found = tokens.sample_layers(open_trace(path), (0,))[0]
    assert len(found.document) == 20
    assert len(found.document.unique()) == 1
