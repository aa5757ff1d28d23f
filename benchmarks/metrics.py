"""Side by side in one run: the package's exact pixel metrics, the loops others use, and scikit-learn's pixel AUROC.

    python benchmarks/metrics.py [--images 83] [--side 224] [--repeats 3]

Prints a Markdown table: the best time of each, how many times as long as the package's AUPRO it takes, and its AUPRO.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from mvtec_ad.metrics import PixelHistograms, evaluate, markdown_table, pixel_metrics


def example(images: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth, skewed maps in the manner of PaDiM; one to three round defects on three quarters of the images."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    masks = np.zeros((images, side, side), dtype=bool)
    for mask in masks[images // 4 :]:
        for _ in range(generator.integers(1, 4)):
            row, column = generator.integers(0, side, 2)
            mask |= np.hypot(rows - row, columns - column) < generator.uniform(3, side / 9)
    noise = ndimage.gaussian_filter(generator.normal(size=masks.shape), (0, 6, 6)) * 20
    lift = ndimage.gaussian_filter(masks.astype(float), (0, 6, 6)) * generator.uniform(0.5, 4, (images, 1, 1))
    return (8 * np.exp(0.3 * noise + lift)).astype(np.float32), masks


def threshold_loop(maps: np.ndarray, masks: np.ndarray, thresholds: int = 200, limit: float = 0.3) -> float:
    """AUPRO from equidistant thresholds, as in many repositories: slow, and biased because it skips the bends."""
    regions = []
    for index, mask in enumerate(masks):
        names, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [maps[index][names == name] for name in range(1, count + 1)]
    normal = maps[~masks]
    fpr, pro = [], []
    for threshold in np.linspace(maps.max(), maps.min(), thresholds):
        fpr.append((normal > threshold).mean())
        pro.append(np.mean([(region > threshold).mean() for region in regions]))
    grid = np.append(np.array(fpr)[np.array(fpr) < limit], limit)
    heights = np.interp(grid, fpr, pro)
    return float((np.diff(grid) * (heights[1:] + heights[:-1]) / 2).sum() / limit)


def best_time(function: Callable[[], object], repeats: int) -> tuple[float, object]:
    """Shortest of `repeats` runs in seconds, and what the function returned."""
    times, value = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        value = function()
        times.append(time.perf_counter() - start)
    return min(times), value


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=83)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    maps, masks = example(options.images, options.side)
    labels = masks.any(axis=(1, 2)).astype(int)
    scores = maps.max(axis=(1, 2))

    def report() -> dict:
        return evaluate(labels, scores[None], [maps], masks)

    contenders = {
        "AUPRO, exact": lambda: PixelHistograms.from_maps(maps, masks).au_pro(),
        "all three pixel metrics, exact": lambda: pixel_metrics(maps, masks)["au_pro"],
        "loop over 200 thresholds, AUPRO": lambda: threshold_loop(maps, masks),
        "scikit-learn, pixel AUROC only": lambda: roc_auc_score(masks.ravel(), maps.ravel()) and None,
        "evaluate(), all metrics and intervals": lambda: report()["au_pro"]["mean"],
    }
    measured = {name: best_time(function, options.repeats) for name, function in contenders.items()}
    unit, exact = measured["AUPRO, exact"]
    rows = [
        [name, f"{seconds:.3f}", f"{seconds / unit:.1f} ×"]
        + (["", ""] if value is None else [f"{value:.6f}", f"{value - exact:+.1e}"])
        for name, (seconds, value) in measured.items()
    ]
    print(f"{options.images} maps of {options.side} × {options.side}\n")
    print(markdown_table(["", "seconds", "relative", "AUPRO", "minus exact"], rows))


if __name__ == "__main__":
    main()
