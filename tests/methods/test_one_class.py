"""The mean over digits that are normal in turn, beside scikit-learn and a bootstrap written out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mvtec_ad.methods.anogan.one_class import mean_auroc

RNG = np.random.default_rng(0)
DIGITS = np.repeat(np.arange(4), [30, 20, 25, 40])
# the normal digit scores lower; the better way keeps farther apart
BETTER = {one: RNG.normal(2.0 * (one != DIGITS), 1) for one in (0, 2)}
WORSE = {one: RNG.normal(0.8 * (one != DIGITS), 1) for one in (0, 2)}


def mean_of(scores: dict[int, np.ndarray], rows: np.ndarray) -> float:
    """scikit-learn's AUROC of some of the digits, averaged."""
    return float(np.mean([roc_auc_score(DIGITS[rows] != one, values[rows]) for one, values in scores.items()]))


def bootstrap(scores: dict[int, np.ndarray], other: dict[int, np.ndarray] | None = None) -> np.ndarray:
    """Digits drawn anew, as many of each kind, the same for both ways."""
    generator, found = np.random.default_rng(5), []
    for _ in range(1000):
        drawn = [generator.choice(np.flatnonzero(one == DIGITS), (one == DIGITS).sum()) for one in np.unique(DIGITS)]
        rows = np.concatenate(drawn)
        found.append(mean_of(scores, rows) - (mean_of(other, rows) if other else 0))
    return np.quantile(found, [0.025, 0.975])


def test_the_mean_is_that_of_scikit_learn_with_its_bootstrap_interval() -> None:
    """Ends to the noise of a thousand resamples."""
    result = mean_auroc(BETTER, DIGITS)
    assert result["mean"] == pytest.approx(mean_of(BETTER, np.arange(len(DIGITS))))
    np.testing.assert_allclose([result["low"], result["high"]], bootstrap(BETTER), atol=0.01)


def test_ways_are_compared_on_the_same_resamples() -> None:
    """The difference and its interval; a way does not differ from itself."""
    result = mean_auroc(BETTER, DIGITS, WORSE)
    rows = np.arange(len(DIGITS))
    assert result["mean"] == pytest.approx(mean_of(BETTER, rows) - mean_of(WORSE, rows))
    np.testing.assert_allclose([result["low"], result["high"]], bootstrap(BETTER, WORSE), atol=0.015)
    same = mean_auroc(BETTER, DIGITS, BETTER)
    assert same["mean"] == 0
    assert same["low"] < 0 < same["high"]
