"""The box as a camera sees it: its faces laid onto the canvas, flat or bent by damage."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mvtec_ad.synthetic.package.damage import Damage
from mvtec_ad.synthetic.package.faces import Face, faces
from mvtec_ad.synthetic.package.scene import project
from mvtec_ad.synthetic.tools.drawing import blend

Window = tuple[slice, slice]  # rows and columns of a canvas


@dataclass(frozen=True)
class Sight:
    """A camera in the frame of the box."""

    matrix: np.ndarray  # 3×4, to canvas pixels
    eye: np.ndarray
    pixels: float  # of the faces' pictures, per centimetre

    def sees(self, face: Face) -> bool:
        """Tells whether a face lies towards the camera."""
        return float((self.eye - face.corner) @ face.outward) > 0

    def flat(self, face: Face) -> np.ndarray:
        """Returns the 3×3 matrix from a face's pixels to canvas pixels."""
        origin = face.corner + (face.right + face.down) / (2 * self.pixels)
        plane = np.array([[*face.right / self.pixels, 0], [*face.down / self.pixels, 0], [*origin, 1]]).T
        return self.matrix @ plane


def reach(harm: Damage, camera: np.ndarray, shape: tuple[int, int]) -> Window:
    """Returns the part of the canvas outside of which nothing changes."""
    points = np.concatenate([project(camera, harm.support), project(camera, harm.support + harm.moved(harm.support))])
    low = np.clip(np.floor(points.min(0)).astype(int) - 8, 0, np.array(shape[::-1]) - 1)
    high = np.clip(np.ceil(points.max(0)).astype(int) + 9, low + 1, shape[::-1])
    return slice(low[1], high[1]), slice(low[0], high[0])


def paint(
    canvas: np.ndarray,
    window: Window,
    sight: Sight,
    pictures: dict[str, np.ndarray],
    harm: Damage | None = None,
) -> np.ndarray:
    """Paints the faces that the camera sees into a window of the canvas, in place.

    Args:
        canvas: Array of shape `(rows, columns, channels)`.
        window: The part to paint.
        sight: The camera.
        pictures: What stands on each face, `(rows, columns, channels)`, or without channels where there is one.
        harm: What bends the faces, if anything.

    Returns:
        What they cover, float32 of shape `(rows, columns)`, 0 to 1.
    """
    cover = np.zeros(canvas.shape[:2], np.float32)
    for name, face in faces().items():
        if not sight.sees(face):
            continue
        part = window if harm else _meet(window, project(sight.matrix, face.outline()))
        if part[0].stop <= part[0].start or part[1].stop <= part[1].start:
            continue
        shift = harm.shift(name, sight.matrix) if harm else None
        to_canvas = sight.flat(face)
        across, down = _look_up(np.linalg.inv(to_canvas), part, shift, sight.pixels)
        picture = _averaged(pictures[name], to_canvas)
        rows, columns = picture.shape[:2]
        inside = np.minimum(np.minimum(across + 1.5, columns + 0.5 - across), np.minimum(down + 1.5, rows + 0.5 - down))
        alpha = np.clip(inside, 0, 1)  # a pixel beyond the face, so that neighbours leave no gap
        colour = cv2.remap(picture, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        blend(canvas[part], colour.reshape(*alpha.shape, -1), alpha)
        np.maximum(cover[part], alpha, out=cover[part])
    return cover


def _averaged(picture: np.ndarray, to_canvas: np.ndarray) -> np.ndarray:
    """Blurs a face along the directions in which the camera sees it shortened, or its bar code would show moiré."""
    points = np.array(picture.shape[1::-1]) / 2 + np.array([[0.0, 0], [1, 0], [0, 1]])
    seen = cv2.perspectiveTransform(points[None], to_canvas)[0]
    scale = np.linalg.norm(seen[1:] - seen[0], axis=1)  # canvas pixels per pixel of the face
    sigma = np.sqrt(np.maximum(0.5 / scale**2 - 0.5, 0)) * 0.75
    if sigma.max() < 0.3:
        return picture
    return cv2.GaussianBlur(picture, (0, 0), max(sigma[0], 0.01), sigmaY=max(sigma[1], 0.01))


def _meet(window: Window, points: np.ndarray) -> Window:
    """Returns the part of a window around some canvas points; it may be empty."""
    low, high = np.floor(points.min(0)).astype(int) - 3, np.ceil(points.max(0)).astype(int) + 3
    rows = slice(max(low[1], window[0].start), min(high[1], window[0].stop))
    return rows, slice(max(low[0], window[1].start), min(high[0], window[1].stop))


def _look_up(
    matrix: np.ndarray, window: Window, shift: np.ndarray | None, pixels: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which pixel of a face each pixel of a window sees.

    Args:
        matrix: 3×3, from canvas pixels to pixels of the undamaged face.
        window: Of the canvas.
        shift: How far each node of the face moves on the canvas, `(rows, columns, 2)`, or None.
        pixels: Of the face's picture, per centimetre.

    Returns:
        Column and row on the face's picture, float32, each of the window's shape.
    """
    matrix = (matrix / np.linalg.norm(matrix[2])).astype(np.float32)
    x = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None, :]
    y = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None]

    def undamaged(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        depth = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
        scale = 1 / np.where(depth == 0, np.float32(1e-9), depth)  # a ray along the face meets it nowhere
        across = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) * scale
        return across, (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) * scale

    across, down = undamaged(x, y)
    if shift is None:
        return across, down
    aside = np.zeros((*across.shape, 2), np.float32)
    nodes = np.float32(Damage.NODES / pixels)
    for _ in range(8):  # a fixed point: the pixel shows what has moved onto it
        blurred = cv2.remap(
            shift,
            (across + np.float32(0.5)) * nodes - np.float32(0.5),
            (down + np.float32(0.5)) * nodes - np.float32(0.5),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        aside += np.float32(0.75) * (blurred - aside)
        across, down = undamaged(x - aside[..., 0], y - aside[..., 1])
    return across, down
