"""A category folder in MVTec layout becomes one audited table, a row per image.

Columns: image_id, category, split, defect, label, image_path, mask_path, view, group. `label` is 1 for a defect;
`mask_path` is empty where an image has no mask; `group` ties the views of one physical item together. Items seen in
several views have one more column, `box_path`, and drawn images `severity`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from mvtec_ad.data.catalog import CATEGORIES, category_name
from mvtec_ad.errors import DataError
from mvtec_ad.synthetic.boxes import read_annotation

COLUMNS = ["image_id", "category", "split", "defect", "label", "image_path", "mask_path", "view", "group"]
SYNTHETIC = "synthetic.json"  # stands beside drawn images and says how each was drawn
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
DEFECT_OF = {"intact": "good", "damaged": "damaged"}  # folder of a production line -> `defect`
Row = dict[str, str | int]


def list_categories(root: str | Path) -> list[str]:
    """Names of the folders below `root` that hold images of one product."""
    folders = (path for path in _subfolders(_existing(root)) if not path.name.startswith("."))
    return [path.name for path in folders if (path / "train").is_dir() or _images(path)]


def read_category(root: str | Path, category: str) -> pd.DataFrame:
    """Read `root/category` into the table of images.

    Four forms are understood: the full MVTec layout; the same without `ground_truth` (then only image-level
    metrics exist) or without `test` (fit and calibrate only); a plain folder of good images; and the layout of a
    production line, `{train,test}/{damaged,intact}/VIEW/NUMBER_VIEW.png`, with the box of the damage, or of the item
    where it is intact, in a `NUMBER_VIEW.xml` beside an image or not.

    Args:
        root: folder that holds one folder per category.
        category: folder name (`catalog.category_name`); any works.

    Returns:
        One row per image, sorted by split, defect and file name. Drawn categories have one more column, `severity`:
        0 for good images, up to 1 for the most obvious defect.

    Raises:
        DataError: the category is a path; the folder is missing, holds no good training image or repeats a name; some
            masks are missing or belong to no image; an item of a production line lacks a view or is in two folders.
    """
    category = category_name(category)
    root = _existing(root)
    folder = root / category
    if not folder.is_dir():
        raise DataError(f"no category {category!r} in {root}: it holds {', '.join(list_categories(root)) or 'none'}")
    good = folder / "train" / "good"
    if not (folder / "train").is_dir():
        rows = [_row(category, "train", "good", path) for path in _images(folder)]
        if not rows:
            raise DataError(f"{folder} holds neither train/good/ nor images: put good images into {good}/")
    elif any((folder / "train" / state).is_dir() for state in DEFECT_OF):
        rows = _production_line(folder)
    else:
        rows = [_row(category, "train", "good", path) for path in _images(good)]
        if not rows:
            raise DataError(f"{good} holds no image: put at least a few good images there")
        rows += _test_rows(folder)
    table = pd.DataFrame(rows)
    if not len(table):
        raise DataError(f"{folder} holds no image: check that its folders are named as the layout wants")
    twice = table.loc[table["image_id"].duplicated(), "image_id"]
    if len(twice):
        raise DataError(f"{folder} holds two images named {twice.iloc[0]} that differ only in suffix: rename one")
    marker = folder / SYNTHETIC
    if not (marker.is_file() and (folder / "train").is_dir()):
        return table
    try:
        images = json.loads(marker.read_text(encoding="utf-8"))["images"]
        names = [Path(path).relative_to(folder).as_posix() for path in table["image_path"]]
        return table.assign(severity=[images[name]["severity"] for name in names])
    except (ValueError, KeyError, TypeError) as problem:
        raise DataError(
            f"{marker} does not describe the images beside it ({problem}): remove that file if they are your own"
        ) from problem


def data_source(root: str | Path, category: str, table: pd.DataFrame) -> str:
    """Where the images come from: `synthetic`, `mvtec_ad` (official counts) or `own`."""
    category = category_name(category)
    if (Path(root) / category / SYNTHETIC).is_file():
        return "synthetic"
    return "mvtec_ad" if category in CATEGORIES and not audit(table) else "own"


def audit(table: pd.DataFrame) -> list[str]:
    """Differences between the table of one category and the official counts of MVTec AD, a line each."""
    category = table["category"].iloc[0]
    if category not in CATEGORIES:
        return [f"{category} is not a category of MVTec AD"]
    official = CATEGORIES[category]
    expected = {("train", "good"): official.train, ("test", "good"): official.test_good}
    expected |= {("test", defect): count for defect, count in official.defects.items()}
    counts = table.groupby(["split", "defect"]).size().to_dict()
    lines = [
        f"{category}/{'/'.join(key)}: {counts.get(key, 0)} images, official {expected.get(key, 0)}"
        for key in sorted({*expected, *counts})
        if counts.get(key, 0) != expected.get(key, 0)
    ]
    unmasked = int(((table["label"] == 1) & (table["mask_path"] == "")).sum())
    return [*lines, f"{category}: {unmasked} defective images have no mask"] if unmasked else lines


def is_image(path: Path) -> bool:
    """Whether a path is a file with an image's suffix; a hidden one is not: macOS leaves `._a.png` beside `a.png`."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _subfolders(folder: Path) -> list[Path]:
    return _images(folder, Path.is_dir)


def _images(folder: Path, wanted: Callable[[Path], bool] = is_image) -> list[Path]:
    """What lies directly in a folder, sorted by name; nothing where there is no such folder."""
    try:
        return sorted(path for path in folder.iterdir() if wanted(path)) if folder.is_dir() else []
    except OSError as problem:
        raise DataError(f"folder {folder} cannot be read ({problem.strerror}): check its permissions") from problem


def _existing(root: str | Path) -> Path:
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"folder {root} {what}: give the folder that holds the category folders")
    return root


def _row(category: str, split: str, defect: str, path: Path, mask: Path | str = "") -> Row:
    image_id = f"{category}/{split}/{defect}/{path.stem}"
    values = (image_id, category, split, defect, int(defect != "good"), str(path), str(mask), "", image_id)
    return dict(zip(COLUMNS, values, strict=True))


def _test_rows(folder: Path) -> list[Row]:
    """Rows of the official test folder, with the masks of `ground_truth` where a category has any."""
    for truth in _subfolders(folder / "ground_truth"):
        if _images(truth) and truth.name != "good" and not (folder / "test" / truth.name).is_dir():
            raise DataError(f"masks in {truth} have no images: {folder / 'test' / truth.name} is missing")
    rows = []
    for defect_folder in _subfolders(folder / "test"):
        paths = _images(defect_folder)
        masks = {} if defect_folder.name == "good" else _masks(folder, defect_folder, {path.stem for path in paths})
        rows += [_row(folder.name, "test", defect_folder.name, path, masks.get(path.stem, "")) for path in paths]
    return rows


def _masks(folder: Path, defect_folder: Path, images: set[str]) -> dict[str, Path]:
    """Masks of one defect type by the stem of their image; empty when the category has none at all."""
    truth = folder / "ground_truth"
    if not truth.is_dir():
        return {}
    masks: dict[str, Path] = {}
    for path in _images(truth / defect_folder.name):
        first = masks.setdefault(path.stem.removesuffix("_mask"), path)
        if first != path:
            raise DataError(f"masks {first} and {path} belong to the same image: remove one of them")
    without_mask = sorted(images - set(masks))
    if without_mask:
        raise DataError(
            f"{truth / defect_folder.name} lacks the mask of {len(without_mask)} images, first {without_mask[0]}: "
            f"add {without_mask[0]}_mask.png, or remove {truth} to do without masks"
        )
    for name in sorted(set(masks) - images):
        raise DataError(f"mask {masks[name]} has no image in {defect_folder}: remove one of them")
    return masks


def _production_line(folder: Path) -> list[Row]:
    """Rows of items seen from several sides: `view` is the folder of the view, and `group` the item."""
    files = [
        (split, state, path)
        for split in ("train", "test")
        for state in DEFECT_OF
        for view in _subfolders(folder / split / state)
        for path in _images(view)
    ]
    rows = []
    for split, state, path in files:
        view, box = path.parent.name, path.with_suffix(".xml")
        number = path.stem.removesuffix(f"_{view}")
        if number in (path.stem, ""):
            raise DataError(
                f"image {path} must be named NUMBER_{view}{path.suffix}: its number ties the views together"
            )
        name = read_annotation(box).name if box.is_file() else state
        if name in DEFECT_OF and name != state:
            raise DataError(f"box {box} says {name!r} but lies in {split}/{state}: move or correct it")
        row = _row(folder.name, split, DEFECT_OF[state], path) | {"view": view, "group": f"{folder.name}/{number}"}
        row["image_id"] = f"{folder.name}/{split}/{state}/{view}/{path.stem}"
        rows.append(row | {"box_path": str(box) if box.is_file() else ""})
    _check_items(rows, folder)
    return rows


def _check_items(rows: list[Row], folder: Path) -> None:
    """Every item lies in one folder, and has one image in each view."""
    views = sorted({row["view"] for row in rows})
    items: dict[str, list[Row]] = {}
    for row in rows:
        items.setdefault(str(row["group"]), []).append(row)
    for group, images in items.items():
        item = f"item {group.removeprefix(f'{folder.name}/')} of {folder}"
        folders = sorted({f"{row['split']}/{row['defect']}" for row in images})
        if len(folders) > 1:
            raise DataError(f"{item} is in {' and in '.join(folders)}: remove it from one of them")
        seen = [row["view"] for row in images]
        for view in views:
            if view not in seen:
                raise DataError(f"{item} has no {view} view: add it, or remove the item")
            if seen.count(view) > 1:
                raise DataError(f"{item} has two {view} views: remove one of them")
