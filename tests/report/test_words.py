"""Scorecards in words: what every report says of what was measured and what cannot be claimed."""

from dataclasses import replace

import pytest
import report_cards as cards

from modeval.report import scorecard_views, words
from modeval.report.html import render
from modeval.score.scorecard import FINDINGS


def only(card):
    [record] = card.models
    return card, record


def with_p(card, p):
    """Return the card with a p value at the information of each seed, and over seeds."""
    told = ("inverse_mutual_information", "alignment_score")
    scores = [replace(s, p_value=p) if s.metric in told else s for s in card.scores]
    return replace(card, scores=tuple(scores))


@pytest.mark.parametrize(
    ("strength", "p", "word"),
    [
        (30.0, 0.005, "specialist"),
        (2.0, 0.005, "partial"),
        (2.0, 0.4, "unproven"),
        (0.0, 0.005, "faint"),
        (0.0, 0.4, "blind"),
        (0.0, None, "blind"),
    ],
)
def test_seeds_are_judged_in_the_light_of_permuted_labels(strength, p, word):
    card, record = only(with_p(cards.cohort(strength=strength), p))
    assert words.verdict_words(card, record) == (word,) * 3
    assert words.headline(card, record).startswith(f"In all 3 seeds {FINDINGS[word]}. Alignment")


def test_p_values_of_seeds_are_corrected_for_their_number():
    card, record = only(with_p(cards.cohort(strength=0.0), 0.02))
    assert words.verdict_words(card, record) == ("blind",) * 3  # .02 is .06 for one of three


def test_headlines_count_seeds_as_people_do():
    beginnings = {1: "Modules tell", 2: "In both seeds modules", 3: "In all 3 seeds modules"}
    for seeds, beginning in beginnings.items():
        assert words.headline(*only(cards.cohort(seeds=seeds))).startswith(beginning)


def test_a_headline_names_chance_and_the_worst_layer():
    card, record = only(cards.trace())
    text = words.headline(card, record)
    worst = scorecard_views.worst(scorecard_views.entries([card], ["a"])[0], "alignment_score")
    for wanted in (
        "mean over layers",
        record.layers[worst.layer],
        words.number(worst.value),
        "permuted labels",
        "uniform routing 0.000",
        "hashed routing",
    ):
        assert wanted in text


def test_without_labels_nothing_is_said_of_rules():
    card, record = only(cards.trace(labelled=False))
    text = words.headline(card, record)
    assert "rule" not in text
    assert "Effective share of modules" in text
    assert "There are no labels: load can be told, specialisation cannot." in words.cautions(
        card, record
    )
    assert 'id="maps"' not in render([card], ["a"])
    for row in scorecard_views.budgets(scorecard_views.entries([card], ["a"])[0]):
        assert row.terms["rule_specialization"] == 0
        assert sum(row.terms.values()) == pytest.approx(row.total)


def test_what_chance_does_as_well_is_not_claimed():
    card, record = only(with_p(cards.cohort(strength=0.0), 0.4))
    text = " ".join(words.cautions(card, record))
    assert "Not distinguishable from permuted labels: Alignment score, Inverse" in text
    assert "No closer to one module for each rule than a random map" in text
    card, record = only(with_p(cards.cohort(strength=30.0), 0.005))
    text = " ".join(words.cautions(card, record))
    assert "distinguishable" not in text
    assert "random map" not in text


def test_few_samples_are_cautioned_below_fifty_for_each_cell():
    card, record = only(cards.cohort(rules=8, modules=8))
    assert "Few samples" not in " ".join(words.cautions(card, record))
    fewer = [replace(s, samples=3 * 3_199 if s.seed is None else 3_199) for s in card.scores]
    text = " ".join(words.cautions(replace(card, scores=tuple(fewer)), record))
    assert "Few samples: 3,199 for each seed, where 8 rules and 8 modules need 3,200." in text


def test_a_loss_that_hardening_doubles_is_cautioned():
    card, record = only(cards.cohort())
    loss = card.find(record.id, "in_distribution_loss")
    for factor, warned in ((0.9, False), (1.1, True)):
        gap = replace(loss, metric="hard_gap", value=loss.value * factor)
        text = " ".join(words.cautions(replace(card, scores=(*card.scores, gap)), record))
        assert ("the mixture matters" in text) is warned


def test_what_was_measured_names_the_circumstances():
    facts = dict(words.measured(*only(cards.trace())))
    assert facts["Phase"] == "prefill"
    assert facts["Padding"] == "excluded"
    assert facts["Documents"] == "60"
    assert facts["Tokens"] == "1,200"
    assert facts["Chosen per token"] == "2"
    assert facts["What counts as routing"] == "routing weights"
    assert facts["Prior of the rules"].startswith("uniform")
    assert facts["Intervals"].startswith("95 %, documents resampled")
    facts = dict(words.measured(*only(cards.cohort(failed=1))))
    assert facts["Seeds"] == "4 seeds, 1 of them failed"
    assert facts["Samples"] == "27,000 samples over 3 seeds for the routing scores"
    assert facts["Digest"] == "0123456789abcdef"
