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
from mvtec_ad.settings import PADIM_PRESETS, PROFILES, DataSettings, PadimSettings, as_dict, from_dict, profile


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


STAGES = [PadimSettings(), DataSettings(), *PADIM_PRESETS.values(), PROFILES["quick"].padim, PROFILES["full"].data]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_settings_survive_json(stage: PadimSettings | DataSettings) -> None:
    """as_dict gives plain JSON, from_dict the equal dataclass."""
    assert from_dict(type(stage), json.loads(json.dumps(as_dict(stage)))) == stage


def test_settings_of_another_version_are_refused() -> None:
    """An unknown key is named, not dropped."""
    with pytest.raises(SettingsError, match="PadimSettings has no setting colour"):
        from_dict(PadimSettings, {"colour": "red"})


def test_settings_cannot_be_changed_in_place() -> None:
    """A run's settings stay what its manifest says."""
    with pytest.raises(FrozenInstanceError):
        PadimSettings().channels = 3


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"image_size": 128, "crop": 224}, "crop 224"),
        ({"interpolation": "cubic"}, "'cubic'"),
        ({"fit_fraction": 0.0}, "fit fraction 0"),
        ({"fit_fraction": 1.5}, "fit fraction 1.5"),
        ({"ridge": 0.0}, "ridge 0"),
        ({"ridge": -1.0}, "ridge -1"),
        ({"ridge": float("nan")}, "ridge nan"),
        ({"seeds": ()}, "seed"),
        ({"seeds": (-1,)}, "seed"),
        ({"channels": 0}, "channels 0"),
        ({"channels": -5}, "channels -5"),
        ({"image_size": 0, "crop": 0}, "0"),
        ({"crop": 0}, "crop 0"),
        ({"crop": -8}, "crop -8"),
    ],
    ids=str,
)
def test_impossible_padim_settings_are_refused(values: dict[str, object], word: str) -> None:
    """Where they are made, in words, before anything is computed."""
    with pytest.raises(SettingsError, match=word) as caught:
        PadimSettings(**values)
    assert "\n" not in str(caught.value)


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
