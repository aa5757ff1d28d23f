"""Wrong answers to lab 01, and what is said to each."""

from itertools import pairwise

import numpy as np
from scipy.stats import rankdata


def _signed(good, images):
    return [float(np.max((image - good.mean(0)) / (good.std(0) + 5))) for image in images]


def _mean_pixel(good, images):
    return [float(np.mean(np.abs(image - good.mean(0)) / (good.std(0) + 5))) for image in images]


def _no_constant(good, images):
    return np.array([(np.abs(image - good.mean(0)) / good.std(0)).max() for image in images])


def _one_sigma(good, images):
    return np.array([(np.abs(image - good.mean(0)) / (np.std(good) + 5)).max() for image in images])


def _of_the_test(good, images):
    return np.array([(np.abs(image - images.mean(0)) / (images.std(0) + 5)).max() for image in images])


def _count_pairs(tie):
    def auroc(labels, scores):
        good, defective = scores[labels == 0], scores[labels == 1]
        wins = [1.0 if d > g else tie if d == g else 0.0 for d in defective for g in good]
        return sum(wins) / len(wins)

    return auroc


def _ordinal_ranks(labels, scores):
    ranks = rankdata(scores, method="ordinal")
    m, n = int(sum(labels)), int(sum(1 - labels))
    return (ranks[labels == 1].sum() - m * (m + 1) / 2) / (m * n)


def _not_subtracted(labels, scores):
    return rankdata(scores)[labels == 1].sum() / (labels.sum() * (1 - labels).sum())


def _down_the_list(labels, scores):
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    precisions, hits = [], 0
    for place, i in enumerate(order, 1):
        if labels[i]:
            hits += 1
            precisions.append(hits / place)
    return sum(precisions) / len(precisions)


def _points(labels, scores):
    levels = sorted(set(scores.tolist()), reverse=True)
    return [(labels[scores >= t].sum() / labels.sum(), labels[scores >= t].mean()) for t in levels]


def _straight_lines(labels, scores):
    points = [(0.0, 1.0), *_points(labels, scores)]
    return sum((r - q) * (p + o) / 2 for (q, o), (r, p) in pairwise(points))


def _unweighted(labels, scores):
    return float(np.mean([precision for _, precision in _points(labels, scores)]))


def _pro(anomaly_map, inside):
    levels = sorted(set(anomaly_map.ravel().tolist()), reverse=True)
    return [0.0] + [float((anomaly_map[inside] >= t).mean()) for t in levels]


def _by_region(anomaly_map, regions):
    return np.mean([_pro(anomaly_map, regions == k) for k in range(1, regions.max() + 1)], axis=0)


def _exact(x, y, limit):
    """The same by trapezoids, up to the first point beyond the limit."""
    area = 0.0
    for a, b, c, d in zip(x[:-1], x[1:], y[:-1], y[1:], strict=True):
        if b > a and a < limit:
            end = min(b, limit)
            area += (end - a) * (c + c + (d - c) * (end - a) / (b - a)) / 2
    return area


def _pooled(anomaly_map, regions, limit):
    return _exact(_pro(anomaly_map, regions == 0), _pro(anomaly_map, regions > 0), limit) / limit


def _undivided(anomaly_map, regions, limit):
    return _exact(_pro(anomaly_map, regions == 0), _by_region(anomaly_map, regions), limit)


def _all_pixels(anomaly_map, regions, limit):
    return _exact(_pro(anomaly_map, regions > -1), _by_region(anomaly_map, regions), limit) / limit


def _to_the_end(anomaly_map, regions, limit):
    return _exact(_pro(anomaly_map, regions == 0), _by_region(anomaly_map, regions), 1.0)


def _deviation(theta, m, n, star):
    return np.sqrt(theta * (1 - theta) * (1 + star * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * n))


def _plus_minus(auroc, m, n):
    reach = 1.96 * _deviation(auroc, m, n, (m + n) / 2 - 1)
    return auroc - reach, auroc + reach


def _cut_at_one(auroc, m, n):
    low, high = _plus_minus(auroc, m, n)
    return low, min(high, 1.0)


def _inverted(star, z):
    def interval(auroc, m, n):
        theta = np.arange(0, 1 + 5e-5, 1e-4).clip(max=1)
        inside = theta[abs(theta - auroc) <= z * _deviation(theta, m, n, star(m, n))]
        return inside[0], inside[-1]

    return interval


REGIONS = np.zeros((16, 16))
REGIONS[2:10, 2:10], REGIONS[13, 13:15] = 1, 2

WRONG = {
    "01.mask": [
        ((8, 0), "eighth"),
        ([8, 8], "one column"),
        ((64, 1), "counts as 64"),
        ((1, 1), "whole one"),
        ((8, 1 / 8), "1 of 8"),
        (8, "two numbers"),
    ],
    "01.z_score": [
        (_signed, "|x − μ|"),
        (_mean_pixel, "drowns"),
        (_no_constant, "5 gray levels"),
        (_one_sigma, "σ is one number"),
        (_of_the_test, "test images"),
        (lambda good, images: abs(images - good.mean(0)) / (good.std(0) + 5), "these are maps"),
    ],
    "01.auroc": [
        (_count_pairs(0.0), "counts 0"),
        (_count_pairs(1.0), "counts 1"),
        (_ordinal_ranks, "their mean"),
        (_not_subtracted, "m (m + 1) / 2"),
        (lambda labels, scores: _count_pairs(0.5)(labels, -scores), "1 − AUROC"),
    ],
    "01.floor": [
        ((0.5, 0.5, 0.5), "only AUROC"),
        ((0.5, 0.7143, 0.7143), "harmonic"),
        ((0.0, 0.7143, 0.8333), "all pairs tie"),
        ((0.5, 0.2857, 0.4444), "share of good"),
        (0.5, "three numbers"),
    ],
    "01.average_precision": [
        (_down_the_list, "order of the list"),
        (_straight_lines, "trapezoids"),
        (_unweighted, "step of recall"),
        (_count_pairs(0.5), "AUROC"),
    ],
    "01.aupro": [
        (_pooled, "pools"),
        (_undivided, "divide"),
        (_all_pixels, "good pixels"),
        (_to_the_end, "stop at the limit"),
    ],
    "01.small_defect": [
        (REGIONS > 0, "is seen"),
        (np.zeros((16, 16)), "0.500"),
        (np.zeros(256), "(256,)"),
        (np.where(REGIONS == 1, np.inf, 0.0), "finite"),
    ],
    "01.torn": [
        (0.375, "two pictures"),
        (0.421875, "two of three"),
        (0.578125, "all three"),
        (0.25, "held out"),
        (0.75, "too large"),
    ],
    "01.leak": [
        (np.arange(24) < 8, "each item is in one part"),
        ([0, 2, 4, 6], "the shape is (4,)"),
        (np.arange(24) == 1, "1 of 24"),
        (np.arange(24) < 9, "no twin"),
    ],
    "01.newcombe": [
        (_plus_minus, "V is taken at A, the measured"),
        (_cut_at_one, "cut at 1"),
        (_inverted(lambda m, n: (m + n) / 2 - 1, 1.0), "z = 1.96"),
        (_inverted(lambda m, n: m + n - 2, 1.96), "not their sum"),
    ],
    "01.abstract": [
        ("abcf", "b does not hold"),
        ("cf", "a holds, too"),
        ("acdf", "d does not hold"),
        ("ac", "f holds, too"),
    ],
}
