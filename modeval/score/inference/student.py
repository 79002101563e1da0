"""Student's t: scipy's, loaded when it is asked for, and a plain one where only a few are.

Loading scipy.special takes longer than all else that a gate does.
"""

import math

LARGE = 32.0
"""Half the degrees of freedom from which the ratio of gamma functions is taken from its series."""
SERIES = (-1 / 8, 1 / 128, 5 / 1024, -21 / 32768, -399 / 262144, 869 / 4194304, 39325 / 33554432)
"""Coefficients of ``Γ(a + 1/2) / (Γ(a) sqrt(a))`` in powers of ``1 / a``, after the one."""
MANY = 2_000.0
"""Degrees of freedom from which quantiles are taken from their series around the normal one."""
FISHER = (
    (1 / 4, 1 / 4),
    (3 / 96, 16 / 96, 5 / 96),
    (-15 / 384, 17 / 384, 19 / 384, 3 / 384),
    (-945 / 92160, -1920 / 92160, 1482 / 92160, 776 / 92160, 79 / 92160),
)
"""For each power of ``1 / freedom`` the coefficients of z, z³, z⁵, ..."""
TINY = 1e-300
CLOSE = 1e-16
MOST_TERMS = 1_000
MOST_STEPS = 200


def below(freedom: float, value: float) -> float:
    """Return the probability that Student's t is no larger than a value.

    >>> below(1.0, 1.0)
    0.75
    """
    from scipy.special import stdtr  # noqa: PLC0415 - slow to load

    return float(stdtr(freedom, value))


def quantile(freedom: float, share: float) -> float:
    """Return the value that Student's t is below with the probability ``share``.

    >>> round(quantile(31.0, 0.975), 6)
    2.039513
    """
    from scipy.special import stdtrit  # noqa: PLC0415 - slow to load

    return float(stdtrit(freedom, share))


def plain_quantile(freedom: float, share: float) -> float:
    """Return the same without scipy, to 1e-12, a hundred times slower than with it.

    Args:
        freedom: degrees of freedom, above 0.
        share: between 0 and 1, without these.

    >>> round(plain_quantile(1.0, 0.75), 12), round(plain_quantile(31.0, 0.975), 6)
    (1.0, 2.039513)
    """
    if freedom > MANY:
        return _nearly_normal(freedom, share)
    wanted = min(share, 1 - share)
    low, high = 0.0, 1.0
    while _tail(freedom, high) > wanted:
        low, high = high, 2 * high
    value = (low + high) / 2
    for _ in range(MOST_STEPS):
        tail = _tail(freedom, value)
        low, high = (value, high) if tail > wanted else (low, value)
        better = value + (tail - wanted) / _density(freedom, value)
        if not low < better < high:
            better = (low + high) / 2
        if abs(better - value) <= CLOSE * value:
            break
        value = better
    return value if share > 1 / 2 else -value


def _nearly_normal(freedom: float, share: float) -> float:
    """Return a quantile by its series around that of the normal distribution.

    Source: Fisher & Cornish 1960; Abramowitz & Stegun 1964, 26.7.5.
    """
    from statistics import NormalDist  # noqa: PLC0415 - slow to load, and seldom needed

    z = NormalDist().inv_cdf(share)
    return z + math.fsum(
        z * sum(number * z ** (2 * place) for place, number in enumerate(numbers)) / freedom**power
        for power, numbers in enumerate(FISHER, 1)
    )


def _tail(freedom: float, value: float) -> float:
    """Return the probability that Student's t is above a value that is not negative.

    It is half of the regularised incomplete beta function ``I_x(freedom / 2, 1 / 2)`` at
    ``x = freedom / (freedom + value²)``, and the function is a continued fraction.

    Source: Abramowitz & Stegun 1964, 26.7.1 and 26.5.8.
    """
    if value == 0:
        return 0.5
    half, square = freedom / 2, value * value
    near, far = freedom / (freedom + square), square / (freedom + square)
    factor = math.exp(-half * math.log1p(square / freedom)) * math.sqrt(far) * _inverse_beta(half)
    if near < (half + 1) / (half + 2.5):
        return factor * _fraction(half, 0.5, near) / half / 2
    return 0.5 - factor * _fraction(0.5, half, far)


def _density(freedom: float, value: float) -> float:
    power = math.exp(-(freedom + 1) / 2 * math.log1p(value * value / freedom))
    return _inverse_beta(freedom / 2) * power / math.sqrt(freedom)


def _inverse_beta(half: float) -> float:
    """Return ``1 / B(half, 1/2)``."""
    if half < LARGE:
        ratio = math.gamma(half + 0.5) / math.gamma(half)
    else:
        terms = (number / half**power for power, number in enumerate(SERIES, 1))
        ratio = math.sqrt(half) * (1 + math.fsum(terms))
    return ratio / math.sqrt(math.pi)


def _fraction(a: float, b: float, x: float) -> float:
    """Return the continued fraction of the incomplete beta function (Lentz 1976)."""
    upper, lower = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    found = lower
    for number in range(1, MOST_TERMS):
        even = number * (b - number) * x / ((a + 2 * number - 1) * (a + 2 * number))
        odd = -(a + number) * (a + b + number) * x / ((a + 2 * number) * (a + 2 * number + 1))
        for term in (even, odd):
            lower = 1 / _not_zero(1 + term * lower)
            upper = _not_zero(1 + term / upper)
            found *= lower * upper
        if abs(lower * upper - 1) <= CLOSE:
            break
    return found


def _not_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY
