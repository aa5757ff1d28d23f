"""What every method returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Raw anomaly scores: higher is more anomalous, nothing is squashed or normalised.

    Attributes:
        image: (N,) float32, one score per image.
        maps: (N, H, W) float32 anomaly maps at the evaluation resolution, or None.
    """

    image: np.ndarray
    maps: np.ndarray | None = None


@dataclass(frozen=True)
class Trial:
    """One seed of a method on one category: fitted on good images, scored on the test images.

    Attributes:
        seed: of whatever the method draws.
        model: the fitted method.
        good_scores: (N,) float32, scores of normal images that the model was not fitted on.
        scores: of the test images.
        fit_seconds: this seed's share of the fit.
        score_seconds: this seed's share of scoring the test images.
    """

    seed: int
    model: Any
    good_scores: np.ndarray
    scores: Scores
    fit_seconds: float
    score_seconds: float
