"""What the terminal shows of a scorecard."""

import io

import torch
from rich.console import Console

from modeval.report.terminal.scores import draw, matched_order, render
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


def card_of(*models: ModelRecord) -> Scorecard:
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
        for metric in ("alignment_distance", "loss_at_length_30_x2")
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


def shown(card: Scorecard, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for part in render(card):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_values_intervals_chance_and_directions_are_shown() -> None:
    text = shown(card_of(model_of("Modular"), model_of("Other")))
    for wanted in (
        "2 rules · linear operations on two numbers · regression",
        "Alignment distance ↓",
        "Loss, length 30 x2 ↓",
        "0.250",
        ".125\N{EN DASH}.375",
        "0.500",
        "0.300",
        "2 seeds",
        "95% interval over seeds",
        "note: folder holds [nothing]",
    ):
        assert wanted in text


def test_failed_seeds_are_named() -> None:
    text = shown(card_of(model_of("Modular", failed=True)), width=200)
    assert "1 of 2 seeds" in text
    assert "failed: Modular, task seed 7, model seed 9: its weights are not finite" in text


def test_four_models_fit_a_terminal_of_80_columns() -> None:
    names = ("Monolithic", "Modular", "Modular-op", "GT-Modular")
    lines = shown(card_of(*(model_of(name) for name in names))).splitlines()
    assert any("Alignment distance ↓" in line and line.count("0.250") == 4 for line in lines)


def test_models_of_different_tasks_stand_in_different_tables() -> None:
    text = shown(card_of(model_of("a"), model_of("b", rules=4), model_of("c")))
    assert text.count("Alignment distance") == 2
    assert text.index("2 rules") < text.index("4 rules")


def test_a_single_module_has_no_map() -> None:
    text = shown(card_of(model_of("Monolithic", modules=1)))
    assert "rows rules" not in text
    assert "losses only" in text


def test_the_map_puts_modules_in_the_order_of_their_rules() -> None:
    matrix = torch.tensor([[0.0, 1.0, 0.0], [0.9, 0.1, 0.0]])
    assert matched_order(matrix) == [1, 0, 2]
    assert draw(matrix[:, [1, 0, 2]]).plain.splitlines()[:2] == ["██    ", "░░██  "]


def test_the_map_shows_low_shares_and_says_what_its_shades_mean() -> None:
    first, *_, legend = draw(torch.tensor([[0.039, 0.041, 0.17, 0.37, 0.65]])).plain.splitlines()
    assert first == "  ░░▒▒▓▓██"
    assert legend == "░ from 4%  ▒ 16%  ▓ 36%  █ 64%"


def test_numbers_keep_three_digits() -> None:
    assert [number(value) for value in (0.0, 0.0042, 0.1234, 12.3, 1234.5)] == [
        "0.000",
        "4.2e-3",
        "0.123",
        "12.300",
        "1,234",
    ]
