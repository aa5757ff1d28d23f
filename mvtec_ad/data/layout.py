"""What a folder of images is, what of it is read as what, what is odd about it, and how it becomes one that is read."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from mvtec_ad.data import archives, index, official
from mvtec_ad.data.copies import content_hash, image_notes
from mvtec_ad.data.loading import (
    IMAGE_SUFFIXES,
    eight_bits,
    is_hidden,
    is_image,
    paths_below,
    read_mask,
    read_pixels,
    resample,
    stored_bits,
)
from mvtec_ad.errors import DataError
from mvtec_ad.synthetic import PACKAGE

PICTURES = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jfif", ".raw", ".dng", ".cr2", ".nef", ".ppm", ".pgm", ".npy")
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
MASK_FOLDERS = ("ground_truth", "groundtruth", "gt", "mask", "masks", "label", "labels", "annotations")
NEUTRAL = ("images", "image", "imgs", "img", "pictures", "data", "rgb")  # folders whose names say nothing
SMALL = 256  # pixels: the side at which sharpness is compared


def check_layout(path: str | Path) -> list[str]:
    """A report on a folder or an archive, line by line, for people.

    For each category in it: what is read as what, what is not used and why, what is odd (unreadable, copies, leaks,
    sizes, exposure, blur, masks), and the commands that use it. Where nothing is read, the commands that bring it into
    a layout that is.

    Raises:
        DataError: there is no such folder or archive, or it holds no image.
    """
    path = Path(path).expanduser()
    if path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            inside = Path(folder).resolve() / (PACKAGE if archives.holds(path, PACKAGE) else path.name.split(".")[0])
            archives.unpack_all(path, inside)
            lines, root = _check_folder(inside), f"--root {shlex.quote(str(path))}"
        name = shlex.quote(inside.name)
        way = f"    python -m zipfile -e {shlex.quote(str(path))} {name}"
        if path.suffix.lower() != ".zip":
            way = f"    mkdir {name} && tar -xf {shlex.quote(str(path))} -C {name}"
        flag = f"--root ('?){re.escape(str(inside.parent))}.*?\\1(?= --)"
        lines = [re.sub(flag, lambda _: root, line) for line in lines]
        if any(line.startswith("    mkdir") for line in lines):
            lines[1:1] = ["  unpack it first, for these are commands on the folder:", way]
        return [line.replace(str(inside), name).replace(f", in {inside.parent}", f", in {path}") for line in lines]
    if not path.is_dir():
        raise DataError(f"{path} does not exist: give a folder of images, or an archive of one")
    return _check_folder(path if path.name not in ("", "..") else path.resolve())


def _check_folder(folder: Path) -> list[str]:
    pictures = [path for path in paths_below(folder) if is_image(path)]
    if not pictures:
        raise DataError(f"{folder} holds no image that is read, at any depth: give a folder with PNG or JPEG files")
    if _is_category(folder):
        return _check_category(folder)
    categories = [folder / name for name in index.list_categories(folder)]
    whole = any(index.has_layout(path) for path in categories)
    if categories and (whole or not any(_good_name(path.name) for path in categories)):
        lines = [] if len(categories) == 1 else [f"{folder}: a folder of {len(categories)} categories"]
        for category in categories:
            lines += [*([""] if lines else []), *_check_category(category)]
        return lines
    below = [path for path in paths_below(folder) if path.is_dir() and index.has_layout(path)]
    if len(below) == 1 and index.is_line(below[0]):
        return _check_category(below[0])
    deeper = sorted({path.parent for path in below})
    if deeper and not categories:
        lines = [f"{folder}: no category in it, but further below"]
        for root in deeper:
            names = ", ".join(index.list_categories(root))
            lines.append(f"  give --root {shlex.quote(str(root))}, which holds {names}")
        return lines
    return [f"{folder}: {len(pictures)} images in no layout that is read", *_rearrange(folder, pictures)]


def _is_category(folder: Path) -> bool:
    """Whether it has the layout of one, or holds images and no folder of images."""
    return index.has_layout(folder) or any(is_image(path) for path in folder.iterdir())


# --- a category that is read ------------------------------------------------------------------------------------------


def _check_category(folder: Path) -> list[str]:
    root, name = folder.parent, folder.name
    lines = [f"{name}, in {root}"]
    try:
        table = index.read_category(root, name)
    except DataError as problem:
        lines += [f"  not read: {str(problem).partition('; `mvtec-ad check')[0]}"]
        if index.is_line(folder):
            return lines
        pictures = [path for path in paths_below(folder) if is_image(path)]
        return lines + _rearrange(folder, pictures)
    for (split, defect), rows in table.groupby(["split", "defect"], sort=False):
        masks = int((rows["mask_path"] != "").sum())
        state = "good" if defect == "good" else "defective"
        use = (
            f"tested on as {state}" if split == "test" else "fitted on" if state == "good" else "for classifiers alone"
        )
        mask = "" if defect == "good" else f", {masks} with a mask"
        lines.append(f"  {split}/{defect}: {len(rows)} images, {use}{mask}")
    lines += [f"  {line}" for line in [official.report(table)] if line]
    if index.is_line(folder):
        lines.append(f"  {index.describe_items(folder, table)}")
    lines += [f"  not used: {line}" for line in unused(folder, table)]
    lines += [f"  odd: {line}" for line in _odd(table)]
    lines += [f"  to use more: {line}" for line in _move_unused(folder, table)]
    good, defects = ((table["split"] == "test") & (table["label"] == label) for label in (0, 1))
    flags = f"--root {shlex.quote(str(root))} --category {shlex.quote(name)}"
    lines.append(f"  mvtec-ad fit patchcore {flags} --out model.zip")
    if good.any() and defects.any():
        lines.append(f"  mvtec-ad evaluate patchcore {flags}")
    else:
        lines.append("  `evaluate` needs good and defective test images: put some into test/good/ and test/DEFECT/")
    if index.is_line(folder):
        lines.append(f"  mvtec-ad prepare --root {shlex.quote(str(folder))} --packages")
    return lines


def unused(folder: Path, table: pd.DataFrame) -> list[str]:
    """Pictures of a category's folder that are no part of its table, a line a reason."""
    used = {str(path) for path in table["image_path"]}
    for mask in map(Path, set(table["mask_path"]) - {""}):
        used |= {str(mask), *(map(str, mask.iterdir()) if mask.is_dir() else ())}
    reasons: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if str(path) in used or not path.is_file() or path.suffix.lower() not in (*PICTURES, *IMAGE_SUFFIXES):
            continue
        inside = path.relative_to(folder)
        if is_hidden(inside):
            reasons["hidden"].append(path)
        elif not is_image(path):
            reasons[f"{path.suffix} is no format that is read: save as PNG"].append(path)
        else:
            where = inside.parent.as_posix()
            why = "good or defective?" if where.casefold() == "test" else "which is no folder of the layout"
            reasons[f"in {where}/, {why}"].append(path)
    return [f"{len(paths)} files ({reason}), first {paths[0].name}" for reason, paths in reasons.items()]


def _move_unused(folder: Path, table: pd.DataFrame) -> list[str]:
    """Commands that bring images of a category to where they are read."""
    used, lines, suffixes = set(table["image_path"]), [], defaultdict(set)
    for path in paths_below(folder):
        if is_image(path) and str(path) not in used:
            suffixes[path.parent].add(f"*{path.suffix}")
    for parent in sorted(suffixes):
        parts = parent.relative_to(folder).parts
        names = [part.casefold() for part in parts]
        if names[:1] in (["validation"], ["valid"], ["val"]) and names[1:] and _good_name(names[1]):
            lines.append(_move(parent, folder / "train" / "good", suffixes[parent], parts[0]))
        elif names == ["test"]:
            move = _move(parent, parent / "defect", suffixes[parent])
            lines.append(f"{move}  # or {parent.name}/good, where they are good")
        elif len(names) > 2 and names[0] in SPLITS:
            lines.append(_move(parent, folder.joinpath(*parts[:2]), suffixes[parent], parts[-1]))
        elif len(names) > 1 and names[0] in MASK_FOLDERS and not index.subfolder(folder, "ground_truth"):
            start, end = (shlex.quote(str(folder / name)) for name in (parts[0], "ground_truth"))
            lines.append(f"mv -n {start} {end}")
    return list(dict.fromkeys(lines))


@dataclass(frozen=True)
class _Looks:
    """What is compared between the images of a category; numbers of the picture at `SMALL` pixels."""

    size: tuple[int, int] = (0, 0)  # height, width
    hash: str = ""
    brightness: float = np.nan  # mean of 0 … 255
    sharpness: float = np.nan  # variance of the Laplacian beside that of the picture
    bits: int = 8
    problem: str = ""
    mask_problem: str = ""


def _looks(image_path: str, mask_path: str) -> _Looks:
    try:
        stored = read_pixels(image_path)
        pixels, bits = eight_bits(stored), stored_bits(stored)
    except DataError as problem:
        return _Looks(problem=str(problem))
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    gray = resample(gray, min(SMALL, gray.shape[0]), min(SMALL, gray.shape[1]))
    mask_problem = ""
    if mask_path:
        try:
            share = read_mask(mask_path, image_path).mean()
            mask_problem = "" if 0 < share < 0.5 else f"mask {mask_path} marks {share:.0%} of its image"
        except DataError as problem:
            mask_problem = str(problem)
    sharpness = float(cv2.Laplacian(gray, cv2.CV_32F).var() / gray.var()) if gray.var() > 1 else np.nan
    return _Looks(pixels.shape[:2], content_hash(pixels), float(gray.mean()), sharpness, bits, "", mask_problem)


def _odd(table: pd.DataFrame) -> list[str]:
    """What is odd about the images of a category, a line each."""
    rows = list(zip(table["image_path"], table["mask_path"], strict=True))
    with ThreadPoolExecutor() as pool, tqdm(total=len(rows), desc="check", unit="image", leave=False) as bar:
        looks = []
        for image_looks in pool.map(lambda row: _looks(*row), rows):
            looks.append(image_looks)
            bar.update()
    lines = []

    def note(chosen: Sequence[bool] | np.ndarray, words: str) -> None:
        paths = table["image_path"][np.asarray(chosen, bool)]
        if len(paths):
            lines.append(f"{len(paths)} images {words}, first {paths.iloc[0]}")

    for parent, paths in table["image_path"].map(Path).groupby(table["image_path"].map(lambda path: Path(path).parent)):
        if patterns := masks_beside(list(paths)):
            way = "move them to ground_truth, into a folder of its defect's name"
            lines.append(f"{parent}/{min(patterns)} are named as masks of the images beside them: {way}")
    for problems in ([item.problem for item in looks], [item.mask_problem for item in looks]):
        lines += [text if count == 1 else f"{count} files like this: {text}" for text, count in _alike(problems)]
    readable = np.array([not item.problem for item in looks])
    lines += image_notes(table[readable], [item.hash for item in looks if not item.problem])
    sizes = Counter(item.size for item in looks if not item.problem)
    if len(sizes) > 1:
        listed = ", ".join(f"{size[1]}×{size[0]} ({count})" for size, count in sizes.most_common(4))
        lines.append(f"images have {len(sizes)} sizes, and each is squeezed into a square: {listed}")
    elif sizes and max(next(iter(sizes))) > 2 * min(next(iter(sizes))):
        height, width = next(iter(sizes))
        lines.append(
            f"images are {width}×{height} and are squeezed into a square: small defects along the longer side shrink"
        )
    note([item.bits == 12 for item in looks], "hold 12-bit data in 16 bits, and are read as such")
    brightness, sharpness = (np.array([getattr(item, key) for item in looks]) for key in ("brightness", "sharpness"))
    good = readable & (table["label"] == 0).to_numpy()
    if good.sum() >= 5:
        middle = float(np.median(brightness[good]))
        spread = max(20.0, 6 * 1.4826 * float(np.median(np.abs(brightness[good] - middle))))
        note(brightness < middle - spread, f"are much darker than the others (mean {middle:.0f} of 255)")
        note(brightness > middle + spread, f"are much brighter than the others (mean {middle:.0f} of 255)")
        note(
            good & (sharpness < 0.25 * np.nanmedian(sharpness[good])),
            "called good are blurred beside the other good ones",
        )
    note(brightness < 3, "are all but black")
    note(brightness > 252, "are all but white")
    return lines


def _alike(messages: Sequence[str]) -> list[tuple[str, int]]:
    """The first message of each kind and how many there are; messages are of one kind where only a path differs."""
    kinds = Counter(re.sub(r"\S*/\S*", "", message) for message in messages if message)
    first = {re.sub(r"\S*/\S*", "", message): message for message in reversed(messages) if message}
    return [(first[kind], count) for kind, count in kinds.items()]


# --- a folder that is not read ----------------------------------------------------------------------------------------


def _rearrange(folder: Path, pictures: Sequence[Path]) -> list[str]:
    """Commands of a shell that make the folder a category, as far as its names tell what is what."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in pictures:
        folders[path.parent].append(path)
    moves: dict[Path, dict[Path, set[str]]] = defaultdict(dict)  # to -> from -> patterns; masks before images
    for parent, paths in sorted(folders.items()):
        parts = parent.relative_to(folder).parts
        names = [part.casefold() for part in parts]
        split = next((SPLITS[name] for name in names if name in SPLITS), None)
        kinds = _telling(parts)
        if not kinds:
            continue
        kind = "good" if _good_name(kinds[-1]) else kinds[-1]
        images, masks = set(paths), masks_beside(paths)
        if any(name in MASK_FOLDERS for name in names):
            images, masks = set(), {f"*{path.suffix}" for path in paths}
        if masks and kind != "good":
            moves[folder / "ground_truth" / kind][parent] = masks
        images = {path for path in images if not any(path.match(pattern) for pattern in masks)}
        if images:
            part = split or ("train" if kind == "good" else "test")
            moves[folder / part / kind][parent] = {f"*{path.suffix}" for path in images}
    placed = {*moves, *folders}
    if folder / "train" / "good" not in placed:
        held = ", ".join(sorted({path.relative_to(folder).as_posix() for path in folders})[:6])
        names = ", ".join(index.GOOD_NAMES)
        return [f"  no folder is named as one of good images ({names}): rename the one that holds them, of {held}"]
    lines = []
    for target, origins in moves.items():
        for origin, patterns in origins.items():
            if origin != target:
                prefix = "_".join(_telling(origin.relative_to(folder).parts)) if len(origins) > 1 else ""
                lines.append(f"    {_move(origin, target, patterns, prefix)}")
    if folder / "test" / "good" not in placed and any(target.parent == folder / "test" for target in placed):
        good, test = (shlex.quote(str(folder / part / "good")) for part in ("train", "test"))
        move = f'while read -r name; do mv -n {good}/"$name" {test}/; done'
        lines.append(f"    mkdir -p {test} && ls {good} | awk 'NR % 5 == 0' | {move}  # a fifth, to test on")
    return ["  these commands make it a category (`check` it again after them):", *lines] if lines else []


def _telling(parts: Sequence[str]) -> list[str]:
    """The folders whose names tell something of what is in them."""
    return [part for part in parts if part.casefold() not in (*NEUTRAL, *SPLITS, *MASK_FOLDERS)]


def _move(origin: Path, target: Path, patterns: Collection[str], prefix: str = "") -> str:
    """A command that moves the files of a folder into another; a prefix keeps them from those of the same name."""
    start, end = shlex.quote(str(origin)), shlex.quote(str(target))
    files = " ".join(f"{start}/{pattern}" for pattern in sorted(patterns))
    if not prefix:
        return f"mkdir -p {end} && mv -n {files} {end}/"
    prefix = re.sub(r"[^\w.-]+", "_", prefix)
    return f'mkdir -p {end} && for file in {files}; do mv -n "$file" {end}/{prefix}_"${{file##*/}}"; done'


def _good_name(name: str) -> bool:
    """Whether a folder's name tells that what it holds is good: `OK`, `MT_Free`, `no_defect`, but not `not_good`."""
    words = set(re.split(r"[\W_]+", name.casefold()))
    if words & {"no", "not", "non", "without"}:
        return bool(words & {"defect", "defects", "anomaly", "anomalies", "damage", "fault", "faults"})
    return bool(words & {*index.GOOD_NAMES, "free", "intact", "healthy", "flawless", "undamaged"})


def masks_beside(paths: Sequence[Path]) -> set[str]:
    """Patterns of the masks, where a folder holds images and their masks: under one name (a.jpg and a.png), or under
    names of which one tells (a.png and a_mask.png); none elsewhere."""
    suffixes: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        suffixes[path.stem].add(path.suffix)
    pairs = Counter(frozenset(both) for both in suffixes.values() if len(both) == 2).most_common(1)
    if pairs and 2 * pairs[0][1] >= len(suffixes):
        masks = {suffix for suffix in pairs[0][0] if _hold_masks([path for path in paths if path.suffix == suffix])}
        return {f"*{suffix}" for suffix in masks} if len(masks) == 1 else set()
    masks = max((index.named_after(set(suffixes), list(paths), rule) for rule in index.MASK_NAMES[:-1]), key=len)
    if 3 * len(masks) < len(paths):
        return set()
    return {path.name.replace(name, "*", 1) for name, path in masks.items()}


def _hold_masks(paths: Sequence[Path]) -> bool:
    """Whether the first of some files can be understood as masks."""
    for path in paths[:3]:
        try:
            read_mask(path)
        except DataError:
            return False
    return True
