"""Pixel metrics against scikit-learn, AUPRO against an exact sort and MVTec's own number; images really repeated."""

import itertools

import numpy as np
import pytest
from exact_sort import exact_sort
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics import PixelHistograms, pixel_metrics, pro_curve


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


@pytest.mark.parametrize("name", CASES)
def test_pixel_metrics_equal_scikit_learn_and_the_exact_sort(name):
    maps, masks = case(name)
    values = pixel_metrics(maps, masks)
    assert values["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert values["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)
    expected, curve = exact_sort(maps, masks)
    assert values == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(pro_curve(maps, masks), curve, atol=1e-12)
    for limit in (0.05, 1.0):
        expected = exact_sort(maps, masks, limit)[0]["au_pro"]
        assert pixel_metrics(maps, masks, limit)["au_pro"] == pytest.approx(expected, abs=1e-9)


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
    assert PixelHistograms.from_maps(maps, masks).au_pro() == pytest.approx(0.15101926603, abs=1e-9)


def test_a_curve_drawn_by_hand():
    # Five normal pixels. Descending: the region of one pixel, a normal pixel, the region of two pixels, the other four.
    maps = np.float32([[[9, 0, 7, 7], [8, 0, 0, 0]]])
    masks = np.array([[[True, False, True, True], [False, False, False, False]]])
    fpr, pro = pro_curve(maps, masks)
    corners = list(dict.fromkeys(zip(fpr.tolist(), pro.tolist(), strict=True)))
    assert corners == [(0, 0), (0, 0.5), (0.2, 0.5), (0.2, 1), (1, 1)]
    assert pixel_metrics(maps, masks)["au_pro"] == pytest.approx((0.2 * 0.5 + 0.1 * 1) / 0.3)


def test_small_regions_count_as_much_as_large_ones_and_diagonal_pixels_are_one_region():
    masks = np.zeros((1, 8, 8), dtype=bool)
    masks[0, 0, 0] = masks[0, 1, 1] = True  # touch at a corner: one region of two pixels
    masks[0, 4:8, 4:8] = True
    maps = np.zeros((1, 8, 8), dtype=np.float32)
    maps[0, 4:8, 4:8] = 1
    # The large region is found at once, the small one only with everything else: PRO climbs from ½ to 1 along FPR.
    assert pixel_metrics(maps, masks, limit=1.0)["au_pro"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    "change", [lambda m: m + 1024, lambda m: 8 * m - 64, lambda m: m * 2.0**100, lambda m: m * 2.0**-90, np.float16]
)
def test_shift_scale_and_half_precision_change_nothing(change):
    maps, masks = realistic()
    maps = (np.round(maps * 64) / 64).astype(np.float16).astype(np.float32)  # so that none of the changes rounds
    assert change(maps).dtype in (np.float16, np.float32)
    assert pixel_metrics(change(maps), masks) == pixel_metrics(maps, masks)


def test_tiny_differences_near_a_million_survive_in_double_precision():
    maps, masks = realistic()
    shifted = 1e6 + 1e-6 * maps.astype(np.float64)
    assert pixel_metrics(shifted, masks) == pytest.approx(pixel_metrics(maps, masks), abs=1e-4)


@pytest.mark.parametrize("metric", [pixel_metrics, pro_curve, PixelHistograms.from_maps])
def test_what_cannot_be_measured_is_refused(metric):
    maps, masks = np.zeros((2, 4, 4), dtype=np.float32), np.zeros((2, 4, 4), dtype=bool)
    for refused, message in ((masks, "mark no defect pixel"), (~masks, "every pixel as"), (masks[:, 1:], "N, H, W")):
        with pytest.raises(DataError, match=message):
            metric(maps, refused)
    masks[1, 1, 1] = True
    for value, pixel in itertools.product([np.nan, np.inf, -np.inf], [(0, 0, 0), (1, 1, 1)]):  # normal, and defect
        broken = maps.copy()
        broken[pixel] = value
        with pytest.raises(DataError, match="nan or infinite"):
            metric(broken, masks)


def test_limits_and_weights_are_checked():
    for limit in (0, 1.5):
        with pytest.raises(SettingsError, match="limit"):
            pixel_metrics(*realistic(), limit=limit)
    with pytest.raises(DataError, match=r"weights must have shape \(R, 12\)"):
        PixelHistograms.from_maps(*realistic()).auroc(np.ones(12))


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
