"""The production line of the packages: its two cameras, the belt, and the photograph.

Lengths are centimetres: x points along the top picture's rows, towards the side camera, y up that picture, z away from
the belt. Cameras and sizes were fitted to the boxes of a synthetic public data set of the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.tools.drawing import OVERSAMPLING, fill, noise, smoothstep

WIDTH, HEIGHT = 960, 540  # the picture in which focal lengths are given
_TOOTH_PITCH, _ROW_PITCH = 4.2, 5.38
_TINT = np.array([0.965, 0.99, 1.065], np.float32)  # the hall's cool light
_TEETH, _ROWS = 6, 4  # periods of the belt's texture
BELT_REPEAT = _ROWS * _ROW_PITCH
_BAR, _GAP = 0.7, 0.6
_GROUND = 0.10  # brightness between the teeth
# Height, outline and brightness of stacked plates, from below; None: its own.
_PLATES = (
    (-0.75, "plate", 0.22),
    (-0.58, "plate", 0.42),
    (-0.40, "plate", 0.36),
    (-0.24, "plate", None),
    (-0.16, "teeth", 0.37),
    (-0.07, "teeth", 0.45),
    (0.0, "teeth", None),
)
_BELT_END = -24.0  # the far edge, as the side camera sees it


@dataclass(frozen=True)
class Camera:
    """A pinhole camera."""

    centre: np.ndarray
    rotation: np.ndarray  # rows: right, down, forward
    focal: float  # in pixels of a 960 x 540 picture

    def matrix(self, shape: tuple[int, int]) -> np.ndarray:
        """Returns the 3×4 matrix from the world to the pixels of a canvas of that shape."""
        half = np.array([[self.focal, 0, WIDTH / 2], [0, self.focal, HEIGHT / 2], [0, 0, 1]])
        to_canvas = np.diag([shape[1] / WIDTH, shape[0] / HEIGHT, 1.0])
        to_canvas[:2, 2] = -0.5
        return to_canvas @ half @ np.column_stack([self.rotation, -self.rotation @ self.centre])


CAMERAS = {
    "side": Camera(
        np.array([32.05, -8.70, 12.61]),
        np.array([[0.2663, 0.9638, -0.0122], [0.3005, -0.0950, -0.9490], [-0.9159, 0.2491, -0.3149]]),
        1365.0,
    ),
    "top": Camera(np.array([0.0, 0.0, 59.2]), np.diag([1.0, -1.0, -1.0]), 1436.0),
}


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Returns the pixels `(..., 2)` of world points `(..., 3)`."""
    seen = points @ matrix[:, :3].T + matrix[:, 3]
    return seen[..., :2] / seen[..., 2:]


def canvas_shape(size: tuple[int, int]) -> tuple[int, int]:
    """Returns rows and columns of the canvas behind a picture of that height and width."""
    return size[0] * OVERSAMPLING, size[1] * OVERSAMPLING


def background(view: str, size: tuple[int, int], offset: float, light: Generator) -> np.ndarray:
    """Draws the empty line.

    Args:
        view: "side" or "top".
        size: Height and width of the picture.
        offset: How far the belt has moved, 0 to `BELT_REPEAT` centimetres.
        light: Random stream.

    Returns:
        Canvas, float32 of shape `(rows, columns, 3)`.
    """
    shape = canvas_shape(size)
    grey = _belt_seen(view, shape, offset)
    if view == "side":
        _out_of_focus(grey)
        hall, cover = _hall(shape)
        rows = hall.shape[0]
        grey[:rows] += (hall - grey[:rows]) * cover
    x, y = np.linspace(-1, 1, shape[1], dtype=np.float32)[None], np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    lean, towards = light.uniform(0, 0.07), light.uniform(0, 2 * np.pi)
    grey *= 1 + np.float32(lean * np.cos(towards)) * x + np.float32(lean * np.sin(towards)) * y
    return cv2.merge([grey * channel for channel in _TINT])


def _belt_seen(view: str, shape: tuple[int, int], offset: float) -> np.ndarray:
    """Returns the belt's brightness: plates one above the other, each a flat cut-out."""
    belt = _belt(max(8, round(shape[1] / 30)))
    camera = CAMERAS[view].matrix(shape)
    seen = np.full(shape, 255 * _GROUND, np.uint8)
    for height, part, grey in _PLATES:
        plane = np.column_stack([camera[:, :2], camera[:, 2] * height + camera[:, 3]])
        from_corner = np.array([[1, 0, _TEETH * _TOOTH_PITCH], [0, -1, 1.5 * BELT_REPEAT + offset], [0, 0, 1]])
        to_texture = np.array([[*belt.scale, 1]]).T * from_corner @ np.linalg.inv(plane)

        def look(texture: np.ndarray, matrix: np.ndarray = to_texture) -> np.ndarray:
            return cv2.warpPerspective(texture, matrix, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)

        colour = look(belt.brightness) if grey is None else np.uint8(255 * grey)
        np.copyto(seen, colour, where=look(belt.plates[part]) > 127)
    return seen * np.float32(1 / 255)


@dataclass(frozen=True)
class _Belt:
    """The belt from straight above, uint8: x rightwards from the left border, y upwards."""

    scale: tuple[float, float]  # pixels per centimetre along x and y
    brightness: np.ndarray
    plates: dict[str, np.ndarray]  # cover of the whole plate, and of the teeth alone


@lru_cache(maxsize=4)
def _belt(pixels: int) -> _Belt:
    """Draws interlocking teeth with raised rims, the same for every picture; `pixels` per centimetre, about."""
    shape = round(BELT_REPEAT * pixels), round(_TEETH * _TOOTH_PITCH * pixels)
    bars, teeth, hollow = (np.zeros(shape, np.float32) for _ in range(3))
    for row in range(_ROWS):
        y = row * _ROW_PITCH
        np.maximum(bars, fill(np.array([[-1, y], [99, y], [99, y + _BAR], [-1, y + _BAR]]), shape, pixels), out=bars)
        for tooth in range(_TEETH):
            for outline in _teeth(tooth * _TOOTH_PITCH, y):
                np.maximum(teeth, fill(outline, shape, pixels), out=teeth)
                middle = outline.mean(0)
                inner = middle + (outline - middle) * [0.80, 0.925]
                np.maximum(hollow, fill(inner, shape, pixels), out=hollow)
    rng = np.random.default_rng(5)
    relief = cv2.GaussianBlur(teeth - 1.2 * hollow, (0, 0), 0.04 * pixels)
    lit = (0.6 * cv2.Sobel(relief, cv2.CV_32F, 1, 0) + cv2.Sobel(relief, cv2.CV_32F, 0, 1)) * (pixels / 250)
    clouds, streaks = noise(rng, shape, (9, 12), octaves=5), noise(rng, shape, (6, 60), octaves=3)
    dirt = smoothstep(3.5, 4.0, noise(rng, shape, (330, 380), octaves=2) + 0.55 * clouds)
    grey = 0.63 - 0.06 * hollow + 0.10 * np.clip(lit, -1.2, 1) + 0.011 * clouds + 0.007 * streaks
    grey *= 1 - 0.6 * dirt * hollow
    brightness, plate, upper = (  # repeated until the pictures reach beyond both views, wherever the belt stands
        np.tile(np.clip(layer * 255, 0, 255).astype(np.uint8), (4, 2))
        for layer in (grey, np.maximum(bars, teeth), teeth)
    )
    scale = shape[1] / (_TEETH * _TOOTH_PITCH), shape[0] / BELT_REPEAT
    return _Belt(scale, brightness, {"plate": plate, "teeth": upper})


def _teeth(x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the outlines of two neighbours: one hangs from the bar above, one rises from the bar below."""
    top, end = y + _BAR - 0.05, y + _ROW_PITCH + 0.05
    hangs = [[x + 0.03, top], [x + 2.07, top], [x + 1.92, end - _GAP], [x + 0.18, end - _GAP]]
    rises = [[x + 2.28, top + _GAP], [x + 4.02, top + _GAP], [x + 4.16, end], [x + 2.14, end]]
    return np.array(hangs), np.array(rises)


def _out_of_focus(grey: np.ndarray) -> None:
    """Blurs the far end of the belt, in place."""
    rows = round(0.42 * grey.shape[0])
    far = grey[:rows]
    soft = cv2.GaussianBlur(far, (0, 0), 0.0019 * grey.shape[1])
    far += (soft - far) * np.linspace(1.2, 0, rows, dtype=np.float32).clip(0, 1)[:, None]


@lru_cache(maxsize=4)
def _hall(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draws what the side camera sees behind the belt: a light strip, a rail of steel, the wall.

    Returns:
        Brightness and cover, float32, of the upper rows of the canvas.
    """
    rows = round(0.32 * shape[0])
    camera = CAMERAS["side"].matrix(shape)
    edge = project(camera, np.array([[_BELT_END, -60.0, 0], [_BELT_END, 60.0, 0]]))
    post = project(camera, np.array([[x, y, -1.0] for x, y in ((-24, -6.8), (-24, -4.2), (-30, -4.2), (-30, -6.8))]))
    picture, cover = np.zeros((rows, shape[1]), np.float32), np.zeros((rows, shape[1]), np.float32)
    to_sky = np.array([[2.0 * shape[1], -9.0], [-shape[1], -9.0]])

    def layer(points: np.ndarray, brightness: float, onto: np.ndarray) -> None:
        ink = fill(points + 0.5, (rows, shape[1]), 1.0)
        onto += (brightness - onto) * ink

    def above(left: float, right: float) -> np.ndarray:
        """Returns everything above a line, given by its heights at both sides of a 960 x 540 picture."""
        ends = np.array([[0, left], [WIDTH, right]]) * [shape[1] / WIDTH, shape[0] / HEIGHT]
        return np.concatenate([ends, to_sky])

    layer(np.concatenate([edge, to_sky]), 1.0, cover)
    layer(np.concatenate([edge, to_sky]), 0.675, picture)
    layer(post, 0.19, picture)
    for left, right, brightness in (
        (130, 76, 0.42), (102, 51, 0.25), (98.5, 48.5, 0.10), (94, 45, 0.43), (57, 16, 0.54), (53.5, 12.5, 0.80),
        (50, 9.5, 0.50), (43.5, 5, 0.64),
    ):  # fmt: skip
        layer(above(left, right), brightness, picture)
    streaks = noise(np.random.default_rng(6), picture.shape, (24, 9), octaves=4)
    picture *= 1 + 0.012 * streaks
    return cv2.GaussianBlur(picture, (0, 0), 0.0011 * shape[1]), cover
