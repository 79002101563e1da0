"""Removing modules of a language model of Hugging Face on labelled text."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from modeval.ablate.changing import REMOVALS, Removal
from modeval.ablate.result import FAULT, SCORES, write_lists
from modeval.ablate.run import Settings, Watch, ablate_model
from modeval.ablate.sets import LEAST_RANDOM
from modeval.atomic import new_folders, reported, write_text
from modeval.errors import CheckpointError, DataError, SpecError, nearest
from modeval.pipeline.machine import choose_device
from modeval.record.corpus import label_names, read_documents
from modeval.record.hugging_face import Loaded, batches_of, load
from modeval.score.ablation import Ablation
from modeval.score.stored.files import scorecard_text

MOST_DOCUMENTS = 100_000
"""Documents that are read at most; tokens are bounded by ``max_tokens`` long before."""


def ablate(
    model: str | Path,
    *,
    data: Sequence[str | Path],
    out: Path | None = None,
    keep: Sequence[float] = (0.75, 0.5, 0.25),
    by: Sequence[str] = (),
    removal: Removal = "reroute",
    random: int = 20,
    within: float = 0.02,
    alone: bool = False,
    seed: int = 0,
    text: str = "text",
    label: str = "label",
    split: str = "train",
    max_tokens: int = 20_000,
    length: int = 512,
    batch_tokens: int = 4096,
    routers: Sequence[str] | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quiet: bool = True,
    watch: Watch | None = None,
) -> Ablation:
    """Which modules of a language model matter for what, and how many can go?

    One pass scores every module; then the model runs without those that a score would remove, and
    without as many at random, which is what the score has to beat.

    Args:
        model: folder of a Hugging Face model, or its id on the hub.
        data: JSON lines, Parquet, text files, folders, or names of data sets.
        out: folder for what is measured, so that a run that was cut off goes on; the result and
            lists of modules to keep are written there, too.
        keep: shares of the modules of each layer to keep.
        by: static scores to keep them by; all that are known when empty.
        removal: what happens to the tokens of removed modules: ``reroute`` (the router chooses
            among the others), ``renormalise``, ``zero`` or ``swap``.
        random: random keep-sets of each size.
        within: how much the loss may grow, in nats per token, for a share to be called safe.
        alone: also remove each module alone.
        seed: draws the random sets.
        text: column of the text.
        label: column of the label; empty takes the name of each file.
        split: split of a data set by name.
        max_tokens: tokens after which to stop reading.
        length: tokens kept of each document.
        batch_tokens: tokens of a batch, padding included: what bounds the memory.
        routers: names of the routers, when they are not found.
        dtype: ``auto`` (that of the checkpoint; 32 bits on a CPU, where 16 are slow), ``float32``,
            ``bfloat16`` or ``float16``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        device_map: spreads the model over devices.
        revision: commit or tag on the hub.
        trust_remote_code: whether code that comes with the model is run.
        quiet: whether libraries keep still.
        watch: is told the passes that are done, of how many, and the seconds left.

    Raises:
        ModevalError: what is asked makes no sense, or the model's routing cannot be changed.
    """
    settings = _settings(keep, by, removal, random, within, seed, alone=alone)
    documents = list(
        islice(read_documents(data, text=text, label=label or None, split=split), MOST_DOCUMENTS)
    )
    if not documents:
        raise DataError(f"No documents in {', '.join(map(str, data))}: expected at least one.")
    where = choose_device(device)
    loaded = load(
        str(model),
        dtype="float32" if dtype == "auto" and where.type == "cpu" else dtype,
        device=str(where),
        device_map=device_map,
        revision=revision,
        trust_remote_code=trust_remote_code,
        quiet=quiet,
    )
    _check_causal(loaded, str(model))
    labels = label_names(documents)
    batches = list(
        batches_of(loaded, documents, length=length, tokens=batch_tokens, max_tokens=max_tokens)
    )
    found = ablate_model(
        loaded.model,
        batches,
        labels,
        settings,
        name=Path(model).name or str(model),
        routers=routers,
        folder=out,
        watch=watch,
    )
    if out is not None:
        write_text(out / "result.json", scorecard_text(found.card()), FAULT)
        with reported(out / "lists", FAULT), new_folders(out / "lists"):
            write_lists(found, out / "lists")
    return found


def _settings(  # noqa: PLR0917 - what ablate was given
    keep: Sequence[float],
    by: Sequence[str],
    removal: Removal,
    random: int,
    within: float,
    seed: int,
    *,
    alone: bool,
) -> Settings:
    """Return what is asked, checked before anything is loaded."""
    for name in by:
        if name not in SCORES:
            raise SpecError(
                f"--by {name}: there is no such score{nearest(name, [*SCORES])}. Expected some of "
                f"{', '.join(SCORES)}."
            )
    if removal not in REMOVALS:
        raise SpecError(f"--removal {removal}: expected one of {', '.join(REMOVALS)}.")
    if random < LEAST_RANDOM:
        raise SpecError(
            f"--random {random}: expected {LEAST_RANDOM} or more, since with fewer random sets "
            "nothing can be told from chance."
        )
    if not within > 0:
        raise SpecError(f"--within {within:g}: expected a margin above 0, in nats per token.")
    if not keep and not alone:
        raise SpecError("Nothing to remove: give shares with --keep 0.75,0.5, or --alone.")
    return Settings(
        keep=tuple(dict.fromkeys(keep)),
        by=tuple(by),
        removal=removal,
        random=random,
        within=within,
        alone=alone,
        seed=seed,
    )


def _check_causal(loaded: Loaded, model: str) -> None:
    if loaded.seq2seq:
        raise CheckpointError(
            f"{model} has an encoder and a decoder, and no loss on text alone: expected a causal "
            "language model. Its routing can be recorded: modeval record."
        )
