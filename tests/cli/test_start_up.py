"""Commands that read scorecards and the program's own tables load no PyTorch, and so are quick."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CARD = ROOT / "fixtures" / "version-0.1" / "scorecard.json"
COMMANDS = [
    ["--help"],
    ["train", "--help"],
    ["score", "--help"],
    ["bench", "train", "--help"],
    ["help"],
    ["help", "words"],
    ["metrics"],
    ["systems"],
    ["systems", "modular"],
    ["report", str(CARD)],
    ["gate", str(CARD), "--max", "collapse_worst=0.9"],
    ["findings", str(CARD)],
    ["compare", str(CARD), str(CARD)],
    ["log", "--help"],
]
PROGRAM = """
import contextlib, io, json, sys, time
from modeval.cli.main import run
found = []
for command in json.loads(sys.argv[1]):
    sys.argv = ["modeval", *command]
    started = time.process_time()
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            code = run()
        except SystemExit as end:
            code = end.code
    heavy = [name for name in ("torch", "transformers", "pandas") if name in sys.modules]
    found.append([" ".join(command), code, heavy, time.process_time() - started, said.getvalue()])
print(json.dumps(found))
"""


def test_what_reads_scorecards_and_tables_loads_no_pytorch() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(COMMANDS)],
        capture_output=True,
        text=True,
        check=True,
    )
    for command, code, heavy, seconds, said in json.loads(answer.stdout):
        assert code in {0, 1, None}, (command, said)  # a gate may say no
        assert not heavy, command
        assert seconds < 5, command  # of processor time: a fifth of it where nothing else runs
