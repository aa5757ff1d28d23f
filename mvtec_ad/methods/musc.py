"""MuSc: anomaly scores of an unlabelled batch of images, each judged by the others; no good image is known.

Li, Huang, Xue, Zhou, "MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual Scoring of the
Unlabeled Images", ICLR 2024 (arXiv:2401.16753). A patch of a good image has near neighbours in many other images, a
patch of a defect in few. The paper takes CLIP's ViT-L/14 at 518 pixels, and scores images again by those that look
alike; here any network of the suite serves, and nothing is scored again.

It is no `Detector`: a score depends on the batch that an image came in, so there is nothing to fit, to keep, or to
promise a rate of false alarms for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.base import Images, Scores, check_images, grid_maps
from mvtec_ad.methods.subspace_ad import SubspaceAd, top_mean


def musc(
    images: Images,
    looking: SubspaceAd | None = None,
    degrees: Sequence[int] = (1,),
    share: float = 0.3,
    *,
    progress: bool = False,
) -> Scores:
    """MuSc: scores of a batch of images, some of them good, from the batch itself.

    The paper averages scores of patches over aggregation degrees (1, 3, 5) of ViT features. Where cells are as large as
    those of EfficientNet-Lite0, 16 pixels, averages over 3 × 3 of them hide small defects, so one degree is the default
    (benchmarks/few_shot.py).

    Args:
        images: 3 or more, as `Detector.fit` takes them.
        looking: an unfitted `SubspaceAd`, whose size, network, layers, unit length, top share and σ are used.
        degrees: r: cells are averaged over r × r before they are compared, odd.
        share: of the other images, those with the nearest patches, that judge a patch.

    Raises:
        DataError: fewer than 3 images, or one cannot be read.
        SettingsError: a degree or the share cannot be.

    Examples:
        >>> images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
        >>> musc(images, SubspaceAd(weights="random", image_size=32, crop=32)).image.shape
        (4,)
    """
    looking, images = looking or SubspaceAd(), check_images(images)
    if len(images) < 3:
        raise DataError(f"{len(images)} images cannot judge each other: give at least 3, better 60")
    if not degrees or not 0 < share <= 1:
        raise SettingsError(f"degrees {tuple(degrees)} and share {share} must be one degree or more, and in (0, 1]")
    eyes = [replace(looking, neighbourhood=degree) for degree in degrees]
    parts = [
        [eye.features(layers) for eye in eyes]
        for layers, _ in looking.batches(images, progress=progress and "musc look")
    ]
    grid, scores = parts[0][0].shape[1:3], []
    for features in map(torch.cat, zip(*parts, strict=True)):  # N×h×w×C, a degree each
        scores.append(mutual_scores(nearest_in_each(features.flatten(1, 2), progress), share))
    patches = torch.stack(scores).mean(0)  # N×P
    maps = grid_maps(patches.unflatten(1, grid), looking.crop, looking.sigma)
    return Scores(top_mean(patches, looking.top_share).cpu().numpy(), maps)


def nearest_in_each(features: Tensor, progress: bool = False) -> Tensor:
    """Distance of every patch to its nearest patch in every image, (N, P, N), of features (N, P, C); ∞ to its own.

    A pair of images is compared once, for both. N = 100 images of P = 256 patches take 26 MB.

    Examples:
        >>> nearest_in_each(torch.tensor([[[0.0], [3.0]], [[1.0], [1.0]]]))[0]
        tensor([[inf, 1.],
                [inf, 2.]])
    """
    count, lengths = len(features), features.square().sum(-1)
    nearest = features.new_full((count, features.shape[1], count), torch.inf)
    for first in tqdm(range(count), desc="musc", unit="image", disable=not progress):
        for second in range(first + 1, count):
            squared = lengths[first][:, None] + lengths[second] - 2 * features[first] @ features[second].T  # P×P
            nearest[first, :, second], nearest[second, :, first] = squared.amin(1), squared.amin(0)
    return nearest.clamp_min(0).sqrt()


def mutual_scores(nearest: Tensor, share: float) -> Tensor:
    """Scores of patches (N, P) from distances (N, P, N): means of the smallest share of the N − 1 finite ones.

    Only the images that have the most similar patches judge: the paper's interval average of 0 to 30 %. One image at
    least does.

    Examples:
        >>> near = torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 4.0], [5.0, 4.0, 0.0]]).fill_diagonal_(torch.inf)
        >>> mutual_scores(near[:, None], 0.5).ravel()
        tensor([1., 1., 4.])
    """
    judges = max(1, int(share * (len(nearest) - 1)))
    return nearest.topk(judges, largest=False).values.mean(-1)
