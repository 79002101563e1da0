"""What ``import modeval`` offers: functions, whatever was imported before or after them."""

import itertools
import pydoc
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import modeval

FUNCTIONS = sorted(set(modeval.__all__) - {"__version__", "Scorecard"})
ROOMS = (
    "score.card",
    "gate.files",
    "record.labels",
    "evaluate.subject",
    "train.files",
    "train.records",
    "ablate.result",
)
SHADOWED = ("score", "gate", "record", "evaluate", "train", "ablate")


def output_of(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_name_is_a_function_with_words_about_itself(name: str) -> None:
    function = getattr(modeval, name)
    assert isinstance(function, FunctionType)
    assert function.__doc__
    assert name in dir(modeval)


def test_what_a_notebook_completes_is_what_there_is_to_call() -> None:
    assert [name for name in dir(modeval) if not name.startswith("_")] == sorted(
        {*FUNCTIONS, "Scorecard"}
    )


def test_importing_modeval_loads_nothing_heavy() -> None:
    heavy = "[name for name in ('torch', 'numpy', 'scipy') if name in sys.modules]"
    code = f"import sys, modeval; print({heavy})"
    assert output_of(code).strip() == "[]"


@pytest.mark.slow
def test_a_public_function_is_no_room_in_whatever_order_they_are_imported() -> None:
    """Six rooms, each before or after its function: one process tries all orders it can."""
    code = f"""
import importlib, sys, types
import modeval
def names():
    return [type(getattr(modeval, name)).__name__ for name in {SHADOWED!r}]
importlib.import_module("modeval.score.stored.files")
assert isinstance(modeval.score, types.FunctionType)
for room in {ROOMS!r}:
    importlib.import_module("modeval." + room)
    assert set(names()) == {{"function"}}, room
import modeval.gate.policy
assert set(names()) == {{"function"}}
from modeval.score.scorecard import Scorecard
assert Scorecard is modeval.Scorecard
from modeval import score
assert isinstance(score, types.FunctionType)
print("as they should be")
"""
    assert output_of(code).strip() == "as they should be"


def test_rooms_are_found_by_their_path_although_functions_have_their_names() -> None:
    from modeval.score.stored.files import SCHEMA  # noqa: PLC0415 - this is what is tested

    assert SCHEMA.is_file()
    assert isinstance(sys.modules["modeval.score"], ModuleType)
    for name in SHADOWED:
        setattr(modeval, name, sys.modules.get(f"modeval.{name}", ModuleType(name)))
        assert isinstance(getattr(modeval, name), FunctionType)


def test_help_lists_the_functions() -> None:
    text = pydoc.plain(pydoc.render_doc(modeval))
    for name in FUNCTIONS:
        assert f"{name}(" in text, name


def test_what_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'scor'"):
        getattr(modeval, "scor")  # noqa: B009 - mypy knows that it is not there


COUNTS = "fixtures/tiny-moe.counts.safetensors"


@pytest.fixture(scope="module")
def card() -> modeval.Scorecard:
    return modeval.score(Path(__file__).parents[1] / COUNTS, layers=[0, 1])


def test_a_scorecard_is_a_frame_with_a_row_for_each_score(card: modeval.Scorecard) -> None:
    pytest.importorskip("pandas")
    frame = card.to_frame()
    assert len(frame) == len(card.scores)
    told = frame[(frame.metric == "mutual_information") & (frame.layer == 1) & frame.over.isna()]
    score = card.find("tiny-moe", "mutual_information", layer=1)
    assert score is not None
    assert told.value.item() == score.value
    assert told.layer_name.item() == "model.layers.1.mlp.gate"


def test_a_scorecard_is_a_table_in_csv_latex_and_markdown(card: modeval.Scorecard) -> None:
    lines = card.to_csv().splitlines()
    assert len(lines) == len(card.scores) + 1
    assert lines[0].startswith("model,title,metric,layer_name,task_seed,model_seed")
    latex, markdown = card.to_latex(["load_cv"]), card.to_markdown(["load_cv"])
    assert latex.startswith(r"\begin{tabular}{lr}")
    assert "tiny-moe" in markdown
    assert [line.count("|") for line in markdown.splitlines()] == [3, 3, 3]
    with pytest.raises(modeval.score.__globals__["ModevalError"], match="There is no load"):
        card.to_latex(["load"])


def test_gate_and_compare_take_scorecards_as_they_are(card: modeval.Scorecard) -> None:
    result = modeval.gate(card, max=["layers.worst.dead_fraction=0.8"], models=["tiny*"])
    assert result.outcome == "pass"
    [lineage] = modeval.compare(card, card).lineages
    contrasts = [row.contrasts[1] for row in lineage.rows]
    assert all(each is not None and each.reading == "same" for each in contrasts)


def test_a_figure_is_an_object_of_matplotlib(card: modeval.Scorecard) -> None:
    pytest.importorskip("matplotlib")
    figure = modeval.plot("layers", card)
    assert figure.axes


def test_progress_is_told_to_whoever_listens() -> None:
    told: list[tuple[int, int]] = []
    path = Path(__file__).parents[1] / COUNTS
    modeval.score([path, path], layers=[0], watch=lambda *done: told.append(done))
    assert told[-1] == (1, 1)  # the same file twice is one source


@pytest.mark.slow
def test_a_run_goes_from_data_to_a_scorecard_without_the_command_line(tmp_path: Path) -> None:
    from modeval.spec import DataSpec, TrainSpec  # noqa: PLC0415

    data = DataSpec(rules=2)
    seeds = tuple(itertools.product((0,), (0, 1)))
    training = TrainSpec(steps=20, seeds=seeds)
    run = modeval.train(tmp_path / "run", data=data, training=training, device="cpu")
    assert run.status == "complete"
    found = modeval.evaluate(tmp_path / "run", precision=0.05, device="cpu")
    assert found.evaluation.counts is not None
    assert found.evaluation.counts.samples.shape[:2] == (2, 1)
    card = modeval.score(tmp_path / "run", precision=0.05, device="cpu")
    assert [member.seed for member in card.models[0].members] == [(0, 0), (0, 1)]
