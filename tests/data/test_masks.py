"""Masks as people have them: each kind is understood as whoever drew it meant it, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from mvtec_ad.data import formats, loading
from mvtec_ad.data.masks import marked_pixels, turned
from mvtec_ad.errors import DataError


def blobs() -> np.ndarray:
    """(60, 80) bool: two marks, neither at the border."""
    marks = np.zeros((60, 80), bool)
    marks[10:22, 12:40] = marks[35:50, 50:66] = True
    return marks


MARKS = blobs()
FIRST = MARKS & (np.arange(80) < 45)  # one of the two


def values(background: int, first: int, second: int, dtype: type = np.uint8) -> np.ndarray:
    """The two marks with a value each."""
    return np.where(FIRST, first, np.where(MARKS, second, background)).astype(dtype)


def colours(background: tuple[int, ...], first: tuple[int, ...], second: tuple[int, ...]) -> np.ndarray:
    channels = zip(background, first, second, strict=True)
    return np.stack([values(*channel) for channel in channels], axis=-1)


UNDERSTOOD: dict[str, np.ndarray] = {
    "0 and 255": values(0, 255, 255),
    "0 and 1": values(0, 1, 1),
    "0 and 65535": values(0, 65535, 65535, np.uint16),
    "0 and 1 in 16 bits": values(0, 1, 1, np.uint16),
    "class numbers 1 and 3": values(0, 1, 3),
    "class numbers 2 and 4": values(0, 2, 4),
    "class numbers 1 and 20": values(0, 1, 20),
    "gray classes 85 and 255": values(0, 85, 255),
    "gray classes 200 and 255": values(0, 200, 255),
    "dark on white": values(255, 0, 0),
    "colours of classes": colours((0, 0, 0), (128, 0, 0), (0, 0, 200)),
    "painted on a transparent ground": colours((255, 255, 255, 0), (200, 0, 0, 255), (0, 90, 0, 255)),
    "black on a transparent ground": colours((0, 0, 0, 0), (0, 0, 0, 255), (0, 0, 0, 255)),
    "opaque, with an alpha": colours((0, 0, 0, 255), (255, 255, 255, 255), (255, 255, 255, 255)),
}


@pytest.mark.parametrize("kind", UNDERSTOOD)
def test_every_mark_counts(kind: str, tmp_path: Path) -> None:
    """Those that were drawn, whatever with; also out of a file."""
    np.testing.assert_array_equal(marked_pixels(UNDERSTOOD[kind], "x"), MARKS)
    pixels = UNDERSTOOD[kind]
    cv2.imwrite(str(tmp_path / "m.png"), pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.ndim == 3 else pixels)
    np.testing.assert_array_equal(loading.read_mask(tmp_path / "m.png"), MARKS)


def test_palettes_and_bits(tmp_path: Path) -> None:
    """The indexed PNG that LabelMe writes, whose first colours are dark, and a black-and-white one."""
    indexed = Image.fromarray(values(0, 1, 2)).convert("P")
    indexed.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    indexed.save(tmp_path / "p.png")
    Image.fromarray(MARKS).save(tmp_path / "b.png")
    for name in ("p.png", "b.png"):
        np.testing.assert_array_equal(loading.read_mask(tmp_path / name), MARKS)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_noise_of_a_jpeg_is_no_mark(quality: int, tmp_path: Path) -> None:
    """The marks, to two pixels at their edges."""
    Image.fromarray(values(0, 255, 255)).save(tmp_path / "m.jpg", quality=quality)
    read = loading.read_mask(tmp_path / "m.jpg")
    square = np.ones((5, 5), np.uint8)
    assert read[cv2.erode(MARKS.astype(np.uint8), square) > 0].all()
    assert not read[cv2.dilate(MARKS.astype(np.uint8), square) == 0].any()
    Image.fromarray(loading.cv2.imread(str(tmp_path / "m.jpg"), 0)).save(tmp_path / "again.png")  # its noise kept
    np.testing.assert_array_equal(loading.read_mask(tmp_path / "again.png"), read)


def test_soft_edges_are_cut_in_the_middle() -> None:
    """Above half of the largest value, as official scripts do."""
    soft = cv2.GaussianBlur(values(0, 255, 255), (9, 9), 2)
    np.testing.assert_array_equal(marked_pixels(soft, "x"), soft > soft.max() / 2)
    np.testing.assert_array_equal(
        marked_pixels(np.array([[0, 127, 128, 255]], np.uint8), "x"), [[False] * 2 + [True] * 2]
    )
    assert not marked_pixels(np.zeros((4, 5), np.uint8), "x").any()


def photograph() -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8), (5, 5), 1)


REFUSED: dict[str, tuple[np.ndarray, bool]] = {
    r"value 255 everywhere": (np.full((6, 7), 255, np.uint8), False),
    r"value 1 everywhere": (np.ones((6, 7), np.uint8), False),
    r"values 0, 1, 255: is 255 a class, or to be ignored": (values(0, 1, 255), False),
    r"values 1, 2, 3, and it is unclear which of them is no defect": (values(1, 2, 3), False),
    r"values 0, 1, 3, and it is unclear": (values(0, 1, 3), True),  # a JPEG's noise?
    r"too many to tell which are marks": (photograph() - photograph().min(), False),
    r"by its colours than by its transparency": (colours((0, 0, 0, 0), (0, 0, 0, 255), (9, 0, 0, 255)), False),
    r"holds float32 numbers": (MARKS.astype(np.float32), False),
    r"8\d% of its image and the frame: is it dark on white": (np.where(MARKS, 0, 255)[15:], False),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(words: str) -> None:
    """With the file's name and the values in it."""
    pixels, lossy = REFUSED[words]
    with pytest.raises(DataError, match=words) as caught:
        marked_pixels(pixels if pixels.dtype != np.int64 else pixels.astype(np.uint8), "part/000.png", lossy=lossy)
    assert "part/000.png" in str(caught.value)


def test_a_weak_soft_mark_is_not_dropped_in_silence() -> None:
    """Beside a strong one: whoever drew it may have meant both."""
    weak = np.where(FIRST, values(0, 255, 0), values(0, 0, 100)).astype(np.uint8)
    soft = cv2.GaussianBlur(weak, (9, 9), 2)
    with pytest.raises(DataError, match="too many to tell"):
        marked_pixels(soft, "x")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_is_what_pillow_does(orientation: int) -> None:
    """All eight orientations."""
    picture = Image.fromarray(values(3, 90, 200))
    picture.getexif()[274] = orientation
    np.testing.assert_array_equal(turned(values(3, 90, 200), orientation), np.asarray(ImageOps.exif_transpose(picture)))


def save_turned(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp", "bmp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_tells_size_and_orientation(kind: str, orientation: int, tmp_path: Path) -> None:
    """As Pillow reads them, which warns about odd files."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    content = save_turned(tmp_path / f"i.{kind}", pixels, orientation).read_bytes()
    with Image.open(tmp_path / f"i.{kind}") as picture:
        expected = ImageOps.exif_transpose(picture)
        assert formats.shown_shape(content) == (expected.size[::-1], 1 if kind == "bmp" else orientation)
    assert expected.size[::-1] == loading.read_image(tmp_path / f"i.{kind}").shape[:2]


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_on_the_picture_as_it_is_stored_is_turned_with_it(kind: str, orientation: int, tmp_path: Path) -> None:
    """A camera's quarter turn: the size tells which way the mask lies; one with a turn of its own is as displayed."""
    shown = turned(MARKS, orientation)
    image = save_turned(
        tmp_path / f"i.{kind}", np.where(MARKS, 250, 20).astype(np.uint8)[..., None].repeat(3, 2), orientation
    )
    assert loading.read_image(image).shape[:2] == shown.shape
    for name, mask, exif in (("stored", MARKS, 1), ("shown", shown, 1), ("own", MARKS, orientation)):
        path = save_turned(tmp_path / f"{name}.png", mask.astype(np.uint8) * 255, exif)
        np.testing.assert_array_equal(loading.read_mask(path, image), shown, err_msg=name)


def test_where_the_size_does_not_tell_nobody_guesses(tmp_path: Path) -> None:
    """Half a turn, and a square picture; marks that lie alike both ways are taken."""
    for pixels, orientation in ((MARKS, 3), (MARKS[:60, :60], 6)):
        image = save_turned(tmp_path / "i.jpg", pixels.astype(np.uint8)[..., None].repeat(3, 2), orientation)
        path = save_turned(tmp_path / "m.png", pixels.astype(np.uint8) * 255, 1)
        with pytest.raises(
            DataError, match=rf"as it is displayed \(EXIF orientation {orientation}\): save .*i\.jpg upright"
        ):
            loading.read_mask(path, image)
    Image.fromarray(np.zeros((60, 60), np.uint8)).save(path)
    assert not loading.read_mask(path, image).any()


def test_several_masks_of_one_image(tmp_path: Path, write_image: Callable[[Path, np.ndarray], Path]) -> None:
    """MVTec LOCO's folders, whose masks have values of their own: united."""
    for name, mask in (("000", values(0, 254, 0)), ("001", values(0, 0, 37))):
        write_image(tmp_path / "m" / f"{name}.png", mask)
    np.testing.assert_array_equal(loading.read_mask(tmp_path / "m"), MARKS)
    write_image(tmp_path / "m" / "002.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(DataError, match="folder with masks of different sizes"):
        loading.read_mask(tmp_path / "m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="folder with no mask"):
        loading.read_mask(tmp_path / "empty")


def test_the_official_masks_are_as_ever(shared: Callable[[str], Path]) -> None:
    """Above one half, as MVTec's own script has it."""
    folder = shared("data/mvtec_anomaly_detection") / "bottle" / "ground_truth"
    for path in sorted(folder.rglob("*.png"))[::5]:
        np.testing.assert_array_equal(loading.read_mask(path), np.asarray(Image.open(path)) > 127)


def test_a_marked_ring_is_no_dark_mark_on_white() -> None:
    """The frame alone does not tell: most of the image must be marked with it."""
    ring = np.full((40, 40), 255, np.uint8)
    ring[3:37, 3:37] = 0
    with pytest.raises(DataError, match="marks 28% of its image and the frame"):
        marked_pixels(ring, "x")


def test_a_mask_with_a_turn_of_its_own_is_as_displayed(tmp_path: Path) -> None:
    """Also by half a turn, where no size tells."""
    image = save_turned(tmp_path / "i.jpg", MARKS.astype(np.uint8)[..., None].repeat(3, 2), 3)
    path = save_turned(tmp_path / "m.png", MARKS.astype(np.uint8) * 255, 3)
    np.testing.assert_array_equal(loading.read_mask(path, image), MARKS[::-1, ::-1])
