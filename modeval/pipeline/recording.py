"""Recording a model of Hugging Face on labelled text."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from modeval.errors import DataError
from modeval.pipeline.machine import choose_device
from modeval.record.corpus import label_names, read_documents
from modeval.record.hugging_face import load, record_documents
from modeval.record.recording import Recording

Tell = Callable[[str], None]
Rate = Callable[[int, float], None]
"""What is told the tokens that are done, and how many a second."""


def silent(_text: str) -> None:
    """Tell nobody."""


def unseen(_tokens: int, _rate: float) -> None:
    """Show nobody how far it is."""


def record_model(
    model: str,
    *,
    data: Sequence[str],
    trace: Path | None = None,
    text: str = "text",
    label: str = "label",
    split: str = "train",
    max_tokens: int | None = None,
    max_documents: int = 100_000,
    length: int = 512,
    batch_tokens: int = 4096,
    generate: int = 0,
    routers: Sequence[str] | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    tell: Tell = silent,
    watch: Rate = unseen,
    quiet: bool = True,
) -> tuple[Recording, int]:
    """Load a model, run it over labelled text and record it; return the number of documents too.

    Args:
        model: folder of a Hugging Face model, or its id on the hub.
        data: JSON lines, Parquet, text files, folders, or names of data sets.
        trace: folder to write; in memory alone when absent.
        text: column of the text.
        label: column of the label; empty takes the name of each file.
        split: split of a data set by name.
        max_tokens: tokens after which to stop.
        max_documents: documents that are read at most.
        length: tokens kept of each document.
        batch_tokens: tokens of a batch, padding included.
        generate: tokens that the model writes after each document.
        routers: names of the routers, when they are not found.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        device_map: spreads the model over devices.
        revision: commit or tag on the hub.
        trust_remote_code: whether code that comes with the model is run.
        tell: is told what is worth knowing.
        watch: is told how far it is.
        quiet: whether libraries keep still.
    """
    source = read_documents(data, text=text, label=label or None, split=split)
    documents = list(islice(source, max_documents))
    if not documents:
        raise DataError(f"No documents in {', '.join(data)}: expected at least one.")
    if len(documents) == max_documents:
        tell(f"Read the first {max_documents} documents only (--max-documents).")
    loaded = load(
        model,
        dtype=dtype,
        device=str(choose_device(device)),
        device_map=device_map,
        revision=revision,
        trust_remote_code=trust_remote_code,
        quiet=quiet,
    )
    recording = record_documents(
        loaded,
        documents,
        trace=trace,
        routers=list(routers) if routers else None,
        length=length,
        batch_tokens=batch_tokens,
        max_tokens=max_tokens,
        generate=generate,
        progress=watch,
    )
    for line in _told(recording, label_names(documents)):
        tell(line)
    return recording, sum(bool(document.text) for document in documents)


def _told(recording: Recording, labels: tuple[str, ...]) -> list[str]:
    coverage = recording.coverage()
    whole = (
        f"{coverage.expected} routers expected, {coverage.hooked} hooked, {coverage.recorded} "
        f"recorded; labels: {', '.join(labels)}"
    )
    others = [layer for layer in coverage.layers if layer.status != "recorded"]
    header = recording.header()
    return [
        whole,
        *(f"{layer.name}: {layer.status}" for layer in others),
        *header.notes,
        *(f"{each.kind}: {each.text}" for each in header.warnings),
    ]
