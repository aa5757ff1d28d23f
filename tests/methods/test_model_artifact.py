"""A fitted model on disk and back: the same scores to the bit, and nothing that can run code."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from mvtec_ad import transfer
from mvtec_ad.backbones import Backbone, carried, load_backbone
from mvtec_ad.errors import ArtifactError, SettingsError
from mvtec_ad.methods import autoencoder, model_artifact, padim
from mvtec_ad.settings import AutoencoderSettings, PadimSettings

SIDE = 32
SETTINGS = PadimSettings(weights="random", channels=5, seeds=(0,), image_size=SIDE, crop=SIDE, sigma=1.0)
DRAWING = AutoencoderSettings(
    image_size=SIDE, crop=SIDE, latent=8, width=4, steps=4, batch=8, sigma=1.0, seeds=(3,), map="ssim"
)
THRESHOLD = {"value": 1.5, "false_alarm_rate": 0.05}
Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def images(draw: Draw) -> np.ndarray:
    """(14, SIDE, SIDE, 3): twelve good surfaces and two with a patch."""
    generator = np.random.default_rng(0)
    return np.stack([draw(generator, SIDE, index >= 12)[0] for index in range(14)])


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """ResNet-18 with random weights."""
    return load_backbone("resnet18", "random")


def save(members: dict[str, Any], path: Path) -> transfer.Artifact:
    """Save and load again."""
    about = {"profile": "quick", "data_source": "own", "categories": ["part"], "settings": {}, "seed": 0}
    return transfer.load(transfer.save("padim", members, path=path, **about))


@pytest.mark.parametrize("channels", [5, 40], ids=["direct", "dual"])
def test_scores_are_equal_to_the_bit(tmp_path: Path, images: np.ndarray, backbone: Backbone, channels: int) -> None:
    """From the model in memory and from the file, with all that was measured while fitting."""
    model = padim.Padim(backbone, replace(SETTINGS, channels=channels), seed=3).fit(images[:12])
    assert model.gaussians.dual == (channels == 40)
    artifact = save(model_artifact.members("padim", model, "part", THRESHOLD), tmp_path / "padim.zip")
    restored, description = model_artifact.restore(artifact)
    before, after = model.score(images), restored.score(images)
    np.testing.assert_array_equal(after.image, before.image)
    np.testing.assert_array_equal(after.maps, before.maps)
    np.testing.assert_array_equal(restored.good_scores, model.good_scores)
    np.testing.assert_array_equal(restored.channels, model.channels)
    assert (restored.seed, restored.settings, restored.scale) == (3, model.settings, model.scale)
    assert description["threshold"] == THRESHOLD
    assert (description["method"], description["category"]) == ("padim", "part")
    assert (description["backbone"], description["weights"]) == ("resnet18", "random (seed 0)")
    assert set(artifact.names) == {"part/padim/3/model.json", "part/padim/3/model.safetensors"}


def test_the_direct_model_is_stored_as_its_triangle(tmp_path: Path, images: np.ndarray, backbone: Backbone) -> None:
    """Half of L⁻¹ is zero and takes no room."""
    model = padim.Padim(backbone, SETTINGS).fit(images[:12])
    arrays = save(model_artifact.members("padim", model, "part", THRESHOLD), tmp_path / "a.zip").arrays(
        "part/padim/0/model.safetensors"
    )
    assert arrays["factor"].shape == (64, 15)
    np.testing.assert_array_equal(arrays["factor"][:, 0], model.gaussians.factor[:, 0, 0])


@pytest.fixture(scope="module")
def with_own_weights(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> tuple[padim.Padim, Path]:
    """A model on a local torch state dict, and the artifact; the state dict is gone by now."""
    folder = tmp_path_factory.mktemp("own weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({key: own for key, own in state.items() if not key.startswith(("layer4", "fc"))}, folder / "mine.pth")
    settings = replace(SETTINGS, weights=str(folder / "mine.pth"))
    model = padim.Padim(load_backbone("resnet18", settings.weights), settings).fit(images[:12])
    artifact = save(model_artifact.members("padim", model, "part", THRESHOLD), folder / "padim.zip")
    (folder / "mine.pth").unlink()
    return model, artifact.path


def test_local_weights_travel_without_a_pickle(
    with_own_weights: tuple[padim.Padim, Path], images: np.ndarray, own_home: Path
) -> None:
    """As safetensors; the model scores the same where the original file is gone."""
    model, path = with_own_weights
    with zipfile.ZipFile(path) as archive:
        assert "backbone/mine.safetensors" in archive.namelist()
        for name in archive.namelist():
            assert name.endswith((".json", ".safetensors"))
            content = archive.read(name)
            assert not content.startswith((b"\x80", b"PK"))  # a pickle, and torch's zip around one
    restored, description = model_artifact.restore(transfer.load(path))
    np.testing.assert_array_equal(restored.score(images).maps, model.score(images).maps)
    assert description["weights"].startswith("mine.pth (SHA-256 ")
    copies = list((own_home / "data" / "weights").iterdir())
    assert len(copies) == 1
    model_artifact.restore(transfer.load(path))
    assert list((own_home / "data" / "weights").iterdir()) == copies


def test_a_damaged_copy_of_the_weights_is_written_anew(
    with_own_weights: tuple[padim.Padim, Path], images: np.ndarray, own_home: Path
) -> None:
    """The copy beside the data is only trusted with the SHA-256 of the artifact's."""
    model, path = with_own_weights
    model_artifact.restore(transfer.load(path))
    (copy,) = (own_home / "data" / "weights").iterdir()
    copy.write_bytes(copy.read_bytes()[:-100])
    restored, _ = model_artifact.restore(transfer.load(path))
    np.testing.assert_array_equal(restored.score(images).maps, model.score(images).maps)


def test_a_model_on_other_carried_weights_is_refused(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn weights do not travel; features of newer ones would score silently wrong."""
    model = padim.Padim(load_backbone("resnet18", "drawn"), replace(SETTINGS, weights="drawn")).fit(images[:4])
    artifact = save(model_artifact.members("padim", model, "part", THRESHOLD), tmp_path / "drawn.zip")
    restored, _ = model_artifact.restore(artifact)
    np.testing.assert_array_equal(restored.score(images).maps, model.score(images).maps)
    state, _ = carried.load_drawn()
    monkeypatch.setattr(carried, "CARRIED", tmp_path / "newer.safetensors")
    carried.save_drawn({**state, "bn1.bias": state["bn1.bias"] + 1}, {})
    with pytest.raises(ArtifactError, match=r"drawn\.zip was fitted on drawn .*, .* carries drawn .*: fit it"):
        model_artifact.restore(artifact)


@pytest.mark.parametrize(
    "key",
    ["method", "category", "seed", "settings", "backbone", "weights_member", "scale", "grid", "dual", "threshold"],
)
def test_half_a_model_is_refused(tmp_path: Path, images: np.ndarray, backbone: Backbone, key: str) -> None:
    """Whatever its description lacks."""
    members = model_artifact.members("padim", padim.Padim(backbone, SETTINGS).fit(images[:4]), "part", THRESHOLD)
    del members["part/padim/0/model.json"][key]
    with pytest.raises(ArtifactError, match=rf"half\.zip holds no whole model \(KeyError '{key}'\): fit it again"):
        model_artifact.restore(save(members, tmp_path / "half.zip"))


@pytest.mark.parametrize("key", ["mean", "factor", "channels", "good_scores"])
def test_a_model_without_its_arrays_is_refused(
    tmp_path: Path, images: np.ndarray, backbone: Backbone, key: str
) -> None:
    """The description alone scores nothing."""
    members = model_artifact.members("padim", padim.Padim(backbone, SETTINGS).fit(images[:4]), "part", THRESHOLD)
    del members["part/padim/0/model.safetensors"][key]
    with pytest.raises(ArtifactError, match=rf"half\.zip holds no whole model \(.*{key}.*\): fit it again"):
        model_artifact.restore(save(members, tmp_path / "half.zip"))


def test_a_restored_model_can_be_saved_again(
    with_own_weights: tuple[padim.Padim, Path], images: np.ndarray, tmp_path: Path
) -> None:
    """A later stage packs the model it was given, on a machine that never saw the weights file."""
    model, path = with_own_weights
    restored, description = model_artifact.restore(transfer.load(path))
    members = model_artifact.members("padim", restored, "part", description["threshold"])
    again = save(members, tmp_path / "inspection.zip")
    twice, _ = model_artifact.restore(again)
    np.testing.assert_array_equal(twice.score(images).image, model.score(images).image)


@pytest.fixture
def several(tmp_path: Path, images: np.ndarray, backbone: Backbone) -> transfer.Artifact:
    """Bolt with seeds 0 and 1, nut with seed 0."""
    members: dict[str, Any] = {}
    for category, seed in (("bolt", 0), ("bolt", 1), ("nut", 0)):
        model = padim.Padim(backbone, SETTINGS, seed).fit(images[:12])
        members |= model_artifact.members("padim", model, category, {"value": float(seed), "false_alarm_rate": 0.05})
    return save(members, tmp_path / "several.zip")


@pytest.mark.parametrize(
    ("category", "seed", "expected"), [("bolt", 1, ("bolt", 1)), ("bolt", None, ("bolt", 0)), (None, 1, ("bolt", 1))]
)
def test_choosing_a_model(
    several: transfer.Artifact, category: str | None, seed: int | None, expected: tuple[str, int]
) -> None:
    """By category and seed, as far as they are needed."""
    model, description = model_artifact.restore(several, category=category, seed=seed)
    assert (description["category"], model.seed) == expected
    assert description["threshold"]["value"] == expected[1]
    np.testing.assert_array_equal(model.channels, padim.draw_channels(448, 5, expected[1]))
    assert [(one["category"], one["seed"]) for one in model_artifact.models(several)] == [
        ("bolt", 0),
        ("bolt", 1),
        ("nut", 0),
    ]


@pytest.mark.parametrize(
    ("category", "seed", "words"),
    [
        (None, None, "more than one category .*choose one with --category"),
        (None, 0, "more than one category"),
        ("bolt", 7, "bolt .*seed 7: it holds bolt padim seed 0, bolt padim seed 1, nut padim seed 0"),
        ("screw", None, "no model of screw"),
    ],
)
def test_a_model_that_is_not_there(
    several: transfer.Artifact, category: str | None, seed: int | None, words: str
) -> None:
    """The message lists those that are."""
    with pytest.raises(ArtifactError, match=words) as caught:
        model_artifact.restore(several, category=category, seed=seed)
    assert "\n" not in str(caught.value)


def test_an_artifact_without_models(tmp_path: Path) -> None:
    """`detect data.zip`."""
    artifact = save({"index.csv": b"image_id\n"}, tmp_path / "data.zip")
    with pytest.raises(ArtifactError, match="it holds none"):
        model_artifact.restore(artifact)


@pytest.mark.parametrize("method", ["autoencoder", "vae"])
def test_a_model_without_a_backbone(tmp_path: Path, images: np.ndarray, method: str) -> None:
    """Nothing of a network is named or loaded; scores, threshold and curve come back to the bit."""
    model = autoencoder.fit(replace(DRAWING, variational=method == "vae"), images[:12], progress=False)
    artifact = save(model_artifact.members(method, model, "part", THRESHOLD), tmp_path / "a.zip")
    assert set(artifact.names) == {f"part/{method}/3/model.json", f"part/{method}/3/model.safetensors"}
    restored, description = model_artifact.restore(artifact)
    assert {key: description[key] for key in ("method", "backbone", "weights", "weights_member", "threshold")} == {
        "method": method,
        "backbone": None,
        "weights": None,
        "weights_member": None,
        "threshold": THRESHOLD,
    }
    assert (restored.backbone, restored.settings, restored.seed) == (None, model.settings, 3)
    before, after = model.score(images), restored.score(images)
    np.testing.assert_array_equal(after.image, before.image)
    np.testing.assert_array_equal(after.maps, before.maps)
    np.testing.assert_array_equal(restored.good_scores, model.good_scores)
    np.testing.assert_array_equal(restored.redraw(images), model.redraw(images))
    assert restored.curve.equals(model.curve)


def test_a_model_that_compares_features_brings_its_network(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name where the package carries the weights."""
    settings = replace(DRAWING, map="features", weights="drawn")
    model = autoencoder.fit(settings, images[:6], progress=False)
    artifact = save(model_artifact.members("autoencoder", model, "part", THRESHOLD), tmp_path / "a.zip")
    restored, description = model_artifact.restore(artifact)
    assert (description["backbone"], description["weights"]) == ("resnet18", load_backbone("resnet18", "drawn").weights)
    np.testing.assert_array_equal(restored.score(images).maps, model.score(images).maps)
    state, _ = carried.load_drawn()
    monkeypatch.setattr(carried, "CARRIED", tmp_path / "newer.safetensors")
    carried.save_drawn({**state, "bn1.bias": state["bn1.bias"] + 1}, {})
    with pytest.raises(ArtifactError, match=r"a\.zip was fitted on drawn .*, .* carries drawn .*: fit it"):
        model_artifact.restore(artifact)


@pytest.fixture(scope="module")
def mixed(
    images: np.ndarray, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[tuple[str, str], Any]]:
    """PaDiM, autoencoder and VAE of bolt, and an autoencoder of nut, in one file; and the models in memory."""
    models = {
        ("bolt", "padim"): padim.Padim(backbone, SETTINGS, 3).fit(images[:12]),
        ("bolt", "autoencoder"): autoencoder.fit(DRAWING, images[:12], progress=False),
        ("bolt", "vae"): autoencoder.fit(replace(DRAWING, variational=True), images[:12], progress=False),
        ("nut", "autoencoder"): autoencoder.fit(replace(DRAWING, map="absolute"), images[:12], progress=False),
    }
    members: dict[str, Any] = {}
    for number, ((category, method), model) in enumerate(models.items()):
        threshold = {"value": float(number), "false_alarm_rate": 0.05}
        members |= model_artifact.members(method, model, category, threshold)
    home = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("mixed")
    home.setenv("MVTEC_AD_HOME", str(folder))
    path = save(members, folder / "mixed.zip").path
    home.undo()
    return path, models


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"method": "vae"}, ("bolt", "vae")),
        ({"method": "padim"}, ("bolt", "padim")),
        ({"category": "nut"}, ("nut", "autoencoder")),
        ({"category": "bolt", "method": "autoencoder"}, ("bolt", "autoencoder")),
        ({"category": "nut", "method": "autoencoder", "seed": 3}, ("nut", "autoencoder")),
    ],
    ids=str,
)
def test_several_methods_in_one_artifact(
    mixed: tuple[Path, dict[tuple[str, str], Any]],
    images: np.ndarray,
    wanted: dict[str, Any],
    expected: tuple[str, str],
) -> None:
    """Each comes back as what it was, with its own threshold."""
    path, models = mixed
    restored, description = model_artifact.restore(transfer.load(path), **wanted)
    assert (description["category"], description["method"]) == expected
    assert type(restored) is type(models[expected])
    assert restored.settings == models[expected].settings
    assert description["threshold"]["value"] == list(models).index(expected)
    np.testing.assert_array_equal(restored.score(images).maps, models[expected].score(images).maps)
    np.testing.assert_array_equal(restored.score(images).image, models[expected].score(images).image)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({}, "more than one method .*: choose one with --method"),
        ({"category": "bolt"}, "more than one method .*: choose one with --method"),
        ({"method": "autoencoder"}, "more than one category .*: choose one with --category"),
        ({"method": "patchcore"}, "no model of any category patchcore seed any: it holds bolt auto"),
        ({"category": "nut", "method": "vae"}, "no model of nut vae"),
        ({"seed": 4}, "no model of .* seed 4"),
    ],
    ids=str,
)
def test_what_several_methods_leave_open_is_asked_for(
    mixed: tuple[Path, dict[tuple[str, str], Any]], wanted: dict[str, Any], words: str
) -> None:
    """In one line, with what there is."""
    with pytest.raises(ArtifactError, match=words) as caught:
        model_artifact.restore(transfer.load(mixed[0]), **wanted)
    assert "\n" not in str(caught.value)
    assert str(mixed[0]) in str(caught.value)


def harm_shape(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Weights of a wider network."""
    name = next(name for name, value in arrays.items() if name.startswith("network.") and value.ndim == 4)
    arrays[name] = np.concatenate([arrays[name]] * 2)


def harm_weights(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """A layer is missing."""
    del arrays[next(name for name in arrays if name.startswith("network."))]


def harm_width(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Settings of another network."""
    description["settings"]["width"] += 1


def harm_threshold(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """No number."""
    description["threshold"] = {"value": None}


@pytest.mark.parametrize("harm", [harm_shape, harm_weights, harm_width, harm_threshold], ids=lambda harm: harm.__name__)
def test_half_an_autoencoder_is_refused(
    tmp_path: Path, images: np.ndarray, harm: Callable[[dict[str, Any], dict[str, np.ndarray]], None]
) -> None:
    """In one line, also where torch would explain at length."""
    model = autoencoder.fit(DRAWING, images[:6], progress=False)
    members = model_artifact.members("autoencoder", model, "part", dict(THRESHOLD))
    model_artifact.restore(save(members, tmp_path / "whole.zip"))
    harm(members["part/autoencoder/3/model.json"], members["part/autoencoder/3/model.safetensors"])
    with pytest.raises(ArtifactError, match=r"half\.zip holds no whole model \(.*\): fit it again") as caught:
        model_artifact.restore(save(members, tmp_path / "half.zip"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "magic"}, "method 'magic' is unknown: use one of padim"),
        ({"settings": {"colour": "red"}}, "AutoencoderSettings has no setting colour"),
        ({"settings": {"loss": "l2"}}, "loss 'l2' is unknown"),
    ],
    ids=str,
)
def test_a_model_of_a_newer_version_is_refused(
    tmp_path: Path, images: np.ndarray, change: dict[str, Any], words: str
) -> None:
    """With what is not known here."""
    model = autoencoder.fit(DRAWING, images[:6], progress=False)
    members = model_artifact.members("autoencoder", model, "part", THRESHOLD)
    members["part/autoencoder/3/model.json"].update(change)
    with pytest.raises((ArtifactError, SettingsError), match=words) as caught:
        model_artifact.restore(save(members, tmp_path / "newer.zip"))
    assert "\n" not in str(caught.value)
