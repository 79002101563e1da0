"""Labelled text to record a model on: files of several kinds, made into batches of tokens.

A *document* is a text with the label it came with. Documents are cut to a length, taken in turn
from the labels so that a bound on tokens is shared fairly, and batched with others of about the
same length, so that little of a batch is padding.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from modeval.errors import DataError, DependencyError

SHOWN = 60  # characters of a wrong row that an error shows
SORTED = 64  # batches whose documents are sorted by length together
TEXT_FILES = (".txt", ".md", ".text")


@dataclass(frozen=True, slots=True)
class Document:
    """One text, and the name of its rule."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Documents of about the same length, as a model takes them.

    Attributes:
        input_ids: ``(B, T)`` token ids.
        attention_mask: ``(B, T)`` 1 for tokens, 0 for padding.
        label: ``(B,)`` number of the label of each document.
        document: ``(B,)`` number of each document in the corpus.
    """

    input_ids: Int64[Tensor, "batch positions"]
    attention_mask: Int64[Tensor, "batch positions"]
    label: Int64[Tensor, " batch"]
    document: Int64[Tensor, " batch"]

    @property
    def tokens(self) -> int:
        """Return the number of tokens that are not padding."""
        return int(self.attention_mask.sum())


Tokenizer = Callable[[str], Sequence[int]]


def read_documents(
    sources: Sequence[str | Path],
    *,
    text: str = "text",
    label: str | None = "label",
    split: str = "train",
) -> Iterator[Document]:
    """Iterate over the documents of files, folders and data sets.

    Args:
        sources: JSON lines (``.jsonl``), Parquet or text files; folders of these, where the name
            of a text file's folder is its label; or names of data sets of the ``datasets``
            package.
        text: column of the text.
        label: column of the label; nothing labels each document by its source's name.
        split: split of a data set.

    Raises:
        DataError: names the source, the line and the value.
    """
    for source in sources:
        path = Path(source)
        if path.is_dir():
            yield from _read_folder(path, text, label)
        elif path.exists():
            yield from _read_file(path, text, label, path.stem)
        elif path.suffix in (".jsonl", ".json", ".parquet", *TEXT_FILES):
            raise DataError(f"No file at {path}: expected JSON lines, Parquet or text.")
        else:
            yield from _read_dataset(str(source), text, label, split)


def _read_folder(folder: Path, text: str, label: str | None) -> Iterator[Document]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix in (".jsonl", ".parquet", *TEXT_FILES)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        if (folder / "config.json").is_file():
            raise DataError(
                f"{folder} is the folder of a model, and --data takes texts. Were the two swapped? "
                f"modeval record {folder} --data TEXTS"
            )
        raise DataError(
            f"{folder} holds no .txt, .md, .jsonl or .parquet file: expected a folder for each "
            "label, with text files in it."
        )
    for path in files:
        yield from _read_file(path, text, label, path.parent.name)


def _read_file(path: Path, text: str, label: str | None, name: str) -> Iterator[Document]:
    if path.suffix in TEXT_FILES:
        yield Document(_decode(path), name)
    elif path.suffix == ".parquet":
        yield from _rows(_parquet_rows(path, text, label), path, text, label, name)
    elif path.suffix in (".jsonl", ".json"):
        yield from _rows(_json_lines(path), path, text, label, name)
    else:
        raise DataError(
            f"{path} is of no kind that can be read: expected .jsonl, .parquet, .txt, a folder, "
            "or the name of a data set."
        )


def _decode(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}.") from None


def _json_lines(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _json(line, path, number)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}.") from None


def _json(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}, line {number} is not JSON: {error}. Expected one object on each line."
        ) from None


def _parquet_rows(path: Path, text: str, label: str | None) -> Iterator[Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise DependencyError('Parquet needs pyarrow: pip install "modeval-cli[arrow]"') from None
    try:
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            wanted = (name for name in (text, label) if name is not None)
            columns = [name if name in names else name.partition(".")[0] for name in wanted]
            columns = [name for name in dict.fromkeys(columns) if name in names]
            for batch in file.iter_batches(columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged: {str(error).splitlines()[0]}.") from None


def _read_dataset(name: str, text: str, label: str | None, split: str) -> Iterator[Document]:
    try:
        import datasets  # noqa: PLC0415 - an extra
    except ImportError:
        raise DataError(
            f"{name!r} is no file or folder, and data sets by name need the datasets package: "
            'pip install "modeval-cli[hf]"'
        ) from None
    try:
        rows = datasets.load_dataset(name, split=split, streaming=True)
    except Exception as error:  # noqa: BLE001 - whatever that library, its hub, the network raise
        raise DataError(
            f"{name!r} is no file or folder, and no data set that can be loaded: "
            f"{str(error).rstrip('.')}. Give a file of texts with labels: --data FILE.jsonl --text "
            "text --label domain"
        ) from None
    feature = (getattr(rows, "features", None) or {}).get(label)
    names = getattr(feature, "names", None)
    for document in _rows(iter(rows), Path(name), text, label, name):
        number = document.label
        yield Document(document.text, names[int(number)]) if names else document


def _rows(
    rows: Iterator[Any], path: Path, text: str, label: str | None, name: str
) -> Iterator[Document]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number} is {_short(row)}: expected an object.")
        for column in (text, label):
            if column is not None and _field(row, column) is ABSENT:
                raise DataError(
                    f"{path}, row {number} has no {column!r}: it has {', '.join(_fields(row))}. "
                    "Name the columns with --text and --label, those within others with a dot "
                    "between, as meta.domain."
                )
        content, value = _field(row, text), name if label is None else _field(row, label)
        label_name = str(value)
        if not isinstance(content, str) or not isinstance(value, (str, int)):
            raise DataError(
                f"{path}, row {number}: expected a string in {text!r} and a name or number in "
                f"{label!r}, found {type(content).__name__} and {type(value).__name__}."
            )
        for column, value in ((text, content), (label, label_name)):
            _refuse_surrogates(value, f"{path}, row {number}: {column!r}")
        yield Document(content, label_name)


ABSENT = object()
"""Stands for a field that is not there; null is one that is."""


def _field(row: Mapping[str, Any], name: str) -> Any:
    """Return a field of a row, or of what is nested in it: ``meta.domain``.

    >>> _field({"meta": {"domain": "code"}, "a.b": 1}, "meta.domain")
    'code'
    """
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return ABSENT
        value = value[part]
    return value


def _fields(row: Mapping[str, Any]) -> list[str]:
    """Return the names of the fields of a row, those of nested ones with a dot between."""
    found: list[str] = []
    for name, value in row.items():
        below = value if isinstance(value, Mapping) and len(value) <= SHOWN else {}
        found += [f"{name}.{inner}" for inner in below] or [str(name)]
    return found


def _short(row: Any) -> str:
    shown = repr(row)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]} ..."


def _refuse_surrogates(value: str, where: str) -> None:
    """Refuse half of a pair of UTF-16, which is in no text and no tokenizer can read."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds {value[error.start]!r}, half of a character, at {error.start}: "
            "expected text. Leave the row out, or replace what is no character: "
            'text.encode("utf-8", "replace").decode().'
        ) from None


def label_names(documents: Sequence[Document]) -> tuple[str, ...]:
    """Return the labels of the documents, sorted: by number where all are numbers.

    >>> label_names([Document("", "10"), Document("", "9")])
    ('9', '10')
    """
    names = {document.label for document in documents}
    if all(name.lstrip("-").isdigit() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def token_batches(
    documents: Sequence[Document],
    tokenize: Tokenizer,
    *,
    labels: Sequence[str],
    length: int = 512,
    tokens: int = 4096,
    max_tokens: int | None = None,
    pad: int = 0,
    left: bool = False,
) -> Iterator[TokenBatch]:
    """Iterate over batches of at most ``tokens`` tokens, padding included.

    Labels take turns, so that a bound on tokens leaves each with about the same number of
    documents; documents without a token are left out.

    Args:
        documents: what to cut up, in any order.
        tokenize: gives the token ids of a text.
        labels: names of the labels, in the order of their numbers.
        length: tokens that are kept of each document, from its beginning.
        tokens: size of a batch.
        max_tokens: tokens to stop after; the last document is cut.
        pad: token id of padding.
        left: whether padding comes before the tokens.

    Raises:
        DataError: a number is not positive, or no document has a token.
    """
    for name, number in (("--length", length), ("--batch-tokens", tokens)):
        if number < 1:
            raise DataError(f"{name} is {number}: expected 1 or more.")
    number_of = {name: number for number, name in enumerate(labels)}
    texts = ((number, documents[number].text) for number in _in_turn(documents, labels))
    rows = _cut(texts, tokenize, length, max_tokens)
    several = max(SORTED * tokens // length, 1)
    empty = True
    while some := list(islice(rows, several)):
        some.sort(key=lambda row: len(row[1]))
        empty = False
        for part in _fill(some, tokens):
            yield _batch(part, documents, number_of, pad, left=left)
    if empty:
        raise DataError("The data hold no text: expected at least one document with a token.")


def _in_turn(documents: Sequence[Document], labels: Sequence[str]) -> Iterator[int]:
    """Iterate over numbers of documents, one of each label in turn."""
    queues: dict[str, list[int]] = {name: [] for name in labels}
    for number, document in enumerate(documents):
        queues[document.label].append(number)
    for index in range(max(map(len, queues.values()), default=0)):
        for queue in queues.values():
            if index < len(queue):
                yield queue[index]


def _cut(
    texts: Iterator[tuple[int, str]], tokenize: Tokenizer, length: int, limit: int | None
) -> Iterator[tuple[int, list[int]]]:
    left = float("inf") if limit is None else limit
    for number, text in texts:
        row = list(tokenize(text))[:length]
        if left < len(row):
            row = row[: int(left)]
        left -= len(row)
        if row:
            yield number, row
        if left <= 0:
            return


def _fill(
    rows: Sequence[tuple[int, list[int]]], tokens: int
) -> Iterator[list[tuple[int, list[int]]]]:
    part: list[tuple[int, list[int]]] = []
    for row in rows:  # from short to long: the newest is the longest
        if part and (len(part) + 1) * len(row[1]) > tokens:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def _batch(
    rows: Sequence[tuple[int, list[int]]],
    documents: Sequence[Document],
    number_of: dict[str, int],
    pad: int,
    *,
    left: bool,
) -> TokenBatch:
    width = max(len(row) for _, row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for index, (_, row) in enumerate(rows):
        where = slice(width - len(row), None) if left else slice(0, len(row))
        ids[index, where] = torch.tensor(row)
        mask[index, where] = 1
    numbers = [number for number, _ in rows]
    return TokenBatch(
        input_ids=ids,
        attention_mask=mask,
        label=torch.tensor([number_of[documents[number].label] for number in numbers]),
        document=torch.tensor(numbers),
    )
