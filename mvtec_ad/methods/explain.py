"""Explanations of a classifier: which pixels speak for its answer (captum), and what such maps are worth.

A map is (H, W) float32, positive where a pixel speaks for the answer explained. That is s · logit, with the sign s = +1
(why a defect?) or −1 (why intact?). Units differ between methods, so their values cannot be compared. Everywhere

- `network` is any module in evaluation mode, (B, 3, H, W) in [0, 1] -> logits (B,), positive for a defect; it is left
  as it was; `layer` is the module in it that Grad-CAM reads, mostly the one with the last feature maps;
- `images` are (N, 3, H, W) float32 in [0, 1], `signs` (N,) of +1 and −1, `maps` (N, H, W);
- `baseline`, (3, H, W) or (3, 1, 1), is an image that shows nothing; None is the mean colour of the images, close to
  that of the training images, which a model does not keep;
- `regions` are masks or filled boxes, (N, H, W) bool, true on the defect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import captum.attr
import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from mvtec_ad.backbones import batch_size
from mvtec_ad.config import Options, option
from mvtec_ad.data.loading import read_mask
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.items import region_of
from mvtec_ad.metrics import wilson
from mvtec_ad.synthetic.boxes import read_annotation

METHODS = ("integrated_gradients", "grad_cam", "grad_cam_plus_plus", "smooth_grad", "occlusion")
LOCALISATION = ["method", "images", "hits", "covered", "gain", "gain_low", "gain_high", "energy", "region_auroc"]
NOISE = 0.15  # of SmoothGrad, a share of the image's range: Smilkov et al. find 10 to 20 % best


@dataclass(frozen=True)
class Attribution(Options):
    """Post-hoc attribution: maps of a classifier by five methods, on the budget that the options give.

    Examples:
        >>> network = nn.Sequential(nn.Conv2d(3, 1, 8), nn.Flatten(0)).eval()
        >>> maps, _ = Attribution.preset("quick").maps(network, network[0], torch.rand(1, 3, 8, 8), [1])
        >>> maps["occlusion"].shape
        (1, 8, 8)
    """

    images: int = option(20, "test images of a view that are explained, as many defective as good ones", least=2)
    few: int = option(20, "defective ones of them, for integrated gradients, smooth_grad, deletion, insertion", least=2)
    path_steps: int = option(512, "of integrated gradients, from the baseline to the image", least=2, most=100_000)
    noisy_copies: int = option(25, "of an image, for smooth_grad", least=2, most=10_000)
    windows: int = option(15, "of occlusion along a side, each overlapping the next by half", least=2, most=1000)
    removals: int = option(20, "steps in which deletion and insertion cover the image", least=2, most=10_000)
    randomised: int = option(8, "defective images of the randomisation check", least=2)

    PRESETS: ClassVar = {
        "default": {},
        "quick": {
            **{"images": 40, "few": 6, "path_steps": 64, "noisy_copies": 6, "windows": 5, "removals": 5},
            "randomised": 6,
        },
        "full": {},
    }

    def maps(
        self, network: nn.Module, layer: nn.Module, images: Tensor, signs: ArrayLike, methods: Sequence[str] = METHODS
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Maps by several methods, against the mean colour of the images.

        Returns:
            Method -> maps; and the errors of completeness of integrated gradients, (N,), empty if it is not asked for.
        """
        if unknown := [name for name in methods if name not in METHODS]:
            raise SettingsError(f"method {unknown[0]!r} is unknown: use one of {', '.join(METHODS)}")
        maps, errors = {}, np.zeros(0)
        stride = max(1, images.shape[-1] // (self.windows + 1))  # n windows that overlap by half: n + 1 halves
        for name in methods:
            if name == "integrated_gradients":
                maps[name], errors = integrated_gradients(network, images, signs, steps=self.path_steps)
            elif name == "smooth_grad":
                maps[name] = smooth_grad(network, images, self.noisy_copies)
            elif name == "occlusion":
                maps[name] = occlusion(network, images, signs, window=2 * stride, stride=stride)
            else:
                maps[name] = grad_cam(network, layer, images, signs, plus_plus=name == "grad_cam_plus_plus")
        return maps, errors


# --- five methods -----------------------------------------------------------------------------------------------------


def integrated_gradients(
    network: nn.Module, images: Tensor, signs: ArrayLike, baseline: Tensor | None = None, steps: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Integrated gradients: (x − b) times the mean gradient on the straight way from b to x, summed over the colours.

    Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", 2017 (arXiv:1703.01365), eq. 1, integrated by
    Gauss–Legendre quadrature with `steps` nodes.

    Returns:
        Maps in logits, and the relative errors of completeness, (N,) float64: |Σ map − (f(x) − f(b))| / |f(x) − f(b)|;
        nan where f(x) and f(b) agree to six digits, so that there is nothing to take a share of.
    """
    answer, images, signs, baseline = _question(network, images, signs, baseline)
    method, maps, errors = captum.attr.IntegratedGradients(answer), [], []
    for image, sign in zip(images.split(1), signs.split(1), strict=True):  # one at a time: its steps fill the batches
        options = {"n_steps": steps, "method": "gausslegendre", "internal_batch_size": batch_size()}
        maps.append(method.attribute(image, baseline, additional_forward_args=sign, **options).sum(1))
        with torch.no_grad():
            after, before = answer(torch.cat([image, baseline]), sign).double()
        equal = torch.isclose(after, before, rtol=1e-6, atol=0)  # what differs is rounding
        errors.append(np.nan if equal else float((maps[-1].double().sum() / (after - before) - 1).abs()))
    return _finite(maps), np.array(errors)


def grad_cam(
    network: nn.Module, layer: nn.Module, images: Tensor, signs: ArrayLike | None = None, *, plus_plus: bool = False
) -> np.ndarray:
    """Grad-CAM: ReLU(Σ_k w_k A_k) of the layer's output A, w_k being the mean gradient g of channel k; or Grad-CAM++.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", 2017
    (arXiv:1610.02391), eq. 1 and 2; enlarged to the image, linear between the centres of the cells. Signs: None is +1.

    `plus_plus`: w_k = Σ_ij α_kij ReLU(g_kij), so that places count, not the mean over them: Chattopadhay et al.,
    "Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks", 2018 (arXiv:1710.11063). Their score is
    exp(S). Where S is piecewise linear in A, its n-th derivative is exp(S) gⁿ, and eq. 19 becomes
    α_kij = g² / (2 g² + g³ Σ_ab A_kab) = 1 / (2 + g Σ_ab A_kab), for g ≠ 0; other g add nothing. Two customary
    liberties: exp(S) in front of w_k is left out, for it scales a whole map and overflows, and the same form is taken
    for networks with smooth activations. Meant for A ≥ 0, as after a ReLU: below zero α can have a pole, at g Σ A = −2.
    """
    answer, images, signs, _ = _question(network, images, signs)
    maps = []
    for part, sign in zip(images.split(batch_size()), signs.split(batch_size()), strict=True):
        if plus_plus:
            activations = captum.attr.LayerActivation(answer, layer).attribute(part, sign)
            gradient = captum.attr.LayerGradientXActivation(answer, layer, multiply_by_inputs=False)
            slopes = gradient.attribute(part, additional_forward_args=sign)
            divisor = 2 + slopes * activations.sum((2, 3), keepdim=True)
            weights = (slopes.relu() / divisor.where(divisor != 0, torch.inf)).sum((2, 3), keepdim=True)
            grids = (weights * activations).sum(1, keepdim=True).relu()
        else:
            method = captum.attr.LayerGradCam(answer, layer)
            grids = method.attribute(part, additional_forward_args=sign, relu_attributions=True)
        maps.append(captum.attr.LayerAttribution.interpolate(grids, images.shape[2:], "bilinear")[:, 0])
    return _finite(maps)


def smooth_grad(network: nn.Module, images: Tensor, samples: int = 25, seed: int = 0) -> np.ndarray:
    """SmoothGrad: |mean gradient of the logit over noisy copies of the image|, summed over the colours, ≥ 0.

    Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017 (arXiv:1706.03825), without a multiplication by
    the image. It says how strongly a pixel matters, not for which answer, so there is no sign to give. All images
    get the same noise: a map does not depend on the images beside it.
    """
    answer, images, signs, _ = _question(network, images)
    method, maps = captum.attr.NoiseTunnel(captum.attr.Saliency(answer)), []
    for image, sign in zip(images.split(1), signs.split(1), strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            deviation = NOISE * float(image.max() - image.min())
            options = {"nt_samples": samples, "nt_samples_batch_size": batch_size(), "stdevs": deviation, "abs": False}
            maps.append(method.attribute(image, additional_forward_args=sign, **options).abs().sum(1))
    return _finite(maps)


def occlusion(
    network: nn.Module, images: Tensor, signs: ArrayLike, baseline: Tensor | None = None, *, window: int, stride: int
) -> np.ndarray:
    """Occlusion: how far s · logit falls when a window shows the baseline, the mean over the windows that hold a pixel.

    Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", 2014 (arXiv:1311.2901), section 4.2.
    `window` and `stride`, from one to the next, are in pixels; windows at the right and lower border are cut off.
    """
    answer, images, signs, baseline = _question(network, images, signs, baseline)
    method, maps = captum.attr.Occlusion(answer), []
    options = {"perturbations_per_eval": batch_size(), "strides": (3, stride, stride), "baselines": baseline}
    for image, sign in zip(images.split(1), signs.split(1), strict=True):
        with torch.no_grad():  # all colours are covered at once and carry the same value
            maps.append(method.attribute(image, (3, window, window), additional_forward_args=sign, **options)[:, 0])
    return _finite(maps)


def _question(
    network: nn.Module, images: Tensor, signs: ArrayLike | None = None, baseline: Tensor | None = None
) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor, Tensor]:
    """What captum explains, (images, signs) -> s · logit, and checked images, signs and baseline on one device."""
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
    baseline = images.mean((0, 2, 3))[:, None, None] if baseline is None else torch.as_tensor(baseline).to(images)

    def answer(images: Tensor, signs: Tensor) -> Tensor:
        logits = network(images.clone())  # a ReLU that works in place must not write into the images
        if logits.shape != images.shape[:1]:
            raise DataError(f"the network must give one logit an image, ({len(images)},), not {tuple(logits.shape)}")
        return signs * logits

    return answer, images, torch.as_tensor(signs).to(images), baseline.expand(images.shape[1:])[None]


def _finite(maps: list[Tensor]) -> np.ndarray:
    """All maps as one finite array."""
    maps = torch.cat(maps).detach().float().cpu().numpy()
    if not np.isfinite(maps).all():
        raise DataError("an explanation is not finite: does the network give finite logits for these images?")
    return maps


# --- do the maps point at the defect? ---------------------------------------------------------------------------------


def regions_of(table: pd.DataFrame, transforms: np.ndarray, size: int) -> np.ndarray:
    """Ground truth of cuts: the mask, or else the annotated box, moved onto them; false where nothing is annotated.

    Boxes of damaged packages hold the damage, those of intact ones the item. `transforms`, (N, 3, 3), lead from places
    (x, y, 1) of the pictures of the table to places of their cuts, `size` pixels wide and high.
    """
    regions = np.zeros((len(table), size, size), bool)
    for region, row, transform in zip(regions, table.to_dict("records"), transforms, strict=True):
        if row["mask_path"]:
            mask = read_mask(row["mask_path"], row.get("image_path")).view(np.uint8)
            region[:] = cv2.warpAffine(mask, transform[:2], (size, size), flags=cv2.INTER_NEAREST) > 0
        elif row.get("box_path"):
            region[:] = region_of(read_annotation(row["box_path"]).box, transform, size)
    return regions


def pointing_game(maps: ArrayLike, regions: ArrayLike) -> np.ndarray:
    """Pointing game: does the largest value lie inside? (N,) bool.

    Zhang et al., "Top-down Neural Attention by Excitation Backprop", 2016 (arXiv:1608.00507), section 4.2, without
    their margin of 15 pixels. Of several maxima the first counts, from top left; a constant map points nowhere, a miss.

    Examples:
        >>> pointing_game([[[0, 3], [1, 2]]], [[[False, True], [False, False]]])
        array([ True])
    """
    maps, regions = _pairs(maps, regions, bool)
    return regions[np.arange(len(maps)), maps.argmax(1)] & (np.ptp(maps, axis=1) > 0)


def energy_inside(maps: ArrayLike, regions: ArrayLike) -> np.ndarray:
    """Energy-based pointing game: share of a map's positive part inside, (N,); nan where nothing is positive.

    Wang et al., "Score-CAM", 2020 (arXiv:1910.01279), section 4.3.

    Examples:
        >>> energy_inside([[[0, 3], [1, -2]]], [[[False, True], [False, False]]])
        array([0.75])
    """
    maps, regions = _pairs(maps, regions, bool)
    positive = maps.clip(0)
    total = positive.sum(1)
    return np.divide((positive * regions).sum(1), total, out=np.full(len(maps), np.nan), where=total > 0)


def pointing_against_area(hits: ArrayLike, areas: ArrayLike, resamples: int = 10_000, seed: int = 0) -> dict:
    """Pointing game less chance: mean hit − mean area of the region, `{"mean", "low", "high"}` with a 95 % interval.

    The area, a share of the image, is what a random point would hit. The percentile bootstrap over images of hit −
    area; where all hits agree it sees only the regions vary, so Wilson's bounds of the share of hits take its place.
    With 20 to 80 images and .3 to .99 hits it held the truth in .90 to 1.00 of simulated test sets, the bootstrap alone
    in .66 to .96.
    """
    hits, areas = np.asarray(hits, dtype=np.float64), np.asarray(areas, dtype=np.float64)
    gains, count = hits - areas, len(hits)
    if np.ptp(hits) == 0:
        low, high = (bound - areas.mean() for bound in wilson(hits.mean(), count))
    else:
        weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
        low, high = np.quantile(weights @ gains / count, [0.025, 0.975])
    return {"mean": float(gains.mean()), "low": float(low), "high": float(high)}


def localisation(maps: Mapping[str, ArrayLike], regions: ArrayLike) -> pd.DataFrame:
    """Do maps point at the defect? Pointing game, energy and AUROC of the region, a row per method.

    A method may have explained the first of the images alone; those without a region are left out.

    Returns:
        method, images; hits and covered, shares; gain with gain_low and gain_high, as `pointing_against_area` gives
        them; energy, the mean of `energy_inside`; region_auroc, the median over images of the AUROC with which a map's
        values tell pixels inside from those outside. nan where there is nothing to measure.

    Examples:
        >>> table = localisation({"grad_cam": [[[0, 3], [1, 2]]]}, [[[False, True], [False, False]]])
        >>> table[["hits", "covered", "gain", "region_auroc"]].iloc[0].tolist()
        [1.0, 0.25, 0.75, 1.0]
    """
    rows, regions = [], np.asarray(regions, dtype=bool)
    for method, all_maps in maps.items():
        some = regions[: len(all_maps)]
        annotated = some.any((1, 2))
        some, values = some[annotated], np.asarray(all_maps)[annotated]
        row = {"method": method, "images": len(some)}
        if len(some):
            hits, areas = pointing_game(values, some), some.mean((1, 2))
            gain = pointing_against_area(hits, areas)
            inside = pd.Series(energy_inside(values, some))  # whose mean leaves nan out
            pairs = [(each.ravel(), map_.ravel()) for each, map_ in zip(some, values, strict=True) if not each.all()]
            aurocs = pd.Series([roc_auc_score(*pair) for pair in pairs], dtype=float)
            row |= {"hits": hits.mean(), "covered": areas.mean(), "gain": gain["mean"]}
            row |= {"gain_low": gain["low"], "gain_high": gain["high"]}
            row |= {"energy": inside.mean(), "region_auroc": aurocs.median()}
        rows.append(row)
    return pd.DataFrame(rows, columns=LOCALISATION)


# --- does the answer follow the map? ----------------------------------------------------------------------------------


def deletion_insertion(
    network: nn.Module, images: Tensor, maps: ArrayLike, signs: ArrayLike, steps: int = 20
) -> dict[str, np.ndarray]:
    """Deletion and insertion: probability of the explained answer while the map's best pixels go, or come.

    Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", 2018
    (arXiv:1806.07421), section 4.2; they insert into a blurred image, here both start or end at the baseline. Good maps
    have a small area of deletion and a large one of insertion. Pixels of one value go from top left to bottom right.

    Returns:
        `deletion` and `insertion`: σ(s · logit) after 0, 1, … `steps` equal parts, (N, steps + 1) float64;
        `deletion_area` and `insertion_area`: areas under them in [0, 1], (N,).
    """
    answer, images, signs, baseline = _question(network, images, signs)
    maps = np.asarray(maps, dtype=np.float64)
    count, _, height, width = images.shape
    if maps.shape != (count, height, width):
        raise DataError(f"maps must have shape {(count, height, width)}, as the images, not {maps.shape}")
    limits = torch.arange(steps + 1).mul(height * width).div(steps).round()[:, None, None]
    curves = {"deletion": np.empty((count, steps + 1)), "insertion": np.empty((count, steps + 1))}
    for index, image in enumerate(images):
        order = np.argsort(-maps[index], axis=None, kind="stable")
        rank = torch.from_numpy(np.argsort(order).reshape(height, width))
        chosen = (rank < limits)[:, None].to(image.device)  # (steps + 1, 1, H, W)
        for name, shown in (("deletion", ~chosen), ("insertion", chosen)):
            with torch.no_grad():
                values = [
                    answer(torch.where(part, image, baseline), signs[index]) for part in shown.split(batch_size())
                ]
            curves[name][index] = torch.cat(values).sigmoid().cpu().numpy()
    return curves | {f"{name}_area": trapezoid(curve, dx=1 / steps, axis=1) for name, curve in curves.items()}


def agreement(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Spearman's rank correlation of two stacks of maps, image by image: (N,); nan where one is constant.

    Examples:
        >>> agreement([[[0, 1], [2, 3]]], [[[0, 10], [20, 15]]]).round(1)
        array([0.8])
    """
    pairs = zip(*_pairs(first, second, np.float64), strict=True)
    return np.array([spearmanr(*pair).statistic if np.ptp(pair, axis=1).all() else np.nan for pair in pairs])


def _pairs(maps: ArrayLike, others: ArrayLike, kind: type) -> tuple[np.ndarray, np.ndarray]:
    """Two stacks (N, H, W) of one shape as (N, H · W): finite float64 maps, and regions or other maps."""
    maps, others = np.asarray(maps, dtype=np.float64), np.asarray(others, dtype=kind)
    if maps.ndim != 3 or maps.shape != others.shape or 0 in maps.shape:
        raise DataError(f"need two stacks of one shape (N, H, W), not {maps.shape} and {others.shape}")
    if not (np.isfinite(maps).all() and np.isfinite(others).all()):
        raise DataError("a map holds a value that is not finite")
    return maps.reshape(len(maps), -1), others.reshape(len(maps), -1)
