"""What every one-class method promises: scores that depend on the image alone, seeds, a way to disk and back."""

from __future__ import annotations

import copy
import gc
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from alike import equal
from PIL import Image
from scipy import ndimage
from torch.utils._python_dispatch import TorchDispatchMode

from mvtec_ad import artifacts
from mvtec_ad.artifacts import Artifact
from mvtec_ad.backbones import Backbone, load_backbone, synthetic_weights
from mvtec_ad.data import spool
from mvtec_ad.data.loading import resize
from mvtec_ad.errors import ArtifactError, DataError, SettingsError
from mvtec_ad.methods import (
    METHODS,
    anogan,
    autoencoder,
    base,
    detector_class,
    load_model,
    patchcore,
    pretraining,
)
from mvtec_ad.methods import padim as padim_file
from mvtec_ad.methods.base import (
    Detector,
    FeatureDetector,
    Scores,
    TrainedDetector,
    as_images,
    as_tensor,
    enlarge,
    held_out_positions,
    peak,
    smooth,
)
from mvtec_ad.training import remove_checkpoints

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
SIDE, GOOD = 32, 9
THRESHOLD = {"value": 1.5, "false_alarm_rate": 0.05}
TRAINED = [method for method in METHODS if issubclass(detector_class(method), TrainedDetector)]


# Options that make every method small; each takes those it has.
TINY = {
    **{"image_size": SIDE, "crop": SIDE, "sigma": 1.0, "channels": 8, "coreset": 0.2, "rotations": 1},
    **{"backbone": "resnet18", "weights": "random"},
    **{"latent": 8, "width": 4, "steps": 4, "batch_images": 4, "critic_steps": 1, "encoder_steps": 2},
    **{"search_steps": 3, "patience": 0},
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
    """One detector of each method on the good images, seed 3."""
    return tiny(request.param).fit(images[:GOOD], seed=3)


@pytest.fixture(scope="module")
def padim(images: np.ndarray) -> Detector:
    """One of them, for what is no matter of the method."""
    return tiny("padim").fit(images[:GOOD])


def same(one: Scores, other: Scores, **tolerance: float) -> None:
    """Assert that two scores are equal, image by image and pixel by pixel; bit by bit without a tolerance."""
    assert (one.maps is None) == (other.maps is None)
    for first, second in ((one.image, other.image), (one.maps, other.maps)):
        if first is not None:
            np.testing.assert_allclose(first, second, **({"rtol": 0, "atol": 0} | tolerance))


def save(path: Path, files: dict[str, Any]) -> Artifact:
    """Save and load again."""
    about = {"profile": "quick", "data_source": "own", "categories": ["part"], "options": {}, "seed": 0}
    return artifacts.load(artifacts.save("padim", files, path=path, **about))


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_what_it_is(method: str) -> None:
    """Its name is its key, the first preset is the class itself, its options have help."""
    kind = detector_class(method)
    assert kind.name == method
    assert kind.preset(next(iter(kind.PRESETS))) == kind()
    assert all(field.metadata["help"] for field in kind.option_fields())
    with pytest.raises(SettingsError, match="'magic' is unknown: use one of padim, patchcore, autoencoder, vae"):
        detector_class("magic")


IMPOSSIBLE: list[tuple[str, dict[str, Any], str]] = [  # options that do not go together; `test_config` has their limits
    *((method, {"image_size": 64, "crop": 224}, "crop 224 is larger than image size 64: choose") for method in METHODS),
    *((method, {"crop": 12}, "crop 12 is too small to be reconstructed") for method in TRAINED),
    ("patchcore", {"layers": ()}, r"layers \(\) are none of 1, 2 and 3: name one"),
    ("patchcore", {"neighbourhood": 2}, "neighbourhood 2 has no centre: use an odd number"),
    ("autoencoder", {"crop": 100}, "100 pixels cannot be halved 5 times: change crop or depth"),
    ("autoencoder", {"crop": 16}, "16 pixels cannot be halved 5 times"),
    ("autoencoder", {"depth": 8}, "128 pixels cannot be halved 8 times"),
]


@pytest.mark.parametrize(("method", "values", "words"), IMPOSSIBLE, ids=str)
def test_impossible_options_are_refused(method: str, values: dict[str, Any], words: str) -> None:
    """Where they are made, in one line, before anything is computed."""
    with pytest.raises(SettingsError, match=words):
        detector_class(method)(**values)


def test_the_extremes_that_are_possible_are_taken() -> None:
    """A table of refusals alone would also pass a class that refuses everything; `test_config` has single options."""
    assert detector_class("patchcore")(layers=(1,), neighbourhood=1).neighbourhood == 1
    assert detector_class("autoencoder")(image_size=34, crop=34, depth=1).depth == 1


@pytest.mark.parametrize("method", TRAINED)
def test_images_that_a_threshold_rests_on(method: str) -> None:
    """Left out one by one, or kept from training: the share that is asked for, but 20 where half allows it."""
    kind = detector_class(method)
    counts = {209: 42, 100: 20, 60: 20, 38: 19, 9: 4, 3: 1}  # a fifth; 19 are enough for 5 % false alarms
    assert {count: kind().calibration_images(count) for count in counts} == counts
    assert kind(held_out=0.5).calibration_images(60) == 30
    assert kind(held_out=0.01).calibration_images(209) == 20
    assert kind(held_out=0.0).calibration_images(209) == 0
    padim, patchcore = detector_class("padim"), detector_class("patchcore")
    assert [padim(fit_fraction=share).calibration_images(209) for share in (1.0, 0.8)] == [209, 167]
    assert patchcore(coreset=0.01).calibration_images(20) == 20


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_depend_on_the_image_alone(
    fitted: Detector, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, in any order, twice in a call, in batches of any size; as many good scores as promised."""
    assert fitted.good_scores.shape == (fitted.calibration_images(GOOD),)
    assert fitted.good_scores.dtype == np.float32
    assert np.isfinite(fitted.good_scores).all()
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
        found = fitted.score(images[order])
        same(found, expected, rtol=1e-5, atol=near)
    assert len(np.unique(found.image[order == 4])) == 1  # to the bit where it is looked at together


@pytest.mark.parametrize("method", METHODS)
def test_several_seeds_from_one_pass_equal_each_alone(method: str, images: np.ndarray) -> None:
    """What was seen is kept, not changed; a frozen network sees every image once; no weight is the same for two."""
    detector, seen, states = tiny(method), [], []
    if isinstance(detector, FeatureDetector):
        detector.use_backbone(counted(load_backbone("resnet18", "random"), seen))
    batches, count = detector.training_batches(images[:GOOD])
    kept, tested = list(batches), list(detector.batches(images))
    found = []
    for seed in (0, 1):
        detector.fit_seen(kept, count, seed)
        found.append(detector.score_seen(tested))
        torch.manual_seed(seed + 7)  # of no account, and left alone
        before = torch.get_rng_state()
        alone = tiny(method).fit(images[:GOOD], seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append({name: value for name, value in alone.state().items() if "weight" in name})
        np.testing.assert_array_equal(detector.good_scores, alone.good_scores)
        same(found[-1], alone.score(images))
        assert detector.seed == alone.seed == seed
    draws = {"channels", "coreset", "steps"} & set(detector.options())  # random channels, picks, weights
    assert (found[0].image != found[1].image).any() == bool(draws)
    assert not any(np.array_equal(value, states[1][name]) for name, value in states[0].items())
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
def test_what_cannot_be_done_is_said_in_one_line(method: str, images: np.ndarray) -> None:
    """Too few images, scoring before the fit, a negative seed."""
    detector = tiny(method)
    with pytest.raises(DataError, match="no images to look at"):
        detector.fit(images[:0])
    least = detector.least_images
    for count in range(1, least):
        with pytest.raises(DataError, match=f"{count} good images are too few to fit {method}: give at least {least}"):
            detector.fit(images[:count])
    with pytest.raises(SettingsError, match=rf"this {method} is not fitted: call fit\(images\) first"):
        detector.score(images)
    for name, given in (("reconstruct", images), ("sample", 2)):
        if hasattr(detector, name):
            with pytest.raises(SettingsError, match=f"{method} is not fitted"):
                getattr(detector, name)(given)
    with pytest.raises(SettingsError, match="seed -1 must be a whole number from 0 to 4294967295"):
        detector.fit(images, seed=-1)
    with pytest.raises(SettingsError, match=r"seed 10+ must be a whole number"):
        detector.fit(images, seed=10**30)


def test_images_are_taken_as_people_hold_them(fitted: Detector, images: np.ndarray, tmp_path: Path) -> None:
    """Each way gives the scores of the plain call, to the bit."""
    paths = [tmp_path / f"{index}.png" for index in range(len(images))]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    frozen, turned, loose = images.copy(), images[::-1, ::-1, ::-1].copy(), np.empty(len(images), object)
    frozen.setflags(write=False)
    loose[:] = list(images)
    first = np.moveaxis(images, -1, 1)  # where torch has the channels
    ways = {
        "paths": paths,
        "texts": tuple(map(str, paths)),
        "generator": (path for path in paths),
        "series": pd.Series(list(map(str, paths)), index=range(90, 90 + len(paths))),
        "array of texts": np.array(list(map(str, paths))),
        "list": list(images),
        "objects": loose,
        "read-only": frozen,
        "negative strides": turned[::-1, ::-1, ::-1],
        "Fortran": np.asfortranarray(images),
        "channels first": first,
        "a copy of these": first.copy(),
        "tensor": torch.from_numpy(images),
        "tensor, channels first": torch.from_numpy(images).permute(0, 3, 1, 2),
        "list of tensors": list(torch.from_numpy(first.copy())),
    }
    expected = fitted.score(images).image.tobytes()
    assert {name: fitted.score(way).image.tobytes() == expected for name, way in ways.items()} == dict.fromkeys(
        ways, True
    )
    wide = np.concatenate([images[1], images[1]], 1)
    same(fitted.score([images[0], wide]), fitted.score(np.stack([images[0], resize(wide, SIDE)])))  # sizes of their own
    again = tiny(fitted.name).fit(iter(turned[::-1, ::-1, ::-1][:GOOD]), seed=3)
    np.testing.assert_array_equal(again.good_scores, fitted.good_scores)
    gray = images[..., 1]
    expected = fitted.score(np.stack([gray] * 3, -1))
    for way in (gray, gray[..., None], gray[:, None], list(gray), torch.from_numpy(gray[:, None].copy())):
        same(fitted.score(way), expected)


WHITE = np.full((5, SIDE, SIDE, 3), 255, np.uint8)
ODD = [
    (WHITE[0], r"not \(32, 32, 3\) uint8: .* put a single image into a list"),
    (np.moveaxis(WHITE[0], -1, 0), r"not \(3, 32, 32\) uint8"),  # or three gray ones
    (WHITE[0, ..., 0], r"not \(32, 32\) uint8"),
    (WHITE[None], r"not \(1, 5, 32, 32, 3\) uint8"),
    (np.array(3, np.uint8), r"not \(\) uint8"),
    (np.full((5, SIDE, SIDE, 4), 255, np.uint8), r"not \(5, 32, 32, 4\) uint8: .* leave a fourth channel out"),
    ([np.full((SIDE, SIDE, 4), 255, np.uint8)], r"not \(32, 32, 4\) uint8"),
    ((WHITE / 255).astype(np.float32), r"float32: multiply floats in \[0, 1\] by 255 and round"),
    (torch.from_numpy(WHITE) / 255, "float32: multiply"),
    ([WHITE[0] / 255], "float64: multiply"),
    (WHITE.astype(float), "float64: multiply"),
    (WHITE * np.nan, "float64: multiply"),
    (WHITE.astype(np.int64), "int64: multiply"),
    (WHITE > 0, "bool: multiply"),
    (WHITE.astype(np.uint16) * 257, "uint16: multiply"),
    (WHITE.astype(complex), "complex128: multiply"),
    (WHITE.astype(object), "object: multiply"),
    (WHITE[:, :0], "no images to look at"),
    ([WHITE[0, :0]], r"not \(0, 32, 3\) uint8"),
    ([Image.fromarray(WHITE[0])], "not Image: multiply"),
    ([None], "not NoneType"),
    ([["a.png"]], "not list"),
    ([b"a.png"], "not bytes"),
    (["a.png", WHITE[0]], "images are paths and arrays at once"),
    ("a.png", r"not a str: give \[path\]"),
    (b"a.png", "not a bytes: give"),
    (Path("a.png"), r"not a \w*Path: give \[path\]"),
    ({"a.png"}, "not a set: give"),
    ({"a.png": 1}, "not a dict: give"),
    (pd.DataFrame({"image_path": ["a.png"]}), r"not a DataFrame: give .*list\(table\['image_path'\]\)"),
    (None, "not a NoneType: give"),
    (3, "not a int: give"),
    (WHITE[:0], "no images to look at"),
    ([], "no images to look at"),
    (["nowhere.png"], "nowhere.png"),
    (["a\0b"], "embedded null"),
]


@pytest.mark.parametrize(("odd", "words"), ODD, ids=range(len(ODD)))
def test_what_are_no_images_is_refused(padim: Detector, odd: Any, words: str) -> None:
    """In one line, by every method alike, whatever it is asked for."""
    for ask in (padim.score, padim.load):
        with pytest.raises(DataError, match=words):
            ask(odd)
    with pytest.raises(DataError, match=f"{words}|1 good images are too few"):
        tiny("padim").fit(odd)


@pytest.mark.parametrize("method", METHODS)
def test_floats_are_never_taken_for_dark_pixels(method: str, images: np.ndarray) -> None:
    """Not behind the check of images either, where batches are looked at."""
    detector = tiny(method)
    with pytest.raises((DataError, SettingsError), match=r"must be .*uint8"):
        detector.fit_seen(detector.parts((images / 255).astype(np.float32)), len(images), 0)


def test_images_that_no_memory_holds_are_refused_before_they_are_made(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From files and from arrays, with what they need and what is free; what fits is taken."""
    Image.fromarray(images[0]).save(tmp_path / "0.png")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2 * 10**9))
    for given in ([tmp_path / "0.png"] * 3, images[:3]):
        assert tiny("padim").load(given).shape == (3, SIDE, SIDE, 3)
        with pytest.raises(
            SettingsError, match=r"3 images of 16000×16000 pixels need 53[.]5 GB of memory and 2 are free"
        ):
            tiny("padim", image_size=16_000, crop=16_000).load(given)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fitted", TRAINED, indirect=True)
def test_held_out_images_are_not_trained_on(fitted: TrainedDetector, images: np.ndarray) -> None:
    """Others in their place: the same steps, other good scores. Another image to learn from is noticed."""
    good, held = images[:GOOD], held_out_positions(GOOD, 4, 3)
    np.testing.assert_allclose(fitted.good_scores, fitted.score(good[held]).image, rtol=1e-6)
    for position in (held, *np.setdiff1d(np.arange(GOOD), held)[[0, -1]]):
        others = good.copy()
        others[position] = 255 - others[position]
        changed = tiny(fitted.name).fit(others, 3)
        assert equal(changed, fitted, ("good_scores", "curve.held_out")) == (position is held)
        assert (changed.good_scores != fitted.good_scores).all()


@pytest.mark.parametrize("method", TRAINED)
def test_a_killed_run_goes_on_to_the_same_bits(
    method: str, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: Any
) -> None:
    """From its last checkpoint, wherever it was killed; a finished one is not trained again, no other run's is used."""
    good = images[:GOOD]
    for module in (autoencoder, anogan):
        monkeypatch.setattr(module, "EVERY", 2)
    whole = tiny(method).fit(good, 3)
    assert whole.checkpoint_files == []
    everything = moves[:]
    for number in range(1, len(everything), 2):
        folder = tmp_path / str(number)
        moves.clear()
        moves.stop = number
        with pytest.raises(KeyboardInterrupt):
            tiny(method).fit(good, 3, checkpoints=folder)
        for begin in (everything[number][0] // 2 * 2, np.inf):
            moves.clear()
            again = tiny(method).fit(good, 3, checkpoints=folder)
            assert moves == [place for place in everything if place[0] >= begin]
            assert equal(again, whole)
            assert (again.curve.attrs["seconds_before"] > 0) == (begin > 0)
            assert set(folder.iterdir()) == set(again.checkpoint_files)
    others = [tiny(method).fit(good, 4, checkpoints=folder), tiny(method).fit(good[::-1].copy(), 3, checkpoints=folder)]
    others.append(tiny(method, lr=0.01).fit(good, 3, checkpoints=folder))
    assert len(set().union(*(other.checkpoint_files for other in [again, *others]))) == 4 * len(again.checkpoint_files)
    remove_checkpoints(again.checkpoint_files)
    assert len(list(folder.iterdir())) == 3 * len(again.checkpoint_files)


# --- there and back ---------------------------------------------------------------------------------------------------


def test_a_model_comes_back_as_it_was(fitted: Detector, images: np.ndarray, tmp_path: Path) -> None:
    """Scores to the bit, and all that was measured while fitting; only JSON and safetensors on the way."""
    path = artifacts.save_model(tmp_path / "mine.zip", fitted, "part", THRESHOLD, data_source="own")
    restored, description = load_model(path)
    assert type(restored) is type(fitted)
    assert restored == fitted  # the options
    assert restored.seed == 3
    same(restored.score(images), fitted.score(images))
    np.testing.assert_array_equal(restored.good_scores, fitted.good_scores)
    assert restored.good_scores.dtype == np.float32
    assert set(restored.state()) == set(fitted.state())
    if hasattr(fitted, "curve"):
        assert len(fitted.curve) > 0
        assert restored.curve.equals(fitted.curve)
    assert description["threshold"] == THRESHOLD
    assert (description["method"], description["category"]) == (fitted.name, "part")
    on_features = fitted.extractor is not None
    names = ("resnet18", "random (seed 0)") if on_features else (None, None)
    assert (description["backbone"], description["weights"]) == (restored.backbone_name, restored.weights_name) == names
    again = type(fitted).from_options(fitted.options()).load_state(fitted.state())  # without a file
    assert again.seed == 3
    same(again.score(images), fitted.score(images))
    np.testing.assert_array_equal(again.good_scores, fitted.good_scores)
    artifact = artifacts.load(path)
    assert artifact.names == [f"part/{fitted.name}/3/model.{kind}" for kind in ("json", "safetensors")]
    assert (artifact.manifest["stage"], artifact.manifest["profile"]) == (fitted.name, "custom")
    assert artifact.manifest["options"] == fitted.options()


def test_a_dual_model_comes_back_as_it_was(images: np.ndarray, tmp_path: Path) -> None:
    """More channels than images."""
    detector = tiny("padim", channels=40).fit(images[:GOOD])
    assert detector.gaussians.dual
    restored, _ = load_model(artifacts.save_model(tmp_path / "a.zip", detector, "part", THRESHOLD, data_source="own"))
    assert restored.gaussians.dual
    same(restored.score(images), detector.score(images))


@pytest.fixture(scope="module", params=["padim", "autoencoder"])
def with_own_weights(
    request: pytest.FixtureRequest, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Detector, Path]:
    """A model on a local torch state dict, and the artifact; the state dict is gone by now."""
    folder = tmp_path_factory.mktemp("own weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state = torchvision.models.resnet18(weights=None).state_dict()
    weights = folder / "mine.pth"
    torch.save({key: own for key, own in state.items() if not key.startswith(("layer4", "fc"))}, weights)
    more = {"map": "features"} if request.param == "autoencoder" else {}
    detector = tiny(request.param, weights=str(weights), **more).fit(images[:GOOD])
    path = save(folder / "mine.zip", artifacts.model_files(detector, "part", THRESHOLD)).path
    weights.unlink()
    return detector, path


def test_local_weights_travel_without_a_pickle(
    with_own_weights: tuple[Detector, Path], images: np.ndarray, own_home: Path, tmp_path: Path
) -> None:
    """As safetensors; the model scores the same where the original file is gone, from one copy however often."""
    detector, path = with_own_weights
    with zipfile.ZipFile(path) as archive:
        assert "backbone/mine.safetensors" in archive.namelist()
        for name in archive.namelist():
            assert name.endswith((".json", ".safetensors"))
            assert not archive.read(name).startswith((b"\x80", b"PK"))  # a pickle, and torch's zip around one
    restored, description = load_model(path)
    same(restored.score(images), detector.score(images))
    assert description["weights"].startswith("mine.pth (SHA-256 ")
    (copy,) = (own_home / "data" / "weights").iterdir()
    copy.write_bytes(copy.read_bytes()[:-100])  # a copy is only trusted with the SHA-256 of the artifact's
    same(load_model(path)[0].score(images), detector.score(images))
    assert list((own_home / "data" / "weights").iterdir()) == [copy]
    # a later stage packs the model it was given, on a machine that never saw the weights file
    again = save(tmp_path / "again.zip", artifacts.model_files(restored, "part", description["threshold"]))
    same(load_model(again)[0].score(images), detector.score(images))


@pytest.mark.parametrize(("method", "more"), [("padim", {}), ("patchcore", {}), ("autoencoder", {"map": "features"})])
def test_a_model_on_other_synthetic_weights_is_refused(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, method: str, more: dict[str, Any]
) -> None:
    """Synthetic weights do not travel; features of newer ones would score silently wrong."""
    detector = tiny(method, weights="synthetic", **more).fit(images[:6])
    artifact = save(tmp_path / "mine.zip", artifacts.model_files(detector, "part", THRESHOLD))
    restored, description = load_model(artifact)
    same(restored.score(images), detector.score(images))
    assert (description["backbone"], description["weights"]) == (
        "resnet18",
        load_backbone("resnet18", "synthetic").weights,
    )
    state, _ = synthetic_weights.load_synthetic()
    monkeypatch.setattr(synthetic_weights, "SYNTHETIC", tmp_path / "newer.safetensors")
    pretraining.save_synthetic({**state, "bn1.bias": state["bn1.bias"] + 1}, {})
    with pytest.raises(ArtifactError, match=r"mine\.zip was fitted on synthetic .*, .* carries synthetic .*: fit it"):
        load_model(artifact)


@pytest.fixture(scope="module")
def mixed(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Bolt by PaDiM with seeds 0 and 1 and by an autoencoder with seed 4, nut by PaDiM; thresholds 0, 1, 2, 3."""
    files: dict[str, Any] = {}
    models = (("padim", "bolt", 0), ("padim", "bolt", 1), ("autoencoder", "bolt", 4), ("padim", "nut", 0))
    for number, (method, category, seed) in enumerate(models):
        threshold = {"value": float(number), "false_alarm_rate": 0.05}
        files |= artifacts.model_files(tiny(method).fit(images[:6], seed), category, threshold)
    return save(tmp_path_factory.mktemp("mixed") / "mixed.zip", files)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"category": "bolt", "method": "padim"}, ("padim", 0, 0.0)),
        ({"category": "bolt", "method": "padim", "seed": 1}, ("padim", 1, 1.0)),
        ({"seed": 1}, ("padim", 1, 1.0)),
        ({"method": "autoencoder"}, ("autoencoder", 4, 2.0)),
        ({"category": "nut"}, ("padim", 0, 3.0)),
    ],
    ids=str,
)
def test_choosing_a_model(mixed: Artifact, wanted: dict[str, Any], expected: tuple[str, int, float]) -> None:
    """By category, method and seed, as far as they are needed; each with its own threshold."""
    detector, description = load_model(mixed, **wanted)
    assert (detector.name, detector.seed, description["threshold"]["value"]) == expected
    assert isinstance(detector, detector_class(expected[0]))


HELD = "it holds bolt autoencoder seed 4, bolt padim seed 0, bolt padim seed 1, nut padim seed 0"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({}, "more than one method .*: choose one with --method"),
        ({"category": "bolt"}, "more than one method .*: choose one with --method"),
        ({"method": "padim"}, "more than one category .*: choose one with --category"),
        ({"method": "padim", "seed": 0}, "more than one category"),
        ({"method": "patchcore"}, f"no model of any category patchcore seed any: {HELD}"),
        ({"category": "nut", "method": "vae"}, "no model of nut vae"),
        ({"category": "bolt", "seed": 7}, f"no model of bolt any method seed 7: {HELD}"),
        ({"category": "screw"}, "no model of screw"),
    ],
    ids=str,
)
def test_a_model_that_is_not_there_or_not_the_only_one(mixed: Artifact, wanted: dict[str, Any], words: str) -> None:
    """In one line, with what there is."""
    with pytest.raises(ArtifactError, match=words) as caught:
        load_model(mixed, **wanted)
    assert str(mixed.path) in str(caught.value)


def test_an_artifact_without_models(tmp_path: Path) -> None:
    """`detect data.zip`."""
    with pytest.raises(ArtifactError, match=r"no model of .*: it holds none"):
        load_model(save(tmp_path / "data.zip", {"index.csv": b"image_id\n"}))


# --- what is no whole model -------------------------------------------------------------------------------------------


def harmed(detector: Detector, harm: Callable[[dict[str, Any], dict[str, np.ndarray]], None], path: Path) -> str:
    """The one-line message about a model whose description or arrays were harmed."""
    files = artifacts.model_files(detector, "part", THRESHOLD)
    folder = f"part/{detector.name}/{detector.seed}"
    description = json.loads(json.dumps(files[f"{folder}/model.json"]))
    arrays = dict(files[f"{folder}/model.safetensors"])
    harm(description, arrays)
    folder = f"part/{description.get('method')}/{description.get('seed')}"
    artifact = save(path, {f"{folder}/model.json": description, f"{folder}/model.safetensors": arrays})
    with pytest.raises((ArtifactError, SettingsError)) as caught:
        load_model(artifact)
    return str(caught.value)


def test_half_a_model_is_refused(fitted: Detector, tmp_path: Path) -> None:
    """Whatever its description, its state or its arrays lack; a curve may be shorter."""
    path = tmp_path / "half.zip"
    whole = artifacts.model_files(fitted, "part", THRESHOLD)[f"part/{fitted.name}/3/model.json"]
    network = () if fitted.backbone_name else ("weights", "weights_member")  # nobody asks for them
    for key in set(whole).difference(network):
        message = harmed(fitted, lambda description, _, key=key: description.pop(key), path)
        assert message.startswith(f"{path} holds no whole model (it lacks {key})"), message
    lacking = ("seed", "images")  # the first stands in the description, the second in newer models only
    keys = [key for key in fitted.state() if not key.startswith("curve.") and key not in lacking]
    parts = {key.partition(".")[0]: key for key in keys}  # of a network the last weight, and the first
    for key in {*parts.values(), *{key.partition(".")[0]: key for key in reversed(keys)}.values()}:

        def harm(description: dict[str, Any], arrays: dict[str, np.ndarray], key: str = key) -> None:
            (description["state"] if key in description["state"] else arrays).pop(key)

        message = harmed(fitted, harm, path)
        assert message.startswith(f"{path} holds no whole model (KeyError"), message
        assert key in message


@pytest.mark.parametrize("fitted", TRAINED, indirect=True)
def test_weights_of_another_network_are_refused(fitted: Detector, tmp_path: Path) -> None:
    """In one line, also where torch would explain at length."""

    def wider(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        name = next(name for name, value in arrays.items() if value.ndim == 4)
        arrays[name] = np.concatenate([arrays[name]] * 2)

    def other_options(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        description["options"]["width"] += 1

    for harm in (wider, other_options):
        assert "half.zip holds no whole model (RuntimeError " in harmed(fitted, harm, tmp_path / "half.zip")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "magic"}, "newer.zip holds no whole model (method 'magic' is unknown: use one of padim"),
        ({"options": {"colour": "red"}}, "newer.zip holds no whole model (Padim has no option colour"),
        ({"options": {"interpolation": "cubic"}}, "newer.zip holds no whole model (interpolation 'cubic' is unknown"),
        ({"options": {"sigma": 10**400}}, "must be a finite number): fit it again"),
        ({"options": {"channels": [1]}}, "channels (1,) must be a whole number): fit it again"),
        ({"options": {"weights": {"a": 1}}}, "weights {'a': 1} must be a text): fit it again"),
        ({"options": [{}]}, "holds no whole model"),
        ({"options": []}, "holds no whole model"),
        ({"threshold": {"value": None}}, "holds no whole model"),
        ({"threshold": 3}, "holds no whole model"),
        ({"seed": "zero"}, "holds no whole model"),
        ({"state": {"grid": 3}}, "holds no whole model"),
        ({"backbone": "resnet999"}, "backbone 'resnet999' is unknown"),
    ],
    ids=str,
)
def test_a_model_that_is_not_of_this_version_is_refused(
    padim: Detector, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    """With what is not known here."""
    assert words in harmed(padim, lambda description, _: description.update(change), tmp_path / "newer.zip")


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


# --- memory by count --------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that is made meanwhile."""

    size = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        """As without it."""
        made = function(*arguments, **(keywords or {}))
        sizes = [part.nbytes for part in (made if isinstance(made, tuple | list) else [made]) if torch.is_tensor(part)]
        self.size = max([self.size, *sizes])
        return made


def held(detector: Detector, count: int) -> int:
    """The most bytes of arrays that a fit on `count` images holds, and those of its largest tensor."""
    generator = np.random.default_rng(0)
    seen = (detector.look(generator.integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)) for _ in range(count))
    gc.collect()
    tracemalloc.start()
    try:
        with Largest() as largest:
            detector.fit_seen(seen, count, 0)
        return tracemalloc.get_traced_memory()[1] + largest.size
    finally:
        tracemalloc.stop()


# method -> options, images, and bytes that an image would take if all were held
CELLS = (SIDE // 4) ** 2
BY_COUNT: dict[str, tuple[dict[str, Any], int, int]] = {
    "padim": ({}, 50, CELLS * TINY["channels"] * 4),
    "patchcore": ({}, 10, CELLS // 4 * (128 + 256) * 4),
    **{method: ({}, 100, SIDE * SIDE * 3) for method in ("autoencoder", "f_anogan")},
}


@pytest.mark.parametrize("method", ["autoencoder", "vae", "efficient_ad"])
def test_a_held_out_image_alone_has_the_score_that_it_gave(method: str, images: np.ndarray) -> None:
    """To the last digit: the image whose score is the threshold must not lie above it when it comes by itself."""
    detector = tiny(method).fit(images[:GOOD], seed=3)
    held = images[held_out_positions(GOOD, len(detector.good_scores), 3)]
    assert [detector.score(image[None]).image[0] for image in held] == detector.good_scores.tolist()


@pytest.mark.parametrize("method", BY_COUNT)
def test_memory_does_not_grow_with_the_images(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times as many of them: less than a fifth of what the others would take in memory."""
    monkeypatch.setattr(spool, "HELD", 0)
    monkeypatch.setattr(padim_file, "CHUNK_NUMBERS", 4096)
    monkeypatch.setattr(patchcore, "MOST_PATCHES", 64)
    for module in (base, anogan):
        monkeypatch.setattr(module, "TOGETHER", 4)
    options, count, of_one = BY_COUNT[method]
    detector = tiny(method, **options)
    held(detector, count)  # what is made once
    # the lesser of two: what the interpreter itself keeps meanwhile comes and goes
    assert min(held(detector, 3 * count) for _ in range(2)) - held(detector, count) < 2 * count * of_one / 5


@pytest.mark.parametrize("method", ["padim", "patchcore", "autoencoder", "f_anogan"])
def test_a_file_changes_nothing(method: str, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model and the same threshold, whether features and pixels were held or lay on disk."""
    monkeypatch.setattr(patchcore, "MOST_PATCHES", 100)
    in_memory = tiny(method).fit(images[:GOOD], seed=3)
    monkeypatch.setattr(spool, "HELD", 0)
    monkeypatch.setattr(padim_file, "CHUNK_NUMBERS", 500)
    on_disk = tiny(method).fit(images[:GOOD], seed=3)
    assert equal(on_disk, in_memory)
    same(on_disk.score(images), in_memory.score(images))
