"""moe-l2: log lines of chosen experts."""

import re
from collections.abc import Iterator
from pathlib import Path

from modeval.trace.importers.format import Format, Note, Options, Rows, layer_name
from modeval.trace.importers.reading import integers, lines, refuse

MOE_L2 = re.compile(r"EXPERT\|L(\d+)\|T(\d+):\s*((?:\[[\d,\s]*\]\s*)+)$")


def read_moe_l2(path: Path, _options: Options, note: Note) -> Iterator[Rows]:
    """Read lines ``EXPERT|L<layer>|T<token>: [ids] [ids]``; each bracket is one token."""
    other = 0
    for place, text in lines(path):
        if "EXPERT|" not in text:
            other += 1
            continue
        match = MOE_L2.search(text)
        if match is None:
            refuse(path, place, f"is {text[:60]!r}: expected EXPERT|L<layer>|T<token>: [ids] ...")
        lists = [
            [int(item) for item in bracket.replace(",", " ").split()]
            for bracket in re.findall(r"\[([\d,\s]*)\]", match[3])
        ]
        chosen = integers(lists, 2, path, place, "experts")
        alone = len(lists) == 1
        yield Rows(layer_name(int(match[1])), chosen, position=int(match[2]) if alone else -1)
    if other:
        note(f"{path.name}: {other} lines of other log messages were passed over.")


FORMATS = (
    Format(
        name="moe-l2",
        about="moe-l2 (LLAMA_EXPERT_LOG=1): lines EXPERT|L<layer>|T<token>: [ids] [ids]",
        patterns=("*.log", "*.txt"),
        sniff=lambda _path, start: b"EXPERT|L" in start,
        read=read_moe_l2,
        engine="llama.cpp (moe-l2)",
    ),
)
