"""What removing modules did, and how alike two builds are: in a file, a gate and every report."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
from rich.console import Console
from typer.testing import CliRunner

from modeval.cli.main import app
from modeval.errors import ModevalError, ScorecardError
from modeval.metrics.removal_rows import kept_name
from modeval.report import scorecard_views
from modeval.report.html import render as page
from modeval.report.paper_figures import Style, numbers
from modeval.report.terminal.scores import render
from modeval.score.ablation import Ablation, Alone, Change, Foresight, Kept, RandomSets, Safe
from modeval.score.scorecard import Member, ModelRecord, Score, Scorecard
from modeval.score.stored.files import SCHEMA, read_scorecard, write_scorecard

RANDOM = tuple(round(0.01 * number, 6) for number in range(10, 30))
LABELS = ("code", "law")
FOUND = Ablation(
    model="tiny",
    layers=("model.0.gate", "model.1.gate"),
    modules=(4, 4),
    choices=(2, 2),
    labels=LABELS,
    documents=(5, 6),
    tokens=(50, 70),
    removal="reroute",
    within=0.05,
    loss=Change(2.5, 2.25, 2.75),
    by_label=(Change(2.0, 1.5, 2.5), Change(3.0, 2.5, 3.5)),
    contributions=({"routed": (9.0, 0.0, 3.0, 4.0)}, {"routed": (4.0, 4.0, 4.0, 4.0)}),
    routed=(((9.0, 0.0, 3.0, 4.0),) * 2, ((4.0,) * 4,) * 2),
    kept=(
        Kept(
            score="routed",
            share=0.75,
            kept=((0, 3, 2), (0, 1, 2)),
            change=Change(0.02, 0.01, 0.03),
            by_label=(Change(0.01, 0.0, 0.02), Change(0.03, 0.02, 0.04)),
            p=1 / 21,
            p_by_label=(1 / 21, 1 / 21),
        ),
    ),
    random=(RandomSets(share=0.75, kept=(3, 3), changes=RANDOM, by_label=(RANDOM, RANDOM)),),
    alone=tuple(
        Alone(
            layer=layer,
            module=module,
            change=Change(0.5, 0.4, 0.6),
            by_label=(Change(1.0, 0.5, 1.5), Change(0.1 * module, -0.1, 0.5)),
        )
        for layer in range(2)
        for module in range(4)
    ),
    foresight=(Foresight(score="routed", of="random sets", correlation=0.5, p=0.001),),
    safe=(Safe(score="routed", measured=0.75, sure=0.75),),
    texts="abc",
)


def agreement(layers: int = 2) -> Scorecard:
    """Return the scorecard of two builds, as ``modeval compare --agreement`` writes it."""
    names = tuple(f"model.{number}.gate" for number in range(layers))
    record = ModelRecord(
        id="int4-against-full",
        title="int4 against full",
        origin="trace",
        selection=None,
        data={"task": "agreement", "documents": 3, "tokens": 90},
        model={"choices": [2] * layers},
        digest="a-b",
        modules=4,
        layers=names,
        layer_modules=(4,) * layers,
        members=(Member(seed=None, source="int4.trace"),),
    )
    shared = [
        Score(
            model=record.id,
            metric="agreement_shared",
            layer=number if layers > 1 else None,
            value=0.9 - 0.1 * number,
            low=0.6,
            high=0.95,
            chance=0.5,
            chance_permuted=0.55,
            better="higher",
        )
        for number in range(layers)
    ]
    over = [replace(shared[-1], over="worst")] if layers > 1 else []
    return Scorecard(models=(record,), scores=(*over, *shared))


def shown(card: Scorecard) -> str:
    console = Console(width=100, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        for part in render(card, "card.json"):
            console.print(part)
    return " ".join(captured.get().split())


def gate(*words: object):
    return CliRunner().invoke(app, ["gate", *map(str, words)])


def test_an_ablation_goes_through_a_file_and_its_schema(tmp_path: Path) -> None:
    file = tmp_path / "ablation.json"
    write_scorecard(file, FOUND.card())
    jsonschema.validate(json.loads(file.read_text()), json.loads(SCHEMA.read_text()))
    again = read_scorecard(file)
    assert again.scores == FOUND.card().scores
    assert shown(again) == shown(FOUND.card())
    (kept,) = (s for s in again.scores if s.metric == "keep_75_by_routed")
    assert (kept.value, kept.low, kept.high, kept.p_value) == (0.02, 0.01, 0.03, 1 / 21)
    assert kept.chance == pytest.approx(sum(RANDOM) / 20)
    (worst,) = (s for s in again.scores if s.metric == "keep_75_by_routed_worst")
    assert worst.value == 0.03
    assert "law" in worst.note


def test_files_from_before_ablations_were_scorecards_are_read_as_before(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    form = {"kind": "modeval ablation", "version": 1, **asdict(FOUND)}
    old.write_text(json.dumps({key: form[key] for key in form if key not in ("texts", "seed")}))
    assert read_scorecard(old).scores == FOUND.card().scores


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modules": (4,)}, "modules of tiny are 1, expected 2"),
        ({"random": ()}, "there are no random sets of 0.75"),
        ({"safe": ()}, "keep-sets and safe shares go together"),
        ({"routed": (((9.0,),) * 2, ((4.0,) * 4,) * 2)}, "a list of layer 0 is not of its 4"),
    ],
)
def test_a_file_whose_parts_do_not_go_together_is_refused(tmp_path: Path, change, message) -> None:
    for form in (
        {"kind": "modeval ablation", **asdict(replace(FOUND, **change))},
        json.loads(
            json.dumps(asdict(replace(FOUND.card(), ablations=(replace(FOUND, **change),))))
        ),
    ):
        file = tmp_path / "damaged.json"
        file.write_text(json.dumps(form))
        with pytest.raises(ScorecardError, match=message):
            read_scorecard(file)


def test_a_gate_judges_what_can_go(tmp_path: Path) -> None:
    file, junit = tmp_path / "ablation.json", tmp_path / "gate.xml"
    write_scorecard(file, FOUND.card())
    asked = ["--max", "safe_share=0.8", "--significant", "keep_75_by_routed"]
    good = gate(file, *asked, "--max", "keep_75_by_routed_worst=0.05", "--junit", junit)
    assert good.exit_code == 0, good.output
    assert "mean of random sets" in " ".join(good.output.split())
    assert junit.read_text().count("<testcase") == 3
    assert gate(file, "--max", "keep_75_by_routed=0.01").exit_code == 1
    refused = gate(file, "--max", "keep_75_by_ruoted=0.01")
    assert isinstance(refused.exception, ModevalError)
    assert "there is no metric" in str(refused.exception)
    before = tmp_path / "before.json"
    write_scorecard(before, FOUND.card())
    assert gate(file, "--baseline", before, "--max-drop", "keep_75_by_routed=0.01").exit_code == 0
    write_scorecard(before, replace(FOUND, texts="other").card())
    other = gate(file, "--baseline", before, "--max-drop", "keep_75_by_routed=0.01")
    assert other.exit_code == 2
    assert "data.texts" in other.output


def test_reports_of_an_ablation_say_what_can_go() -> None:
    for told in (shown(FOUND.card()), page([FOUND.card()], ["a.json"])):
        text = told.replace("\N{NO-BREAK SPACE}", " ")
        assert "Keeping 75 % of the experts by routed is enough" in text
        assert "no token chose expert 1" in text
        for said in ("uniform routing:", "> uniform routing<", "Uniform routing</th"):
            assert said not in text, "its chance level is that of random keep-sets"
    assert "removing experts at random" in text


@pytest.mark.parametrize("layers", [1, 2])
def test_reports_of_two_builds_say_how_much_they_share(layers: int) -> None:
    card = agreement(layers)
    for text in (shown(card), page([card], ["agreement.json"])):
        assert "int4 against full" in text
        assert ("0.800" if layers > 1 else "0.900") in text
    assert "share 0." in page([card], ["agreement.json"])


def test_what_labels_need_stands_beside_what_is_sent_to_modules() -> None:
    card = FOUND.card()
    effect = card.effects[0]
    assert effect.needed[0] == (0.25, 0.25, 0.25, 0.25)
    assert effect.needed[1] == (0.0, 0.0, 0.0, 1.0), "the others are below their own error"
    assert card.activations[0].matrix[0] == (9 / 16, 0.0, 3 / 16, 4 / 16)
    views = scorecard_views.entries([card], ["a.json"])
    tables = numbers("heatmap", views, Style(layer=0))
    assert [table.caption for table in tables] == [
        "Modules removed: layer 0",
        "Modules removed: layer 0, needed",
    ]


def test_names_of_shares_have_no_dot_that_a_policy_would_split() -> None:
    assert kept_name(1 / 3, "reap") == "keep_33_333333_by_reap"
