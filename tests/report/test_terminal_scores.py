"""What the terminal shows of a scorecard, and in which order."""

import io

import report_cards as cards
from rich.console import Console

from modeval.report.terminal.scores import render
from modeval.report.words import number
from modeval.score.scorecard import Activation, Member, ModelRecord, Score, Scorecard
from modeval.spec import DataSpec, ModelSpec, to_dict

SEEDS = ((0, 0), (1, 0))


def model_of(name: str, *, failed: bool = False, modules: int = 2, rules: int = 2) -> ModelRecord:
    members = [Member(seed=seed, source="run") for seed in SEEDS[: 2 - failed]] + [
        Member(seed=(7, 9), source="run", status="failed", note="its weights are not finite")
    ] * failed
    return ModelRecord(
        id=name,
        title=name,
        origin="run",
        selection="last",
        data=to_dict(DataSpec(rules=rules)),
        model=to_dict(ModelSpec()),
        digest="0",
        modules=modules,
        members=tuple(members),
    )


def card_of(*models: ModelRecord, metrics=("alignment_distance", "loss_at_length_30_x2")):
    scores = [
        Score(
            model=model.id,
            metric=metric,
            value=0.25,
            low=0.125,
            high=0.375,
            chance=0.5,
            chance_hash=0.3,
            better="lower",
        )
        for model in models
        for metric in metrics
    ]
    activations = [
        Activation(model=model.id, seed=seed, matrix=((0.0, 1.0), (0.9, 0.1)))
        for model in models
        for seed in SEEDS
        if model.modules > 1
    ]
    return Scorecard(
        notes=("folder holds [nothing]",),
        models=models,
        scores=tuple(scores),
        activations=tuple(activations),
    )


def shown(card: Scorecard, width: int = 80, source: str = "") -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for part in render(card, source):
        console.print(part, highlight=False)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_values_intervals_chance_and_directions_are_shown() -> None:
    text = shown(card_of(model_of("Modular"), model_of("Other")), width=120)
    for wanted in (
        "2 rules · linear operations on two numbers · regression · 2 seeds",
        "Alignment distance ↓",
        "Loss at length 30, inputs x2 ↓",
        "0.250",
        "[0.125, 0.375]",
        "(0.500, 0.300)",
        "the 95 % interval over seeds",
        "note: folder holds [nothing]",
    ):
        assert wanted in text


def test_failed_seeds_are_named() -> None:
    text = shown(card_of(model_of("Modular", failed=True), model_of("Other")), width=200)
    assert "Modular, 1 of 2 seeds" in " ".join(text.split())
    assert "failed: Modular, task seed 7, model seed 9: its weights are not finite" in text


def test_four_models_fit_a_terminal_of_80_columns() -> None:
    names = ("Monolithic", "Modular", "Modular-op", "GT-Modular")
    lines = shown(card_of(*(model_of(name) for name in names))).splitlines()
    assert any(line.count("0.250") == 4 for line in lines)
    assert any(line.count("[0.125, 0.375]") == 4 for line in lines)


def test_tasks_stand_in_tables_of_their_own_in_the_order_of_their_numbers() -> None:
    models = [model_of(f"m{rules}", rules=rules) for rules in (16, 2, 8, 4)]
    text = shown(card_of(*models))
    places = [text.index(f"{rules} rules · ") for rules in (2, 4, 8, 16)]
    assert places == sorted(places)


def test_scores_stand_against_the_number_of_rules_where_there_are_several():
    text = shown(cards.paper())
    first = text.splitlines()[0]
    assert first.split()[:2] == ["Alignment", "score"]
    assert "2 rules" in first
    assert "8 rules" in first


def test_a_loss_stands_in_one_row_though_it_has_two_names():
    metrics = ("in_distribution_loss", "loss_at_length_10")
    text = shown(card_of(model_of("Modular"), metrics=metrics), width=120)
    assert "Loss in distribution" in text
    assert "length 10" not in text


def test_a_single_module_has_no_map() -> None:
    text = shown(card_of(model_of("Monolithic", modules=1)))
    assert "percent of a row" not in text
    assert "No routing: there is a single module" in text


def test_the_first_screen_of_a_trace_answers_three_questions():
    text = shown(cards.trace(), source="card.json")
    first = " ".join(text.splitlines()[:24])
    assert "specialised" in first.lower()
    assert "domain 0  expert" in first
    assert "Next: " in first
    assert first.index("specialised") < first.index("domain 0") < first.index("Next: ")
    assert text.index("Next: ") < text.index("95 % interval") < text.index("transformers 5.23")


def test_what_to_type_next_names_the_file():
    assert "modeval gate card.json" in " ".join(
        shown(cards.cohort(strength=30.0), source="card.json").split()
    )


def test_numbers_keep_three_digits_and_their_leading_zero() -> None:
    values = (0.0, 0.0042, 0.1234, 12.3, 1234.5, 0.99999999999, -0.5, 3e-7)
    assert [number(value) for value in values] == [
        "0",
        "0.0042",
        "0.123",
        "12.3",
        "1,234",
        "1",
        "-0.500",
        "3.0e-7",
    ]


def test_losses_by_phase_and_rule_stand_below_the_scores_of_a_model_of_several_phases():
    card = cards.with_course(cards.cohort("Modular", rules=3, modules=3))
    text = shown(card)
    assert "phase-1 (rule 0)" in text
    assert "failed" in text
    assert "phase-1" not in shown(cards.cohort("Modular", rules=3, modules=3))


def test_the_first_screen_of_a_cohort_says_what_goes_to_whose_module():
    text = " ".join(shown(card_of(model_of("Modular")), source="card.json").split())
    assert "Own module of each rule: rule 0 100 %, rule 1 90 % (even: 50 %)." in text
    assert text.index("Own module") < text.index("Alignment distance")


def test_commands_name_the_scorecard_that_is_shown():
    text = " ".join(shown(cards.trace(), source="card.json").split())
    assert "SCORECARD" not in text
