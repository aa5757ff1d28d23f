"""Settings of the stage on GANs: what cannot be is refused, in one line."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from mvtec_ad.errors import SettingsError
from mvtec_ad.settings import DIGITS_AS_ANOMALIES, AnoganSettings, DcganSettings, as_dict, from_dict

INFINITE, NO_NUMBER = float("inf"), float("nan")
Refused = list[tuple[dict[str, object], str]]
DCGAN: Refused = [
    ({"digits": "fashion"}, "digits 'fashion' is unknown: use one of auto, mnist, sklearn"),
    ({"norm": "instance"}, "norm 'instance' is unknown: use one of batch, layer, none"),
    ({"norm": ""}, "norm '' is unknown"),
    *[
        ({name: 0}, "latent, widths, epochs and grids must be 1 or more")
        for name in ("latent", "width", "discriminator_width", "epochs", "grids")
    ],
    *[({"batch": size}, "a batch 2 or more images") for size in (1, 0, -2)],
    *[
        ({name: value}, "the two rates must be positive numbers")
        for name in ("rate", "discriminator_rate")
        for value in (0.0, -1e-4, INFINITE, NO_NUMBER)
    ],
    *[
        ({name: value}, f"{name}.* must lie between 0 and 1")
        for name in ("held_out", "smoothing", "averaging", "momentum")
        for value in (-0.1, 1.0, NO_NUMBER, INFINITE)
    ],
    ({"held_out": 0.0}, "held_out"),  # nothing would be left to measure quality on
]
ANOGAN: Refused = [
    ({"image_size": 32}, "crop 64 is larger than image size 32"),
    ({"image_size": 0}, "at least 1 pixel"),
    ({"crop": 0}, "at least 1 pixel"),
    *[({"crop": crop}, f"crop {crop} is too small to be drawn") for crop in (12, 4, 15)],
    ({"seeds": ()}, "name at least one"),
    ({"seeds": (0, -1)}, "seed -1 is negative"),
    *[({"sigma": sigma}, "sigma .* is no width") for sigma in (-0.5, INFINITE, NO_NUMBER)],
    ({"inversion": "guess"}, "inversion 'guess' is unknown: use one of search, encoder"),
    ({"score": "mean"}, "score 'mean' is unknown: use one of loss, peak"),
    *[
        ({name: 0}, "must be 1 or more")
        for name in ("latent", "width", "steps", "critic_steps", "search_steps", "restarts")
    ],
    ({"encoder_steps": -1}, "must be 1 or more"),
    *[({"batch": size}, "a batch 2 or more images") for size in (1, 0)],
    *[
        ({name: value}, "rates must be positive numbers")
        for name in ("rate", "encoder_rate", "search_rate")
        for value in (0.0, -1.0, INFINITE, NO_NUMBER)
    ],
    *[({"averaging": share}, "averaging .* must lie between 0 and 1") for share in (-0.1, 1.0, NO_NUMBER)],
    *[({"kappa": value}, "kappa must not be negative") for value in (-0.1, INFINITE, NO_NUMBER)],
    *[({"feature_share": share}, "feature_share lies between 0 and 1") for share in (-0.1, 1.1, NO_NUMBER)],
    *[({"held_out": share}, "held-out share .* must lie between 0 and 1") for share in (0.0, 1.0, -0.2, NO_NUMBER)],
]
ALL = [(DcganSettings, *one) for one in DCGAN] + [(AnoganSettings, *one) for one in ANOGAN]
Settings = type[DcganSettings] | type[AnoganSettings]


@pytest.mark.parametrize(("kind", "bad", "message"), ALL, ids=[f"{kind.__name__} {bad}" for kind, bad, _ in ALL])
def test_settings_that_cannot_be(kind: Settings, bad: dict[str, object], message: str) -> None:
    """One line each, which says what is allowed; a copy with the change is refused as well, and so is a file's."""
    for call in (
        lambda: kind(**bad),
        lambda: replace(kind(), **bad),
        lambda: from_dict(kind, {**as_dict(kind()), **bad}),
    ):
        with pytest.raises(SettingsError, match=message) as problem:
            call()
        assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        (DcganSettings, {"latent": 1, "width": 1, "discriminator_width": 1, "epochs": 1, "grids": 1, "batch": 2}),
        (DcganSettings, {"smoothing": 0.0, "averaging": 0.0, "momentum": 0.0, "held_out": 1e-3, "rate": 1e-9}),
        (DcganSettings, {"smoothing": 0.999, "averaging": 0.999, "momentum": 0.999, "held_out": 0.999, "rate": 9.0}),
        (DcganSettings, {"norm": "none", "spectral": True, "digits": "sklearn"}),
        (AnoganSettings, {"image_size": 16, "crop": 16, "latent": 1, "width": 1, "steps": 1, "critic_steps": 1}),
        (AnoganSettings, {"encoder_steps": 0, "search_steps": 1, "restarts": 1, "batch": 2, "sigma": 0.0}),
        (AnoganSettings, {"crop": 63, "kappa": 0.0, "feature_share": 0.0, "averaging": 0.0, "held_out": 1e-3}),
        (AnoganSettings, {"kappa": 1e6, "feature_share": 1.0, "averaging": 0.999, "held_out": 0.999}),
        (AnoganSettings, {"inversion": "search", "score": "peak", "seeds": (0, 0, 7)}),
    ],
    ids=str,
)
def test_the_values_beside_them_are_allowed(kind: Settings, good: dict[str, object]) -> None:
    """And survive JSON: the same dataclass with tuples, not lists, comes back."""
    own = kind(**good)
    assert {name: getattr(own, name) for name in good} == good
    again = from_dict(kind, json.loads(json.dumps(as_dict(own), allow_nan=False)))
    assert again == own
    assert hash(again) == hash(own)
    with pytest.raises(FrozenInstanceError):
        own.latent = 3


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "steps"),
    [(64, 64, 3, 3), (127, 64, 3, 3), (128, 64, 3, 6), (1437, 64, 50, 1100), (10, 64, 5, 5), (9, 2, 1, 4)],
)
def test_steps_are_whole_batches(images: int, batch: int, epochs: int, steps: int) -> None:
    """What is left of an epoch is not a batch; an epoch has one step at least."""
    assert DcganSettings(batch=batch, epochs=epochs).steps(images) == steps


@pytest.mark.parametrize(
    ("count", "share", "held"),
    [
        (3, 0.2, 1),
        (4, 0.2, 2),
        (12, 0.2, 6),  # half of them, where 20 cannot be had
        (40, 0.2, 20),
        (90, 0.2, 20),  # 18 is less than 20
        (209, 0.2, 42),
        (209, 0.01, 20),
        (200, 0.5, 100),
        (10, 0.999, 8),  # two are left to learn from
    ],
)
def test_images_held_out(count: int, share: float, held: int) -> None:
    """The share, but 20 where half of the images allows it; never all."""
    assert AnoganSettings(held_out=share).calibration_images(count) == held


def test_digits_as_anomalies() -> None:
    """Pictures as large as MNIST's, and searched once."""
    assert (DIGITS_AS_ANOMALIES.image_size, DIGITS_AS_ANOMALIES.crop) == (28, 28)
    assert (DIGITS_AS_ANOMALIES.restarts, DIGITS_AS_ANOMALIES.inversion) == (1, "encoder")
