"""Lab 01, data preparation and metrics: the checks of its exercises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mvtec_ad.course.exercises import Message, breaks, choose, implement, predict, say
from mvtec_ad.metrics import average_precision, newcombe, pixel_metrics

_random = np.random.default_rng(1)

# --- masks ------------------------------------------------------------------------------------------------------------


def _growth() -> tuple[float, float]:
    """Area after / before of a scratch one pixel wide: any pixel > 0, and the nearest pixel, a mean over 8 columns."""
    any_pixel, nearest = [], []
    for column in range(24, 32):
        mask = np.zeros((64, 64), bool)
        mask[16:48, column] = True
        any_pixel.append(mask.reshape(8, 8, 8, 8).any((1, 3)).mean() / mask.mean())
        nearest.append(mask[4::8, 4::8].mean() / mask.mean())
    return float(np.mean(any_pixel)), float(np.mean(nearest))


predict(
    "01.mask",
    _growth(),
    [
        ((8, 0), say("at seven columns of eight nearest loses it: what does it weigh at the eighth?")),
        ((8, 8), say("nearest looks at one column of each eight: how often is it the scratch's?")),
        ((64, 1), say("a block holds 8 pixels of the scratch before, and counts as 64 after")),
        ((1, 1), say("any pixel > 0 turns a block with 8 of 64 pixels into a whole one")),
        ((8, 0.125), say("1 of 8 is how often nearest hits; when it does, the area is 8 times as large")),
    ],
    say("give two numbers: 4 blocks of 64 pixels, against 32 pixels; then the mean over 8 columns"),
)

# --- no model at all --------------------------------------------------------------------------------------------------


def _z_maps(good: np.ndarray, images: np.ndarray, constant: float = 5.0, ddof: int = 0) -> np.ndarray:
    return (images - good.mean(0)) / (good.std(0, ddof=ddof) + constant)


def _z_scores(good: np.ndarray, images: np.ndarray) -> np.ndarray:
    return np.array([max(abs(z.min()), abs(z.max())) for z in _z_maps(good, images)])


implement(
    "01.z_score",
    _z_scores,
    [
        (np.array([[[10.0, 100.0]], [[10.0, 120.0]]]), np.array([[[20.0, 110.0]], [[10.0, 65.0]]])),  # 10 / 5, 45 / 15
        (_random.normal(100, 20, (6, 4, 5)), _random.normal(100, 40, (7, 4, 5))),
    ],
    [
        (lambda g, x: _z_maps(g, x).max((1, 2)), say("a pixel that is too dark counts as much: take |x − μ|")),
        (
            lambda g, x: abs(_z_maps(g, x)).mean((1, 2)),
            say("this is the mean over the pixels: a small defect drowns in it"),
        ),
        (lambda g, x: abs(_z_maps(g, x, 0.0)).max((1, 2)), say("the 5 gray levels beside σ are missing")),
        (
            lambda g, x: (abs(x - g.mean(0)) / (g.std() + 5)).max((1, 2)),
            say("σ is one number here: take that of each pixel, over the good images"),
        ),
        (
            lambda g, x: (abs(x - g.mean()) / (g.std(0) + 5)).max((1, 2)),
            say("μ is one number here: take the mean of each pixel, over the good images"),
        ),
        (
            lambda g, x: (abs(x - x.mean(0)) / (x.std(0) + 5)).max((1, 2)),
            say("μ and σ are of the test images: a line has good images only"),
        ),
        (lambda g, x: abs(_z_maps(g, x, ddof=1)).max((1, 2)), say("divide by n in σ, as np.std does by itself")),
        (lambda g, x: abs(_z_maps(g, x)), say("these are maps: the score of an image is its largest value")),
    ],
)

# --- metrics ----------------------------------------------------------------------------------------------------------


def _pairs(labels: np.ndarray, scores: np.ndarray, tie: float) -> float:
    good, defective = scores[labels == 0], scores[labels == 1][:, None]
    return float(((defective > good) + tie * (defective == good)).mean())


def _from_ranks(labels: np.ndarray, ranks: np.ndarray, subtract: bool = True) -> float:
    m, n = labels.sum(), (labels == 0).sum()
    return (ranks[labels == 1].sum() - subtract * m * (m + 1) / 2) / (m * n)


def _ordinal(scores: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(scores, kind="stable"), kind="stable") + 1


_tied = [
    (np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 2.0, 3.0])),  # pairs 1, ½, 1, 1
    (np.array([1, 0, 1, 0, 0, 1, 0, 1]), np.array([3.0, 3.0, 2.0, 2.0, 1.0, 2.0, 3.0, 5.0])),
    (np.array([0, 1, 1, 0, 1, 0]), _random.normal(size=6)),
]

implement(
    "01.auroc",
    lambda labels, scores: _pairs(labels, scores, 0.5),
    _tied,
    [
        (lambda y, s: _pairs(y, s, 0.0), say("a tie counts 0 here: it counts one half")),
        (lambda y, s: _pairs(y, s, 1.0), say("a tie counts 1 here: it counts one half")),
        (lambda y, s: 1 - _pairs(y, s, 0.5), say("this is 1 − AUROC: rank 1 is the lowest score")),
        (lambda y, s: _from_ranks(y, _ordinal(s)), say("equal scores have different ranks here: give each their mean")),
        (
            lambda y, s: _from_ranks(y, np.array([(s < v).sum() + ((s == v).sum() + 1) / 2 for v in s]), False),
            say("m (m + 1) / 2 is missing: the ranks of the defects among themselves"),
        ),
    ],
)

_defects, _good = 30, 12
_share = _defects / (_defects + _good)
predict(
    "01.floor",
    (0.5, _share, 2 * _share / (1 + _share)),
    [
        ((0.5, 0.5, 0.5), say("only AUROC is one half: the others depend on the share of defects")),
        ((0.5, _share, _share), say("F1 is the harmonic mean of precision 30 / 42 and recall 1")),
        ((0, _share, 2 * _share / (1 + _share)), say("all pairs tie: each counts one half")),
        ((0.5, 0.5, 2 * _share / (1 + _share)), say("average precision: at the only threshold precision is 30 / 42")),
        (
            (0.5, 1 - _share, 2 * (1 - _share) / (2 - _share)),
            say("12 / 42 is the share of good images: defects are 30"),
        ),
    ],
    say("three numbers: all 42 images are called defective, or none is; find precision and recall"),
)


def _average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    return average_precision(labels, scores)


def _curve(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at each distinct threshold, from above."""
    called = [scores >= level for level in np.unique(scores)[::-1]]
    return np.array([labels[c].sum() / labels.sum() for c in called]), np.array([labels[c].mean() for c in called])


def _trapezoids(labels: np.ndarray, scores: np.ndarray) -> float:
    recall, precision = (np.append(start, values) for start, values in zip((0, 1), _curve(labels, scores), strict=True))
    return float(((precision[1:] + precision[:-1]) / 2 * np.diff(recall)).sum())


def _in_list_order(labels: np.ndarray, scores: np.ndarray) -> float:
    hits = labels[np.argsort(-scores, kind="stable")]
    return float((hits * np.cumsum(hits) / np.arange(1, len(hits) + 1)).sum() / hits.sum())


implement(
    "01.average_precision",
    _average_precision,
    _tied,
    [
        (_in_list_order, say("equal scores are ranked in the order of the list: they share one threshold")),
        (_trapezoids, say("these are trapezoids: hold the precision P_k over the whole step of recall")),
        (
            lambda y, s: _curve(y, s)[1].mean(),
            say("each precision weighs the same here: weigh it by the step of recall"),
        ),
        (lambda y, s: _pairs(y, s, 0.5), say("this is AUROC: precision asks for the share of defects among alarms")),
        (lambda y, s: _average_precision(y, -s), say("here the lowest scores raise the alarm first")),
    ],
)


def _aupro(anomaly_map: np.ndarray, regions: np.ndarray, limit: float) -> float:
    return pixel_metrics(anomaly_map[None], regions[None] > 0, limit)["au_pro"]


def _shares(anomaly_map: np.ndarray, inside: np.ndarray) -> np.ndarray:
    return np.array([0.0, *((anomaly_map[inside] >= level).mean() for level in np.unique(anomaly_map)[::-1])])


def _area(x: np.ndarray, y: np.ndarray, limit: float, whole: bool = True) -> float:
    end = int(np.searchsorted(x, limit))
    at_limit = y[end - 1] + (y[end] - y[end - 1]) * (limit - x[end - 1]) / (x[end] - x[end - 1])
    x, y = (np.append(x[:end], limit), np.append(y[:end], at_limit)) if whole else (x[:end], y[:end])
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / limit)


def _overlap(anomaly_map: np.ndarray, regions: np.ndarray) -> np.ndarray:
    return np.mean([_shares(anomaly_map, regions == k) for k in range(1, regions.max() + 1)], axis=0)


_hand = np.array([[9.0, 4.0, 1.0, 8.0], [3.0, 1.0, 6.0, 1.0], [1.0, 2.0, 1.0, 1.0]])
_hand_regions = np.array([[1, 1, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0]])
_regions = np.zeros((10, 12), int)
_regions[1:5, 1:6], _regions[7:9, 8], _regions[1, 9:11] = 1, 2, 3

implement(
    "01.aupro",
    _aupro,
    [
        (_hand, _hand_regions, 0.3),
        (_random.integers(0, 8, (10, 12)) + 3.0 * (_regions > 0) - 4.0 * (_regions == 2), _regions, 0.3),
    ],
    [
        (
            lambda a, r, u: _area(_shares(a, r == 0), _shares(a, r > 0), u),
            say("this pools the pixels of all regions: take the mean over the regions"),
        ),
        (lambda a, r, u: u * _aupro(a, r, u), say("divide the area by the limit, so that 1 is perfect")),
        (
            lambda a, r, u: _area(_shares(a, r >= 0), _overlap(a, r), u),
            say("the false-positive rate is a share of the good pixels, not of all"),
        ),
        (
            lambda a, r, u: _area(_shares(a, r == 0), _overlap(a, r), u, whole=False),
            say("the last piece is missing: interpolate the curve up to the limit"),
        ),
        (lambda a, r, u: _aupro(a, r, 1.0), say("this is the area up to 1: stop at the limit")),
    ],
)

# --- what a metric does not see ---------------------------------------------------------------------------------------

_two_defects = np.zeros((16, 16), int)
_two_defects[2:10, 2:10], _two_defects[13, 13:15] = 1, 2


def _small_defect(answer: Any) -> Message | None:
    anomaly_map = np.asarray(answer, float)
    if anomaly_map.shape != _two_defects.shape:
        return say("give a map of 16 × 16 numbers: the shape of yours is {shape}", shape=anomaly_map.shape)
    if not np.isfinite(anomaly_map).all():
        return say("the map holds nan or infinite values: give finite ones")
    area = float(pixel_metrics(anomaly_map[None], _two_defects[None] > 0)["pixel_auroc"])
    if area < 0.95:
        return say("its pixel AUROC is {area:.3f}: raise the scores of the large defect", area=area)
    if anomaly_map[_two_defects == 2].max() > np.median(anomaly_map[_two_defects == 0]):
        return say("the small defect is seen: it scores above half of the good pixels")
    return None


breaks("01.small_defect", _small_defect)

# --- splits -----------------------------------------------------------------------------------------------------------

predict(
    "01.torn",
    1 - 0.25**3 - 0.75**3,
    [
        (1 - 0.25**2 - 0.75**2, say("this is with two pictures an item: here it has three")),
        (3 * 0.25 * 0.75**2, say("an item is torn with two of three held out as well")),
        (1 - 0.75**3, say("with all three held out an item is not torn")),
        (0.25, say("this is the share of the pictures that are held out")),
    ],
    say("an item is whole where all three are held out, or none is"),
)


def _cartons() -> tuple[np.ndarray, np.ndarray]:
    """Features (24, 8) and labels (24,) of 12 items with two pictures each; labels are coins, one an item."""
    random = np.random.default_rng(33)
    features = np.repeat(random.normal(size=(12, 8)), 2, axis=0) + 0.1 * random.normal(size=(24, 8))
    return features, np.repeat(random.integers(0, 2, 12), 2)


def _leak(answer: Any) -> Message | None:
    held_out = np.asarray(answer)
    if held_out.shape != (24,) or not np.isin(held_out, (0, 1)).all():
        return say("give 24 values, True where a picture is held out: the shape is {shape}", shape=held_out.shape)
    held_out = held_out.astype(bool)
    if not 6 <= held_out.sum() <= 18:
        return say("{number} of 24 are held out: take 6 to 18", number=int(held_out.sum()))
    features, labels = _cartons()
    item = np.arange(24) // 2
    away = np.linalg.norm(features[held_out][:, None] - features[~held_out], axis=2)
    nearest = np.flatnonzero(~held_out)[away.argmin(1)]
    alone = int((item[nearest] != item[held_out]).sum())
    if alone == 0:  # right whatever the coins
        return None
    if not (held_out[::2] != held_out[1::2]).any():
        accuracy = float((labels[nearest] == labels[held_out]).mean())
        return say(
            "accuracy {accuracy:.2f}, and by luck: each item is in one part, so nothing leaks", accuracy=accuracy
        )
    return say("{number} of those held out have no twin to learn from: other coins break it", number=alone)


breaks("01.leak", _leak)

# --- intervals --------------------------------------------------------------------------------------------------------


def _deviation(auroc: float, defects: int, good: int, star: float | None = None) -> float:
    star = (defects + good) / 2 - 1 if star is None else star
    shared = 1 + star * ((1 - auroc) / (2 - auroc) + auroc / (1 + auroc))
    return float(np.sqrt(auroc * (1 - auroc) * shared / (defects * good)))


def _interval(star: Callable[[int, int], float], z: float) -> Callable[[float, int, int], tuple[float, float]]:
    """Newcombe's interval with another N* or z: a wrong answer."""

    def ends(auroc: float, defects: int, good: int) -> tuple[float, float]:
        grid = np.linspace(0, 1, 20_001)
        near = [abs(t - auroc) <= z * _deviation(t, defects, good, star(defects, good)) for t in grid]
        return grid[near].min(), grid[near].max()

    return ends


def _wald(auroc: float, defects: int, good: int, most: float = np.inf) -> tuple[float, float]:
    reach = 1.96 * _deviation(auroc, defects, good)
    return auroc - reach, min(most, auroc + reach)


implement(
    "01.newcombe",
    newcombe,
    [(0.95, 63, 20), (1.0, 30, 12), (0.7, 10, 25)],
    [
        (_wald, say("V is taken at A, the measured value: take it at each θ that you try")),
        (lambda a, m, n: _wald(a, m, n, 1.0), say("V is taken at A, and the end is cut at 1: take V at each θ")),
        (_interval(lambda m, n: (m + n) / 2 - 1, 1.0), say("this is with z = 1: a 95 % interval has z = 1.96")),
        (_interval(lambda m, n: m + n - 2, 1.96), say("N* is the mean of m − 1 and n − 1, not their sum")),
        (_interval(lambda m, n: (m + n) / 2, 1.96), say("N* is (m + n) / 2 − 1: the − 1 is missing")),
        (_interval(lambda m, n: 0, 1.96), say("this is as if no two pairs shared an image: N* is missing")),
    ],
    tolerance=1e-3,
)

choose(
    "01.abstract",
    "acf",
    {
        "a": say("it counts what happened, and claims nothing about other images"),
        "b": say("no resample of a perfect test set holds a mistake: its width says nothing"),
        "c": say("this is what the interval says, with its rule and its images"),
        "d": say("seeds change the model: the 42 images, which limit what is known, stay the same"),
        "e": say("the threshold was chosen with the labels that it is measured on"),
        "f": say("the interval of a difference on the same images answers this, and it holds 0"),
    },
)
