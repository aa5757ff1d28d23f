"""Files become arrays, or an error that names the file: decoded, resized, many in parallel.

Images stay uint8 in memory (256×256 RGB: 0.2 MB each) and are turned into floats batch by batch.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from mvtec_ad.errors import DataError, SettingsError

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
IN_ORDER = getattr(cv2, "IMREAD_COLOR_RGB", None)  # OpenCV 4.11 and later: saves turning BGR into RGB, twice for a PNG

if "OPENCV_LOG_LEVEL" not in os.environ:  # what OpenCV prints about a broken file, our one line says with its name
    (cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)


def read_image(path: str | Path) -> np.ndarray:
    """Decode one image file at its own size.

    PNG, JPEG, BMP and TIFF (its first page), whatever the suffix says. EXIF rotation is applied; gray, palette and
    CMYK images become RGB. Transparency is dropped: the colours stored below it are the image. Of 16 bits the upper 8
    are kept, so that 65535 becomes 255; 12-bit data that fill only the lower part of 16 bits come out nearly black:
    multiply them by 16 when exporting.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataError: the file is missing, unreadable, cut off or no image, or holds floats (which of them is white?).
    """
    content = _content(path, "image")
    if content.startswith(TIFF):
        pixels = _decode_tiff(content)
    else:
        pixels = _decode(content, IN_ORDER or cv2.IMREAD_COLOR)
        if pixels is not None and not IN_ORDER:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if pixels is None:
        raise DataError(
            f"image {path} cannot be decoded: save it as PNG, JPEG, BMP or TIFF of 8 or 16 bits, or remove it"
        )
    return pixels


def read_mask(path: str | Path, image_path: str | Path | None = None) -> np.ndarray:
    """Decode one mask file: (H, W) bool, True on the defect: above half of the mask's largest value (255, or 1).

    One drawn at another size than its image, where that is given, is a mix-up, not to be resized away: a DataError.
    """
    pixels = _decode(_content(path, "mask"), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)  # 1 of 65535 counts as well
    if pixels is None:
        raise DataError(f"mask {path} cannot be decoded: save it as PNG, or remove it")
    if image_path is not None:
        try:
            with Image.open(image_path) as header:  # reads the size only, no pixels
                width, height = header.size
        except OSError:  # a kind of file that OpenCV decodes and Pillow does not know
            height, width = read_image(image_path).shape[:2]
        if pixels.shape not in ((height, width), (width, height)):  # swapped: EXIF turned the image by a quarter
            size = f"{pixels.shape[1]}×{pixels.shape[0]}"
            raise DataError(f"mask {path} is {size} but its image is {width}×{height}: export it again")
    return pixels > pixels.max() / 2


def resize(image: np.ndarray, size: int, crop: int | None = None) -> np.ndarray:
    """Resize to a square and cut out its centre.

    Images are averaged over areas along an axis that shrinks (no aliasing) and interpolated linearly along one that
    grows (`resample`). Boolean masks take the nearest pixel, so that a resized mask never grows; a mark thinner than
    the distance of two result pixels may vanish from it, though the image still shows it. A picture that is not square
    is squeezed: a crop to a square would lose the border, and defects there.

    (H, W, 3) uint8 or (H, W) bool become (crop, crop, 3) or (crop, crop), the middle of a square of `size` pixels.
    """
    if image.shape[:2] != (size, size):
        if image.dtype == bool:
            image = cv2.resize(image.view(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST_EXACT).view(bool)
        else:
            image = resample(image, size, size)
    if crop is None or crop == size:
        return image
    if crop > size:
        raise SettingsError(f"crop {crop} is larger than image size {size}: choose a smaller crop")
    start = (size - crop) // 2
    return np.ascontiguousarray(image[start : start + crop, start : start + crop])


def resample(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize, each axis in its own way: area averages where it shrinks, then linear interpolation where it grows.

    OpenCV applies one kind of interpolation to both axes: INTER_LINEAR skips most pixels of a long strip whose short
    side grows, and INTER_AREA averages only where both axes shrink.

    An image is (H, W) or (H, W, 3), uint8 or float32, and stays so.
    """
    smaller = (min(width, image.shape[1]), min(height, image.shape[0]))  # columns, rows
    if smaller != image.shape[1::-1]:
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    if smaller != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def load_images(paths: Sequence[str | Path], size: int, crop: int | None = None) -> np.ndarray:
    """Decode and `resize` many images in parallel: (N, crop, crop, 3) uint8, RGB, in the order of `paths`.

    No path, or a file that cannot be read (the first is named), is a DataError.
    """
    if len(paths) == 0:
        raise DataError("no images to load: the folder or the selection is empty")
    images, problems = load_readable(paths, size, crop)
    if problems:
        raise problems[min(problems)]
    return images


def load_readable(
    paths: Sequence[str | Path], size: int, crop: int | None = None
) -> tuple[np.ndarray, dict[int, DataError]]:
    """As `load_images`, but a file that cannot be read does not cost the others.

    Returns the readable images, in order, and, for each of the others, its position in `paths` and what is wrong.
    """
    images = np.empty((len(paths), crop or size, crop or size, 3), np.uint8)
    problems: dict[int, DataError] = {}

    def load(position: int) -> None:
        try:
            images[position] = resize(read_image(paths[position]), size, crop)
        except DataError as problem:
            problems[position] = problem

    _in_parallel(load, len(paths))
    return np.delete(images, list(problems), axis=0) if problems else images, problems


def load_masks(table: pd.DataFrame, size: int, crop: int | None = None) -> np.ndarray | None:
    """Masks of a table of images at the evaluation resolution, (N, crop, crop) bool; good images get an empty one.

    None when a defective image has no mask file: then there are no pixel metrics.
    """
    if ((table["label"] == 1) & (table["mask_path"] == "")).any():
        return None
    masks = np.zeros((len(table), crop or size, crop or size), bool)
    rows = list(table[["mask_path", "image_path"]].itertuples(index=False))

    def load(position: int) -> None:
        row = rows[position]
        if row.mask_path:
            masks[position] = resize(read_mask(row.mask_path, row.image_path), size, crop)

    _in_parallel(load, len(rows))
    return masks


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices that walk through `count` items, `size` at a time."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _in_parallel(load: Callable[[int], None], count: int) -> None:
    """Call `load(0 … count−1)` from a few threads: decoding releases the interpreter's lock."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(load, range(count)):
            pass


def _content(path: str | Path, kind: str) -> bytes:
    """All bytes of a file, which must not end before its image does."""
    try:
        content = Path(path).read_bytes()
    except OSError as problem:
        raise DataError(
            f"{kind} {path} cannot be read ({problem.strerror or problem}): check the path and its permissions"
        ) from problem
    if not content:
        raise DataError(f"{kind} {path} is empty: copy it again or remove it")
    if not _whole(content):
        raise DataError(f"{kind} {path} is cut off or damaged: copy it again or remove it")
    return content


def _whole(content: bytes) -> bool:
    """Whether a PNG's checksums hold up to its last chunk and a JPEG ends; other formats are left to their decoder.

    Costs a hundredth of decoding. Decoders differ in what they make of half a file: an error, a line on stderr, or a
    picture that is gray from some row on, which would be called a defect.
    """
    if content.startswith(b"\xff\xd8\xff"):  # JPEG: an end of image after the last start of scan; padding may follow
        return content.endswith(b"\xff\xd9") or content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda")
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return True
    view, start = memoryview(content), 8
    while start + 12 <= len(content):  # a chunk: length, type, data, checksum of type and data
        end = start + 8 + int.from_bytes(view[start : start + 4], "big")
        kind, checksum = view[start + 4 : start + 8], view[end : end + 4]
        # an upper-case first letter marks what the picture cannot do without
        if bytes(kind[:1]).isupper() and zlib.crc32(view[start + 4 : end]) != int.from_bytes(checksum, "big"):
            return False
        if kind == b"IEND":
            return True
        start = end + 4
    return False


def _decode(content: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:  # a header that promises more pixels than OpenCV would hold
        return None


def _decode_tiff(content: bytes) -> np.ndarray | None:
    """(H, W, 3) uint8, RGB; unlike OpenCV's own way, colours are not multiplied by alpha, nor floats clipped."""
    pixels = _decode(content, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        return None
    try:
        with Image.open(io.BytesIO(content)) as picture:  # reads the header only
            if picture.mode == "RGBA":
                return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except OSError:
        pass  # Pillow does not know all kinds of TIFF that OpenCV reads
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
