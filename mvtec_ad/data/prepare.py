"""`data.zip` and `packages.zip`: the images of a run, in the layout they came in, with their table."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from mvtec_ad import artifacts
from mvtec_ad.config import DataSettings, Profile, data_folder
from mvtec_ad.data import index, loading
from mvtec_ad.data.acquire import locate, locate_packages
from mvtec_ad.data.boxes import Annotation, read_annotation
from mvtec_ad.data.catalog import LICENCE, OWN_LICENCE, RENDERED_LICENCE, category_name
from mvtec_ad.data.decoding import check_same_size, read_image, read_mask
from mvtec_ad.data.folders import WAY_OUT
from mvtec_ad.errors import ArtifactError, DataError

LICENCES = {"rendered": RENDERED_LICENCE, "mvtec_ad": LICENCE, "own": OWN_LICENCE}
Member = bytes | Path  # an image, a mask, a box or a marker, encoded or to be copied


def read_all(
    categories: Sequence[str], *, settings: DataSettings, root: str | Path | None = None, source: str = "auto"
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Tables of several categories in one.

    Args:
        categories: folder names (`catalog.category_name`).
        settings: how many images to draw where drawing is needed.
        root: a folder or an archive on disk; None looks for real MVTec AD and draws otherwise (`acquire.locate`).
        source: as in `acquire.locate`.

    Returns:
        The table, and the data source of each category.
    """
    return _read(_located(categories, root=root, source=source, settings=settings))


def prepare(
    profile: Profile,
    *,
    root: str | Path | None = None,
    source: str = "auto",
    path: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Write `data.zip`.

    Args:
        profile: its `data` settings say which categories and what size.
        root: a folder or an archive on disk; None looks for real MVTec AD and draws otherwise.
        source: as in `acquire.locate`.
        path: where to write; `transfer/data.zip` when None.
        progress: show a bar.

    Raises:
        DataError: a category is a path, or categories come from different sources; a number from drawn images must not
            stand beside one from photographs.
    """
    folders = _located(profile.data.categories, root=root, source=source, settings=profile.data)
    table, sources = _read(folders)
    if len(set(sources.values())) > 1:
        listed = ", ".join(f"{category}: {found}" for category, found in sources.items())
        raise DataError(f"categories come from different data sources ({listed}): prepare them one source at a time")
    members = _members(folders, table, profile.data.image_size, progress)
    options = replace(profile.data, categories=tuple(folders)).options()
    return _save("data", members, table, sources, profile, options, path)


def prepare_packages(
    profile: Profile,
    *,
    root: str | Path | None = None,
    source: str = "auto",
    category: str | None = None,
    path: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Write `packages.zip`: items of a production line, each seen from several sides, at the size they came in.

    It is an artifact of its own because its data source is its own: MVTec AD has no packages, so they are drawn beside
    real products as well (`acquire.locate_packages`). Nothing is resized: the damage is small, and whoever looks for it
    cuts the item out first.

    Args:
        profile: its `data` settings say which folder, and how many items to draw.
        root: a folder or an archive on disk; None looks where real images lie and draws otherwise.
        source: as in `acquire.locate`.
        category: the folder of the items, instead of the profile's.
        path: where to write; `transfer/packages.zip` when None.
        progress: show a bar.

    Raises:
        DataError: the folder has another layout than `data.packages`, or cannot be had.
    """
    category = category_name(category or profile.data.packages)
    folder = locate_packages(category, root=root, source=source, settings=profile.data)
    table, sources = _read({category: folder})
    if (table["view"] == "").any():
        raise DataError(
            f"{folder / category} is no production line: its images must lie in "
            "{train,test}/{damaged,intact}/VIEW/NUMBER_VIEW.png"
        )
    settings = {name: getattr(profile.data, name) for name in ("package_train", "package_test", "rendered_seed")}
    members = _members({category: folder}, table, None, progress)
    return _save("packages", members, table, sources, profile, {"packages": category, **settings}, path)


def unpack(artifact: artifacts.Artifact) -> Path:
    """Unpack `data.zip` or `packages.zip` below `data/prepared/`, once per content.

    Returns:
        The folder that holds its category folders.

    Raises:
        ArtifactError: the zip is no longer the one that was loaded, or the folder cannot be written.
    """
    folder = data_folder() / "prepared" / artifact.sha256[:12]
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder.parent))
        try:
            artifact.extract(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as problem:
        if folder.is_dir():  # another process was faster; its content is the same
            return folder
        raise ArtifactError(
            f"{artifact.path} cannot be unpacked into {folder} ({problem.strerror or problem}): {WAY_OUT}"
        ) from problem
    return folder


def _located(
    categories: Sequence[str], *, root: str | Path | None, source: str, settings: DataSettings
) -> dict[str, Path]:
    """Where each category folder lies, by its plain name."""
    names = list(dict.fromkeys(map(category_name, categories)))
    return {name: locate(name, root=root, source=source, settings=settings, together=names) for name in names}


def _read(folders: Mapping[str, Path]) -> tuple[pd.DataFrame, dict[str, str]]:
    """One table of all categories, and the data source of each; `folders` says where each category folder lies."""
    tables, sources = [], {}
    for category, folder in folders.items():
        tables.append(index.read_category(folder, category))
        sources[category] = index.data_source(folder, category, tables[-1])
    table = pd.concat(tables, ignore_index=True)
    return table.fillna({"box_path": ""}) if "box_path" in table else table, sources


def _members(folders: Mapping[str, Path], table: pd.DataFrame, side: int | None, progress: bool) -> dict[str, Member]:
    """Everything of the layout: images, masks and boxes, at `side` pixels or as they are, and what drew them."""
    members: dict[str, Member] = {}
    for row in tqdm(list(table.itertuples()), desc="prepare", unit="image", disable=not progress):
        image = read_image(row.image_path)  # also where it is copied as it is: a broken one must not get far
        name, content = _image(row, image, side)
        members[name] = content
        if getattr(row, "box_path", ""):
            members[f"{row.image_id}.xml"] = _box(row, image.shape[:2], side, PurePosixPath(name).name)
        if row.mask_path:
            mask = read_mask(row.mask_path)
            check_same_size(mask, row.mask_path, row.image_path)
            mask = mask if side is None else loading.resize(mask, side)
            stem = Path(row.image_path).stem
            members[f"{row.category}/ground_truth/{row.defect}/{stem}_mask.png"] = _png(mask.view(np.uint8) * 255)
    for category, folder in folders.items():
        marker = folder / category / index.RENDERED
        if marker.is_file():
            members[f"{category}/{index.RENDERED}"] = marker
    return members


def _save(
    stage: str,
    members: dict[str, Member],
    table: pd.DataFrame,
    sources: dict[str, str],
    profile: Profile,
    settings: dict[str, Any],
    path: str | Path | None,
) -> Path:
    """Write the artifact: what `_members` gives, and beside it the table and the licence."""
    data_source = next(iter(sources.values()))
    listed = table.drop(columns=["image_path", "mask_path", "box_path"], errors="ignore")
    return artifacts.save(
        stage,
        {**members, "index.csv": listed, "licence.json": {"licence": LICENCES[data_source]}},
        profile=profile.name,
        data_source=data_source,
        categories=list(sources),
        options=settings,
        seed=profile.data.rendered_seed,
        metrics={"images": len(table), "defective": int(table["label"].sum())},
        path=path,
    )


def _image(row: Any, image: np.ndarray, side: int | None) -> tuple[str, Member]:
    """Name and content of an image's member: a PNG, or where nothing is resized the file itself.

    A photographed JPEG would triple its size as a PNG, and be none the better.
    """
    suffix = Path(row.image_path).suffix.lower()
    if side is None and suffix in artifacts.SUFFIXES:
        return f"{row.image_id}{suffix}", Path(row.image_path)
    return f"{row.image_id}.png", _png(image if side is None else loading.resize(image, side))


def _box(row: Any, size: tuple[int, int], side: int | None, filename: str) -> bytes:
    annotation = read_annotation(row.box_path)
    if annotation.size != size:
        raise DataError(
            f"box {row.box_path} is of an image of {annotation.size[1]}×{annotation.size[0]} but its image is "
            f"{size[1]}×{size[0]}: draw it again, or remove it"
        )
    after = size if side is None else (side, side)
    return Annotation(after, annotation.name, annotation.box.scaled(size, after)).xml(filename)


def _png(pixels: np.ndarray) -> bytes:
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise DataError("an image could not be encoded as PNG")
    return encoded.tobytes()
