"""A fitted detector on disk and back: the same scores to the bit, and nothing that can run code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from mvtec_ad import artifacts
from mvtec_ad.artifacts import Artifact
from mvtec_ad.backbones import carried, load_backbone
from mvtec_ad.errors import ArtifactError, SettingsError
from mvtec_ad.methods import METHODS, detector_class, load_model
from mvtec_ad.methods.base import Detector, FeatureDetector, Scores, TrainedDetector

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
SIDE = 32
TINY = {
    **{"image_size": SIDE, "crop": SIDE, "sigma": 1.0, "weights": "random", "channels": 5, "coreset": 0.2},
    **{"latent": 8, "width": 4, "steps": 4, "batch_images": 4, "critic_steps": 1, "encoder_steps": 2},
    **{"search_steps": 3},
}
THRESHOLD = {"value": 1.5, "false_alarm_rate": 0.05}


def tiny(method: str, **options: Any) -> Detector:
    """An unfitted detector of a method, each with those of the options that it has."""
    kind = detector_class(method)
    own = {field.name for field in kind.option_fields()}
    return kind(**{name: value for name, value in TINY.items() if name in own} | options)


def save(path: Path, files: dict[str, Any]) -> Artifact:
    """Save and load again."""
    about = {"profile": "quick", "data_source": "own", "categories": ["part"], "options": {}, "seed": 0}
    return artifacts.load(artifacts.save("padim", files, path=path, **about))


def equal(one: Scores, other: Scores) -> None:
    """Assert that two scores are equal to the bit."""
    np.testing.assert_array_equal(one.image, other.image)
    assert (one.maps is None) == (other.maps is None)
    if one.maps is not None:
        np.testing.assert_array_equal(one.maps, other.maps)


@pytest.fixture(scope="module")
def images(draw: Draw) -> np.ndarray:
    """(12, SIDE, SIDE, 3): ten good surfaces and two with a patch."""
    generator = np.random.default_rng(0)
    return np.stack([draw(generator, SIDE, index >= 10)[0] for index in range(12)])


@pytest.fixture(scope="module", params=METHODS)
def fitted(request: pytest.FixtureRequest, images: np.ndarray) -> Detector:
    """One detector of each method, seed 3."""
    return tiny(request.param).fit(images[:10], seed=3)


@pytest.fixture(scope="module")
def padim(images: np.ndarray) -> Detector:
    """One of them, for what is no matter of the method."""
    return tiny("padim").fit(images[:10])


# --- there and back ---------------------------------------------------------------------------------------------------


def test_a_model_comes_back_as_it_was(fitted: Detector, images: np.ndarray, tmp_path: Path) -> None:
    """Scores to the bit, and all that was measured while fitting; only JSON and safetensors on the way."""
    path = artifacts.save_model(tmp_path / "mine.zip", fitted, "part", THRESHOLD, data_source="own")
    restored, description = load_model(path)
    assert type(restored) is type(fitted)
    assert restored == fitted  # the options
    assert restored.seed == 3
    equal(restored.score(images), fitted.score(images))
    np.testing.assert_array_equal(restored.good_scores, fitted.good_scores)
    assert restored.good_scores.dtype == np.float32
    assert set(restored.state()) == set(fitted.state())
    if hasattr(fitted, "curve"):
        assert len(fitted.curve) > 0
        assert restored.curve.equals(fitted.curve)
    assert description["threshold"] == THRESHOLD
    assert (description["method"], description["category"]) == (fitted.name, "part")
    on_features = isinstance(fitted, FeatureDetector)
    names = ("resnet18", "random (seed 0)") if on_features else (None, None)
    assert (description["backbone"], description["weights"]) == (restored.backbone_name, restored.weights_name) == names
    artifact = artifacts.load(path)
    assert artifact.names == [f"part/{fitted.name}/3/model.{kind}" for kind in ("json", "safetensors")]
    assert (artifact.manifest["stage"], artifact.manifest["profile"]) == (fitted.name, "custom")
    assert artifact.manifest["options"] == fitted.options()


def test_a_state_makes_another_detector_the_same(fitted: Detector, images: np.ndarray) -> None:
    """Without a file: what `state` gives is all that `load_state` needs, the seed among it."""
    again = type(fitted).from_options(fitted.options()).load_state(fitted.state())
    assert again.seed == 3
    equal(again.score(images), fitted.score(images))
    np.testing.assert_array_equal(again.good_scores, fitted.good_scores)


def test_a_dual_model_comes_back_as_it_was(images: np.ndarray, tmp_path: Path) -> None:
    """More channels than images."""
    detector = tiny("padim", channels=40).fit(images[:10])
    assert detector.gaussians.dual
    restored, _ = load_model(artifacts.save_model(tmp_path / "a.zip", detector, "part", THRESHOLD, data_source="own"))
    assert restored.gaussians.dual
    equal(restored.score(images), detector.score(images))


# --- the weights of a backbone ----------------------------------------------------------------------------------------


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
    detector = tiny(request.param, weights=str(weights), **more).fit(images[:10])
    path = save(folder / "mine.zip", artifacts.model_files(detector, "part", THRESHOLD)).path
    weights.unlink()
    return detector, path


def test_local_weights_travel_without_a_pickle(
    with_own_weights: tuple[Detector, Path], images: np.ndarray, own_home: Path
) -> None:
    """As safetensors; the model scores the same where the original file is gone, from one copy however often."""
    detector, path = with_own_weights
    with zipfile.ZipFile(path) as archive:
        assert "backbone/mine.safetensors" in archive.namelist()
        for name in archive.namelist():
            assert name.endswith((".json", ".safetensors"))
            assert not archive.read(name).startswith((b"\x80", b"PK"))  # a pickle, and torch's zip around one
    restored, description = load_model(path)
    equal(restored.score(images), detector.score(images))
    assert description["weights"].startswith("mine.pth (SHA-256 ")
    (copy,) = (own_home / "data" / "weights").iterdir()
    copy.write_bytes(copy.read_bytes()[:-100])  # a copy is only trusted with the SHA-256 of the artifact's
    equal(load_model(path)[0].score(images), detector.score(images))
    assert list((own_home / "data" / "weights").iterdir()) == [copy]


def test_a_restored_model_can_be_saved_again(
    with_own_weights: tuple[Detector, Path], images: np.ndarray, tmp_path: Path
) -> None:
    """A later stage packs the model it was given, on a machine that never saw the weights file."""
    detector, path = with_own_weights
    restored, description = load_model(path)
    again = save(tmp_path / "again.zip", artifacts.model_files(restored, "part", description["threshold"]))
    equal(load_model(again)[0].score(images), detector.score(images))


@pytest.mark.parametrize(("method", "more"), [("padim", {}), ("patchcore", {}), ("autoencoder", {"map": "features"})])
def test_a_model_on_other_carried_weights_is_refused(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, method: str, more: dict[str, Any]
) -> None:
    """Carried weights do not travel; features of newer ones would score silently wrong."""
    detector = tiny(method, weights="drawn", **more).fit(images[:6])
    artifact = save(tmp_path / "drawn.zip", artifacts.model_files(detector, "part", THRESHOLD))
    restored, description = load_model(artifact)
    equal(restored.score(images), detector.score(images))
    assert (description["backbone"], description["weights"]) == ("resnet18", load_backbone("resnet18", "drawn").weights)
    state, _ = carried.load_drawn()
    monkeypatch.setattr(carried, "CARRIED", tmp_path / "newer.safetensors")
    carried.save_drawn({**state, "bn1.bias": state["bn1.bias"] + 1}, {})
    with pytest.raises(ArtifactError, match=r"drawn\.zip was fitted on drawn .*, .* carries drawn .*: fit it"):
        load_model(artifact)


# --- which one --------------------------------------------------------------------------------------------------------


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
    assert "\n" not in str(caught.value)
    assert str(mixed.path) in str(caught.value)


def test_an_artifact_without_models(tmp_path: Path) -> None:
    """`detect data.zip`."""
    with pytest.raises(ArtifactError, match=r"no model of .*: it holds none"):
        load_model(save(tmp_path / "data.zip", {"index.csv": b"image_id\n"}))


def test_an_artifact_of_the_first_edition_is_refused(padim: Detector, tmp_path: Path) -> None:
    """With the way out."""
    path = artifacts.save_model(tmp_path / "old.zip", padim, "part", THRESHOLD, data_source="own")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])
    manifest["schema"], manifest["settings"] = 1, manifest.pop("options")
    members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(ArtifactError, match=r"old\.zip was made by an earlier version of the package: make it again"):
        load_model(path)


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
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_half_a_model_is_refused(fitted: Detector, tmp_path: Path) -> None:
    """Whatever its description, its state or its arrays lack; a curve may be shorter."""
    path = tmp_path / "half.zip"
    whole = artifacts.model_files(fitted, "part", THRESHOLD)[f"part/{fitted.name}/3/model.json"]
    network = () if fitted.backbone_name else ("weights", "weights_member")  # nobody asks for them
    for key in set(whole).difference(network):
        message = harmed(fitted, lambda description, _, key=key: description.pop(key), path)
        assert message.startswith(f"{path} holds no whole model (KeyError '{key}'"), message
    for key in fitted.state():
        if key.startswith("curve.") or key == "seed":  # the description has the seed
            continue

        def harm(description: dict[str, Any], arrays: dict[str, np.ndarray], key: str = key) -> None:
            (description["state"] if key in description["state"] else arrays).pop(key)

        message = harmed(fitted, harm, path)
        assert message.startswith(f"{path} holds no whole model (KeyError"), message
        assert key in message


@pytest.mark.parametrize(
    "method", [method for method in METHODS if issubclass(detector_class(method), TrainedDetector)]
)
def test_weights_of_another_network_are_refused(method: str, images: np.ndarray, tmp_path: Path) -> None:
    """In one line, also where torch would explain at length."""
    detector = tiny(method).fit(images[:6])

    def wider(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        name = next(name for name, value in arrays.items() if value.ndim == 4)
        arrays[name] = np.concatenate([arrays[name]] * 2)

    def other_options(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        description["options"]["width"] += 1

    for harm in (wider, other_options):
        assert "half.zip holds no whole model (RuntimeError " in harmed(detector, harm, tmp_path / "half.zip")


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
