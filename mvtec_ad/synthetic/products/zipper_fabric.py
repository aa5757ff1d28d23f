"""The cloth of a zipper: two woven tapes with a seam beside the chain, and the fibres that come loose.

The intact tape is drawn flat and straight: rib weave, stitching and its lighting. It is then bent, pulled and torn into
the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.tools.drawing import OVERSAMPLING, Streams, bump, noise, smoothstep

TAPE = 0.348  # half the width of both tapes together, in image sides
STITCH = 0.106  # where the seam runs beside the chain
_REACH, _SPARE = 0.42, 0.05  # the flat tape is drawn this far to either side of its axis, and beyond top and bottom
_RIB, _PICK = 0.0112, 0.0088  # periods of the weave across and along the tape
_STITCH_LENGTH = 0.031
SLACK = 0.0012  # the chain gives this much before the cloth moves
_SLIT = 0.006  # half the gap between the two tapes, under the teeth
_PULLED = 0.105  # width of the cloth that follows when the chain moves
_FIBRE = 0.0018  # thickness of a thread


@dataclass(frozen=True)
class Lamp:
    """The light on the zipper: direction towards the lamp, x right and y down, and how strongly the teeth mirror it."""

    x: float
    y: float
    glare: float


@dataclass(frozen=True)
class Pose:
    """Where the zipper lies, from the top left corner."""

    x: np.ndarray  # (1, side) and (side, 1)
    y: np.ndarray
    axis: np.ndarray  # (side, 1): x of the middle of the chain
    half: float  # of the width of both tapes together

    def at(self, y: float) -> float:
        """Returns x of the chain's middle at height `y`."""
        return float(np.interp(y, self.y[:, 0], self.axis[:, 0]))


@dataclass
class Cloth:
    """The tapes and what has become of them. Maps have the canvas's shape unless said otherwise."""

    flat: np.ndarray  # brightness of the intact tape on its own grid
    edge: np.ndarray  # (side, 2): how far the left and the right edge stand out
    apart: np.ndarray  # (side, 1): how far each half has moved away from the axis
    shift: np.ndarray  # (2, side, side): how far the cloth is pulled to the right and down
    hole: np.ndarray  # share of the cloth that is gone
    haze: np.ndarray  # how densely the finest fibres cover it
    fibres: list[np.ndarray]  # loose threads, lines (n, 2)


def weave_cloth(streams: Streams, size: int, pose: Pose, lamp: Lamp) -> Cloth:
    """Returns an intact cloth."""
    rng, side = streams.surface, pose.y.size
    flat = _flat_tape(rng, size, lamp)
    edge = np.hstack([0.0008 * noise(rng, pose.y.shape, (90, 1), octaves=3, persistence=0.8) for _ in range(2)])
    shift, hole, haze = (np.zeros((*many, side, side), np.float32) for many in ((2,), (), ()))
    return Cloth(flat, edge, np.zeros_like(pose.y), shift, hole, haze, _lint(rng, pose))


def lay_cloth(table: np.ndarray, pose: Pose, cloth: Cloth) -> np.ndarray:
    """Returns the table with the cloth on it, without its loose fibres."""
    side = pose.y.size
    beside = pose.x - pose.axis - cloth.shift[0]
    across = np.abs(beside)
    across -= parting(cloth, across)
    column = (np.sign(beside) * np.maximum(across, 0) + _REACH) * side - 0.5
    row = (pose.y - cloth.shift[1] + _SPARE) * side - 0.5
    tape = cv2.remap(cloth.flat, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR)
    tape += (0.42 - tape) * cloth.haze
    edge = np.where(beside < 0, cloth.edge[:, :1], cloth.edge[:, 1:])
    cover = smoothstep(0.0016, -0.0016, across - pose.half - edge) * smoothstep(_SLIT - 0.002, _SLIT + 0.002, across)
    return table + (tape - table) * (cover * (1 - cloth.hole))


def parting(cloth: Cloth, across: np.ndarray) -> np.ndarray:
    """Returns how far the cloth at a distance from the axis has moved away: most at the chain."""
    follows = np.square(np.clip((0.185 - across) / _PULLED, 0, 1))
    return np.maximum(cloth.apart * follows - SLACK, 0)


def _flat_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns u `(1, columns)` across the tape from its axis, and v `(rows, 1)` along it from the image's top."""
    pixels = size * OVERSAMPLING
    columns, rows = round(2 * _REACH * pixels), round((1 + 2 * _SPARE) * pixels)
    u = (np.arange(columns, dtype=np.float32) + 0.5) / pixels - _REACH
    v = (np.arange(rows, dtype=np.float32) + 0.5) / pixels - _SPARE
    return u[None, :], v[:, None]


def _flat_tape(rng: Generator, size: int, lamp: Lamp) -> np.ndarray:
    """Returns the brightness of the intact tape on `_flat_grid`, float32, without its edges."""
    u, v = _flat_grid(size)
    shape = (v.size, u.size)
    tone = 0.235 * float(np.exp(rng.normal(0, 0.13)))
    contrast = float(rng.uniform(0.75, 1.25))
    slow = noise(rng, shape, (7, 5), octaves=3)
    fine = noise(rng, shape, (110, 84), octaves=2, persistence=0.8)
    height = contrast * _weave(rng, u, v, slow, fine) + 0.10 * fine
    height += _selvedge(u)
    thread = _seam(rng, u, v, height)
    light = _slopes(height, size * OVERSAMPLING, lamp)
    brightness = tone * (1 + 0.04 * slow + 0.85 * (height - 0.5)) + 1.5 * tone * light
    brightness *= _bands(rng, u)
    return np.maximum(brightness * (1 + 0.2 * thread), 0.02).astype(np.float32)


def _weave(rng: Generator, u: np.ndarray, v: np.ndarray, slow: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Returns the height of the yarns, 0 to 1: ribs along the tape, each a row of knots, every rib a step further."""
    phase = rng.uniform(0, 2 * np.pi, 2)
    rib = (2 * np.pi / _RIB) * np.abs(u) + float(phase[0])
    step = np.floor(rib / (2 * np.pi)) * (2 * np.pi * 0.36)
    wander = 0.8 * slow + 0.2 * fine
    knots = np.cos((2 * np.pi / _PICK) * v + (step + 0.9 * np.sin(rib) + float(phase[1])) + wander)
    ribs = np.cos(rib + 0.4 * slow + 0.15 * fine)
    return 0.5 + 0.34 * knots + 0.26 * ribs + 0.15 * knots * ribs


def _selvedge(u: np.ndarray) -> np.ndarray:
    """Returns the broad relief across the tape: a thick rib along each edge and a groove beside the seam."""
    across = np.abs(u)
    return (
        0.5 * bump(across, TAPE - 0.009, 0.012)
        - 0.6 * bump(across, TAPE - 0.026, 0.006)
        - 0.5 * bump(across, 0.131, 0.007)
    )


def _seam(rng: Generator, u: np.ndarray, v: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Lays the chain stitch of both tapes onto `height`. Returns where thread lies, 0 to 1."""
    thread = np.zeros_like(height)
    for side in (-1, 1):
        columns = slice(*np.searchsorted(u[0], [side * STITCH - 0.018, side * STITCH + 0.018]))
        across = side * u[:, columns] - STITCH - SLACK * noise(rng, (v.size, 1), (30, 1), octaves=2)
        stitch = v / (_STITCH_LENGTH * float(rng.uniform(0.97, 1.03))) + float(rng.uniform())
        along = stitch - np.floor(stitch) - 0.5
        arm = 0.0070 * (0.5 - along)  # the two strands of a loop close towards its end
        strands = np.maximum(bump(across, 0.0042 * side, 1.0), 0) * 0
        for sign in (-1, 1):
            strands = np.maximum(strands, bump(across - sign * arm, 0.0, 0.0042))
        strands = strands * (1 - smoothstep(0.36, 0.5, np.abs(along)) * 0.75)
        height[:, columns] = (
            height[:, columns] * (1 - strands) + 1.9 * strands - 0.5 * bump(across, 0.0, 0.017) * (1 - strands)
        )
        thread[:, columns] = strands
    return thread


def _slopes(height: np.ndarray, pixels: float, lamp: Lamp) -> np.ndarray:
    """Returns how much more light each place gets because it leans towards the lamp."""
    unit = 0.0016 * pixels / 8
    light = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=-lamp.x * unit)
    light += cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=-lamp.y * unit)
    return light


def _bands(rng: Generator, u: np.ndarray) -> np.ndarray:
    """Returns the slight differences between the warp yarns, lines along the tape."""
    yarns = noise(rng, (1, u.size), (1, 40), octaves=3, persistence=0.8)
    return (1 + 0.05 * yarns).astype(np.float32)


def _lint(rng: Generator, pose: Pose) -> list[np.ndarray]:
    """Returns the fibres of a good zipper: lint, most of it on the cloth, and hairs along both edges."""
    on_cloth = rng.uniform((0.17, 0), (0.83, 1), (rng.integers(0, 14), 2))
    specks = np.vstack([on_cloth, rng.uniform(0, 1, (rng.poisson(0.5), 2))])
    lines = [curl(rng, place, rng.uniform(0.006, 0.022)) for place in specks]
    for side in (-1, 1):
        for _ in range(rng.integers(12, 40)):
            y = float(rng.uniform(0, 1))
            root = np.array([pose.at(y) + side * (pose.half - 0.002), y])
            lines.append(curl(rng, root, rng.uniform(0.004, 0.014), np.pi / 2 - side * rng.uniform(0.2, 2.9)))
    return lines


def curl(rng: Generator, start: np.ndarray, length: float, heading: float | None = None) -> np.ndarray:
    """Returns the line of a loose fibre: it leaves along `heading` and curls. It wanders anywhere without a heading."""
    angle = (rng.uniform(0, 2 * np.pi) if heading is None else heading) + np.cumsum(rng.normal(0, 0.13, 14))
    angle += rng.normal(0, 0.8) * np.linspace(0, 1, 14)
    steps = np.column_stack([np.cos(angle), np.sin(angle)]) * (length / 14)
    return np.asarray(start) + np.cumsum(steps, 0)


def fibre_cover(lines: list[np.ndarray], side: int) -> np.ndarray:
    """Returns how much of each pixel the fibres cover, float32 of shape `(side, side)`."""
    canvas = np.zeros((side, side), np.uint8)
    thickness = max(1, round(_FIBRE * side))
    opaque = 255 * min(1.0, _FIBRE * side / thickness)
    for number, line in enumerate(lines):
        points = np.round((line * side - 0.5) * 16).astype(np.int32)
        cv2.polylines(canvas, [points], False, opaque * (0.5, 0.75, 1.0)[number % 3], thickness, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def lay_fibres(canvas: np.ndarray, lines: list[np.ndarray]) -> None:
    """Lays loose fibres, grey and nearly transparent, and their shadows onto the canvas, in place."""
    side = canvas.shape[0]
    cover = fibre_cover(lines, side)
    offset = np.array([[1, 0, 0.0015 * side], [0, 1, 0.0025 * side]])
    canvas *= 1 - 0.3 * cv2.warpAffine(cover, offset, (side, side))
    tone = 0.68 - 0.44 * canvas  # the lamp from above lights them on the cloth; against the table they are dark
    canvas += (tone - canvas) * (0.85 * cover)
