"""From files that the user named to a specification that says what was in them."""

from collections.abc import Callable
from dataclasses import replace

import torch

from modeval.errors import CodeError
from modeval.nn.own.network import own_network
from modeval.spec.data import DataSpec
from modeval.spec.model import ModelSpec, codes
from modeval.spec.own import Code, OwnGating, loaded, take
from modeval.types import Noise


def resolved(data: DataSpec, model: ModelSpec) -> ModelSpec:
    """Return the model with the digests of the user's files, and what was found out by trying.

    Code that has a digest is of a run: it must have been loaded, by consent or by name.

    Raises:
        CodeError: a file is missing, was changed, fails, or does not keep to its protocol.
    """
    chosen = codes(model)
    if not chosen:
        return model
    for code in chosen:
        if code.digest:  # of a run: not whatever lies here under its name
            loaded(code)
    taken = {code: code if code.digest else take(code.path, code) for code in chosen}
    _check_names(list(taken.values()))
    if model.own is not None:
        model = replace(model, own=taken[model.own])
        network = own_network(data, model, 1)
        return replace(model, modules=network.module_count, layers=network.layer_count)
    if model.own_scorer is not None:
        model = replace(model, own_scorer=taken[model.own_scorer])
    if isinstance(model.gating, OwnGating):
        code = taken[model.gating.source]
        gating = replace(model.gating, code=code.code, digest=code.digest)
        check_gating(gating)
        model = replace(model, gating=gating)
    return model


def _check_names(taken: list[Code]) -> None:
    """Refuse two files of one name: a run folder keeps them under it."""
    held: dict[str, str] = {}
    for code in taken:
        if held.setdefault(code.path.name, code.digest) != code.digest:
            raise CodeError(
                f"Two files are called {code.path.name}: a run keeps its code under the names of "
                "the files. Rename one."
            )


def check_gating(gating: OwnGating) -> None:
    """Refuse a gating that gives no weights, or whose seeds look at each other.

    Raises:
        CodeError: says what it gave.
    """
    name = gating.source.name
    if not callable(loaded(gating.source)):
        raise CodeError(f"{gating.code}: expected a function of logits, as {name}(logits).")
    if gating.logits < 1:
        raise CodeError(f"{name}: logits = {gating.logits}: expected 1 or more for each module.")
    modules, samples = 3, 5
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, samples, modules * gating.logits, generator=generator)
    noise = Noise(
        torch.rand(2, samples, max(gating.chance, 0) * modules, generator=generator),
        torch.tensor(0.5),
    )
    weight = gating(logits, noise if gating.chance >= 0 else None)
    if not isinstance(weight, torch.Tensor) or tuple(weight.shape) != (2, samples, modules):
        got = tuple(weight.shape) if isinstance(weight, torch.Tensor) else type(weight).__name__
        raise CodeError(
            f"{name}: for logits {tuple(logits.shape)} it gives {got}: expected weights "
            f"{(2, samples, modules)}, as (seeds, samples, modules)."
        )
    if not bool(weight.isfinite().all()):
        raise CodeError(f"{name}: its weights are not finite. Expected finite weights.")
    _check_apart(gating, logits, noise, weight)


def _check_apart(
    gating: OwnGating, logits: torch.Tensor, noise: Noise, weight: torch.Tensor
) -> None:
    """Refuse a gating that mixes seeds, or samples though it does not say so."""

    def again(seeds: slice, samples: slice) -> torch.Tensor:
        drawn = Noise(noise.uniform[seeds, samples], noise.progress)
        return gating(logits[seeds, samples], drawn if gating.chance >= 0 else None)

    every = slice(None)
    cases: list[tuple[Callable[[], torch.Tensor], torch.Tensor, str]] = [
        (lambda: again(slice(1), every), weight[:1], "seeds"),
    ]
    if not gating.batchwise:
        cases.append((lambda: again(every, slice(2)), weight[:, :2], "samples"))
    for make, expected, what in cases:
        if not torch.allclose(make(), expected, atol=1e-5):
            more = "" if what == "seeds" else f" Or say {gating.source.name}.batchwise = True."
            raise CodeError(
                f"{gating.source.name}: the weights of some {what} depend on other {what}. Work "
                f"along the last axis, that of the modules, alone.{more}"
            )
