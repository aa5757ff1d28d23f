"""Views of a training image keep its label true: nothing leaves the image, changes stay within their limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mvtec_ad import augment

STILL = {"rotation": 0.0, "translation": 0.0, "color_jitter": 0.0, "hflip": False}
USUAL = {"rotation": 5.0, "translation": 0.03, "color_jitter": 0.1, "hflip": True}
WILD = {"rotation": 90.0, "translation": 0.5, "color_jitter": 0.9, "hflip": True}
SIZE = 64


def jittered(images: torch.Tensor, limits: dict[str, float | bool], seed: int = 0) -> torch.Tensor:
    """With a stream of its own."""
    return augment.jitter(images, np.random.default_rng(seed), **limits)


def test_jitter_without_limits_or_of_one_colour_changes_nothing() -> None:
    """Pixels stay where they are; no black corners, which would tell what was rotated."""
    images = torch.rand(6, 3, SIZE, SIZE)
    torch.testing.assert_close(jittered(images, STILL), images, rtol=0, atol=1e-5)
    flat = torch.full((50, 3, 16, 16), 0.7)
    torch.testing.assert_close(jittered(flat, WILD | {"color_jitter": 0.0}), flat)


def test_jitter_mirrors_about_half_of_the_images() -> None:
    """Each is itself or its mirror image; top stays on top."""
    images = torch.rand(64, 3, 32, 32)
    views = jittered(images, STILL | {"hflip": True})
    itself, mirrored = ((views - other).abs().amax((1, 2, 3)) < 1e-4 for other in (images, images.flip(3)))
    assert (itself ^ mirrored).all()
    assert 16 < int(mirrored.sum()) < 48


@pytest.mark.parametrize("limits", [USUAL, WILD], ids=["usual", "wild"])
def test_jitter_gives_images(limits: dict[str, float | bool]) -> None:
    """Within [0, 1], the same bytes for the same stream, and numbers of their own."""
    images = torch.rand(1, 3, SIZE, SIZE).repeat(8, 1, 1, 1)
    views = jittered(images, limits)
    assert (views.shape, views.dtype) == (images.shape, torch.float32)
    assert 0 <= float(views.min()) < float(views.max()) <= 1
    assert torch.equal(jittered(images, limits), views)
    assert not torch.equal(jittered(images, limits, seed=1), views)
    assert len({view.numpy().tobytes() for view in views}) == 8


def test_jitter_changes_brightness_within_its_share() -> None:
    """A grey of .5 becomes .5 · (1 ± .1) ± .05; and the whole image alike."""
    views = jittered(torch.full((400, 3, 8, 8), 0.5), STILL | {"color_jitter": 0.1})
    levels = views[:, 0, 0, 0]
    assert float((views - levels[:, None, None, None]).abs().max()) < 1e-6
    assert 0.4 - 1e-6 <= float(levels.min()) < 0.42
    assert 0.58 < float(levels.max()) <= 0.6 + 1e-6


def test_jitter_keeps_a_defect_in_the_image() -> None:
    """A square in the middle keeps its area but for the scale, and moves and turns no further than it may."""
    images = torch.zeros(400, 3, SIZE, SIZE)
    images[:, :, 24:40, 16:48] = 1  # 16 × 32
    views = jittered(images, USUAL | {"color_jitter": 0.0})[:, 0].double()
    area = views.sum((1, 2))
    assert 512 / 1.03**2 - 8 < float(area.min()) < float(area.max()) - 30 < 512 / 0.97**2 - 22
    place = torch.arange(SIZE).double() - 31.5
    x, y = ((views * axis).sum((1, 2)) / area for axis in (place[None, None, :], place[None, :, None]))
    for away in (x.abs(), y.abs()):
        assert 0.025 * SIZE < float(away.max()) < 0.03 * SIZE / 0.97 * (1 + np.sin(np.radians(5))) + 0.1
    across, down = place[None, None, :] - x[:, None, None], place[None, :, None] - y[:, None, None]
    moments = [(views * product).sum((1, 2)) for product in (across * down, across**2, down**2)]
    angles = torch.rad2deg(torch.atan2(2 * moments[0], moments[1] - moments[2]) / 2)  # of the longer axis
    assert -5.1 < float(angles.min()) < -4.5 < 4.5 < float(angles.max()) < 5.1
