"""One study of a fitted classifier: its maps by five methods, and plain numbers that say what they are worth.

Notebook 05 and the benchmark share it. Images are what `DefectClassifier.cut` gives; all maps and regions lie in the
coordinates of these cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from torch import Tensor, nn

from mvtec_ad.data.boxes import read_annotation
from mvtec_ad.data.decoding import read_mask
from mvtec_ad.data.items import MARGIN, region_of
from mvtec_ad.errors import SettingsError
from mvtec_ad.methods.attribution.methods import METHODS, integrated_gradients, occlusion, smooth_grad
from mvtec_ad.methods.attribution.perturbation import deletion_insertion
from mvtec_ad.methods.attribution.quality import (
    covered,
    energy_inside,
    pointing_against_area,
    pointing_game,
    region_auroc,
)
from mvtec_ad.methods.base import as_tensor
from mvtec_ad.methods.classifier.model import DefectClassifier
from mvtec_ad.settings import AttributionSettings


def regions_of(model: DefectClassifier, table: pd.DataFrame, transforms: np.ndarray) -> np.ndarray:
    """What a map should point at: the mask, or else the annotated box, moved onto the cuts.

    Boxes of damaged packages hold the damage, those of intact ones the item.

    Args:
        model: whose cuts they are.
        table: table of images, N rows.
        transforms: (N, 3, 3), as `model.cut(table)` gives them.

    Returns:
        (N, S, S) bool, false all over where nothing is annotated.
    """
    size = model.settings.image_size
    regions = np.zeros((len(table), size, size), bool)
    for index, (row, transform) in enumerate(zip(table.to_dict("records"), transforms, strict=True)):
        if row["mask_path"]:
            mask = read_mask(row["mask_path"]).view(np.uint8)
            regions[index] = cv2.warpAffine(mask, transform[:2], (size, size), flags=cv2.INTER_NEAREST) > 0
        elif row.get("box_path"):
            regions[index] = region_of(read_annotation(row["box_path"]).box, transform, size)
    return regions


def items_of(model: DefectClassifier, table: pd.DataFrame, transforms: np.ndarray) -> np.ndarray:
    """Where the item lies in each cut, (N, S, S) bool: the square inside the margin; what is outside is belt.

    Boxes of damaged items say nothing about the item, so this comes from the finder. In a registered cut the square is
    the item itself. In other cuts it is the item's upright bounding box: belt in its corners counts as item. Cuts that
    fell back to the box, and are known by a transform that does not turn, get the margin of a box. Of whole pictures
    all counts as item.

    Args:
        model: whose cuts they are.
        table: table of images, N rows.
        transforms: (N, 3, 3), as `model.cut(table)` gives them.
    """
    size, views = model.settings.image_size, table["view"].to_numpy()
    places = np.abs(np.arange(size) - (size - 1) / 2)
    found = np.ones((len(table), size, size), bool)
    if not model.finders:
        return found
    for index, transform in enumerate(transforms):
        turned = np.any(transform[[0, 1], [1, 0]] != 0)
        registered = model.settings.look == "registered" and model.finders[views[index]].registers and turned
        near = places <= size / MARGIN["registered" if registered else "item"] / 2
        found[index] = near[:, None] & near
    return found


def background_share(maps: ArrayLike, items: ArrayLike) -> np.ndarray:
    """Share of a map's positive evidence that lies outside the item, (N,); nan where nothing is positive.

    Args:
        maps: (N, S, S), finite.
        items: (N, S, S) bool, as `items_of` gives them. 1 − `covered(items)` is what a constant map would give.
    """
    return 1 - energy_inside(maps, items)


def mean_colour(images: np.ndarray) -> Tensor:
    """The mean of each colour over these images, (3, 1, 1) in [0, 1]: the baseline of the study.

    Models do not keep their training images; the mean colour of the images explained is close to theirs.
    """
    return as_tensor(images).mean((0, 2, 3))[:, None, None]


def explain_all(
    model: DefectClassifier,
    images: np.ndarray,
    signs: ArrayLike,
    settings: AttributionSettings,
    *,
    methods: Sequence[str] = tuple(METHODS),
    network: nn.Module | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Maps by several methods, against the mean colour of the images.

    Args:
        model: fitted.
        images: (N, S, S, 3) uint8 cuts.
        signs: (N,) of +1 (why a defect) and −1 (why intact).
        settings: `path_steps`, `noisy_copies` and `windows`.
        methods: names in `METHODS`.
        network: explained instead of the model's own, for example one whose weights were drawn anew; it needs a `body`.

    Returns:
        Method -> (N, S, S) float32; and the relative errors of completeness of integrated gradients, (N,), empty where
        it is not among the methods.

    Raises:
        SettingsError: a method is unknown.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise SettingsError(f"method {unknown[0]!r} is unknown: use one of {', '.join(METHODS)}")
    network = model.network if network is None else network
    baseline, pixels = mean_colour(images), as_tensor(images)
    # windows overlap by half: n of them need n + 1 halves
    stride = max(1, model.settings.image_size // (settings.windows + 1))
    chosen = {
        "smooth_grad": partial(smooth_grad, network, pixels, samples=settings.noisy_copies),
        "occlusion": partial(occlusion, network, pixels, signs, baseline=baseline, window=2 * stride, stride=stride),
    }
    maps, errors = {}, np.zeros(0)
    for name in methods:
        if name == "integrated_gradients":
            maps[name], errors = integrated_gradients(
                network, pixels, signs, baseline=baseline, steps=settings.path_steps
            )
        elif name in chosen:
            maps[name] = chosen[name]()
        else:
            maps[name] = METHODS[name](network, network.body, pixels, signs, baseline)
    return maps, errors


def removal_curves(
    model: DefectClassifier,
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    signs: ArrayLike,
    settings: AttributionSettings,
) -> dict[str, dict[str, np.ndarray]]:
    """Method -> what `deletion_insertion` returns, against the mean colour of the images."""
    pixels, baseline = as_tensor(images), mean_colour(images)
    return {
        name: deletion_insertion(model.network, pixels, own, signs, baseline=baseline, steps=settings.removals)
        for name, own in maps.items()
    }


def assess(
    model: DefectClassifier,
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    regions: np.ndarray,
    signs: ArrayLike,
    settings: AttributionSettings,
    curves: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> dict[str, dict[str, float]]:
    """Plain numbers for a table, a row per method.

    Args:
        model: fitted.
        images: (N, S, S, 3) uint8 cuts.
        maps: method -> (N, S, S).
        regions: (N, S, S) bool; images in which nothing is annotated count only in `deletion` and `insertion`.
        signs: (N,) of +1 and −1, as explained.
        settings: `removals`.
        curves: what `removal_curves` returned for these images, where it is known already.

    Returns:
        Method -> `images` (annotated ones), `hits` and `covered` (means), `gain`, `gain_low` and `gain_high` (hits
        minus covered, see `pointing_against_area`), `energy` (mean share of positive evidence inside), `region_auroc`
        (median), `deletion` and `insertion` (mean areas). All but the areas are nan where no image is annotated.
    """
    curves = removal_curves(model, images, maps, signs, settings) if curves is None else curves
    known = regions.any((1, 2))
    shares = covered(regions[known])
    found = {}
    for name, own in maps.items():
        row = dict.fromkeys(("hits", "covered", "gain", "gain_low", "gain_high", "energy", "region_auroc"), np.nan)
        if known.any():
            hits = pointing_game(own[known], regions[known])
            gain = pointing_against_area(hits, shares)
            row = {"hits": hits.mean(), "covered": shares.mean(), "gain": gain["mean"]}
            row |= {"gain_low": gain["low"], "gain_high": gain["high"]}
            row["energy"] = _over_finite(np.mean, energy_inside(own[known], regions[known]))
            row["region_auroc"] = _over_finite(np.median, region_auroc(own[known], regions[known]))
        row |= {kind: curves[name][f"{kind}_area"].mean() for kind in ("deletion", "insertion")}
        found[name] = {"images": int(known.sum())} | {key: float(value) for key, value in row.items()}
    return found


def _over_finite(summary: Callable[[np.ndarray], float], values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(summary(values)) if len(values) else float("nan")
