"""Which rule each sample or position follows."""

from functools import lru_cache

import torch
from jaxtyping import Float, Float64, Int64
from torch import Generator, Tensor

from modeval.errors import SpecError
from modeval.spec import DataSpec


def draw_rules(
    spec: DataSpec,
    generator: Generator,
    *,
    out: Int64[Tensor, "samples *positions"],
    probabilities: Float[Tensor, "*parts rules"] | None = None,
) -> None:
    """Draw each entry of ``out`` independently: evenly, or with given shares of the rules.

    Args:
        spec: gives the number of rules, and their shares unless ``probabilities`` does.
        generator: source of the draws, on the device of ``out``.
        out: ``(N, ...)``, overwritten.
        probabilities: ``(R,)``, or ``(P, R)`` for P equal consecutive parts of the samples.

    Raises:
        SpecError: ``probabilities`` do not fit the rules or the samples.
    """
    if probabilities is not None:
        _check(probabilities, spec.rules, out.shape[0])
        bounds = upper_bounds(probabilities).to(out.device)
    elif spec.trained_shares:
        bounds = _kept_bounds(spec.trained_shares, out.device)
    else:
        out.random_(spec.rules, generator=generator)
        return
    uniform = torch.rand(
        out.shape, dtype=torch.float64, device=out.device, generator=generator
    ).view(*bounds.shape[:-1], -1)
    torch.searchsorted(bounds, uniform, right=True, out=out.view_as(uniform))


def upper_bounds(shares: Float[Tensor, "*parts rules"]) -> Float64[Tensor, "*parts bounds"]:
    """Return where on the unit interval each rule but the last ends.

    A bound that only rules without any share follow is infinite, so that rounding of the sum
    never lets one of them be drawn.

    >>> upper_bounds(torch.tensor([0.5, 0.5, 0.0]))
    tensor([0.5000,    inf], dtype=torch.float64)
    """
    shares = shares.double()
    bounds = shares.cumsum(-1)[..., :-1]
    follows = shares.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    return bounds.masked_fill(follows == 0, torch.inf).contiguous()


@lru_cache(maxsize=16)
def _kept_bounds(shares: tuple[float, ...], device: torch.device) -> Tensor:
    # Kept on the device: a copy from the host for each draw would make the device wait.
    return upper_bounds(torch.tensor(shares, dtype=torch.float64)).to(device)


def _check(probabilities: Tensor, rules: int, samples: int) -> None:
    if probabilities.ndim not in (1, 2) or probabilities.shape[-1] != rules:
        raise SpecError(
            f"rule_probabilities has shape {tuple(probabilities.shape)}: expected ({rules},) or "
            f"(parts, {rules}), one share for each rule."
        )
    if probabilities.ndim == 2 and samples % probabilities.shape[0]:  # noqa: PLR2004
        parts = probabilities.shape[0]
        raise SpecError(
            f"{samples} samples do not divide into {parts} parts with shares of their own. "
            f"Draw {-(-samples // parts) * parts}."
        )
