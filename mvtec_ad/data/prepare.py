"""`data.zip`: the images of a run, resized once, in the layout they came in, with their table."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from mvtec_ad import transfer
from mvtec_ad.data import index, loading
from mvtec_ad.data.acquire import locate
from mvtec_ad.data.boxes import Annotation, read_annotation
from mvtec_ad.data.catalog import LICENCE, RENDERED_LICENCE
from mvtec_ad.data.decoding import check_same_size, read_image, read_mask
from mvtec_ad.errors import ArtifactError, DataError
from mvtec_ad.settings import DataSettings, Profile, as_dict, data_folder


def read_all(
    categories: Sequence[str], *, settings: DataSettings, root: str | Path | None = None, source: str = "auto"
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Tables of several categories in one.

    Args:
        categories: folder names.
        settings: how many images to draw where drawing is needed.
        root: a folder or an archive on disk; None looks for real MVTec AD and draws otherwise (`acquire.locate`).
        source: as in `acquire.locate`.

    Returns:
        The table, and the data source of each category.
    """
    tables, sources = [], {}
    for category in categories:
        folder = locate(category, root=root, source=source, settings=settings, together=categories)
        tables.append(index.read_category(folder, category))
        sources[category] = index.data_source(folder, category, tables[-1])
    table = pd.concat(tables, ignore_index=True)
    return table.fillna({"box_path": ""}) if "box_path" in table else table, sources


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
        DataError: categories come from different sources; a number from drawn images must not stand beside one from
            photographs.
    """
    settings = profile.data
    table, sources = read_all(settings.categories, settings=settings, root=root, source=source)
    if len(set(sources.values())) > 1:
        listed = ", ".join(f"{category}: {found}" for category, found in sources.items())
        raise DataError(f"categories come from different data sources ({listed}): prepare them one source at a time")
    data_source = next(iter(sources.values()))
    members: dict[str, bytes | pd.DataFrame | dict | Path] = {}
    for row in tqdm(list(table.itertuples()), desc="prepare", unit="image", disable=not progress):
        image = read_image(row.image_path)
        members[f"{row.image_id}.png"] = _png(loading.resize(image, settings.image_size))
        if getattr(row, "box_path", ""):
            members[f"{row.image_id}.xml"] = _scaled_box(row, image.shape[:2], settings.image_size)
        if row.mask_path:
            mask = read_mask(row.mask_path)
            check_same_size(mask, row.mask_path, row.image_path)
            mask = loading.resize(mask, settings.image_size)
            members[_mask_member(row)] = _png(mask.view(np.uint8) * 255)
    for category in settings.categories:
        marker = locate(category, root=root, source=source, settings=settings) / category / index.RENDERED
        if marker.is_file():
            members[f"{category}/{index.RENDERED}"] = marker
    members["index.csv"] = table.drop(columns=["image_path", "mask_path", "box_path"], errors="ignore")
    members["licence.json"] = {"licence": RENDERED_LICENCE if data_source == "rendered" else LICENCE}
    return transfer.save(
        "data",
        members,
        profile=profile.name,
        data_source=data_source,
        categories=settings.categories,
        settings=as_dict(settings),
        seed=settings.rendered_seed,
        metrics={"images": len(table), "defective": int(table["label"].sum())},
        path=path,
    )


def unpack(artifact: transfer.Artifact) -> Path:
    """Unpack `data.zip` below `data/prepared/`, once per content, and return the folder of category folders."""
    folder = data_folder() / "prepared" / artifact.sha256[:12]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder.parent))
    try:
        artifact.extract(unfinished)
        unfinished.rename(folder)
    except OSError as problem:
        if folder.is_dir():  # another process was faster; its content is the same
            return folder
        raise ArtifactError(f"{artifact.path} cannot be unpacked into {folder}: {problem.strerror}") from problem
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _mask_member(row: object) -> str:
    return f"{row.category}/ground_truth/{row.defect}/{Path(row.image_path).stem}_mask.png"


def _scaled_box(row: object, size: tuple[int, int], side: int) -> bytes:
    annotation = read_annotation(row.box_path)
    if annotation.size != size:
        raise DataError(
            f"box {row.box_path} is of an image of {annotation.size[1]}×{annotation.size[0]} but its image is "
            f"{size[1]}×{size[0]}: draw it again, or remove it"
        )
    box = annotation.box.scaled(size, (side, side))
    return Annotation((side, side), annotation.name, box).xml(f"{Path(row.image_path).stem}.png")


def _png(pixels: np.ndarray) -> bytes:
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise DataError("an image could not be encoded as PNG")
    return encoded.tobytes()
