"""Settings of the stage that tells defect types apart: what cannot be is refused, in one line."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from mvtec_ad.errors import SettingsError
from mvtec_ad.settings import LOOKS, TypingSettings

REFUSED: list[tuple[dict[str, object], str]] = [
    ({"objective": "triplet"}, "objective 'triplet' is unknown: use supcon or simclr"),
    ({"objective": ""}, "objective '' is unknown"),
    ({"backbone": "vgg16"}, "backbone 'vgg16' is unknown: use resnet18"),
    ({"backbone": "keras:resnet50"}, "backbone 'keras:resnet50' is unknown"),
    ({"trained": "layer4"}, "trained 'layer4' is unknown: use layer3"),
    ({"trained": "none"}, "trained 'none' is unknown"),
    ({"weights": "random", "trained": "layer3"}, "random weights leave nothing worth freezing: use trained all"),
    ({"weights": "random", "trained": "layer1"}, "random weights"),
    ({"look": "box"}, "look 'box' is unknown: use one of whole, predicted, mask"),
    *[({"side": side}, "side .* is a share") for side in (0.0, -0.5, 1.01)],
    *[({"focus": focus}, "focus .* must be positive") for focus in (0.0, -0.1)],
    *[({"image_size": size}, f"image size {size} is too small") for size in (31, 0, -32)],
    *[({name: 1}, f"{name}.* must be 2 or more") for name in ("copies", "batch", "folds")],
    *[({name: 0}, f"{name}.* 1 or more") for name in ("repeats", "neighbours", "projection")],
    ({"steps": -1}, "steps must not be negative"),
    *[
        ({name: value}, "rate and temperature must be positive")
        for name in ("rate", "temperature")
        for value in (0.0, -1.0)
    ],
    *[({"turn": turn}, r"turn must lie in \[0, 180\]") for turn in (-1.0, 180.5)],
    *[({"shift": shift}, "shift in") for shift in (-0.01, 0.5)],
    *[({"light": light}, "light must not be negative") for light in (-0.1,)],
    *[({"unknown": share}, "share of unknown .* must lie between 0 and 1") for share in (0.0, 1.0, -0.1)],
    *[
        ({name: value}, f"{name} {value} must be a finite number")
        for name in ("side", "focus", "rate", "temperature", "turn", "shift", "light", "unknown")
        for value in (float("inf"), float("nan"))
    ],
    ({"copies": 2.5}, "copies 2.5 must be a whole number"),
    ({"mirror": 1}, "mirror 1 must be true or false"),
    ({"seeds": ()}, "at least one seed"),
    ({"seeds": (0, -1)}, "at least one seed, 0 or more"),
]


@pytest.mark.parametrize(("bad", "message"), REFUSED, ids=[str(bad) for bad, _ in REFUSED])
def test_settings_that_cannot_be(bad: dict[str, object], message: str) -> None:
    """One line each, which says what is allowed; a copy with the change is refused as well."""
    for call in (lambda: TypingSettings(**bad), lambda: replace(TypingSettings(), **bad)):
        with pytest.raises(SettingsError, match=message) as problem:
            call()
        assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    "good",
    [
        {"side": 1.0, "image_size": 32, "copies": 2, "batch": 2, "folds": 2, "repeats": 1},
        {"side": 1e-3, "focus": 1e-3, "neighbours": 1, "projection": 1, "steps": 0, "rate": 1e-12, "temperature": 1e-6},
        {"turn": 0.0, "shift": 0.0, "light": 0.0},
        {"turn": 180.0, "shift": 0.499, "light": 5.0},
        {"weights": "random", "trained": "all", "unknown": 0.999, "seeds": (0, 0, 7), "mixtures": ()},
        *[{"look": look} for look in LOOKS],
        *[{"objective": objective} for objective in ("supcon", "simclr")],
    ],
    ids=str,
)
def test_the_values_beside_them_are_allowed(good: dict[str, object]) -> None:
    """And survive JSON: the same dataclass with tuples, not lists, comes back."""
    own = TypingSettings(**good)
    assert {name: getattr(own, name) for name in good} == good
    again = TypingSettings.from_options(json.loads(json.dumps(own.options(), allow_nan=False)))
    assert again == own
    assert hash(again) == hash(own)


def test_a_file_cannot_bring_in_what_the_class_refuses() -> None:
    """From plain data: a bad value, and a setting of another version."""
    with pytest.raises(SettingsError, match="look 'box'"):
        TypingSettings.from_options({**TypingSettings().options(), "look": "box"})
    with pytest.raises(SettingsError, match="TypingSettings has no option colour"):
        TypingSettings.from_options({**TypingSettings().options(), "colour": 1})


def test_settings_cannot_be_changed_in_place() -> None:
    """A run's settings stay what its manifest says."""
    with pytest.raises(FrozenInstanceError):
        TypingSettings().steps = 3
