"""On a full disk every command ends in one sentence and leaves nothing: no file, no folder."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import report_cards
from invoking import invoke

from modeval import atomic
from modeval.cli.manual import docs
from modeval.errors import ModevalError
from modeval.score.stored.files import scorecard_text
from modeval.trace.files import TraceWriter
from modeval.trace.trace import TraceHeader, make_chunk

COMMANDS = (
    "docs --out deep/docs",
    "sweep plan demo --out deep/sweep --no-trial",
    "sweep plan demo --out there --no-trial",
    "generate deep/data --samples 8",
    "import counts.csv --out deep/counts",
    "import rows.csv --out deep/rows.trace",
    "trace merge a.trace a.trace --out deep/b.trace",
    "trace convert a.trace --out deep/a.jsonl",
    "trace convert a.trace --out deep/a.counts.safetensors",
    "score matrix.npy --json deep/card.json",
    "report card.json --html deep/page.html",
    "report card.json --format csv --out deep/table.csv",
    "gate card.json --max collapse_worst=0.9 --json deep/gate.json",
    "gate card.json --max collapse_worst=0.9 --history deep/history.jsonl",
    "metrics --json deep/metrics.json",
)
FIRST = (
    "gate none.json --max collapse_worst=0.9 --junit deep/gate.xml",
    "gate card.json --max no_such_score=1 --history deep/history.jsonl",
    "sweep plan none.toml --out deep/sweep",
    "score none --json deep/card.json",
    "import none.csv --out deep/rows.trace",
    "report none.json --html deep/page.html",
)


@pytest.fixture(scope="module")
def card() -> str:
    """Return a scorecard as it stands in a file, made once."""
    return scorecard_text(report_cards.paper())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: str) -> Path:
    """Return a folder with something of each kind to read, and stand in it."""
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("counts.csv").write_text("layer,expert,count\n0,0,3\n0,1,4\n", encoding="utf-8")
    Path("rows.csv").write_text("layer,chosen\n0,1\n0,0\n", encoding="utf-8")
    np.save("matrix.npy", np.array([[5, 1], [2, 7]]))
    Path("card.json").write_text(card, encoding="utf-8")
    header = TraceHeader(layers=("a",), modules=(2,), choices=(1,))
    with TraceWriter("a.trace", header) as writer:
        writer.append(make_chunk(layer=0, chosen=[[1], [0]]))
    return tmp_path


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def run(line: str) -> str:
    """Return what is said; whatever else than a refusal is an error of the program."""
    done = invoke(*line.split())
    if isinstance(done.exception, ModevalError):
        return str(done.exception)
    assert isinstance(done.exception, SystemExit), (line, done.exception, done.output)
    assert done.exit_code == 2, (line, done.output)
    return str(done.output)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_full_disk_leaves_no_file_and_no_folder(
    here: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = left(here)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(docs, "parts", lambda _root: [])  # the chapters take their time
    monkeypatch.setattr(atomic, "_to_disk", full)
    monkeypatch.setattr(atomic, "_write_all", full)
    assert "the disk is full" in " ".join(run(line).split())
    assert left(here) == before


@pytest.mark.parametrize("line", FIRST)
def test_what_is_refused_made_no_folder_before(here: Path, line: str) -> None:
    before = left(here)
    run(line)
    assert left(here) == before
