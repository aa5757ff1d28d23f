"""Measures of maps: by hand on 4×4 pixels, and against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import auc, roc_auc_score
from torch import nn

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.attribution import (
    agreement,
    covered,
    deletion_insertion,
    energy_inside,
    pointing_against_area,
    pointing_game,
    region_auroc,
)
from mvtec_ad.metrics import wilson

MAP = np.array([[0, 1, 2, 0], [0, 5, 3, -4], [0, 0, 9, 0], [-9, 0, 0, 0]], np.float32)


def region(*pixels: tuple[int, int]) -> np.ndarray:
    """(4, 4) bool, true at (row, column)."""
    mask = np.zeros((4, 4), bool)
    for pixel in pixels:
        mask[pixel] = True
    return mask


INSIDE, OUTSIDE, NOWHERE = region((2, 2), (2, 3)), region((1, 1), (1, 2), (3, 0)), region()
REGIONS = np.stack([INSIDE, OUTSIDE, NOWHERE, ~NOWHERE])
MAPS = np.stack([MAP] * 4)


def test_the_peak_by_hand() -> None:
    """9 at (2, 2); the first of two maxima decides, and a constant map points nowhere."""
    assert pointing_game(MAPS, REGIONS).tolist() == [True, False, False, True]
    twice = np.zeros((2, 4, 4))
    twice[:, 1, 1] = twice[:, 2, 2] = 1
    assert pointing_game(twice, [OUTSIDE, INSIDE]).tolist() == [True, False]
    assert pointing_game(np.full((1, 4, 4), 3.0), [~NOWHERE]).tolist() == [False]


def test_the_share_covered() -> None:
    assert covered(REGIONS).tolist() == [2 / 16, 3 / 16, 0, 1]


def test_the_energy_by_hand() -> None:
    """Of 20 positive units 9 and 8; negative values count nothing, and without positive ones there is no share."""
    np.testing.assert_allclose(energy_inside(MAPS, REGIONS), [9 / 20, 8 / 20, 0, 1])
    assert np.isnan(energy_inside(-np.abs(MAPS), REGIONS)).all()


def test_the_ranking_inside_is_scikit_learns() -> None:
    """With ties; nan where nothing is inside, or outside."""
    maps = np.random.default_rng(0).integers(0, 5, (6, 9, 7))
    regions = np.random.default_rng(1).random((6, 9, 7)) < 0.3
    expected = [roc_auc_score(one.ravel(), values.ravel()) for one, values in zip(regions, maps, strict=True)]
    np.testing.assert_allclose(region_auroc(maps, regions), expected)
    assert np.isnan(region_auroc(MAPS, REGIONS)).tolist() == [False, False, True, True]


def test_agreement_is_scipys() -> None:
    """With ties; 1 with itself in any unit, −1 with its opposite, nan where a map is constant."""
    first, second = np.random.default_rng(2).integers(0, 9, (2, 5, 8, 6)).astype(float)
    expected = [spearmanr(one.ravel(), other.ravel()).statistic for one, other in zip(first, second, strict=True)]
    np.testing.assert_allclose(agreement(first, second), expected)
    np.testing.assert_allclose(agreement(first, np.exp(first)), 1)
    np.testing.assert_allclose(agreement(first, -first), -1)
    assert np.isnan(agreement(first, np.ones_like(first))).all()


# Pointing better than the area --------------------------------------------------------------------------------------


def test_chance_is_taken_off() -> None:
    """The mean of hit − covered, between bounds that the seed decides."""
    hits, shares = np.array([1, 0, 1, 1, 1, 0, 1, 1]), np.linspace(0.05, 0.4, 8)
    found = pointing_against_area(hits, shares, resamples=2000)
    assert found["mean"] == pytest.approx(0.75 - 0.225)
    assert found["low"] < found["mean"] < found["high"] <= 1
    assert found == pointing_against_area(hits, shares, resamples=2000)
    assert found != pointing_against_area(hits, shares, resamples=2000, seed=1)


@pytest.mark.parametrize("hit", [0, 1])
def test_where_all_hits_agree_wilson_says_what_could_have_been(hit: int) -> None:
    """The bootstrap would give the few hundredths by which the regions vary."""
    found = pointing_against_area(np.full(20, hit), np.linspace(0.02, 0.06, 20))
    low, high = wilson(hit, 20)
    assert found == pytest.approx({"mean": hit - 0.04, "low": low - 0.04, "high": high - 0.04})
    assert found["high"] - found["low"] > 0.1


@pytest.mark.parametrize("chance", [0.3, 0.9, 0.97])
def test_intervals_hold_the_truth(chance: float) -> None:
    """In 300 test sets of 30 images about as often as the docstring says, also where most sets are without a miss."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        shares = rng.beta(2, 20, 30)
        found = pointing_against_area(rng.random(30) < chance, shares, resamples=500)
        held += found["low"] <= chance - 2 / 22 <= found["high"]
    assert held / 300 > 0.88


# Deletion and insertion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_deletion_and_insertion_are_loops(steps: int) -> None:
    """Pixel after pixel from the highest, ties from the top left; curves, and their areas by scikit-learn."""
    generator = torch.Generator().manual_seed(0)
    images, weights = torch.rand((3, 3, 4, 5), generator=generator), torch.randn((3, 4, 5), generator=generator)
    maps = torch.randint(0, 6, (3, 4, 5), generator=generator).numpy()
    signs, baseline = np.array([1, -1, 1]), torch.rand((3, 4, 5), generator=generator)
    network = nn.Sequential(nn.Flatten(), nn.Linear(60, 1), nn.Flatten(0)).eval()
    network[1].weight.data = weights.reshape(1, 60)
    found = deletion_insertion(network, images, maps, signs, baseline=baseline, steps=steps, batch=3)
    for index in range(3):
        order = sorted(((-maps[index, row, column], row, column)) for row in range(4) for column in range(5))
        for step in range(steps + 1):
            deleted, inserted = images[index].clone(), baseline.clone()
            for _, row, column in order[: round(20 * step / steps)]:
                deleted[:, row, column] = baseline[:, row, column]
                inserted[:, row, column] = images[index, :, row, column]
            for name, image in (("deletion", deleted), ("insertion", inserted)):
                value = torch.sigmoid(signs[index] * network(image[None])).item()
                assert found[name][index, step] == pytest.approx(value, rel=1e-5)
        for name in ("deletion", "insertion"):
            expected = auc(np.linspace(0, 1, steps + 1), found[name][index])
            assert found[f"{name}_area"][index] == pytest.approx(expected)
    np.testing.assert_allclose(found["deletion"][:, 0], found["insertion"][:, -1], rtol=1e-5)
    np.testing.assert_allclose(found["deletion"][:, -1], found["insertion"][:, 0], rtol=1e-5)


def test_a_true_map_beats_its_opposite() -> None:
    """Of a network that sees one patch: its pixels go first, or last."""
    images = torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(1)) * 0.5 + 0.5
    weights = torch.zeros(16, 16)
    weights[3:7, 8:12] = 1
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 1), nn.Flatten(0)).eval()
    network[1].weight.data, network[1].bias.data = weights.repeat(3, 1, 1).reshape(1, 768) / 4, torch.tensor([-4.0])
    maps = np.broadcast_to(weights.numpy(), (2, 16, 16))
    good, bad = (deletion_insertion(network, images, one, baseline=torch.zeros(3, 1, 1)) for one in (maps, -maps))
    assert (good["deletion_area"] < 0.2).all()
    assert (bad["deletion_area"] > 0.8).all()
    assert (good["insertion_area"] > 0.8).all()
    assert (bad["insertion_area"] < 0.2).all()


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [pointing_game, energy_inside, region_auroc, agreement])
def test_stacks_that_do_not_fit(measure: object) -> None:
    """Another size, another number, no stack, no number."""
    for maps, others in [(MAPS, REGIONS[:, :3]), (MAPS[:2], REGIONS), (MAP, INSIDE), (MAPS[:0], REGIONS[:0])]:
        with pytest.raises(DataError, match=r"two stacks of one shape \(N, H, W\)"):
            measure(maps, others)
    with pytest.raises(DataError, match="not finite"):
        measure(np.full((4, 4, 4), np.nan), REGIONS)


def test_other_bad_input() -> None:
    """One line each."""
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(48, 1), nn.Flatten(0)).eval(), torch.zeros(2, 3, 4, 4)
    grey = torch.zeros(3, 1, 1)
    with pytest.raises(DataError, match=r"maps must have shape \(2, 4, 4\), as the images, not \(4, 4, 4\)"):
        deletion_insertion(network, images, MAPS, baseline=grey)
    with pytest.raises(SettingsError, match="steps must be at least 1, not 0"):
        deletion_insertion(network, images, MAPS[:2], baseline=grey, steps=0)
    with pytest.raises(DataError, match=r"must both have shape \(N,\), not \(2,\) and \(3,\)"):
        pointing_against_area([1, 0], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match=r"\(N,\)"):
        pointing_against_area([], [])
    with pytest.raises(SettingsError, match="resamples"):
        pointing_against_area([1, 0], [0.1, 0.2], resamples=0)
    with pytest.raises(DataError, match=r"regions must have shape \(N, H, W\)"):
        covered(INSIDE)
