"""The rows that must stand beside every result: scores anybody can compute in five lines.

A category whose defects change the mean brightness, or whose parts never move, is solved by these; a method that does
not beat them has shown nothing.
"""

from __future__ import annotations

import cv2
import numpy as np

from mvtec_ad.methods.maps import smooth
from mvtec_ad.methods.scores import Scores

SIDE = 128  # pixels; the rows are about what needs no detail
SIGMA = 2.0  # 4 pixels at 256, as the methods smooth their maps
NOISE = 5.0  # gray levels added to a pixel's spread, so that a constant pixel does not decide alone


def trivial_scores(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Image scores of the trivial rows.

    Args:
        train: (N, H, W, 3) uint8 good images.
        test: (M, H, W, 3) uint8.

    Returns:
        Name -> (M,) float64, higher is more anomalous: `all_defective` (a constant), `mean_intensity` and
        `mean_intensity_inverted` (a brighter, or a darker, picture), `distance_to_mean` (largest smoothed distance to
        the mean training image) and `pixel_z_score` (the same, each pixel in units of its own spread).
    """
    train, test = _small(train), _small(test)
    mean, spread = train.mean(0), train.std(0)
    intensity = test.mean((1, 2, 3), dtype=np.float64)
    return {
        "all_defective": np.ones(len(test)),
        "mean_intensity": intensity,
        "mean_intensity_inverted": -intensity,
        "distance_to_mean": _peak(np.abs(test - mean)),
        "pixel_z_score": _peak(np.abs(test - mean) / (spread + NOISE)),
    }


def mean_image(train: np.ndarray, test: np.ndarray, sigma: float) -> Scores:
    """What a generator that draws nothing but the mean good image would score: the row beside redrawing methods.

    Args:
        train: (N, H, W, 3) uint8 good images.
        test: (M, H, W, 3) uint8.
        sigma: Gaussian smoothing of the maps, in pixels.

    Returns:
        Maps (M, H, W) float32, |x − mean| averaged over the colours in gray levels and smoothed, and their peaks (M,).
    """
    maps = smooth(np.abs(test - train.mean(0, dtype=np.float32)).mean(-1), sigma)
    return Scores(maps.reshape(len(maps), -1).max(1), maps)


def _small(images: np.ndarray) -> np.ndarray:
    """(N, SIDE, SIDE, 3) float32, levels 0 … 255."""
    small = [cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(small).astype(np.float32)


def _peak(maps: np.ndarray) -> np.ndarray:
    """Largest value of each (SIDE, SIDE, 3) map after averaging the colours and smoothing."""
    blurred = [cv2.GaussianBlur(one.mean(-1), (0, 0), SIGMA, borderType=cv2.BORDER_REFLECT) for one in maps]
    return np.array([one.max() for one in blurred], np.float64)
