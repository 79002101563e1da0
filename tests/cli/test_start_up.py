"""Commands that read scorecards and the program's own tables load no PyTorch, and so are quick."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from modeval.cli.main import app
from modeval.cli.manual.topics import topic_names
from modeval.metrics import METRICS
from modeval.pipeline.plotting import EVERY
from modeval.spec.systems import BY_NAME

ROOT = Path(__file__).parents[2]
CARD = str(ROOT / "fixtures" / "version-0.1" / "scorecard.json")
TRACE = str(ROOT / "fixtures" / "version-0.1" / "trace-scorecard.json")
RUN = str(ROOT / "fixtures" / "version-0.1" / "run")
LIMIT = ["--max", "collapse_worst=0.9"]
READ_CARDS = {"compare", "gate", "report", "plot", "findings", "log"}
READ_TABLES = {"metrics", "systems", "help", "docs"}
"""The commands of which every way is tried; of the others ``--help``."""
PROGRAM = """
import contextlib, io, json, sys, time
from modeval.cli.main import run
found = []
for command in json.load(sys.stdin):
    sys.argv = ["modeval", *command]
    started = time.process_time()
    said = io.StringIO()
    out = io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        try:
            code = run()
        except SystemExit as end:
            code = end.code
    heavy = [
        name
        for name in ("torch", "transformers", "pandas", "sklearn", "scipy.stats")
        if name in sys.modules
    ]
    found.append([" ".join(command), code, heavy, time.process_time() - started, said.getvalue()])
print(json.dumps(found))
"""


def commands(out: Path) -> Iterator[tuple[list[str], bool]]:
    """Yield commands, and whether they have to end well: not every card has what a figure shows."""

    def helps(command: Any, path: tuple[str, ...]) -> Iterator[list[str]]:
        yield [*path, "--help"]
        for name, each in getattr(command, "commands", {}).items():
            yield from helps(each, (*path, name))

    copy = out / "baseline.json"
    copy.write_bytes(Path(CARD).read_bytes())
    tables = [["help"], ["metrics"], ["systems"], ["docs", "--out", str(out / "docs")]]
    tables += [["metrics", "--json", "-"], ["metrics", "alignment_scor"]]
    tables += [["help", name] for name in topic_names()]
    tables += [["metrics", name] for name in METRICS]
    tables += [["systems", name] for name in list(BY_NAME)[::4]]
    formats = ("json", "junit", "markdown", "comment", "sarif", "gitlab", "badge", "history")
    gates = [
        ["gate", CARD, *LIMIT],
        ["gate", TRACE, "--significant", "mutual_information"],
        *(["gate", CARD, *LIMIT, f"--{form}", str(out / form)] for form in formats),
        ["gate", CARD, "--baseline", str(copy), "--max-drop", "collapse_worst=0.1"],
    ]
    reports = [
        *(["report", card] for card in (CARD, TRACE)),
        *(
            ["report", CARD, "--format", form, "--out", str(out / f"report.{form}")]
            for form in ("md", "csv", "latex", "html", "json")
        ),
        ["compare", CARD, CARD],
        ["compare", TRACE, TRACE, "--json", str(out / "compared.json")],
        ["findings", CARD],
        ["log", CARD, "--to", "openmetrics", "--out", str(out / "card.prom")],
        ["plot", "ranking", CARD, "--out", str(out / "ranking.svg")],
    ]
    for command in (*helps(typer.main.get_command(app), ()), *tables, *gates, *reports):
        yield command, command[1:] != ["alignment_scor"]
    shown = {"curves": RUN, "trend": str(out / "history")}
    for kind in EVERY:
        command = ["plot", kind, shown.get(kind, TRACE), "--out", str(out / f"{kind}.csv")]
        yield command, kind in {*shown, "heatmap", "layers", "budget", "ranking"}


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[str], bool]]:
    return list(commands(tmp_path_factory.mktemp("out")))


def test_all_commands_that_read_scorecards_or_tables_are_tried(tried):
    names = {command[0] for command, _ in tried if "--help" not in command}
    assert names == READ_CARDS | READ_TABLES


def test_what_reads_scorecards_and_tables_loads_no_pytorch(tried):
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([command for command, _ in tried]),
        capture_output=True,
        text=True,
        check=True,
    )
    results = json.loads(answer.stdout)
    for (_, ends_well), (command, code, heavy, seconds, said) in zip(tried, results, strict=True):
        assert code in {0, 1, None} or not ends_well, (command, said)  # a gate may say no
        assert not heavy, command
        assert seconds < 5, command  # of processor time: a fifth of it where nothing else runs


OF_A_GATE = r"modeval\.spec|modeval\.cli\..*(train|report|score)"
OF_A_FIGURE = (
    r"modeval\.(spec|sweep|gate\.verdicts)|"
    r"modeval\.report\.paper\.(ranking|winners|rules|heatmaps|removal|course|layers|trend)"
)


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        (["gate", CARD, *LIMIT, "-q"], OF_A_GATE),
        (["plot", "budget", CARD, "-q", "--out"], OF_A_FIGURE),
    ],
)
def test_a_command_loads_neither_others_nor_specifications(tmp_path, arguments, others):
    program = (
        "import re, sys\nfrom modeval.cli.main import run\ntry:\n    run()\n"
        "except SystemExit as end:\n"
        f"    print([name for name in sys.modules if re.fullmatch({others!r}, name)])\n"
        "    raise"
    )
    out = [str(tmp_path / "a.csv")] if arguments[-1] == "--out" else []
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, *out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
