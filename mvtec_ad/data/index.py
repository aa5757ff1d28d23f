"""A category folder in MVTec layout becomes one audited table, a row per image.

Columns: image_id, category, split, defect, label, image_path, mask_path, view, group. `label` is 1 for a defect;
`mask_path` is empty where an image has no mask; `group` ties the views of one physical item together. Items seen in
several views (`packages`) have one more column, `box_path`, and drawn images `severity`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from mvtec_ad.data.catalog import CATEGORIES, category_name
from mvtec_ad.data.folders import image_files, subfolders
from mvtec_ad.data.packages import holds_packages, package_rows
from mvtec_ad.errors import DataError

COLUMNS = ["image_id", "category", "split", "defect", "label", "image_path", "mask_path", "view", "group"]
RENDERED = "rendered.json"  # stands beside drawn images and says how each was drawn


def list_categories(root: str | Path) -> list[str]:
    """Names of the folders below `root` that hold images of one product."""
    root = _existing(root)
    folders = (p for p in subfolders(root) if not p.name.startswith("."))
    return [p.name for p in folders if (p / "train").is_dir() or image_files(p)]


def read_category(root: str | Path, category: str) -> pd.DataFrame:
    """Read `root/category` into the table of images.

    Four forms are understood: the full MVTec layout; the same without `ground_truth` (then only image-level
    metrics exist) or without `test` (fit and calibrate only); a plain folder of good images; and the layout of a
    production line, `{train,test}/{damaged,intact}/VIEW/NUMBER_VIEW.png` (`packages`).

    Args:
        root: folder that holds one folder per category.
        category: folder name (`catalog.category_name`); any works, MVTec AD's own are also compared with the official
            counts.

    Returns:
        One row per image, sorted by split, defect and file name. Drawn categories have one more column, `severity`:
        0 for good images, up to 1 for the most obvious defect.

    Raises:
        DataError: the category is a path, the folder is missing, holds no good training image, repeats a name, or some
            masks are missing or belong to no image.
    """
    category = category_name(category)
    root = _existing(root)
    folder = root / category
    if not folder.is_dir():
        found = ", ".join(list_categories(root)) or "none"
        raise DataError(f"no category {category!r} in {root}: it holds {found}")
    if not (folder / "train").is_dir():
        files = image_files(folder)
        if not files:
            raise DataError(f"{folder} holds neither train/good/ nor images: put good images into {folder}/train/good/")
        return _table([_row(category, "train", "good", path, None) for path in files], folder)
    if holds_packages(folder):
        return _with_severity(_table(package_rows(folder), folder), folder)
    rows = [_row(category, "train", "good", path, None) for path in _good_training_images(folder)]
    for truth in subfolders(folder / "ground_truth"):
        if image_files(truth) and truth.name != "good" and not (folder / "test" / truth.name).is_dir():
            raise DataError(f"masks in {truth} have no images: {folder / 'test' / truth.name} is missing")
    for defect_folder in subfolders(folder / "test"):
        defect = defect_folder.name
        masks = {} if defect == "good" else _masks(folder, defect)
        rows += [_row(category, "test", defect, path, masks.get(path.stem)) for path in image_files(defect_folder)]
    return _with_severity(_table(rows, folder), folder)


def data_source(root: str | Path, category: str, table: pd.DataFrame) -> str:
    """Where the images come from: `rendered`, `mvtec_ad` (official counts) or `own`.

    Raises:
        DataError: the category is a path.
    """
    category = category_name(category)
    marker = Path(root) / category / RENDERED
    if marker.is_file():
        return "rendered"
    official = CATEGORIES.get(category)
    return "mvtec_ad" if official and not audit(table) else "own"


def audit(table: pd.DataFrame) -> list[str]:
    """Differences between a table and the official counts of MVTec AD; empty when there are none.

    Args:
        table: images of one category, as `read_category` gives them.

    Returns:
        One line per difference. A category that MVTec AD does not have gives one line that says so.
    """
    category = table["category"].iloc[0]
    if category not in CATEGORIES:
        return [f"{category} is not a category of MVTec AD"]
    official = CATEGORIES[category]
    expected = {("train", "good"): official.train, ("test", "good"): official.test_good}
    expected |= {("test", defect): count for defect, count in official.defects.items()}
    found = table.groupby(["split", "defect"]).size().to_dict()
    lines = [
        f"{category}/{split}/{defect}: {found.get((split, defect), 0)} images, "
        f"official {expected.get((split, defect), 0)}"
        for split, defect in sorted(set(expected) | set(found))
        if found.get((split, defect), 0) != expected.get((split, defect), 0)
    ]
    unmasked = int(((table["label"] == 1) & (table["mask_path"] == "")).sum())
    if unmasked:
        lines.append(f"{category}: {unmasked} defective images have no mask")
    return lines


def _existing(root: str | Path) -> Path:
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"folder {root} {what}: give the folder that holds the category folders")
    return root


def _good_training_images(folder: Path) -> list[Path]:
    good = folder / "train" / "good"
    files = image_files(good)
    if not files:
        raise DataError(f"{good} holds no image: put at least a few good images there")
    return files


def _masks(folder: Path, defect: str) -> dict[str, Path]:
    """Masks of one defect type by the stem of their image; empty when the category has none at all."""
    truth = folder / "ground_truth"
    if not truth.is_dir():
        return {}
    mask_folder = truth / defect
    files = image_files(mask_folder)
    masks: dict[str, Path] = {}
    for path in files:
        first = masks.setdefault(path.stem.removesuffix("_mask"), path)
        if first != path:
            raise DataError(f"masks {first} and {path} belong to the same image: remove one of them")
    images = {path.stem for path in image_files(folder / "test" / defect)}
    without_mask = sorted(images - set(masks))
    if without_mask:
        raise DataError(
            f"{mask_folder} lacks the mask of {len(without_mask)} images, first {without_mask[0]}: "
            f"add {without_mask[0]}_mask.png, or remove {truth} to do without masks"
        )
    without_image = sorted(set(masks) - images)
    if without_image:
        raise DataError(
            f"mask {masks[without_image[0]]} has no image in {folder / 'test' / defect}: remove one of them"
        )
    return masks


def _row(category: str, split: str, defect: str, path: Path, mask: Path | None) -> dict[str, object]:
    image_id = f"{category}/{split}/{defect}/{path.stem}"
    return {
        "image_id": image_id,
        "category": category,
        "split": split,
        "defect": defect,
        "label": int(defect != "good"),
        "image_path": str(path),
        "mask_path": str(mask) if mask else "",
        "view": "",
        "group": image_id,
    }


def _table(rows: list[dict[str, object]], folder: Path) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    if not len(table):
        raise DataError(f"{folder} holds no image: check that its folders are named as the layout wants")
    twice = table.loc[table["image_id"].duplicated(), "image_id"]
    if len(twice):
        raise DataError(f"{folder} holds two images named {twice.iloc[0]} that differ only in suffix: rename one")
    return table


def _with_severity(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    marker = folder / RENDERED
    if not marker.is_file():
        return table
    try:
        drawn = json.loads(marker.read_text(encoding="utf-8"))["images"]
        names = [Path(path).relative_to(folder).as_posix() for path in table["image_path"]]
        return table.assign(severity=[drawn[name]["severity"] for name in names])
    except (ValueError, KeyError, TypeError) as problem:
        raise DataError(
            f"{marker} does not describe the images beside it ({problem}): remove that file if they are your own"
        ) from problem
