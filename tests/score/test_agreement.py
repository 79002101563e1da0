"""Agreement of two builds: brute force, laws, and what must not be compared."""

import dataclasses
import itertools

import numpy as np
import pytest

from modeval.errors import TraceError
from modeval.score.comparison import agreement as module
from modeval.score.comparison.agreement import agreement
from modeval.score.comparison.agreement_card import agreement_card
from modeval.score.stored.files import read_scorecard, write_scorecard
from modeval.trace.files import TraceWriter
from modeval.trace.trace import TraceHeader, make_chunk

pytest.importorskip("pyarrow", reason="traces are Parquet files")

HEADER = TraceHeader(
    layers=("a", "b"),
    modules=(6, 5),
    choices=(2, 1),
    weight_scale="renormalised",
    token_ids=True,
    logits=6,
)


def rows(documents=7, length=9, seed=0, noise=0.0):
    """Return rows of tokens at both layers, routed by logits with a little noise."""
    draw = np.random.default_rng(0)
    found = {"document": [], "position": [], "layer": [], "token": [], "logits": []}
    for document, position, layer in itertools.product(range(documents), range(length), (0, 1)):
        logits = draw.normal(size=6)
        logits[HEADER.modules[layer] :] = -np.inf
        for name, value in zip(
            found, (document, position, layer, 10 * document + position, logits), strict=True
        ):
            found[name].append(value)
    columns = {name: np.array(values) for name, values in found.items()}
    noisy = columns["logits"] + noise * np.random.default_rng(seed + 1).normal(
        size=columns["logits"].shape
    )
    order = np.argsort(-noisy, axis=1)[:, :2]
    weight = np.exp(np.take_along_axis(noisy, order, 1))
    single = columns["layer"] == 1
    order[single, 1], weight[single, 1] = -1, 0
    columns["chosen"] = order
    columns["weight"] = weight / weight.sum(1, keepdims=True)
    columns["logits"] = np.where(np.isfinite(noisy), noisy, -1e9)
    return columns


def write(path, columns, header=HEADER, kept=slice(None)):
    chunk = make_chunk(
        document=columns["document"][kept],
        position=columns["position"][kept],
        layer=columns["layer"][kept],
        chosen=columns["chosen"][kept],
        token=columns["token"][kept] if header.token_ids else None,
        weight=columns["weight"][kept].astype(np.float32) if header.weighted else None,
        logits=columns["logits"][kept].astype(np.float32) if header.logits else None,
    )
    with TraceWriter(path, header) as writer:
        writer.append(chunk)
    return path


def sets(columns, layer):
    """Return the set of modules of each token, by (document, position)."""
    at = columns["layer"] == layer
    keys = zip(columns["document"][at], columns["position"][at], strict=True)
    return {
        key: {m for m in chosen if m >= 0}
        for key, chosen in zip(keys, columns["chosen"][at], strict=True)
    }


@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_agreement_is_what_counting_one_by_one_gives(tmp_path, noise):
    mine, its = rows(), rows(noise=noise)
    shuffled = np.random.default_rng(5).permutation(len(its["layer"]))
    found = agreement(
        write(tmp_path / "a.trace", mine), write(tmp_path / "b.trace", its, kept=shuffled)
    )
    differing = set()
    for layer in found.layers:  # in their order: differences add up
        one, two = sets(mine, layer.layer), sets(its, layer.layer)
        shared = [len(one[key] & two[key]) / len(one[key]) for key in one]
        exact = [one[key] == two[key] for key in one]
        differing |= {key for key in one if one[key] != two[key]}
        so_far = layer.measured["agreement_different"].value
        assert so_far == pytest.approx(len(differing) / found.tokens)
        assert layer.measured["agreement_shared"].value == pytest.approx(np.mean(shared))
        assert layer.measured["agreement_exact"].value == pytest.approx(np.mean(exact))
        assert layer.tokens == len(one)
    assert found.different == found.layers[-1].measured["agreement_different"]
    assert found.missing == (0, 0)


def test_a_build_agrees_with_itself_in_all_and_its_interval_still_knows_the_sample(tmp_path):
    path = write(tmp_path / "a.trace", rows())
    found = agreement(path, path)
    for layer in found.layers:
        shared = layer.measured["agreement_shared"]
        assert (shared.value, shared.high) == (1, 1)
        assert 0 < shared.low < 1
        assert layer.measured["agreement_weights"].value == 0
    assert found.different.value == 0


def test_flips_are_where_margins_are_small(tmp_path):
    found = agreement(
        write(tmp_path / "a.trace", rows(documents=60)),
        write(tmp_path / "b.trace", rows(documents=60, noise=0.2)),
    )
    flips = found.layers[0].flips
    assert len(flips) == 10
    assert flips[0] > 0.3
    assert flips[-1] == 0


def test_chance_is_what_independent_builds_of_the_same_load_share(tmp_path):
    draw = np.random.default_rng(3)
    mine, its = rows(documents=200), rows(documents=200)
    single = its["layer"] == 1
    at = np.flatnonzero(single)
    its["chosen"][at] = its["chosen"][draw.permutation(at)]
    found = agreement(write(tmp_path / "a.trace", mine), write(tmp_path / "b.trace", its))
    layer = found.layers[1]
    assert layer.measured["agreement_shared"].value == pytest.approx(
        layer.chance["agreement_shared"], abs=0.04
    )


def test_a_last_token_that_one_engine_lacks_is_left_out_and_said(tmp_path):
    columns = rows()
    short = columns["position"] < 8
    found = agreement(
        write(tmp_path / "a.trace", columns), write(tmp_path / "b.trace", columns, kept=short)
    )
    assert found.missing == (14, 0)
    assert "all at the ends of documents" in found.notes[0]
    assert found.tokens == 7 * 8
    holes = columns["position"] != 4
    found = agreement(tmp_path / "a.trace", write(tmp_path / "c.trace", columns, kept=holes))
    assert "not only at ends" in found.notes[0]


def test_reading_in_several_passes_gives_the_same_numbers(tmp_path, monkeypatch):
    one = write(tmp_path / "a.trace", rows())
    two = write(tmp_path / "b.trace", rows(noise=0.5))
    whole = agreement(one, two)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 20)
    parts = agreement(one, two)
    assert parts.different == whole.different
    for mine, its in zip(parts.layers, whole.layers, strict=True):
        for name, share in mine.measured.items():
            assert share.value == pytest.approx(its.measured[name].value, abs=1e-12)
            assert share.low == pytest.approx(its.measured[name].low, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("token", "other tokens at the same document and position"),
        ("document", "does not say of every row"),
        ("twice", "has a token twice"),
        ("apart", "no token in common"),
        ("header", "differ in their modules"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(tmp_path, change, message):
    one = write(tmp_path / "a.trace", rows())
    other, header = rows(), HEADER
    if change == "token":
        other["token"] = other["token"] + 3
    elif change == "document":
        other["document"][3] = -1
    elif change == "twice":
        other["position"][2:4] = other["position"][0:2]
    elif change == "apart":
        other["document"] = other["document"] + 100
    else:
        header = dataclasses.replace(HEADER, modules=(6, 6))
    with pytest.raises(TraceError, match=message):
        agreement(one, write(tmp_path / "b.trace", other, header))


def test_the_interval_covers_the_share_of_the_population():
    draw = np.random.default_rng(1)
    covered, runs = 0, 400
    for _ in range(runs):
        tokens = np.ceil(draw.lognormal(3, 1, 60))
        alike = draw.beta(18, 2, 60)
        share = module._share(draw.binomial(tokens.astype(int), alike).astype(float), tokens)
        covered += share.low <= 0.9 <= share.high
    assert 0.90 <= covered / runs <= 0.98


def test_the_scorecard_of_a_comparison_is_read_back_and_its_worst_layer_is_the_last(tmp_path):
    one = write(tmp_path / "full.trace", rows())
    other = write(tmp_path / "int4.trace", rows(noise=0.5))
    found = agreement(one, other)
    card = agreement_card(found, one, other)
    write_scorecard(tmp_path / "card.json", card)
    assert read_scorecard(tmp_path / "card.json") == card
    [model] = card.models
    assert model.title == "int4 against full"
    [worst] = [s for s in card.scores if (s.metric, s.over) == ("agreement_different", "worst")]
    assert (worst.layer, worst.value) == (1, found.different.value)
    [shared] = [
        s for s in card.scores if (s.metric, s.layer) == ("agreement_shared", 0) and not s.over
    ]
    assert shared.chance == pytest.approx(2 / 6)
    assert shared.chance_permuted == pytest.approx(2 / 6, abs=0.05)
