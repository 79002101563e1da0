"""Scorecards of traces: values by hand, chance, intervals, what is unknown, and laws."""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor

from modeval.counting.count import count_choices
from modeval.errors import TraceError
from modeval.metrics import METRICS, STATIC_METRICS, mutual_information
from modeval.pace import heard_by
from modeval.score.inference.multiple import holm
from modeval.score.measure import OF_TABLES, metrics_without_labels
from modeval.score.scorecard import FINDINGS, Score, Scorecard, to_dict_form
from modeval.score.stored.checks import check_scorecard
from modeval.score.stored.files import SCHEMA, read_scorecard, write_scorecard
from modeval.score.traces import Reading, score_trace
from modeval.trace.fold import LayerGroup
from modeval.trace.trace import Source, TraceHeader
from modeval.types import RoutingCounts

DOCUMENTS, TOKENS, BLOCKS = 120, 40, 30
READING = Reading(source="a.trace", name="A", rows=1, documents=DOCUMENTS)
QUICK: Any = {"permutations": 199}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts_of(
    sharpness: list[float], *, rules: int = 3, modules: int = 6, choices: int = 2, seed: int = 0
) -> RoutingCounts:
    """Route documents of equal numbers for each rule: each by its own taste and by its rule's."""
    draw = generator(seed)
    label = torch.arange(DOCUMENTS) % rules
    taste = torch.randn(len(sharpness), DOCUMENTS, modules, generator=draw) / 2
    habit = torch.nn.functional.one_hot(torch.arange(rules) % modules, modules)[label]
    logits = taste + torch.tensor(sharpness)[:, None, None] * habit
    logits = logits.unsqueeze(2).expand(-1, -1, TOKENS, -1).flatten(1, 2)
    noise = -torch.empty(logits.shape).exponential_(generator=draw).log()
    best = (logits + noise).topk(choices, -1)
    return count_choices(
        label.repeat_interleave(TOKENS),
        best.indices,
        best.values.softmax(-1),
        rules=rules,
        modules=modules,
        block=(torch.arange(DOCUMENTS) % BLOCKS).repeat_interleave(TOKENS),
        blocks=BLOCKS,
    )


def header_of(*counts: RoutingCounts, choices: int = 2, **changes: Any) -> TraceHeader:
    sizes = [part.mass.shape[-1] for part in counts for _ in range(len(part.mass))]
    rules = counts[0].mass.shape[-2]
    header = TraceHeader(
        layers=tuple(f"layers.{number}.gate" for number in range(len(sizes))),
        modules=tuple(sizes),
        choices=(choices,) * len(sizes),
        labels=tuple("abcdefgh"[:rules]) if rules > 1 else (),
        source=Source("an engine", "a model", "live"),
        weight_scale="renormalised",
        phase="prefill",
        padding="excluded",
    )
    return replace(header, **changes)


def groups_of(*counts: RoutingCounts) -> tuple[LayerGroup, ...]:
    groups, first = [], 0
    for part in counts:
        groups.append(LayerGroup(tuple(range(first, first + len(part.mass))), part))
        first += len(part.mass)
    return tuple(groups)


def card_of(*counts: RoutingCounts, **options: Any) -> Scorecard:
    header = options.pop("header", header_of(*counts))
    return score_trace(header, groups_of(*counts), READING, **(QUICK | options))


def entry(card: Scorecard, metric: str, **which: Any) -> Score:
    found = card.find(card.models[0].id, metric, **which)
    assert found is not None, (metric, which)
    return found


def plug_in(score: Score) -> float | None:
    """Return what the formula gives as it stands."""
    return score.value if score.plug_in is None else score.plug_in


def words_of(card: Scorecard) -> tuple[str, ...]:
    return tuple(finding.word for finding in card.findings)


def valid(card: Scorecard) -> None:
    """A card that another program can read holds only what its schema says, and no NaN."""
    text = json.dumps(to_dict_form(card), allow_nan=False)
    jsonschema.validate(json.loads(text), json.loads(SCHEMA.read_text()))
    check_scorecard(card, where="a card of a trace")


COUNTS = counts_of([0.0, 1.0, 3.0])
CARD = card_of(COUNTS)


@pytest.mark.parametrize("view", ["weight", "assignment"])
@pytest.mark.parametrize("prior", ["uniform", "empirical"])
def test_each_value_is_that_of_the_layer_alone(view: Any, prior: Any) -> None:
    card = card_of(COUNTS, view=view, prior=prior)
    joint = COUNTS.joint(prior, view=view)
    for name in STATIC_METRICS:
        metric = METRICS[name]
        if metric.needs == "joint":
            values = metric.function(joint)
        else:
            values = metric.function(COUNTS, prior=prior, view=view)
        for layer in range(3):
            assert plug_in(entry(card, name, layer=layer)) == pytest.approx(float(values[layer]))
        single = [entry(card, name, layer=layer).value or 0.0 for layer in range(3)]
        worst = min(single) if metric.better == "higher" else max(single)
        assert entry(card, name, layer=single.index(worst), over="worst").value == worst
        assert plug_in(entry(card, name, over="mean")) == pytest.approx(float(values.mean()))
    assert card.models[0].view == view


def test_every_score_stands_beside_an_interval_that_holds_it() -> None:
    for score in CARD.scores:
        assert score.value is not None
        if score.metric in (*OF_TABLES, "unrouted_share"):
            continue
        assert (score.low is None) == ("no interval" in score.note)
        if score.low is not None and score.high is not None:
            assert score.low <= score.value <= score.high, score
            assert score.error is not None
        assert (score.chance is None) == (score.metric in ("softness", "input_distraction"))
        assert (score.chance_hash is None) == (score.chance is None)
    valid(CARD)


@pytest.mark.slow
def test_intervals_hold_the_value_that_other_documents_of_the_same_number_give() -> None:
    """An interval of 95 % misses the mean over many traces now and then, and not often."""
    metric = "effective_share"
    fresh = [counts_of([1.0, 2.0], seed=seed) for seed in range(24)]
    center = torch.stack([METRICS[metric].function(part.joint()) for part in fresh]).mean(0)
    hits = 0
    for part in fresh:
        card = score_trace(header_of(part), groups_of(part), READING, permutations=19)
        for layer in range(2):
            score = entry(card, metric, layer=layer)
            assert score.low is not None
            assert score.high is not None
            hits += score.low <= float(center[layer]) <= score.high
    assert 0.8 <= hits / 48 <= 1.0


def test_the_worst_layer_is_that_whose_number_is_worst() -> None:
    alike = card_of(counts_of([0.0] * 12))
    worst = next(
        score for score in alike.scores if (score.metric, score.over) == ("collapse_avg", "worst")
    )
    singles = [entry(alike, "collapse_avg", layer=layer) for layer in range(12)]
    assert worst.value == max(single.value or 0 for single in singles)
    assert worst.layer is not None
    single = singles[worst.layer]
    assert (worst.low, worst.high) == (single.low, single.high)


def test_words_follow_what_the_modules_tell_and_whether_chance_would() -> None:
    assert words_of(CARD) == ("blind", "faint", "partial")
    assert set(words_of(CARD)) <= set(FINDINGS)
    first, last = (entry(CARD, "mutual_information", layer=layer) for layer in (0, 2))
    assert first.p_value is not None
    assert last.p_value is not None
    assert first.p_value > 0.05 >= last.p_value == 1 / 200
    assert last.null_low is not None
    assert last.null_high is not None
    assert last.chance_permuted is not None
    assert last.value is not None
    assert last.null_low < last.chance_permuted < last.null_high < last.value


def test_a_router_that_seems_to_tell_rules_apart_by_accident_is_unproven() -> None:
    """Six documents in all: whatever they do, each rule has modules of its own."""
    label = torch.arange(6) % 3
    chosen = torch.arange(6)[:, None].repeat_interleave(50, 0)
    counts = count_choices(
        label.repeat_interleave(50),
        chosen,
        rules=3,
        modules=6,
        block=torch.arange(6).repeat_interleave(50),
        blocks=6,
    )
    counts = RoutingCounts(**{name: part[None] for name, part in counts.tensors().items()})
    card = card_of(counts, header=header_of(counts, choices=1))
    assert words_of(card) == ("unproven",)
    score = entry(card, "mutual_information")
    assert score.value == pytest.approx(torch.tensor(3.0).log().item())
    assert score.p_value is not None
    assert score.p_value > 0.05
    assert "few samples" in score.note


def test_p_values_of_layers_are_corrected_over_them() -> None:
    for name in ("mutual_information", "alignment_score", "alignment_distance"):
        scores = [entry(CARD, name, layer=layer) for layer in range(3)]
        single = torch.tensor([score.p_value for score in scores], dtype=torch.float64)
        assert [score.p_adjusted for score in scores] == holm(single).tolist()


@pytest.mark.slow
def test_routing_that_ignores_labels_is_seldom_called_significant() -> None:
    found = 0
    for seed in range(20):
        card = score_trace(
            header_of(COUNTS),
            groups_of(counts_of([0.0, 0.0, 0.0], seed=100 + seed)),
            READING,
            permutations=99,
        )
        found += any(word not in ("blind", "unproven") for word in words_of(card))
    assert found <= 5  # one is expected; six of twenty has a chance of 3 in 10 000


def test_chance_of_a_few_chosen_modules_is_that_of_random_maps_to_as_many() -> None:
    score = entry(CARD, "mutual_information", layer=0)
    assert score.chance == pytest.approx(0, abs=1e-12)
    keys = torch.rand(4000, 3, 6, generator=generator(5))
    maps = torch.zeros(4000, 3, 6, dtype=torch.float64)
    maps.scatter_(-1, keys.topk(2).indices, 1 / 6)
    assert score.chance_hash == pytest.approx(float(mutual_information(maps).mean()), abs=0.02)
    worst = entry(CARD, "mutual_information", layer=0, over="worst")
    assert worst.chance_hash is not None
    assert score.chance_hash is not None
    assert worst.chance_hash < score.chance_hash


def test_without_labels_only_load_is_told() -> None:
    counts = counts_of([0.0] * 4, rules=1)
    card = card_of(counts)
    assert {score.metric for score in card.scores} == {
        *metrics_without_labels(STATIC_METRICS),
        "unrouted_share",
    }
    assert words_of(card) == ("unlabelled",) * 4
    assert card.models[0].rules == ()
    assert any("specialisation cannot" in note for note in card.notes)
    assert {profile.metric for profile in card.profiles} == {
        "module_share",
        "module_tokens",
        "module_selections",
    }
    valid(card)
    table = torch.zeros_like(counts.mass)
    table[..., 3] = counts.mass.sum(-1)
    idle = replace(counts, mass=table)
    assert words_of(card_of(idle)) == ("collapsed",) * 4


def test_what_a_source_does_not_say_is_left_out_and_named() -> None:
    nan = torch.tensor(torch.nan, dtype=torch.float64)
    unknown = replace(
        COUNTS,
        mass=nan.expand_as(COUNTS.mass),
        samples=nan.expand_as(COUNTS.samples),
        entropy=nan.expand_as(COUNTS.entropy),
        selection_entropy=nan.expand_as(COUNTS.entropy),
        coactivation=nan.expand_as(COUNTS.coactivation),
    )
    header = header_of(COUNTS, choices=0, weight_scale="none")
    card = card_of(unknown, header=header)
    names = {score.metric for score in card.scores}
    assert names - {*OF_TABLES} == set(STATIC_METRICS) - {"softness", "input_distraction"}
    assert any("softness" in note for note in card.notes)
    assert card.coactivations == ()
    assert card.models[0].view == "assignment"
    expected = mutual_information(COUNTS.joint(view="assignment"))
    found = plug_in(entry(card, "mutual_information", layer=2))
    assert found == pytest.approx(float(expected[2]))
    valid(card)


def test_weights_whose_choices_are_unknown_are_scored_as_weights() -> None:
    """As means of documents are."""
    unknown = replace(
        COUNTS,
        selections=COUNTS.selections * torch.nan,
        coactivation=COUNTS.coactivation * torch.nan,
    )
    card = card_of(unknown, header=header_of(COUNTS))
    assert entry(card, "mutual_information", layer=2).value == pytest.approx(
        entry(CARD, "mutual_information", layer=2).value
    )
    [found] = [p for p in card.profiles if (p.metric, p.layer) == ("module_selections", 0)]
    assert found.values == (None,) * 6
    valid(card)
    with pytest.raises(TraceError, match="Use --view weight"):
        card_of(unknown, header=header_of(COUNTS), view="assignment")


def test_rules_and_layers_without_samples_are_left_out_and_named() -> None:
    cut = {name: part.clone() for name, part in COUNTS.tensors().items()}
    for name in ("mass", "selections", "samples", "entropy", "selection_entropy"):
        cut[name][:, :, 1] = 0  # nothing of rule b anywhere
        cut[name][1, :, 2] = torch.nan  # in layer 1, c was not counted
    card = card_of(RoutingCounts(**cut), header=header_of(COUNTS))
    model = card.models[0]
    assert model.rules == ("a", "c")
    assert model.layers == ("layers.0.gate", "layers.1.gate", "layers.2.gate")
    assert any("Rule b left out" in note for note in card.notes)
    assert any("layers.1.gate is scored for its load alone: nothing" in note for note in card.notes)
    assert [(each.kind, each.name, each.layer) for each in model.left_out] == [
        ("rule", "b", ""),
        ("rule", "c", "layers.1.gate"),
    ]
    told, used = "mutual_information", "effective_share"
    assert [card.find("a", told, layer=layer) is None for layer in range(3)] == [False, True, False]
    assert all(entry(card, used, layer=layer).value is not None for layer in range(3))
    assert card.find("a", told, over="mean") is None  # nothing is said of all layers then
    assert card.find("a", used, over="worst", layer=1) or entry(card, used, over="mean")
    assert words_of(card)[1] == "unlabelled"
    valid(card)


def test_layers_that_were_not_asked_for_are_named_as_left_out() -> None:
    card = card_of(COUNTS, layers=[2])
    found = [(each.kind, each.name, each.wanted) for each in card.models[0].left_out]
    assert found == [("layer", "layers.0.gate", True), ("layer", "layers.1.gate", True)]


def test_nothing_is_scored_of_no_samples() -> None:
    empty = RoutingCounts.zeros(3, rules=3, modules=6, blocks=BLOCKS)
    with pytest.raises(TraceError, match="No layer can be scored"):
        card_of(empty, header=header_of(COUNTS))


def test_tokens_of_unknown_documents_have_no_intervals_and_no_tests() -> None:
    """All are in block 0: nothing says that any two are independent."""
    parts = COUNTS.tensors()
    lumped = {
        name: part
        if name == "coactivation"
        else torch.cat([part.sum(1, keepdim=True), torch.zeros_like(part)], 1)
        for name, part in parts.items()
    }
    card = card_of(RoutingCounts(**lumped), header=header_of(COUNTS))
    assert all(score.low is None and score.p_value is None for score in card.scores)
    assert any("No intervals" in note for note in card.notes)
    assert any("No test" in note for note in card.notes)
    assert entry(card, "mutual_information", layer=1).value == pytest.approx(
        plug_in(entry(CARD, "mutual_information", layer=1))
    )
    assert words_of(card) == ("untested",) * 3
    valid(card)


def test_layers_with_other_numbers_of_modules_are_scored_together() -> None:
    other = counts_of([3.0], modules=9, seed=7)
    card = card_of(COUNTS, other)
    assert card.models[0].layer_modules == (6, 6, 6, 9)
    values = torch.cat([mutual_information(part.joint()) for part in (COUNTS, other)])
    mean = entry(card, "mutual_information", over="mean")
    assert plug_in(mean) == pytest.approx(float(values.mean()))
    assert mean.p_value == 1 / 200
    assert [len(each.matrix[0]) for each in card.activations] == [6, 6, 6, 9]
    valid(card)


def test_one_layer_has_no_summary_over_layers() -> None:
    card = card_of(counts_of([4.0]))
    assert all(score.layer is None and score.over is None for score in card.scores)
    assert entry(card, "mutual_information").p_adjusted == entry(card, "mutual_information").p_value


def test_some_layers_can_be_asked_for() -> None:
    card = card_of(COUNTS, layers=[2])
    assert card.models[0].layers == ("layers.2.gate",)
    whole = entry(CARD, "mutual_information", layer=2).value
    assert entry(card, "mutual_information").value == whole


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layers": [3]}, "--layers 3: this trace has layers 0 to 2"),
        ({"view": "weight", "header": header_of(COUNTS, weight_scale="none")}, "--view assignment"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(TraceError, match=match):
        card_of(COUNTS, **options)


def profile(card: Scorecard, metric: str, layer: int) -> Tensor:
    [found] = [p for p in card.profiles if (p.metric, p.layer) == (metric, layer)]
    return torch.tensor(found.values, dtype=torch.float64)


@pytest.mark.parametrize("layer", range(3))
def test_profiles_add_up_to_the_metrics(layer: int) -> None:
    share = profile(CARD, "module_share", layer)
    assert float(share.sum()) == pytest.approx(1)
    information = plug_in(entry(CARD, "mutual_information", layer=layer))
    modules = share @ profile(CARD, "module_information", layer)
    assert float(modules) == pytest.approx(information)
    assert float(profile(CARD, "rule_information", layer).mean()) == pytest.approx(information)
    assert float(profile(CARD, "module_selections", layer).sum()) == 2 * DOCUMENTS * TOKENS
    assert profile(CARD, "rule_samples", layer).tolist() == [DOCUMENTS * TOKENS / 3] * 3
    table = torch.tensor(CARD.activations[layer].matrix, dtype=torch.float64)
    main = profile(CARD, "module_main_rule", layer).long()
    assert main.tolist() == table.argmax(0).tolist()
    own = table[main, torch.arange(6)] / table.sum(0)
    torch.testing.assert_close(profile(CARD, "module_specialization", layer), own)
    assert profile(CARD, "rule_main_module", layer).tolist() == table.argmax(1).tolist()


def test_a_module_without_work_has_no_main_rule() -> None:
    idle = COUNTS.mass.clone()
    idle[..., 0] += idle[..., 5]
    idle[..., 5] = 0
    card = card_of(replace(COUNTS, mass=idle))
    [main] = [p for p in card.profiles if (p.metric, p.layer) == ("module_main_rule", 0)]
    assert main.values[5] is None
    valid(card)


def test_modules_chosen_together_are_those_of_the_counts() -> None:
    for layer, found in enumerate(CARD.coactivations):
        pairs = COUNTS.coactivation[layer]
        expected = pairs / pairs.diagonal()[:, None] - torch.eye(6)
        torch.testing.assert_close(torch.tensor(found.matrix, dtype=torch.float64), expected)
    wide = card_of(counts_of([0.0], modules=40))
    [found] = wide.coactivations
    assert len(found.modules) == 32


def test_a_card_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    write_scorecard(path, CARD)
    assert read_scorecard(path) == CARD
    assert card_of(COUNTS) == CARD


def test_what_was_measured_stands_in_the_card() -> None:
    model = CARD.models[0]
    assert (model.origin, model.title, model.prior) == ("trace", "A", "uniform")
    assert model.data["tokens"] == DOCUMENTS * TOKENS
    assert model.data["documents"] == DOCUMENTS
    assert (model.data["phase"], model.data["padding"]) == ("prefill", "excluded")
    assert model.model["choices"] == [2, 2, 2]
    assert model.digest == header_of(COUNTS).fingerprint()
    [member] = model.members
    assert member.precision is not None
    assert 0 < member.precision < 0.2


def test_a_stopped_recording_is_named() -> None:
    card = score_trace(
        header_of(COUNTS, notes=("a warning",)),
        groups_of(COUNTS),
        replace(READING, complete=False),
        **QUICK,
    )
    assert any("incomplete" in note for note in card.notes)
    assert card.models[0].data["notes"] == ["a warning"]


def test_one_module_that_tells_one_rule_apart_is_named_though_all_tell_little() -> None:
    """Of 16 rules one has a module of its own, the others go everywhere: little is told in all."""
    table = torch.full((16, 32), 1000 / 32, dtype=torch.float64)
    table[3] = 0
    table[3, 7] = 1000
    counts = RoutingCounts.zeros(1, rules=16, modules=32)
    counts = replace(
        counts,
        mass=table[None, None],
        selections=table[None, None],
        samples=counts.samples + 1000,
    )
    labels = tuple(f"rule {number}" for number in range(16))
    card = card_of(counts, header=replace(header_of(counts, choices=1), labels=labels))
    [finding] = card.findings
    assert (finding.word, finding.narrow) == ("untested", True)
    assert (finding.rule, finding.module, finding.share) == (3, 7, 1)
    assert finding.told is not None
    assert finding.told < 0.1


def test_more_labels_than_can_be_permuted_are_refused_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = counts_of([1.0])
    cleaning, labels = import_module("modeval.score.clean"), counts.samples.shape[-1]
    monkeypatch.setattr(cleaning, "MOST_RULES", labels)
    card_of(counts)
    monkeypatch.setattr(cleaning, "MOST_RULES", labels - 1)
    with pytest.raises(TraceError, match=r"labels .*--label FIELD"):
        card_of(counts)


def test_scoring_tells_how_far_it_has_come() -> None:
    told: list[tuple[str, float, float | None]] = []
    with heard_by(lambda *what: told.append(what)):
        card_of(counts_of([1.0]))
    ends = {what: (done, every) for what, done, every in told}
    assert {"leaving documents out in parts", "permuting labels in parts"} < {*ends}
    assert "intervals and p values of metrics" in ends
    assert all(done == every for done, every in ends.values())
