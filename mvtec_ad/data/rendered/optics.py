"""How a surface looks and how a camera sees it: reflection on metal, and the photograph."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.data.rendered.drawing import OVERSAMPLING, smoothstep

# What polished metal mirrors, by the height of the reflected ray: table (-1), dark room at the horizon (0), lamp (1).
_ROOM_HEIGHT = (-1.0, -0.45, -0.05, 0.2, 0.6, 0.9, 1.0)
_ROOM_LIGHT = (0.52, 0.46, 0.15, 0.22, 0.66, 0.86, 0.92)


def metal(normal: np.ndarray, lamp: tuple[float, float], softness: float | np.ndarray) -> np.ndarray:
    """Shades polished metal seen from above, in a dark room with a large lamp overhead and a light table below.

    Args:
        normal: Unit normals of shape `(3, rows, columns)`, float32; the third component points at the camera.
        lamp: Direction in the image plane towards which the lamp leans; its length says how far (0 to 1).
        softness: 0 is a mirror, 1 is matt; a number, or an array of shape `(rows, columns)`.

    Returns:
        Brightness of shape `(rows, columns)`, float32, about 0 to 1.3.
    """
    facing = normal[2]
    reflected = 2 * facing * facing - 1
    lean = lamp[0] * normal[0] + lamp[1] * normal[1]
    mirror = np.interp(reflected + 0.5 * lean * facing, _ROOM_HEIGHT, _ROOM_LIGHT).astype(np.float32)
    matt = 0.25 + 0.55 * np.clip(facing + lean, 0, 1.4)
    return mirror * (1 - softness) + matt * softness


def camera(canvas: np.ndarray, rng: Generator, size: int, blur: float, grain: float, grey: bool = False) -> np.ndarray:
    """Takes the photograph: lens blur, exposure, sensor noise, eight bits.

    Args:
        canvas: Array of shape `(side, side, 3)`, float32, 1 is white, more is overexposed.
        rng: Stream of the sensor.
        size: Final image side in pixels.
        blur: Standard deviation of the lens blur in units of the image side.
        grain: Standard deviation of the noise at mid grey, in units of white.
        grey: Whether the sensor is monochrome.

    Returns:
        Array of shape `(size, size, 3)`, uint8, RGB.
    """
    exposure = float(np.exp(rng.normal(0, 0.025)))
    sigma = blur * size * OVERSAMPLING * float(rng.uniform(0.7, 1.3))
    canvas = cv2.GaussianBlur(canvas, (7, 7), max(sigma, 0.3))  # the narrow kernel keeps a change local
    image = np.minimum(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA) * exposure, 1)
    speckle = rng.standard_normal((size, size, 1 if grey else 3), dtype=np.float32)
    # Photon noise grows with the square root of the light, and a saturated pixel shows none.
    depth = np.float32(grain) * np.sqrt(np.maximum(image, 0) * 2 + 0.05) * smoothstep(1.0, 0.93, image)
    return np.clip(np.round((image + depth * speckle) * 255), 0, 255).astype(np.uint8)
