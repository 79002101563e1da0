"""The table of foreign formats, and which of them a file is."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from modeval.errors import TraceError
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
    plain,
    plumb,
    sglang,
    vllm,
    warp,
)
from modeval.trace.importers.format import Format
from modeval.trace.importers.reading import head

_ALL = (
    *megatron.FORMATS,
    *vllm.FORMATS,
    *sglang.FORMATS,
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
    *plain.FORMATS,
)

# In the order in which they are tried: the more a format says of itself, the earlier it stands.
FORMATS: dict[str, Format] = {entry.name: entry for entry in _ALL}


def find_format(name: str) -> Format:
    """Return the format that ``--from`` names.

    Raises:
        TraceError: there is none of that name.
    """
    if name not in FORMATS:
        raise TraceError(f"--from {name!r}: expected one of {', '.join(sorted(FORMATS))}.")
    return FORMATS[name]


def detect(paths: Sequence[Path]) -> tuple[Format, list[Path]]:
    """Return the format of the files, by their beginnings, and those files that have it.

    Raises:
        TraceError: no format fits, or different files fit different formats.
    """
    found: dict[str, list[Path]] = {}
    for path in paths:
        start = head(path)
        for entry in _ALL:
            if entry.sniff(path, start):
                found.setdefault(entry.name, []).append(path)
                break
    if not found:
        shown = ", ".join(path.name for path in paths[:3])
        raise TraceError(
            f"No known format fits {shown}{' ...' if len(paths) > 3 else ''}. Tried "  # noqa: PLR2004
            f"{', '.join(FORMATS)}. Name the right one with --from NAME."
        )
    if len(found) > 1:
        examples = ", ".join(f"{files[0].name} is {name}" for name, files in found.items())
        raise TraceError(
            f"The files have different formats: {examples}. Name one with --from NAME, or import "
            "them one by one."
        )
    name, files = next(iter(found.items()))
    return FORMATS[name], files


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
    if not files:
        raise TraceError(f"{', '.join(map(str, sources))}: the folder has no files to import.")
    return files


def matching(entry: Format, paths: Sequence[Path]) -> list[Path]:
    """Return the files whose names fit a format; all of them if none does."""
    fitting = [path for path in paths if any(fnmatch(path.name, p) for p in entry.patterns)]
    return fitting or list(paths)
