"""Scorecards: values, intervals over seeds, chance, failed seeds, and the file."""

import json
import math
from dataclasses import replace
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import report_cards
import torch

from modeval.errors import ScorecardError
from modeval.evaluate.subject import Evaluation, Loss, Subject
from modeval.metrics import PAPER_METRICS
from modeval.metrics.table import metric_of
from modeval.nn import Network
from modeval.score.cohorts import score
from modeval.score.scorecard import Scorecard, to_dict_form
from modeval.score.stored.checks import check_scorecard
from modeval.score.stored.files import SCHEMA, check_writable, read_scorecard, write_scorecard
from modeval.spec import DataSpec, ModelSpec
from modeval.types import RoutingCounts

RULES = 4
SEEDS = ((0, 0), (1, 0), (0, 1), (1, 1))


def subject_of(*, faults: tuple[str, ...] = ("",) * 4, task: str = "binary") -> Subject:
    return Subject(
        title="Modular",
        origin="run",
        data=DataSpec(task=task, rules=RULES, length=10),  # type: ignore[arg-type]
        model=ModelSpec(scorer="module"),
        objective_known=True,
        seeds=SEEDS[: len(faults)],
        sources=("run/last.safetensors",) * len(faults),
        faults=faults,
        selection="last",
        network=Network(),
    )


def counts_of(activation: torch.Tensor) -> RoutingCounts:
    """Return counts of 100 samples of each rule in two blocks."""
    empty = RoutingCounts.zeros(len(activation), 1, rules=RULES, modules=RULES, blocks=2)
    return RoutingCounts(
        mass=activation[:, None, None].expand_as(empty.mass) * 50,
        selections=empty.selections,
        samples=empty.samples + 50,
        entropy=empty.entropy,
        selection_entropy=empty.selection_entropy,
        coactivation=empty.coactivation,
    )


def loss_of(values: list[float], **changes: object) -> Loss:
    total = torch.tensor(values, dtype=torch.float64) * 10
    made = Loss(None, 1.0, total, total.square(), total / 100, 10)
    return replace(made, **changes)  # type: ignore[arg-type]


def evaluation_of(share: list[float], losses: tuple[Loss, ...] = ()) -> Evaluation:
    """Return routing that mixes a permutation with uniform weights."""
    eye = torch.eye(RULES, dtype=torch.float64)[[1, 0, 3, 2]]
    mix = torch.tensor(share, dtype=torch.float64)[:, None, None]
    counts = counts_of(mix * eye + (1 - mix) / RULES)
    return Evaluation(
        losses=losses,
        counts=counts,
        half_width=torch.full((len(share),), 0.004, dtype=torch.float64),
    )


def card_of(share: tuple[float, ...] = (0.0, 0.4, 0.6, 1.0)) -> Scorecard:
    losses = (loss_of([0.1, 0.2, 0.3, 0.4][: len(share)]),)
    return score(
        subject_of(faults=("",) * len(share)),
        evaluation_of(list(share), losses),
        precision=0.005,
    )


def test_values_over_seeds_are_means_with_intervals_that_hold_them() -> None:
    card = card_of()
    [model] = card.models
    together = card.find(model.id, "alignment_score")
    assert together is not None
    assert together.value == pytest.approx(0.5)
    assert together.low is not None
    assert together.high is not None
    assert together.low < 0.5 < together.high
    assert (together.seeds, together.samples, together.better) == (4, 1600, "higher")
    each = [card.find(model.id, "alignment_score", seed) for seed in SEEDS]
    assert [own.value for own in each if own] == pytest.approx([0, 0.4, 0.6, 1])
    assert all(own is not None and own.low is None for own in each)


def test_no_interval_over_seeds_reaches_beyond_what_a_metric_can_be() -> None:
    for entry in card_of().scores:
        row = metric_of(entry.metric)
        if entry.low is None or entry.high is None or row is None or row.name == "hard_gap":
            continue
        least, most = row.bounds(4, 4)
        assert least - 1e-12 <= entry.low <= entry.high <= most + 1e-12, entry.metric


def test_every_routing_metric_stands_beside_its_chance_levels() -> None:
    card = card_of()
    for name in (*PAPER_METRICS, "alignment_score"):
        together = card.find(card.models[0].id, name)
        assert together is not None
        uniform = card.find(card.models[0].id, name, SEEDS[0])  # its routing is uniform
        assert uniform is not None
        assert uniform.value == pytest.approx(together.chance, abs=1e-9)
        assert together.chance_hash is not None
    hashed = card.find(card.models[0].id, "alignment_distance")
    assert hashed is not None
    assert hashed.chance_hash == pytest.approx(0.317, abs=0.01)


def test_a_cohort_of_several_layers_is_scored_layer_by_layer_over_seeds() -> None:
    """Two layers beside each other: each is what it is alone, and both have a mean and a worst."""
    single = [evaluation_of(share) for share in ([0.0, 0.2, 0.4, 0.6], [1.0, 0.8, 0.6, 0.4])]
    parts = [evaluation.counts.tensors() for evaluation in single if evaluation.counts]
    counts = RoutingCounts(**{name: torch.cat([p[name] for p in parts], 1) for name in parts[0]})
    card = score(subject_of(), replace(single[0], counts=counts))
    [model] = card.models
    assert model.layers == ("layer 0", "layer 1")
    for layer, evaluation in enumerate(single):
        alone = score(subject_of(), evaluation)
        for seed in (None, *SEEDS):
            mine = card.find(model.id, "alignment_score", seed, layer=layer)
            its = alone.find(model.id, "alignment_score", seed)
            assert mine is not None
            assert its is not None
            assert mine == replace(
                its,
                layer=layer,
                p_value=mine.p_value,
                null_low=mine.null_low,
                null_high=mine.null_high,
                p_adjusted=mine.p_adjusted,
                chance_permuted=mine.chance_permuted,
            )
    mean = card.find(model.id, "alignment_score", over="mean")
    worst = card.find(model.id, "alignment_score", SEEDS[0], over="worst", layer=0)
    assert mean is not None
    assert worst is not None
    assert mean.value == pytest.approx(0.5)
    assert worst.value == pytest.approx(0.0)
    over = card.find(model.id, "alignment_score", over="worst", layer=0)
    assert over is not None
    assert over.value == pytest.approx(0.3)  # the layer whose mean over seeds is worst
    check_scorecard(card, where="a card of two layers")
    assert [(each.seed, each.layer) for each in card.findings] == [
        (seed, layer) for seed in SEEDS for layer in (0, 1)
    ]
    assert len(card.activations) == len(SEEDS) * 2
    form = to_dict_form(card)
    jsonschema.validate(
        json.loads(json.dumps(form, allow_nan=False)), json.loads(SCHEMA.read_text())
    )


def test_one_seed_has_no_interval() -> None:
    card = card_of((0.3,))
    together = card.find(card.models[0].id, "collapse_avg")
    assert together is not None
    assert (together.low, together.high) == (None, None)
    assert together.note == "no interval: one seed says nothing of others"


def test_scoring_twice_gives_the_same_card() -> None:
    assert card_of() == card_of()


def test_a_failed_seed_is_marked_and_left_out() -> None:
    subject = subject_of(faults=("", "its weights are not finite", "", ""))
    evaluation = evaluation_of([0.0, 0.5, 0.5, 1.0], (loss_of([1, math.nan, 2, math.inf]),))
    mass = evaluation.counts.mass.clone()  # type: ignore[union-attr]
    mass[1] = math.nan
    counts = replace(evaluation.counts, mass=mass)  # type: ignore[type-var]
    card = score(subject, replace(evaluation, counts=counts))
    [model] = card.models
    assert [member.status for member in model.members] == ["ok", "failed", "ok", "ok"]
    loss = card.find(model.id, "in_distribution_loss")
    assert loss is not None
    assert (loss.value, loss.seeds) == (1.5, 2)
    assert loss.note.startswith("2 of 4 seeds left out: not finite")
    failed = card.find(model.id, "alignment_distance", SEEDS[1])
    assert failed is not None
    assert (failed.value, failed.note) == (None, "its weights are not finite")
    together = card.find(model.id, "alignment_score")
    assert together is not None
    assert together.value == pytest.approx(0.625)  # the mean over tasks: of (0 + .5) / 2 and 1
    assert together.seeds == 3
    json.dumps(to_dict_form(card), allow_nan=False)


def test_losses_of_sequences_are_named_by_length_and_shift() -> None:
    conditions = [(length, factor) for factor in (1.0, 2.0) for length in (3, 10, 30)]
    losses = tuple(
        loss_of([length * factor], length=length, factor=factor) for length, factor in conditions
    )
    card = score(subject_of(faults=("",), task="sets"), Evaluation(losses=losses))
    over = {entry.metric: entry.value for entry in card.scores if entry.seed is None}
    assert over["in_distribution_loss"] == pytest.approx(10)
    assert over["out_of_distribution_loss"] == pytest.approx(60)
    assert over["loss_at_length_3"] == pytest.approx(3)
    assert over["loss_at_length_30_x2"] == pytest.approx(60)


def test_classifiers_have_error_rates() -> None:
    subject = subject_of()
    subject = replace(subject, data=replace(subject.data, objective="classification"))
    losses = (loss_of([0.1] * 4), loss_of([0.2] * 4, factor=2.0))
    card = score(subject, Evaluation(losses=losses))
    rate = card.find(card.models[0].id, "out_of_distribution_error_rate")
    assert rate is not None
    assert rate.value == pytest.approx(0.002)
    assert rate.scale == 2


def test_a_recorded_matrix_is_scored_without_samples() -> None:
    joint = torch.eye(RULES, dtype=torch.float64)[None] / RULES
    subject = replace(subject_of(faults=("",)), network=None, joint=joint, objective_known=False)
    card = score(subject, Evaluation(losses=()))
    [model] = card.models
    assert (model.origin, model.data["objective"]) == ("matrix", None)
    entry = card.find(model.id, "alignment_distance")
    assert entry is not None
    assert (entry.value, entry.samples) == (0, None)


def test_cards_add_up_and_keep_their_models_apart() -> None:
    both = card_of() + card_of((0.1,))
    first, second = both.models
    assert first.id != second.id
    entry = both.find(second.id, "alignment_score")
    assert entry is not None
    assert entry.value == pytest.approx(0.1)


# --- files ---------------------------------------------------------------------------------------


def test_a_scorecard_survives_the_file_and_fits_its_schema(tmp_path: Path) -> None:
    card = card_of() + card_of((0.1,))
    write_scorecard(tmp_path / "card.json", card)
    form = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    jsonschema.validate(form, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert read_scorecard(tmp_path / "card.json") == card
    assert {
        "metric",
        "layer",
        "seed",
        "value",
        "low",
        "high",
        "chance",
        "better",
        "samples",
    } <= set(form["scores"][0])
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]


def test_a_scorecard_of_version_0_1_is_read_with_its_words_as_findings(tmp_path: Path) -> None:
    """Its words stood in the model, as ``verdicts``, and it had no findings of its own."""
    form = json.loads(json.dumps(to_dict_form(card_of())))
    del form["findings"]
    for model in form["models"]:
        del model["left_out"]
        model["verdicts"] = ["partial"]
    for entry in form["scores"]:
        del entry["few_samples"], entry["plug_in"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(form), encoding="utf-8")
    read = read_scorecard(path)
    assert [(each.layer, each.word) for each in read.findings] == [(None, "partial")]
    assert read.scores == card_of().scores


def test_every_field_is_documented_in_the_schema() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    form = to_dict_form(card_of())
    assert set(form) == set(schema["properties"])
    for part, kind in (("scores", "score"), ("models", "model"), ("activations", "activation")):
        assert set(form[part][0]) == set(schema["$defs"][kind]["properties"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "is not a scorecard"),
        ('{"scores": []}', "is not a scorecard"),
        ('{"format": 99, "scores": []}', "format 99"),
        ('{"format": 1, "scores": [{}]}', "is damaged"),
    ],
)
def test_what_is_no_scorecard_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScorecardError, match=message):
        read_scorecard(path)


def test_a_missing_scorecard_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ScorecardError, match="modeval score RUN --json"):
        read_scorecard(tmp_path / "none.json")


def test_places_that_cannot_be_written_are_refused_before_scoring(tmp_path: Path) -> None:
    with pytest.raises(ScorecardError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(ScorecardError, match="no such file or directory"):
        check_writable(tmp_path / "none" / "card.json")


def test_a_full_disk_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "card.json"
    path.write_text("old", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ScorecardError, match="the disk is full"):
        write_scorecard(path, card_of())
    assert path.read_text(encoding="utf-8") == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["card.json"]


def test_a_loss_that_is_less_certain_than_asked_for_says_so() -> None:
    """Squares far from the squared mean: ten samples leave the mean uncertain."""
    total = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    for square, noted in ((total.square() / 10, False), (total.square() * 2, True)):
        loss = Loss(None, 1.0, total, square, total / 100, 10)
        card = score(subject_of(), evaluation_of([0.1, 0.2, 0.3, 0.4], (loss,)), precision=0.005)
        losses = [each for each in card.scores if each.metric == "in_distribution_loss"]
        assert len(losses) == 5
        assert all(("the most samples" in each.note) is noted for each in losses)


def test_a_notebook_shows_a_scorecard_as_a_table_and_a_console_in_a_line():
    card = report_cards.trace("A <b> & c", layers=2)
    text = card._repr_html_()
    assert "<td>A &lt;b&gt; &amp; c</td>" in text
    assert "<th>Alignment score</th>" in text
    assert text.count("<tr>") == 2
    assert len(repr(card)) < 100
    assert str(len(card.scores)) in repr(card)
