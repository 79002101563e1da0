"""Run a model without some of its modules, set by set, and put together what that shows."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modeval.ablate.changing import Removal, changed, unrouted
from modeval.ablate.contributions import contributions
from modeval.ablate.losses import document_losses, fingerprint, labels_of, predicted_tokens
from modeval.ablate.result import Contribution, check_shares
from modeval.ablate.seams import Seam, find_seams
from modeval.ablate.sets import ALONE, ModuleSet, plan_sets, removed_alone, scores_known
from modeval.ablate.statistics import (
    Measured,
    foresight,
    kept_by_scores,
    random_of,
    safe_shares,
)
from modeval.ablate.store import Store
from modeval.errors import DataError
from modeval.record.corpus import TokenBatch
from modeval.score.ablation import Ablation, Alone

Watch = Callable[[int, int, float], None]
"""Is told the passes that are done, of how many, and the seconds that are left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is asked of an ablation.

    Attributes:
        keep: shares of the modules to keep.
        by: static scores to keep them by; all that are known when empty.
        removal: what happens to the tokens of removed modules.
        random: random keep-sets of each size.
        within: margin of the loss, in nats per token.
        alone: whether each module is removed alone, too.
        seed: draws random sets, partners of swaps and permutations.
    """

    keep: tuple[float, ...] = (0.75, 0.5, 0.25)
    by: tuple[str, ...] = ()
    removal: Removal = "reroute"
    random: int = 20
    within: float = 0.02
    alone: bool = False
    seed: int = 0


def ablate_model(
    model: nn.Module,
    batches: Sequence[TokenBatch],
    labels: Sequence[str],
    settings: Settings,
    *,
    name: str,
    routers: Sequence[str] | None = None,
    folder: Path | None = None,
    watch: Watch | None = None,
) -> Ablation:
    """Return what removing modules does to a language model.

    Args:
        model: a causal language model with routers, in evaluation.
        batches: labelled texts.
        labels: names of the labels.
        settings: what is asked.
        name: of the model, for reports.
        routers: names of the routers, when they are not found.
        folder: where measured losses are kept, to go on after a cut.
        watch: is told how far it is.

    Raises:
        TraceError: the routing of the model cannot be changed.
        DataError: shares leave too few modules, or a label has no text.
        RunError: the folder is of something else.
    """
    seams = find_seams(model, routers)
    check_shares(
        settings.keep,
        tuple(seam.modules for seam in seams),
        max(seam.choices for seam in seams) if settings.removal == "reroute" else 1,
    )
    documents = 1 + max(int(batch.document.max()) for batch in batches)
    static, base = contributions(
        model, seams, batches, labels, routers=routers, documents=documents
    )
    measured = Measured(
        base, predicted_tokens(batches, documents), labels_of(batches, documents), len(labels)
    )
    _check_labels(measured, labels)
    by = scores_known(static, settings.by)
    sets = plan_sets(
        static,
        shares=settings.keep,
        by=by,
        random=settings.random,
        alone=settings.alone,
        seed=settings.seed,
    )
    store = Store(folder, _identity(name, batches, settings, base))
    doubtful = _measure(model, seams, batches, sets, settings, store, documents, watch)
    changes = [measured.change(store[one.key(settings.removal)]) for one in sets]
    random = random_of(sets, changes)
    kept = kept_by_scores(sets, changes, random)
    overall, by_label = measured.whole()
    return Ablation(
        model=name,
        layers=tuple(seam.name for seam in seams),
        modules=tuple(seam.modules for seam in seams),
        choices=tuple(seam.choices for seam in seams),
        labels=tuple(labels),
        documents=measured.documents(),
        tokens=measured.tokens_of(),
        removal=settings.removal,
        within=settings.within,
        loss=overall,
        by_label=by_label,
        contributions=tuple(_table(layer) for layer in static),
        routed=tuple(tuple(map(tuple, layer.routed.tolist())) for layer in static),
        kept=kept,
        random=random,
        alone=_alone(sets, changes, seams),
        foresight=foresight(sets, changes, static, by, seed=settings.seed),
        safe=safe_shares(kept, settings.within),
        notes=tuple(_notes(static, doubtful, settings)),
        texts=fingerprint(batches),
    )


def _check_labels(measured: Measured, labels: Sequence[str]) -> None:
    for name, number in zip(labels, measured.documents(), strict=True):
        if number == 0:
            raise DataError(
                f"Label {name} has no document with two tokens or more among those that were "
                "read, so it has no loss. Give more text (--max-tokens), or leave the label out."
            )


def _identity(
    name: str, batches: Sequence[TokenBatch], settings: Settings, base: NDArray[np.float64]
) -> dict[str, Any]:
    return {
        "kind": "modeval ablation",
        "model": name,
        "texts": fingerprint(batches),
        "removal": settings.removal,
        "seed": settings.seed,
        "loss of the whole model": float(base.sum()),
    }


def _measure(  # noqa: PLR0917 - one step of ablate_model, cut out to fit a glance
    model: nn.Module,
    seams: Sequence[Seam],
    batches: Sequence[TokenBatch],
    sets: Sequence[ModuleSet],
    settings: Settings,
    store: Store,
    documents: int,
    watch: Watch | None,
) -> float:
    """Measure the sets that are not known yet; return the largest share that was not rerouted."""
    left = {key: one for one in sets if (key := one.key(settings.removal)) not in store}
    start, doubtful = time.perf_counter(), 0.0
    for done, (key, one) in enumerate(left.items(), 1):
        kept = [_marks(layer, seam.modules) for layer, seam in zip(one.kept, seams, strict=True)]
        with changed(seams, kept, settings.removal, seed=settings.seed) as changes:
            store.add(key, document_losses(model, batches, documents))
            doubtful = max(doubtful, unrouted(changes))
        if watch is not None:
            seconds = (time.perf_counter() - start) / done * (len(left) - done)
            watch(len(sets) - len(left) + done, len(sets), seconds)
    return doubtful


def _marks(kept: Sequence[int], modules: int) -> torch.Tensor:
    marks = torch.zeros(modules, dtype=torch.bool)
    marks[list(kept)] = True
    return marks


def _table(layer: Contribution) -> dict[str, tuple[float, ...]]:
    return {
        name: tuple(scores.tolist())
        for name in scores_known([layer])
        if (scores := layer.score(name)) is not None
    }


def _alone(
    sets: Sequence[ModuleSet], changes: Sequence[Any], seams: Sequence[Seam]
) -> tuple[Alone, ...]:
    modules = [seam.modules for seam in seams]
    return tuple(
        Alone(layer=layer, module=module, change=overall, by_label=by_label)
        for one, (overall, by_label) in zip(sets, changes, strict=True)
        if one.why == ALONE
        for layer, module in [removed_alone(one, modules)]
    )


def _notes(static: Sequence[Contribution], doubtful: float, settings: Settings) -> list[str]:
    notes = []
    blind = [layer.layer for layer in static if layer.output is None]
    if blind:
        notes.append(
            f"reap and peak are not known: the experts of {blind[0]} are not called in a way that "
            "shows the output of each."
        )
    if doubtful > 0:
        notes.append(
            f"Up to {doubtful:.1%} of the choices still fell on removed modules, as of routers "
            "that look experts up in a table: their weights went to the others of the token."
        )
    if settings.removal == "swap":
        notes.append("Tokens of a removed module all go to one other, which was drawn.")
    return notes
