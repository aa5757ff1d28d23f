"""Pixel metrics against scikit-learn, AUPRO against a brute force, an exact sort and MVTec's own number.

Resamples are compared with the same images really repeated.
"""

import itertools

import numpy as np
import pytest
from exact_sort import exact_sort
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics import PixelHistograms, au_pro, pixel_metrics, pro_curve


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
    "negative": lambda maps: -1000 - maps,
    "as wide as doubles go": lambda maps: (maps.astype(float) - 2) * 1e305,
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
    if len(np.unique(maps)) > 1000:  # thousands of thresholds: fewer pixels will do
        maps, masks = maps[:, ::2, ::2], masks[:, ::2, ::2]
    expected = brute_force_au_pro(maps, masks, limit)
    assert au_pro(maps, masks, limit) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_pixel_metrics_equal_scikit_learn_and_the_exact_sort(name):
    maps, masks = case(name)
    values = pixel_metrics(maps, masks)
    assert values["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert values["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)
    expected, curve = exact_sort(maps, masks)
    assert values == pytest.approx(expected, rel=1e-12)
    assert au_pro(maps, masks) == values["au_pro"]
    np.testing.assert_allclose(pro_curve(maps, masks), curve, atol=1e-12)


@pytest.mark.parametrize("limit", [0.01, 0.3, 1.0])
def test_sizes_and_shapes_of_regions_do_not_matter_to_the_agreement_with_the_exact_sort(limit):
    generator = np.random.default_rng(4)
    for share in (0.001, 0.2, 0.999):  # single pixels, filaments, and holes of normal pixels in a defect
        masks = generator.random((5, 40, 30)) < share
        masks[0] = share > 0.5  # an image that is all defect or all good
        maps = generator.integers(0, 50, masks.shape) / 7 + 0.5 * masks
        expected = exact_sort(maps, masks, limit)[0]
        assert pixel_metrics(maps, masks, limit) == pytest.approx(expected, rel=1e-12)


def test_the_toy_set_of_mvtecs_own_evaluation_code_has_its_number():
    # Uniform noise and one square in the corner of each image: what its script prints at a limit of 0.3.
    maps = np.random.RandomState(1338).random_sample((200, 300, 500))
    masks = np.zeros(maps.shape, dtype=bool)
    masks[:, :10, :10] = True
    assert au_pro(maps, masks) == pytest.approx(0.15101926603, abs=1e-9)


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
    assert pixel_metrics(change(maps).astype(np.float32), masks) == pixel_metrics(maps, masks)


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


MAPS, MASKS = realistic(images=10, side=64, seed=1)
GOOD = 3  # images without defects, first


def metrics_of(histograms, **weights):
    return {
        "pixel_auroc": histograms.auroc(**weights),
        "pixel_ap": histograms.average_precision(**weights),
        "au_pro": histograms.au_pro(**weights),
    }


def test_counts_add_up_per_image_and_every_region_counts_one():
    histograms = PixelHistograms.from_maps(MAPS, MASKS)
    assert histograms.normal.shape == (10, 2 * len(np.unique(MAPS[MASKS])) + 1)
    for table in (histograms, histograms.coarsen(32)):
        np.testing.assert_array_equal(table.defect.sum(axis=1), MASKS.sum(axis=(1, 2)))
        np.testing.assert_array_equal(table.normal.sum(axis=1), (~MASKS).sum(axis=(1, 2)))
        regions = [ndimage.label(mask, np.ones((3, 3)))[1] for mask in MASKS]
        np.testing.assert_allclose(table.overlap.sum(axis=1), regions)


def test_tables_stay_sparse():
    histograms = PixelHistograms.from_maps(MAPS, MASKS)
    assert histograms.normal.nnz <= (~MASKS).sum()
    assert histograms.defect.nnz <= MASKS.sum() >= histograms.overlap.nnz


@pytest.mark.parametrize(("bins", "tolerance"), [(None, 1e-12), (2048, 1e-3)])
def test_resamples_equal_the_images_really_repeated(bins, tolerance):
    histograms = PixelHistograms.from_maps(MAPS, MASKS)
    if bins:
        histograms = histograms.coarsen(bins)
    weights = np.random.default_rng(0).integers(0, 4, size=(5, 10))
    found = metrics_of(histograms, weights=weights)
    for row, times in enumerate(weights):
        expected = exact_sort(np.repeat(MAPS, times, axis=0), np.repeat(MASKS, times, axis=0))[0]
        assert {name: values[row] for name, values in found.items()} == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("bins", [8, 10**6])
def test_many_resamples_are_cut_into_steps_without_seams(monkeypatch, bins):
    histograms = PixelHistograms.from_maps(MAPS, MASKS).coarsen(bins)
    weights = np.random.default_rng(0).integers(0, 4, size=(20, 10))
    whole = metrics_of(histograms, weights=weights)
    monkeypatch.setattr("mvtec_ad.metrics.pixels._CELLS_AT_ONCE", 30)  # three resamples of 8 bins, one of more
    for name, values in metrics_of(histograms, weights=weights).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-12)


def test_coarsening_keeps_the_metrics_and_what_is_coarse_already():
    histograms = PixelHistograms.from_maps(MAPS, MASKS)
    coarse = histograms.coarsen(2048)
    assert 500 < coarse.normal.shape[1] <= 2048
    assert metrics_of(coarse) == pytest.approx(pixel_metrics(MAPS, MASKS), abs=1e-3)
    assert coarse.coarsen() is coarse
    tied = PixelHistograms.from_maps(np.round(MAPS), MASKS)
    assert metrics_of(tied.coarsen()) == pixel_metrics(np.round(MAPS), MASKS)


def test_a_resample_that_lacks_a_kind_of_pixel_is_nan():
    only_good = np.array([[1] * GOOD + [0] * (10 - GOOD)])
    for histograms in (PixelHistograms.from_maps(MAPS, MASKS), PixelHistograms.from_maps(MAPS, MASKS).coarsen()):
        assert all(np.isnan(values).all() for values in metrics_of(histograms, weights=only_good).values())


def test_weights_are_checked():
    with pytest.raises(DataError, match=r"weights must have shape \(R, 10\)"):
        PixelHistograms.from_maps(MAPS, MASKS).auroc(np.ones(10))
