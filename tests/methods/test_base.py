"""What every method promises: its options, scores that depend on the image alone, several seeds from one pass."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from mvtec_ad.backbones import Backbone, load_backbone
from mvtec_ad.data.loading import resize
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods import METHODS, detector_class
from mvtec_ad.methods.base import Detector, FeatureDetector, Scores, as_images, as_tensor, enlarge, peak, smooth

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
SIDE = 32
# Options that make every method small; each takes those it has.
TINY = {
    **{"image_size": SIDE, "crop": SIDE, "sigma": 1.0, "weights": "random", "channels": 8, "coreset": 0.2},
    **{"latent": 8, "width": 4, "steps": 4, "batch_images": 4, "critic_steps": 1, "encoder_steps": 2},
    **{"search_steps": 4, "patience": 0},
}


def tiny(method: str, **options: Any) -> Detector:
    """An unfitted detector of a method."""
    kind = detector_class(method)
    own = {field.name for field in kind.option_fields()}
    return kind(**{name: value for name, value in TINY.items() if name in own} | options)


@pytest.fixture(scope="module")
def images(draw: Draw) -> np.ndarray:
    """(13, SIDE, SIDE, 3): nine good surfaces and four with a patch."""
    generator = np.random.default_rng(0)
    return np.stack([draw(generator, SIDE, index >= 9)[0] for index in range(13)])


@pytest.fixture(scope="module", params=METHODS)
def fitted(request: pytest.FixtureRequest, images: np.ndarray) -> Detector:
    """One detector of each method, on the good images."""
    return tiny(request.param).fit(images[:9], seed=0)


def same(one: Scores, other: Scores, **tolerance: float) -> None:
    """Assert that two scores are equal, image by image and pixel by pixel; bit by bit without a tolerance."""
    assert (one.maps is None) == (other.maps is None)
    for first, second in ((one.image, other.image), (one.maps, other.maps)):
        if first is not None:
            np.testing.assert_allclose(first, second, **({"rtol": 0, "atol": 0} | tolerance))


# --- options ----------------------------------------------------------------------------------------------------------

PRESETS = [(method, preset) for method in METHODS for preset in detector_class(method).PRESETS]


@pytest.mark.parametrize(("method", "preset"), PRESETS)
def test_presets_survive_json(method: str, preset: str) -> None:
    """`options` is plain JSON, `from_options` its inverse."""
    kind = detector_class(method)
    made = kind.preset(preset)
    again = kind.from_options(json.loads(json.dumps(made.options(), allow_nan=False)))
    assert again == made
    assert again.options() == made.options()
    assert type(again) is kind


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_what_it_is(method: str) -> None:
    """Its name is its key, the first preset is the class itself, both profiles are presets, options are explained."""
    kind = detector_class(method)
    assert kind.name == method
    assert kind.preset(next(iter(kind.PRESETS))) == kind()
    assert {"quick", "full"} <= set(kind.PRESETS)
    assert kind.preset("quick").options().get("weights") in (None, "drawn")  # nothing to download
    assert all(field.metadata["help"] for field in kind.option_fields())


def test_an_unknown_method_is_refused() -> None:
    """With those that there are."""
    with pytest.raises(SettingsError, match="'magic' is unknown: use one of padim, patchcore, autoencoder, vae"):
        detector_class("magic")


NAN, INFINITE = float("nan"), float("inf")
SHARES = [(0.0, "above 0"), (1.0, "below 1"), (-0.1, "above 0"), (NAN, "finite")]
IMPOSSIBLE: list[tuple[str, dict[str, Any], str]] = [
    *[
        (method, values, words)
        for method in METHODS
        for values, words in [
            ({"image_size": 64, "crop": 224}, "crop 224 is larger than image size 64: choose a smaller crop"),
            ({"image_size": 0, "crop": 0}, "image_size 0 must be 1 or more"),
            ({"crop": 0}, "crop 0 must be 1 or more"),
            ({"crop": 16.0}, "crop 16.0 must be a whole number"),
        ]
    ],
    *[
        (method, {"sigma": sigma}, f"sigma {sigma} must be {words}")
        for method in METHODS
        if "sigma" in {option.name for option in detector_class(method).option_fields()}
        for sigma, words in ((-0.5, "0 or more"), (NAN, "a finite number"), (INFINITE, "a finite number"))
    ],
    ("padim", {"interpolation": "cubic"}, "interpolation 'cubic' is unknown: use one of nearest, bilinear"),
    *[("padim", {"fit_fraction": share}, f"fit_fraction {share} must be") for share in (0.0, 1.5, NAN)],
    *[("padim", {"ridge": ridge}, f"ridge {ridge} must be") for ridge in (0.0, -1.0, NAN, INFINITE)],
    *[("padim", {"channels": channels}, f"channels {channels} must be 1 or more") for channels in (0, -5)],
    ("padim", {"feature_scale": 0.0}, "feature_scale 0.0 must be above 0"),
    ("patchcore", {"layers": ()}, r"layers \(\) are none of 1, 2 and 3: name one"),
    *[("patchcore", {"layers": layers}, "layers . is unknown: use one of 1, 2, 3") for layers in ((0, 1), (3, 4))],
    ("patchcore", {"layers": 2}, "layers 2 must be a tuple"),
    ("patchcore", {"neighbourhood": 2}, "neighbourhood 2 has no centre: use an odd number"),
    *[("patchcore", {"neighbourhood": side}, f"neighbourhood {side} must be 1 or more") for side in (0, -1)],
    *[("patchcore", {"coreset": share}, f"coreset {share} must be") for share in (0.0, 1.1, NAN)],
    ("patchcore", {"projection": 0}, "projection 0 must be 1 or more"),
    ("patchcore", {"neighbours": -1}, "neighbours -1 must be 0 or more"),
    ("patchcore", {"memory_gb": 0.0}, "memory_gb 0.0 must be above 0"),
    *[
        (method, values, words)
        for method in ("autoencoder", "vae", "anogan", "f_anogan")
        for values, words in [
            *[({"held_out": share}, f"held_out {share} must be .*{words}") for share, words in SHARES],
            *[({name: 0}, f"{name} 0 must be 1 or more") for name in ("width", "steps")],
            *[({"lr": lr}, f"lr {lr} must be") for lr in (0.0, -1e-3, NAN, INFINITE)],
            ({"batch_images": 1}, "batch_images 1 must be 2 or more"),
            ({"latent": -1}, "latent -1 must be"),
            ({"crop": 12}, "crop 12 is too small to be reconstructed"),
        ]
    ],
    ("autoencoder", {"loss": "l2"}, r"loss 'l2' is unknown: use one of mse, ssim, mse\+ssim, features"),
    ("autoencoder", {"map": "mse"}, "map 'mse' is unknown: use one of absolute, ssim, features"),
    ("autoencoder", {"image_score": "mean"}, "image_score 'mean' is unknown: use one of peak, error"),
    ("autoencoder", {"image_score": "elbo"}, "image_score 'elbo' is unknown: use one of peak, error"),
    ("autoencoder", {"corruption": "blur"}, "corruption 'blur' is unknown: use one of none, noise, mask"),
    ("autoencoder", {"crop": 100}, "100 pixels cannot be halved 5 times: change crop or depth"),
    ("autoencoder", {"crop": 16}, "16 pixels cannot be halved 5 times"),
    ("autoencoder", {"depth": 8}, "128 pixels cannot be halved 8 times"),
    *[("autoencoder", {"depth": depth}, f"depth {depth} must be 1 or more") for depth in (0, -1)],
    ("autoencoder", {"patience": -1}, "patience -1 must be 0 or more"),
    ("vae", {"latent": 0}, "latent 0 must be 1 or more"),
    *[("vae", {"beta": beta}, f"beta {beta} must be") for beta in (-1.0, NAN)],
]


@pytest.mark.parametrize(("method", "values", "words"), IMPOSSIBLE, ids=str)
def test_impossible_options_are_refused(method: str, values: dict[str, Any], words: str) -> None:
    """Where they are made, in one line, before anything is computed."""
    with pytest.raises(SettingsError, match=words) as caught:
        detector_class(method)(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("padim", {"channels": 1, "fit_fraction": 1.0, "image_size": 1, "crop": 1, "feature_scale": None}),
        ("patchcore", {"layers": (1,), "neighbourhood": 1, "coreset": 1.0, "neighbours": 0, "projection": 1}),
        ("autoencoder", {"image_size": 32, "crop": 32, "latent": 0, "width": 1, "steps": 1, "patience": 0}),
        ("autoencoder", {"image_size": 34, "crop": 34, "depth": 1, "sigma": 0.0}),
        ("vae", {"image_score": "elbo", "latent": 1, "beta": 0.0}),
    ],
)
def test_the_extremes_that_are_possible_are_taken(method: str, values: dict[str, Any]) -> None:
    """A table of refusals alone would also pass a class that refuses everything."""
    made = detector_class(method)(**values)
    assert {name: getattr(made, name) for name in values} == values


@pytest.mark.parametrize(
    ("method", "options", "count", "expected"),
    [
        ("padim", {}, 209, 209),
        ("padim", {"fit_fraction": 0.8}, 209, 167),
        ("patchcore", {"coreset": 0.01}, 20, 20),
        *[
            (method, options, count, expected)
            for method in ("autoencoder", "vae", "anogan", "f_anogan")
            for options, count, expected in [
                ({}, 209, 42),  # a fifth
                ({}, 100, 20),
                ({}, 60, 20),  # 19 are enough for 5 % false alarms
                ({}, 38, 19),
                ({}, 9, 4),
                ({}, 3, 1),
                ({"held_out": 0.5}, 60, 30),
                ({"held_out": 0.01}, 209, 20),
            ]
        ],
    ],
)
def test_images_that_a_threshold_rests_on(method: str, options: dict[str, Any], count: int, expected: int) -> None:
    """Left out one by one, or kept from training: the share that is asked for, but 20 where half allows it."""
    assert detector_class(method)(**options).calibration_images(count) == expected


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_depend_on_the_image_alone(
    fitted: Detector, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, in any order, twice in a call, in batches of any size."""
    whole = fitted.score(images)
    assert whole.image.shape == (13,)
    mapped = whole.maps is not None  # some methods judge an image as a whole
    assert whole.image.dtype == np.float32
    assert not mapped or (whole.maps.shape, whole.maps.dtype) == ((13, SIDE, SIDE), np.float32)
    order = np.r_[np.random.default_rng(0).permutation(13), 4, 4]
    expected = Scores(whole.image[order], whole.maps[order] if mapped else None)
    near = 1e-5 * np.abs(whole.maps if mapped else whole.image).max()
    for size in (1, 2, 5, 64):
        monkeypatch.setattr(type(fitted), "batch", lambda self, size=size: size)
        same(fitted.score(images[order]), expected, rtol=1e-5, atol=near)


def test_good_scores_come_from_as_many_images_as_promised(fitted: Detector) -> None:
    """float32, finite, and the seed is kept."""
    assert fitted.good_scores.shape == (fitted.calibration_images(9),)
    assert fitted.good_scores.dtype == np.float32
    assert np.isfinite(fitted.good_scores).all()
    assert fitted.seed == 0


@pytest.mark.parametrize("method", METHODS)
def test_several_seeds_from_one_pass_equal_each_alone(method: str, images: np.ndarray) -> None:
    """What was seen is kept, not changed; a frozen network sees every image once."""
    detector, seen = tiny(method), []
    if isinstance(detector, FeatureDetector):
        detector.use_backbone(counted(load_backbone("resnet18", "random"), seen))
    batches, count = detector.training_batches(images[:9])
    kept, tested = list(batches), list(detector.batches(images))
    found = []
    for seed in (0, 1):
        detector.fit_seen(kept, count, seed)
        found.append(detector.score_seen(tested))
        alone = tiny(method).fit(images[:9], seed)
        np.testing.assert_array_equal(detector.good_scores, alone.good_scores)
        same(found[-1], alone.score(images))
        assert detector.seed == alone.seed == seed
    draws = {"channels", "coreset", "steps"} & set(detector.options())  # random channels, picks, weights
    assert (found[0].image != found[1].image).any() == bool(draws)
    assert sum(seen) == (9 + 13 if isinstance(detector, FeatureDetector) else 0)


def counted(backbone: Backbone, seen: list[int]) -> Backbone:
    """The same network; the size of every batch it gets is appended to `seen`."""

    def forward(pixels: np.ndarray) -> list[torch.Tensor]:
        seen.append(len(pixels))
        return backbone.forward(pixels)

    return Backbone(backbone.name, backbone.weights, backbone.raw, forward, backbone.source)


def test_files_and_arrays_of_any_size_are_brought_to_its_own(fitted: Detector, draw: Draw, tmp_path: Path) -> None:
    """Resized and cropped by the detector, paths as strings or not."""
    large = np.stack([draw(np.random.default_rng(seed), 80, False)[0] for seed in (0, 1)])
    expected = fitted.score(np.stack([resize(one, SIDE, SIDE) for one in large]))
    paths = [tmp_path / f"{index}.png" for index in range(2)]
    for path, pixels in zip(paths, large, strict=True):
        Image.fromarray(pixels).save(path)
    same(fitted.score(large), expected)
    same(fitted.score([paths[0], str(paths[1])]), expected)
    cropped = copy.copy(fitted)
    cropped.image_size = 40
    np.testing.assert_array_equal(cropped.load(large), [resize(one, 40, SIDE) for one in large])
    np.testing.assert_array_equal(cropped.load(paths), cropped.load(large))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_images_are_refused(method: str, images: np.ndarray, count: int) -> None:
    """The message says how many are needed."""
    with pytest.raises(DataError, match=f"{count} good images are too few to fit {method}: give at least 3"):
        tiny(method).fit(images[:count])


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_done_is_said_in_one_line(method: str, images: np.ndarray) -> None:
    """Scoring before the fit, and a negative seed."""
    detector = tiny(method)
    with pytest.raises(SettingsError, match=rf"this {method} is not fitted: call fit\(images\) first"):
        detector.score(images)
    with pytest.raises(SettingsError, match="seed -1 is negative"):
        detector.fit(images, seed=-1)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (np.zeros((2, SIDE, SIDE), np.uint8), r"\(2, 32, 32\) uint8: convert"),
        (np.zeros((SIDE, SIDE, 3), np.uint8), r"\(32, 32, 3\) uint8: convert"),
        (np.zeros((2, 3, SIDE, SIDE), np.uint8), r"\(2, 3, 32, 32\) uint8"),
        (np.zeros((2, SIDE, SIDE, 3), np.float32), "float32: convert"),
        ([np.zeros((SIDE, SIDE, 3), np.uint8)], "stack them with numpy.stack"),
        (np.zeros((0, SIDE, SIDE, 3), np.uint8), "no images to look at"),
        ([], "no images to look at"),
        (["nowhere.png"], "nowhere.png"),
    ],
)
def test_what_are_no_images_is_refused(images: np.ndarray, odd: Any, words: str) -> None:
    """In one line, by every method alike."""
    detector = tiny("padim").fit(images[:3])
    with pytest.raises(DataError, match=words) as caught:
        detector.score(odd)
    assert "\n" not in str(caught.value)


# --- tensors and maps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.5, 4.0, 16.0])
def test_smoothing_equals_scipy(sigma: float) -> None:
    """Truncated at 4σ and mirrored at the edges, also where the kernel is larger than the map; the input stays."""
    maps = np.random.default_rng(0).gamma(2.0, 3.0, (2, 40, 56)).astype(np.float32)
    before = maps.copy()
    found = smooth(maps, sigma)
    assert found.dtype == np.float32
    expected = np.stack([ndimage.gaussian_filter(one.astype(np.float64), sigma) for one in maps])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(maps, before)


def test_no_smoothing_on_request() -> None:
    """σ = 0 leaves the map as it is."""
    maps = np.random.default_rng(0).random((1, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(smooth(maps, 0.0), maps)


@pytest.mark.parametrize(("side", "factors"), [(5, (1, 1)), (20, (4, 4)), ((40, 10), (8, 2))], ids=str)
def test_enlarging_equals_scipy(side: int | tuple[int, int], factors: tuple[int, int]) -> None:
    """Linear between the centres of the cells, constant outside of the outermost ones."""
    grids = np.random.default_rng(0).gamma(2.0, 3.0, (3, 5, 5)).astype(np.float32)
    found = enlarge(torch.from_numpy(grids), side)
    assert found.dtype == np.float32
    expected = ndimage.zoom(grids.astype(np.float64), (1, *factors), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(peak(found), [one.max() for one in found])


def test_images_survive_the_way_through_tensors() -> None:
    """Channels first, from 0 to 1, and back."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), np.uint8)
    tensor = as_tensor(pixels)
    assert tensor.shape == (2, 3, 5, 5)
    np.testing.assert_allclose(tensor.cpu().numpy(), pixels.transpose(0, 3, 1, 2) / 255, rtol=1e-6)
    np.testing.assert_array_equal(as_images(tensor), pixels)
