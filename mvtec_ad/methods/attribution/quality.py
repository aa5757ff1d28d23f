"""Does a map point at the defect, and do two maps agree? Regions are masks or filled boxes, true on the defect."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics import wilson


def pointing_game(maps: ArrayLike, regions: ArrayLike) -> np.ndarray:
    """Does the largest value lie inside? (N,) bool.

    Zhang et al., "Top-down Neural Attention by Excitation Backprop", 2016 (arXiv:1608.00507), section 4.2, without
    their margin of 15 pixels. Of several maxima the first counts, from top left; a constant map points nowhere, a miss.

    Args:
        maps: (N, H, W), finite.
        regions: (N, H, W) bool.
    """
    maps, regions = _checked(maps, regions)
    peaks = maps.argmax(1)
    return regions[np.arange(len(maps)), peaks] & (np.ptp(maps, axis=1) > 0)


def covered(regions: ArrayLike) -> np.ndarray:
    """Share of the image that a region covers, (N,): the hits of a map that points at random."""
    regions = np.asarray(regions, dtype=bool)
    if regions.ndim != 3:
        raise DataError(f"regions must have shape (N, H, W), not {regions.shape}")
    return regions.mean((1, 2))


def energy_inside(maps: ArrayLike, regions: ArrayLike) -> np.ndarray:
    """Share of a map's positive part that lies inside, (N,); nan where nothing is positive.

    The "energy-based pointing game" of Wang et al., "Score-CAM", 2020 (arXiv:1910.01279), section 4.3.

    Args:
        maps: (N, H, W), finite.
        regions: (N, H, W) bool.
    """
    maps, regions = _checked(maps, regions)
    positive = maps.clip(0)
    total = positive.sum(1)
    return np.divide((positive * regions).sum(1), total, out=np.full(len(maps), np.nan), where=total > 0)


def region_auroc(maps: ArrayLike, regions: ArrayLike) -> np.ndarray:
    """How often a pixel inside exceeds one outside, ties half, for each image: (N,); nan where either kind is absent.

    Args:
        maps: (N, H, W), finite.
        regions: (N, H, W) bool.
    """
    maps, regions = _checked(maps, regions)
    inside = regions.sum(1)
    pairs = inside * (regions.shape[1] - inside)
    wins = (rankdata(maps, axis=1) * regions).sum(1) - inside * (inside + 1) / 2
    return np.divide(wins, pairs, out=np.full(len(maps), np.nan), where=pairs > 0)


def pointing_against_area(
    hits: ArrayLike, covered: ArrayLike, resamples: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """How much more often maps hit than random points would: mean hit − mean covered share, with a 95 % interval.

    The percentile bootstrap over images of hit − covered. Where all hits agree it sees only the regions vary, so
    Wilson's bounds of the share of hits take its place, less the mean covered share. In simulations with regions of 2
    to 25 % of the image, large ones hit more often, 400 test sets each, it held the truth

    | share of hits | .3 | .6 | .9 | .97 | .99 |
    |---|---|---|---|---|---|
    | 20 images | .94 | .92 | .99 | .99 | .95 |
    | 40 images | .94 | .94 | .90 | 1.00 | 1.00 |
    | 80 images | .94 | .93 | .96 | .95 | .98 |

    of the time, the bootstrap alone .66 to .96.

    Args:
        hits: (N,) bool, of `pointing_game`.
        covered: (N,) in [0, 1], of `covered`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `mean`, `low` and `high`; the maps do better than chance where `low` is above 0.
    """
    hits, covered = np.asarray(hits, dtype=np.float64), np.asarray(covered, dtype=np.float64)
    if hits.ndim != 1 or hits.shape != covered.shape or not len(hits):
        raise DataError(f"hits and covered shares must both have shape (N,), not {hits.shape} and {covered.shape}")
    if resamples < 1:
        raise SettingsError(f"resamples must be at least 1, not {resamples}")
    gains, count = hits - covered, len(hits)
    if np.ptp(hits) == 0:
        low, high = (bound - covered.mean() for bound in wilson(hits.mean(), count))
    else:
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
        low, high = np.quantile(drawn @ gains / count, [0.025, 0.975])
    return {"mean": float(gains.mean()), "low": float(low), "high": float(high)}


def agreement(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Spearman's rank correlation of two stacks of maps, image by image: (N,); nan where one of a pair is constant.

    Args:
        first: (N, H, W), finite.
        second: the same shape.
    """
    first, second = (
        ranks - ranks.mean(1, keepdims=True)
        for ranks in (rankdata(maps, axis=1) for maps in _checked(first, second, np.float64))
    )
    spread = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return np.divide((first * second).sum(1), spread, out=np.full(len(first), np.nan), where=spread > 0)


def _checked(maps: ArrayLike, others: ArrayLike, kind: type = bool) -> tuple[np.ndarray, np.ndarray]:
    """Two stacks (N, H, W) of one shape as (N, H · W): finite float64 maps, and regions or other maps."""
    maps, others = np.asarray(maps, dtype=np.float64), np.asarray(others, dtype=kind)
    if maps.ndim != 3 or maps.shape != others.shape or 0 in maps.shape:
        raise DataError(f"need two stacks of one shape (N, H, W), not {maps.shape} and {others.shape}")
    if not (np.isfinite(maps).all() and np.isfinite(others).all()):
        raise DataError("a map holds a value that is not finite")
    return maps.reshape(len(maps), -1), others.reshape(len(maps), -1)
