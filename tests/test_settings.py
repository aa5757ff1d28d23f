"""The one switch, the settings behind it, and the places on disk."""

from __future__ import annotations

import json
import random
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest

from mvtec_ad import settings
from mvtec_ad.errors import SettingsError
from mvtec_ad.settings import (
    PRESETS,
    PROFILES,
    AutoencoderSettings,
    DataSettings,
    PadimSettings,
    PatchcoreSettings,
    PretrainingSettings,
    as_dict,
    default_settings,
    from_dict,
    profile,
)


@pytest.mark.parametrize(
    ("environment", "argument", "expected"),
    [
        (None, None, "quick"),
        (None, "full", "full"),
        ("full", None, "full"),
        ("full", "quick", "full"),
        ("quick", "full", "quick"),
        ("", "full", "full"),
    ],
)
def test_the_environment_wins_over_the_argument(
    monkeypatch: pytest.MonkeyPatch, environment: str | None, argument: str | None, expected: str
) -> None:
    """`MVTEC_AD_PROFILE`, then the form field, then quick."""
    if environment is not None:
        monkeypatch.setenv("MVTEC_AD_PROFILE", environment)
    assert profile(argument).name == expected


def test_profiles_differ_only_in_their_settings() -> None:
    """Quick needs no download; full is the reported Keras recipe."""
    assert profile("quick").padim.weights == "drawn"
    assert profile("full").padim == settings.KERAS_RECIPE
    assert {one.name for one in fields(profile("quick"))} == {one.name for one in fields(profile("full"))}


def test_a_stage_can_be_replaced() -> None:
    """A notebook's parameters override one stage and leave the others and the profile itself alone."""
    own = profile("quick", padim=PadimSettings(channels=7))
    assert own.padim.channels == 7
    assert own.data == PROFILES["quick"].data
    assert PROFILES["quick"].padim.channels != 7


def test_an_unknown_profile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the argument and from the environment alike."""
    with pytest.raises(SettingsError, match="'fast' is unknown: use one of quick, full"):
        profile("fast")
    monkeypatch.setenv("MVTEC_AD_PROFILE", "slow")
    with pytest.raises(SettingsError, match="'slow' is unknown"):
        profile("quick")


STAGES: dict[str, object] = {
    **{f"{method} {preset}": own for method, presets in PRESETS.items() for preset, own in presets.items()},
    **{
        f"{name} {stage.name}": getattr(one, stage.name)
        for name, one in PROFILES.items()
        for stage in fields(one)
        if stage.name != "name"
    },
    "other layers": PatchcoreSettings(layers=(1,), seeds=(7,)),
}


@pytest.mark.parametrize("name", STAGES)
def test_settings_survive_json(name: str) -> None:
    """as_dict gives plain JSON, from_dict the equal dataclass."""
    stage = STAGES[name]
    again = from_dict(type(stage), json.loads(json.dumps(as_dict(stage), allow_nan=False)))
    assert again == stage
    assert type(again) is type(stage)
    assert hash(again) == hash(stage)  # lists became tuples again


@pytest.mark.parametrize("method", PRESETS)
def test_the_first_preset_is_the_default(method: str) -> None:
    """It is what the class itself says, apart from what makes VAE and AnoGAN one; presets differ from each other."""
    presets = list(PRESETS[method].values())
    own = {"vae": {"variational": True, "loss": "mse"}, "anogan": {"inversion": "search"}}
    assert default_settings(method) is presets[0]
    assert presets[0] == type(presets[0])(**own.get(method, {}))
    assert len(set(presets)) == len(presets)


def test_settings_of_another_version_are_refused() -> None:
    """An unknown key is named, not dropped."""
    with pytest.raises(SettingsError, match="PadimSettings has no setting colour"):
        from_dict(PadimSettings, {"colour": "red"})


def test_settings_cannot_be_changed_in_place() -> None:
    """A run's settings stay what its manifest says."""
    with pytest.raises(FrozenInstanceError):
        PadimSettings().channels = 3


IMPOSSIBLE: list[tuple[type, dict[str, object], str]] = [
    *[
        (kind, values, word)
        for kind in (PadimSettings, AutoencoderSettings, PatchcoreSettings)
        for values, word in [
            ({"image_size": 128, "crop": 224}, "crop 224 is larger than image size 128"),
            ({"seeds": ()}, "no seed given"),
            ({"seeds": (-1,)}, "seed -1"),
            ({"seeds": (0, -2)}, "seed -2"),
            ({"image_size": 0, "crop": 0}, "image size 0"),
            ({"crop": 0}, "crop 0"),
            ({"crop": -8}, "crop -8"),
        ]
    ],
    (PadimSettings, {"interpolation": "cubic"}, "'cubic'"),
    (PadimSettings, {"fit_fraction": 0.0}, "fit fraction 0"),
    (PadimSettings, {"fit_fraction": 1.5}, "fit fraction 1.5"),
    (PadimSettings, {"ridge": 0.0}, "ridge 0"),
    (PadimSettings, {"ridge": -1.0}, "ridge -1"),
    (PadimSettings, {"ridge": float("nan")}, "ridge nan"),
    (PadimSettings, {"channels": 0}, "channels 0"),
    (PadimSettings, {"channels": -5}, "channels -5"),
    (AutoencoderSettings, {"loss": "l2"}, r"loss 'l2' is unknown: use one of mse, ssim, mse\+ssim, features"),
    (AutoencoderSettings, {"map": "mse"}, "map 'mse' is unknown: use one of absolute, ssim, features"),
    (AutoencoderSettings, {"score": "mean"}, "score 'mean' is unknown: use one of peak, error, elbo"),
    (AutoencoderSettings, {"corruption": "blur"}, "corruption 'blur' is unknown: use one of none, noise, mask"),
    (AutoencoderSettings, {"score": "elbo"}, "elbo needs a latent distribution: use the method vae"),
    (AutoencoderSettings, {"image_size": 128, "crop": 100}, "100 pixels cannot be halved 5 times: change one"),
    (AutoencoderSettings, {"image_size": 16, "crop": 16}, "16 pixels cannot be halved 5 times"),
    (AutoencoderSettings, {"halvings": 8}, "128 pixels cannot be halved 8 times"),
    (AutoencoderSettings, {"halvings": 0}, "halved 0 times"),
    (AutoencoderSettings, {"halvings": -1}, "halved -1 times"),
    (AutoencoderSettings, {"latent": -1}, "latent.* not be negative"),
    (AutoencoderSettings, {"patience": -1}, "patience.* not be negative"),
    (AutoencoderSettings, {"beta": float("nan")}, "beta.* not be negative"),
    (AutoencoderSettings, {"sigma": float("nan")}, "sigma nan"),
    (AutoencoderSettings, {"batch": 1}, "batch 1 is too small"),
    (AutoencoderSettings, {"latent": 0, "variational": True}, "latent is 0: give it a length"),
    *[(AutoencoderSettings, {name: 0}, f"{name}.* must be positive") for name in ("width", "steps")],
    (AutoencoderSettings, {"rate": 0.0}, "rate must be positive"),
    (AutoencoderSettings, {"rate": -1e-3}, "rate must be positive"),
    (AutoencoderSettings, {"held_out": 0.0}, "held-out share 0.0 .* for example 0.2"),
    (AutoencoderSettings, {"held_out": 1.0}, "held-out share 1.0"),
    (AutoencoderSettings, {"held_out": -0.1}, "held-out share -0.1"),
    (AutoencoderSettings, {"held_out": float("nan")}, "held-out share nan"),
    (PatchcoreSettings, {"layers": ()}, r"layers \(\) are none"),
    (PatchcoreSettings, {"layers": (0, 1)}, "layers .*1, 2 and 3"),
    (PatchcoreSettings, {"layers": (3, 4)}, "layers .*1, 2 and 3"),
    (PatchcoreSettings, {"neighbourhood": 2}, "neighbourhood 2 has no centre: use an odd number"),
    (PatchcoreSettings, {"neighbourhood": 0}, "neighbourhood 0"),
    (PatchcoreSettings, {"neighbourhood": -1}, "neighbourhood -1"),
    (PatchcoreSettings, {"coreset": 0.0}, "coreset 0"),
    (PatchcoreSettings, {"coreset": 1.1}, "coreset 1.1"),
    (PatchcoreSettings, {"coreset": float("nan")}, "coreset nan"),
    (PatchcoreSettings, {"projection": 0}, "projection .*must be positive"),
    (PatchcoreSettings, {"neighbours": -1}, "neighbours not negative"),
    (PatchcoreSettings, {"memory_gb": 0.0}, "memory must be positive"),
    (PretrainingSettings, {"views": 1}, "1 views"),
    (PretrainingSettings, {"images": 8, "views": 9}, "9 views a step of 8 images: choose fewer views"),
]


@pytest.mark.parametrize(("kind", "values", "word"), IMPOSSIBLE, ids=lambda value: getattr(value, "__name__", None))
def test_impossible_settings_are_refused(kind: type, values: dict[str, object], word: str) -> None:
    """Where they are made, in words, before anything is computed."""
    with pytest.raises(SettingsError, match=word) as caught:
        kind(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (AutoencoderSettings, {"image_size": 32, "crop": 32, "latent": 1, "width": 1, "steps": 1, "patience": 0}),
        (AutoencoderSettings, {"image_size": 34, "crop": 34, "halvings": 1, "latent": 0}),
        (AutoencoderSettings, {"score": "elbo", "variational": True, "beta": 0.0, "sigma": 0.0}),
        (PatchcoreSettings, {"layers": (1,), "neighbourhood": 1, "coreset": 1.0, "neighbours": 0, "projection": 1}),
        (PadimSettings, {"channels": 1, "fit_fraction": 1.0, "image_size": 1, "crop": 1}),
    ],
)
def test_the_extremes_that_are_possible_are_taken(kind: type, values: dict[str, object]) -> None:
    """A table of refusals alone would also pass a class that refuses everything."""
    made = kind(**values)
    assert {name: getattr(made, name) for name in values} == values


@pytest.mark.parametrize(
    ("own", "count", "expected"),
    [
        (PadimSettings(), 209, 209),
        (PadimSettings(fit_fraction=0.8), 209, 167),
        (PatchcoreSettings(), 209, 209),
        (PatchcoreSettings(coreset=0.01), 20, 20),
        (AutoencoderSettings(), 209, 42),  # a fifth
        (AutoencoderSettings(), 100, 20),
        (AutoencoderSettings(), 60, 20),  # 19 are enough for 5 % false alarms
        (AutoencoderSettings(), 38, 19),
        (AutoencoderSettings(), 9, 4),
        (AutoencoderSettings(), 3, 1),
        (AutoencoderSettings(held_out=0.5), 60, 30),
        (AutoencoderSettings(held_out=0.01), 60, 20),
        (AutoencoderSettings(held_out=0.01), 209, 20),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else None,
)
def test_images_that_a_threshold_rests_on(own: object, count: int, expected: int) -> None:
    """Left out one by one, or kept from training: the share that is asked for, but 20 where half allows it."""
    assert own.calibration_images(count) == expected


@pytest.mark.parametrize("size", [0, -64])
def test_an_impossible_image_size_is_refused(size: int) -> None:
    """Preparing images at no size is a setting to mend."""
    with pytest.raises(SettingsError, match="size"):
        DataSettings(image_size=size)


def test_home_is_the_named_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`MVTEC_AD_HOME` wins over where one stands; `~` is understood."""
    monkeypatch.setenv("MVTEC_AD_HOME", str(tmp_path / "elsewhere"))
    assert settings.home() == tmp_path / "elsewhere"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MVTEC_AD_HOME", "~/mine")
    assert settings.home() == tmp_path / "mine"


def test_home_is_the_enclosing_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From any folder below it."""
    for folder in ("mvtec_ad", "notebooks/source"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.delenv("MVTEC_AD_HOME")
    for folder in (tmp_path, tmp_path / "notebooks", tmp_path / "notebooks" / "source"):
        monkeypatch.chdir(folder)
        assert settings.home() == tmp_path


def test_home_is_the_working_folder_outside_of_any_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wheel in site-packages must not write beside itself."""
    monkeypatch.delenv("MVTEC_AD_HOME")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert settings.home() == tmp_path / "work"
    assert settings.transfer_folder() == tmp_path / "work" / "transfer"
    assert settings.data_folder() == tmp_path / "work" / "data"
    assert (tmp_path / "work" / "data").is_dir()
    assert (tmp_path / "work" / "transfer").is_dir()


def test_one_seed_decides_every_generator() -> None:
    """python, numpy and torch repeat themselves after the same seed, and differ after another."""
    import torch

    def draw(seed: int) -> tuple[float, float, float]:
        settings.set_seed(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    assert draw(3) == draw(3)
    assert all(one != other for one, other in zip(draw(3), draw(4), strict=True))
