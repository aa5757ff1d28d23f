"""Classification with a reject option: a band around the classifier's threshold in which a second opinion decides.

Chow, "On optimum recognition error and reject tradeoff", 1970. All logits here are calibrated, that is divided by the
temperature, so that a width means the same for every classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mvtec_ad.data.loading import resize
from mvtec_ad.errors import DataError
from mvtec_ad.methods.base import Detector


@dataclass(frozen=True)
class CalibratedDetector:
    """An unsupervised model of a product, with its calibrated threshold: `score > threshold` is a defect."""

    detector: Detector
    threshold: float
    false_alarm_rate: float | None = None  # that the threshold promises

    @property
    def map_scale(self) -> tuple[float, float]:
        """Colours of its maps: the threshold in the middle, where scores are values of the maps."""
        high = float(np.max(self.detector.good_scores))
        return 0.0, 2 * self.threshold if 0 < self.threshold < 3 * high else high

    def score(self, picture: np.ndarray) -> tuple[np.ndarray, float, np.ndarray | None]:
        """What it is shown of a picture (H, W, 3) of any size, (S, S, 3) uint8; its score, and its (S, S) map."""
        image = resize(picture, self.detector.image_size, self.detector.crop)
        scores = self.detector.score_seen(self.detector.parts(image[None]))
        return image, float(scores.image[0]), None if scores.maps is None else scores.maps[0]


@dataclass(frozen=True)
class RejectBand:
    """Where a classifier counts as unsure."""

    threshold: float  # a calibrated logit above it is a defect
    width: float = 0.0  # half of the band; 0: never unsure
    costs: dict[float, float] = field(default_factory=dict)  # width -> expected cost per part on validation images

    def unsure(self, logits: ArrayLike) -> np.ndarray:
        """(N,) bool: whether a calibrated logit lies inside."""
        return np.abs(np.asarray(logits, dtype=np.float64) - self.threshold) < self.width

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        costs = [[width, cost] for width, cost in self.costs.items()]
        return {"threshold": self.threshold, "width": self.width, "costs": costs}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RejectBand:
        """The inverse of `as_dict`."""
        costs = {float(width): float(cost) for width, cost in values["costs"]}
        return cls(float(values["threshold"]), float(values["width"]), costs)


def choose_reject_band(
    labels: ArrayLike,
    logits: ArrayLike,
    called: ArrayLike,
    threshold: float,
    *,
    miss: float,
    false_alarm: float,
    widths: Sequence[float],
) -> RejectBand:
    """The reject band of least expected cost on validation images; of equally cheap ones the narrowest.

    Args:
        labels: (N,) 0 or 1.
        logits, threshold: (N,) calibrated logits of the classifier, and its threshold on these.
        called: (N,) probability that the second opinion calls the image defective: 0 or 1 where it was asked, see
            `alarm_probabilities`.
        miss, false_alarm: costs of a defect that passes, and of a good part that is stopped.
        widths: to try; 0, no second opinion, is always tried.

    Raises:
        DataError: the three differ in length, or there is no image.
    """
    labels, logits, called = (np.asarray(values, dtype=np.float64) for values in (labels, logits, called))
    counts = (len(labels), len(logits), len(called))
    if len(set(counts)) > 1 or 0 in counts:
        raise DataError(f"a band needs as many labels, logits and opinions, not {', '.join(map(str, counts))}")
    costs = {}
    for width in sorted({0.0, *map(float, widths)}):
        verdicts = np.where(RejectBand(threshold, width).unsure(logits), called, logits > threshold)
        costs[width] = float(np.mean(np.where(labels == 1, miss * (1 - verdicts), false_alarm * verdicts)))
    least = min(costs.values())
    return RejectBand(threshold, next(width for width, cost in costs.items() if cost <= least * (1 + 1e-12)), costs)


def alarm_probabilities(
    image_ids: Sequence[str],
    fitted_ids: Sequence[str],
    good_scores: np.ndarray,
    scores: dict[str, float],
    threshold: float,
) -> np.ndarray:
    """(N,) probability that a second opinion calls each validation image defective, unbiased by what it was fitted on.

    A model that holds a score of every good image it was fitted on (leave-one-out: PaDiM, PatchCore) is asked for that
    one. One that held images out (autoencoder, f-AnoGAN) calls as many of the fitted ones defective as of those it
    held out; that takes the two models' errors on good parts as independent.

    Args:
        image_ids: (N,) validation images.
        fitted_ids: the good images it was fitted with, in order.
        good_scores: of its fit: as many, or those of the images it held out.
        scores: image id -> its score, for the images it was not fitted with.
        threshold: of the second opinion.

    Raises:
        DataError: an image was neither fitted nor asked about.
    """
    if len(good_scores) == len(fitted_ids):
        called = dict(zip(fitted_ids, (good_scores > threshold).astype(float), strict=True))
    else:
        called = dict.fromkeys(fitted_ids, float(np.mean(good_scores > threshold)))
    called |= {image_id: float(score > threshold) for image_id, score in scores.items()}
    if unknown := [image_id for image_id in image_ids if image_id not in called]:
        raise DataError(f"no second opinion of {unknown[0]}: score it first")
    return np.array([called[image_id] for image_id in image_ids])


def combined_score(logit: float, reject_band: RejectBand, score: float | None = None, threshold: float = 0.0) -> float:
    """Score that orders images as classifier and second opinion together do: above 0 is a defect.

    Outside the band the distance of the calibrated logit from its threshold. Inside, the second opinion's score (None
    where it was not asked), brought into the band by width · tanh((score − threshold) / |threshold|): its order and its
    verdict stay.
    """
    if score is None:
        return float(logit - reject_band.threshold)
    return float(reject_band.width * np.tanh((score - threshold) / max(abs(threshold), 1e-12)))
