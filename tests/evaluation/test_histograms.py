"""The streamed form against the exact one, and resamples against the same images really repeated."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.evaluation import PixelHistograms, au_pro, pixel_metrics


def maps_and_masks(images=10, side=64, seed=1):
    """Smooth skewed maps; squares as defects on all but the first three images."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((images, side, side), dtype=bool)
    for mask in masks[3:]:
        row, column = generator.integers(0, side - 12, 2)
        mask[row : row + 12, column : column + 9] = True
        mask[:2, :3] = True
    noise = ndimage.gaussian_filter(generator.normal(size=masks.shape), (0, 2, 2))
    return np.exp(2 * noise + 0.8 * masks).astype(np.float32), masks


MAPS, MASKS = maps_and_masks()
EXACT = pixel_metrics(MAPS, MASKS)


def metrics_of(histograms):
    return {
        "pixel_auroc": histograms.auroc(),
        "pixel_ap": histograms.average_precision(),
        "au_pro": histograms.au_pro(),
    }


def test_default_bins_are_as_good_as_exact():
    found = metrics_of(PixelHistograms.from_maps(MAPS, MASKS))
    assert found["pixel_auroc"] == pytest.approx(EXACT["pixel_auroc"], abs=1e-6)
    assert found["au_pro"] == pytest.approx(EXACT["au_pro"], abs=1e-5)
    assert found["pixel_ap"] == pytest.approx(EXACT["pixel_ap"], abs=1e-4)


@pytest.mark.parametrize(
    "change",
    [lambda m: m + 30, lambda m: 1e6 + 1e-3 * m, lambda m: m * 1e30, lambda m: -1e30 + 1e29 * m],
)
def test_shift_and_scale_change_nothing(change):
    shifted = change(MAPS.astype(np.float64))
    assert metrics_of(PixelHistograms.from_maps(shifted, MASKS)) == pytest.approx(EXACT, abs=1e-4)


def test_one_huge_value_does_not_swallow_the_others():
    maps = MAPS.copy()
    maps[0, 0, 0] = 1e5  # a normal pixel, so that it stretches the range that is resolved
    found = metrics_of(PixelHistograms.from_maps(maps, MASKS))
    assert found["au_pro"] == pytest.approx(au_pro(maps, MASKS), abs=1e-4)


@pytest.mark.parametrize("levels", [1, 2, 3, 50])
@pytest.mark.parametrize("offset", [0, -1, 1e6])
def test_few_levels_are_exact(levels, offset):
    maps = (np.floor(MAPS / MAPS.max() * (levels - 0.01)) + offset).astype(np.float32)
    assert metrics_of(PixelHistograms.from_maps(maps, MASKS)) == pytest.approx(pixel_metrics(maps, MASKS), abs=1e-12)


@pytest.mark.parametrize(("low", "high"), [(0.0, 8.0), (1.0, 2.0)])
def test_batches_equal_one_pass_whatever_the_range_and_the_coarsening(low, high):
    whole, parts = PixelHistograms(low, high, bins=512), PixelHistograms(low, high, bins=512)
    whole.add(MAPS, MASKS)
    parts.add(MAPS[:4], MASKS[:4])
    parts.add(MAPS[4:], MASKS[4:])
    assert metrics_of(parts) == metrics_of(whole)
    np.testing.assert_array_equal(parts.regions, [ndimage.label(mask, np.ones((3, 3)))[1] for mask in MASKS])
    coarse, continued = whole.coarsen(64), whole.coarsen(64)
    continued.add(MAPS, MASKS)
    assert metrics_of(continued) == pytest.approx(metrics_of(coarse), abs=1e-12)  # every image twice: the same shares


def test_counts_add_up_per_image():
    histograms = PixelHistograms(1.0, 2.0, bins=256)  # much of the maps lies outside
    histograms.add(MAPS, MASKS)
    for table in (histograms, histograms.coarsen(32)):
        np.testing.assert_array_equal(table.defect.sum(axis=1), MASKS.sum(axis=(1, 2)))
        np.testing.assert_array_equal(table.normal.sum(axis=1), (~MASKS).sum(axis=(1, 2)))
        np.testing.assert_allclose(table.overlap.sum(axis=1), table.regions)
    assert histograms.normal[:, [0]].sum() == ((MAPS <= 1) & ~MASKS).sum()
    assert histograms.defect[:, [255]].sum() == ((MAPS >= 2) & MASKS).sum()


@pytest.mark.parametrize("bins", [None, 2048])
def test_resamples_equal_the_images_really_repeated(bins):
    histograms = PixelHistograms.from_maps(MAPS, MASKS)
    if bins:
        histograms = histograms.coarsen(bins)
    weights = np.random.default_rng(0).integers(0, 4, size=(5, 10))
    auroc, ap, pro = (
        histograms.auroc(weights),
        histograms.average_precision(weights),
        histograms.au_pro(weights=weights),
    )
    assert auroc.shape == ap.shape == pro.shape == (5,)
    for row, times in enumerate(weights):
        maps, masks = np.repeat(MAPS, times, axis=0), np.repeat(MASKS, times, axis=0)
        assert auroc[row] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-4)
        assert ap[row] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=2e-3)
        assert pro[row] == pytest.approx(au_pro(maps, masks), abs=2e-4)


def test_many_resamples_are_cut_into_steps_without_seams():
    histograms = PixelHistograms.from_maps(MAPS, MASKS, bins=65536)
    weights = np.random.default_rng(0).integers(0, 4, size=(20, 10))  # more than fit one step
    one_by_one = [float(histograms.au_pro(weights=row[None])[0]) for row in weights]
    np.testing.assert_allclose(histograms.au_pro(weights=weights), one_by_one, rtol=1e-12)


def test_coarsening_keeps_the_metrics_and_leaves_the_original_alone():
    histograms = PixelHistograms.from_maps(MAPS, MASKS)
    before = metrics_of(histograms)
    coarse = histograms.coarsen(2048)
    assert 500 < coarse.bins <= 2048
    assert metrics_of(coarse) == pytest.approx(EXACT, abs=1e-3)
    assert metrics_of(histograms) == before


def test_a_resample_without_defects_is_nan_and_a_test_set_without_them_is_an_error():
    histograms = PixelHistograms.from_maps(MAPS, MASKS)
    only_good = np.array([[1, 1, 1] + [0] * 7])
    assert np.isnan([histograms.auroc(only_good), histograms.average_precision(only_good)]).all()
    assert np.isnan(histograms.au_pro(weights=only_good)).all()
    nothing = PixelHistograms(0, 1)
    nothing.add(MAPS[:3], MASKS[:3])
    with pytest.raises(DataError, match="no defect pixel"):
        nothing.auroc()


def test_perfect_and_constant_maps():
    assert metrics_of(PixelHistograms.from_maps(MASKS.astype(np.float32), MASKS)) == pytest.approx(
        dict.fromkeys(EXACT, 1.0)
    )
    constant = metrics_of(PixelHistograms.from_maps(np.ones_like(MAPS), MASKS))
    assert constant == pytest.approx({"pixel_auroc": 0.5, "pixel_ap": MASKS.mean(), "au_pro": 0.15})


def test_settings_and_weights_are_checked():
    for low, high, bins in ((1, 0, 64), (1, 1, 64), (0, np.inf, 64), (0, 1, 1)):
        with pytest.raises(SettingsError, match="finite low < high"):
            PixelHistograms(low, high, bins)
    with pytest.raises(DataError, match=r"weights must have shape \(R, 10\)"):
        PixelHistograms.from_maps(MAPS, MASKS).auroc(np.ones(10))
