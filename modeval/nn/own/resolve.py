"""From files that the user named to a specification that says what was in them."""

from collections.abc import Callable
from dataclasses import replace

import torch

from modeval.errors import CodeError
from modeval.nn.own.network import own_network
from modeval.nn.own.signature import require_call, require_tensor
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
    name, function = gating.source.name, loaded(gating.source)
    if not callable(function):
        raise CodeError(f"{gating.code}: expected a function of logits, as {name}(logits).")
    _check_facts(gating, function)
    takes = ["logits", "noise"] if gating.chance >= 0 else ["logits"]
    form = f"{name}({', '.join(takes)}) -> weights, both of shape (seeds, samples, modules)"
    if isinstance(function, type):
        raise CodeError(
            f"{gating.code} is a class: expected a function, {form}. Make one of it in the file, "
            f"as gate = {name}(), and give {gating.source.path.name}:gate."
        )
    require_call(function, takes, form, gating.code)
    if gating.logits < 1:
        raise CodeError(f"{name}: logits = {gating.logits}: expected 1 or more for each module.")
    modules, samples = 3, 5
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, samples, modules * gating.logits, generator=generator)
    noise = Noise(
        torch.rand(2, samples, max(gating.chance, 0) * modules, generator=generator),
        torch.tensor(0.5),
    )
    expected = f"weights {(2, samples, modules)}, as (seeds, samples, modules)"
    given = f"{name}: for logits {tuple(logits.shape)} it"
    weight = require_tensor(gating(logits, noise if gating.chance >= 0 else None), expected, given)
    if tuple(weight.shape) != (2, samples, modules):
        raise CodeError(f"{given} returned {tuple(weight.shape)}: expected {expected}.")
    _check_apart(gating, logits, noise, weight)


def _check_facts(gating: OwnGating, function: object) -> None:
    """Refuse facts that a function says of itself in another type."""
    for fact, usual in OwnGating.usual.items():
        said = getattr(function, fact, usual)
        if type(said) is not type(usual):
            kind = "True or False" if isinstance(usual, bool) else "a whole number"
            name = gating.source.name
            raise CodeError(
                f"{name}.{fact} = {said!r}: expected {kind}, as {name}.{fact} = {usual}."
            )


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
