"""Trivial baselines, the rows that must stand beside every result: scores anybody can compute in five lines.

A category whose defects change the mean brightness, or whose parts never move, is solved by these; a method that does
not beat them has shown nothing.
"""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd

from mvtec_ad.data.loading import load_images, resize
from mvtec_ad.methods.base import Scores, peak, smooth

IMAGE_SIZE = 128  # pixels; the rows are about what needs no detail
SIGMA = 2.0  # 4 pixels at 256, as the methods smooth their maps
NOISE = 5.0  # gray levels added to a pixel's spread, so that a constant pixel does not decide alone


def trivial_scores(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Image scores of the trivial baselines.

    Args:
        train: (N, H, W, 3) uint8 good images.
        test: (M, H, W, 3) uint8.

    Returns:
        Name -> (M,) float64, higher is more anomalous: `all_defective` (a constant), `mean_intensity` and
        `mean_intensity_inverted` (a brighter, or a darker, picture), `distance_to_mean` (largest smoothed distance to
        the mean training image) and `pixel_z_score` (the same, each pixel in units of its own spread).

    Examples:
        >>> good = np.full((4, 128, 128, 3), 100, np.uint8)
        >>> trivial_scores(good, good + np.uint8(20))["pixel_z_score"].round(3)
        array([4., 4., 4., 4.])
    """
    train, test = (
        np.stack([resize(image, IMAGE_SIZE) for image in images]).astype(np.float32) for images in (train, test)
    )
    intensity, distance = test.mean((1, 2, 3), dtype=np.float64), np.abs(test - train.mean(0))
    return {
        "all_defective": np.ones(len(test)),
        "mean_intensity": intensity,
        "mean_intensity_inverted": -intensity,
        "distance_to_mean": _peak(distance),
        "pixel_z_score": _peak(distance / (train.std(0) + NOISE)),
    }


def trivial_rows(train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """`trivial_scores` of a table of images, a column each, in the order of `test`; views apart."""
    frames = []
    for view, rows in test.groupby("view", sort=True):
        good = train[(train["view"] == view) & (train["label"] == 0)]
        images = [load_images(list(part["image_path"]), IMAGE_SIZE) for part in (good, rows)]
        frames.append(pd.DataFrame(trivial_scores(*images), index=rows.index))
    return pd.concat(frames).loc[test.index]


def mean_image(train: np.ndarray, test: np.ndarray, sigma: float) -> Scores:
    """Distance to the mean good image: what a generator would score that draws nothing else.

    Returns:
        Maps (M, H, W) float32, |x − mean| averaged over the colours in gray levels and smoothed, and their peaks (M,).

    Examples:
        >>> good = np.full((4, 32, 32, 3), 100, np.uint8)
        >>> mean_image(good, good[:1] + np.uint8(20), sigma=0).image
        array([20.], dtype=float32)
    """
    maps = smooth(np.abs(test - train.mean(0, dtype=np.float32)).mean(-1), sigma)
    return Scores(peak(maps), maps)


def _peak(maps: np.ndarray) -> np.ndarray:
    """Largest value of each (IMAGE_SIZE, IMAGE_SIZE, 3) map after averaging the colours and smoothing, float64."""
    blurred = [
        cv2.GaussianBlur(anomaly_map.mean(-1), (0, 0), SIGMA, borderType=cv2.BORDER_REFLECT) for anomaly_map in maps
    ]
    return np.array([anomaly_map.max() for anomaly_map in blurred], np.float64)
