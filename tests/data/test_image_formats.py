"""Images as they come: every kind against Pillow's reading of the same file, or against arrays made by hand."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from mvtec_ad.data import decoding, loading
from mvtec_ad.errors import DataError

RNG = np.random.default_rng(0)
# smooth, so that two JPEG decoders agree, and without any symmetry, so that every orientation is another picture
COLOUR = cv2.resize(RNG.integers(0, 256, (4, 6, 3), np.uint8), (60, 40), interpolation=cv2.INTER_CUBIC)
GRAY = COLOUR[..., 1]
ALPHA = RNG.integers(0, 256, GRAY.shape, np.uint8)
ALPHA[:5], ALPHA[5:9] = 0, 255


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image file in memory."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(folder: Path, content: bytes, name: str = "a.png") -> np.ndarray:
    """What the package makes of a file with this content; its suffix does not matter."""
    (folder / name).write_bytes(content)
    found = decoding.read_image(folder / name)
    assert found.dtype == np.uint8
    assert found.flags["C_CONTIGUOUS"]
    return found


def rgb(gray: np.ndarray) -> np.ndarray:
    """(H, W, 3), three times the same."""
    return np.stack([gray] * 3, -1)


PALETTE = Image.fromarray(COLOUR).quantize(16)
BITS = Image.fromarray(GRAY > 120)
LOSSLESS: dict[str, tuple[bytes, np.ndarray]] = {
    "PNG": (encoded(Image.fromarray(COLOUR), "PNG"), COLOUR),
    "PNG, gray": (encoded(Image.fromarray(GRAY), "PNG"), rgb(GRAY)),
    "PNG, 1 bit": (encoded(BITS, "PNG"), rgb(np.asarray(BITS) * np.uint8(255))),
    "PNG, RGBA": (encoded(Image.fromarray(np.dstack([COLOUR, ALPHA])), "PNG"), COLOUR),
    "PNG, gray and alpha": (encoded(Image.fromarray(np.dstack([GRAY, ALPHA])), "PNG"), rgb(GRAY)),
    "PNG, palette": (encoded(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB"))),
    "PNG, palette, a transparent colour": (encoded(PALETTE, "PNG", transparency=3), np.asarray(PALETTE.convert("RGB"))),
    "PNG, palette, alpha for each": (
        encoded(PALETTE, "PNG", transparency=bytes(range(0, 160, 10))),
        np.asarray(PALETTE.convert("RGB")),
    ),
    "PNG, a transparent colour": (
        encoded(Image.fromarray(COLOUR), "PNG", transparency=tuple(map(int, COLOUR[0, 0]))),
        COLOUR,
    ),
    "BMP": (encoded(Image.fromarray(COLOUR), "BMP"), COLOUR),
    "BMP, gray": (encoded(Image.fromarray(GRAY), "BMP"), rgb(GRAY)),
    "BMP, 1 bit": (encoded(BITS, "BMP"), rgb(np.asarray(BITS) * np.uint8(255))),
    "BMP, palette": (encoded(PALETTE, "BMP"), np.asarray(PALETTE.convert("RGB"))),
    "BMP, 32 bit": (encoded(Image.fromarray(np.dstack([COLOUR, ALPHA])), "BMP"), COLOUR),
    "TIFF": (encoded(Image.fromarray(COLOUR), "TIFF"), COLOUR),
    "TIFF, LZW": (encoded(Image.fromarray(COLOUR), "TIFF", compression="tiff_lzw"), COLOUR),
    "TIFF, deflated": (encoded(Image.fromarray(COLOUR), "TIFF", compression="tiff_adobe_deflate"), COLOUR),
    "TIFF, gray": (encoded(Image.fromarray(GRAY), "TIFF"), rgb(GRAY)),
    "TIFF, fax": (encoded(BITS, "TIFF", compression="group4"), rgb(np.asarray(BITS) * np.uint8(255))),
    "TIFF, RGBA": (encoded(Image.fromarray(np.dstack([COLOUR, ALPHA])), "TIFF"), COLOUR),
    "TIFF, gray and alpha": (encoded(Image.fromarray(np.dstack([GRAY, ALPHA])), "TIFF"), rgb(GRAY)),
    "TIFF, palette": (encoded(PALETTE, "TIFF"), np.asarray(PALETTE.convert("RGB"))),
    "TIFF, CMYK": (encoded(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"), COLOUR),
    "TIFF, two pages": (
        encoded(Image.fromarray(COLOUR), "TIFF", save_all=True, append_images=[Image.fromarray(255 - COLOUR)]),
        COLOUR,
    ),
    "PNG, animated": (
        encoded(Image.fromarray(COLOUR), "PNG", save_all=True, append_images=[Image.fromarray(255 - COLOUR)]),
        COLOUR,
    ),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_kinds_are_read_to_the_pixel(tmp_path: Path, kind: str) -> None:
    """Colours in order; the stored colour also where it is transparent; the first page of several."""
    content, expected = LOSSLESS[kind]
    np.testing.assert_array_equal(read(tmp_path, content), expected)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_an_older_opencv_gives_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """One that only knows BGR."""
    monkeypatch.setattr(decoding, "IN_ORDER", None)
    np.testing.assert_array_equal(read(tmp_path, LOSSLESS[kind][0]), LOSSLESS[kind][1])


CMYK = Image.fromarray(COLOUR).convert("CMYK")
LOSSY: dict[str, tuple[bytes, Image.Image]] = {
    "JPEG": (encoded(Image.fromarray(COLOUR), "JPEG", quality=95), Image.fromarray(COLOUR)),
    "JPEG, gray": (encoded(Image.fromarray(GRAY), "JPEG", quality=95), Image.fromarray(GRAY)),
    "JPEG, progressive": (
        encoded(Image.fromarray(COLOUR), "JPEG", quality=95, progressive=True),
        Image.fromarray(COLOUR),
    ),
    "JPEG, CMYK": (encoded(CMYK, "JPEG", quality=95), CMYK),
    "TIFF, JPEG inside": (
        encoded(Image.fromarray(COLOUR), "TIFF", compression="jpeg", quality=95),
        Image.fromarray(COLOUR),
    ),
    "TIFF, YCbCr": (encoded(Image.fromarray(COLOUR).convert("YCbCr"), "TIFF"), Image.fromarray(COLOUR)),
}


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_kinds_are_near_their_original(tmp_path: Path, kind: str) -> None:
    """Two gray levels in the mean; inverted CMYK or swapped channels would be dozens."""
    content, original = LOSSY[kind]
    found = read(tmp_path, content).astype(int)
    assert np.abs(found - np.asarray(original.convert("RGB"))).mean() < 3


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
    pixels = {
        "TIFF, RGBA": np.dstack([COLOUR, ALPHA]),
        "TIFF, 16 bit": GRAY * np.uint16(257),
    }.get(kind, COLOUR)
    image = Image.fromarray(pixels)
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
    found = read(tmp_path, encoded(Image.fromarray(pixels), kind))
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


@pytest.mark.parametrize("kind", [kind for kind in LOSSLESS | LOSSY if kind != "TIFF, RGBA"])
def test_masks_are_read_from_every_kind(tmp_path: Path, kind: str) -> None:
    """The same area as in the picture, above half of its largest gray."""
    content = (LOSSLESS | LOSSY)[kind][0]
    (tmp_path / "mask.png").write_bytes(content)
    found = decoding.read_mask(tmp_path / "mask.png")
    gray = cv2.cvtColor(read(tmp_path, content), cv2.COLOR_RGB2GRAY)
    clear = np.abs(gray - gray.max() / 2) > 4  # two ways from colours to gray
    np.testing.assert_array_equal(found[clear], (gray > gray.max() / 2)[clear])


@pytest.mark.parametrize("value", [1, 255, 65535])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_mask_may_have_sixteen_bits(tmp_path: Path, kind: str, value: int) -> None:
    """Labelling tools write 0 and 1, or 0 and 255, into 16 bits: the upper byte alone would be an empty mask."""
    mask = np.zeros((9, 8), np.uint16)
    mask[2:5, 3:] = value
    (tmp_path / "mask.png").write_bytes(encoded(Image.fromarray(mask), kind))
    np.testing.assert_array_equal(decoding.read_mask(tmp_path / "mask.png"), mask > 0)


NOISY = np.clip(COLOUR + RNG.normal(0, 4, COLOUR.shape), 0, 255).astype(np.uint8)
WHOLE: dict[str, bytes] = {
    "PNG": encoded(Image.fromarray(NOISY), "PNG"),
    "PNG, many chunks": cv2.imencode(".png", cv2.resize(NOISY, (300, 200)))[1].tobytes(),
    "PNG, palette": LOSSLESS["PNG, palette"][0],
    "JPEG": encoded(Image.fromarray(NOISY), "JPEG"),
    "JPEG, progressive": encoded(Image.fromarray(NOISY), "JPEG", progressive=True),
    "JPEG, thumbnail inside": b"",  # below
    "BMP": encoded(Image.fromarray(NOISY), "BMP"),
    "TIFF": encoded(Image.fromarray(NOISY), "TIFF"),
    "TIFF, LZW": encoded(Image.fromarray(NOISY), "TIFF", compression="tiff_lzw"),
    "TIFF, RGBA": LOSSLESS["TIFF, RGBA"][0],
}
# a whole JPEG, with its own end, in a segment before the picture: where cameras keep a thumbnail
_THUMBNAIL = encoded(Image.fromarray(NOISY[::4, ::4]), "JPEG")
WHOLE["JPEG, thumbnail inside"] = (
    WHOLE["JPEG"][:2] + b"\xff\xe5" + struct.pack(">H", len(_THUMBNAIL) + 2) + _THUMBNAIL + WHOLE["JPEG"][2:]
)


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


def test_readable_images_come_through_beside_broken_ones(tmp_path: Path) -> None:
    """In order, with the position and the reason of the others; nothing at all is fine too."""
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    pictures = RNG.integers(0, 256, (5, 6, 6, 3), np.uint8)
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    paths[1].write_bytes(b"")
    paths[3].unlink()
    images, problems = loading.load_readable(paths, 6)
    np.testing.assert_array_equal(images, pictures[[0, 2, 4]])
    assert sorted(problems) == [1, 3]
    assert "1.png is empty" in str(problems[1])
    assert "3.png cannot be read" in str(problems[3])
    images, problems = loading.load_readable(paths[1:2], 6, 4)
    assert images.shape == (0, 4, 4, 3)
    assert list(problems) == [0]
    with pytest.raises(DataError, match=r"1\.png is empty"):
        loading.load_images(paths, 6)
