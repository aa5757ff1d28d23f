"""How an image differs from its reconstruction, place by place; the mean of each difference is a loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor

Features = Callable[[Tensor], list[Tensor]]
WINDOW, WINDOW_SIGMA = 11, 1.5  # pixels: Wang et al. 2004, section III-C
SSIM_WEIGHT = 0.01  # beside a squared error, which is some hundred times smaller
C1, C2 = 0.01**2, 0.03**2  # for values from 0 to 1


def absolute(images: Tensor, redrawn: Tensor) -> Tensor:
    """|x − x̂|, averaged over the colours: (B, 3, H, W) twice -> (B, H, W)."""
    return (images - redrawn).abs().mean(1)


def squared(images: Tensor, redrawn: Tensor) -> Tensor:
    """(x − x̂)², averaged over the colours: (B, 3, H, W) twice -> (B, H, W)."""
    return (images - redrawn).square().mean(1)


def structural(images: Tensor, redrawn: Tensor) -> Tensor:
    """1 − SSIM at every pixel, averaged over the colours: (B, 3, H, W) in [0, 1] twice -> (B, H, W) in [0, 2].

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004,
    eq. 13, with their Gaussian window; the border is mirrored. Where both are constant the constants C₁ and C₂ decide.
    """
    channels = images.shape[1]
    if redrawn.dtype in (torch.float16, torch.bfloat16):
        redrawn = redrawn.float()
    with torch.autocast(images.device.type, enabled=False):  # E[x²] − E[x]² is noise in half precision
        # apart, so that in training no gradient is computed for means of the images alone
        x, xx = _blur(torch.cat([images, images * images], 1)).split(channels, 1)
        y, yy, xy = _blur(torch.cat([redrawn, redrawn * redrawn, images * redrawn], 1)).split(channels, 1)
    luminance = (2 * x * y + C1) / (x * x + y * y + C1)
    structure = (2 * (xy - x * y) + C2) / ((xx - x * x) + (yy - y * y) + C2)
    return 1 - (luminance * structure).mean(1)


def perceived(images: Tensor, redrawn: Tensor, features: Features) -> Tensor:
    """Difference of the directions of a network's features, averaged over its layers: -> (B, H, W) in [0, 2].

    1 − cosine at every cell of each layer, enlarged to the image: half the squared distance of the normalised features,
    as Wang et al. 2021 ("Student-teacher feature pyramid matching", arXiv:2103.04257) measure it.

    Args:
        images: (B, 3, H, W) in [0, 1].
        redrawn: the same shape.
        features: images -> layers (B, C, h, w), differentiable.
    """
    total = 0
    pairs = list(zip(features(images), features(redrawn), strict=True))
    for own, other in pairs:
        distance = 1 - functional.cosine_similarity(own, other, dim=1)
        total = total + functional.interpolate(distance[:, None], images.shape[2:], mode="bilinear")[:, 0]
    return total / len(pairs)


def loss(name: str, images: Tensor, redrawn: Tensor, features: Features | None = None) -> Tensor:
    """Loss of each image, (B,), a mean over its pixels.

    Args:
        name: `mse`, `ssim`, `mse+ssim` (the second weighted by `SSIM_WEIGHT`) or `features`.
        images: (B, 3, H, W) in [0, 1].
        redrawn: the same shape.
        features: as in `perceived`; for `features` only.
    """
    if name == "features":
        difference = perceived(images, redrawn, features)
    elif name == "mse+ssim":
        difference = squared(images, redrawn) + SSIM_WEIGHT * structural(images, redrawn)
    else:
        difference = {"mse": squared, "ssim": structural}[name](images, redrawn)
    return difference.mean((1, 2))


def difference_map(name: str, images: Tensor, redrawn: Tensor, features: Features | None = None) -> Tensor:
    """Anomaly map, (B, H, W), not yet smoothed: `absolute`, `ssim` or `features` (which needs `features`)."""
    if name == "features":
        return perceived(images, redrawn, features)
    return {"absolute": absolute, "ssim": structural}[name](images, redrawn)


def _blur(images: Tensor) -> Tensor:
    """Gaussian mean around every pixel, channel by channel."""
    offsets = torch.arange(WINDOW, device=images.device, dtype=images.dtype) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
    weights = (weights / weights.sum()).expand(images.shape[1], 1, WINDOW)
    half, channels = WINDOW // 2, images.shape[1]
    padded = functional.pad(images, (half, half, half, half), mode="reflect")
    rows = functional.conv2d(padded, weights[:, :, None, :], groups=channels)
    return functional.conv2d(rows, weights[:, :, :, None], groups=channels)
