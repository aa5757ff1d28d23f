"""Items found on a belt: scenes whose item lies at a known place, corners worked out by hand, loops over pixels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.path import Path as Polygon

from mvtec_ad.data import index
from mvtec_ad.data.loading import read_image
from mvtec_ad.errors import DataError
from mvtec_ad.methods import items
from mvtec_ad.methods.items import Finder, cut_files, fit_finder, region_of, warp
from mvtec_ad.synthetic import write_packages
from mvtec_ad.synthetic.boxes import Box, read_annotation

Writer = Callable[[Path, np.ndarray], Path]
Scene = tuple[np.ndarray, np.ndarray]  # a picture, and (2, 3): from places of the item to places of the picture
HEIGHT, WIDTH = 270, 480  # of a picture
ITEM = (90, 150)  # height and width of the item
CORNERS = np.array([[-0.5, -0.5], [149.5, -0.5], [149.5, 89.5], [-0.5, 89.5]])  # of it; pixel centres are whole
SIZE = 96  # of a cut
ANGLES = np.linspace(-30, 30, 13)


def belt(rng: np.random.Generator) -> np.ndarray:
    """Grey, of uneven light and noise."""
    coarse = cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT, WIDTH)), (0, 0), 2)
    grey = 105 + 8 * coarse / coarse.std() + rng.normal(0, 3, (HEIGHT, WIDTH))
    return np.clip(grey[..., None] + np.zeros(3), 0, 255).astype(np.uint8)


def printed(rng: np.random.Generator) -> np.ndarray:
    """An orange item with blue and white rectangles on it."""
    image = np.full((*ITEM, 3), (215, 150, 60), np.uint8)
    for _ in range(60):
        x, y = (int(rng.integers(6, side - 6)) for side in ITEM[::-1])
        colour = (25, 40, 120) if rng.random() < 0.6 else (240, 235, 225)
        cv2.rectangle(image, (x, y), (x + int(rng.integers(3, 20)), y + int(rng.integers(3, 14))), colour, -1)
    return image


def scene(rng: np.random.Generator, item: np.ndarray, angle: float, scale: float = 1.0) -> Scene:
    """The item, turned by degrees and scaled, somewhere on a belt of its own."""
    turn = scale * np.array([[np.cos(a := np.radians(angle)), -np.sin(a)], [np.sin(a), np.cos(a)]])
    centre = np.array([rng.uniform(120, 360), rng.uniform(105, 165)])
    place = np.column_stack([turn, centre - turn @ [(ITEM[1] - 1) / 2, (ITEM[0] - 1) / 2]])
    share = cv2.warpAffine(np.ones(ITEM, np.float32), place, (WIDTH, HEIGHT))[..., None]
    image = belt(rng) * (1 - share) + cv2.warpAffine(item, place, (WIDTH, HEIGHT))
    return np.round(image).clip(0, 255).astype(np.uint8), place


def moved(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """(N, 2) places under an affine map."""
    return points @ transform[:2, :2].T + transform[:2, 2]


def overlap(box: Box, corners: np.ndarray) -> float:
    """Intersection over union of a box and the rectangle around corners, areas and not pixels."""
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    width = max(0.0, min(box.xmax + 0.5, right) - max(box.xmin - 0.5, left))
    height = max(0.0, min(box.ymax + 0.5, bottom) - max(box.ymin - 0.5, top))
    both = (box.xmax + 1 - box.xmin) * (box.ymax + 1 - box.ymin) + (right - left) * (bottom - top)
    return width * height / (both - width * height)


def same(one: Finder, other: Finder) -> bool:
    """Whether two finders are equal to the bit."""
    pairs = ((getattr(one, name), getattr(other, name)) for name in ("rarity", "frame", "keypoints", "descriptors"))
    return all(first.tobytes() == second.tobytes() for first, second in pairs)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """One item, turned by −30° to 30° and of .9 to 1.1 times its size."""
    rng = np.random.default_rng(0)
    item = printed(rng)
    return [scene(rng, item, angle, rng.uniform(0.9, 1.1)) for angle in ANGLES]


@pytest.fixture(scope="module")
def finder(scenes: list[Scene]) -> Finder:
    """Fitted on them."""
    return fit_finder([image for image, _ in scenes], progress=False)


@pytest.fixture(scope="module")
def loose(scenes: list[Scene]) -> Finder:
    """Knows the colours, but no print."""
    rng = np.random.default_rng(1)
    fitted = fit_finder([scene(rng, printed(rng), angle)[0] for angle in ANGLES[::2]], progress=False)
    assert not fitted.registers  # every item has a print of its own
    return fitted


@pytest.fixture(scope="module")
def everything() -> Finder:
    """To which all colours are alike."""
    return Finder(np.zeros((items.LEVELS,) * 3, np.float32))


# Where the item is --------------------------------------------------------------------------------------------------


def test_the_item_is_found(scenes: list[Scene], finder: Finder) -> None:
    """Within its known place: an overlap of .93 to .99 was measured, .7 the plan asks for."""
    overlaps = [overlap(finder.box(image), moved(CORNERS, place)) for image, place in scenes]
    assert min(overlaps) > 0.85
    assert np.mean(overlaps) > 0.92


@pytest.mark.parametrize("litter", [(6, 6), (24, 24), (2, 300)], ids=["speck", "scrap", "thread"])
def test_litter_on_the_belt_is_not_the_item(scenes: list[Scene], finder: Finder, litter: tuple[int, int]) -> None:
    """Small and rarer than the item in colour, or thin, of its colour and joined to it."""
    image, place = scenes[6][0].copy(), scenes[6][1]
    left, top = moved(CORNERS, place).min(0).astype(int)
    if litter[1] > 100:
        image[top + 40 : top + 40 + litter[0], : litter[1]] = (215, 150, 60)
        image[:, left : left + ITEM[1]] = scenes[6][0][:, left : left + ITEM[1]]  # it lies under the item
    else:
        image[4 : 4 + litter[0], 4 : 4 + litter[1]] = (0, 255, 0)
    assert overlap(finder.box(image), moved(CORNERS, place)) > 0.85


def test_picture_or_box_and_a_margin_fill_the_cut(scenes: list[Scene], loose: Finder) -> None:
    """The picture from edge to edge, half a pixel beyond the centres; a box of 80 of 96 pixels leaves 8 on each side.

    A finder without a print has no other cut.
    """
    image = scenes[4][0]
    edges = np.array([[-0.5, -0.5], [WIDTH - 0.5, HEIGHT - 0.5]])
    np.testing.assert_allclose(moved(edges, loose.transform(image, SIZE, "whole")), [[-0.5, -0.5], [95.5, 95.5]])
    box = loose.box(image)
    edges = np.array([[box.xmin - 0.5, box.ymin - 0.5], [box.xmax + 0.5, box.ymax + 0.5]])
    for roi in ("item", "registered"):
        np.testing.assert_allclose(moved(edges, loose.transform(image, SIZE, roi)), [[7.5, 7.5], [87.5, 87.5]])


def test_a_turned_item_lies_upright_and_fills_the_cut(scenes: list[Scene], finder: Finder) -> None:
    """96 / 1.05 = 91.4 pixels of it, whatever its turn, size and place were; its top stays on top."""
    assert finder.registers
    for image, place in scenes:
        corners = moved(moved(CORNERS, place), finder.transform(image, SIZE))
        edges = np.roll(corners, -1, 0) - corners
        angles = np.degrees(np.arctan2(edges[:, 1], edges[:, 0]))
        away = (angles - [0, 90, 180, 270] + 180) % 360 - 180
        assert np.abs(away).max() < 2
        ends = (SIZE - SIZE / 1.05) / 2 - 0.5, (SIZE + SIZE / 1.05) / 2 - 0.5
        expected = np.array([[x, y] for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))])
        np.testing.assert_allclose(corners, np.array(ends)[expected], atol=4)


def test_registered_cuts_show_the_same_place_of_the_item(scenes: list[Scene], finder: Finder) -> None:
    """They differ from their median by 1.0 to 1.4 grey levels, cuts that are only shifted by 20 to 31."""
    differences = {}
    for roi in ("registered", "item"):
        cuts = np.stack([finder.cut(image, SIZE, roi) for image, _ in scenes]).astype(float)[:, 5:-5, 5:-5]
        differences[roi] = np.abs(cuts - np.median(cuts, 0)).mean((1, 2, 3))
    assert differences["registered"].max() < 2.5
    assert differences["item"].min() > 15


def test_a_picture_whose_print_is_covered_gets_the_plain_cut(scenes: list[Scene], finder: Finder) -> None:
    """One that is not recognised, of a view that is."""
    image, place = scenes[6][0].copy(), scenes[6][1]
    (left, top), (right, bottom) = np.round(moved(CORNERS, place)[[0, 2]]).astype(int)
    image[top:bottom, left:right] = (215, 150, 60)
    np.testing.assert_array_equal(finder.transform(image, SIZE), finder.transform(image, SIZE, "item"))


def test_pictures_of_two_sizes(scenes: list[Scene]) -> None:
    """A camera that was set to twice the pixels: the item still fills its cut, whichever size the reference has."""
    small = [image for image, _ in scenes[3:10]]
    twice = [cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for image in small]
    for pictures in ([*small[:3], *twice[3:]], [*twice[:6], small[6]]):
        fitted = fit_finder(pictures, progress=False)
        for image, (_, place) in zip(pictures, scenes[3:10], strict=True):
            times = len(image) / HEIGHT
            corners = (moved(CORNERS, place) + 0.5) * times - 0.5
            corners = moved(corners, fitted.transform(image, SIZE))
            np.testing.assert_allclose(corners, np.array([[2, 2], [93, 2], [93, 93], [2, 93]]), atol=4)


def test_the_same_bytes_again(scenes: list[Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was drawn before, with one thread and with five, and in several fits at once."""
    pictures = [image for image, _ in scenes[3:9]]
    finder = fit_finder(pictures, progress=False)
    assert finder.registers
    cv2.setRNGSeed(7)
    for workers in (1, 5):
        monkeypatch.setattr(items, "ThreadPoolExecutor", partial(ThreadPoolExecutor, workers))
        assert same(fit_finder(pictures, progress=False), finder)
    cuts = [finder.transform(image, SIZE).tobytes() for image in pictures]
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda _: same(fit_finder(pictures, progress=False), finder), range(2)))
        assert [cut.tobytes() for cut in pool.map(lambda image: finder.transform(image, SIZE), pictures)] == cuts


@pytest.mark.parametrize("level", [0, 90])
def test_a_picture_of_one_colour_is_all_item(level: int) -> None:
    """Nothing stands out, nothing is divided by zero."""
    image = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
    fitted = fit_finder([image] * 3, progress=False)
    assert not fitted.registers
    assert fitted.box(image) == Box(0, 0, WIDTH - 1, HEIGHT - 1)
    assert (fitted.cut(image, SIZE) == level).all()


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_matches_that_fall_on_one_point_register_nothing(scale: float) -> None:
    """RANSAC answers with a scale by which nothing can be cut; a true movement is taken as it is."""
    rng = np.random.default_rng(0)
    places, looks = rng.uniform(0, 90, (40, 2)).astype(np.float32), rng.integers(0, 256, (40, 128)).astype(np.uint8)
    moved, agreeing = items._movement((places, looks), (places * 0.5 + [3, 4], looks))
    np.testing.assert_allclose(moved, [[0.5, 0, 3], [0, 0.5, 4], [0, 0, 1]], atol=1e-3)
    assert agreeing == 40
    still, agreeing = items._movement((places, looks), (places * scale + [3, 4], looks))
    np.testing.assert_array_equal(still, np.eye(3))
    assert agreeing == 0


def test_files(scenes: list[Scene], finder: Finder, tmp_path: Path, write_image: Writer) -> None:
    """In the order they came in, cut as the pictures are."""
    paths = [str(write_image(tmp_path / f"{9 - k}.png", image)) for k, (image, _) in enumerate(scenes[:3])]
    for roi in items.ROIS:
        cuts, transforms = cut_files(paths, finder, SIZE, roi)
        assert (cuts.shape, cuts.dtype) == ((3, SIZE, SIZE, 3), np.uint8)
        for k, (image, _) in enumerate(scenes[:3]):
            np.testing.assert_array_equal(cuts[k], finder.cut(image, SIZE, roi))
            np.testing.assert_array_equal(transforms[k], finder.transform(image, SIZE, roi))


def test_what_cannot_be_cut_is_named(everything: Finder, tmp_path: Path) -> None:
    """One line each."""
    for action, message in (
        (lambda: fit_finder([], progress=False), "no picture to learn the belt's colours from"),
        (lambda: cut_files([], everything, SIZE), "no pictures to cut"),
        (lambda: cut_files([str(tmp_path / "gone.png")], everything, SIZE), r"gone\.png cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            action()


# Pixels of a cut ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, 0), (0, -4), (-2, 5)])
def test_whole_pixels_are_moved_to_the_bit(right: int, down: int) -> None:
    """And what lies outside repeats the edge."""
    image = np.random.default_rng(5).integers(0, 256, (40, 40, 3), np.uint8)
    transform = np.array([[1.0, 0, right], [0, 1, down], [0, 0, 1]])
    rows, columns = np.clip(np.arange(40) - down, 0, 39), np.clip(np.arange(40) - right, 0, 39)
    np.testing.assert_array_equal(warp(image, transform, 40), image[rows][:, columns])


def grey(levels: np.ndarray) -> np.ndarray:
    """(H, W) as a picture."""
    return np.repeat(levels[..., None], 3, 2).astype(np.uint8)


@pytest.mark.parametrize("factor", [2, 4, 7])
def test_fine_print_becomes_grey_and_does_not_alias(everything: Finder, factor: int) -> None:
    """A checkerboard of single pixels; without smoothing half of these cuts would be black or white."""
    rows, columns = np.mgrid[: 32 * factor, : 32 * factor]
    cut = everything.cut(grey(255 * ((rows + columns) % 2)), 32, "whole").astype(int)
    assert np.abs(cut[2:-2, 2:-2] - 127).max() <= 3


def test_only_the_axis_that_shrinks_is_smoothed(everything: Finder) -> None:
    """Four columns become one, rows stay: stripes across become grey, stripes along stay to the bit."""
    rows, columns = np.mgrid[:64, :256]
    across, along = grey(255 * (columns % 2)), grey(255 * (rows % 2))
    assert np.abs(everything.cut(across, 64, "whole")[:, 2:-2].astype(int) - 127).max() <= 3
    np.testing.assert_array_equal(everything.cut(along, 64, "whole"), along[:, :64])


def test_a_squeezed_picture_is_not_shifted(everything: Finder) -> None:
    """A ramp of light equals means over blocks of pixels: half a pixel off would be 4 grey levels."""
    ramp = grey(np.add.outer(np.arange(32), 4 * np.arange(32)))
    blocks = ramp.reshape(16, 2, 16, 2, 3).mean((1, 3))
    cut = everything.cut(ramp, 16, "whole").astype(float)
    assert np.abs(cut - blocks)[2:-2, 2:-2].max() <= 1


# Regions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_region_holds_the_pixels_whose_centres_lie_in_the_box(seed: int) -> None:
    """Turned, scaled, mirrored and partly outside; as matplotlib tells of polygons."""
    rng = np.random.default_rng(seed)
    left, top = (int(value) for value in rng.integers(0, 20, 2))
    box = Box(left, top, left + int(rng.integers(0, 15)), top + int(rng.integers(0, 15)))
    linear = rng.normal(0, 1, (2, 2)) + np.eye(2)
    shift = np.array([12, 12]) - linear @ [left + 4, top + 4]
    transform = np.vstack([np.column_stack([linear, shift]), [0, 0, 1]])
    edges = np.array([[left, top], [box.xmax + 1, top], [box.xmax + 1, box.ymax + 1], [left, box.ymax + 1]]) - 0.5
    corners = moved(edges, transform)
    expected = Polygon(corners).contains_points(np.argwhere(np.ones((24, 24)))[:, ::-1]).reshape(24, 24)
    np.testing.assert_array_equal(region_of(box, transform, 24), expected)
    assert np.any(expected)
    assert not region_of(Box(300, 300, 305, 305), np.eye(3), 24).any()


# Packages -----------------------------------------------------------------------------------------------------------


def test_synthetic_packages(tmp_path: Path) -> None:
    """Seen from above the print is recognised; seen in perspective, from every side, it is not.

    The boxes of intact ones are those of the item, which its shadow and edges of the belt join here.
    """
    table = index.read_category(write_packages(tmp_path, train=6, test=2, progress=False).parent, "package")
    for view, rows in table.groupby("view"):
        trained, intact = rows[rows["split"] == "train"], rows[(rows["split"] == "test") & (rows["label"] == 0)]
        fitted = fit_finder([read_image(path) for path in trained["image_path"]], progress=False)
        assert fitted.registers == (view == "top")
        for row in intact.itertuples():
            known, box = read_annotation(row.box_path).box, fitted.box(read_image(row.image_path))
            corners = np.array([[known.xmin - 0.5, known.ymin - 0.5], [known.xmax + 0.5, known.ymax + 0.5]])
            assert overlap(box, corners) > 0.5
            assert np.all(corners[0] > [box.xmin - 10, box.ymin - 10])
            assert np.all(corners[1] < [box.xmax + 10, box.ymax + 10])


@pytest.mark.parametrize(
    ("view", "registers", "least", "mean"), [("side", False, 0.85, 0.95), ("top", True, 0.75, 0.86)]
)
def test_real_packages(shared: Callable[[str], Path], view: str, registers: bool, least: float, mean: float) -> None:
    """How much of each damage box a cut shows: .91 to 1, mean .98 of the side; .83 to .99, mean .90 of the top."""
    table = index.read_category(shared("data/packages").parent, "packages")
    rows = table[table["view"] == view]
    trained = rows[rows["split"] == "train"].iloc[::13]["image_path"]
    damaged = rows[(rows["split"] == "test") & (rows["label"] == 1)]
    pictures = [read_image(path) for path in damaged["image_path"]]
    fitted = fit_finder([*map(read_image, trained), *pictures], progress=False)
    assert len(trained) + len(pictures) == 24
    assert fitted.registers == registers
    shown = []
    for image, path in zip(pictures, damaged["box_path"], strict=True):
        box = read_annotation(path).box
        columns, rows = np.mgrid[box.xmin : box.xmax + 1, box.ymin : box.ymax + 1]
        points = np.column_stack([columns.ravel(), rows.ravel()])
        places = moved(points, fitted.transform(image, 272))
        shown.append(((places >= -0.5) & (places < 271.5)).all(1).mean())
    assert min(shown) >= least
    assert np.mean(shown) >= mean
