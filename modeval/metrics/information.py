"""Information: how much does the module tell of the rule, and the rule of the module?"""

from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.errors import TraceError
from modeval.metrics.collapse import Joint, Scalar, exact_zero, usage
from modeval.metrics.expected import expected_information

Table = Float64[Tensor, "*batch rules modules"]
WHOLE = 1e-15  # nats: an entropy below this is that of one certain outcome


def entropy(distribution: Float64[Tensor, "*batch outcomes"]) -> Scalar:
    """Return the entropy of a distribution in nats: ``-sum p log p``."""
    terms: Tensor = torch.special.entr(distribution)
    return terms.sum(-1)


class Entropies(NamedTuple):
    """Entropies in nats, each ``(...)``, that all measures of information are made of."""

    rule: Tensor
    module: Tensor
    both: Tensor

    @property
    def mutual_information(self) -> Tensor:
        """I(m; r)."""
        return exact_zero(self.rule + self.module - self.both)

    @property
    def inverse_mutual_information(self) -> Tensor:
        """The share of H(r) that the module does not tell."""
        return exact_zero(1 - self.mutual_information / self.rule)

    @property
    def homogeneity(self) -> Tensor:
        """The share of H(r) that the module tells."""
        return _share(self.mutual_information, self.rule)

    @property
    def completeness(self) -> Tensor:
        """The share of H(m) that the rule tells."""
        return _share(self.mutual_information, self.module)

    @property
    def v_measure(self) -> Tensor:
        """The harmonic mean of both."""
        first, second = self.homogeneity, self.completeness
        total = first + second
        return 2 * first * second / torch.where(total > 0, total, 1.0)


def entropies(joint: Joint) -> Entropies:
    """Return the entropies of rule, module and both."""
    return Entropies(
        rule=entropy(joint.sum(-1)), module=entropy(usage(joint)), both=entropy(joint.flatten(-2))
    )


def mutual_information(joint: Joint) -> Scalar:
    """How much does a sample's module tell of its rule?

    ``I(m; r) = sum_{r,m} J[r, m] log(J[r, m] / (p(r) p(m)))``

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)`` in nats, from 0 to log min(R, M). Perfect log R, uniform 0, collapsed 0. From N
        samples of independent routing, expect (R-1)(M-1)/(2N), not 0.

    Source: Cover & Thomas, Elements of Information Theory, section 2.3; arXiv 2206.02713,
    equation 19.

    >>> specialist = torch.eye(4, dtype=torch.float64) / 4
    >>> round(mutual_information(specialist).item(), 6)  # log 4
    1.386294
    """
    return entropies(joint).mutual_information


def inverse_mutual_information(joint: Joint) -> Scalar:
    """Which share of what could be known of the rule does the module not tell?

    ``1 - I(m; r) / H(r)``; with a uniform prior H(r) = log R.

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)``, no unit, from 0 to 1. Perfect 0, uniform 1, collapsed 1. A rule that is split
        over private modules is not punished: see ``completeness``.

    Raises:
        TraceError: there is one rule only, so there is nothing to tell.

    Source: Mittal, Bengio, Lajoie 2022 (arXiv 2206.02713), equation 19.

    >>> inverse_mutual_information(torch.full((2, 2), 0.25, dtype=torch.float64)).item()
    1.0
    """
    check_rules(joint)
    return entropies(joint).inverse_mutual_information


def check_rules(joint: Joint) -> None:
    """Refuse a single rule: nothing can be told of it."""
    if joint.shape[-2] < 2:  # noqa: PLR2004 - two is the least that can differ
        raise TraceError(
            f"rules = {joint.shape[-2]}: information about the rule needs at least 2 rules. "
            "Label the samples with 2 or more rules, or score collapse and load only."
        )


def homogeneity(joint: Joint) -> Scalar:
    """Does each module serve one rule only?

    ``1 - H(r | m) / H(r) = I(m; r) / H(r)``

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)``, no unit, from 0 to 1. Perfect 1, uniform 0, collapsed 0. A single rule: 1.

    Source: Rosenberg & Hirschberg 2007, V-Measure, section 3.

    >>> private = torch.tensor([[0.25, 0.25, 0.0], [0.0, 0.0, 0.5]], dtype=torch.float64)
    >>> round(homogeneity(private).item(), 6)
    1.0
    """
    return entropies(joint).homogeneity


def completeness(joint: Joint) -> Scalar:
    """Does each rule keep to one module?

    ``1 - H(m | r) / H(m) = I(m; r) / H(m)``

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)``, no unit, from 0 to 1. Perfect 1, uniform 0, collapsed 1 (each rule does keep to
        one module: read it with ``homogeneity``).

    Source: Rosenberg & Hirschberg 2007, V-Measure, section 3.

    >>> split = torch.tensor([[0.25, 0.25, 0.0, 0.0], [0.0, 0.0, 0.25, 0.25]], dtype=torch.float64)
    >>> round(completeness(split).item(), 6)
    0.5
    """
    return entropies(joint).completeness


def v_measure(joint: Joint) -> Scalar:
    """Do rules and modules correspond, with neither split over the other?

    ``2 h c / (h + c)``, h homogeneity, c completeness.

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)``, no unit, from 0 to 1. Perfect 1, uniform 0, collapsed 0. Also the mutual
        information over the mean of H(r) and H(m) ("NMI").

    Source: Rosenberg & Hirschberg 2007, V-Measure, section 3.

    >>> v_measure(torch.eye(3, dtype=torch.float64) / 3).item()
    1.0
    """
    return entropies(joint).v_measure


def corrected_mutual_information(table: Table) -> Scalar:
    """How much does a module tell of the rule, less what chance alone would seem to tell?

    ``I(m; r) - (K_rm - K_r - K_m + 1) / (2 N)``, K the numbers of non-empty cells, rows, columns.

    Args:
        table: ``(..., R, M)`` counts of independent samples by rule and module.

    Returns:
        ``(...)`` in nats. Perfect log R less about 1/(2N); uniform and collapsed about 0, which it
        may fall below: no bias is left to first order, noise is. Rules weigh by their counts.

    Raises:
        TraceError: the table is empty.

    Source: Miller 1955, Note on the bias of information estimates.

    >>> table = torch.tensor([[30.0, 20.0], [25.0, 25.0]], dtype=torch.float64)
    >>> round(corrected_mutual_information(table).item(), 6)
    5.9e-05
    """
    total = _table_total(table)
    filled = table > 0
    cells = filled.sum((-2, -1)) - filled.any(-1).sum(-1) - filled.any(-2).sum(-1) + 1
    return mutual_information(table / total[..., None, None]) - cells / (2 * total)


def information_bias(table: Table) -> Scalar:
    """Return the information in nats that independent routing would seem to have, (R-1)(M-1)/2N.

    Rules and modules that the table has no counts of are not counted.
    """
    filled = table > 0
    rules, modules = filled.any(-1).sum(-1), filled.any(-2).sum(-1)
    return ((rules - 1) * (modules - 1)).clamp(min=0) / (2 * _table_total(table))


def adjusted_mutual_information(table: Table) -> Scalar:
    """How much do rules and modules agree beyond what chance gives tables with these totals?

    ``(I - E[I]) / (mean(H(r), H(m)) - E[I])``, E over tables with the same margins.

    Args:
        table: ``(..., R, M)`` whole counts: one module for each sample, as top-1 routing gives.

    Returns:
        ``(...)``, no unit, at most 1. Perfect 1; uniform and collapsed about 0.

    Raises:
        TraceError: the table is empty, or its entries are not whole.

    Source: Vinh, Epps, Bailey 2010, JMLR 11, equation 24a and definition of AMI with the mean.

    >>> adjusted_mutual_information(10 * torch.eye(2, dtype=torch.float64)).item()
    1.0
    """
    total = _table_total(table)
    if not bool((table == table.round()).all()):
        raise TraceError(
            "adjusted_mutual_information compares whole counts, and these are fractions. Give it "
            "the selections of top-1 routing, or use mutual_information."
        )
    parts = entropies(table / total[..., None, None])
    expected = expected_information(table)
    room = (parts.rule + parts.module) / 2 - expected
    tiny = torch.finfo(torch.float64).eps
    room = torch.where(room < 0, room.clamp(max=-tiny), room.clamp(min=tiny))
    found = (parts.mutual_information - expected) / room
    single = ((table.sum(-1) > 0).sum(-1) == 1) & ((table.sum(-2) > 0).sum(-1) == 1)
    return torch.where(single, 1.0, found)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Divide, with 1 where there is nothing to share out, and NaN where that is unknown."""
    some = ~(whole <= WHOLE)
    return torch.where(some, part / torch.where(some, whole, 1.0), 1.0).clamp(max=1)


def _table_total(table: Tensor) -> Tensor:
    total = table.sum((-2, -1))
    if not bool((total > 0).all()):
        raise TraceError("A table of rules and modules holds no counts. Score more samples.")
    return total
