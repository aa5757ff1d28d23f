"""Package: numbered medicine cartons on a conveyor belt, each seen by two cameras, from the top and from the side.

One box in space and one damage serve both views. A dent moves the box's surface, so outline, print and shading bend
together; a tear, a hole or a stain is in the surface itself. All damage touches the lid, which both cameras see.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mvtec_ad.synthetic.package.damage import Damage, damage_of
from mvtec_ad.synthetic.package.ean13 import check_digit
from mvtec_ad.synthetic.package.faces import LENGTH, WIDTH, carton, faces
from mvtec_ad.synthetic.package.scene import BELT_REPEAT, CAMERAS, background, project
from mvtec_ad.synthetic.package.view import Sight, paint, reach
from mvtec_ad.synthetic.tools.drawing import Streams, streams, to_mask
from mvtec_ad.synthetic.tools.optics import camera
from mvtec_ad.synthetic.writing import LARGEST, LEAST_SEVERITY, SMALLEST, check_number, severity_of

VIEWS = ("side", "top")
NUMBER = 99  # stands for this product in its seeds, beyond those of MVTec AD
_AMBIENT = 0.73
_COARSE = (135, 240)  # rows and columns of a soft shadow, the same for every size


@dataclass(frozen=True)
class PackageImages:
    """One item in both views, "side" and "top"."""

    number: str
    """Thirteen digits, an EAN-13; printed on the carton as text and as a bar code."""
    views: dict[str, np.ndarray]
    """Arrays of shape `(height, width, 3)`, uint8, RGB."""
    masks: dict[str, np.ndarray]
    """Arrays of shape `(height, width)`, bool: what the damage changes; all False when intact."""
    boxes: dict[str, tuple[int, int, int, int]]
    """First column, first row, last column, last row: of the damage, or of the item when intact."""
    severity: float
    """0 when intact, else from 0.1 (barely visible) to 1 (obvious)."""


@dataclass(frozen=True)
class _Pose:
    turn: np.ndarray  # 3×3, from the box to the world
    place: np.ndarray  # of the middle of its bottom
    lamp: np.ndarray  # towards the light, in the frame of the box, third component 1

    def sight(self, view: str, shape: tuple[int, int], pixels: float) -> Sight:
        """Returns how a camera with a canvas of that shape sees the box."""
        to_world = np.vstack([np.column_stack([self.turn, self.place]), [0, 0, 0, 1]])
        eye = self.turn.T @ (CAMERAS[view].centre - self.place)
        return Sight(CAMERAS[view].matrix(shape) @ to_world, eye, pixels)


def package_number(seed: int) -> str:
    """Returns the item's number: different for any two seeds that differ by less than a hundred thousand million."""
    digits = f"0{(seed * 38_196_601_133 + 47_911_603_287) % 10**11:011d}"  # the factor has no divisor in common with 10
    return digits + check_digit(digits)


def draw_package(
    seed: int, damage: bool, size: tuple[int, int] = (540, 960), least_severity: float = LEAST_SEVERITY
) -> PackageImages:
    """Draws one item, a function of the arguments alone.

    The same seed with and without damage shows the same item, place, light and noise.

    Args:
        seed: Non-negative integer.
        damage: Whether the carton is damaged.
        size: Height and width of a view in pixels.
        least_severity: Of its damage: 0.1, barely visible, to 1, obvious; it is drawn uniformly up to 1.

    Returns:
        Both views, with masks and boxes.

    Raises:
        DataError: Seed or size are out of range.
    """
    check_number("seed", seed, 0, None)
    check_number("height", size[0], SMALLEST, LARGEST)
    check_number("width", size[1], SMALLEST, LARGEST)
    source, number = streams(NUMBER, seed), package_number(seed)
    severity = severity_of(seed, NUMBER, least_severity) if damage else 0.0
    pose, offset = _pose(source)
    pixels = size[1] / 12  # of the print, per centimetre: as many as the canvas has where the side camera is near
    flat = carton(source.surface, number, pixels)
    good = {name: picture * _light(pose, faces()[name].outward) for name, picture in flat.items()}
    harm = damage_of(source.defect, severity, good, pixels, pose.lamp) if damage else None
    views, masks, boxes = {}, {}, {}
    sensors = source.sensor.spawn(len(VIEWS))  # the noise of one view must not move the stream of the other
    for view, sensor in zip(VIEWS, sensors, strict=True):
        canvas = background(view, size, offset, source.light)
        _shadow(canvas, pose.sight(view, _COARSE, pixels).matrix)
        canvas, item, changed = _place(canvas, pose.sight(view, canvas.shape[:2], pixels), good, harm)
        views[view] = camera(canvas, sensor, blur=0.0006, grain=0.009)
        masks[view] = to_mask(changed)
        boxes[view] = _box(masks[view] if damage else to_mask(item))
    return PackageImages(number, views, masks, boxes, severity)


def _pose(source: Streams) -> tuple[_Pose, float]:
    """Returns the box's pose and how far the belt has moved."""
    x, y = source.pose.uniform([-3.6, -5.3], [3.7, 3.9])
    yaw, offset = float(source.pose.uniform(-0.31, 0.31)), float(source.pose.uniform(0, BELT_REPEAT))
    towards, lean = float(source.light.normal(-0.8, 0.5)), float(source.light.uniform(0.3, 0.55))
    cosine, sine = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    lamp = turn.T @ np.array([lean * np.cos(towards), lean * np.sin(towards), 1.0])
    return _Pose(turn, np.array([x, y, 0.0]), lamp), offset


def _light(pose: _Pose, normal: np.ndarray) -> np.float32:
    return np.float32(_AMBIENT + (1 - _AMBIENT) * max(float(normal @ pose.lamp), -0.3))


def _shadow(canvas: np.ndarray, camera: np.ndarray) -> None:
    """Darkens the belt around the box, in place, and lets the green end shine onto it.

    Args:
        canvas: The empty line.
        camera: 3×4 matrix from the box to pixels of a canvas of shape `_COARSE`.
    """

    def footprint(left: float, margin: float) -> np.ndarray:
        a, b = LENGTH / 2 + margin, WIDTH / 2 + margin
        outline = project(camera, np.array([[left, -b, 0], [a, -b, 0], [a, b, 0], [left, b, 0.0]]))
        ink = np.zeros(_COARSE, np.uint8)
        cv2.fillPoly(ink, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        return ink.astype(np.float32) / 255

    wide = cv2.GaussianBlur(footprint(-LENGTH / 2 - 0.5, 0.5), (0, 0), 6)
    close = cv2.GaussianBlur(footprint(-LENGTH / 2 - 0.1, 0.1), (0, 0), 1.3)
    green = cv2.GaussianBlur(footprint(LENGTH / 2 - 2.5, 0.5), (0, 0), 4)
    dark = (1 - 0.22 * wide) * (1 - 0.38 * close)
    tint = np.dstack([dark * (1 - 0.11 * green), dark * (1 + 0.03 * green), dark * (1 - 0.03 * green)])
    canvas *= cv2.resize(tint.astype(np.float32), canvas.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def _place(
    empty: np.ndarray, sight: Sight, good: dict[str, np.ndarray], harm: Damage | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lays the box onto the empty line.

    Returns:
        Canvas with the item, the item's cover, and what the damage changes: both float32 of shape `(rows, columns)`.
    """
    shape = empty.shape[:2]
    intact, changed = empty.copy(), np.zeros(shape, np.float32)
    cover = paint(intact, (slice(0, shape[0]), slice(0, shape[1])), sight, good)
    if not harm:
        return intact, cover, changed
    window = reach(harm, sight.matrix, shape)
    canvas = intact.copy()
    canvas[window] = empty[window]
    paint(canvas, window, sight, harm.pictures, harm)
    changed[window] = np.abs(canvas[window] - intact[window]).max(-1) > 0.006
    for moved in (None, harm):  # where the touched part was, and where it is
        touched = np.zeros((*shape, 1), np.float32)
        paint(touched, window, sight, harm.regions, moved)
        np.maximum(changed, touched[..., 0], out=changed)
    return canvas, cover, changed


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
