"""`data.zip` and `packages.zip`: the images of a run, in the layout they came in, with their table."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from mvtec_ad import artifacts
from mvtec_ad.config import DataSettings, Profile, data_folder
from mvtec_ad.data import index, loading, official
from mvtec_ad.data.catalog import LICENCE, SYNTHETIC_LICENCE, USER_LICENCE, category_name
from mvtec_ad.data.sources import available, locate, locate_packages
from mvtec_ad.errors import WAY_OUT, ArtifactError, DataError
from mvtec_ad.synthetic.boxes import Annotation, read_annotation

LICENCES = {"synthetic": SYNTHETIC_LICENCE, "mvtec_ad": LICENCE, "own": USER_LICENCE}


def read_all(
    categories: Sequence[str], *, settings: DataSettings, root: str | Path | None = None, source: str = "auto"
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Tables of several categories in one, and the data source of each; arguments as in `sources.locate`."""
    return _read(_locate_all(categories, root=root, source=source, settings=settings))


def prepare(
    profile: Profile,
    *,
    root: str | Path | None = None,
    source: str = "auto",
    path: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Write `data.zip`, every image resized to the profile's size; returns its path.

    The profile's `data` settings say which categories and what size; `root` and `source` are as in `sources.locate`;
    `path` is where to write, `transfer/data.zip` when None. What of each category is MVTec AD's (`official.report`) is
    printed, and stands in the manifest's metrics.

    Raises:
        DataError: a category is a path, or categories come from different sources; a number from drawn images must not
            stand beside one from photographs.
    """
    folders = _locate_all(profile.data.categories, root=root, source=source, settings=profile.data)
    table, sources = _read(folders)
    if len(set(sources.values())) > 1:
        listed = ", ".join(f"{category}: {name}" for category, name in sources.items())
        raise DataError(f"categories come from different data sources ({listed}): prepare them one source at a time")
    lines = [official.report(rows, progress) for _, rows in table.groupby("category", sort=False)]
    reports = [line for line in lines if line]
    print("".join(f"{line}\n" for line in reports), end="")
    files = _files(folders, table, profile.data.image_size, progress)
    options = replace(profile.data, categories=tuple(folders)).options()
    return _save("data", files, table, sources, profile, options, path, reports)


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
    real products as well (`sources.locate_packages`). Nothing is resized: the damage is small, and whoever looks for it
    cuts the item out first. Arguments as in `prepare`; `category` is the folder of the items, instead of the profile's.
    """
    category = category_name(category or profile.data.packages)
    folder = locate_packages(category, root=root, source=source, settings=profile.data)
    table, sources = _read({category: folder})
    items = index.category_folder(folder, category)
    if (table["view"] == "").any():
        raise DataError(
            f"{items} is no production line: its images must lie in {{train,test}}/{{damaged,intact}}/VIEW/"
            "NUMBER_VIEW.png, or in {damaged,intact}/VIEW/NUMBER_VIEW.png"
        )
    if sources[category] != "synthetic":
        print(f"{items}: {index.describe_items(items, table)}")
    names = ("package_train", "package_test", "synthetic_seed", "least_severity")
    options = {name: getattr(profile.data, name) for name in names}
    files = _files({category: folder}, table, None, progress)
    return _save("packages", files, table, sources, profile, {"packages": category, **options}, path)


def unpack(artifact: artifacts.Artifact) -> Path:
    """Unpack `data.zip` or `packages.zip` below `data/prepared/`, once per content; returns that folder."""
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


def _locate_all(
    categories: Sequence[str], root: str | Path | None, source: str, settings: DataSettings
) -> dict[str, Path]:
    """Where each category folder lies, by its plain name; those that are absent beside others are left out."""
    names = available(list(dict.fromkeys(map(category_name, categories))), root=root, source=source)
    where = {"root": root, "source": source, "settings": settings, "together": names}
    return {name: locate(name, **where) for name in names}


def _read(folders: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, str]]:
    """One table of all categories, and the data source of each; `folders` says where each category folder lies."""
    tables = {category: index.read_category(folder, category) for category, folder in folders.items()}
    sources = {category: index.data_source(folders[category], category, table) for category, table in tables.items()}
    table = pd.concat(tables.values(), ignore_index=True)
    return table.fillna({"box_path": ""}) if "box_path" in table else table, sources


def _files(folders: dict[str, Path], table: pd.DataFrame, size: int | None, progress: bool) -> dict[str, bytes | Path]:
    """Everything of the layout, encoded or to be copied: images, masks and boxes, and what drew them.

    Where nothing is resized, a photograph is copied: a JPEG would triple its size as a PNG, and be none the better.
    What was drawn becomes a JPEG, as cameras give them: its noise makes a PNG four times as large.
    """
    files: dict[str, bytes | Path] = {}
    markers = {
        category: index.category_folder(folder, category) / index.SYNTHETIC for category, folder in folders.items()
    }
    synthetic = {category for category, marker in markers.items() if marker.is_file()}
    for row in tqdm(list(table.itertuples()), desc="prepare", unit="image", disable=not progress):
        path = Path(row.image_path)
        image = loading.read_image(path)  # also where it is copied as it is: a broken one must not get far
        as_jpeg = size is None and row.category in synthetic
        copied = size is None and path.suffix.lower() in artifacts.SUFFIXES and not as_jpeg
        suffix = path.suffix.lower() if copied else ".jpg" if as_jpeg else ".png"
        name = f"{row.image_id}{suffix}"
        files[name] = path if copied else _encoded(suffix, image, size)
        if getattr(row, "box_path", ""):
            files[f"{row.image_id}.xml"] = _box(row.box_path, image.shape[:2], size, Path(name).name)
        if row.mask_path:
            mask = loading.read_mask(row.mask_path, path)
            files[f"{row.category}/ground_truth/{row.defect}/{path.stem}_mask.png"] = _encoded(".png", mask, size)
    for category in synthetic:
        files[f"{category}/{index.SYNTHETIC}"] = markers[category]
    return files


def _save(
    stage: str,
    files: dict[str, bytes | Path],
    table: pd.DataFrame,
    sources: dict[str, str],
    profile: Profile,
    options: dict[str, Any],
    path: str | Path | None,
    reports: Sequence[str] = (),
) -> Path:
    """Write the artifact: what `_files` gives, and beside it the table and the licence; `reports` into its metrics."""
    data_source = next(iter(sources.values()))
    listed = table.drop(columns=["image_path", "mask_path", "box_path"], errors="ignore")
    metrics = {"images": len(table), "defective": int(table["label"].sum())}
    return artifacts.save(
        stage,
        {**files, "index.csv": listed, "licence.json": {"licence": LICENCES[data_source]}},
        profile=profile.name,
        data_source=data_source,
        categories=list(sources),
        options=options,
        seed=profile.data.synthetic_seed,
        metrics=metrics | ({"official": reports} if reports else {}),
        path=path,
    )


def _box(path: str, before: tuple[int, int], size: int | None, filename: str) -> bytes:
    """The box of an image of shape `before`, as that of the resized one."""
    annotation = read_annotation(path)
    if annotation.size != before:
        raise DataError(
            f"box {path} is of an image of {annotation.size[1]}×{annotation.size[0]} but its image is "
            f"{before[1]}×{before[0]}: draw it again, or remove it"
        )
    after = before if size is None else (size, size)
    return Annotation(after, annotation.name, annotation.box.scaled(before, after)).xml(filename)


def _encoded(suffix: str, pixels: np.ndarray, size: int | None) -> bytes:
    """(H, W, 3) uint8 RGB or (H, W) bool, resized and encoded as PNG, or as JPEG of quality 95 with full colour."""
    pixels = pixels if size is None else loading.resize(pixels, size)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels.view(np.uint8) * 255
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, encoded = cv2.imencode(suffix, pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3] if suffix == ".png" else quality)
    if not done:
        raise DataError(f"an image could not be encoded as {suffix}")
    return encoded.tobytes()
