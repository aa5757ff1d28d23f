"""Region of interest: where the item is in a picture, without labels or a network, and the cut that shows it alone.

The belt fills most of every picture, so the item has the *rare* colours. Where the print on it can be recognised, the
cut is rotated and shifted onto a reference item, so that every place of the cut shows the same place of the item.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from tqdm import tqdm

from mvtec_ad.data.loading import read_image, resize
from mvtec_ad.errors import DataError
from mvtec_ad.synthetic.boxes import Box

SMALL = 240  # pixels; the longer side of the picture in which the item is looked for
LEVELS = 16  # of each of the three colour values of CIE L*a*b*
BLUR = 1.5  # pixels of that small picture: gaps in the print close
OPENING = 5  # pixels of it: thinner bridges to rare specks of the belt are cut
SMOOTH = 2.0  # pixels of it, of a profile: a rotated lattice of pixels falls unevenly into its bins
MARGIN = {"item": 1.2, "registered": 1.05}  # of the cut, around the item
KEYPOINTS = 500  # of an item, the strongest
PRINT = 480  # pixels; the item is brought to this length before its print is read
RATIO = 0.8  # Lowe 2004, section 7.1: a match counts when the second best is that much worse
AGREEING = 12  # matches that must agree on one position before a cut is rotated
REGISTERED = 0.95  # share of the pictures that must be recognised, or none is rotated
REFERENCES = 16  # pictures that may become the reference

ROIS = ("whole", "item", "registered")


@dataclass(frozen=True)
class Finder:
    """Locates the item of one view.

    Attributes:
        rarity: (16, 16, 16) float32, −log of the share of pixels that have a colour.
        frame: (3, 3) float64, from places (x, y, 1) of the reference picture to a unit square, which the item fills.
        keypoints: (K, 2) float32, x and y in the reference picture; empty where the print is not recognised.
        descriptors: (K, 128) uint8, SIFT (Lowe 2004).
    """

    rarity: np.ndarray
    frame: np.ndarray = field(default_factory=lambda: np.eye(3))
    keypoints: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    descriptors: np.ndarray = field(default_factory=lambda: np.zeros((0, 128), np.uint8))

    @property
    def registers(self) -> bool:
        """Whether cuts are moved onto a reference item."""
        return len(self.keypoints) > 0

    def box(self, image: np.ndarray) -> Box:
        """Bounding box of the blob of rare colours with the largest sum, in an (H, W, 3) uint8 RGB image."""
        rare = self.rarity[small_colours(image)]
        left, top, width, height = cv2.boundingRect(_blob(rare))
        return Box(left, top, left + width - 1, top + height - 1).scaled(rare.shape, image.shape[:2])

    def transform(self, image: np.ndarray, size: int, roi: str = "registered") -> np.ndarray:
        """Affine map from an (H, W, 3) uint8 picture to a cut of `size` pixels a side.

        `whole` squeezes the picture into the cut, `item` the item's box and a margin, `registered` the same box after
        the item was moved onto the reference, where its print is recognised. Gives (3, 3) float64, from places
        (x, y, 1) of the picture to places of the cut; pixel centres are whole numbers.
        """
        everything = Box(0, 0, image.shape[1] - 1, image.shape[0] - 1)
        if roi == "whole":
            return _onto_cut(size) @ _unit(everything)
        box = self.box(image)
        if roi == "registered" and self.registers:
            for part, zoom in ((box, 1), (everything, 3)):  # the whole picture where the box holds half an item
                movement, agreeing = _movement(_keypoints(image, part, zoom), (self.keypoints, self.descriptors))
                if agreeing >= AGREEING:
                    return _onto_cut(size, MARGIN["registered"]) @ self.frame @ movement
        return _onto_cut(size, MARGIN["item"]) @ _unit(box)

    def cut(self, image: np.ndarray, size: int, roi: str = "registered") -> np.ndarray:
        """The item alone, (size, size, 3) uint8; arguments as in `transform`. A whole picture is resized like any."""
        return resize(image, size) if roi == "whole" else warp(image, self.transform(image, size, roi), size)


def fit_finder(images: Sequence[np.ndarray], *, progress: bool = True) -> Finder:
    """A finder that knows which colours are rare in pictures of one view, (H, W, 3) uint8, and the reference item.

    The reference is the picture, of `REFERENCES` candidates, whose print is recognised best in the others. A view in
    which it is not recognised in nearly all, because the item is seen in perspective, has none.
    """
    if not images:
        raise DataError("no picture to learn the belt's colours from: the selection is empty")
    counts = np.zeros((LEVELS,) * 3)
    for image in images:
        np.add.at(counts, small_colours(image), 1)
    finder = Finder(-np.log(counts / counts.sum() + 1e-7).astype(np.float32))
    with ThreadPoolExecutor() as pool:
        read = pool.map(_keypoints, images, [finder.box(image) for image in images])
        points = list(tqdm(read, "key points", len(images), unit="picture", disable=not progress))
    candidates = np.unique(np.linspace(0, len(images) - 1, REFERENCES).round().astype(int))

    def recognised(candidate: int) -> float:
        return float(np.quantile([_movement(others, points[candidate])[1] for others in points], 1 - REGISTERED))

    best = max(candidates, key=recognised)
    if recognised(best) < AGREEING:
        return finder
    movements = [_movement(others, points[best]) for others in points]
    seen = [
        (finder.rarity[small_colours(image)], movement, image.shape)
        for image, (movement, agreeing) in zip(images, movements, strict=True)
        if agreeing >= AGREEING
    ]
    return Finder(finder.rarity, _frame(seen, images[best].shape), *points[best])


def cut_files(
    paths: Sequence[str], finder: Finder, size: int, roi: str = "registered"
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts of the item in picture files of a finder's view; `size` and `roi` as in `Finder.transform`.

    Returns:
        (N, size, size, 3) uint8 cuts, and (N, 3, 3) float64 from places of the picture to places of its cut.
    """
    if len(paths) == 0:
        raise DataError("no pictures to cut: the folder or the selection is empty")

    def both(path: str) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(path)
        transform = finder.transform(image, size, roi)
        return resize(image, size) if roi == "whole" else warp(image, transform, size), transform

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
    """Level of each CIE L*a*b* value at each pixel, the longer side shrunk to `SMALL` pixels: three (h, w) arrays."""
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

    Moved onto the reference and averaged, the belt blurs away and the item does not. The item's axes are those on which
    the profiles of its blob have the largest sum of squares: its edges lie along them (Postl 1986, skew of printed
    pages). Its ends are where a profile is half as thick as anywhere: light that the belt reflects frays them.
    """
    shrink = _shrink(shape)
    mean = np.zeros(_small(shape)[::-1], np.float32)
    for rare, movement, picture_shape in seen:
        moved = shrink @ movement @ np.linalg.inv(_shrink(picture_shape))
        mean += cv2.warpAffine(rare, moved[:2], mean.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    pixels = np.argwhere(_blob(mean))[:, ::-1]  # x, y

    def projected(degrees: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Axes to the right and down, rotated; and how many pixels of the blob lie where along each."""
        angle = np.radians(degrees)
        axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        counts = [np.bincount(np.round(along - along.min()).astype(int)).astype(float) for along in axes @ pixels.T]
        return axes, [gaussian_filter1d(profile, SMOOTH, mode="constant") for profile in counts]

    upright = [projected(degrees) for degrees in range(-45, 45)]  # the reference's own up stays up
    axes, profiles = max(upright, key=lambda pair: float(sum(np.square(profile).sum() for profile in pair[1])))
    ends = []
    for along, profile in zip(axes @ pixels.T, profiles, strict=True):
        thick = np.flatnonzero(profile >= profile.max() / 2)
        ends.append((along.min() + thick[0] - 0.5, along.min() + thick[-1] + 0.5))
    start, end = np.array(ends).T
    onto_item = np.eye(3)
    onto_item[:2] = np.column_stack([axes, -start]) / (end - start)[:, None]
    return onto_item @ shrink


def _unit(box: Box) -> np.ndarray:
    """From places of the picture to a unit square that the box fills; pixel centres are whole numbers."""
    width, height = box.xmax + 1 - box.xmin, box.ymax + 1 - box.ymin
    return np.array([[1 / width, 0, (0.5 - box.xmin) / width], [0, 1 / height, (0.5 - box.ymin) / height], [0, 0, 1]])


def _small(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of the small picture, from the shape of the picture."""
    scale = SMALL / max(shape[:2])
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def _shrink(shape: tuple[int, ...]) -> np.ndarray:
    """From places of the picture to places of the small one."""
    width, height = _small(shape)
    half = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    return half @ np.diag([width, height, 1]) @ _unit(Box(0, 0, shape[1] - 1, shape[0] - 1))


def _onto_cut(size: int, margin: float = 1.0) -> np.ndarray:
    """From the unit square to the pixels of a cut, with a margin around it."""
    scale = size / margin
    start = (size - scale) / 2 - 0.5
    return np.array([[scale, 0, start], [0, scale, start], [0, 0, 1]])


def _keypoints(image: np.ndarray, box: Box, zoom: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """SIFT inside a box `zoom` times as long as an item: places (K, 2) float32 and descriptors (K, 128) uint8."""
    part = cv2.cvtColor(image[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1], cv2.COLOR_RGB2GRAY)
    scale = zoom * PRINT / max(part.shape)
    part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    points, descriptors = cv2.SIFT_create(KEYPOINTS * zoom**2).detectAndCompute(part, None)
    if descriptors is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8)
    keypoints = (np.array([point.pt for point in points]) + 0.5) / scale - 0.5 + [box.xmin, box.ymin]
    return keypoints.astype(np.float32), descriptors.astype(np.uint8)


def _movement(
    picture: tuple[np.ndarray, np.ndarray], reference: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, int]:
    """The similarity (3, 3) that brings a picture's key points onto the reference's, and how many agree on it."""
    still = np.eye(3), 0
    if min(len(picture[0]), len(reference[0])) < 2:
        return still
    pairs = cv2.BFMatcher().knnMatch(picture[1].astype(np.float32), reference[1].astype(np.float32), k=2)
    good = [first for first, second in pairs if first.distance < RATIO * second.distance]
    if len(good) < AGREEING:
        return still
    here = picture[0][[match.queryIdx for match in good]]
    there = reference[0][[match.trainIdx for match in good]]
    cv2.setRNGSeed(0)  # RANSAC draws
    movement, agreeing = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=3)
    # All on one point of the reference, or of the picture, is no item; the square of the scale says so.
    if movement is None or not 1e-4 < np.linalg.det(movement[:, :2]) < 1e4:
        return still
    return np.vstack([movement, [0, 0, 1]]), int(agreeing.sum())
