"""Tensors on disk: safetensors, written whole, with a checksum that is compared when they are read.

safetensors checks that a file is whole, not that its numbers are those that were written: one bit
that flips on a disk changes a weight and says nothing. The checksum stands among the words of the
header. Files without one, of other programs and of modeval 0.1, are read without that comparison.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from modeval import atomic

if TYPE_CHECKING:
    from torch import Tensor

CHECKSUM = "modeval.sha256"
HASH = re.compile(r"[0-9a-f]{64}")


class DamagedError(Exception):
    """A file of tensors is not what was written; the message says how, for an error to a user."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file holds.

    Attributes:
        tensors: by name.
        words: what its header says beside them.
    """

    tensors: "dict[str, Tensor]"
    words: dict[str, str]


def write_tensors(
    path: Path,
    tensors: "Mapping[str, Tensor]",
    fault: atomic.Fault,
    *,
    words: Mapping[str, str] | None = None,
) -> None:
    """Write tensors and words to a file, whole or not at all.

    Raises:
        ModevalError: of the class that ``fault`` names, when it cannot be written.
    """
    from safetensors.torch import save_file  # noqa: PLC0415 - loads PyTorch

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    said = dict(words or {})
    metadata = said | {CHECKSUM: checksum(plain, said)}
    with atomic.whole_file(path, fault, also=(SafetensorError,)) as temporary:
        save_file(plain, temporary, metadata=metadata)


def read_tensors(path: Path) -> Stored:
    """Read what :func:`write_tensors` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is cut short, no safetensors, or not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            words = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DamagedError(f"no whole safetensors file ({error})") from None
    expected = words.pop(CHECKSUM, None)
    if expected is None and any(map(HASH.fullmatch, words.values())):
        raise DamagedError("it is not what was written (its checksum has lost its name)")
    if expected is not None and checksum(tensors, words) != expected:
        raise DamagedError("it is not what was written (its checksum differs)")
    return Stored(tensors, words)


def checksum(tensors: "Mapping[str, Tensor]", words: Mapping[str, str]) -> str:
    """Return the SHA-256 of names, types, shapes and numbers, and of words, in order of names."""
    import torch  # noqa: PLC0415 - slow; formats that hold no tensors are read without

    content = hashlib.sha256()
    for key in sorted(words):
        content.update(f"{key}\0{words[key]}\0".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        content.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()
