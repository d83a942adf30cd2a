"""95 % intervals of metrics over cells that come in groups, such as those of one patient or slide.

A proportion has the score interval of Wilson (J Am Stat Assoc 22, 1927) with the effective number of cells in place of
their number: that divided by the design effect of the groups, as Franco et al. (J Surv Stat Methodol 7, 2019,
https://pmc.ncbi.nlm.nih.gov/articles/PMC6690503) recommend. Unlike a bootstrap it does not shrink to a point if
a small class was predicted without a mistake. Anything else has percentiles of a bootstrap over groups, as in
`wbc_metrics`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

LEVEL = 0.95
Interval = list[float]


def proportion(hits: NDArray[np.bool_], groups: NDArray[np.int64]) -> Interval | None:
    """Compute the interval of the share of `hits` (n,) over `groups` (n,); None for no cells."""
    if len(hits) == 0:
        return None
    return wilson(float(hits.mean()), effective_number(hits, groups))


def wilson(share: float, number: float) -> Interval:
    """Compute the score interval of a share in [0, 1] of `number` independent trials."""
    z = float(norm.ppf((1 + LEVEL) / 2))
    centre = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * np.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    low, high = float(centre - half), float(centre + half)
    return [max(0.0, min(low, share)), min(1.0, max(high, share))]  # rounding may put an end beyond the share


def effective_number(hits: NDArray[np.bool_], groups: NDArray[np.int64]) -> float:
    """Estimate the number of independent cells that carry as much information as these, from 1 to n.

    If all agree, or there is one group, nothing can be estimated; then it is the number of groups.
    """
    share, count = float(hits.mean()), len(hits)
    _, member_of = np.unique(groups, return_inverse=True)
    sizes = np.bincount(member_of)
    if share in (0.0, 1.0) or len(sizes) == 1:
        return float(len(sizes))
    residuals = np.bincount(member_of, hits) - share * sizes
    variance = len(sizes) / (len(sizes) - 1) * float((residuals**2).sum()) / count**2
    design_effect = variance / (share * (1 - share) / count)
    return float(np.clip(count / design_effect, 1, count)) if design_effect else float(count)


def bootstrap(
    statistic: Callable[[NDArray[np.float64]], float], groups: NDArray[np.int64], resamples: int, seed: int = 0
) -> Interval | None:
    """Compute the interval of a statistic of weighted cells, a function of weights (n,); None for no resamples."""
    if not resamples:
        return None
    _, member_of = np.unique(groups, return_inverse=True)
    count = int(member_of.max()) + 1
    rng = np.random.default_rng(seed)
    values = [
        statistic(np.bincount(rng.integers(0, count, count), minlength=count)[member_of].astype(float))
        for _ in range(resamples)
    ]
    if np.isnan(values).all():
        return None
    low, high = np.nanpercentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return [float(low), float(high)]
