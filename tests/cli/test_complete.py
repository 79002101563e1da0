"""A shell completes every value of which a list is known."""

from pathlib import Path
from typing import Any

import pytest
import typer.main
from gate_cards import cohort_card
from typer.testing import CliRunner

from modeval.cli.main import app
from modeval.score.stored.files import scorecard_text
from modeval.trace.trace import TraceHeader

ROOT: Any = typer.main.get_command(app)


def commands() -> list[tuple[list[str], Any]]:
    """Return every command and the words that call it."""
    groups = [([name], command) for name, command in ROOT.commands.items()]
    return [
        (words + within, inner)
        for words, command in groups
        for within, inner in (
            [([name], each) for name, each in command.commands.items()]
            if hasattr(command, "commands")
            else [([], command)]
        )
    ]


def offered(words: list[str], incomplete: str) -> list[str]:
    """Ask as bash does."""
    line = ["modeval", *words, incomplete]
    asked = {
        "_MODEVAL_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(line) - 1),
    }
    said = CliRunner().invoke(app, [], env=asked, prog_name="modeval")
    return said.output.split()


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        ([], "sco", "score"),
        (["train", "--model"], "gt", "gt-modular"),
        (["train", "--task"], "se", "series"),
        (["train", "--gating"], "gum", "gumbel"),
        (["train", "--computation"], "low", "low-rank"),
        (["train", "--engine"], "fu", "fused"),
        (["train", "--device"], "cu", "cuda"),
        (["generate", "--format"], "pa", "parquet"),
        (["systems"], "poly", "polytropon"),
        (["metrics"], "align", "alignment_score"),
        (["help"], "pol", "policies"),
        (["plot"], "cur", "curves"),
        (["plot"], "tr", "trend"),
        (["plot", "layers", "a.json", "--metric"], "coll", "collapse_worst"),
        (["plot", "layers", "a.json", "--width"], "d", "double"),
        (["report", "--format"], "la", "latex"),
        (["report", "--table"], "gl", "glance"),
        (["compare", "--metric"], "a", "all"),
        (["gate", "--max"], "coll", "collapse_worst="),
        (["gate", "--min"], "align", "alignment_score="),
        (["gate", "--max-drop"], "align", "alignment_score="),
        (["gate", "--significant"], "align", "alignment_score"),
        (["gate", "--on"], "b", "bound"),
        (["score", "--from"], "r", "run"),
        (["score", "--selection"], "b", "best"),
        (["score", "--objective"], "c", "classification"),
        (["score", "--view"], "a", "assignment"),
        (["score", "--prior"], "e", "empirical"),
        (["score", "--phase"], "p", "prefill"),
        (["score", "--device"], "cu", "cuda"),
        (["import", "--from"], "vl", "vllm"),
        (["import", "--label-from"], "fo", "folder"),
        (["import", "--axes"], "layer,tok", "layer,token"),
        (["import", "--leave-out"], "padding,repeated-ra", "padding,repeated-ranks"),
        (["record", "--dtype"], "b", "bfloat16"),
        (["record", "--device"], "cu", "cuda"),
        (["log", "--to"], "ten", "tensorboard"),
        (["sweep", "plan"], "paper", "paper-mlp"),
        (["sweep", "plan", "--set"], "train.st", "train.steps="),
        (["sweep", "plan", "--engine"], "ea", "eager"),
        (["sweep", "run", "--device"], "cu", "cuda"),
        (["sweep", "submit", "--cluster"], "sl", "slurm"),
        (["trace", "convert", "--to"], "co", "counts"),
        (["bench", "train", "--family"], "mlp,at", "mlp,attention"),
        (["bench", "train", "--models"], "modular,gt", "modular,gt-modular"),
        (["bench", "record", "--device"], "cu", "cuda"),
        (["ablate", "--by"], "reap,ro", "reap,routed"),
        (["ablate", "--removal"], "re", "reroute"),
        (["structure", "--selection"], "b", "best"),
    ],
)
def test_what_is_known_is_offered(words: list[str], incomplete: str, expected: str) -> None:
    assert any(each.startswith(expected) for each in offered(words, incomplete))


def test_models_of_the_scorecards_on_the_line_are_offered(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text(scorecard_text(cohort_card({"collapse_worst": [0.1, 0.1]})), encoding="utf-8")
    [known] = [model.id for model in cohort_card({"collapse_worst": [0.1, 0.1]}).models]
    for command in ("gate", "compare", "report"):
        assert offered([command, str(path), "--model"], known[:3]) == [known]
    assert offered(["gate", str(tmp_path / "absent.json"), "--model"], "") == []


def test_modules_of_the_traces_on_the_line_are_offered(tmp_path: Path) -> None:
    def told(layers: int, modules: int, incomplete: str) -> list[str]:
        header = TraceHeader(
            layers=tuple(f"mlp.{layer}" for layer in range(layers)),
            modules=(modules,) * layers,
            choices=(1,) * layers,
        )
        (tmp_path / "header.json").write_text(header.to_json(), encoding="utf-8")
        return offered(["trace", "show", str(tmp_path), "--module"], incomplete)

    assert told(2, 2, "") == ["0:0", "0:1", "1:0", "1:1"]
    assert told(2, 2, "mlp.1:") == ["mlp.1:0", "mlp.1:1"]
    assert told(12, 64, "1") == ["1:", "10:", "11:"]
    assert told(12, 64, "11:6") == ["11:6", "11:60", "11:61", "11:62", "11:63"]


def test_options_that_list_their_choices_complete_them() -> None:
    """A help text such as "auto, cpu or cuda" without completion is a value left untold."""
    silent = []
    for words, command in commands():
        for option in command.params:
            first = (getattr(option, "help", None) or "").partition(".")[0]
            listed = [part.strip() for part in first.replace(" or ", ", ").split(",")]
            plain = len(listed) > 2 and all(part.isidentifier() for part in listed)
            if plain and not offered([*words, option.opts[0]], ""):
                silent.append(f"{words} {option.opts[0]}: {first}")
    assert not silent


def test_files_are_offered_where_ids_may_stand_as_well(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "run.trace").mkdir()
    found = offered(["score"], f"{tmp_path}/ru")
    assert found == [f"{tmp_path}/run.trace/", f"{tmp_path}/runs/"]
    assert offered(["score"], f"{tmp_path}/absent/x") == []
