"""The inverse of the regularised incomplete beta function, for the beta schedule."""

from __future__ import annotations

import math

_TINY = 1e-300
_BISECTIONS = 200


def beta_quantile(p: float, a: float, b: float) -> float:
    """Where the distribution function of the beta distribution is ``p``.

    The root of ``incomplete_beta(x) = p`` by bisection in ``x``, and where it lies nearer to 1 in
    ``1 - x``, so that both ends keep their digits: good to about 1e-14 of the smaller of the two.

    Args:
        p: 0 to 1.
        a: first shape parameter, above 0.
        b: second shape parameter, above 0.
    """
    if p <= 0.0:
        return 0.0
    if p >= 1.0:
        return 1.0
    if p > incomplete_beta(0.5, a, b):
        return 1.0 - _lower_quantile(1.0 - p, b, a)
    return _lower_quantile(p, a, b)


def _lower_quantile(p: float, a: float, b: float) -> float:
    """A quantile of at most 1/2, by halving an interval of its logarithm."""
    # Near 0 the function is x**a / (a B(a, b)): a start below the root, even where it is tiny.
    low = (math.log(p) + math.log(a) + _log_beta(a, b)) / a - abs(b - 1.0) - 1.0
    high = math.log(0.5)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if incomplete_beta(math.exp(middle), a, b) < p:
            low = middle
        else:
            high = middle
    return math.exp(0.5 * (low + high))


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function: the distribution function at ``x``, 0 to 1.

    By the continued fraction of Abramowitz and Stegun 26.5.8 (DLMF 8.17.22), taken from the end at
    which it converges fast, evaluated with Lentz's method.
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b))
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _fraction(x, a, b) / a
    return 1.0 - front * _fraction(1.0 - x, b, a) / b


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1.0 / _away_from_0(1.0 - (a + b) * x / (a + 1.0))
    total = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        step = 1.0
        for term in (even, odd):
            d = 1.0 / _away_from_0(1.0 + term * d)
            c = _away_from_0(1.0 + term / c)
            step = c * d
            total *= step
        if abs(step - 1.0) < 1e-16:
            break
    return total


def _away_from_0(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
