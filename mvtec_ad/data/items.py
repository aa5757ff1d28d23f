"""Find the item in a picture of the line, and look at it alone: no labels, no boxes, no network.

The belt fills most of every picture, so the item has the *rare* colours. Where the print on it can be recognised, the
cut is turned and shifted onto a reference item, so that every place of the cut shows the same place of the item.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from tqdm import tqdm

from mvtec_ad.data.boxes import Box
from mvtec_ad.data.decoding import read_image
from mvtec_ad.errors import DataError

SIDE = 240  # pixels; the longer side of the picture in which the item is looked for
LEVELS = 16  # of each of the three colour values of CIE L*a*b*
BLUR = 1.5  # pixels of that small picture: gaps in the print close
OPENING = 5  # pixels of it: thinner bridges to rare specks of the belt are cut
SMOOTH = 2.0  # pixels of it, of a profile: a turned lattice of pixels falls unevenly into its bins
MARGIN = {"item": 1.2, "registered": 1.05}  # of the cut, around the item
KEY_POINTS = 500  # of an item, the strongest
PRINT = 480  # pixels; the item is brought to this length before its print is read
RATIO = 0.8  # Lowe 2004, section 7.1: a match counts when the second best is that much worse
AGREEING = 12  # matches that must agree on one position before a cut is turned
REGISTERED = 0.95  # share of the pictures that must be recognised, or none is turned
REFERENCES = 16  # pictures that may become the reference

LOOKS = ("whole", "item", "registered")


@dataclass(frozen=True)
class Finder:
    """Finds the item of one view.

    Attributes:
        rarity: (16, 16, 16) float32, −log of the share of pixels that have a colour.
        frame: (3, 3) float64, from places (x, y, 1) of the reference picture to a unit square, which the item fills.
        places: (K, 2) float32, x and y of the reference's key points; empty where the print is not recognised.
        descriptors: (K, 128) uint8, SIFT (Lowe 2004).
    """

    rarity: np.ndarray
    frame: np.ndarray = field(default_factory=lambda: np.eye(3))
    places: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    descriptors: np.ndarray = field(default_factory=lambda: np.zeros((0, 128), np.uint8))

    @property
    def registers(self) -> bool:
        """Whether cuts are turned onto a reference item."""
        return len(self.places) > 0

    def box(self, image: np.ndarray) -> Box:
        """Where the item is: the blob of rare colours with the largest sum.

        Args:
            image: (H, W, 3) uint8, RGB.
        """
        rare = self.rarity[small_colours(image)]
        left, top, width, height = cv2.boundingRect(_blob(rare))
        return Box(left, top, left + width - 1, top + height - 1).scaled(rare.shape, image.shape[:2])

    def transform(self, image: np.ndarray, size: int, look: str = "registered") -> np.ndarray:
        """Where the pixels of a cut come from.

        Args:
            image: (H, W, 3) uint8, RGB.
            size: side of the cut, in pixels.
            look: `whole` squeezes the picture into the cut, `item` the item's box and a margin, `registered` the same
                box after the item was moved onto the reference, where its print is recognised.

        Returns:
            (3, 3) float64, from places (x, y, 1) of the picture to places of the cut; pixel centres are whole numbers.
        """
        if look == "whole":
            return _onto_cut(size) @ _unit(Box(0, 0, image.shape[1] - 1, image.shape[0] - 1))
        box = self.box(image)
        if look == "registered" and self.registers:
            everything = Box(0, 0, image.shape[1] - 1, image.shape[0] - 1)
            for part, zoom in ((box, 1), (everything, 3)):  # the whole picture where the box holds half an item
                movement, agreeing = _movement(_key_points(image, part, zoom), (self.places, self.descriptors))
                if agreeing >= AGREEING:
                    return _onto_cut(size, MARGIN["registered"]) @ self.frame @ movement
        return _onto_cut(size, MARGIN["item"]) @ _unit(box)

    def cut(self, image: np.ndarray, size: int, look: str = "registered") -> np.ndarray:
        """The item alone, (size, size, 3) uint8; arguments as in `transform`."""
        return warp(image, self.transform(image, size, look), size)


def fit_finder(images: Sequence[np.ndarray], *, progress: bool = True) -> Finder:
    """Learn what is rare in pictures of one view, and choose the reference item.

    The reference is the picture, of `REFERENCES` candidates, whose print is recognised best in the others. A view in
    which it is not recognised in nearly all, because the item is seen in perspective, has none.

    Args:
        images: (H, W, 3) uint8, RGB, without labels.
        progress: show a bar.

    Raises:
        DataError: there is no picture.
    """
    if not images:
        raise DataError("no picture to learn the belt's colours from: the selection is empty")
    counts = np.zeros((LEVELS,) * 3)
    for image in images:
        np.add.at(counts, small_colours(image), 1)
    finder = Finder(-np.log(counts / counts.sum() + 1e-7).astype(np.float32))
    boxes = [finder.box(image) for image in images]
    with ThreadPoolExecutor() as pool:
        found = pool.map(_key_points, images, boxes)
        points = list(tqdm(found, "key points", len(images), unit="picture", disable=not progress))
    candidates = np.unique(np.linspace(0, len(images) - 1, REFERENCES).round().astype(int))

    def recognised(candidate: int) -> float:
        return float(np.quantile([_movement(own, points[candidate])[1] for own in points], 1 - REGISTERED))

    best = max(candidates, key=recognised)
    if recognised(best) < AGREEING:
        return finder
    movements = [_movement(own, points[best]) for own in points]
    seen = [
        (finder.rarity[small_colours(image)], movement, image.shape)
        for image, (movement, agreeing) in zip(images, movements, strict=True)
        if agreeing >= AGREEING
    ]
    return Finder(finder.rarity, _frame(seen, images[best].shape), *points[best])


def cut_files(
    paths: Sequence[str], finder: Finder, size: int, look: str = "registered"
) -> tuple[np.ndarray, np.ndarray]:
    """Read pictures and look at the item in each.

    Args:
        paths: image files.
        finder: of their view.
        size: side of a cut, in pixels.
        look: as in `Finder.transform`.

    Returns:
        (N, size, size, 3) uint8 cuts, and (N, 3, 3) float64 from places of the picture to places of its cut.

    Raises:
        DataError: there is no path, or a file cannot be read.
    """
    if len(paths) == 0:
        raise DataError("no pictures to cut: the folder or the selection is empty")

    def both(path: str) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(path)
        transform = finder.transform(image, size, look)
        return warp(image, transform, size), transform

    with ThreadPoolExecutor() as pool:
        cuts, transforms = zip(*pool.map(both, paths), strict=True)
    return np.stack(cuts), np.stack(transforms)


def warp(image: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """Pixels of a cut, (size, size, 3) uint8; what lies outside the picture repeats its edge.

    Where the cut has fewer pixels than what it shows, the picture is smoothed first, axis by axis, so that fine print
    does not alias.
    """
    shrink = 1 / np.linalg.norm(transform[:2, :2], axis=0)  # pixels of the picture per pixel of the cut, along x and y
    sigmas = np.sqrt(np.maximum(np.square(shrink) - 1, 0)) / 2
    if sigmas.max() > 0.1:
        image = cv2.GaussianBlur(image, (0, 0), max(sigmas[0], 1e-3), sigmaY=max(sigmas[1], 1e-3))
    return cv2.warpAffine(image, transform[:2], (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def region_of(box: Box, transform: np.ndarray, size: int) -> np.ndarray:
    """The pixels of a cut whose centres show a box of the picture, (size, size) bool."""
    rows, columns = np.mgrid[:size, :size]
    x, y, _ = np.tensordot(np.linalg.inv(transform), [columns, rows, np.ones((size, size))], 1)
    return (np.abs(2 * x - box.xmin - box.xmax) <= box.xmax - box.xmin + 1) & (
        np.abs(2 * y - box.ymin - box.ymax) <= box.ymax - box.ymin + 1
    )


def small_colours(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Level of each colour value (CIE L*a*b*) at each pixel of the small picture: three (h, w) arrays.

    Args:
        image: (H, W, 3) uint8, RGB; shrunk so that its longer side has `SIDE` pixels.
    """
    small = cv2.resize(image, _small(image.shape), interpolation=cv2.INTER_AREA)
    levels = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.intp) * LEVELS // 256
    return levels[..., 0], levels[..., 1], levels[..., 2]


def _blob(rare: np.ndarray) -> np.ndarray:
    """The blob of rare colours with the largest sum, (h, w) uint8, 0 or 1; everything where nothing stands out."""
    rare = cv2.GaussianBlur(rare, (0, 0), BLUR)
    levels = cv2.normalize(rare, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    _, blobs = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    blobs = cv2.morphologyEx(blobs, cv2.MORPH_OPEN, np.ones((OPENING, OPENING), np.uint8))
    count, labels = cv2.connectedComponents(blobs)
    if count < 2:
        return np.ones(rare.shape, np.uint8)
    sums = np.bincount(labels.ravel(), rare.ravel(), count)
    return (labels == 1 + sums[1:].argmax()).astype(np.uint8)


def _frame(seen: Sequence[tuple[np.ndarray, np.ndarray, tuple[int, ...]]], shape: tuple[int, ...]) -> np.ndarray:
    """`Finder.frame`, from the rarity of pictures, their movement onto the reference, and their shapes and its own.

    Moved onto the reference and averaged, the belt blurs away and the item does not.
    """
    shrink = _shrink(shape)
    mean = np.zeros(_small(shape)[::-1], np.float32)
    for rare, movement, own in seen:
        moved = shrink @ movement @ np.linalg.inv(_shrink(own))
        mean += cv2.warpAffine(rare, moved[:2], mean.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    places = np.argwhere(_blob(mean))[:, ::-1]  # x, y
    upright = [_profiles(places, np.radians(angle)) for angle in range(-45, 45)]  # the reference's own up stays up
    _, axes, profiles = max(upright, key=lambda one: one[0])
    start, end = np.array([_thick(along, counts) for along, counts in zip(axes @ places.T, profiles, strict=True)]).T
    onto_item = np.eye(3)
    onto_item[:2] = np.column_stack([axes, -start]) / (end - start)[:, None]
    return onto_item @ shrink


def _profiles(places: np.ndarray, angle: float) -> tuple[float, np.ndarray, list[np.ndarray]]:
    """A blob's places (N, 2), projected onto two turned axes, right and down: sum of squares of both profiles, axes,
    the profiles.

    The sum is largest where the edges of the blob are along the axes (Postl 1986, skew of printed pages).
    """
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    counts = [np.bincount(np.round(along - along.min()).astype(int)).astype(float) for along in axes @ places.T]
    profiles = [gaussian_filter1d(own, SMOOTH, mode="constant") for own in counts]
    return float(sum(np.square(counts).sum() for counts in profiles)), axes, profiles


def _thick(along: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Where a projected blob is at least half as thick as anywhere: light that the belt reflects frays its ends."""
    thick = np.flatnonzero(counts >= counts.max() / 2)
    return along.min() + thick[0] - 0.5, along.min() + thick[-1] + 0.5


def _unit(box: Box) -> np.ndarray:
    """From places of the picture to a unit square that the box fills; pixel centres are whole numbers."""
    width, height = box.xmax + 1 - box.xmin, box.ymax + 1 - box.ymin
    return np.array([[1 / width, 0, (0.5 - box.xmin) / width], [0, 1 / height, (0.5 - box.ymin) / height], [0, 0, 1]])


def _small(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of the small picture, from the shape of the picture."""
    scale = SIDE / max(shape[:2])
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def _shrink(shape: tuple[int, ...]) -> np.ndarray:
    """From places of the picture to places of the small one."""
    width, height = _small(shape)
    half = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    return half @ np.diag([width, height, 1]) @ _unit(Box(0, 0, shape[1] - 1, shape[0] - 1))


def _onto_cut(size: int, margin: float = 1.0) -> np.ndarray:
    """From the unit square to the pixels of a cut, with a margin around it."""
    scale = size / margin
    shift = (size - scale) / 2 - 0.5
    return np.array([[scale, 0, shift], [0, scale, shift], [0, 0, 1]])


def _key_points(image: np.ndarray, box: Box, zoom: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """SIFT inside a box `zoom` times as long as an item: places (K, 2) float32 and descriptors (K, 128) uint8."""
    part = cv2.cvtColor(image[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1], cv2.COLOR_RGB2GRAY)
    scale = zoom * PRINT / max(part.shape)
    part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    points, descriptors = cv2.SIFT_create(KEY_POINTS * zoom**2).detectAndCompute(part, None)
    if descriptors is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8)
    places = (np.array([point.pt for point in points]) + 0.5) / scale - 0.5 + [box.xmin, box.ymin]
    return places.astype(np.float32), descriptors.astype(np.uint8)


def _movement(own: tuple[np.ndarray, np.ndarray], reference: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, int]:
    """The turn, shift and scale (3, 3) that bring a picture's key points onto the reference's, and how many agree."""
    if min(len(own[0]), len(reference[0])) < 2:
        return np.eye(3), 0
    pairs = cv2.BFMatcher().knnMatch(own[1].astype(np.float32), reference[1].astype(np.float32), k=2)
    good = [first for first, second in pairs if first.distance < RATIO * second.distance]
    if len(good) < AGREEING:
        return np.eye(3), 0
    here = own[0][[match.queryIdx for match in good]]
    there = reference[0][[match.trainIdx for match in good]]
    cv2.setRNGSeed(0)  # RANSAC draws
    movement, agreeing = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=3)
    if movement is None:
        return np.eye(3), 0
    return np.vstack([movement, [0, 0, 1]]), int(agreeing.sum())
