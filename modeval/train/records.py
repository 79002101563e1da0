"""What run folders say in words: specification, record and log, read without loading PyTorch.

See :mod:`modeval.train.files`, which writes them, and reads and writes the weights beside them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeval.errors import RunError
from modeval.spec import RunSpec, digest, digests, load_toml, read_spec

FORMAT = 1
RUN, SPEC, LOG = "run.json", "spec.toml", "log.jsonl"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What ``run.json`` says.

    Attributes:
        digest: of the specification (and of the data folder, if one was used).
        status: ``running`` or ``complete``.
        step: of the last checkpoint.
        engine: how steps were computed last; a run resumes with it where it can be had.
        engines: pairs of a step and the engine that computed from there on, where there were more
            than one.
        data: digest of the data folder that was trained on; empty for the stream.
        diverged: for each seed the step at which its loss stopped being finite, or null.
        versions: of modeval and torch.
        former: digests of the run before it was asked for more steps or seeds.
    """

    digest: str
    status: str
    step: int
    engine: str
    data: str
    diverged: tuple[int | None, ...]
    versions: Mapping[str, str]
    engines: tuple[tuple[int, str], ...] = ()
    former: tuple[str, ...] = ()


def is_run(folder: Path) -> bool:
    """Tell whether a folder was written by ``modeval train``."""
    return (folder / RUN).is_file() and (folder / SPEC).is_file()


def find_runs(folder: Path) -> list[Path]:
    """Return the run folders at or below ``folder``, by name, numbers in order of their size."""
    if is_run(folder):
        return [folder]
    runs = (path.parent for path in folder.rglob(RUN) if is_run(path.parent))
    return sorted((run for run in runs if not run.name.startswith(".")), key=_in_order)


def _in_order(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def read_record(folder: Path) -> RunRecord:
    """Read ``run.json``."""
    path = folder / RUN
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["format"]
        if version != FORMAT:
            raise RunError(
                f"{path} has format {version}; this modeval reads format {FORMAT}. "
                "Use the modeval that wrote it, or train again."
            )
        return RunRecord(
            digest=values["digest"],
            status=values["status"],
            step=values["step"],
            engine=values["engine"],
            data=values["data"],
            diverged=tuple(values["diverged"]),
            versions=dict(values["versions"]),
            engines=tuple((int(step), str(name)) for step, name in values.get("engines", ())),
            former=tuple(str(name) for name in values.get("former", ())),
        )
    except FileNotFoundError:
        raise RunError(
            f"No run at {folder}: {RUN} is missing. Make one with: modeval train --out {folder}"
        ) from None
    except NotADirectoryError:
        raise RunError(
            f"{folder} is a file: expected the folder of a run, as modeval train --out writes it."
        ) from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
        raise RunError(f"{path} is damaged ({error}). Train again into another folder.") from None


def read_run(folder: Path) -> RunSpec:
    """Read the specification of a run folder, and check that it is the run's own.

    Raises:
        RunError: it is not the one that the run was started with, by the digest of ``run.json``.
    """
    record, values = read_record(folder), load_toml(folder / SPEC)
    spec = read_spec(values, where=f"{folder / SPEC}: ")
    names = {digest_on(name, record.data) for name in digests(values)}
    if not names & {record.digest, *record.former}:
        raise RunError(
            f"{folder / SPEC} was changed after the run began (digest mismatch with {RUN}). Put "
            "the settings back, or train into another folder."
        )
    return spec


def digest_on(run: str, data: str) -> str:
    """Return the name of a run that was trained on a data folder, both told by their digests."""
    return digest({"run": run, "data": data}) if data else run


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read the log; what a kill or a damaged disk made of a line is left out, with what follows.

    Lines of a run have steps that grow, so what no longer grows is of a writer that died.
    """
    path = folder / LOG
    content = path.read_bytes() if path.is_file() else b""
    entries: list[dict[str, Any]] = []
    for line in content.splitlines():
        try:
            item = json.loads(line)
            grows = item["step"] > (entries[-1]["step"] if entries else -1)
        except (ValueError, TypeError, KeyError, RecursionError):
            break
        if not grows:
            break
        entries.append(item)
    return entries
