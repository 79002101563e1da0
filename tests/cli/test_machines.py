"""Users' machines: terminals without UTF-8 or colour, homes that are not there, odd paths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import report_cards
from invoking import invoke

from modeval.errors import SpecError
from modeval.score.stored.files import write_scorecard

PATHS = ("C:\\Users\\Anna Doe\\my traces", "a b/-dash/ünï コード/[red]x[/y]%s{0}")


@pytest.mark.skipif(sys.platform == "win32", reason="a locale is set otherwise there")
def test_a_bare_machine_says_all_it_has_to_say(tmp_path: Path) -> None:
    """No UTF-8, no colour, no home, no place for temporary files, no compiler."""
    nowhere = str(tmp_path / "nowhere")
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    odd = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    odd |= {"HOME": nowhere, "TMPDIR": nowhere, "PATH": nowhere, "TERM": "dumb", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "modeval", "metrics"],
        env=kept | odd,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert b"mutual_information" in done.stdout
    assert done.stdout.isascii()
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize("name", PATHS)
def test_paths_of_any_letters_are_read_and_written_and_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("./" + name)
    folder.mkdir(parents=True)
    (folder / "rows.csv").write_text("layer,chosen,label\n0,1,a\n0,0,b\n", encoding="utf-8")
    write_scorecard(folder / "card.json", report_cards.trace(layers=2))
    done = invoke("import", f"./{name}/rows.csv", "--out", f"./{name}/out put.trace")
    assert done.exit_code == 0, (done.exception, done.output)
    done = invoke("report", f"./{name}/card.json", "--format", "csv", "--out", f"./{name}/t.csv")
    assert done.exit_code == 0, (done.exception, done.output)
    made = sorted(path.name for path in folder.iterdir())
    assert made == ["card.json", "out put.trace", "rows.csv", "t.csv"]


def test_an_import_without_a_place_says_so_before_it_reads(tmp_path: Path) -> None:
    done = invoke("import", str(tmp_path / "none.csv"))
    assert isinstance(done.exception, SpecError)
    assert "where to?" in str(done.exception)
    assert "--out DIR.trace" in str(done.exception)
