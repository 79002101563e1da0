"""Maps in the terminal: numbers where there is room, shades where there is not."""

import io

import numpy as np
import report_cards as cards
from rich.console import Console

from modeval.report import scorecard_views
from modeval.report.routing_views import Map
from modeval.report.terminal.maps import Picture, side_by_side, trace_maps


def picture(matrix, rules, most=1.0, **options):
    modules = tuple(range(matrix.shape[1]))
    return Picture(
        found=Map(matrix=matrix, modules=modules, matched=(), **options),
        rules=tuple(rules),
        most=most,
    )


def shown(parts, width=80, **options):
    console = Console(file=io.StringIO(), width=width, **({"color_system": None} | options))
    for part in parts:
        console.print(part)
    return console.file.getvalue()


def maps_of(card):
    [view] = scorecard_views.entries([card], [""])
    return trace_maps(view)


def test_cells_hold_percent_and_modules_their_numbers():
    matrix = np.array([[1.0, 0.0, 0.05], [0.0, 0.65, 0.35]])
    lines = picture(matrix, ["short", "a name that is far too long"]).text(80, colours=False)
    assert lines.plain.splitlines() == [
        "             short 100   0   5 ",
        "a name that is fa…   0  65  35 ",
        "            module   0   1   2 ",
    ]


def test_many_modules_share_columns_and_keep_their_largest_share():
    matrix = np.zeros((2, 256))
    matrix[0, 0] = matrix[1, 255] = 0.5
    first, second, foot = picture(matrix, ["a", "b"], 0.5).text(60, colours=False).plain.split("\n")
    assert max(map(len, (first, second, foot))) <= 60
    assert first.lstrip(" a")[0] == "█"
    assert second[-1] == "█"
    assert "modules a column, those of the rules first" in foot


def test_colours_and_letters_tell_the_same():
    text = shown([picture(np.eye(2), "ab")], color_system="truecolor", force_terminal=True)
    assert "100" in text
    assert "\x1b[30;48;2;253;231;37m" in text  # black on the brightest


def test_three_layers_tell_and_lines_fit_the_terminal():
    text = shown(maps_of(cards.trace(layers=7, modules=64, choices=4)), width=60)
    assert text.count("alignment score") == 3
    assert "lowest" in text
    assert "highest" in text
    assert "2 experts a column, those of the rules first" in text
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("domain 0") == 3
    assert "░ from" in text


def test_cohorts_and_traces_without_labels_have_no_such_maps():
    assert shown(maps_of(cards.trace(labelled=False))) == ""


def test_one_layer_is_shown_without_a_word_on_layers():
    text = shown(maps_of(cards.trace(layers=1)))
    assert "OLMoE" in text
    assert "alignment" not in text


def test_the_mean_of_seeds_is_of_modules_in_the_order_of_their_rules():
    [entry] = scorecard_views.entries([cards.cohort(strength=9.0)], [""])
    lines = shown(side_by_side([(entry, None, "")])).splitlines()
    assert "mean of 3 seeds" in lines[0]
    for place, line in enumerate(lines[1:5]):
        assert line.split()[2:][place] in {"98", "99", "100"}
    assert "modules of the rules in order" in lines[5]
    assert "numbers are percent of a row" in lines[-2]
