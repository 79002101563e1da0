"""Labelled text from files, and batches of it."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeval.errors import DataError
from modeval.record.corpus import Document, label_names, read_documents, token_batches

ROWS = [
    {"text": "one two three", "domain": "law"},
    {"text": "four five", "domain": "code"},
    {"text": "six", "domain": "law"},
]
DOCUMENTS = [Document(row["text"], row["domain"]) for row in ROWS]


def words(text: str) -> list[int]:
    return [len(word) for word in text.split()]


def test_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n", encoding="utf-8")
    assert list(read_documents([file], label="domain")) == DOCUMENTS
    assert {row.label for row in read_documents([file], label=None)} == {"a"}


def test_parquet_reads_only_its_columns(tmp_path: Path) -> None:
    rows = [row | {"blob": "x" * 10} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read_documents([tmp_path / "a.parquet"], label="domain")) == DOCUMENTS


def test_a_folder_names_the_labels_of_its_texts(tmp_path: Path) -> None:
    for name in ("law", "code"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name * 2, encoding="utf-8")
    assert list(read_documents([tmp_path])) == [
        Document("codecode", "code"),
        Document("lawlaw", "law"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"a\.jsonl, line 1 is not JSON"),
        ("[1]", r"row 1 is \[1\]: expected an object"),
        ('{"text": "a"}', r"row 1 has no 'label': it has text.*--label"),
        ('{"text": 3, "label": "a"}', "expected a string in 'text'.*found int"),
        ('{"text": "a", "label": null}', "found str and NoneType"),
        (b"\xff\xfe\x00", "cannot be read as UTF-8"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        list(read_documents([file]))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No file at .*none\.jsonl"):
        list(read_documents([tmp_path / "none.jsonl"]))
    with pytest.raises(DataError, match=r"holds no \.txt"):
        list(read_documents([tmp_path]))
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(DataError, match="no kind that can be read"):
        list(read_documents([tmp_path / "a.zip"]))
    damaged = tmp_path / "a.parquet"
    damaged.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="damaged"):
        list(read_documents([damaged]))


def test_batches_hold_every_token_once() -> None:
    names = label_names(DOCUMENTS)
    assert names == ("code", "law")
    for left in (False, True):
        batches = list(
            token_batches(DOCUMENTS, words, labels=names, length=8, tokens=4, pad=9, left=left)
        )
        rows = {}
        for batch in batches:
            assert batch.input_ids.numel() <= 4 or len(batch.label) == 1
            for number, label, ids, mask in zip(
                batch.document, batch.label, batch.input_ids, batch.attention_mask, strict=True
            ):
                rows[int(number)] = (ids[mask > 0].tolist(), names[label])
                assert (ids[mask == 0] == 9).all()
        assert rows == {
            0: ([3, 3, 5], "law"),
            1: ([4, 4], "code"),
            2: ([3], "law"),
        }


def test_a_bound_on_tokens_is_shared_by_the_labels() -> None:
    documents = [Document("a b c d", "x")] * 50 + [Document("a b c d", "y")] * 50
    batches = list(token_batches(documents, words, labels=("x", "y"), length=3, max_tokens=32))
    labels = [int(label) for batch in batches for label in batch.label]
    assert sum(batch.tokens for batch in batches) == 32
    assert abs(labels.count(0) - labels.count(1)) <= 1


def test_no_text_and_no_length_are_refused() -> None:
    with pytest.raises(DataError, match="hold no text"):
        list(token_batches([Document("", "x")], words, labels=("x",)))
    with pytest.raises(DataError, match="--length is 0"):
        list(token_batches(DOCUMENTS, words, labels=("code", "law"), length=0))


def test_fields_within_others_are_named_with_a_dot(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"body": {"text": "x"}, "meta": {"domain": "code", "lang": "en"}, "a.b": "dotted"}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [*read_documents([path], text="body.text", label="meta.domain")] == [
        Document("x", "code")
    ]
    assert [*read_documents([path], text="body.text", label="a.b")] == [Document("x", "dotted")]
    with pytest.raises(DataError, match=r"has no 'meta.topic': it has body.text, meta.domain"):
        [*read_documents([path], text="body.text", label="meta.topic")]
    table = pa.Table.from_pylist([{"text": "x", "meta": {"domain": "code"}, "other": 1}])
    pq.write_table(table, tmp_path / "b.parquet")
    [document] = read_documents([tmp_path / "b.parquet"], label="meta.domain")
    assert document == Document("x", "code")


def test_a_name_that_is_nothing_here_and_no_data_set_says_what_to_give(monkeypatch):
    def away(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'texts' on the Hub.")

    library = ModuleType("datasets")
    library.load_dataset = away
    monkeypatch.setitem(sys.modules, "datasets", library)
    with pytest.raises(DataError, match=r"on the Hub\. Give a file .* --data FILE.jsonl --text"):
        list(read_documents(["texts"], text="text", label="domain"))
