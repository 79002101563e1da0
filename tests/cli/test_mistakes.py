"""What new users typed and stumbled over: each ends in one sentence that says what to type."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import report_cards as cards
from gate_cards import cohort_card
from invoking import invoke

from modeval.cli.output import progress_bar, stderr
from modeval.errors import ModevalError
from modeval.score.content import content_digest
from modeval.score.scorecard import Scorecard
from modeval.score.stored.files import read_scorecard, scorecard_text, write_scorecard

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Return scorecards as they stand in files, made once."""
    made = {"four.json": cards.paper(), "tiny.json": cards.trace()}
    return {name: scorecard_text(card) for name, card in made.items()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: dict[str, str]) -> Path:
    """Return a folder with two scorecards, and stand in it."""
    monkeypatch.chdir(tmp_path)
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def typed(line: str) -> tuple[int, str]:
    """Return exit code and all that is said: what is refused is an error of the program's own."""
    done = invoke(*line.split(" "))
    if isinstance(done.exception, ModevalError):
        return 2, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, " ".join(re.sub(r"[│╭╮╰╯─]", "", done.output).split())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("score runs/nothere", "There is nothing at runs/nothere. Give a folder that exists"),
        ("score four.json", "which is scored already: modeval report four.json"),
        ("train --out r --rules 0", "rules = 0: expected a number above 0"),
        ("train --out r --seeds 0", "seeds"),
        ("train --out r --seeds 1,2,3", "--seeds 3 stands for the seeds 0, 1 and 2"),
        ("train --out r --rules 2,4", "For several values plan a sweep: modeval sweep plan"),
        ("train --out r --lrate 1e-3", "--lr"),
        ("train --out r --model moduler", 'Did you mean "modular"?'),
        ("train --out r --device gpu", "expected auto, cpu, cuda or cuda:N"),
        ("train --out r --rules 8 --operation named", "named"),
        ("train --out r --task sets --operation named", "Drop --operation, or use --task binary"),
        ("train --out r --task series --search product", "Drop --search, or use --task sets"),
        ("train --out r --rule-probabilities 0.5,0.5", "rule_probabilities"),
        ("plot colapse four.json --out a.png", "Did you mean collapse?"),
        ("plot four.json collapse --out a.png", "modeval plot KIND four.json --out"),
        ("plot collapse four.json --out a.jpg", "Use --out a.pdf"),
        (
            "plot collapse four.json --metric alignment_score --out a.png",
            "modeval plot specialisation --metric alignment_score",
        ),
        ("gate . --no-policy --max collapse_worst=0.2", "folder"),
        ("gate four.json --no-policy --max colapse_worst=0.2", "collapse_worst"),
        ("gate four.json --no-policy --min collapse_worst=0.2", "--max"),
        ("gate four.json --no-policy --max collapse_worst=2", "2"),
        ("gate four.json --no-policy --max collapse_worst 0.2", "as --max collapse_worst=0.2"),
        ("gate four.json --no-policy --max-drop alignment_score=0.1", "baseline"),
        ("gate four.json", "polic"),
        ("report four.jsn", "Did you mean four.json?"),
        ("report nothing.json", "Make one with: modeval score RUN --json nothing.json"),
        ("compare four.json tiny.json", "Give a second scorecard of the same model"),
        ("metrics alignement", "Did you mean alignment_score?"),
        ("metrics scoer", "List them with: modeval metrics"),
        ("metrics dead-experts", "Did you mean dead_fraction?"),
        ("gate four.json --no-policy --max dead_experts=0.1", "did you mean dead_fraction?"),
        (
            "plot ranking four.json --metric colapse_worst --out a.pdf",
            "did you mean collapse_worst?",
        ),
    ],
)
def test_a_mistake_ends_in_what_to_type(here: Path, line: str, said: str) -> None:
    code, text = typed(line)
    assert code == 2, text
    assert said in text
    assert "Traceback" not in text
    assert sorted(path.name for path in here.iterdir()) == ["four.json", "tiny.json"]


@pytest.fixture
def used(here: Path) -> Path:
    """Return where a folder holds a file of the user's, texts lie in one, and a model in one."""
    for name, content in (
        ("full/a.txt", "mine"),
        ("texts/d.jsonl", '{"text": "a", "domain": "b"}\n'),
        ("model/config.json", "{}"),
    ):
        (here / name).parent.mkdir()
        (here / name).write_text(content, encoding="utf-8")
    return here


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("record model -d texts --label domain --out full", "give another name with --out"),
        ("record texts -d model --label domain --out x", "modeval record model --data TEXTS"),
        ("record model -d texts --label domian --out x", "has no 'domian': it has text, domain"),
        ("train --out full --steps 1", "Choose another --out, or empty it first"),
        ("generate full --samples 4", "full"),
        ("sweep plan demo --out full", "Choose another --out"),
        ("score model", "modeval record MODEL --data FILE"),
    ],
)
def test_a_used_folder_or_a_mistaken_record_leaves_all_as_it_was(
    used: Path, line: str, said: str
) -> None:
    def there() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in used.rglob("*") if path.is_file()}

    before = there()
    code, text = typed(line)
    assert code == 2, text
    assert said in text
    assert there() == before
    assert not (used / "x").exists()


@pytest.mark.parametrize(
    ("package", "line", "extra"),
    [
        ("matplotlib", "plot collapse four.json --out a.png", "report"),
        ("jinja2", "report four.json --html a.html", "report"),
        ("pyarrow", "record model -d texts --label domain --out x", "arrow"),
    ],
)
def test_a_missing_extra_is_a_line_to_paste(
    used: Path, monkeypatch: pytest.MonkeyPatch, package: str, line: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    code, text = typed(line)
    assert code == 2, text
    assert f'pip install "modeval-cli[{extra}]"' in text
    assert not list(used.glob("a.*"))


def test_bars_and_words_share_one_console_while_a_bar_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal; where none shows it, no bar is drawn
    bar = progress_bar()
    task = bar.add_task("x", total=2, note="")
    assert stderr() is not bar.console  # nothing is drawn yet
    with bar:
        bar.update(task, completed=1)
        assert stderr() is bar.console
    assert stderr() is not bar.console


LIMIT = ["gate", "tiny.json", "--no-policy", "--max", "collapse_worst=0.9", "-q"]


def test_a_dash_is_standard_output_and_no_file(here: Path) -> None:
    done = invoke(*LIMIT, "--json", "-")
    assert json.loads(done.stdout)["outcome"]
    assert not (here / "-").exists()


def test_an_empty_name_of_a_file_is_no_file(here: Path) -> None:
    done = invoke(*LIMIT, "--markdown", "")
    assert not isinstance(done.exception, ModevalError)
    assert sorted(path.name for path in here.iterdir()) == ["four.json", "tiny.json"]


def test_missing_folders_of_an_output_are_made(here: Path) -> None:
    done = invoke("log", "tiny.json", "--to", "openmetrics", "--out", "a/b/c.txt")
    assert done.exit_code == 0, done.output
    assert (here / "a/b/c.txt").is_file()


def test_losses_that_are_the_same_by_definition_have_one_row(here: Path) -> None:
    card = cohort_card({"in_distribution_loss": [0.1, 0.2], "loss_at_length_10": [0.1, 0.2]})
    write_scorecard(here / "twice.json", card)
    _, text = typed("report twice.json")
    assert text.count("Loss") == 1


def test_a_digest_tells_checkpoints_apart(here: Path) -> None:
    """Two of one spec have the same settings; what was scored differs."""
    import torch  # noqa: PLC0415

    one, other = (content_digest([("w", torch.full((2,), value))]) for value in (1.0, 2.0))
    assert one != other
    card = read_scorecard(here / "tiny.json")
    record = card.models[0]
    assert record.content
    assert record.shown_digest == record.content != record.digest
    older = json.loads((here / "tiny.json").read_text(encoding="utf-8"))
    del older["models"][0]["content"]
    (here / "older.json").write_text(json.dumps(older), encoding="utf-8")
    assert read_scorecard(here / "older.json").models[0].shown_digest == record.digest


def test_a_difference_says_over_how_many_seeds_where_they_are_not_all(here: Path) -> None:
    for name, seeds in (("before", 3), ("after", 5)):
        values = [0.1 + 0.01 * seed for seed in range(seeds)]
        write_scorecard(here / f"{name}.json", cohort_card({"collapse_worst": values}))
    _, text = typed("compare before.json after.json")
    assert "3 common seeds" in text


def test_exact_numbers_are_called_exact(here: Path) -> None:
    from dataclasses import replace  # noqa: PLC0415

    card: Scorecard = cards.cohort()
    [record] = card.models
    sure = tuple(replace(member, precision=0.0) for member in record.members)
    write_scorecard(here / "exact.json", replace(card, models=(replace(record, members=sure),)))
    typed("report exact.json --html exact.html")
    page = (here / "exact.html").read_text(encoding="utf-8")
    assert "exact: the router sees the rule alone" in page
    assert "±0" not in page


def test_the_page_has_no_stars_and_no_layer_that_is_counted_as_one(here: Path) -> None:
    for name in ("four", "tiny"):
        typed(f"report {name}.json --html {name}.html")
        page: Any = (here / f"{name}.html").read_text(encoding="utf-8")
        text = re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)
        assert not re.search(r"(?<!\w)\*\w+\*(?!\w)", text)
        assert "1 layer</summary>" not in page
        assert "uniform 0.12 " not in text


def test_no_example_installs_modeval_from_where_it_was_never_published() -> None:
    """Extras alone are named: pip takes them from what is installed."""
    texts = [ROOT / "README.md", *(ROOT / "modeval/cli/manual/topics").glob("*.md")]
    texts += [path for path in (ROOT / ".github").rglob("*") if path.suffix in (".md", ".yml")]
    for path in texts:
        found = re.search(r"pip install (\S+ )*modeval-cli(?!\[)", path.read_text(encoding="utf-8"))
        assert found is None, path
