"""A category folder in MVTec layout becomes one audited table, a row per image.

Columns: image_id, category, split, defect, label, image_path, mask_path, view, group. `label` is 1 for a defect;
`mask_path` is empty where an image has no mask; `group` ties the views of one physical item together. Items seen in
several views have one more column, `box_path`, and drawn images `severity`.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import pandas as pd

from mvtec_ad.data.catalog import CATEGORIES, category_name
from mvtec_ad.data.loading import is_hidden, is_image
from mvtec_ad.errors import DataError
from mvtec_ad.schema import parse_json
from mvtec_ad.synthetic import PACKAGE
from mvtec_ad.synthetic.boxes import read_annotation

COLUMNS = ["image_id", "category", "split", "defect", "label", "image_path", "mask_path", "view", "group"]
GOOD_NAMES = ("good", "ok", "normal", "pass")  # of folders, in any case
MASK_WORDS = ("mask", "gt", "label", "seg", "groundtruth", "ground_truth")  # beside an image's name, in any case
SYNTHETIC = "synthetic.json"  # stands beside drawn images and says how each was drawn
DEFECT_OF = {"intact": "good", "damaged": "damaged"}  # folder of a production line -> `defect`
TEST_SHARE = 0.1  # of the items of a production line that comes without train/ and test/
DEEPEST = 2  # folders that may stand around a production line, as zips have them
Row = dict[str, str | int]


class _Severity(TypedDict):
    severity: float


class _Marker(TypedDict):
    images: dict[str, _Severity]


def list_categories(root: str | Path) -> list[str]:
    """Names of the folders below `root` that hold images of one product."""
    return [path.name for path in _subfolders(_existing(root)) if has_layout(path) or _images(path)]


def read_category(root: str | Path, category: str) -> pd.DataFrame:
    """Read `root/category` into the table of images.

    Four forms are understood: the full MVTec layout; the same without masks of some or all defect folders (pixel
    metrics are then of the rest) or without `test` (fit and calibrate only); a plain folder of good images; and the
    layout of a production line, `{train,test}/{damaged,intact}/VIEW/NUMBER_VIEW.png`, with the box of the damage, or of
    the item where it is intact, in a `NUMBER_VIEW.xml` beside an image or not. A line without train/ and test/ is cut
    by item: of the damaged and of the intact items, the tenth with the lowest numbers is tested on (at least one item
    each), the others are learnt from. `layout.check_layout` tells of a folder what is read as what, and how any other
    layout becomes one of these.

    Args:
        root: folder that holds one folder per category.
        category: folder name (`catalog.category_name`); any works. `package` may have another: `category_folder`.

    Returns:
        One row per image, sorted by split, defect and file name. Drawn categories have one more column, `severity`:
        0 for good images, up to 1 for the most obvious defect.

    Raises:
        DataError: the category is a path; the folder is missing, holds no good training image or repeats a name; some
            masks are missing or belong to no image; an item of a production line lacks a view or is in two folders, or
            it is the only one of its kind and cannot be cut.
    """
    category = category_name(category)
    root = _existing(root)
    folder = category_folder(root, category)
    if not folder.is_dir():
        held = ", ".join(list_categories(root)) or "none"
        raise DataError(f"no category {category!r} in {root}: it holds {held}; {look_at(root)}")
    train = subfolder(folder, "train")
    if is_line(folder):
        rows = _production_line(folder, category)
    elif train is None:
        rows = [_row(category, "train", "good", path) for path in _images(folder)]
        if not rows:
            way = f"put good images into {folder / 'train' / 'good'}/"
            raise DataError(f"{folder} holds neither train/good/ nor images: {way}; {look_at(folder)}")
    else:
        rows = [_row(category, "train", "good", path) for good in _good_folders(train) for path in _images(good)]
        if not rows:
            held = ", ".join(f"{path.name}/" for path in _subfolders(train)) or "no folder"
            good = f"{train / 'good'}/ (or {', '.join(GOOD_NAMES[1:])})"
            way = f"put at least a few good images there; {train} holds {held}"
            raise DataError(f"{good} holds no image: {way}; {look_at(folder)}")
        rows += _test_rows(folder)
    table = pd.DataFrame(rows)
    if not len(table):
        raise DataError(f"{folder} holds no image in the folders of the layout; {look_at(folder)}")
    twice = table.loc[table["image_id"].duplicated(), "image_id"]
    if len(twice):
        way = "rename one, or move it to ground_truth if it is the other's mask"
        raise DataError(f"{folder} holds two images named {twice.iloc[0]}: {way}; {look_at(folder)}")
    marker = folder / SYNTHETIC
    if not marker.is_file() or train is None:
        return table
    try:
        images = parse_json(marker.read_bytes(), _Marker)["images"].items()
        # Without suffixes: `prepare` may have encoded them anew.
        severities = {Path(name).with_suffix(""): image["severity"] for name, image in images}
        names = [Path(path).relative_to(folder) for path in table["image_path"]]
        if unknown := [name.as_posix() for name in names if name.with_suffix("") not in severities]:
            raise ValueError(f"it lacks {unknown[0]}")
        return table.assign(severity=[severities[name.with_suffix("")] for name in names])
    except (OSError, ValueError) as problem:
        raise DataError(
            f"{marker} does not describe the images beside it ({problem}): remove that file if they are your own"
        ) from problem


def read_test(folder: str | Path) -> pd.DataFrame:
    """The table of the test images alone: of a category folder, of its `test` with `ground_truth` beside it, or of any
    folder with one of images per defect type, then without masks.

    Raises:
        DataError: there is no such folder, no image in it, or what `read_category` refuses of masks.
    """
    folder = _existing(folder)
    if folder.name.casefold() == "test":
        folder = folder.absolute().parent
    if subfolder(folder, "test") is not None:
        rows = _test_rows(folder)
    else:
        types = [(path, "good" if is_good(path) else path.name) for path in _subfolders(folder)]
        rows = [_row(folder.name, "test", defect, image) for path, defect in types for image in _images(path)]
    if not rows:
        way = "give a category folder, its test/, or a folder with one of images per defect type"
        raise DataError(f"{folder} holds no test images: {way}; {look_at(folder)}")
    return pd.DataFrame(rows)


def category_folder(root: Path, category: str) -> Path:
    """The folder of a category, which need not be there: `root/category`.

    Packages come under many names, and zips put folders around them. So `package` is the production line that
    `root/package` is, or where that is no folder, `root`, or the one up to two folders below.

    Raises:
        DataError: several production lines lie there.
    """
    folder = root / category
    if category != PACKAGE or has_layout(folder):
        return folder
    top = folder if folder.is_dir() else root
    around = {path.parent for depth in range(DEEPEST + 2) for path in top.glob("*/" * depth + "intact")}
    folders = {path.parent if path != top and path.name in ("train", "test") else path for path in around}
    below = {path: path.relative_to(top) for path in sorted(folders)}
    near = [path for path, part in below.items() if len(part.parts) <= DEEPEST and not is_hidden(part)]
    lines = [path for path in near if is_line(path)]
    if len(lines) > 1 and lines[0] != top:
        raise DataError(f"{top} holds two production lines, {lines[0]} and {lines[1]}: give the folder of one as root")
    return lines[0] if lines else folder


def has_layout(folder: Path) -> bool:
    """Whether a folder is a category by the folders in it; one of plain images is not."""
    return subfolder(folder, "train") is not None or is_line(folder)


def is_line(folder: Path) -> bool:
    """Whether a folder holds items of a production line: in train/ and test/ or, as their authors ship them, not."""
    if train := subfolder(folder, "train"):
        return any((train / state).is_dir() for state in DEFECT_OF)
    return folder.name not in ("train", "test") and all(
        any(path.stem.endswith(f"_{view.name}") for view in _subfolders(folder / state) for path in _images(view))
        for state in DEFECT_OF
    )


def describe_items(folder: Path, table: pd.DataFrame) -> str:
    """How many items of a production line are learnt from and tested on, and who has cut them."""
    counts = table.drop_duplicates("group").groupby(["split", "defect"], sort=False).size()
    parts = [
        f"{split}: {', '.join(f'{count} {defect}' for (_, defect), count in of_split.items())}"
        for split, of_split in counts.groupby("split", sort=False)
    ]
    cut = "" if subfolder(folder, "train") else "; cut by item, the lowest tenth of the numbers is tested on"
    views = " and ".join(sorted(set(table["view"])))
    return f"{table['group'].nunique()} items in {views} view, {'; '.join(parts)}{cut}"


def data_source(root: str | Path, category: str, table: pd.DataFrame) -> str:
    """Where the images come from: `synthetic`, `mvtec_ad` (official counts) or `own`."""
    category = category_name(category)
    if (category_folder(Path(root), category) / SYNTHETIC).is_file():
        return "synthetic"
    return "mvtec_ad" if category in CATEGORIES and not audit(table) else "own"


def audit(table: pd.DataFrame) -> list[str]:
    """Differences between the table of one category and the official counts of MVTec AD, a line each.

    No file is opened: `official.report` compares the images themselves."""
    category = table["category"].iloc[0]
    if category not in CATEGORIES:
        return [f"{category} is not a category of MVTec AD"]
    expected = CATEGORIES[category].counts
    counts = table.groupby(["split", "defect"]).size().to_dict()
    lines = [
        f"{category}/{'/'.join(key)}: {counts.get(key, 0)} images, official {expected.get(key, 0)}"
        for key in sorted({*expected, *counts})
        if counts.get(key, 0) != expected.get(key, 0)
    ]
    unmasked = int(((table["label"] == 1) & (table["mask_path"] == "")).sum())
    return [*lines, f"{category}: {unmasked} defective images have no mask"] if unmasked else lines


def _subfolders(folder: Path | None) -> list[Path]:
    """Those that are not hidden."""
    return _images(folder, lambda path: path.is_dir() and not is_hidden(Path(path.name)))


def _images(folder: Path | None, wanted: Callable[[Path], bool] = is_image) -> list[Path]:
    """What lies directly in a folder, sorted by name; nothing where there is no such folder."""
    try:
        return sorted(path for path in folder.iterdir() if wanted(path)) if folder and folder.is_dir() else []
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
    """Rows of the official test folder, with the masks of `ground_truth` where a defect has any."""
    test, truth = subfolder(folder, "test"), subfolder(folder, "ground_truth")
    defects = _subfolders(test)
    for masks in _subfolders(truth):
        if _mask_files(masks) and not is_good(masks) and subfolder(test, masks.name) is None:
            raise DataError(f"masks in {masks} have no images: {folder / 'test' / masks.name} is missing")
    rows = []
    for defect_folder in defects:
        paths = _images(defect_folder)
        good = is_good(defect_folder)
        masks = {} if good else _masks(subfolder(truth, defect_folder.name), defect_folder, paths)
        defect = "good" if good else defect_folder.name
        rows += [_row(folder.name, "test", defect, path, masks.get(_plain(path.stem), "")) for path in paths]
    return rows


def _masks(truth: Path | None, defect_folder: Path, paths: list[Path]) -> dict[str, Path]:
    """Masks of one defect type by the stem of their image; empty when it has none at all."""
    files, images = _mask_files(truth), {_plain(path.stem) for path in paths}
    if not files:
        return {}
    masks = max((named_after(images, files, rule) for rule in MASK_NAMES), key=len)
    without_mask = sorted(images - set(masks))
    if without_mask:
        raise DataError(
            f"{truth} lacks the mask of {len(without_mask)} images, first {without_mask[0]}: "
            f"add {without_mask[0]}_mask.png, or remove {truth} to do without masks; {look_at(defect_folder)}"
        )
    for path in sorted(set(files) - set(masks.values())):
        owners = {name for rule in MASK_NAMES for name in named_after(images, [path], rule)}
        if owners:
            raise DataError(f"masks {path} and {masks[min(owners)]} belong to the same image: remove one of them")
        raise DataError(f"mask {path} has no image in {defect_folder}: remove one of them")
    return masks


# a mask's stem out of its image's, most usual first: `{}_mask`, …, `mask_{}`, …, `{}`
MASK_NAMES = [
    *("{}" + mark + word for word in MASK_WORDS for mark in "_- ."),
    *(word + mark + "{}" for word in MASK_WORDS for mark in "_- ."),
    "{}",
]


def named_after(images: set[str], files: list[Path], rule: str) -> dict[str, Path]:
    """Masks by the stems of their images, of those that are named by one rule."""
    before, after = rule.split("{}")
    masks: dict[str, Path] = {}
    for path in files:
        name = _plain(path.stem if path.is_file() else path.name)
        middle = name[len(before) : len(name) - len(after)]
        if name.casefold() == rule.format(middle).casefold() and middle in images:
            masks.setdefault(middle, path)
    return masks


def _mask_files(truth: Path | None) -> list[Path]:
    """Mask files of a folder, and the folders with several masks of one image (MVTec LOCO)."""
    return _images(truth) + [path for path in _subfolders(truth) if _images(path)]


def _plain(name: str) -> str:
    """A name as other systems spell it too: macOS takes é apart."""
    return unicodedata.normalize("NFC", name)


def is_good(folder: Path) -> bool:
    """Whether a folder's name says that its images are good."""
    return folder.name.casefold() in GOOD_NAMES


def subfolder(folder: Path | None, name: str) -> Path | None:
    """The folder of this name below another, in any case and Unicode form; None where there is none."""
    alike = [path for path in _subfolders(folder) if _plain(path.name).casefold() == _plain(name).casefold()]
    return next((path for path in alike if path.name == name), alike[0] if alike else None)


def look_at(folder: Path) -> str:
    """Where a message sends who wonders what is read of a folder."""
    return f"`mvtec-ad check {shlex.quote(str(folder))}` shows what is read as what"


def _good_folders(folder: Path) -> list[Path]:
    return [path for path in _subfolders(folder) if is_good(path)]


def _production_line(folder: Path, category: str) -> list[Row]:
    """Rows of items seen from several sides: `view` is the folder of the view, and `group` the item."""
    cut = subfolder(folder, "train") is not None
    files = [
        (split, state, path)
        for split in (("train", "test") if cut else ("",))
        for state in DEFECT_OF
        for view in _subfolders(folder / split / state)
        for path in _images(view)
    ]
    rows = []
    for split, state, path in files if cut else _cut_by_item(files, folder):
        view, box, number = path.parent.name, path.with_suffix(".xml"), _number(path)
        if number in (path.stem, ""):
            raise DataError(
                f"image {path} must be named NUMBER_{view}{path.suffix}: its number ties the views together"
            )
        name = read_annotation(box).name if box.is_file() else state
        if name in DEFECT_OF and name != state:
            raise DataError(f"box {box} says {name!r} but lies in {_state_folder(box, folder)}: move or correct it")
        row = _row(category, split, DEFECT_OF[state], path) | {"view": view, "group": f"{category}/{number}"}
        row["image_id"] = f"{category}/{split}/{state}/{view}/{path.stem}"
        rows.append(row | {"box_path": str(box) if box.is_file() else ""})
    _check_items(rows, folder)
    return rows


def _number(path: Path) -> str:
    """The item's, out of the name of one of its images."""
    return path.stem.removesuffix(f"_{path.parent.name}")


def _state_folder(path: Path, folder: Path) -> str:
    """Where a file of a production line lies: `train/intact`, or `intact`."""
    return path.parent.parent.relative_to(folder).as_posix()


def _cut_by_item(files: list[tuple[str, str, Path]], folder: Path) -> list[tuple[str, str, Path]]:
    """The files with their split: of each state's items, the lowest numbers are tested on.

    By number and not at random: so the published data set is cut here as the figures in docs/results.md have it.
    """
    tested: set[tuple[str, str]] = set()
    for state in DEFECT_OF:
        numbers = {_number(path) for _, its_state, path in files if its_state == state}
        if len(numbers) < 2:
            raise DataError(
                f"{folder / state} holds a single item: add one, for one is to learn from and one to test on"
            )
        lowest = sorted(numbers, key=lambda number: (len(number), number))
        tested |= {(state, number) for number in lowest[: max(1, round(TEST_SHARE * len(lowest)))]}
    split = [("test" if (state, _number(path)) in tested else "train", state, path) for _, state, path in files]
    return sorted(split, key=lambda file: file[0] == "test")


def _check_items(rows: list[Row], folder: Path) -> None:
    """Every item lies in one folder, and has one image in each view."""
    views = sorted({row["view"] for row in rows})
    items: dict[str, list[Row]] = {}
    for row in rows:
        items.setdefault(str(row["group"]), []).append(row)
    for group, images in items.items():
        item = f"item {group.partition('/')[2]} of {folder}"
        folders = sorted({_state_folder(Path(str(row["image_path"])), folder) for row in images})
        if len(folders) > 1:
            raise DataError(f"{item} is in {' and in '.join(folders)}: remove it from one of them")
        seen = [row["view"] for row in images]
        for view in views:
            if view not in seen:
                raise DataError(f"{item} has no {view} view: add it, or remove the item")
            if seen.count(view) > 1:
                raise DataError(f"{item} has two {view} views: remove one of them")
