"""Drawing tools that every product shares: random streams, noise, shapes and masks.

Lengths are in units of the image side unless said otherwise, so one seed gives one picture at every size. Canvases are
float32 with 0 black and 1 white, drawn at `OVERSAMPLING` times the final resolution and averaged down by the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

OVERSAMPLING = 2
_SUBPIXEL_BITS = 4  # OpenCV draws polygons at 1/16 pixel


@dataclass(frozen=True)
class Streams:
    """Independent random streams of one image.

    A defect draws from its own stream only, so the same seed with and without a defect shares everything else.
    """

    pose: Generator
    light: Generator
    surface: Generator
    sensor: Generator
    defect: Generator


def streams(product: int, seed: int) -> Streams:
    """Returns the streams of one image of one product; both numbers are non-negative."""
    return Streams(*(np.random.default_rng(child) for child in np.random.SeedSequence([product, seed]).spawn(5)))


def mix(low: float, high: float, amount: float) -> float:
    """Returns the point that lies `amount` (0 to 1) of the way from `low` to `high`."""
    return low + (high - low) * amount


def smoothstep(start: float, stop: float, x: np.ndarray) -> np.ndarray:
    """Returns 0 before `start`, 1 after `stop`, and a smooth ramp between. `start` may exceed `stop`."""
    t = np.clip((x - start) / (stop - start), 0, 1)
    return t * t * (3 - 2 * t)


def bump(x: np.ndarray, centre: float, half_width: float) -> np.ndarray:
    """Returns a smooth hill of height 1 at `centre` that is exactly 0 beyond `half_width`."""
    t = np.clip(1 - np.square((x - centre) / half_width), 0, None)
    return t * t


def canvas_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixel-centre coordinates of the canvas, origin at its centre, y downwards.

    Args:
        size: Final image side in pixels.

    Returns:
        `x` of shape `(1, side)` and `y` of shape `(side, 1)`, float32, from -0.5 to 0.5.
    """
    side = size * OVERSAMPLING
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    return axis[None, :], axis[:, None]


def noise(
    rng: Generator,
    shape: tuple[int, int],
    cells: tuple[int, int],
    octaves: int = 4,
    persistence: float = 0.5,
    wrap: bool = False,
) -> np.ndarray:
    """Returns a smooth random field: octaves of upsampled white noise, close to 1/f.

    Args:
        rng: Random stream; what is drawn from it does not depend on `shape`.
        shape: Rows and columns of the result.
        cells: Rows and columns of the coarsest grid; each octave doubles both.
        octaves: Number of grids added.
        persistence: Amplitude of an octave relative to the one before (0.5 is 1/f).
        wrap: Whether the last row continues in the first one, as an angle does.

    Returns:
        Array of `shape`, float32, mean near 0 and standard deviation near 1.
    """
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        grid = rng.standard_normal((cells[0] << octave, cells[1] << octave), dtype=np.float32)
        if min(shape[0] / grid.shape[0], shape[1] / grid.shape[1]) < 0.5:
            continue  # finer than a pixel: drawn, so that the stream stays in step, but not visible
        total += persistence**octave * _upsample(grid, shape, wrap)
    power = sum(persistence ** (2 * octave) for octave in range(octaves))
    return total / np.float32(0.62 * np.sqrt(power))  # interpolation shrinks the deviation to about 0.62


def _upsample(grid: np.ndarray, shape: tuple[int, int], wrap: bool) -> np.ndarray:
    rows, columns = shape
    if not wrap:
        return cv2.resize(grid, (columns, rows), interpolation=cv2.INTER_CUBIC)
    pad = 2
    margin = round(pad * rows / grid.shape[0])
    padded = np.concatenate([grid[-pad:], grid, grid[:pad]])
    return cv2.resize(padded, (columns, rows + 2 * margin), interpolation=cv2.INTER_CUBIC)[margin : margin + rows]


def smooth_contour(rng: Generator, roughness: float, points: int = 96) -> np.ndarray:
    """Returns a closed random outline around the origin.

    Args:
        rng: Random stream.
        roughness: 0 is a circle of radius 1; 0.3 is a ragged flake.
        points: Number of corners.

    Returns:
        Array of shape `(points, 2)`, float64, columns x and y.
    """
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    order = np.arange(2, 12)
    amplitude = rng.normal(0, roughness / order**0.9)
    phase = rng.uniform(0, 2 * np.pi, order.size)
    radius = np.exp((amplitude * np.cos(np.outer(angle, order) + phase)).sum(1))
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])


def _fixed_point(points: np.ndarray, pixels: float) -> np.ndarray:
    return np.round((points * pixels - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)


def fill(points: np.ndarray, shape: tuple[int, int], pixels: float) -> np.ndarray:
    """Returns how much of each pixel a polygon covers.

    Args:
        points: Array of shape `(n, 2)`, columns x and y, measured from the top left corner.
        shape: Rows and columns of the canvas.
        pixels: Canvas pixels per unit of `points`.

    Returns:
        Array of `shape`, float32 from 0 to 1, anti-aliased.
    """
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [_fixed_point(points, pixels)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return canvas.astype(np.float32) / 255


def stroke(points: np.ndarray, width: float, shape: tuple[int, int], pixels: float) -> np.ndarray:
    """Returns how much of each pixel an open line of the given width covers; arguments and result as in `fill`."""
    tangent = np.gradient(points, axis=0)
    normal = tangent[:, ::-1] * [1, -1] / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    taper = np.sqrt(np.sin(np.linspace(0.15, np.pi - 0.15, len(points))))[:, None]
    side = normal * taper * width / 2
    return fill(np.concatenate([points + side, (points - side)[::-1]]), shape, pixels)


def blend(canvas: np.ndarray, colour: np.ndarray | tuple[float, ...], alpha: np.ndarray) -> None:
    """Lays `colour` over `canvas` in place, `alpha` (rows, columns) of it; both end in the channel axis."""
    canvas += (np.asarray(colour, np.float32) - canvas) * alpha[..., None]


def to_mask(coverage: np.ndarray) -> np.ndarray:
    """Returns the pixels more than a quarter covered: thin spikes belong to the mask.

    A defect thinner still keeps the pixels it covers most, so that no mask is empty.

    Args:
        coverage: Canvas of shape `(rows, columns)`, float32 from 0 to 1.

    Returns:
        Array of shape `(rows / OVERSAMPLING, columns / OVERSAMPLING)`, bool.
    """
    rows, columns = (side // OVERSAMPLING for side in coverage.shape)
    area = cv2.resize(coverage, (columns, rows), interpolation=cv2.INTER_AREA)
    return area > min(0.25, 0.5 * float(area.max()))
