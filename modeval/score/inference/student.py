"""Student's t: scipy's, loaded when it is asked for, since that takes a while."""


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
