"""Maps of what in an image speaks for the network's answer: five methods, one signature in `METHODS`.

A map is (H, W) float32 and positive where a pixel speaks for the answer explained. What is explained is s · logit, with
the sign s = +1 (why a defect?) or −1 (why intact?). Units differ between methods, so their values cannot be compared.
The gradients of the network's weights stay untouched, and so does everything else of the network.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from captum.attr import IntegratedGradients, Occlusion
from numpy.typing import ArrayLike
from torch import Tensor, nn

from mvtec_ad.errors import SettingsError
from mvtec_ad.methods.attribution.class_activation import grad_cam, grad_cam_plus_plus
from mvtec_ad.methods.attribution.question import BATCH, ask, stacked
from mvtec_ad.methods.base import enlarge

SMOOTH_SAMPLES, SMOOTH_NOISE = 25, 0.15  # Smilkov et al. find 10 to 20 % noise best, and little gain beyond 50 samples


def integrated_gradients(
    network: nn.Module,
    images: Tensor | ArrayLike,
    signs: ArrayLike | None = None,
    *,
    baseline: Tensor | ArrayLike,
    steps: int = 64,
    batch: int = BATCH,
) -> tuple[np.ndarray, np.ndarray]:
    """(x − b) times the mean gradient on the straight way from b to x, summed over the colours.

    Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", 2017 (arXiv:1703.01365), eq. 1, integrated by
    Gauss–Legendre quadrature.

    Args:
        network: in evaluation mode, (B, 3, H, W) in [0, 1] -> logits (B,).
        images: (N, 3, H, W) in [0, 1].
        signs: (N,) of +1 (why a defect) and −1 (why intact); None is +1.
        baseline: (3, H, W) or (3, 1, 1), for example the mean training image.
        steps: nodes of the quadrature.
        batch: images that go through the network at once.

    Returns:
        Maps (N, H, W) float32 in logits, and the relative errors of completeness, (N,) float64:
        |Σ map − (f(x) − f(b))| / |f(x) − f(b)|; nan where f(x) and f(b) agree to six digits, so that there is nothing
        to take a share of.
    """
    question = ask(network, images, signs, baseline)
    maps, errors = [], []
    for image, sign in zip(question.images.split(1), question.signs, strict=True):
        method = IntegratedGradients(lambda points, sign=sign: question.value(points, sign))
        # One image at a time: its steps fill the batches, and captum would otherwise hold N · steps images at once.
        parts = method.attribute(
            image, question.baseline[None], n_steps=steps, method="gausslegendre", internal_batch_size=batch
        )
        maps.append(parts.detach().sum(1).float())
        with torch.no_grad():
            after, before = question.value(torch.cat([image, question.baseline[None]]), sign).double()
        change = after - before
        equal = torch.isclose(after, before, rtol=1e-6, atol=0)  # what differs is rounding
        errors.append(float("nan") if equal else float((parts.double().sum() - change).abs() / change.abs()))
    return stacked(maps), np.array(errors)


def smooth_grad(
    network: nn.Module,
    images: Tensor | ArrayLike,
    *,
    samples: int = SMOOTH_SAMPLES,
    noise: float = SMOOTH_NOISE,
    seed: int = 0,
    batch: int = BATCH,
) -> np.ndarray:
    """|mean gradient of the logit over noisy copies of the image|, summed over the colours: (N, H, W) float32, ≥ 0.

    Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017 (arXiv:1706.03825), without a multiplication by
    the image. It says how strongly a pixel matters, not for which answer, so there is no sign to give. All images
    get the same noise patterns: a map does not depend on the images beside it.

    Args:
        network: in evaluation mode, (B, 3, H, W) in [0, 1] -> logits (B,).
        images: (N, 3, H, W) in [0, 1].
        samples: noisy copies.
        noise: standard deviation, as a share of the image's own range.
        seed: of the noise.
        batch: images that go through the network at once.
    """
    if samples < 1:
        raise SettingsError(f"samples must be at least 1, not {samples}")
    question = ask(network, images, None)
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
    patterns = torch.randn((samples, *question.images.shape[1:]), generator=generator).to(question.images.device)
    maps = []
    for some in question.images.split(batch):
        deviation = noise * (some.amax((1, 2, 3)) - some.amin((1, 2, 3)))[:, None, None, None]
        total = torch.zeros_like(some)
        for pattern in patterns:
            with torch.enable_grad():
                noisy = (some + deviation * pattern).requires_grad_()
                total += torch.autograd.grad(question.value(noisy).sum(), noisy)[0]
        maps.append((total / samples).abs().sum(1))
    return stacked(maps)


def occlusion(
    network: nn.Module,
    images: Tensor | ArrayLike,
    signs: ArrayLike | None = None,
    *,
    baseline: Tensor | ArrayLike,
    window: int,
    stride: int,
    batch: int = BATCH,
) -> np.ndarray:
    """How far s · logit falls when a window is replaced by the baseline: mean over the windows that hold a pixel.

    Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", 2014 (arXiv:1311.2901), section 4.2.

    Args:
        network: in evaluation mode, (B, 3, H, W) in [0, 1] -> logits (B,).
        images: (N, 3, H, W) in [0, 1].
        signs: (N,) of +1 (why a defect) and −1 (why intact); None is +1.
        baseline: (3, H, W) or (3, 1, 1), what takes the window's place.
        window: its side in pixels; windows at the right and lower border are cut off.
        stride: pixels from one window to the next, at most `window`.
        batch: images that go through the network at once.

    Returns:
        (N, H, W) float32, in logits.
    """
    question = ask(network, images, signs, baseline)
    side = min(question.images.shape[2:])
    if not 1 <= stride <= window <= side:
        raise SettingsError(f"need 1 ≤ stride ≤ window ≤ {side} pixels, not stride {stride} and window {window}")
    maps = []
    for image, sign in zip(question.images.split(1), question.signs, strict=True):
        with torch.no_grad():
            parts = Occlusion(lambda seen, sign=sign: question.value(seen, sign)).attribute(
                image,
                sliding_window_shapes=(3, window, window),
                strides=(3, stride, stride),
                baselines=question.baseline[None],
                perturbations_per_eval=batch,
            )
        maps.append(parts[:, 0].float())  # all colours are covered at once and carry the same value
    return stacked(maps)


Method = Callable[[nn.Module, nn.Module, Tensor, "ArrayLike | None", Tensor], np.ndarray]


def _on_image(maps: np.ndarray, images: Tensor) -> np.ndarray:
    return enlarge(torch.from_numpy(maps), tuple(images.shape[2:]))


def _occlusion(network: nn.Module, images: Tensor, signs: ArrayLike | None, baseline: Tensor) -> np.ndarray:
    """An eighth of the shorter side, moved by half of itself: some 225 windows on a square image."""
    window = max(2, min(images.shape[2:]) // 8)
    return occlusion(network, images, signs, baseline=baseline, window=window, stride=window // 2)


METHODS: dict[str, Method] = {
    "integrated_gradients": lambda network, layer, images, signs, baseline: integrated_gradients(
        network, images, signs, baseline=baseline
    )[0],
    "grad_cam": lambda network, layer, images, signs, baseline: _on_image(
        grad_cam(network, layer, images, signs), images
    ),
    "grad_cam_plus_plus": lambda network, layer, images, signs, baseline: _on_image(
        grad_cam_plus_plus(network, layer, images, signs), images
    ),
    "smooth_grad": lambda network, layer, images, signs, baseline: smooth_grad(network, images),
    "occlusion": lambda network, layer, images, signs, baseline: _occlusion(network, images, signs, baseline),
}
"""Name -> function `(network, layer, images, signs, baseline) -> maps (N, H, W)` with the settings above."""
