"""Tiles equal the whole: features, distances and scores of a large picture, whatever the side of the tile."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from mvtec_ad import artifacts, tiles
from mvtec_ad.backbones import Backbone, load_backbone
from mvtec_ad.errors import SettingsError
from mvtec_ad.methods import load_model
from mvtec_ad.methods.patchcore import Patchcore, measure, patch_features

THRESHOLD = {"value": 1.5, "false_alarm_rate": 0.05}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise, on which every feature depends on all that it sees."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def features_of(network: Backbone, layers: tuple[int, ...] = (2, 3)) -> Callable[[np.ndarray], Tensor]:
    """PatchCore's features of pixels."""
    return lambda pixels: patch_features(network(pixels), layers, 3)


def reach_of(network: Backbone, layers: tuple[int, ...] = (2, 3)) -> int:
    """Of the same."""
    return tiles.receptive_reach(
        lambda pixels: patch_features([layer.permute(0, 2, 3, 1) for layer in network.tensors(pixels)], layers, 3)
    )


@pytest.mark.parametrize(
    ("name", "layers"),
    [("efficientnet_lite0", (2, 3)), ("resnet18", (1,)), ("resnet18", (3,)), ("timm:tf_efficientnet_lite0", (2, 3))],
)
def test_features_by_tiles_equal_those_of_the_whole(name: str, layers: tuple[int, ...]) -> None:
    """Of a picture whose sides are multiples of nothing; the largest difference is that of another order of sums."""
    network, shown = load_backbone(name, "random"), picture(202, 330)
    features, reach = features_of(network, layers), reach_of(network, layers)
    rows, columns = (slice(0, tiles.padded(size)) for size in shown.shape[:2])
    whole = features(tiles.piece(shown, rows, columns)[None])[0]
    by_tiles, count = torch.full_like(whole, torch.nan), 0
    for place, part in tiles.tiled_features(features, shown, 96, reach):
        assert by_tiles[place].isnan().all()  # no cell comes twice
        by_tiles[place] = part
        count += 1
    cell = rows.stop // len(whole)
    height, width = (-(-size // cell) for size in shown.shape[:2])
    assert count == 3 * 4
    assert by_tiles[height:].isnan().all()  # padding alone
    assert by_tiles[:, width:].isnan().all()
    largest = whole.abs().max()
    assert (by_tiles[:height, :width] - whole[:height, :width]).abs().max() <= 1e-5 * largest


def test_less_than_the_reach_is_not_enough() -> None:
    """The test above would notice tiles that bring too little."""
    network, shown = load_backbone("efficientnet_lite0", "random"), picture(192, 480)
    features, reach = features_of(network), reach_of(network)
    whole = features(shown[None])[0]
    worst = max(
        float((part - whole[place]).abs().max())
        for place, part in tiles.tiled_features(features, shown, 96, reach - 96)
    )
    assert worst > 1e-3 * float(whole.abs().max())


@pytest.mark.parametrize(("kernel", "stride", "depth"), [(3, 1, 4), (5, 2, 3), (7, 1, 1)])
def test_reach_equals_the_formula_of_receptive_fields(kernel: int, stride: int, depth: int) -> None:
    """Σ (k − 1)/2 · stride product, to the next multiple of 16."""
    parts = [nn.Conv2d(3, 3, kernel, stride, kernel // 2) for _ in range(depth)]
    network = nn.Sequential(*parts)
    by_hand = sum((kernel - 1) // 2 * stride**level for level in range(depth))
    assert tiles.receptive_reach(lambda pixels: network(pixels).permute(0, 2, 3, 1)) == -(-by_hand // 16) * 16


def test_a_network_that_averages_over_the_picture_is_refused() -> None:
    """Squeeze-and-excitation makes every feature depend on every pixel."""
    with pytest.raises(SettingsError, match="depend on 512 pixels around them or on the whole picture: no tile can"):
        reach_of(load_backbone("mobilenet_v3_large", "random"))


@pytest.mark.parametrize(
    ("height", "width", "tile", "reach"), [(333, 470, 96, 208), (16, 16, 512, 16), (100, 40, 1, 0)]
)
def test_inner_parts_cover_each_pixel_once(height: int, width: int, tile: int, reach: int) -> None:
    """And lie in what is seen where they say, with the reach around them wherever the picture goes on."""
    covered = np.zeros((tiles.padded(height), tiles.padded(width)), int)
    for part in tiles.cut(height, width, tile, reach):
        covered[part.place] += 1
        for axis, length in enumerate(covered.shape):
            seen, inner, place = part.seen[axis], part.inner[axis], part.place[axis]
            assert (seen.start + inner.start, seen.start + inner.stop) == (place.start, place.stop)
            assert seen.start == max(0, place.start - reach)
            assert seen.stop == min(length, place.stop + reach)
            assert seen.start % 16 == place.start % 16 == 0
    assert (covered == 1).all()


# --- PatchCore --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> Patchcore:
    """On pictures of unequal sizes, all of whose patches are drawn."""
    pictures = [picture(150 + 10 * number, 200 - 7 * number, number) for number in range(5)]
    return Patchcore(weights="random", coreset=0.3, tile=64).fit(pictures, seed=1)


def test_score_by_tiles_equals_the_score_of_the_whole(fitted: Patchcore) -> None:
    """Distances of all cells, and eq. 6 and 7, against a pass over the whole picture."""
    shown = picture(160, 208, 9)
    features = features_of(fitted.network)(shown[None])
    score, distances = measure(features.flatten(1, 2), fitted.bank, fitted.bank.square().sum(1), fitted.neighbours)
    for tile in (96, 512):
        fitted.tile = tile
        found, grid = fitted.score_picture(shown)
        assert found == pytest.approx(float(score), rel=1e-5)
        np.testing.assert_allclose(grid, distances[0].unflatten(0, (20, 26)), rtol=1e-4)
    fitted.tile = 64
    assert fitted.score([shown]).image[0] == pytest.approx(found, rel=1e-6)
    assert fitted.score([shown]).maps is None


def test_good_scores_leave_the_whole_picture_out(fitted: Patchcore) -> None:
    """Not the tile alone."""
    pictures = [picture(150 + 10 * number, 200 - 7 * number, number) for number in range(5)]
    for number in (0, 3):
        rest = torch.from_numpy(fitted.picks != number)
        by_hand, _ = fitted.score_picture(pictures[number], fitted.bank[rest])
        assert fitted.good_scores[number] == pytest.approx(by_hand, rel=1e-5)


def test_a_model_by_tiles_comes_back_and_lives(fitted: Patchcore, tmp_path: object) -> None:
    """From its artifact; it takes pictures in, forgets them, and refuses to be asked for resized images."""
    path = artifacts.save_model(f"{tmp_path}/a.zip", fitted, "part", THRESHOLD, data_source="own")
    detector, _ = load_model(path)
    shown = picture(160, 160, 20)
    assert detector.score([shown]).image[0] == pytest.approx(fitted.score([shown]).image[0], rel=1e-6)
    size = len(detector.bank)
    assert detector.update([shown, picture(150, 200, 0)]).images == 1  # the second is known
    assert len(detector.bank) == size + round(0.3 * 20 * 20)
    detector.forget([shown])
    assert set(detector.picks) == set(range(5))
    with pytest.raises(SettingsError, match=re.escape("this patchcore looks at pictures tile by tile")):
        detector.load([shown])


def test_few_patches_are_drawn_of_each_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equally many of each, however large it is, and each the patch of a cell."""
    monkeypatch.setattr("mvtec_ad.methods.patchcore.MOST_PATCHES", 90)
    pictures = [picture(64 + 64 * number, 96, number) for number in range(3)]
    detector = Patchcore(weights="random", coreset=1.0, tile=64).fit(pictures, seed=1)
    assert np.bincount(detector.picks).tolist() == [30, 30, 30]
    for number, shown in enumerate(pictures):
        patches = features_of(detector.network)(shown[None]).flatten(0, 2)
        rows = detector.bank[torch.from_numpy(detector.picks == number)]
        assert cdist(rows, patches).min(1).max() < 1e-4 * np.linalg.norm(rows, axis=1).min()
