"""Maps of traces in the terminal."""

import io

import numpy as np
import report_cards as cards
from rich.console import Console

from modeval.report.scorecard_views import Map
from modeval.report.terminal.maps import draw_map, render_maps


def shown(card, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for part in render_maps(card, width=width):
        console.print(part)
    return console.file.getvalue()


def test_rules_have_names_and_shades_follow_the_square_root():
    matrix = np.array([[1.0, 0.0, 0.05], [0.0, 0.65, 0.35]])
    text = draw_map(
        Map(matrix=matrix, modules=(0, 1, 2), matched=(0, 1)),
        ["short", "a name that is far too long"],
        1.0,
        width=80,
    ).plain.splitlines()
    assert text == ["             short ██  ░░", "a name that is fa…   ██▒▒"]


def test_many_modules_share_columns_and_keep_their_largest_share():
    matrix = np.zeros((2, 256))
    matrix[0, 0] = matrix[1, 255] = 0.5
    first, second = draw_map(
        Map(matrix=matrix, modules=tuple(range(256)), matched=(0, 255)), ["a", "b"], 0.5, width=60
    ).plain.splitlines()
    assert len(first) <= 60
    assert first.lstrip(" a")[0] == "█"
    assert second[-1] == "█"


def test_three_layers_tell_and_lines_fit_the_terminal():
    text = shown(cards.trace(layers=7, modules=64, choices=4), width=60)
    assert text.count("alignment score") == 3
    assert "lowest" in text
    assert "highest" in text
    assert "2 modules a column, those of the rules first" in text
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("domain 0") == 3


def test_cohorts_and_traces_without_labels_have_no_such_maps():
    assert shown(cards.cohort()) == ""
    assert shown(cards.trace(labelled=False)) == ""


def test_one_layer_is_shown_without_a_word_on_layers():
    text = shown(cards.trace(layers=1))
    assert "OLMoE" in text
    assert "alignment" not in text
