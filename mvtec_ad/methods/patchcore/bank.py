"""Patch features, and how far an image's are from a memory bank; equations as in Roth et al. 2022."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional
from tqdm import tqdm

from mvtec_ad.settings import PatchcoreSettings


def patch_features(layers: list[torch.Tensor], settings: PatchcoreSettings) -> torch.Tensor:
    """Locally aware patch features (eq. 1 to 3): p × p averages of each chosen layer, on the grid of the shallowest.

    At the border the average takes in zeros, as in both known implementations.

    Args:
        layers: (B, h, w, C) float32 each, shallow to deep.
        settings: with `layers` and `neighbourhood`, p.

    Returns:
        (B, h, w, ΣC) float32; deeper layers are enlarged linearly.
    """
    side = settings.neighbourhood
    chosen = [layers[depth - 1].permute(0, 3, 1, 2) for depth in sorted(set(settings.layers))]  # B×C×h×w
    pooled = [functional.avg_pool2d(layer, side, stride=1, padding=side // 2) for layer in chosen]
    grid = pooled[0].shape[2:]
    parts = [pooled[0]]
    parts += [functional.interpolate(layer, grid, mode="bilinear", align_corners=False) for layer in pooled[1:]]
    return torch.cat([part.permute(0, 2, 3, 1) for part in parts], -1)


def measure(
    features: torch.Tensor, bank: torch.Tensor, lengths: torch.Tensor, settings: PatchcoreSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image scores (eq. 6 and 7) and patch distances.

    Args:
        features: (B, P, C) float32 patch features.
        bank: (M, C) float32.
        lengths: (M,) float32 squared lengths of the bank's rows; a row of infinite length is left out.
        settings: with `neighbours` and `memory_gb`.

    Returns:
        (B,) and (B, P) float32, ≥ 0.
    """
    distances, rows = nearest(features.flatten(0, 1), bank, lengths, settings.memory_gb)
    distances, rows = distances.unflatten(0, features.shape[:2]), rows.unflatten(0, features.shape[:2])
    largest, place = distances.max(1)  # s* of eq. 6
    images = torch.arange(len(features), device=features.device)
    patches, centres = features[images, place], rows[images, place]  # m^test,* and m*
    return largest * reweighting(patches, centres, bank, lengths, settings.neighbours), distances


def nearest(
    patches: torch.Tensor, bank: torch.Tensor, lengths: torch.Tensor, memory_gb: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest bank row of every patch, by comparing with all of them.

    Products find the row, up to the rounding of float32; its distance is then taken from the difference, which loses no
    digits.

    Args:
        patches: (n, C) float32.
        bank: (M, C) float32.
        lengths: (M,) float32, as in `measure`.
        memory_gb: of products held at once, 10⁹ bytes; one patch at a time at least.

    Returns:
        (n,) float32 Euclidean distances and (n,) int64 rows.
    """
    distances, rows = [], []
    for part in patches.split(max(1, int(memory_gb * 1e9 / (4 * len(bank))))):
        row = torch.addmm(lengths, part, bank.T, alpha=-2).argmin(1)  # ‖m‖² − 2 m·x: the patch's own ‖x‖² is the same
        rows.append(row)
        distances.append((part - bank[row]).square().sum(1).sqrt())
    return torch.cat(distances), torch.cat(rows)


def reweighting(
    patches: torch.Tensor, centres: torch.Tensor, bank: torch.Tensor, lengths: torch.Tensor, neighbours: int
) -> torch.Tensor:
    """The factor of eq. 7: 1 − exp(d(m*)) / Σ exp(d(m)) over the b bank rows nearest to m*, m* being one of them.

    It grows with the distances around m*: beside a normal patch that is itself rare, the same distance counts for more.

    Args:
        patches: (B, C) float32, the most anomalous patch of each image.
        centres: (B,) int64, m*: the bank row nearest to it.
        bank: (M, C) float32.
        lengths: (M,) float32, as in `measure`.
        neighbours: b; at most as many as the bank has rows.

    Returns:
        (B,) float32 in [0, 1); 1 where b, or the bank, is 1 or less.
    """
    neighbours = min(neighbours, int(lengths.isfinite().sum()))
    if neighbours <= 1:
        return torch.ones_like(patches[:, 0])
    squared = torch.addmm(lengths, bank[centres], bank.T, alpha=-2)
    squared.scatter_(1, centres[:, None], -torch.inf)  # m* first, whatever rounding or duplicates say
    around = bank[squared.topk(neighbours, largest=False).indices]  # B×b×C
    distances = (patches[:, None] - around).square().sum(-1).sqrt()
    return 1 - distances.softmax(1)[:, 0]


def leave_one_out(
    features: torch.Tensor,
    bank: torch.Tensor,
    bank_images: np.ndarray,
    settings: PatchcoreSettings,
    *,
    progress: bool = True,
) -> np.ndarray:
    """Score of every fitted image against the bank rows that come from other images.

    An image that fills the bank alone, which only a tiny bank or equal images allow, is measured against all of it.

    Args:
        features: (N, P, C) float32.
        bank: (M, C) float32.
        bank_images: (M,) int, the image that each row comes from.
        settings: with `neighbours` and `memory_gb`.
        progress: show a bar.

    Returns:
        (N,) float32.
    """
    lengths, origins = bank.square().sum(1), torch.from_numpy(bank_images).to(bank.device)
    scores = []
    for index in tqdm(range(len(features)), desc="PatchCore calibrate", unit="image", disable=not progress):
        own = origins == index
        kept = lengths if own.all() else lengths.masked_fill(own, torch.inf)
        scores.append(measure(features[index : index + 1], bank, kept, settings)[0])
    return torch.cat(scores).cpu().numpy()
