"""What to say of a file that is not as it was written."""

from pathlib import Path

from modeval.errors import DataError


def damaged(path: Path, reason: str) -> DataError:
    """Return the error that names a damaged file of a data set, and the way out."""
    return DataError(
        f"{path} is damaged: {reason}. Delete {path.parent} and write it again with modeval "
        "generate; the recipe stands in dataset.json."
    )
