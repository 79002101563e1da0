"""Losses that were measured, kept so that a run that was cut off goes on where it was.

The folder of an ablation holds ``identity.json`` (what was measured: model, texts, way of
removal), ``sets.jsonl`` (one line for each set: its key and the loss of each document), and, when
all is done, ``result.json`` and ``lists/``.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.ablate.result import FAULT
from modeval.atomic import append, new_folders, reported, write_text
from modeval.errors import RunError

IDENTITY, SETS = "identity.json", "sets.jsonl"
CLOSE = 1e-4
"""Losses of the whole model that differ by more, relatively, are those of another model."""


class Store:
    """Measured losses by key, in memory and perhaps in a folder.

    Attributes:
        folder: where they are kept; nothing for memory alone.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any]) -> None:
        self.folder = folder
        self._known: dict[str, NDArray[np.float64]] = {}
        if folder is None:
            return
        path = folder / IDENTITY
        if path.exists():
            _check(path, identity)
            self._known = _read(folder / SETS)
        else:
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise RunError(
                    f"{folder} is not empty, and is no ablation: expected a new folder, or one "
                    "that this command began. Give another name with --out."
                )
            text = json.dumps(identity, indent=1) + "\n"
            with reported(folder, FAULT), new_folders(folder):
                write_text(path, text, FAULT)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> NDArray[np.float64]:
        return self._known[key]

    def add(self, key: str, losses: NDArray[np.float64]) -> None:
        """Keep the losses of the documents of one set."""
        self._known[key] = losses
        if self.folder is not None:
            line = json.dumps({"key": key, "losses": losses.tolist()}) + "\n"
            append(self.folder / SETS, line.encode(), FAULT)


def _check(path: Path, identity: dict[str, Any]) -> None:
    """Refuse to go on with what was measured on something else."""
    try:
        former = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        former = None
    if not isinstance(former, dict):
        raise RunError(f"{path} cannot be read. Remove {path.parent}, or give another --out.")
    for name, value in identity.items():
        was = former.get(name)
        same = abs(was - value) <= CLOSE * abs(value) if _numbers(was, value) else was == value
        if not same:
            raise RunError(
                f"{path.parent} was begun with {name} {was}, and this is {value}: what is there "
                "does not go with it. Run the same command as then, or give another --out."
            )


def _numbers(*values: object) -> bool:
    return all(isinstance(value, float) for value in values)


def _read(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read what was measured; the line at which a run was cut off is left out, and cut away."""
    if not path.exists():
        return {}
    whole = path.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if len(kept) < len(whole):
        with reported(path, FAULT), path.open("r+b") as file:
            file.truncate(len(kept))
    known = {}
    for number, line in enumerate(kept.splitlines(), 1):
        try:
            row = json.loads(line)
            known[row["key"]] = np.array(row["losses"], dtype=np.float64)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RunError(
                f"{path}, line {number}, is damaged. Remove that line: its set is measured again."
            ) from None
    return known
