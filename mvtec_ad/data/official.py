"""Which files of a category are MVTec AD's, byte for byte: damaged, resized or moved images give other figures.

`official_sha256.bin` holds the first 12 bytes of the SHA-256 of each of the 5,354 images of the official archive
(`catalog.ARCHIVE_SHA256`), sorted by path; `write_digests` makes it of the unpacked archive. Names need no list: below
each folder the images are numbered from 000.png on, without a gap. Masks are not compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from mvtec_ad.artifacts import file_sha256
from mvtec_ad.data import formats
from mvtec_ad.data.catalog import CATEGORIES

DIGESTS = "official_sha256.bin"
LENGTH = 12  # bytes of a digest
HEADER = 1 << 20  # bytes of a file that tell its picture's size
SIZES = dict.fromkeys(CATEGORIES, 1024) | {"bottle": 900, "capsule": 1000, "metal_nut": 700, "pill": 800, "tile": 840}


def image_names() -> list[tuple[str, str]]:
    """Category and `SPLIT/DEFECT/NUMBER` of every image of MVTec AD, sorted by path.

    Examples:
        >>> len(image_names()), image_names()[0]
        (5354, ('bottle', 'test/broken_large/000'))
    """
    return [
        (category, f"{split}/{defect}/{number:03d}")
        for category in sorted(CATEGORIES)
        for (split, defect), count in sorted(CATEGORIES[category].counts.items())
        for number in range(count)
    ]


def write_digests(root: Path, path: Path) -> None:
    """Write the digests of the unpacked archive, whose category folders lie below `root`, to `path`."""
    files = [root / category / f"{image}.png" for category, image in image_names()]
    path.write_bytes(b"".join(_digest(file) for file in files))


def _digest(path: Path) -> bytes:
    return bytes.fromhex(file_sha256(path))[:LENGTH]


def _read_digests() -> dict[str, dict[str, bytes]]:
    """Digest by image, for each category."""
    content = resources.files(__package__).joinpath(DIGESTS).read_bytes()
    images: dict[str, dict[str, bytes]] = {category: {} for category in CATEGORIES}
    for position, (category, image) in enumerate(image_names()):
        images[category][image] = content[LENGTH * position : LENGTH * (position + 1)]
    return images


IMAGES = _read_digests()


def report(table: pd.DataFrame, progress: bool = True) -> str:
    """How many images of one category are official files of MVTec AD and how the others differ, in a line.

    An image is official by its bytes, wherever it lies and whatever it is called; one that was saved anew is not.
    Every file is read once. The folder's name counts, and its content: where most files are official ones of another
    category, they are compared with that. `table` is as from `index.read_category`.

    Returns:
        Empty for drawn images, and for the user's own under a name that MVTec AD does not have.

    Examples:
        >>> report(index.read_category("data/mvtec_anomaly_detection", "bottle"))  # doctest: +SKIP
        'bottle: 292 of 292 official'
    """
    if "severity" in table and table["severity"].notna().all():
        return ""
    name, paths = table["category"].iloc[0], list(table["image_path"])
    with ThreadPoolExecutor() as pool:
        files = pool.map(_digest_and_size, paths)
        bar = tqdm(files, desc="official", unit="image", total=len(paths), leave=False, disable=not progress)
        digests, sizes = zip(*bar, strict=True)
    official = {digest: (category, image) for category, images in IMAGES.items() for image, digest in images.items()}
    matches = [official.get(digest, ("", "")) for digest in digests]
    counts = Counter(category for category, _ in matches if category)
    most, count = next(iter(counts.most_common(1)), ("", 0))
    category = most if 2 * count > len(paths) else name
    if category not in IMAGES:
        return f"{name}: {count} of {len(paths)} images are MVTec AD's {most}" if count else ""
    if not counts[category] and {*zip(table["split"], table["defect"], strict=True)} != {*CATEGORIES[category].counts}:
        return f"{name}: none of its {len(paths)} images is an official file of MVTec AD"
    images = [f"{row.split}/{row.defect}/{Path(row.image_path).stem}" for row in table.itertuples()]
    remarks = defaultdict(list)
    for path, image, match, size in zip(paths, images, matches, sizes, strict=True):
        if match != (category, image):
            remarks[_remark(category, image, match, size)].append(f"{image}{Path(path).suffix}")
    present = {origin for of, origin in matches if of == category}
    changed = {image for image, (of, _) in zip(images, matches, strict=True) if not of}
    missing, total = sorted({*IMAGES[category]} - present - changed), len(IMAGES[category])
    start = name if name == category else f"{name} is MVTec AD's {category}"
    parts = [f"{start}: {len(present)} of {total} official"]
    for words, of in sorted(remarks.items(), key=lambda item: -len(item[1])):
        parts.append(f"all {total} {words}" if len(of) == total == len(paths) else f"{len(of)} {words}, first {of[0]}")
    return "; ".join([*parts, *([f"{len(missing)} missing, first {missing[0]}.png"] if missing else [])])


def _digest_and_size(path: str) -> tuple[bytes, tuple[int, int] | None]:
    """Digest of a file and (width, height) of its picture; nothing of one that cannot be read."""
    try:
        with open(path, "rb") as file:
            size = formats.picture_size(file.read(HEADER))
        return _digest(Path(path)), size
    except OSError:
        return b"", None


def _remark(category: str, image: str, match: tuple[str, str], size: tuple[int, int] | None) -> str:
    """What is wrong with a file that lies at `image`; `match` is what it is by its bytes, empty where not official."""
    of, origin = match
    if of == category:
        before, after = (path.rpartition("/")[0] for path in (origin, image))
        return "under another name" if before == after else f"images of {before} lie in {after}"
    if of or image not in IMAGES[category]:
        return "foreign"
    if size in (None, (SIZES[category], SIZES[category])):
        return "with other bytes (damaged, or saved anew)"
    return f"resized to {size[0]}×{size[1]}"
