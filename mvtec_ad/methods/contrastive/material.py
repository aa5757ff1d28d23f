"""The defects of one category, with where to look and what the frozen layers see there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mvtec_ad.data import loading
from mvtec_ad.data.decoding import read_mask
from mvtec_ad.errors import DataError
from mvtec_ad.methods.contrastive.fitting import Views, check_types, views_of
from mvtec_ad.methods.contrastive.model import UNKNOWN
from mvtec_ad.methods.contrastive.regions import Regions, around_masks, around_peaks, whole
from mvtec_ad.methods.padim import Padim
from mvtec_ad.settings import TypingSettings


@dataclass(frozen=True)
class Material:
    """The defective images of a category.

    Attributes:
        table: their rows, N of them.
        images: (N, S, S, 3) uint8.
        regions: where to look.
        views: what the frozen layers say there.
        typed: (M,) int, the images that show one type: those that are learned from and judged.
    """

    table: pd.DataFrame
    images: np.ndarray
    regions: Regions
    views: Views
    typed: np.ndarray

    @property
    def types(self) -> np.ndarray:
        """(N,) names of folders."""
        return self.table["defect"].to_numpy(dtype=object)

    @property
    def mixed(self) -> np.ndarray:
        """(N − M,) int, images that show several types at once: never learned from, judged apart."""
        return np.setdiff1d(np.arange(len(self.table)), self.typed)


def gather(
    table: pd.DataFrame,
    settings: TypingSettings,
    maps: np.ndarray | None = None,
    *,
    seed: int | None = None,
    progress: bool = True,
) -> Material:
    """Load the defects of a category and show them to the frozen layers.

    Args:
        table: table of images of one category.
        settings: what is looked at, and how.
        maps: (N, H, W) anomaly maps of the defective images, in the order of the table; needed where `look` is
            `predicted`, see `anomaly_maps`.
        seed: of the copies; the first of the settings when None.
        progress: show bars.

    Raises:
        DataError: there are fewer than two types, a type has a single image, or masks or maps are missing.
        WeightsError: the weights cannot be had.
    """
    rows = table[table["label"] == 1].reset_index(drop=True)
    typed = np.flatnonzero(~rows["defect"].isin(settings.mixtures))
    check_types(rows["defect"].to_numpy()[typed])
    if UNKNOWN in set(rows["defect"]):
        raise DataError(f"{rows['category'].iloc[0]}/{UNKNOWN} is what a strange defect is called: rename that folder")
    counts = rows["defect"].iloc[typed].value_counts()
    if counts.min() < 2:
        raise DataError(
            f"{rows['category'].iloc[0]}/{counts.idxmin()} has a single image: nothing can be learned from it and "
            "judged on another; add images, or leave the folder out"
        )
    images = loading.load_images(list(rows["image_path"]), loaded_size(settings))
    regions = _regions(rows, settings, maps)
    views = views_of(settings, images, regions, seed=settings.seeds[0] if seed is None else seed, progress=progress)
    return Material(rows, images, regions, views, typed)


def loaded_size(settings: TypingSettings) -> int:
    """Side of the loaded pictures: a region of them fills what the network sees."""
    return settings.image_size if settings.look == "whole" else round(settings.image_size / settings.side)


def anomaly_maps(
    table: pd.DataFrame, settings: TypingSettings, own: Padim | None = None, *, progress: bool = True
) -> np.ndarray:
    """PaDiM's maps of the defective images, fitted on the good training images.

    Args:
        table: table of images of one category.
        settings: whose `backbone` and `weights` are used.
        own: its options; by default those of the published protocol, without its crop.
        progress: show bars.

    Returns:
        (N, H, W) float32, in the order of the defective images in the table.

    Raises:
        DataError: there are too few good training images.
    """
    own = replace(own or Padim(image_size=224, crop=224), backbone=settings.backbone, weights=settings.weights)
    good = table[(table["label"] == 0) & (table["split"] == "train")]
    if len(good) < 2:
        raise DataError(
            f"{table['category'].iloc[0]} has {len(good)} good training images, too few for an anomaly map: "
            "use the look whole, or mask"
        )
    own.fit(list(good["image_path"]), settings.seeds[0], progress=progress)
    return own.score(list(table.loc[table["label"] == 1, "image_path"])).maps


def _regions(rows: pd.DataFrame, settings: TypingSettings, maps: np.ndarray | None) -> Regions:
    if settings.look == "whole":
        return whole(len(rows))
    if settings.look == "predicted":
        if maps is None or len(maps) != len(rows):
            found = "none" if maps is None else len(maps)
            raise DataError(f"{len(rows)} defective images need as many anomaly maps, and there are {found}")
        return around_peaks(maps, settings.side)
    lacking = rows[rows["mask_path"].isna() | (rows["mask_path"] == "")]
    if len(lacking):
        raise DataError(f"{lacking['image_id'].iloc[0]} has no mask: use the look predicted, or whole")
    return around_masks((read_mask(path) for path in rows["mask_path"]), settings.side)
