"""What a comparison needs of the images themselves: the common test part, masks, and the trivial rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad.comparison.scored import Scored
from mvtec_ad.data import loading, splits
from mvtec_ad.errors import DataError
from mvtec_ad.methods.trivial import SIDE, SIGMA, mean_image, trivial_scores


def common_part(table: pd.DataFrame, seed: int = 0) -> list[str]:
    """Image ids of the test part of the supervised split: the images on which every method can be compared.

    Args:
        table: images of one category.
        seed: of the split; the classifiers of the suite know 0.

    Raises:
        DataError: the category cannot be split (`splits.supervised` says why).
    """
    cut = splits.supervised(table, seed=seed)
    return list(cut.loc[cut["part"] == "test", "image_id"])


def masks_for(scored: Scored, table: pd.DataFrame) -> np.ndarray | None:
    """Masks at the resolution of a row's maps, in the order of its images.

    Methods look at different sizes and crops, so each is measured at its own. A row whose settings know no crop has
    looked at the whole picture, squeezed to the size of its maps.

    Args:
        scored: a row.
        table: images of its category, with `mask_path`.

    Returns:
        (N, h, w) bool, or None where the row has no maps or a defective image no mask.

    Raises:
        DataError: the table lacks an image, or a mask cannot be read.
    """
    if not scored.maps:
        return None
    places = pd.Index(table["image_id"]).get_indexer(scored.images["image_id"])
    if (places < 0).any():
        missing = scored.images["image_id"].iloc[int(np.argmax(places < 0))]
        raise DataError(f"{scored.name} has scored {missing}, which is not among the images here: use its own data.zip")
    settings, side = scored.report["settings"], next(iter(scored.maps.values())).shape[-1]
    size = (settings["image_size"], settings["crop"]) if settings.get("crop") else (side, side)
    return loading.load_masks(table.iloc[places].reset_index(drop=True), *size)


def trivial(table: pd.DataFrame, *, data_source: str, profile: str) -> list[Scored]:
    """The rows of `methods.trivial` on the official split; the distance to the mean image has maps.

    Args:
        table: images of one category.
        data_source: of the images.
        profile: of the run.

    Raises:
        DataError: an image cannot be read.
    """
    official = splits.official(table)
    train, test = (official[official["part"] == part].reset_index(drop=True) for part in ("train", "test"))
    fitted, seen = (loading.load_images(list(rows["image_path"]), SIDE) for rows in (train, test))
    scores, seconds = _timed(lambda: trivial_scores(fitted, seen))
    maps = mean_image(fitted, seen, SIGMA).maps
    counts = {"train": len(train), "good": int((test["label"] == 0).sum()), "defective": int(test["label"].sum())}
    category = table["category"].iloc[0]
    return [
        Scored(
            category=category,
            row=name,
            method="trivial",
            protocol="official",
            data_source=data_source,
            profile=profile,
            device="cpu",
            seeds=(0,),
            images=test[["image_id", "split", "label", "defect"]].copy(),
            scores=own[None],
            maps={0: maps} if name == "distance_to_mean" else {},
            report={
                "method": "trivial",
                "row": name,
                "category": category,
                "data_source": data_source,
                "backbone": None,
                "weights": None,
                "seeds": [0],
                "images": counts,
                "settings": {"image_size": SIDE, "crop": SIDE},
                "seconds": {"fit": 0.0, "score": seconds / len(scores)},
            },
        )
        for name, own in scores.items()
    ]


def _timed(task: Callable[[], Any]) -> tuple[Any, float]:
    """What a task returns, and how many seconds it took."""
    begun = time.perf_counter()
    return task(), time.perf_counter() - begun
