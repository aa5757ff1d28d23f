"""Files become arrays: every kind against Pillow's reading of it or arrays made by hand; one resize; masks never grow.

What is caught: swapped or inverted colours, lost bits, a picture not turned upright, half a file taken for a whole one,
aliasing, masks that grow, crops off the centre, order lost between threads.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from mvtec_ad.data import formats, loading
from mvtec_ad.errors import DataError, SettingsError

RNG = np.random.default_rng(0)
# smooth, so that two JPEG decoders agree, and without any symmetry, so that every orientation is another picture
COLOUR = cv2.resize(RNG.integers(0, 256, (4, 6, 3), np.uint8), (60, 40), interpolation=cv2.INTER_CUBIC)
GRAY = COLOUR[..., 1]
ALPHA = RNG.integers(0, 256, GRAY.shape, np.uint8)
ALPHA[:5], ALPHA[5:9] = 0, 255
NOISY = np.clip(COLOUR + RNG.normal(0, 4, COLOUR.shape), 0, 255).astype(np.uint8)
PALETTE = Image.fromarray(COLOUR).quantize(16)
CMYK = Image.fromarray(COLOUR).convert("CMYK")
ANIMATED = {"save_all": True, "append_images": [Image.fromarray(255 - COLOUR)]}


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    """An image file in memory."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def read(folder: Path, content: bytes, name: str = "a.png") -> np.ndarray:
    """What the package makes of a file with this content; its suffix does not matter."""
    (folder / name).write_bytes(content)
    found = loading.read_image(folder / name)
    assert found.dtype == np.uint8
    assert found.flags["C_CONTIGUOUS"]
    return found


def rgb(gray: np.ndarray) -> np.ndarray:
    """(H, W, 3), three times the same."""
    return np.stack([gray] * 3, -1)


COLOURS, BITS = np.asarray(PALETTE.convert("RGB")), rgb((GRAY > 120) * np.uint8(255))  # of a palette, of two values
LOSSLESS: dict[str, tuple[bytes, np.ndarray]] = {
    "PNG": (encoded(COLOUR, "PNG"), COLOUR),
    "PNG, gray": (encoded(GRAY, "PNG"), rgb(GRAY)),
    "PNG, 1 bit": (encoded(GRAY > 120, "PNG"), BITS),
    "PNG, RGBA": (encoded(np.dstack([COLOUR, ALPHA]), "PNG"), COLOUR),
    "PNG, gray and alpha": (encoded(np.dstack([GRAY, ALPHA]), "PNG"), rgb(GRAY)),
    "PNG, palette": (encoded(PALETTE, "PNG"), COLOURS),
    "PNG, palette, a transparent colour": (encoded(PALETTE, "PNG", transparency=3), COLOURS),
    "PNG, palette, alpha for each": (encoded(PALETTE, "PNG", transparency=bytes(range(0, 160, 10))), COLOURS),
    "PNG, a transparent colour": (encoded(COLOUR, "PNG", transparency=tuple(map(int, COLOUR[0, 0]))), COLOUR),
    "PNG, animated": (encoded(COLOUR, "PNG", **ANIMATED), COLOUR),
    "BMP": (encoded(COLOUR, "BMP"), COLOUR),
    "BMP, gray": (encoded(GRAY, "BMP"), rgb(GRAY)),
    "BMP, 1 bit": (encoded(GRAY > 120, "BMP"), BITS),
    "BMP, palette": (encoded(PALETTE, "BMP"), COLOURS),
    "BMP, 32 bit": (encoded(np.dstack([COLOUR, ALPHA]), "BMP"), COLOUR),
    "TIFF": (encoded(COLOUR, "TIFF"), COLOUR),
    "TIFF, LZW": (encoded(COLOUR, "TIFF", compression="tiff_lzw"), COLOUR),
    "TIFF, deflated": (encoded(COLOUR, "TIFF", compression="tiff_adobe_deflate"), COLOUR),
    "TIFF, gray": (encoded(GRAY, "TIFF"), rgb(GRAY)),
    "TIFF, fax": (encoded(GRAY > 120, "TIFF", compression="group4"), BITS),
    "TIFF, RGBA": (encoded(np.dstack([COLOUR, ALPHA]), "TIFF"), COLOUR),
    "TIFF, gray and alpha": (encoded(np.dstack([GRAY, ALPHA]), "TIFF"), rgb(GRAY)),
    "TIFF, palette": (encoded(PALETTE, "TIFF"), COLOURS),
    "TIFF, CMYK": (encoded(CMYK, "TIFF"), COLOUR),
    "TIFF, two pages": (encoded(COLOUR, "TIFF", **ANIMATED), COLOUR),
}
LOSSY: dict[str, tuple[bytes, np.ndarray]] = {
    "JPEG": (encoded(COLOUR, "JPEG", quality=95), COLOUR),
    "JPEG, gray": (encoded(GRAY, "JPEG", quality=95), rgb(GRAY)),
    "JPEG, progressive": (encoded(COLOUR, "JPEG", quality=95, progressive=True), COLOUR),
    "JPEG, CMYK": (encoded(CMYK, "JPEG", quality=95), COLOUR),
    "TIFF, JPEG inside": (encoded(COLOUR, "TIFF", compression="jpeg", quality=95), COLOUR),
    "TIFF, YCbCr": (encoded(Image.fromarray(COLOUR).convert("YCbCr"), "TIFF"), COLOUR),
}


@pytest.mark.parametrize("in_order", [loading.IN_ORDER, None], ids=["", "older OpenCV"])
@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_kinds_are_read_to_the_pixel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, in_order: int | None
) -> None:
    """Colours in order, also by an OpenCV that only knows BGR; those stored where it is transparent; the first page."""
    monkeypatch.setattr(loading, "IN_ORDER", in_order)
    content, expected = LOSSLESS[kind]
    np.testing.assert_array_equal(read(tmp_path, content), expected)


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_kinds_are_near_their_original(tmp_path: Path, kind: str) -> None:
    """Two gray levels in the mean; inverted CMYK or swapped channels would be dozens."""
    content, original = LOSSY[kind]
    found = read(tmp_path, content).astype(int)
    assert np.abs(found - original).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_keep_their_upper_byte(tmp_path: Path, suffix: str, channels: int) -> None:
    """0 … 65535 onto 0 … 255, every value, nothing clipped; alpha dropped; 12-bit data come out 16 times too dark."""
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    deep = np.stack([deep, deep[::-1], deep.T, deep[:, ::-1]][:channels], -1).squeeze()
    stored = deep if channels == 1 else np.dstack([deep[..., 2::-1], deep[..., 3:]])  # OpenCV writes BGR(A)
    expected = deep // 256
    expected = rgb(expected) if channels == 1 else expected[..., :3]
    np.testing.assert_array_equal(read(tmp_path, cv2.imencode(suffix, stored)[1].tobytes()), expected)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Length, type, data and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_are_spread_over_eight(tmp_path: Path, depth: int) -> None:
    """Gray PNG of 1, 2 and 4 bits, written by hand: its largest value is white."""
    values = RNG.integers(0, 2**depth, (7, 16), np.uint8)
    bits = np.unpackbits(values[..., None], axis=-1)[..., -depth:].reshape(7, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    header = struct.pack(">IIBBBBB", 16, 7, depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    np.testing.assert_array_equal(read(tmp_path, content), rgb(values * np.uint8(255 // (2**depth - 1))))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiff_without_a_white_is_refused(tmp_path: Path, dtype: type, channels: int) -> None:
    """Floats and wide integers do not say which value is white; clipped to 8 bits they would be nonsense."""
    numbers = (RNG.random((9, 8, channels)) * 300).astype(dtype).squeeze()
    with pytest.raises(DataError, match=r"a\.tiff cannot be decoded: save it as PNG, .* of 8 or 16 bits"):
        read(tmp_path, cv2.imencode(".tiff", numbers)[1].tobytes(), "a.tiff")


# EXIF 2.3, 4.6.4: where row 0 and column 0 of the stored picture lie in the picture that was taken
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "TIFF, RGBA", "TIFF, 16 bit"])
def test_every_orientation_is_turned_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    """By the definition in the standard, and as Pillow turns it."""
    pixels = {"TIFF, RGBA": np.dstack([COLOUR, ALPHA]), "TIFF, 16 bit": GRAY * np.uint16(257)}
    image = Image.fromarray(pixels.get(kind, COLOUR))
    exif = image.getexif()
    exif[0x0112] = orientation
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    content = encoded(image, kind.split(",")[0], exif=exif, **options)
    found = read(tmp_path, content).astype(int)
    expected = UPRIGHT[orientation](rgb(GRAY) if "16" in kind else COLOUR)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < (2 if kind == "JPEG" else 1e-9)
    with Image.open(io.BytesIO(content)) as opened:
        turned = ImageOps.exif_transpose(opened)
        assert turned.size == (found.shape[1], found.shape[0])


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (20, 3000), (3000, 20), (33, 1025)])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_any_size_and_aspect(tmp_path: Path, kind: str, shape: tuple[int, int]) -> None:
    """To the pixel; and squeezed into the square that models want, with the right mean."""
    pixels = RNG.integers(0, 256, (*shape, 3), np.uint8)
    found = read(tmp_path, encoded(pixels, kind))
    np.testing.assert_array_equal(found, pixels)
    square = loading.resize(found, 24)
    assert square.shape == (24, 24, 3)
    if min(shape) >= 24:  # areas only, no interpolation
        np.testing.assert_allclose(square.mean((0, 1)), pixels.mean((0, 1)), atol=1)


@pytest.mark.parametrize(
    "name", ["A.PNG", "photo.JPeG", "ein Bild — größer.TIF", "写真 1.bmp", "a.b.c.png", "emoji 🔩.png"]
)
def test_any_name(tmp_path: Path, name: str) -> None:
    """Spaces, other alphabets, upper-case suffixes, and suffixes of another format."""
    np.testing.assert_array_equal(read(tmp_path, LOSSLESS["PNG"][0], name), COLOUR)


JPEG = encoded(NOISY, "JPEG")
# a whole JPEG, with its own end, in a segment before the picture: where cameras keep a thumbnail
_THUMBNAIL = encoded(NOISY[::4, ::4].copy(), "JPEG")
WHOLE: dict[str, bytes] = {
    "PNG": encoded(NOISY, "PNG"),
    "PNG, many chunks": cv2.imencode(".png", cv2.resize(NOISY, (300, 200)))[1].tobytes(),
    "PNG, palette": LOSSLESS["PNG, palette"][0],
    "JPEG": JPEG,
    "JPEG, progressive": encoded(NOISY, "JPEG", progressive=True),
    "JPEG, thumbnail inside": JPEG[:2] + b"\xff\xe5" + struct.pack(">H", len(_THUMBNAIL) + 2) + _THUMBNAIL + JPEG[2:],
    "BMP": encoded(NOISY, "BMP"),
    "TIFF": encoded(NOISY, "TIFF"),
    "TIFF, LZW": encoded(NOISY, "TIFF", compression="tiff_lzw"),
    "TIFF, RGBA": LOSSLESS["TIFF, RGBA"][0],
}


@pytest.mark.parametrize("kind", WHOLE)
def test_no_truncated_image_is_taken_for_a_whole_one(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Cut at sixty places, the last bytes among them; silently, for the one line to be said is the caller's."""
    whole = WHOLE[kind]
    expected = read(tmp_path, whole, "photo")
    cuts = sorted({*np.linspace(1, len(whole) - 1, 50, dtype=int), *range(len(whole) - 10, len(whole))})
    for cut in cuts:
        with pytest.raises(DataError, match=r"image .*photo (is cut off|cannot be decoded)"):
            read(tmp_path, whole[:cut], "photo")
    captured = capfd.readouterr()
    assert captured.err == ""
    np.testing.assert_array_equal(read(tmp_path, whole, "photo"), expected)


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if kind.startswith(("PNG", "JPEG"))])
def test_a_download_filled_up_with_zeros_is_refused(tmp_path: Path, kind: str) -> None:
    """The right length, and nothing but zeros from some byte on."""
    whole = WHOLE[kind]
    for cut in np.linspace(len(whole) // 3, len(whole) - 3, 20, dtype=int):
        with pytest.raises(DataError, match="photo"):
            read(tmp_path, whole[:cut] + bytes(len(whole) - cut), "photo")


def test_any_flipped_byte_of_a_png_is_noticed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its checksums see what decompresses to another picture; libpng does not get to complain on stderr."""
    whole = WHOLE["PNG"]
    for position in range(8, len(whole) - 8, len(whole) // 100):
        flipped = bytearray(whole)
        flipped[position] ^= 0x10
        with pytest.raises(DataError, match="is cut off or damaged"):
            read(tmp_path, bytes(flipped))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "JPEG, progressive", "JPEG, thumbnail inside"])
@pytest.mark.parametrize("tail", [b"\0" * 512, b"camera's own notes", b"\r\n"])
def test_what_follows_the_end_of_an_image_does_not_matter(tmp_path: Path, kind: str, tail: bytes) -> None:
    """Cameras pad files and append notes."""
    np.testing.assert_array_equal(read(tmp_path, WHOLE[kind] + tail), read(tmp_path, WHOLE[kind]))


def test_a_wrong_checksum_of_a_note_does_not_matter(tmp_path: Path) -> None:
    """A PNG is only refused for what its picture needs."""
    note = png_chunk(b"tEXt", b"Comment\0by hand")[:-1] + b"?"
    content = LOSSLESS["PNG"][0]
    header = 8 + 25  # signature and IHDR
    np.testing.assert_array_equal(read(tmp_path, content[:header] + note + content[header:]), COLOUR)


def damaged(whole: bytes, fill: bytes) -> bytes:
    """A file with a hole in its middle."""
    middle = len(whole) // 2
    return whole[:middle] + fill + whole[middle + len(fill) :]


LONG = encoded(np.clip(RNG.normal(120, 20, (200, 200, 3)), 0, 255).astype(np.uint8), "JPEG", quality=90)


@pytest.mark.parametrize("fill", [bytes(250), b"\xff" * 250, RNG.bytes(2000)], ids=["zeros", "ones", "noise"])
@pytest.mark.parametrize("kind", ["JPEG", "JPEG, progressive", "PNG"])
def test_an_image_with_a_hole_is_refused(
    tmp_path: Path, kind: str, fill: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """libjpeg decodes on and tells the console alone, which stays silent; what others print there is not lost."""
    with Image.open(io.BytesIO(LONG)) as image:
        whole = encoded(image, kind.split(",")[0], **({"progressive": True} if "," in kind else {}))
    assert read(tmp_path, whole).shape == (200, 200, 3)
    with pytest.raises(DataError, match=r"a\.png is cut off or damaged: copy it again or remove it"):
        read(tmp_path, damaged(whole, fill))
    assert capfd.readouterr().err == ""
    with loading.STDERR.damage() as printed:
        os.write(2, b"of another library\n")
    assert printed == [False]
    assert capfd.readouterr().err == "of another library\n"


@pytest.mark.parametrize("length", [70, 100])
def test_a_run_of_zeros_is_refused_wherever_it_lies(tmp_path: Path, length: int) -> None:
    """Zeros are codes, of which libjpeg makes a picture without a word: it decodes most of these."""
    smooth = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8), (5, 5), 1)
    whole = encoded(smooth, "JPEG", quality=90)
    scan = whole.rfind(b"\xff\xda") + 20
    for start in range(scan, len(whole) - length - 4, 97):
        with pytest.raises(DataError, match="is cut off or damaged"):
            read(tmp_path, whole[:start] + bytes(length) + whole[start + length :])


def test_the_hole_is_in_the_image_that_has_it(tmp_path: Path) -> None:
    """Many threads decode at once and share one console: none is blamed for another's."""
    paths = [tmp_path / f"{number}.jpg" for number in range(24)]
    for number, path in enumerate(paths):
        path.write_bytes(damaged(LONG, RNG.bytes(2000)) if number % 5 == 0 else LONG)
    images, problems = loading.load_readable(paths, 32)
    assert sorted(problems) == [0, 5, 10, 15, 20]
    assert (images == images[0]).all()


def test_padding_that_cameras_add_is_no_damage(tmp_path: Path) -> None:
    """A few bytes before the end of a JPEG, at which libjpeg wonders; and zeros are what a flat picture is coded as."""
    padded = LONG[:-2] + bytes(4) + LONG[-2:]
    np.testing.assert_array_equal(read(tmp_path, padded), read(tmp_path, LONG))
    with pytest.raises(DataError, match="is cut off or damaged"):  # so many were part of the picture
        read(tmp_path, LONG[:-2] + b"\x11" * 40 + LONG[-2:])
    flat = encoded(np.full((400, 400, 3), 77, np.uint8), "JPEG", optimize=True)
    assert bytes(64) in flat
    assert read(tmp_path, flat).shape == (400, 400, 3)


def sized(kind: str, width: int, height: int) -> bytes:
    """An image file whose header tells of so many pixels, whatever follows."""
    content = bytearray(encoded(COLOUR, kind.split(",")[0], **({"lossless": True} if "lossless" in kind else {})))
    if kind == "PNG":
        return (
            bytes(content[:8]) + png_chunk(b"IHDR", struct.pack(">II", width, height) + content[24:29]) + content[33:]
        )
    if kind == "BMP":
        content[18:26] = struct.pack("<ii", width, -height)
    elif kind == "JPEG":
        frame = content.index(b"\xff\xc0")
        content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    elif kind == "WEBP":
        content[26:30] = struct.pack("<HH", width, height)
    elif kind == "WEBP, lossless":
        content[21:25] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    else:  # TIFF: tags 256 and 257 of its first directory, one number each
        for tag, value in ((256, width), (257, height)):
            entry = content.index(struct.pack("<HH", tag, 4) + struct.pack("<I", 1))
            content[entry + 8 : entry + 12] = struct.pack("<I", value)
    return bytes(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "WEBP, lossless"])
def test_a_header_that_promises_too_many_pixels_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images and masks alike, before a decoder takes the memory; Pillow's error and its warning never come up."""
    assert formats.picture_size(sized(kind, 60, 40)) == (60, 40)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    for width, height in ((15000, 10001), (16000, 16000)) if "WEBP" in kind else ((15000, 10001), (30000, 30000)):
        path = tmp_path / "bomb.png"
        path.write_bytes(sized(kind, width, height))
        for call, word in ((loading.read_image, "image"), (loading.read_mask, "mask")):
            with pytest.raises(
                DataError, match=f"{word} .*bomb.png has {width}×{height} pixels, .* at most 150 million"
            ):
                call(path)


@pytest.mark.parametrize("kind", ["WEBP", "WEBP, lossless", "WEBP, EXIF"])
def test_webp_is_read(tmp_path: Path, kind: str) -> None:
    """Its three headers; cut off, it is none."""
    more = {"lossless": {"lossless": True}, "EXIF": {"exif": Image.Exif(), "quality": 95}}.get(
        kind[6:], {"quality": 95}
    )
    content = encoded(COLOUR, "WEBP", **more)
    found = read(tmp_path, content).astype(int)
    assert np.abs(found - COLOUR).mean() < (1e-9 if "lossless" in kind else 4)
    for cut in (20, len(content) // 2, len(content) - 2):
        with pytest.raises(DataError, match=r"cut off or damaged|cannot be decoded"):
            read(tmp_path, content[:cut])


@pytest.mark.parametrize("kind", ["GIF", "PPM", "JPEG2000"])
def test_other_formats_are_refused(tmp_path: Path, kind: str) -> None:
    """Nobody here reads what size they promise."""
    with pytest.raises(DataError, match="cannot be decoded: save it as PNG"):
        read(tmp_path, encoded(COLOUR, kind))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe would be waited for, a folder and a link to nowhere hold no picture; a huge file is not even read."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere")
    for name, words in (("pipe", "is no file"), ("folder", "is no file"), ("link", "No such file or directory")):
        with pytest.raises(DataError, match=f"image .*{name}.png cannot be read.*{words}"):
            loading.read_image(tmp_path / f"{name}.png")
    monkeypatch.setattr(loading, "DEEPEST", 1e-6)
    with pytest.raises(DataError, match="too large"):
        read(tmp_path, LOSSLESS["PNG"][0])


# --- one resize ---


def area_weights(source: int, target: int) -> np.ndarray:
    """(target, source): which share of each source pixel lies in a target pixel, rows adding up to 1."""
    scale = source / target
    edges = np.arange(source)
    left, right = np.arange(target)[:, None] * scale, (np.arange(target)[:, None] + 1) * scale
    return np.clip(np.minimum(right, edges + 1) - np.maximum(left, edges), 0, None) / scale


@pytest.mark.parametrize(("shape", "size"), [((24, 36), 12), ((24, 36), 4), ((90, 50), 32), ((45, 45), 32)])
def test_shrinking_averages_over_areas(shape: tuple[int, int], size: int) -> None:
    """Against the matrix product of coverages; no aliasing, whatever the factor."""
    image = RNG.integers(0, 256, (*shape, 3), np.uint8)
    expected = np.einsum("ih,hwc,jw->ijc", area_weights(shape[0], size), image, area_weights(shape[1], size))
    assert np.abs(loading.resize(image, size) - expected).max() <= 1


def test_growing_interpolates() -> None:
    """A ramp stays a ramp, and nothing leaves the range of the image."""
    ramp = np.repeat(np.linspace(10, 200, 16).astype(np.uint8)[None, :, None], 16, 0).repeat(3, 2)
    large = loading.resize(ramp, 64).astype(int)
    assert large.shape == (64, 64, 3)
    assert (np.diff(large, axis=1) >= 0).all()
    assert (large.min(), large.max()) == (10, 200)
    centres = np.clip((np.arange(64) + 0.5) / 4 - 0.5, 0, 15)
    assert np.abs(large[0, :, 0] - np.interp(centres, np.arange(16), ramp[0, :, 0])).max() <= 1


@pytest.mark.parametrize("transposed", [False, True])
def test_a_line_across_a_long_strip_stays(transposed: bool) -> None:
    """4 of 2000 pixels are 0.512 of a cell of 256: one cell or two darken by that in all, wherever the line is."""
    share = 4 * 256 / 2000
    for start in (*range(125), *range(1997 - 125, 1997)):  # 125 pixels are 16 cells: all ways to lie on the cells
        strip = np.full((20, 2000, 3), 250, np.uint8)
        strip[:, start : start + 4] = 10
        found = loading.resize(strip.transpose(1, 0, 2) if transposed else strip, 256)
        darker = 250 - found.astype(float).mean((1, 2) if transposed else (0, 2))
        assert darker.max() >= 240 * share / 2 - 1, start
        assert abs(darker.sum() - 240 * share) <= 1, start


@pytest.mark.parametrize(("shape", "size"), [((20, 200), 64), ((200, 20), 64), ((63, 65), 64), ((1, 999), 32)])
def test_each_axis_is_resized_in_its_own_way(shape: tuple[int, int], size: int) -> None:
    """Area averages along the one that shrinks, then a straight line between pixel centres along the other."""
    image = RNG.integers(0, 256, (*shape, 3), np.uint8)
    growing = int(np.argmin(shape))
    averaged = np.moveaxis(image, 1 - growing, 0).astype(float)  # (long, short, 3)
    averaged = np.tensordot(area_weights(len(averaged), size), averaged, 1)  # (size, short, 3)
    places = (np.arange(size) + 0.5) * shape[growing] / size - 0.5
    columns = [np.interp(places, np.arange(shape[growing]), one) for row in averaged for one in row.T]
    expected = np.reshape(columns, (size, 3, size)).transpose((2, 0, 1) if growing == 0 else (0, 2, 1))
    found = loading.resize(image, size)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1.5  # rounded twice


@pytest.mark.parametrize("shape", [(300, 150), (100, 64), (128, 192), (40, 63), (64, 9)])
def test_where_no_axis_disagrees_opencv_does_it_alone(shape: tuple[int, int]) -> None:
    """Bit by bit: published numbers were measured on such images."""
    flag = cv2.INTER_AREA if min(shape) >= 64 else cv2.INTER_LINEAR
    image = RNG.integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(loading.resize(image, 64), cv2.resize(image, (64, 64), interpolation=flag))


def test_maps_are_resampled_to_any_shape() -> None:
    """(H, W) float32: the mean of a map is the same after it shrank to a strip and grew along it."""
    values = RNG.random((64, 64), np.float32)
    found = loading.resample(values, 8, 640)
    assert (found.shape, found.dtype) == ((8, 640), np.float32)
    assert abs(found.mean() - values.mean()) < 0.01
    np.testing.assert_array_equal(loading.resample(values, 64, 64), values)


@pytest.mark.parametrize(("shape", "size"), [((90, 90), 32), ((45, 45), 22), ((30, 60), 30), ((16, 16), 48)])
def test_masks_take_the_nearest_pixel(shape: tuple[int, int], size: int) -> None:
    """Every pixel of the result is one of the source: masks never grow, and stay bool."""
    mask = np.zeros(shape, bool)
    mask[shape[0] // 3 : shape[0] // 2, 5:9] = True
    mask ^= RNG.random(shape) < 0.1
    rows = np.floor((np.arange(size) + 0.5) * shape[0] / size).astype(int)
    columns = np.floor((np.arange(size) + 0.5) * shape[1] / size).astype(int)
    found = loading.resize(mask, size)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask[np.ix_(rows, columns)])


@pytest.mark.parametrize(("size", "crop", "start"), [(20, 12, 4), (21, 12, 4), (20, 20, 0), (20, 1, 9)])
def test_the_crop_is_the_centre(size: int, crop: int, start: int) -> None:
    """As torchvision's CenterCrop at even margins."""
    image = RNG.integers(0, 256, (size, size, 3), np.uint8)
    found = loading.resize(image, size, crop)
    np.testing.assert_array_equal(found, image[start : start + crop, start : start + crop])
    assert found.flags["C_CONTIGUOUS"]
    with pytest.raises(SettingsError, match=f"crop {size + 1} is larger than image size {size}"):
        loading.resize(image, size, size + 1)


@pytest.mark.parametrize(("count", "size"), [(10, 3), (9, 3), (2, 5), (0, 4)])
def test_batches_walk_through_everything_once(count: int, size: int) -> None:
    """In order, none larger than asked for."""
    walked = [list(range(count))[part] for part in loading.batches(count, size)]
    assert [position for part in walked for position in part] == list(range(count))
    assert all(0 < len(part) <= size for part in walked)


# --- files that cannot be read, many files ----------------------------------------------------------------------------


HARM: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "foreign": lambda path: path.write_text("not an image at all"),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("harm", HARM)
def test_readable_images_come_through_beside_broken_ones(tmp_path: Path, harm: str) -> None:
    """In order, though decoded in parallel, with position and reason of the others: one line with the path."""
    pictures = RNG.integers(0, 256, (30, 10, 10, 3), np.uint8)
    paths = [tmp_path / f"{index}.png" for index in range(30)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    np.testing.assert_array_equal(loading.load_images(paths, 10, 6), pictures[:, 2:8, 2:8])
    for broken in (21, 3):
        HARM[harm](paths[broken])
    images, problems = loading.load_readable(paths, 10)
    np.testing.assert_array_equal(images, np.delete(pictures, [3, 21], 0))
    assert sorted(problems) == [3, 21]
    assert loading.load_readable(paths[3:4], 6, 4)[0].shape == (0, 4, 4, 3)
    for call in (lambda: loading.load_images(paths, 8), lambda: loading.read_mask(paths[3])):
        with pytest.raises(DataError, match=r"3\.png (is empty|cannot be)") as caught:
            call()
        assert str(paths[3]) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no images to load"):
        loading.load_images([], 8)


def test_masks_of_a_table(tmp_path: Path) -> None:
    """Good images get an empty one; size and crop are those of the images; without a file there are none at all."""
    masks = np.zeros((2, 16, 16), bool)
    masks[1, 4:9, 3:12] = True
    for index, mask in enumerate(masks):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / f"{index}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"{index}_mask.png")
    files = {"image_path": [str(tmp_path / f"{i}.png") for i in range(2)], "mask_path": ["", f"{tmp_path}/1_mask.png"]}
    table = pd.DataFrame({"label": [0, 1], **files})
    found = loading.load_masks(table, 16)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, masks)
    np.testing.assert_array_equal(loading.load_masks(table, 16, 8), masks[:, 4:12, 4:12])
    assert loading.load_masks(table.assign(mask_path=""), 16) is None  # no pixel metric on half of the truth
    Image.fromarray(np.zeros((16, 24), np.uint8)).save(table["mask_path"][1])
    with pytest.raises(DataError, match=r"1_mask\.png is 24×16 but its image is 16×16") as caught:
        loading.load_masks(table, 16)
    assert "\n" not in str(caught.value)
