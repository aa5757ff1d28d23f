"""Items of a production line, each seen from several sides: `{train,test}/{damaged,intact}/VIEW/NUMBER_VIEW.png`.

Beside an image may lie `NUMBER_VIEW.xml`: the box of the damage, or of the item where it is intact.
"""

from __future__ import annotations

from pathlib import Path

from mvtec_ad.data.boxes import read_annotation
from mvtec_ad.data.folders import image_files, subfolders
from mvtec_ad.errors import DataError

DEFECT_OF = {"intact": "good", "damaged": "damaged"}  # folder -> `defect` in the table of images


def holds_packages(folder: Path) -> bool:
    """Whether a category folder has this layout: `train` is divided into intact and damaged, not good alone."""
    return any((folder / "train" / state).is_dir() for state in DEFECT_OF)


def package_rows(folder: Path) -> list[dict[str, object]]:
    """Rows of the table of images, as `index.read_category` describes them, with one more column, `box_path`.

    `view` is the folder of the view, and `group` the item: every item has one image in every view.

    Raises:
        DataError: an item lacks a view or is in two folders, a file is not named after its item and view, or a box
            disagrees with the folder it lies in.
    """
    rows = [
        _row(folder, split, state, view.name, path)
        for split in ("train", "test")
        for state in DEFECT_OF
        for view in subfolders(folder / split / state)
        for path in image_files(view)
    ]
    _check_items(rows, folder)
    return rows


def _row(folder: Path, split: str, state: str, view: str, path: Path) -> dict[str, object]:
    number = path.stem.removesuffix(f"_{view}")
    if number == path.stem or not number:
        raise DataError(f"image {path} must be named NUMBER_{view}{path.suffix}: its number ties the views together")
    box = path.with_suffix(".xml")
    if box.is_file():
        said = read_annotation(box).name
        if said in DEFECT_OF and said != state:
            raise DataError(f"box {box} says {said!r} but lies in {split}/{state}: move or correct it")
    return {
        "image_id": f"{folder.name}/{split}/{state}/{view}/{path.stem}",
        "category": folder.name,
        "split": split,
        "defect": DEFECT_OF[state],
        "label": int(state == "damaged"),
        "image_path": str(path),
        "mask_path": "",
        "view": view,
        "group": f"{folder.name}/{number}",
        "box_path": str(box) if box.is_file() else "",
    }


def _check_items(rows: list[dict[str, object]], folder: Path) -> None:
    """Every item lies in one folder, and has one image in each view."""
    views = sorted({str(row["view"]) for row in rows})
    items: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        items.setdefault(str(row["group"]), []).append(row)
    for group, images in items.items():
        number = group.removeprefix(f"{folder.name}/")
        places = sorted({f"{row['split']}/{row['defect']}" for row in images})
        if len(places) > 1:
            raise DataError(f"item {number} of {folder} is in {' and in '.join(places)}: remove it from one of them")
        seen = [str(row["view"]) for row in images]
        missing = sorted(set(views) - set(seen))
        if missing:
            raise DataError(f"item {number} of {folder} has no {missing[0]} view: add it, or remove the item")
        if len(seen) > len(set(seen)):
            twice = next(view for view in seen if seen.count(view) > 1)
            raise DataError(f"item {number} of {folder} has two {twice} views: remove one of them")
