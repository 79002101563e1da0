"""Figures for papers: what they show is what scorecards say, and the bytes stay the same."""

import csv
import itertools
import math
import re
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import report_cards as cards
from matplotlib.collections import PolyCollection
from scipy.stats import binomtest

import modeval
from modeval.errors import DependencyError, ScorecardError, SpecError
from modeval.pipeline.plotting import Drawn, drawn_numbers, left_out, undrawn
from modeval.report import routing_views, scorecard_views, table_formats
from modeval.report.paper import charts, course, rules, winners
from modeval.report.paper.charts import Chart, Line, Point
from modeval.report.paper.style import told_apart
from modeval.report.paper.winners import wilson
from modeval.report.paper_figures import (
    COLOURS,
    KINDS,
    WIDTHS,
    Curves,
    Style,
    curve_numbers,
    draw,
    draw_curves,
    numbers,
    save,
)
from modeval.score.scorecard import together


def entries(*given):
    return scorecard_views.entries(given, [f"{place}.json" for place in range(len(given))])


@pytest.fixture(scope="module")
def paper():
    return entries(cards.with_course(cards.paper()))


@pytest.fixture(scope="module")
def deep():
    return entries(cards.trace(layers=6))


def test_the_course_has_a_line_for_each_rule_and_a_point_for_each_phase(paper):
    for chart in course.charts(paper, Style()):
        first, *_, last = [[point.value for point in line.points] for line in chart.lines]
        assert first == [1.0, 0.1, 0.9]
        assert last == [1.0, 1.5]  # the last loss is not finite
    with pytest.raises(ScorecardError, match="--regime sequential"):
        course.charts(entries(cards.paper()), Style())


def curves(seeds=3, steps=5, name="Modular", task="2 rules"):
    values = np.exp(-np.arange(steps) / 2) * np.linspace(1, 2, seeds)[:, None]
    return Curves(name=name, task=task, steps=np.arange(1.0, steps + 1), values=values)


def figure_of(kind, paper, deep, **style):
    return draw(kind, deep if kind == "layers" else paper, Style(**style))


# --- files ---------------------------------------------------------------------------------------


KINDS_AND_FORMATS = [(kind, "svg") for kind in KINDS] + [("heatmap", "png"), ("layers", "pdf")]


@pytest.mark.parametrize(("kind", "suffix"), KINDS_AND_FORMATS)
def test_the_same_scorecard_gives_the_same_bytes(kind, suffix, paper, deep):
    first, second = (save(figure_of(kind, paper, deep), suffix, dpi=60) for _ in range(2))
    assert first == second
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert first.startswith(start)
    assert not re.search(rb"20\d\d-\d\d-\d\dT|CreationDate", first)


def test_fonts_are_embedded_and_lines_are_lines(paper, deep):
    content = save(figure_of("layers", paper, deep), "pdf")
    assert b"/FontFile2" in content  # TrueType, which journals accept
    assert b"/Type3" not in content
    assert b"/Subtype /Image" not in content
    drawing = save(figure_of("layers", paper, deep), "svg")
    assert b"<image" not in drawing
    assert b"<text" not in drawing  # letters are outlines: no font is needed to show them


def test_a_users_own_style_does_not_change_a_figure(paper, deep):
    import matplotlib as mpl  # noqa: PLC0415

    before = save(figure_of("ranking", paper, deep), "svg")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": "other"}):
        assert save(figure_of("ranking", paper, deep), "svg") == before


@pytest.mark.parametrize("width", WIDTHS.values())
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_off_at_the_widths_of_columns(kind, width, paper, deep):
    figure = figure_of(kind, paper, deep, width=width)
    assert figure.get_figwidth() == width
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()  # in inches, of all that is drawn
    assert min(drawn.x0, drawn.y0) >= -0.01
    assert drawn.x1 <= width + 0.01
    assert drawn.y1 <= figure.get_figheight() + 0.01
    assert figure.get_suptitle() == ""


def test_names_may_hold_anything_and_be_long():
    long = r"$E = mc^2$ \\frac{" + "a" * 60
    card = cards.trace(layers=3)
    record = replace(
        card.models[0],
        title=long,
        rules=(long, "$", "b"),
        layers=tuple(f"$_{layer}" for layer in range(3)),
    )
    found = entries(replace(card, models=(record,)))
    for kind in ("ranking", "heatmap", "layers", "budget"):
        figure = draw(kind, found, Style(title="$5"))
        assert save(figure, "svg")
        assert figure.get_tightbbox().x0 >= -0.01


def test_layers_may_differ_in_their_number_of_modules(deep):
    other = entries(cards.trace("Wide", layers=4, modules=24, choices=3))
    figure = draw("layers", [*deep, *other], Style())
    assert len(figure.axes) == 3
    assert save(draw("heatmap", [*deep, *other], Style()), "png", dpi=50)


def test_a_title_is_there_when_asked_for(paper, deep):
    assert figure_of("ranking", paper, deep, title="Binary").get_suptitle() == "Binary"


def test_an_unknown_format_is_refused(paper, deep):
    with pytest.raises(SpecError, match=r"'gif'.*\.png, \.svg, \.pdf"):
        save(figure_of("ranking", paper, deep), "gif")


def test_without_matplotlib_the_error_says_what_to_install(paper, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match=r"modeval-cli\[report\]"):
        draw("ranking", paper, Style())


# --- what they show ------------------------------------------------------------------------------


def lines_of(panel):
    return {line.get_label(): line for line in panel.get_lines()}


def test_the_ranking_puts_the_best_on_top_for_either_direction(paper):
    style = Style(metrics=("alignment_score", "inverse_mutual_information"))
    figure = draw("ranking", paper, style)
    for panel in figure.axes:
        names = [label.get_text() for label in panel.get_yticklabels()]
        assert names == ["GT-Modular", "Modular-op", "Modular"]
        assert panel.yaxis_inverted()
    drawn = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    seeds = [line for line in drawn if len(line.get_xdata())]  # the key has a dot of its own
    expected = [
        sorted(value for _, value in scorecard_views.by_seed(entry, "alignment_score"))
        for entry in paper[:3]
    ]
    assert sorted(sorted(line.get_xdata()) for line in seeds) == sorted(expected)


def test_lines_against_rules_hold_the_scores(paper):
    figure = draw("specialisation", paper, Style(metrics=("alignment_distance",)))
    [panel] = figure.axes
    drawn = {tuple(np.round(line.get_ydata(), 9)) for line in panel.get_lines()}
    for name in ("GT-Modular", "Modular", "Modular-op"):
        found = scorecard_views.against_rules(paper, "alignment_distance")[name]
        assert [rules for rules, _ in found] == [2, 8]
        assert tuple(round(score.value, 9) for _, score in found) in drawn
    assert (0.5, 0.875) in drawn  # uniform routing, 1 - 1/R
    assert [label.get_text() for label in panel.get_xticklabels()] == ["2", "8"]


def test_layers_show_values_interval_and_the_band_of_permuted_labels(deep):
    [panel] = draw("layers", deep, Style(metrics=("alignment_score",))).axes
    scores = scorecard_views.by_layer(deep[0], "alignment_score")
    curve = max(panel.get_lines(), key=lambda line: line.get_linewidth())
    assert curve.get_ydata().tolist() == [score.value for score in scores]
    bands = [band.get_paths()[0].vertices[:, 1] for band in panel.collections]
    assert any(low.min() == pytest.approx(min(score.null_low for score in scores)) for low in bands)
    assert any(high.max() == pytest.approx(max(score.high for score in scores)) for high in bands)


def test_bars_of_the_budget_end_at_one(deep):
    [panel] = draw("budget", deep, Style()).axes
    ends = {}
    for bar in panel.patches:
        ends[bar.get_y()] = max(ends.get(bar.get_y(), 0), bar.get_x() + bar.get_width())
    assert len(ends) == 6
    assert list(ends.values()) == pytest.approx([1.0] * 6)


def test_a_heat_map_shows_the_layer_that_is_asked_for(deep):
    figure = draw("heatmap", deep, Style(layer=2))
    shown = figure.axes[0].get_images()[0].get_array()
    [each] = routing_views.activations(deep[0], 2)
    np.testing.assert_array_equal(shown, routing_views.ordered_map(each).matrix)
    rules = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rules == ["domain 0", "domain 1", "domain 2"]


def test_curves_are_means_over_seeds_that_are_finite():
    given = curves()
    given.values[1, 2:] = np.nan
    [panel] = draw_curves([given], Style()).axes
    mean = max(panel.get_lines(), key=lambda line: line.get_linewidth())
    np.testing.assert_allclose(mean.get_ydata()[:2], given.values[:, :2].mean(0))
    np.testing.assert_allclose(mean.get_ydata()[2:], given.values[[0, 2], 2:].mean(0))
    assert len(panel.get_lines()) == 4
    assert panel.get_yscale() == "log"


def test_runs_of_other_tasks_get_a_panel_of_their_own():
    figure = draw_curves([curves(), curves(name="Op"), curves(task="8 rules")], Style())
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["2 rules", "8 rules"]


def test_colours_differ_for_the_colour_blind():
    """Simulate deuteranopia and protanopia (Vienot 1999) and measure distances in CIELAB."""
    rgb = np.array([[int(c[n : n + 2], 16) / 255 for n in (1, 3, 5)] for c in COLOURS[:4]])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_lms = np.array(
        [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
    )
    views = {
        "deuteranopia": [[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]],
        "protanopia": [[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]],
    }
    for view in views.values():
        seen = linear @ to_lms.T @ np.array(view).T @ np.linalg.inv(to_lms).T
        lab = to_lab(np.clip(seen, 0, 1))
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
        assert apart[np.triu_indices(4, 1)].min() > 10  # 2.3 is a just noticeable difference


def to_lab(linear):
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack(
        [
            116 * root[:, 1] - 16,
            500 * (root[:, 0] - root[:, 1]),
            200 * (root[:, 1] - root[:, 2]),
        ],
        axis=-1,
    )


# --- refusals ------------------------------------------------------------------------------------


def test_an_unknown_kind_is_refused(paper):
    with pytest.raises(SpecError, match=r"'pie'.*ranking"):
        draw("pie", paper, Style())


@pytest.mark.parametrize("kind", ["collapse", "specialisation", "losses", "end-to-end"])
def test_one_number_of_rules_is_no_axis(kind, deep):
    with pytest.raises(ScorecardError, match=r"have one \(4\).*modeval plot ranking"):
        draw(kind, entries(cards.cohort()), Style())
    with pytest.raises(ScorecardError, match="modeval plot layers"):
        draw(kind, deep, Style())


@pytest.mark.parametrize(
    ("kind", "style", "message"),
    [
        ("layers", Style(), "several routed layers"),
        ("heatmap", Style(), "no activation matrix"),
        ("budget", Style(), "two modules or more"),
        ("ranking", Style(metrics=("alignment_scroe",)), "'alignment_scroe'; there are in_dist"),
    ],
)
def test_what_is_not_there_is_named(kind, style, message):
    with pytest.raises(ScorecardError, match=message):
        draw(kind, entries(cards.cohort("Monolithic", modules=1)), style)


def test_a_layer_that_is_not_there_is_refused(deep):
    with pytest.raises(ScorecardError, match="layers 0 to 5"):
        draw("heatmap", deep, Style(layer=6))


def test_runs_without_a_validation_have_no_curve():
    with pytest.raises(ScorecardError, match="has been validated"):
        draw_curves([curves(steps=0)], Style())


def test_runs_that_were_validated_once_have_no_curve():
    with pytest.raises(ScorecardError, match="shorter --validate-every, as 50"):
        draw_curves([replace(curves(steps=1), steps=np.array([1000.0]))], Style())


# --- figures of a sweep, and the same numbers as tables -------------------------------------------


@pytest.fixture(scope="module")
def grid():
    """Return cohorts of two objectives and three numbers of rules."""
    made = []
    for count, objective in itertools.product((2, 4, 8), ("regression", "classification")):
        for title, strength in (("Monolithic", 0), ("Modular", 1.0), ("GT-Modular", 9.0)):
            card = cards.cohort(
                title, rules=count, modules=1 if title == "Monolithic" else count, strength=strength
            )
            [record] = card.models
            data = {**record.data, "objective": objective}
            better = {"Monolithic": 1.0, "Modular": 0.9, "GT-Modular": 0.5}[title]
            if (count, objective) == (2, "regression"):
                better = 1 / better
            scores = tuple(
                replace(score, value=score.value * better)
                if score.metric.endswith("loss") and score.value is not None
                else score
                for score in card.scores
            )
            made.append(replace(card, models=(replace(record, data=data),), scores=scores))
    return entries(together(made))


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"removal", "course", "layers"}))
def test_what_a_figure_leaves_out_is_known(grid, kind):
    found = Drawn(kind=kind, entries=grid)
    tables = drawn_numbers(found, Style())
    cells = [cell.text for table in tables for row in table.rows for cell in row]
    text = " ".join([*cells, *(part for each in tables for part in (each.caption, *each.columns))])
    absent = {view.name for view in grid if not re.search(rf"(?<![\w-]){view.name}(?![\w-])", text)}
    assert {*undrawn(found)} == absent
    assert bool(left_out(found)) == bool(absent)


def test_python_says_what_a_figure_leaves_out_as_the_command_does(paper, deep):
    said = "is not in it: it takes several routed layers."
    cards = [paper[0].card, deep[0].card]
    with pytest.warns(UserWarning, match=said) as caught:
        modeval.plot("layers", cards, models=[paper[0].name, deep[0].name])
    assert [each.filename for each in caught] == [__file__]  # it points at the call
    modeval.plot("layers", [deep[0].card])  # warnings are errors here: nothing is left out


def _spaced(title):
    return title.replace("\N{NO-BREAK SPACE}", " ")


def shares(grid, title):
    [found] = [each for each in winners.charts(grid, Style()) if _spaced(each.title) == title]
    return {line.name: line.points[0] for line in found.lines}


def test_winners_are_counted_by_task_and_setting(grid):
    found = shares(grid, "In distribution, of 3 models\nregression")
    assert {name: point.said for name, point in found.items() if point.said} == {
        "Monolithic": "2 of 6",  # two tasks of two rules
        "Modular": "0 of 6",
        "GT-Modular": "4 of 6",
    }
    assert found["GT-Modular"].low == pytest.approx(wilson(4, 6)[0])
    pair = shares(grid, "In distribution, of 2 models\nclassification")
    assert [pair[name].said for name in ("Monolithic", "Modular")] == ["0 of 6", "6 of 6"]


@pytest.mark.parametrize(("won", "of"), [(0, 5), (3, 5), (5, 5), (17, 40)])
def test_intervals_of_shares_are_wilsons(won, of):
    known = binomtest(won, of).proportion_ci(0.95, method="wilson")
    assert wilson(won, of) == pytest.approx((known.low, known.high))


def test_models_of_several_sizes_make_no_more_witnesses_of_a_task():
    parts = {task: [1.0, 1.0, 0.0, 1.0, 1.0] for task in range(5)}
    found = winners.counted(parts)
    assert (found.won, found.tasks) == (pytest.approx(4.0), 5)
    assert (found.low, found.high) == pytest.approx(wilson(4, 5))


def test_a_tie_is_shared(grid):
    tied = [
        replace(entry, card=replace(entry.card, scores=tuple(
            replace(score, value=1.0) if score.metric.endswith("loss") else score
            for score in entry.card.scores
        )))
        for entry in grid
    ]  # fmt: skip
    found = shares(tied, "In distribution, of 3 models\nregression")
    assert [point.value for point in found.values()] == pytest.approx([1 / 3] * 4)


def test_objectives_are_drawn_apart(grid):
    titles = [chart.title for chart in rules.losses(grid, Style())]
    assert len(titles) == len(set(titles)) == 4
    assert sum(title.endswith("regression") for title in titles) == 2
    for chart in rules.losses(grid, Style()):
        assert {tuple(point.x for point in line.points) for line in chart.lines} == {(2, 4, 8)}


def test_end_to_end_is_the_distance_from_uniform_routing(grid):
    plain = {chart.title: chart for chart in rules.specialisation(grid, Style())}
    for chart in rules.end_to_end(grid, Style(metrics=("alignment_distance",))):
        level = {p.x: p.value for line in chart.lines for p in line.points if not p.value}
        assert set(level) == {2, 4, 8}
        known = {line.name: line.points for line in plain[chart.title].lines}
        drawn = {line.name: line.points for line in chart.lines}
        for mine, its, chance in zip(
            drawn["Modular"], known["Modular"], known["uniform routing"], strict=True
        ):
            assert mine.value == pytest.approx(its.value - chance.value)
            assert mine.high - mine.low == pytest.approx(its.high - its.low)
        assert "Monolithic" not in drawn


@pytest.mark.parametrize("kind", KINDS)
def test_tables_hold_the_numbers_of_every_kind_in_every_format(kind, grid, deep, paper):
    source = {"layers": deep, "removal": paper, "course": paper}.get(kind, grid)
    found = numbers(kind, source, Style())
    assert found
    for form in ("csv", "latex", "md", "json"):
        text = table_formats.FORMATS[form](found)
        assert all(row[0].text[:2] in text for table in found for row in table.rows)
    read = list(csv.DictReader(table_formats.FORMATS["csv"](found).splitlines()))
    assert len(read) == sum(len(table.rows) for table in found)


def test_the_numbers_in_the_table_are_those_in_the_figure(grid):
    style = Style(metrics=("alignment_distance",))
    figure = draw("specialisation", grid, style)
    drawn = {
        round(float(y), 9)
        for axes in figure.axes
        for line in axes.get_lines()
        for y in line.get_ydata()
    }
    written = {
        round(cell.key, 9)
        for table in numbers("specialisation", grid, style)
        for row in table.rows
        for cell in row[1:]
    }
    assert written == drawn


def test_curves_are_written_as_means_and_seed_by_seed():
    means, seeds = curve_numbers([curves(), curves(name="Op", seeds=1)])
    assert means.columns == ("steps", "Modular", "Op")
    assert [row[1].key for row in means.rows] == pytest.approx(curves().values.mean(0).tolist())
    assert seeds.columns == ("steps", *(f"Modular, seed {number}" for number in (1, 2, 3)))


def test_without_rivals_there_are_no_winners(deep):
    for alone in (entries(cards.cohort()), deep):
        with pytest.raises(ScorecardError, match="modeval sweep plan"):
            winners.charts(alone, Style())


# --- many groups, and what a reader must be able to read -----------------------------------------


@pytest.fixture(scope="module")
def sweep():
    return entries(*(cards.cohort(rules=rules, modules=rules) for rules in (16, 2, 8, 4)))


@pytest.mark.parametrize("kind", ["ranking", "heatmap", "budget"])
def test_many_groups_fit_in_the_order_of_their_numbers(kind, sweep):
    figure = draw(kind, sweep, Style())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "axes sizes collapsed to zero"
        figure.draw_without_rendering()
    panels = [panel for panel in figure.axes if panel.axison]
    assert min(panel.get_window_extent().width for panel in panels[:-1]) > 0.5 * figure.dpi
    said = [f"{panel.get_title(loc='left')} {panel.get_ylabel()}" for panel in panels]
    order = [int(found[1]) for text in said if (found := re.search(r"(\d+) rules", text))]
    assert order[:4] == [2, 4, 8, 16]


def test_a_model_keeps_its_colour_from_panel_to_panel(paper):
    figure = draw("ranking", paper, Style(metrics=("alignment_score", "in_distribution_loss")))
    colours = {}
    for panel in figure.axes:
        names = [label.get_text() for label in panel.get_yticklabels()]
        for line in panel.get_lines():
            if line.get_marker() == "o" and len(line.get_ydata()):
                colours.setdefault(names[int(line.get_ydata()[0])], set()).add(line.get_color())
    assert {len(found) for found in colours.values()} == {1}
    assert len({next(iter(found)) for found in colours.values()}) == len(colours)


def test_a_map_names_its_modules_and_writes_percent_where_there_is_room(deep):
    [panel, bar] = draw("heatmap", deep, Style(layer=2, width=7.0)).axes
    [each] = routing_views.activations(deep[0], 2)
    found = routing_views.ordered_map(each)
    assert [int(label.get_text()) for label in panel.get_xticklabels()] == list(found.modules)
    assert panel.get_xlabel() == "expert"
    written = [int(text.get_text()) for text in panel.texts]
    assert written == [round(100 * share) for share in found.matrix.ravel().tolist()]
    assert "line: even" in bar.get_ylabel() or bar.get_ylabel() == "share"


def test_keys_name_seeds_intervals_and_bands(paper, deep):
    words = {
        text.get_text()
        for kind, found in (("ranking", paper), ("specialisation", paper), ("layers", deep))
        for key in draw(kind, found, Style()).legends
        for text in key.get_texts()
    }
    assert {"one seed", "95 % interval over 3 seeds", "permuted labels (middle 95 %)"} <= words


def test_a_notebook_shows_a_figure(paper):
    assert draw("budget", paper, Style())._repr_png_().startswith(b"\x89PNG")


def test_a_score_that_is_none_of_collapse_is_sent_to_its_own_kind(paper):
    with pytest.raises(SpecError, match="plot specialisation --metric alignment_score"):
        draw("collapse", paper, Style(metrics=("alignment_score",)))


def test_of_many_seeds_curves_show_the_middle_half():
    pytest.importorskip("matplotlib")
    steps = tuple(Point(x=step, value=1.0) for step in range(3))
    seeds = tuple((number / 8, 1.0, math.nan if number else 2.0) for number in range(9))
    figure = charts.draw(
        [Chart(title="", x="steps", lines=(Line(name="a", points=steps, seeds=seeds),))], Style()
    )
    [band] = figure.axes[0].collections
    heights = band.get_paths()[0].vertices
    assert set(heights[heights[:, 0] == 0, 1]) >= {0.25, 0.75}
    assert [text.get_text() for text in figure.legends[0].texts][1].startswith("middle half")


def test_tasks_of_two_objectives_have_names_of_their_own(grid):
    found = told_apart(scorecard_views.groups(grid))
    assert len(set(found)) == len(found) == 6
    assert "2 rules · classification" in found


def test_a_layer_without_an_interval_interrupts_the_band(deep):
    [view] = deep
    known = [s for s in view.card.scores if s.metric == "collapse_worst" and s.layer is not None]
    missing = {s.layer for s in known if s.low is None}
    assert missing
    figure = draw("layers", deep, Style(metrics=("collapse_worst",)))
    bands = [part for part in figure.axes[0].collections if isinstance(part, PolyCollection)]
    covered = [path.vertices for band in bands for path in band.get_paths()]
    assert covered
    for layer in missing:
        assert not any(xy[:, 0].min() < layer < xy[:, 0].max() for xy in covered)


def test_an_interval_that_reaches_below_a_logarithmic_axis_ends_at_its_floor():
    points = (
        Point(x=2, value=0.1, low=-0.1, high=0.3),
        Point(x=4, value=0.1, low=0.09, high=0.11),
    )
    chart = Chart(title="a", x="rules", scale="both", lines=(Line(name="b", points=points),))
    [axes] = charts.draw([chart], Style()).axes
    floor, _ = axes.get_ylim()
    [band] = (part for part in axes.collections if part.get_paths())
    assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(floor)


def test_courses_and_removals_name_their_task_and_random_orders_their_band(paper):
    for kind in ("course", "removal"):
        figure = draw(kind, paper, Style())
        named = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
        assert len(set(named)) == len(named), kind
        assert named[0].splitlines()[-1].endswith("2 rules"), kind
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("of random orders" in text for text in said)
