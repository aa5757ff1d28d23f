"""When is a second opinion worth asking for? A band around the classifier's threshold, chosen by what mistakes cost.

All logits here are calibrated, that is divided by the temperature, so that a width means the same for every classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError


@dataclass(frozen=True)
class Band:
    """Where a classifier counts as unsure.

    Attributes:
        threshold: a calibrated logit above it is a defect.
        width: half of the band; 0: never unsure.
        costs: width -> expected cost per part on the validation images.
    """

    threshold: float
    width: float = 0.0
    costs: dict[float, float] = field(default_factory=dict)

    def unsure(self, logits: ArrayLike) -> np.ndarray:
        """(N,) bool: whether a calibrated logit lies inside."""
        return np.abs(np.asarray(logits, dtype=np.float64) - self.threshold) < self.width

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        costs = [[width, cost] for width, cost in self.costs.items()]
        return {"threshold": self.threshold, "width": self.width, "costs": costs}

    @classmethod
    def from_dict(cls, own: dict[str, Any]) -> Band:
        """The inverse of `as_dict`."""
        return cls(float(own["threshold"]), float(own["width"]), {float(w): float(cost) for w, cost in own["costs"]})


def choose_band(
    labels: ArrayLike,
    logits: ArrayLike,
    called: ArrayLike,
    threshold: float,
    *,
    miss: float,
    false_alarm: float,
    widths: Sequence[float],
) -> Band:
    """The cheapest width on validation images; of equally cheap ones the narrowest, which asks least often.

    Args:
        labels: (N,) 0 or 1.
        logits: (N,) calibrated logits of the classifier.
        called: (N,) probability that the second opinion calls the image defective: 0 or 1 where it was asked, see
            `chances`.
        threshold: of the classifier, on calibrated logits.
        miss: cost of a defect that passes.
        false_alarm: cost of a good part that is stopped.
        widths: to try; 0, no second opinion, is always tried.

    Raises:
        DataError: the three differ in length, or there is no image.
    """
    labels, logits, called = (np.asarray(own, dtype=np.float64) for own in (labels, logits, called))
    if not len(labels) == len(logits) == len(called) or len(labels) == 0:
        raise DataError(
            f"a band needs as many labels, logits and opinions, not {len(labels)}, {len(logits)}, {len(called)}"
        )
    costs = {}
    for width in sorted({0.0, *map(float, widths)}):
        verdicts = np.where(Band(threshold, width).unsure(logits), called, logits > threshold)
        costs[width] = float(np.mean(np.where(labels == 1, miss * (1 - verdicts), false_alarm * verdicts)))
    least = min(costs.values())
    width = next(own for own, cost in costs.items() if cost <= least * (1 + 1e-12))
    return Band(threshold, width, costs)


def chances(
    image_ids: Sequence[str],
    fitted_ids: Sequence[str],
    good_scores: np.ndarray,
    asked: dict[str, float],
    threshold: float,
) -> np.ndarray:
    """Probability that a second opinion calls each validation image defective, without asking a model about images that
    it was fitted on.

    A model that holds a score of every good image it was fitted on (leave-one-out: PaDiM, PatchCore) is asked for that
    one. One that held images out (autoencoder, f-AnoGAN) calls as many of the fitted ones defective as of those it
    held out; that takes the two models' errors on good parts as independent.

    Args:
        image_ids: (N,) validation images.
        fitted_ids: the good images it was fitted with, in order.
        good_scores: of its fit: as many, or those of the images it held out.
        asked: image id -> its score, for the images it was not fitted with.
        threshold: of the second opinion.

    Raises:
        DataError: an image was neither fitted nor asked about.
    """
    share = float(np.mean(good_scores > threshold))
    left_out = dict(zip(fitted_ids, good_scores, strict=True)) if len(good_scores) == len(fitted_ids) else {}
    fitted = set(fitted_ids)
    found = []
    for image_id in image_ids:
        if image_id in asked:
            found.append(float(asked[image_id] > threshold))
        elif image_id in fitted:
            found.append(float(left_out[image_id] > threshold) if left_out else share)
        else:
            raise DataError(f"no second opinion of {image_id}: score it first")
    return np.array(found)


def joined(logit: float, band: Band, score: float | None = None, threshold: float = 0.0) -> float:
    """One number that orders images as the whole inspector does: above 0 is a defect.

    Outside the band the distance of the calibrated logit from its threshold. Inside, the second opinion's score,
    brought into the band by width · tanh((score − threshold) / |threshold|): its order and its verdict stay.

    Args:
        logit: calibrated.
        band: of the classifier.
        score: of the second opinion; None where it was not asked.
        threshold: of the second opinion.
    """
    if score is None:
        return float(logit - band.threshold)
    return float(band.width * np.tanh((score - threshold) / max(abs(threshold), 1e-12)))
