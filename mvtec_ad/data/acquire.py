"""Where the images of a category come from: real MVTec AD where it lies on disk, drawn products otherwise."""

from __future__ import annotations

import os
from pathlib import Path

from mvtec_ad.data import rendered
from mvtec_ad.errors import DataError
from mvtec_ad.settings import DataSettings, data_folder

SOURCES = ("auto", "mvtec_ad", "rendered")
MANUAL = (
    "download it from the MVTec AD page of mvtec.com, unpack it, and set MVTEC_AD_ROOT to the folder that holds the "
    "category folders (or unpack into data/mvtec_anomaly_detection)"
)


def locate(
    category: str, *, root: str | Path | None = None, source: str = "auto", settings: DataSettings | None = None
) -> Path:
    """The folder that holds `category`, drawing it first where needed.

    Args:
        category: a category folder's name.
        root: a folder on disk; then nothing else is looked at.
        source: `auto` takes real MVTec AD where `MVTEC_AD_ROOT` or `data/mvtec_anomaly_detection` holds the category
            and drawn images otherwise; `mvtec_ad` and `rendered` insist. The environment variable `MVTEC_AD_SOURCE`
            wins over the argument.
        settings: how many images to draw.

    Returns:
        A folder with `category` below it.

    Raises:
        DataError: real images were asked for and are not there, or the category cannot be drawn.
    """
    if root is not None:
        return Path(root).expanduser()
    source = os.environ.get("MVTEC_AD_SOURCE") or source
    if source not in SOURCES:
        raise DataError(f"data source {source!r} is unknown: use one of {', '.join(SOURCES)}")
    real = _real_root(category)
    if source == "mvtec_ad" and real is None:
        raise DataError(f"real MVTec AD images of {category} are not on disk: {MANUAL}")
    if source != "rendered" and real is not None:
        return real
    return _drawn_root(category, settings or DataSettings())


def _real_root(category: str) -> Path | None:
    candidates = [os.environ.get("MVTEC_AD_ROOT"), data_folder() / "mvtec_anomaly_detection"]
    for candidate in candidates:
        if candidate and (Path(candidate).expanduser() / category / "train").is_dir():
            return Path(candidate).expanduser()
    return None


def _drawn_root(category: str, settings: DataSettings) -> Path:
    if category not in rendered.CATEGORIES:
        raise DataError(
            f"{category} can be drawn by none of our programs (they draw {', '.join(rendered.CATEGORIES)}) and no real "
            f"images of it are on disk: {MANUAL}"
        )
    root = data_folder() / "rendered"
    rendered.write_category(
        root,
        category,
        train=settings.rendered_train,
        test_good=settings.rendered_test_good,
        per_defect=settings.rendered_per_defect,
        size=settings.image_size,
        seed=settings.rendered_seed,
    )
    return root
