"""Docstrings as Markdown: what a reader sees holds no markup of the source."""

import pytest

from modeval.cli.manual.docstrings import to_markdown
from modeval.metrics import METRICS


@pytest.mark.parametrize("name", METRICS)
def test_no_markup_of_the_source_is_left_in_the_text_of_a_metric(name):
    text = to_markdown(METRICS[name].docstring, examples=False)
    assert "``" not in text.replace("```", "")
    assert ":func:" not in text
    assert ":class:" not in text
    assert ">>>" not in text


def test_sections_become_lists_and_literal_blocks_stay_literal():
    text = to_markdown(
        """What is it?

        Args:
            one: the first
                of two.

            two: the second.

        Returns:
            A number.

            a   b
        """
    )
    assert "- `one`: the first of two.\n- `two`: the second." in text
    assert "**Returns**\n\nA number." in text


def test_examples_are_python_or_are_left_out():
    docstring = "Add.\n\n>>> 1 + 1\n2\n"
    assert to_markdown(docstring) == "Add.\n\n```python\n>>> 1 + 1\n2\n```"
    assert to_markdown(docstring, examples=False) == "Add."
