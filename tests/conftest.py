"""What several tests use."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def readme() -> str:
    """Return the manual."""
    return (ROOT / "README.md").read_text(encoding="utf-8")
