"""AUPRO against a brute force over all thresholds, pixel metrics against scikit-learn."""

import itertools

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.evaluation import PixelHistograms, au_pro, pixel_metrics, pro_curve

METRICS = ("pixel_auroc", "pixel_ap", "au_pro")


def realistic(images=12, side=48, seed=0):
    """Smooth skewed maps, one to three round defects on two thirds of the images, some of them found well."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    masks = np.zeros((images, side, side), dtype=bool)
    for mask in masks[images // 3 :]:
        for _ in range(generator.integers(1, 4)):
            row, column = generator.integers(0, side, 2)
            mask |= np.hypot(rows - row, columns - column) < generator.uniform(1, side / 6)
    noise = ndimage.gaussian_filter(generator.normal(size=masks.shape), (0, 2, 2))
    strength = generator.uniform(0, 2, size=(images, 1, 1))
    lift = ndimage.gaussian_filter(masks.astype(float), (0, 2, 2)) * strength
    return np.exp(2 * noise + lift).astype(np.float32), masks


def brute_force_au_pro(maps, masks, limit=0.3):
    """Every threshold, one by one; regions from scipy; the last segment cut by linear interpolation."""
    regions = []
    for index, mask in enumerate(masks):
        names, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [maps[index][names == name] for name in range(1, count + 1)]
    normal = maps[~masks]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        points.append(((normal >= threshold).mean(), np.mean([(region >= threshold).mean() for region in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


CASES = {
    "continuous": lambda maps: maps,
    "tied": lambda maps: np.round(maps * 4) / 4,
    "heavily tied": lambda maps: np.round(maps).clip(0, 3),
    "near 30": lambda maps: 30 + maps,
    "near a million": lambda maps: (1e6 + np.round(maps * 8) / 8).astype(np.float32),
    "constant": np.ones_like,
    "perfect": None,
}


def case(name):
    maps, masks = realistic()
    return (masks.astype(np.float32), masks) if name == "perfect" else (CASES[name](maps), masks)


@pytest.mark.parametrize("limit", [0.3, 0.05, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_au_pro_equals_the_brute_force(name, limit):
    maps, masks = case(name)
    if name in ("continuous", "near 30"):  # thousands of thresholds: fewer pixels will do
        maps, masks = maps[:, ::2, ::2], masks[:, ::2, ::2]
    expected = brute_force_au_pro(maps, masks, limit)
    assert au_pro(maps, masks, limit) == pytest.approx(expected, abs=1e-9)
    assert PixelHistograms.from_maps(maps, masks).au_pro(limit) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_pixel_metrics_equal_scikit_learn(name):
    maps, masks = case(name)
    metrics = pixel_metrics(maps, masks)
    assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-9)
    assert metrics["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-9)
    assert metrics["au_pro"] == au_pro(maps, masks)


def test_a_curve_drawn_by_hand():
    # Five normal pixels. Descending: the region of one pixel, a normal pixel, the region of two pixels, the other four.
    maps = np.float32([[[9, 0, 7, 7], [8, 0, 0, 0]]])
    masks = np.array([[[True, False, True, True], [False, False, False, False]]])
    fpr, pro = pro_curve(maps, masks)
    corners = list(dict.fromkeys(zip(fpr.tolist(), pro.tolist(), strict=True)))
    assert corners == [(0, 0), (0, 0.5), (0.2, 0.5), (0.2, 1), (1, 1)]
    assert au_pro(maps, masks, limit=0.3) == pytest.approx((0.2 * 0.5 + 0.1 * 1) / 0.3)


def test_small_regions_count_as_much_as_large_ones_and_diagonal_pixels_are_one_region():
    masks = np.zeros((1, 8, 8), dtype=bool)
    masks[0, 0, 0] = masks[0, 1, 1] = True  # touch at a corner: one region of two pixels
    masks[0, 4:8, 4:8] = True
    maps = np.zeros((1, 8, 8), dtype=np.float32)
    maps[0, 4:8, 4:8] = 1
    # The large region is found at once, the small one only with everything else: PRO climbs from ½ to 1 along FPR.
    assert au_pro(maps, masks, limit=1.0) == pytest.approx(0.75)


@pytest.mark.parametrize(
    "change", [lambda m: m + 1024, lambda m: 8 * m - 64, lambda m: m * 2.0**100, lambda m: m * 2.0**-90]
)
def test_shift_and_scale_change_nothing(change):
    maps, masks = realistic()
    maps = (np.round(maps * 64) / 64).astype(np.float32)  # so that none of the changes rounds
    before, after = pixel_metrics(maps, masks), pixel_metrics(change(maps).astype(np.float32), masks)
    assert after == before


def test_tiny_differences_near_a_million_survive_in_double_precision():
    maps, masks = realistic()
    shifted = 1e6 + 1e-6 * maps.astype(np.float64)
    assert pixel_metrics(shifted, masks) == pytest.approx(pixel_metrics(maps, masks), abs=1e-4)


def test_half_precision_maps_of_artifacts_are_taken_as_they_are():
    maps, masks = realistic()
    half = maps.astype(np.float16)
    assert pixel_metrics(half, masks) == pixel_metrics(half.astype(np.float32), masks)


def test_masks_without_defects_or_without_normal_pixels_are_named():
    maps = np.zeros((2, 4, 4), dtype=np.float32)
    for metric in (pixel_metrics, au_pro, pro_curve, PixelHistograms.from_maps):
        with pytest.raises(DataError, match="mark no defect pixel"):
            metric(maps, np.zeros((2, 4, 4), dtype=bool))
        with pytest.raises(DataError, match="every pixel as defect"):
            metric(maps, np.ones((2, 4, 4), dtype=bool))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pixel", [(0, 0, 0), (1, 1, 1)])
def test_what_is_not_finite_is_refused_on_normal_and_defect_pixels(value, pixel):
    maps, masks = np.zeros((2, 4, 4), dtype=np.float32), np.zeros((2, 4, 4), dtype=bool)
    masks[1, 1, 1] = True
    maps[pixel] = value
    for metric in (pixel_metrics, PixelHistograms.from_maps):
        with pytest.raises(DataError, match="nan or infinite"):
            metric(maps, masks)


def test_shapes_and_limits_are_checked():
    with pytest.raises(DataError, match=r"shape \(N, H, W\)"):
        au_pro(np.zeros((2, 4, 4)), np.zeros((2, 5, 5), dtype=bool))
    maps, masks = realistic()
    for limit in (0, 1.5):
        with pytest.raises(SettingsError, match="limit"):
            au_pro(maps, masks, limit=limit)
