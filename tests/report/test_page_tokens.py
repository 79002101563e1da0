"""The page shows documents token by token, whole and harmless, and stays small."""

import re

import report_cards as cards

from modeval.report.html import render
from modeval.report.page.tokens import hue, token_figures
from modeval.trace.passages import Passage


def test_tokens_are_coloured_by_their_module_and_cannot_act() -> None:
    passage = Passage(
        document=3, label="<b>code</b>", tokens=(1, 2, 3), modules=((5, -1, 5), (0, 1, 1))
    )
    texts = {1: "<script>", 2: " &", 3: "x\n"}
    figures = token_figures([passage], ["0 (a)", "1 (b)"], lambda tokens: texts[tokens[0]])
    assert [figure.busiest for figure in figures] == [
        (("expert 5", hue(5), 2),),
        (("expert 1", hue(1), 2), ("expert 0", hue(0), 1)),
    ]
    page = render([cards.trace()], ["a.json"], figures)
    section = page[page.index('<section id="tokens"') :].split("</section>")[0]
    assert section.count(f'style="--hue: {hue(5)}" title="expert 5"') == 2
    assert '<span title="no expert"> &amp;</span>' in section
    assert "&lt;script&gt;" in section
    assert "<script" not in section
    assert "&lt;b&gt;code&lt;/b&gt; (document 3), layer 1 (b)" in section
    assert 'href="#tokens"' in page
    assert 'id="tokens"' not in render([cards.trace()], ["a.json"])


def test_the_page_stays_small_with_a_document_of_each_of_twelve_labels() -> None:
    documents = [
        Passage(
            document=number,
            label=f"label {number}",
            tokens=tuple(range(150)),
            modules=tuple(tuple((k * layer) % 64 for k in range(150)) for layer in (1, 2, 3)),
        )
        for number in range(12)
    ]
    figures = token_figures(documents, ["0", "8", "15"], lambda tokens: f"word{tokens[0]} ")
    page = render([cards.trace()], ["a.json"], figures)
    assert len(page.encode()) < 1_000_000
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page)
