"""Does the answer follow the map? Pixels are deleted, or inserted, in the order the map gives them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid
from torch import Tensor, nn

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.attribution.question import BATCH, ask


def deletion_insertion(
    network: nn.Module,
    images: Tensor | ArrayLike,
    maps: ArrayLike,
    signs: ArrayLike | None = None,
    *,
    baseline: Tensor | ArrayLike,
    steps: int = 20,
    batch: int = BATCH,
) -> dict[str, np.ndarray]:
    """Probability of the explained answer while the map's best pixels go (deletion) or come (insertion).

    Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", 2018
    (arXiv:1806.07421), section 4.2; they insert into a blurred image, here both start or end at the baseline. Good maps
    have a small area of deletion and a large one of insertion. Pixels of one value go from top left to bottom right.

    Args:
        network: in evaluation mode, (B, 3, H, W) in [0, 1] -> logits (B,).
        images: (N, 3, H, W) in [0, 1].
        maps: (N, H, W), higher first.
        signs: (N,) of +1 (why a defect) and −1 (why intact); None is +1.
        baseline: (3, H, W) or (3, 1, 1), what deleted pixels show.
        steps: equal parts of the image that go one after the other.
        batch: images that go through the network at once.

    Returns:
        `deletion` and `insertion`: σ(s · logit) after 0, 1, … `steps` parts, (N, steps + 1) float64;
        `deletion_area` and `insertion_area`: areas under them in [0, 1], (N,).
    """
    if steps < 1:
        raise SettingsError(f"steps must be at least 1, not {steps}")
    question = ask(network, images, signs, baseline)
    maps = np.asarray(maps, dtype=np.float64)
    count, _, height, width = question.images.shape
    if maps.shape != (count, height, width):
        raise DataError(f"maps must have shape {(count, height, width)}, as the images, not {maps.shape}")
    limits = torch.arange(steps + 1).mul(height * width).div(steps).round()[:, None, None]
    curves = {"deletion": np.empty((count, steps + 1)), "insertion": np.empty((count, steps + 1))}
    for index, image in enumerate(question.images):
        order = np.argsort(-maps[index], axis=None, kind="stable")
        rank = torch.from_numpy(np.argsort(order).reshape(height, width))
        chosen = (rank < limits)[:, None].to(image.device)  # (steps + 1, 1, H, W)
        for name, kept in (("deletion", ~chosen), ("insertion", chosen)):
            with torch.no_grad():
                values = [
                    question.value(torch.where(part, image, question.baseline), question.signs[index])
                    for part in kept.split(batch)
                ]
            curves[name][index] = torch.cat(values).sigmoid().cpu().numpy()
    return curves | {f"{name}_area": trapezoid(curve, dx=1 / steps, axis=1) for name, curve in curves.items()}
