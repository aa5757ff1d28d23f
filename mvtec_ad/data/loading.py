"""Files become arrays, or an error that names the file: decoded, resized, many in parallel.

Images stay uint8 in memory (256×256 RGB: 0.2 MB each) and are turned into floats batch by batch.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import ImageOps, TiffImagePlugin

from mvtec_ad.data import formats
from mvtec_ad.data.masks import marked_pixels, turned
from mvtec_ad.errors import DataError, SettingsError

if TYPE_CHECKING:
    import pandas as pd

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
IN_NETWORK = 200  # bytes a pixel: ResNet-18 holds 64 channels at half the size, several times over
LARGEST = 150_000_000  # pixels of an image or a mask: a line scan of 100 megapixels passes, decompression bombs do not
DEEPEST = 8  # bytes of a pixel: four channels of 16 bits
DAMAGED = "is cut off or damaged: copy it again or remove it"
NO_IMAGE = "cannot be decoded: save it as PNG, JPEG, BMP, WebP or TIFF of 8 or 16 bits, or remove it"
STDERR = formats.Stderr()
SOFTWARE = "mvtec-ad"  # stands in every PNG of `plotting.to_png`: by it a heat map is told from a user's image
IN_ORDER = getattr(cv2, "IMREAD_COLOR_RGB", None)  # OpenCV 4.11 and later: saves turning BGR into RGB, twice for a PNG

if "OPENCV_LOG_LEVEL" not in os.environ:  # what OpenCV prints about a broken file, our one line says with its name
    (cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)


def is_image(path: Path) -> bool:
    """Whether a path is a file with an image's suffix; a hidden one is not: macOS leaves `._a.png` beside `a.png`."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def is_figure(path: Path) -> bool:
    """Whether a file is a figure of `plotting.to_png`, by the first of its notes."""
    try:
        with open(path, "rb") as file:
            return b"tEXtSoftware\0" + SOFTWARE.encode() in file.read(200)
    except OSError:
        return False


def is_hidden(path: Path) -> bool:
    """Whether a part of a relative path is what systems and editors keep for themselves."""
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def paths_below(folder: Path) -> list[Path]:
    """All files and folders at any depth, sorted, but for hidden ones and what is in them."""
    return sorted(path for path in folder.rglob("*") if not is_hidden(path.relative_to(folder)))


def read_image(path: str | Path) -> np.ndarray:
    """Decode one image file at its own size.

    PNG, JPEG, BMP, WebP and TIFF (its first page), whatever the suffix says, of at most `LARGEST` pixels. EXIF rotation
    is applied; gray, palette and CMYK images become RGB. Transparency is dropped: the colours stored below it are the
    image. Of 16 bits the upper 8 are kept, so that 65535 becomes 255; where no value exceeds 4095, those of 12 bits.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataError: the file is missing, unreadable, cut off, damaged, too large or no image, or holds floats (which of
            them is white?).
    """
    return eight_bits(read_pixels(path))


def read_pixels(path: str | Path) -> np.ndarray:
    """`read_image` at the depth it is stored in: (H, W, 3) uint8 or uint16, RGB."""
    return _decode_pixels(_content(path, "image"), f"image {path}")


def decode_image(content: bytes, name: str = "image", largest: int = LARGEST) -> np.ndarray:
    """As `read_image`, of the bytes of a file, (H, W, 3) uint8, RGB.

    Args:
        name: what messages call it.
        largest: pixels that it may have.

    Raises:
        DataError: as for a file.
    """
    check_content(content, name, largest)
    return eight_bits(_decode_pixels(content, name))


def _decode_pixels(content: bytes, name: str) -> np.ndarray:
    """(H, W, 3) uint8 or uint16, RGB, of checked content."""
    if content.startswith(formats.TIFF):
        pixels = _decode_tiff(content)
    else:
        pixels = _decode(content, (IN_ORDER or cv2.IMREAD_COLOR) | cv2.IMREAD_ANYDEPTH)
        if pixels is not None and not IN_ORDER:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if pixels is None:
        raise DataError(f"{name} {DAMAGED if content.startswith(formats.JPEG) else NO_IMAGE}")
    return pixels


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """The upper 8 of the bits that are used, uint8."""
    return pixels if pixels.dtype == np.uint8 else (pixels >> stored_bits(pixels) - 8).astype(np.uint8)


def stored_bits(pixels: np.ndarray) -> int:
    """Bits of a value: of uint16, 12 where none needs more, as industrial cameras store them."""
    return 8 if pixels.dtype == np.uint8 else 12 if pixels.max() < 4096 else 16


def read_mask(path: str | Path, image_path: str | Path | None = None) -> np.ndarray:
    """Decode one mask: (H, W) bool, True on the defect (`masks.marked_pixels` says what counts as marked).

    A folder holds several masks of one image (MVTec LOCO), which are united. With `image_path` the mask comes as that
    image is displayed: where EXIF turns the image, a mask that was drawn on the picture as it is stored is turned too.

    Raises:
        DataError: it cannot be read, or be understood in one way only, or was drawn on an image of another size.
    """
    if Path(path).is_dir():
        parts = [read_mask(part, image_path) for part in sorted(Path(path).iterdir()) if is_image(part)]
        if len({part.shape for part in parts}) != 1:
            what = "masks of different sizes" if parts else "no mask"
            raise DataError(f"mask {path} cannot be read: it is a folder with {what}; export them again, or remove it")
        return np.logical_or.reduce(parts)
    content = _content(path, "mask")
    pixels = _decode(content, cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DataError(f"mask {path} cannot be decoded: save it as PNG, or remove it")
    marked = marked_pixels(pixels, str(path), lossy=content.startswith((formats.JPEG, b"RIFF")))
    _, mask_orientation = formats.shown_shape(content)
    if not content.startswith(formats.TIFF):  # which OpenCV turns even so
        marked = turned(marked, mask_orientation)
    if image_path is None:
        return marked
    shape, orientation = formats.shown_shape(_content(image_path, "image"))
    shape = shape or read_image(image_path).shape[:2]
    fitting = [marked]
    if orientation > 1 and mask_orientation == 1:  # drawn on the picture as it is displayed, or as it is stored?
        fitting.append(turned(marked, orientation))
    fitting = [pixels for pixels in fitting if pixels.shape == shape]
    if not fitting:
        size = f"{marked.shape[1]}×{marked.shape[0]}"
        raise DataError(f"mask {path} is {size} but its image is {shape[1]}×{shape[0]}: export it again")
    if len(fitting) > 1 and not np.array_equal(*fitting):
        raise DataError(
            f"mask {path} may lie as its image is stored or as it is displayed (EXIF orientation {orientation}): save "
            f"{image_path} upright, without EXIF, and draw the mask on that"
        )
    return fitting[0]


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
    check_memory(len(paths), crop or size)
    images = np.empty((len(paths), crop or size, crop or size, 3), np.uint8)
    problems: dict[int, DataError] = {}

    def load(position: int) -> None:
        try:
            images[position] = resize(read_image(paths[position]), size, crop)
        except DataError as problem:
            problems[position] = problem

    _in_parallel(load, len(paths))
    return np.delete(images, list(problems), axis=0) if problems else images, problems


def check_memory(count: int, size: int) -> None:
    """Refuse, before anything is allocated, images that cannot be held: a SettingsError that says how much is missing.

    Counted are the pixels of all, and what a network makes of one of them at the least.
    """
    import psutil

    needed, free = (3 * count + IN_NETWORK) * size**2, psutil.virtual_memory().available
    if needed > free:
        raise SettingsError(
            f"{count} images of {size}×{size} pixels need {needed / 1e9:.3g} GB of memory and {free / 1e9:.3g} are "
            "free: choose a smaller image size"
        )


def load_masks(table: pd.DataFrame, size: int, crop: int | None = None) -> np.ndarray | None:
    """Masks of a table of images at the evaluation resolution, (N, crop, crop) bool; empty where an image has none.

    None when no image has a mask file: then there are no pixel metrics. Where only some defective images have none,
    `masked` says which images pixel metrics can count.
    """
    if not (table["mask_path"] != "").any():
        return None
    masks = np.zeros((len(table), crop or size, crop or size), bool)
    rows = list(table[["mask_path", "image_path"]].itertuples(index=False))

    def load(position: int) -> None:
        row = rows[position]
        if row.mask_path:
            masks[position] = resize(read_mask(row.mask_path, row.image_path), size, crop)

    _in_parallel(load, len(rows))
    return masks


def masked(table: pd.DataFrame) -> np.ndarray:
    """(N,) bool: images whose every pixel is known to be good or defective: good ones, and those with a mask."""
    return ((table["label"] == 0) | (table["mask_path"] != "")).to_numpy()


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
    """All bytes of a file, which must be an image of `LARGEST` pixels at most and not end before it does."""
    try:
        about = os.stat(path)
        if stat.S_ISREG(about.st_mode) and about.st_size <= LARGEST * DEEPEST:
            content = Path(path).read_bytes()
        else:  # reading a pipe would wait for someone who writes into it
            problem = f"of {about.st_size / 1e9:.1f} GB is too large" if stat.S_ISREG(about.st_mode) else "is no file"
            raise DataError(f"{kind} {path} cannot be read, it {problem}: remove it")
    except (OSError, ValueError) as problem:  # a ValueError where the path holds a NUL
        reason = getattr(problem, "strerror", None) or problem
        raise DataError(f"{kind} {path} cannot be read ({reason}): check the path and its permissions") from problem
    check_content(content, f"{kind} {path}")
    return content


def check_content(content: bytes, name: str, largest: int = LARGEST) -> None:
    """Refuse, with a DataError and undecoded, bytes that are no image, too many pixels, or end before it does."""
    if not content:
        raise DataError(f"{name} is empty: copy it again or remove it")
    size = formats.picture_size(content)
    if size and size[0] * size[1] > largest:
        pixels = f"{size[0]}×{size[1]} pixels, {size[0] * size[1] / 1e6:,.0f} million"
        way = f"at most {largest / 1e6:.0f} million are read: cut it into parts, make it smaller, or remove it"
        raise DataError(f"{name} has {pixels}; {way}")
    if not formats.is_whole(content):
        raise DataError(f"{name} {DAMAGED}")
    if size is None:  # nor is it left to OpenCV, which would take what its header asks for
        raise DataError(f"{name} {NO_IMAGE}")


def _decode(content: bytes, flags: int) -> np.ndarray | None:
    """What OpenCV makes of a file; None for what is no image, or a JPEG with a hole."""
    data = np.frombuffer(content, np.uint8)
    try:
        if not content.startswith(formats.JPEG):
            return cv2.imdecode(data, flags)
        with STDERR.damage() as printed:
            pixels = cv2.imdecode(data, flags)
        if any(printed):  # perhaps about the image of another thread
            with STDERR.damage(alone=True) as printed:
                pixels = cv2.imdecode(data, flags)
        return None if any(printed) else pixels
    except cv2.error:  # a header that promises what OpenCV does not know
        return None


def _decode_tiff(content: bytes) -> np.ndarray | None:
    """(H, W, 3) uint8 or uint16, RGB; unlike OpenCV's own way, alpha multiplies no colour, and floats are refused."""
    pixels = _decode(content, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        return None
    with contextlib.suppress(Exception):  # Pillow does not know all kinds of TIFF that OpenCV reads
        picture = TiffImagePlugin.TiffImageFile(io.BytesIO(content))  # reads the header only, and limits no size
        if picture.mode == "RGBA":
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    for part in batches(len(pixels), 256):  # in place: of a line scan another copy is 0.3 GB
        pixels[part] = pixels[part, :, ::-1].copy()
    return pixels
