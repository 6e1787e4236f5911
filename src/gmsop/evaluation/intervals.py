"""Compute confidence intervals of error rates."""

import math


def wilson_interval(percent: float, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share of `count` independent images, in percent.

    It is NaN if `count` is 0 or `percent` is NaN.

    Source: Wilson 1927; unlike the normal approximation it holds near 0 and 100 %.
    """
    if count == 0 or math.isnan(percent):
        return math.nan, math.nan
    from scipy.stats import binomtest  # this import is slow

    found = binomtest(round(percent / 100 * count), count).proportion_ci(method="wilson")
    return 100 * float(found.low), 100 * float(found.high)
