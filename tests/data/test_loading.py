"""Files become arrays: every format, one resize, masks that never grow, the same pixels for both frameworks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from mvtec_ad.data import decoding, loading
from mvtec_ad.errors import DataError, SettingsError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (12, 20, 3), np.uint8)


def area_weights(source: int, target: int) -> np.ndarray:
    """(target, source): which share of each source pixel lies in a target pixel, rows adding up to 1."""
    scale = source / target
    edges = np.arange(source)
    left, right = np.arange(target)[:, None] * scale, (np.arange(target)[:, None] + 1) * scale
    return np.clip(np.minimum(right, edges + 1) - np.maximum(left, edges), 0, None) / scale


def test_colours_are_read_in_order(tmp_path: Path) -> None:
    """RGB, not the BGR of OpenCV."""
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decoding.read_image(tmp_path / "a.png"), COLOUR)


def test_gray_becomes_rgb(tmp_path: Path) -> None:
    """Three equal channels: screws and zippers are gray."""
    gray = COLOUR[..., 0]
    Image.fromarray(gray).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decoding.read_image(str(tmp_path / "a.png")), np.stack([gray] * 3, -1))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight(tmp_path: Path, suffix: str, channels: int) -> None:
    """The upper byte, within a gray level."""
    deep = RNG.integers(0, 65536, (9, 11, channels), np.uint16).squeeze()
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), deep)  # takes BGR
    found = decoding.read_image(tmp_path / f"a.{suffix}")
    assert found.dtype == np.uint8
    expected = np.stack([deep] * 3, -1) if channels == 1 else deep[..., ::-1]
    assert np.abs(found - expected / 257).max() <= 1


def test_transparency_is_dropped(tmp_path: Path) -> None:
    """The colours below it are the image."""
    Image.fromarray(np.dstack([COLOUR, RNG.integers(0, 256, (12, 20), np.uint8)])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decoding.read_image(tmp_path / "a.png"), COLOUR)


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    """Not its indices."""
    palette = Image.fromarray(COLOUR).quantize(16)
    palette.save(tmp_path / "a.png")
    np.testing.assert_array_equal(decoding.read_image(tmp_path / "a.png"), np.asarray(palette.convert("RGB")))


def test_a_camera_s_rotation_is_applied(tmp_path: Path) -> None:
    """EXIF orientation 6: turned by a quarter."""
    photo = Image.fromarray(cv2.resize(COLOUR, (80, 48), interpolation=cv2.INTER_LINEAR))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "a.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened)).astype(int)
    found = decoding.read_image(tmp_path / "a.jpg")
    assert found.shape == (80, 48, 3)
    assert np.abs(found - expected).mean() < 3  # two decoders


def break_missing(path: Path) -> None:
    path.unlink()


def break_empty(path: Path) -> None:
    path.write_bytes(b"")


def break_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def break_foreign(path: Path) -> None:
    path.write_text("not an image at all")


def break_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("read", [decoding.read_image, decoding.read_mask], ids=["image", "mask"])
@pytest.mark.parametrize("harm", [break_missing, break_empty, break_truncated, break_foreign, break_folder])
def test_an_unreadable_file_is_named(
    tmp_path: Path, read: Callable[[Path], np.ndarray], harm: Callable[[Path], None]
) -> None:
    """One line, with the path, alone and among others."""
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path in paths:
        Image.fromarray(COLOUR).save(path)
    harm(paths[1])
    for call in (lambda: read(paths[1]), lambda: loading.load_images(paths, 8)):
        with pytest.raises(DataError) as caught:
            call()
        assert str(paths[1]) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff"])
def test_a_truncated_photograph_is_not_taken_for_a_whole_one(tmp_path: Path, suffix: str) -> None:
    """Its header is whole and half of its rows are missing: filled with gray they would look like a defect."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"a.{suffix}"):
        decoding.read_image(path)


@pytest.mark.parametrize(("shape", "size"), [((24, 36), 12), ((24, 36), 4), ((90, 50), 32), ((45, 45), 32)])
def test_shrinking_averages_over_areas(shape: tuple[int, int], size: int) -> None:
    """Against the matrix product of coverages; no aliasing, whatever the factor."""
    image = RNG.integers(0, 256, (*shape, 3), np.uint8)
    expected = np.einsum("ih,hwc,jw->ijc", area_weights(shape[0], size), image, area_weights(shape[1], size))
    assert np.abs(loading.resize(image, size) - expected).max() <= 1


def test_integer_factors_are_block_means() -> None:
    """900 to 450 to 225 loses nothing but rounding."""
    image = RNG.integers(0, 256, (40, 40, 3), np.uint8)
    blocks = image.reshape(10, 4, 10, 4, 3).mean((1, 3))
    assert np.abs(loading.resize(image, 10) - blocks).max() <= 0.5 + 1e-6


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


@pytest.mark.parametrize(
    ("shape", "flag"),
    [
        ((300, 150), cv2.INTER_AREA),
        ((100, 64), cv2.INTER_AREA),
        ((128, 192), cv2.INTER_AREA),
        ((40, 63), cv2.INTER_LINEAR),
        ((64, 9), cv2.INTER_LINEAR),
    ],
)
def test_where_no_axis_disagrees_opencv_does_it_alone(shape: tuple[int, int], flag: int) -> None:
    """Bit by bit: published numbers were measured on such images."""
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


def test_a_mask_is_true_above_half(tmp_path: Path) -> None:
    """127 is not, 128 is."""
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(decoding.read_mask(tmp_path / "mask.png"), [[False, False, True, True]])


@pytest.mark.parametrize(("size", "crop", "start"), [(20, 12, 4), (21, 12, 4), (20, 20, 0), (20, 1, 9)])
def test_the_crop_is_the_centre(size: int, crop: int, start: int) -> None:
    """As torchvision's CenterCrop at even margins."""
    image = RNG.integers(0, 256, (size, size, 3), np.uint8)
    found = loading.resize(image, size, crop)
    np.testing.assert_array_equal(found, image[start : start + crop, start : start + crop])
    assert found.flags["C_CONTIGUOUS"]


def test_a_crop_larger_than_the_image_is_refused() -> None:
    """In words."""
    with pytest.raises(SettingsError, match="crop 30 is larger than image size 20"):
        loading.resize(np.zeros((20, 20, 3), np.uint8), 20, 30)


def test_many_images_stay_in_order(tmp_path: Path) -> None:
    """Though they are decoded in parallel."""
    images = RNG.integers(0, 256, (30, 10, 10, 3), np.uint8)
    paths = [tmp_path / f"{index}.png" for index in range(30)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    found = loading.load_images(paths, 10, 6)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, images[:, 2:8, 2:8])


def test_no_images_are_refused() -> None:
    """An empty selection is a mistake upstream."""
    with pytest.raises(DataError, match="no images to load"):
        loading.load_images([], 8)


@pytest.fixture
def masked(tmp_path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """A good image, a defective one, and their masks."""
    masks = np.zeros((2, 16, 16), bool)
    masks[1, 4:9, 3:12] = True
    for index, mask in enumerate(masks):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / f"{index}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"{index}_mask.png")
    rows = {
        "label": [0, 1],
        "image_path": [str(tmp_path / "0.png"), str(tmp_path / "1.png")],
        "mask_path": ["", str(tmp_path / "1_mask.png")],
    }
    return pd.DataFrame(rows), masks


def test_masks_of_a_table(masked: tuple[pd.DataFrame, np.ndarray]) -> None:
    """Good images get an empty one; size and crop are those of the images."""
    table, masks = masked
    found = loading.load_masks(table, 16)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, masks)
    np.testing.assert_array_equal(loading.load_masks(table, 16, 8), masks[:, 4:12, 4:12])


def test_without_a_mask_there_are_no_masks(masked: tuple[pd.DataFrame, np.ndarray]) -> None:
    """None, so that no pixel metric is computed on half of the truth."""
    table, _ = masked
    assert loading.load_masks(table.assign(mask_path=""), 16) is None


def test_a_mask_of_another_size_is_refused(masked: tuple[pd.DataFrame, np.ndarray]) -> None:
    """Both sizes are named."""
    table, _ = masked
    Image.fromarray(np.zeros((16, 24), np.uint8)).save(table["mask_path"][1])
    with pytest.raises(DataError, match=r"1_mask\.png is 24×16 but its image is 16×16") as caught:
        loading.load_masks(table, 16)
    assert "\n" not in str(caught.value)


IMAGES = RNG.integers(0, 256, (11, 8, 6, 3), np.uint8)
LABELS = np.arange(11)


def pixels_and_labels(framework: str, **options: object) -> Callable[[], tuple[np.ndarray, np.ndarray, list[int]]]:
    """One epoch as (N, H, W, 3) float32 in 0 … 255, labels and batch sizes; call again for the next epoch."""
    if framework == "torch":
        loader = loading.torch_loader(IMAGES, LABELS, batch_size=4, **options)
    else:
        loader = loading.tf_dataset(IMAGES, LABELS, batch_size=4, **options)

    def epoch() -> tuple[np.ndarray, np.ndarray, list[int]]:
        batches = [(x.numpy(), y.numpy()) for x, y in loader]
        pixels = np.concatenate([x for x, _ in batches])
        assert pixels.dtype == np.float32
        if framework == "torch":
            pixels = pixels.transpose(0, 2, 3, 1) * 255
        return pixels, np.concatenate([y for _, y in batches]), [len(y) for _, y in batches]

    return epoch


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_both_frameworks_give_the_same_pixels_in_order(framework: str) -> None:
    """One in 0 … 1 with channels first, one in 0 … 255 with channels last."""
    pixels, labels, sizes = pixels_and_labels(framework)()
    np.testing.assert_allclose(pixels, IMAGES, atol=1e-4)
    np.testing.assert_array_equal(labels, LABELS)
    assert labels.dtype == np.int64
    assert sizes == [4, 4, 3]


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_the_seed_decides_the_order(framework: str) -> None:
    """Same seed, same epochs; each epoch and each seed another order; labels stay with their images."""
    epoch, again, other = (pixels_and_labels(framework, shuffle=True, seed=seed) for seed in (1, 1, 2))
    orders = []
    for _ in range(2):
        pixels, labels, _ = epoch()
        np.testing.assert_allclose(pixels, IMAGES[labels], atol=1e-4)
        np.testing.assert_array_equal(labels, again()[1])
        assert sorted(labels) == list(range(11))
        orders.append(labels.tolist())
    assert orders[0] != orders[1]
    assert orders[0] != other()[1].tolist()


@pytest.mark.parametrize("labels", [None, [0, 1] * 5 + [1], np.ones(11, np.int32), np.ones(11, np.uint8)])
def test_labels_of_any_kind_become_int64(labels: object) -> None:
    """What a cross-entropy asks for, in both frameworks."""
    expected = np.zeros(11) if labels is None else np.asarray(labels)
    for make in (loading.torch_loader, loading.tf_dataset):
        ((_, found),) = list(make(IMAGES, labels, batch_size=20))
        assert found.numpy().dtype == np.int64
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize(("count", "size"), [(10, 3), (9, 3), (2, 5), (0, 4)])
def test_batches_walk_through_everything_once(count: int, size: int) -> None:
    """In order, none larger than asked for."""
    walked = [list(range(count))[part] for part in loading.batches(count, size)]
    assert [position for part in walked for position in part] == list(range(count))
    assert all(0 < len(part) <= size for part in walked)
