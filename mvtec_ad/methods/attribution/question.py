"""What is asked of a network: its answer to each image, for or against a defect, checked once for all methods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from mvtec_ad.errors import DataError, SettingsError

BATCH = 32  # images that go through the network at once


@dataclass(frozen=True)
class Question:
    """Images, and which answer to each is explained.

    Attributes:
        network: (B, 3, H, W) in [0, 1] -> logits (B,), positive for a defect.
        images: (N, 3, H, W) float32, on the network's device, as are the others.
        signs: (N,) float32: +1 asks why this is a defect, −1 why it is intact.
        baseline: (3, H, W) float32, the image that shows nothing; None where no method needs one.
    """

    network: nn.Module
    images: Tensor
    signs: Tensor
    baseline: Tensor | None = None

    def value(self, images: Tensor, sign: Tensor | float = 1.0) -> Tensor:
        """Sign times logit, (B,).

        The network gets a copy: a ReLU that works in place would otherwise write into the caller's images, or be
        refused by autograd where a gradient with respect to them is wanted.
        """
        logits = self.network(images.clone())
        if logits.shape != images.shape[:1]:
            raise DataError(f"the network must give one logit an image, ({len(images)},), not {tuple(logits.shape)}")
        return sign * logits


def ask(
    network: nn.Module, images: Tensor | ArrayLike, signs: ArrayLike | None, baseline: Tensor | ArrayLike | None = None
) -> Question:
    """A checked question.

    Args:
        network: in evaluation mode.
        images: (N, 3, H, W) in [0, 1].
        signs: (N,) of +1 and −1; None is +1 for all.
        baseline: (3, H, W), or (3, 1, 1) for one colour.

    Raises:
        DataError: images, signs or baseline have another shape, or are not finite.
        SettingsError: the network is in training mode, where an image's answer depends on its batch.
    """
    if network.training:
        raise SettingsError("the network is in training mode: call network.eval() before it is explained")
    device = next((weights.device for weights in network.parameters()), torch.device("cpu"))
    images = torch.as_tensor(images, dtype=torch.float32, device=device).detach()
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise DataError(f"images must have shape (N, 3, H, W), not {tuple(images.shape)}")
    if not ((images >= 0) & (images <= 1)).all():
        raise DataError("images hold a value outside [0, 1]: divide uint8 pixels by 255")
    signs = np.ones(len(images)) if signs is None else np.asarray(signs)
    if signs.shape != (len(images),) or not np.isin(signs, (-1, 1)).all():
        raise DataError(f"signs must be +1 or −1 for each of {len(images)} images, not an array of shape {signs.shape}")
    if baseline is not None:
        baseline = torch.as_tensor(baseline, dtype=torch.float32, device=device).detach()
        if tuple(baseline.shape) not in ((3, 1, 1), tuple(images.shape[1:])):
            expected = tuple(images.shape[1:])
            raise DataError(f"the baseline must have shape {expected} or (3, 1, 1), not {tuple(baseline.shape)}")
        baseline = baseline.expand(images.shape[1:])
    return Question(network, images, torch.as_tensor(signs, dtype=torch.float32, device=device), baseline)


def stacked(maps: list[Tensor]) -> np.ndarray:
    """All batches as one finite array."""
    stacked = torch.cat(maps).cpu().numpy()
    if not np.isfinite(stacked).all():
        raise DataError("an explanation is not finite: does the network give finite logits for these images?")
    return stacked
