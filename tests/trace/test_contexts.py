"""What a module took: counts by brute force, contexts that stand where they say."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from modeval.errors import SpecError, TraceError
from modeval.report.terminal.contexts import numbers, render_taken
from modeval.trace.contexts import UNLABELLED, LabelTaken, Taken, parse_module, taken
from modeval.trace.files import TraceWriter, open_trace
from modeval.trace.passages import layers_shown, passages
from modeval.trace.trace import TraceHeader, make_chunk

pytest.importorskip("pyarrow", reason="traces are Parquet files")
LAYERS = ("mlp.0", "mlp.1")


def write(path: Path, *, tokens: bool = True, positions: bool = True) -> np.ndarray:
    """Write 6 documents of 10 tokens, whose ids are 100 document + position, in mixed order."""
    draw = np.random.default_rng(0)
    document, position, layer = (
        part.flatten() for part in np.meshgrid(np.arange(6), np.arange(10), [0, 1], indexing="ij")
    )
    chosen = np.array([draw.permutation(4)[:2] for _ in document])
    label = np.where(document == 5, -1, document % 2)
    order = draw.permutation(len(document))
    header = TraceHeader(
        layers=LAYERS, modules=(4, 4), choices=(2, 2), labels=("code", "prose"), token_ids=tokens
    )
    with TraceWriter(path, header) as writer:
        writer.append(
            make_chunk(
                document=document[order],
                position=position[order] if positions else -1,
                layer=layer[order],
                label=label[order],
                chosen=chosen[order],
                token=(100 * document + position)[order] if tokens else None,
            )
        )
    return np.column_stack([document, position, layer, label, chosen])


def test_shares_and_contexts_are_those_of_the_rows(tmp_path: Path) -> None:
    rows = write(tmp_path / "a.trace")
    found = taken(open_trace(tmp_path / "a.trace"), 1, 3, contexts=4, width=2, seed=1)
    mine = rows[rows[:, 2] == 1]
    assert [label.label for label in found.labels] == [UNLABELLED, "code", "prose"]
    hits = (mine[:, 4:] == 3).any(1)
    for label, number in zip(found.labels, (-1, 0, 1), strict=True):
        here = mine[:, 3] == number
        assert (label.tokens, label.of) == (int((hits & here).sum()), int(here.sum()))
        assert len(label.contexts) == min(4, label.tokens)
        for context in label.contexts:
            [row] = mine[(mine[:, 0] == context.document) & (mine[:, 1] == context.position)]
            assert 3 in row[4:]
            assert row[3] == number
            first = max(context.position - 2, 0)
            span = 100 * context.document + np.arange(first, min(context.position + 3, 10))
            assert [*context.before, context.token, *context.after] == span.tolist()
            assert context.token == 100 * context.document + context.position
    assert found == taken(open_trace(tmp_path / "a.trace"), 1, 3, contexts=4, width=2, seed=1)
    assert found.tokens == hits.sum()
    assert found.of == 60


def test_a_trace_without_tokens_tells_shares_and_what_to_record(tmp_path: Path) -> None:
    write(tmp_path / "a.trace", tokens=False)
    write(tmp_path / "b.trace", positions=False)
    plain = taken(open_trace(tmp_path / "a.trace"), 0, 0)
    assert plain.tokens > 0
    assert not any(label.contexts for label in plain.labels)
    assert "modeval record keeps them" in plain.missing
    lost = taken(open_trace(tmp_path / "b.trace"), 0, 0)
    assert not any(label.contexts for label in lost.labels)
    assert "documents and positions" in lost.missing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "expected a layer and a module"),
        ("0:x", "expected a layer and a module"),
        ("2:0", "numbered from 0 to 1"),
        ("mlp:0", "there is no layer mlp"),
        ("1:4", "has 4 modules, numbered from 0 to 3"),
    ],
)
def test_what_is_no_module_is_refused(text: str, message: str) -> None:
    assert parse_module("mlp.1:3", LAYERS, (4, 4)) == parse_module("1:3", LAYERS, (4, 4))
    with pytest.raises(SpecError, match=message):
        parse_module(text, LAYERS, (4, 4))


def test_a_layer_without_rows_is_refused(tmp_path: Path) -> None:
    header = TraceHeader(layers=LAYERS, modules=(4, 4), choices=(1, 1))
    with TraceWriter(tmp_path / "a.trace", header) as writer:
        writer.append(make_chunk(layer=[0], chosen=[[1]]))
    with pytest.raises(TraceError, match=r"no rows of layer mlp\.1"):
        taken(open_trace(tmp_path / "a.trace"), 1, 0)


def test_passages_are_the_first_document_of_each_label(tmp_path: Path) -> None:
    rows = write(tmp_path / "a.trace")
    found = passages(open_trace(tmp_path / "a.trace"), layers_shown(2))
    assert [(passage.document, passage.label) for passage in found] == [(0, "code"), (1, "prose")]
    for passage in found:
        mine = rows[rows[:, 0] == passage.document]
        assert passage.tokens == tuple(100 * passage.document + np.arange(10))
        for layer in (0, 1):
            here = mine[mine[:, 2] == layer]
            order = np.argsort(here[:, 1])
            assert passage.modules[layer] == tuple(here[order, 4])
    write(tmp_path / "b.trace", tokens=False)
    with pytest.raises(TraceError, match="has no token ids"):
        passages(open_trace(tmp_path / "b.trace"), (0,))


def test_of_many_labels_those_that_a_module_took_most_of_are_shown() -> None:
    labels = tuple(LabelTaken(label=f"l{n}", tokens=n, of=100, contexts=()) for n in range(100))
    shown = Taken(layer=0, name="mlp", module=1, modules=4, choices=1, labels=labels)
    out = Console(file=io.StringIO(), width=100)
    out.print(*render_taken(shown, numbers))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "and 36 more labels: --json has all" in text
    assert "l36 " in text
    assert "l35 " not in text
