"""Scorecards in words: what every report says of what was measured and what cannot be claimed."""

from dataclasses import replace

import pytest
import report_cards as cards

from modeval.report import brief, routing_views, scorecard_views, words
from modeval.report.html import render
from modeval.score.scorecard import FINDINGS, Finding


def only(card):
    [record] = card.models
    return card, record


def with_p(card, p):
    """Return the card with a p value at the information of each seed, and over seeds."""
    told = ("inverse_mutual_information", "alignment_score")
    scores = [replace(s, p_value=p) if s.metric in told else s for s in card.scores]
    return replace(card, scores=tuple(scores))


def brief_of(card):
    [entry] = scorecard_views.entries([card], ["card.json"])
    return brief.brief(entry)


@pytest.mark.parametrize(
    ("strength", "p", "word"),
    [
        (30.0, 0.005, "specialist"),
        (2.0, 0.005, "partial"),
        (2.0, 0.4, "unproven"),
        (0.0, 0.005, "faint"),
        (0.0, 0.4, "blind"),
        (0.0, None, "blind"),
        (0.0, 0.02, "blind"),  # .02 is .06 for one of three
    ],
)
def test_seeds_of_old_scorecards_are_judged_in_the_light_of_permuted_labels(strength, p, word):
    found = brief_of(with_p(cards.cohort(strength=strength), p))
    assert found.findings == (word,) * 3
    assert found.verdict == f"{brief.MEANINGS[word][0]} in all 3 seeds"


def test_a_finding_that_is_on_the_scorecard_is_taken_as_it_stands():
    card = cards.cohort(strength=30.0)
    kept = [Finding(model=card.models[0].id, seed=(n, 0), word="collapsed") for n in range(3)]
    found = brief_of(replace(card, findings=tuple(kept)))
    assert found.verdict == "Collapsed in all 3 seeds"
    assert "stronger balance loss" in found.advice[0]


def test_every_finding_has_a_meaning_and_advice():
    assert set(brief.MEANINGS) == set(brief.ADVICE) == set(brief.GRAVE) == set(FINDINGS)


def test_findings_count_seeds_as_people_do():
    endings = {1: "specialised", 2: "in both seeds", 3: "in all 3 seeds"}
    for seeds, ending in endings.items():
        assert brief_of(cards.cohort(seeds=seeds)).verdict.endswith(ending)


def test_a_trace_says_what_is_known_and_what_chance_knows():
    card = cards.trace()
    found = brief_of(card)
    told = card.find(card.models[0].id, "homogeneity", over="mean")
    assert f"The expert tells {words.percent(told.value)} [" in found.figures
    assert f"permuted labels {words.percent(told.chance_permuted)}" in found.figures
    assert "of the experts are in effective use" in found.figures


def test_dead_experts_are_named_by_layer_and_number():
    card = cards.trace(layers=2)
    dead = replace(
        card,
        profiles=tuple(
            replace(each, values=(0.0, *each.values[1:]))
            if (each.metric, each.layer) == ("module_share", 1)
            else each
            for each in card.profiles
        ),
    )
    [entry] = scorecard_views.entries([dead], [""])
    assert "dead: expert 0 (no token) in layer 1" in brief.brief(entry).figures


@pytest.mark.parametrize(
    ("used", "told", "says"),
    [
        (0.97, 0.02, "nearly even (97 % in effective use): a balance loss over small batches may"),
        (0.5, 0.02, "uneven (50 % in effective use), so a balance loss has hardly flattened"),
        (0.97, 0.5, ""),
    ],
)
def test_a_flat_layer_says_whether_balance_may_have_made_it_so(used, told, says):
    card = cards.trace()
    values = {"effective_share": used, "homogeneity": told}
    changed = replace(
        card,
        scores=tuple(
            replace(score, value=values.get(score.metric, score.value)) for score in card.scores
        ),
    )
    found = " ".join(brief_of(changed).advice)
    assert says in found
    assert ("flattened" in found) == bool(says)
    assert ("would show it" in found) == ("nearly even" in says)


def test_without_labels_nothing_is_said_of_rules():
    card, record = only(cards.trace(labelled=False))
    found = brief_of(card)
    assert "rule" not in found.sentence
    assert "domain" not in found.sentence
    assert "effective use" in found.figures
    assert "There are no labels: load can be told, specialisation cannot." in words.cautions(
        card, record
    )
    assert 'id="maps"' not in render([card], ["a"])
    for row in routing_views.budgets(scorecard_views.entries([card], ["a"])[0]):
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
    assert facts["Prior of the domains"].startswith("uniform")
    assert facts["Intervals"].startswith("95 %, around the corrected value")
    facts = dict(words.measured(*only(cards.cohort(failed=1))))
    assert facts["Seeds"] == "4 seeds, 1 of them failed"
    assert facts["Samples"] == "27,000 samples over 3 seeds for the routing scores"
    assert facts["Digest"] == "0123456789abcdef"


def test_certainty_that_is_total_is_called_exact():
    card = cards.cohort()
    sure = [replace(member, precision=0.0) for member in card.models[0].members]
    card = replace(card, models=(replace(card.models[0], members=tuple(sure)),))
    assert dict(words.measured(*only(card)))["Certainty of A"].startswith("exact")
    assert ">exact<" in render([card], ["a"])
    assert "±0" not in render([card], ["a"])
