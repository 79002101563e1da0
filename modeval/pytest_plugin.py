"""Plug-in for pytest: a scorecard for tests to ask things of.

    pytest --modeval-scorecard scorecard.json

    def test_modules_are_in_use(modeval_scorecard):
        assert_modular(modeval_scorecard, collapse_worst=0.2)

Nothing of modeval is imported until a test asks for it.
"""

from typing import Any

import pytest

OPTION = "--modeval-scorecard"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option and its setting in the configuration file."""
    group = parser.getgroup("modeval")
    group.addoption(OPTION, metavar="FILE", help="Scorecard for the fixture modeval_scorecard.")
    parser.addini("modeval_scorecard", f"The same as {OPTION}, which wins.", default="")


@pytest.fixture(scope="session")
def modeval_scorecard(pytestconfig: pytest.Config) -> Any:
    """Return the scorecard that the option, or modeval_scorecard in the configuration, names."""
    from modeval.errors import ModevalError  # noqa: PLC0415 - only when a test asks for it
    from modeval.testing import read  # noqa: PLC0415

    path = pytestconfig.getoption(OPTION) or pytestconfig.getini("modeval_scorecard")
    if not path:
        pytest.fail(
            f"modeval_scorecard: no file is named. Run: pytest {OPTION} scorecard.json",
            pytrace=False,
        )
    try:
        return read(path)
    except ModevalError as error:
        reason = str(error)
    pytest.fail(reason, pytrace=False)  # outside, so that nothing of ours is shown before it
