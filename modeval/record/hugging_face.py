"""Hugging Face models on labelled text: load, run, record. Nothing is trained, nothing is sent."""

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modeval.errors import CheckpointError, DependencyError, SpecError
from modeval.record.corpus import Document, TokenBatch, label_names, token_batches
from modeval.record.recording import Recording, record
from modeval.record.routers.find import Patterns

DTYPES = ("auto", "float32", "bfloat16", "float16")
COPYING = (
    "The decoder was given the text that the encoder read, as if to copy it: its routing is that "
    "of text, not of what the model would write. Record with --generate to see that."
)
MODELS = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModel")

OnRead = Callable[[int, float], None]
"""Called after each batch with the tokens so far and the tokens per second."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and what makes its tokens.

    Attributes:
        model: the model, in evaluation mode.
        tokenize: gives the token ids of a text.
        pad: token id of padding.
        seq2seq: whether it has an encoder and a decoder.
    """

    model: nn.Module
    tokenize: Callable[[str], Sequence[int]]
    pad: int
    seq2seq: bool


def load(
    name: str,
    *,
    dtype: str = "auto",
    device: str | None = None,
    device_map: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> Loaded:
    """Load a model and its tokenizer from a folder, or from the hub by its id.

    Args:
        name: folder or hub id.
        dtype: precision of the weights, ``auto`` for that of the checkpoint.
        device: where to run.
        device_map: how to spread the model over devices, as ``auto`` (needs accelerate).
        revision: commit or tag on the hub.
        trust_remote_code: run the code that comes with the model.
        quiet: show no progress of the loading.

    Raises:
        DependencyError: transformers is not installed.
        CheckpointError: the model or its tokenizer cannot be loaded.
    """
    transformers = _transformers()
    if dtype not in DTYPES:
        raise SpecError(f"--dtype {dtype!r}: expected one of {', '.join(DTYPES)}.")
    # Said outright: when nothing is said, transformers asks whoever sits there.
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    options |= {"revision": revision} if revision else {}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
        kind = _kind(transformers, config)
        placing = {"device_map": device_map} if device_map else {}
        with _silence(transformers) if quiet else contextlib.nullcontext():
            model, report = kind.from_pretrained(
                name, dtype=dtype, output_loading_info=True, **placing, **options
            )
    except Exception as error:  # noqa: BLE001 - whatever a damaged or foreign folder makes it raise
        if "trust_remote_code" in str(error) and not trust_remote_code:
            raise CheckpointError(
                f"Model {name} comes with code of its own, which is not run unless you say so: "
                "--trust-remote-code. Read that code first."
            ) from None
        raise CheckpointError(
            f"Model {name} cannot be loaded: {_first_line(error)}. Expected a folder with "
            "config.json, weights and a tokenizer, or the id of a model on the hub."
        ) from None
    _refuse_random(name, report)
    if device is not None and not device_map:
        model = model.to(device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def tokenize(text: str) -> Sequence[int]:
        ids: Sequence[int] = tokenizer(text, truncation=False, verbose=False)["input_ids"]
        return ids

    return Loaded(model.eval(), tokenize, pad or 0, bool(config.is_encoder_decoder))


def _refuse_random(name: str, report: Any) -> None:
    """Refuse a model of which weights were drawn at random, as the checkpoint has none."""
    missing = sorted(map(str, report.get("missing_keys", ())))
    missing += sorted(str(key) for key in report.get("mismatched_keys", ()))
    if missing:
        raise CheckpointError(
            f"Model {name} lacks {len(missing)} of its weights, and they were drawn at random: "
            f"{', '.join(missing[:4])}{', ...' if missing[4:] else ''}. Routing through them means "
            "nothing: expected a whole checkpoint of this architecture."
        )


@contextlib.contextmanager
def _silence(transformers: Any) -> Iterator[None]:
    """Show no progress bars of transformers."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _transformers() -> Any:
    try:
        import transformers  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise DependencyError(
            'Models of Hugging Face need transformers: pip install "modeval-cli[hf]"'
        ) from None
    return transformers


def _kind(transformers: Any, config: Any) -> Any:
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    for name in MODELS:
        auto = getattr(transformers, name, None)
        if auto is not None and type(config) in auto._model_mapping:  # noqa: SLF001 - no public way
            return auto
    # Code that comes with the model says in its configuration which class it has.
    remote = getattr(config, "auto_map", {})
    return getattr(transformers, next((name for name in MODELS if name in remote), MODELS[0]))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def batches_of(
    loaded: Loaded,
    documents: Sequence[Document],
    *,
    length: int,
    tokens: int,
    max_tokens: int | None,
    left: bool = False,
) -> Iterator[TokenBatch]:
    """Return the batches of texts that a model is run on.

    Args:
        loaded: the model, with its tokenizer.
        documents: texts with labels.
        length: tokens kept of each document.
        tokens: tokens of a batch, padding included.
        max_tokens: tokens to stop after.
        left: whether padding comes first, as for models that write on.
    """
    return token_batches(
        documents,
        loaded.tokenize,
        labels=label_names(documents),
        length=length,
        tokens=tokens,
        max_tokens=max_tokens,
        pad=loaded.pad,
        left=left,
    )


def record_documents(
    loaded: Loaded,
    documents: Sequence[Document],
    *,
    trace: Path | None = None,
    routers: Patterns | None = None,
    length: int = 512,
    batch_tokens: int = 4096,
    max_tokens: int | None = None,
    generate: int = 0,
    progress: OnRead | None = None,
) -> Recording:
    """Run a model over labelled documents and record its routing.

    Args:
        loaded: the model.
        documents: texts with labels.
        trace: folder to write every choice to.
        routers: names of routers, when they are not found by themselves.
        length: tokens kept of each document.
        batch_tokens: tokens of a batch, padding included.
        max_tokens: tokens to stop after.
        generate: tokens to let the model write after each document, so that decoding is recorded.
        progress: called after each batch.

    Raises:
        TraceError: a router recorded nothing, or none was found.
        DataError: there is no text.
    """
    labels = label_names(documents)
    left = generate > 0 and not loaded.seq2seq
    batches = batches_of(
        loaded, documents, length=length, tokens=batch_tokens, max_tokens=max_tokens, left=left
    )
    tokens, start = 0, time.perf_counter()
    recording = record(
        loaded.model,
        labels,
        routers=routers,
        trace=trace,
        tokens=True,
        phase="mixed" if generate else "prefill",
        notes=[COPYING] if loaded.seq2seq and not generate else (),
    )
    with torch.inference_mode(), recording:
        for batch in batches:
            recording.label(batch.label, documents=batch.document)
            _run(loaded, batch, generate)
            tokens += batch.tokens
            if progress is not None:
                progress(tokens, tokens / (time.perf_counter() - start))
    return recording


def _run(loaded: Loaded, batch: TokenBatch, generate: int) -> None:
    model: Any = loaded.model
    device = next(model.parameters()).device
    inputs: dict[str, Any] = {
        "input_ids": batch.input_ids.to(device),
        "attention_mask": batch.attention_mask.to(device),
    }
    if generate:
        model.generate(**inputs, max_new_tokens=generate, do_sample=False, pad_token_id=loaded.pad)
        return
    if loaded.seq2seq:  # the decoder reads the same text, as if it were to copy it
        inputs["labels"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    else:
        inputs["use_cache"] = False
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = 1  # the scores of all tokens are of no use here, and large
    model(**inputs)
