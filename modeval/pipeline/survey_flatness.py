"""Claims about optimisers: do flat places help what is merged, or joined by a line?"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from modeval.pipeline.laboratory import Claim, Laboratory
from modeval.train.files import read_network
from modeval.train.goal import losses
from modeval.train.optimisers import uphill
from modeval.train.records import read_run

RADIUS = 0.05
OPTIMISERS: dict[str, dict[str, Any]] = {
    "adam": {},
    "sam": {"optimiser": {"kind": "sam", "radius": RADIUS}},
    "sgd": {"optimiser": {"kind": "sgd"}, "learning_rate": 3e-2},
}
"""Settings of training. The radius is the source's; SGD takes ten times the rate of Adam."""


def _merged(at: Laboratory, optimiser: str) -> tuple[Tensor, Tensor]:
    """Return the loss of modules that were trained apart, and what their mean adds to it."""
    folder = _apart(at, optimiser)
    apart, merged = (at.seen(folder, which).loss.double() for which in ("phase-2", "last"))
    return apart, merged - apart


def _apart(at: Laboratory, optimiser: str) -> Any:
    label = "merged-average" if optimiser == "adam" else f"merged-average-{optimiser}"
    settings = {"method": "average"}
    told = OPTIMISERS[optimiser]
    return at.run("diff-per-rule", "merged", settings=settings, label=label, **told)


def sharpness(at: Laboratory, optimiser: str) -> Tensor:
    """Return how far the loss of each seed rises within a radius of where it ended.

    ``max_(|e| <= radius) L(w + e) - L(w)``, by one step uphill over all parameters. Source: Foret
    et al. 2021 (arXiv 2010.01412), equations 1 and 2.
    """
    folder = _apart(at, optimiser)
    network, batch = read_network(folder, "phase-2").requires_grad_(), at.samples(folder)
    parameters = list(network.parameters())

    def loss() -> Tensor:
        prediction = network(batch.inputs, batch.rule).prediction
        return losses(prediction, batch.target, read_run(folder).data.objective)

    here = loss()
    slope = torch.autograd.grad(here.sum(), parameters, materialize_grads=True)
    with uphill(parameters, slope, RADIUS), torch.no_grad():
        above = loss()
    return (above - here).detach().double()


def _flatter(at: Laboratory, optimiser: str) -> Tensor:
    return sharpness(at, "adam") - sharpness(at, optimiser)


def _cheaper(at: Laboratory, optimiser: str) -> Tensor:
    return _merged(at, "adam")[1] - _merged(at, optimiser)[1]


def _of(optimiser: str, note: str = "") -> tuple[Claim, Claim]:
    """Return what is claimed of an optimiser that is to end in flat places."""
    name = optimiser.upper()
    return (
        Claim(
            f"{name} ends in flatter places than Adam",
            f"rise of the loss within {RADIUS}, modules before merging, Adam minus {name}",
            partial(_flatter, optimiser=optimiser),
        ),
        Claim(
            "... and merging costs less there",
            f"loss that averaging modules adds, Adam minus {name}",
            partial(_cheaper, optimiser=optimiser),
            note=note,
        ),
    )


FLATNESS_CLAIMS: tuple[Claim, ...] = (
    *_of("sam", "Flat along a gradient is not flat along the line to the module of another rule."),
    *_of("sgd"),
)
"""What is claimed of them, and how it is measured."""
