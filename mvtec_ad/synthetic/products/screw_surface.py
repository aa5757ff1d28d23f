"""The surface of a screw: where each pixel of its own frame meets it, and how bright it is there.

It is a body of revolution with a helical ridge, R(u, phi), where u runs along the axis from the head to the tip and phi
around it. Every pixel asks for its own angle, so both edges of the outline show the thread half a turn apart, and the
shading follows from the surface's normal.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mvtec_ad.synthetic.tools.drawing import smoothstep
from mvtec_ad.synthetic.tools.optics import metal

# Distances along the axis, and radii, in units of the screw's length.
HEAD_END, NECK_END, TAPER = 0.15, 0.34, 0.86
_HEAD, _NECK, _ROOT, CREST = 0.116, 0.055, 0.045, 0.073
PITCH = 0.05
_TILT = 0.13  # the head's rim and the tip both touch the table
MARGIN = 0.16  # empty strip around the screw, room for a bent tip


@dataclass
class Edit:
    """What a defect does to the surface; maps of shape `(rows, columns)` on the strip."""

    region: np.ndarray | float = 0.0  # 1 where the surface may change, the outline of the mask
    wear: np.ndarray | float = 0.0  # share of the thread's height that is gone
    twist: np.ndarray | float = 0.0  # shift of the thread along the axis, in turns
    shift: np.ndarray | float = 0.0  # sideways shift of the axis, in screw lengths
    length: float = 1.0  # where the tip ends
    flat: np.ndarray | float = 0.0  # how far it is pressed flat, facing the camera, and rubbed bright
    gain: np.ndarray | float = 0.0  # relative change of brightness


@dataclass(frozen=True)
class Screw:
    """One screw under one light."""

    u: np.ndarray  # (1, columns), distance along the axis in screw lengths
    v: np.ndarray  # (rows, 1), distance from the axis
    pixels: float  # canvas pixels per screw length
    roll: float  # turn about its own axis, 0 to 1
    jitter: np.ndarray  # relative change of the radii of head, neck and thread
    lamp: tuple[float, float]  # in the screw's frame
    softness: float
    texture: np.ndarray  # (rows, columns), zero mean


def strip(pixels: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns u of shape `(1, columns)` and v of shape `(rows, 1)`: the screw's own frame, axis along the rows."""
    columns, rows = round((1 + 2 * MARGIN) * pixels), round(2 * MARGIN * pixels)
    u = (np.arange(columns, dtype=np.float32) + 0.5) / pixels - MARGIN
    v = (np.arange(rows, dtype=np.float32) + 0.5 - rows / 2) / pixels
    return u[None, :], v[:, None].astype(np.float32)


def strip_shape(screw: Screw) -> tuple[int, int]:
    """Returns rows and columns of the strip."""
    return screw.v.size, screw.u.size


def _radii(u: np.ndarray, jitter: np.ndarray, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the radius at the thread's root and at its crest for positions `u`."""
    head, neck, crest = np.array([_HEAD, _NECK, CREST]) * (1 + jitter)
    taper = [TAPER, 0.5 * (TAPER + 1), 1.0]
    fall = np.linspace(0.03, HEAD_END, 9)  # the bugle: a concave curve from rim to neck
    curve = neck + (head - neck) * (1 - (fall - 0.03) / (HEAD_END - 0.03)) ** 1.7
    root = np.interp(u, [0, 0.006, *fall, NECK_END, NECK_END + 0.02, *taper],
                     [head * 0.96, head, *curve, neck, _ROOT, _ROOT, 0.6 * _ROOT, 0.0])  # fmt: skip
    outer = np.interp(u, [NECK_END - 0.01, NECK_END + 0.05, *taper], [0, crest, crest, 0.72 * crest, 0.003])
    cut = ((u > 0) & (u < end)).astype(np.float32)
    root = root.astype(np.float32) * cut
    return root, np.maximum(outer.astype(np.float32) * cut, root)


def _tooth(turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns height (0 to 1) of the ridge and its slope per turn: a rounded, slightly leaning triangle."""
    t = turns - np.floor(turns)
    rise, fall = t / 0.30, (0.68 - t) / 0.38
    height = np.clip(np.minimum(rise, fall), 0, 1)
    slope = np.where(height > 0, np.where(rise < fall, 1 / 0.30, -1 / 0.38), 0)
    return height * (1.25 - 0.25 * height), slope.astype(np.float32) * (1.25 - 0.5 * height)


def _surface(screw: Screw, edit: Edit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Meets the surface at each pixel.

    Returns:
        Coverage (bool), normal of shape `(3, rows, columns)`, and thread depth below the crest (0 to 1).
    """
    v = screw.v - edit.shift
    along = radius = screw.u
    for step in range(4):  # a fixed point: the radius depends on the angle, the angle on the radius
        root, crest = _radii(along, screw.jitter, edit.length)
        reach = np.maximum(radius if step else crest, 1e-4)
        sine = np.clip(v / reach, -1, 1)
        cosine = np.sqrt(1 - sine * sine)
        along = screw.u - reach * cosine * _TILT
        height, slope = _tooth(along / PITCH - np.arcsin(sine) / (2 * np.pi) + screw.roll + edit.twist)
        height, depth = height * (1 - edit.wear), crest - root
        radius = root + depth * height
    steepness = depth * slope * (1 - edit.wear)  # per turn
    lean = np.gradient(root, axis=1) * screw.pixels + steepness / PITCH
    swirl = -steepness / (2 * np.pi) / np.maximum(radius, 1e-3)
    normal = np.stack(np.broadcast_arrays(-lean, sine - swirl * cosine, cosine + swirl * sine))
    normal[2] += 4 * np.square(edit.flat)
    normal /= np.sqrt(np.square(normal).sum(0)) + 1e-6
    return (
        np.abs(v) < radius,
        normal.astype(np.float32),
        np.minimum(depth / 0.02, 1) * np.clip(1 - height - edit.flat, 0, 1),
    )


def appearance(screw: Screw, edit: Edit) -> tuple[np.ndarray, np.ndarray]:
    """Returns brightness and outline, both of shape `(rows, columns)`, float32."""
    inside, normal, buried = _surface(screw, edit)
    brightness = metal(normal, screw.lamp, screw.softness * (1 - 0.8 * edit.flat)) * (1 + screw.texture)
    brightness *= 1 - 0.55 * buried  # little light reaches the root of the thread
    face, recess = _face(screw)
    brightness = np.where(face, 0.62 * (1 - 0.75 * recess), brightness)
    outline = (inside | face).astype(np.uint8)
    _, parts, boxes, _ = cv2.connectedComponentsWithStats(outline, connectivity=4)
    outline = parts == 1 + np.argmax(boxes[1:, cv2.CC_STAT_AREA])  # crumbs fall off
    return brightness * (1 + edit.gain), outline.astype(np.float32)


def _face(screw: Screw) -> tuple[np.ndarray, np.ndarray]:
    """Returns the flat end of the head, foreshortened to a thin ellipse, and the cross recess in it."""
    radius = _HEAD * (1 + screw.jitter[0]) * 0.97
    p, q = screw.u / (_TILT * radius), screw.v / radius
    angle = 2 * np.pi * screw.roll
    a, b = p * np.cos(angle) + q * np.sin(angle), q * np.cos(angle) - p * np.sin(angle)
    arm = np.maximum(
        smoothstep(0.24, 0.12, np.abs(a)) * smoothstep(0.72, 0.6, np.abs(b)),
        smoothstep(0.24, 0.12, np.abs(b)) * smoothstep(0.72, 0.6, np.abs(a)),
    )
    return p * p + q * q < 1, arm
