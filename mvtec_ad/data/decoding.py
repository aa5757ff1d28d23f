"""One image or mask file becomes an array, or an error that names the file."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from mvtec_ad.errors import DataError

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


def read_mask(path: str | Path) -> np.ndarray:
    """Decode one mask file: (H, W) bool, True on the defect: above half of the mask's largest value (255, or 1)."""
    pixels = _decode(_content(path, "mask"), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)  # 1 of 65535 counts as well
    if pixels is None:
        raise DataError(f"mask {path} cannot be decoded: save it as PNG, or remove it")
    return pixels > pixels.max() / 2


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


def check_same_size(mask: np.ndarray, mask_path: str, image_path: str) -> None:
    """A mask drawn at another size than its image is a mix-up, not something to resize away."""
    try:
        with Image.open(image_path) as header:  # reads the size only, no pixels
            width, height = header.size
    except OSError:  # a kind of file that OpenCV decodes and Pillow does not know
        height, width = read_image(image_path).shape[:2]
    if mask.shape not in ((height, width), (width, height)):  # swapped: EXIF turned the image by a quarter
        raise DataError(
            f"mask {mask_path} is {mask.shape[1]}×{mask.shape[0]} but its image is {width}×{height}: export it again"
        )
