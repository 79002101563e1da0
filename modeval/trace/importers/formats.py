"""The table of foreign formats, and which of them a file is."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType

from modeval.errors import TraceError, nearest
from modeval.text import brief, visible
from modeval.trace.files import import_arrow
from modeval.trace.importers import (
    colibri,
    emo,
    eplb,
    flame,
    llamacpp,
    megatron,
    moe_l2,
    moewatch,
    olmoe,
    plumb,
    reap,
    sglang,
    tensorrt,
    vllm,
    warp,
)
from modeval.trace.importers.format import Format
from modeval.trace.importers.packing import plain_name, stranger
from modeval.trace.importers.plain import arrays
from modeval.trace.importers.plain.columns import (
    COUNT_NAMES,
    ROW_NAMES,
    first_keys,
    match_columns,
    missing_columns,
)
from modeval.trace.importers.plain.count_tables import layout_of, numbered_columns
from modeval.trace.importers.plain.counts import FORMATS as COUNTS
from modeval.trace.importers.plain.rows import FORMATS as ROWS
from modeval.trace.importers.reading import (
    head,
    npz_names,
    parquet_names,
    read_bytes,
    table_lines,
)

# In the order in which they are tried: the more a format says of itself, the earlier it stands.
_ALL = (
    *megatron.FORMATS,
    *vllm.FORMATS,
    *sglang.FORMATS,
    *tensorrt.FORMATS,
    *reap.FORMATS,
    *olmoe.FORMATS,
    *flame.FORMATS,
    *llamacpp.FORMATS,
    *moe_l2.FORMATS,
    *colibri.FORMATS,
    *emo.FORMATS,
    *warp.FORMATS,
    *eplb.FORMATS,
    *moewatch.FORMATS,
    *plumb.FORMATS,
    *ROWS,
    *COUNTS,
    *arrays.FORMATS,
)

FORMATS: dict[str, Format] = {entry.name: entry for entry in _ALL}
LINE = 100
NONE_SAID: Mapping[str, str] = MappingProxyType({})
COURSE = ("step", "epoch", "iteration", "global_step", "_step", "wall time")
SUMMARY = re.compile(rb'"(entropy|gini|balance|utili[sz]ation|load_balance)[^"]*"')
PLAIN_WAY = (
    "Or write a table yourself: rows as layer,chosen (CSV or JSONL, chosen as 5 1), counts as "
    "layer,expert,count"
)


def find_format(name: str) -> Format:
    """Return the format that ``--from`` names.

    Raises:
        TraceError: there is none of that name.
    """
    if name not in FORMATS:
        close = nearest(name, list(FORMATS))
        raise TraceError(f"--from {name!r}{close}: expected one of {', '.join(sorted(FORMATS))}.")
    return FORMATS[name]


def detect(
    paths: Sequence[Path], *, bare: bool = False, columns: Mapping[str, str] = NONE_SAID
) -> tuple[Format, list[Path]]:
    """Return the format of the files, by their beginnings, and those files that have it.

    Args:
        paths: the files.
        bare: the user says what the axes are, so these are bare arrays.
        columns: what the user says of columns, by our names.

    Raises:
        TraceError: no format fits, or different files fit different formats.
    """
    found: dict[str, list[Path]] = {}
    for path in paths:
        start = head(path)
        said = _as_said(path, start, columns) if columns else None
        likely = [FORMATS[said]] if said else arrays.FORMATS if bare else _ALL
        for file_format in likely:
            if said or file_format.sniff(path, start):
                found.setdefault(file_format.name, []).append(path)
                break
    if not found:
        raise TraceError(_unknown(paths))
    if len(found) > 1:
        examples = ", ".join(f"{files[0].name} is {name}" for name, files in found.items())
        raise TraceError(
            f"The files have different formats: {examples}. Name one with --from NAME, or import "
            "them one by one."
        )
    name, files = next(iter(found.items()))
    return FORMATS[name], files


def _as_said(path: Path, start: bytes, columns: Mapping[str, str]) -> str | None:
    """Return the format of a table whose columns the user names; None if they are not in it."""
    kind, names = _table_names(path, start)
    if not set(columns.values()) <= set(names):
        return None
    rows = match_columns(names, ROW_NAMES, columns).names
    if {"layer", "chosen"} <= rows.keys() and not {"expert", "count"} & columns.keys():
        return kind
    return f"counts-{kind}" if layout_of(names, columns) is not None else None


def _table_names(path: Path, start: bytes) -> tuple[str, list[str]]:
    """Return what form a table has, and the names of its columns: none if it is no table."""
    if start.startswith(b"PAR1"):
        return "parquet", parquet_names(path)
    if start.startswith(b"PK"):
        return "npz", npz_names(path) or []
    if start.lstrip()[:1] in (b"{", b"["):
        return "jsonl", first_keys(start) or _keys_in(start)
    try:
        first = next(iter(table_lines(path, start)), None)
    except TraceError:
        first = None
    return "csv", list(first[1]) if first and b"\0" not in start else []


def _unknown(paths: Sequence[Path]) -> str:
    """Return what to say of files of no known format: what was seen, what is near, what to type."""
    path = paths[0]
    start = head(path)
    more = f" and {len(paths) - 1} other files" if len(paths) > 1 else ""
    if not start.strip():
        return f"{path} {_why_empty(path)}{more}: give the file that holds the routing."
    text = start.decode("utf-8", "replace")
    binary = b"\0" in start or text.count("\ufffd") > len(text) // 10
    first = next((line for line in text.splitlines() if line.strip()), "")
    shown = f"it begins with {brief(start[:40])}" if binary else f"its first line is {_cut(first)}"
    return f"No known format fits {path}{more}: {shown}. {_near(path, start)}"


def _why_empty(path: Path) -> str:
    """Return why nothing can be read of a file."""
    try:
        return "holds nothing but blank lines" if read_bytes(path) else "is empty"
    except TraceError as error:
        return str(error).removeprefix(f"{path}: ").rstrip(".")


def _cut(line: str) -> str:
    shown = visible(line.strip())
    return f"`{shown[:LINE]}{'...' if len(shown) > LINE else ''}`"


def _near(path: Path, start: bytes) -> str:
    """Return the nearest format, what it lacks, and what to type."""
    if start.lstrip()[:1] in (b"{", b"["):
        return _near_json(start)
    if other := stranger(path, start):
        return f"{other}. {PLAIN_WAY}."
    if start.startswith(b"PAR1"):
        return _near_parquet(path)
    try:
        first = None if b"\0" in start else next(iter(table_lines(path, start)), None)
    except TraceError as error:
        first = None
        if plain_name(path).endswith((".csv", ".tsv")):
            return f"{str(error).removeprefix(f'{path}, ')} {PLAIN_WAY}."
    return _near_table(list(first[1]) if first else []) or _near_name(path)


def _near_name(path: Path) -> str:
    ending = plain_name(path).rpartition(".")[2]
    fitting = [each.name for each in _ALL if _fits(each, path)]
    which = f"Files named .{ending} may be {', '.join(fitting)}: --from NAME. " if fitting else ""
    return f"{which}{PLAIN_WAY}; modeval import --list shows all formats."


def _near_parquet(path: Path) -> str:
    """Return what the columns of a Parquet file lack, or why there are none."""
    arrow = import_arrow()
    try:
        names = arrow.parquet.read_schema(path).names
    except (arrow.ArrowException, OSError, ValueError) as error:
        return f"It is damaged Parquet ({brief(str(error), 200)})."
    rows = match_columns(names, ROW_NAMES, {})
    return f"Nearest: parquet. It {missing_columns(names, rows, ('layer', 'chosen'))}. {PLAIN_WAY}."


def _near_wide(names: list[str]) -> str:
    """Return what to say of a table with a numbered column for each expert; else nothing."""
    wide = numbered_columns(names)
    if not wide:
        return ""
    shown = f"{visible(wide[0])} to {visible(wide[-1])}"
    if {"position", "token"} & match_columns(names, ROW_NAMES, {}).names.keys():
        return f"If {shown} are what a token chose, write them into one column: chosen, as 5 1."
    others = [name for name in names if name not in wide]
    say = (
        f'Say it with --columns "layer={visible(others[0])}".' if others else "Add a column layer."
    )
    return f"Nearest: counts-csv. {shown} seem to be counts of experts: of which layer? {say}"


def _near_table(names: list[str]) -> str:
    """Return what a table lacks; nothing where no column is known."""
    if wide := _near_wide(names):
        return f"{wide} {PLAIN_WAY}."
    known = match_columns(names, ROW_NAMES | COUNT_NAMES, {}).names
    if len(names) < 2 or not (known or any(name.lower() in COURSE for name in names)):  # noqa: PLR2004
        return ""
    rows, counts = match_columns(names, ROW_NAMES, {}), match_columns(names, COUNT_NAMES, {})
    if any(name.strip().lower() in COURSE for name in names) and "chosen" not in rows.names:
        return (
            "It looks like a log of training by step, and modeval reads counts of one point in "
            f"time: keep the rows of one step, as layer,expert,count. {PLAIN_WAY}."
        )
    of_counts = "expert" in counts.names or "count" in counts.names
    if of_counts and "chosen" not in rows.names | {"": ""}:
        lacking = missing_columns(names, counts, ("layer", "expert", "count"))
        return f"Nearest: counts-csv. It {lacking}"
    if {"layer", "chosen"} <= rows.names.keys():
        return f"Its columns are those of rows: read it with --from csv. {PLAIN_WAY}."
    return f"Nearest: csv. It {missing_columns(names, rows, ('layer', 'chosen'))}. {PLAIN_WAY}."


def _keys_in(start: bytes) -> list[str]:
    """Return the keys of JSON, of whatever object, in order."""
    found = re.findall(r'"([^"\\]{1,40})"\s*:', start.decode("utf-8", "replace"))
    return list(dict.fromkeys(found))


def _near_json(start: bytes) -> str:
    keys = _keys_in(start)
    rows = match_columns(keys, ROW_NAMES, {})
    if {"columns", "data"} <= set(keys) or start.lstrip().startswith(b'{"0":{'):
        return f'Write it with orient="records", if it is a table of pandas. {PLAIN_WAY}.'
    if keys and not {"layer", "chosen"} & rows.names.keys():
        if SUMMARY.search(start):
            return (
                "It seems to hold summaries such as entropies and no routing: give what they were "
                f"computed from. {PLAIN_WAY}."
            )
        listed = ", ".join(map(visible, keys[:8]))
        return f"It has the keys {listed}: none of them is a layer or chosen modules. {PLAIN_WAY}."
    if not keys:
        return f"It has no keys. {PLAIN_WAY}."
    return f"Nearest: jsonl. It {missing_columns(keys, rows, ('layer', 'chosen'))}. {PLAIN_WAY}."


def source_files(sources: Sequence[Path]) -> list[Path]:
    """Return the files of a list of files and folders, in order of their names.

    Raises:
        TraceError: one does not exist, or there are no files.
    """
    files: list[Path] = []
    for source in sources:
        if not source.exists():
            raise TraceError(f"No file or folder at {source}. Give the path of what to import.")
        if source.is_dir():
            inside = (path for path in source.rglob("*") if not path.name.startswith("."))
            files += sorted(path for path in inside if path.is_file())
        else:
            files.append(source)
    for path in files:
        if not path.is_file():
            raise TraceError(
                f"{path} is a pipe or a device, and what is imported is read more than once: write "
                "it into a file first."
            )
    if not files:
        raise TraceError(f"{', '.join(map(str, sources))}: the folder has no files to import.")
    return files


def matching(file_format: Format, paths: Sequence[Path]) -> list[Path]:
    """Return the files whose names fit a format; all of them if none does."""
    return [path for path in paths if _fits(file_format, path)] or list(paths)


def _fits(file_format: Format, path: Path) -> bool:
    names = (path.name, plain_name(path))
    return any(fnmatch(name, pattern) for name in names for pattern in file_format.patterns)
