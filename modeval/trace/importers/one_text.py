"""Files that hold other layers of the same documents, as loggers of one layer a file write them."""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.trace.importers.format import Rows

SHARED = (
    "Each file holds other layers of the same documents and positions, so the documents of all "
    "files were taken for the same."
)


@dataclass(slots=True)
class FileLayers:
    """The layers of one file, and of which documents and positions the rows of each are.

    Attributes:
        places: digest of documents and positions, in order, of each layer.
        labels: labels of its rows.
        known: whether all documents and positions are.
    """

    places: dict[str, Any] = field(default_factory=dict)
    labels: set[str | None] = field(default_factory=set)
    known: bool = True

    def add(self, name: str, document: NDArray[Any], position: NDArray[Any]) -> None:
        """Look at the next rows of a layer."""
        both = np.stack([document, position]).astype(np.int64)
        self.known &= bool((both >= 0).all())
        self.places.setdefault(name, hashlib.sha256()).update(both.T.tobytes())


def same_documents(files: Collection[FileLayers]) -> bool:
    """Tell whether files hold other layers of the same documents, token by token.

    >>> one, other = FileLayers(), FileLayers()
    >>> for file, name in ((one, "a"), (other, "b")):
    ...     file.add(name, np.zeros(3), np.arange(3))
    >>> same_documents([one, other]), same_documents([one, one])
    (True, False)
    """
    names = [name for file in files for name in file.places]
    places = {place.digest() for file in files for place in file.places.values()}
    labels = {frozenset(file.labels) for file in files}
    apart = len(files) > 1 and len(names) == len(set(names))
    alike = len(places) == len(labels) == 1 and all(file.known for file in files)
    return apart and alike


def numbered(
    pieces: Iterable[tuple[Path, Rows]], *, shared: bool
) -> Iterator[tuple[Path, Rows, NDArray[Any]]]:
    """Yield rows with their documents; those of two files are others, unless files share them."""
    offset, largest, current = 0, -1, None
    for path, rows in pieces:
        if path != current and not shared:
            offset, current = largest + 1, path
        document = np.broadcast_to(np.asarray(rows.document), (len(rows.chosen),))
        document = np.where(document < 0, -1, document + offset)
        largest = max(largest, int(document.max(initial=-1)))
        yield path, rows, document
