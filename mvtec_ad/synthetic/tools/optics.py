"""How a surface looks and how a camera sees it: relief, light, reflection on metal, and the photograph."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.tools.drawing import OVERSAMPLING, canvas_grid, smoothstep

# What polished metal mirrors, by the height of the reflected ray: table (-1), dark room at the horizon (0), lamp (1).
_ROOM_HEIGHT = (-1.0, -0.45, -0.05, 0.2, 0.6, 0.9, 1.0)
_ROOM_LIGHT = (0.52, 0.46, 0.15, 0.22, 0.66, 0.86, 0.92)


def normals(height: np.ndarray, pixels: float) -> np.ndarray:
    """Returns the unit normals of a height map.

    Args:
        height: Array of shape `(rows, columns)`, towards the camera, in image sides (or any unit).
        pixels: Canvas pixels per unit of `height`.

    Returns:
        Array of shape `(3, rows, columns)`, float32: x to the right, y downwards, z towards the camera.
    """
    height = np.asarray(height, np.float32) * np.float32(pixels)
    x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=-1 / 8)
    y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=-1 / 8)
    z = 1 / np.sqrt(1 + x * x + y * y)
    return np.stack([x * z, y * z, z])


def shade(
    normal: np.ndarray, light: tuple[float, float, float], ambient: float = 0.35, gloss: float = 40
) -> tuple[np.ndarray, np.ndarray]:
    """Lights a painted or plastic surface seen from above (Blinn 1977, "Models of light reflection").

    Args:
        normal: As `normals` gives them.
        light: Direction towards the lamp, x right, y down, z to the camera; any length.
        ambient: Light from everywhere, 0 to 1; a surface that faces the lamp gets 1 in all.
        gloss: Exponent of the highlight: 5 is dull, 200 is lacquer.

    Returns:
        `diffuse`, to multiply the colour with (0 to 1), and `highlight`, to add (0 to 1); float32, `(rows, columns)`.
    """
    lamp = np.asarray(light, np.float32) / np.linalg.norm(light)
    half = lamp + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    facing = np.clip(np.tensordot(lamp, normal, 1), 0, None)
    highlight = np.clip(np.tensordot(half, normal, 1), 0, None) ** np.float32(gloss)
    return (ambient + (1 - ambient) * facing).astype(np.float32), highlight.astype(np.float32)


def uneven_light(rng: Generator, size: int, fall: float, vignette: float = 0.1) -> np.ndarray:
    """Returns the light on the table, by which a canvas is multiplied: leaning to one side, darker in the corners.

    Args:
        rng: Stream of the light.
        size: Final image side in pixels.
        fall: Most that the light loses or gains from the middle to a side.
        vignette: What the corners lose.

    Returns:
        Array of shape `(side, side)`, float32, 1 in the middle.
    """
    x, y = canvas_grid(size)
    lean, towards = rng.uniform(0, 2 * fall), rng.uniform(0, 2 * np.pi)
    plane = 1 + lean * (x * np.cos(towards) + y * np.sin(towards)) - 2 * vignette * (x * x + y * y)
    return plane.astype(np.float32)


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


def camera(canvas: np.ndarray, rng: Generator, blur: float, grain: float, grey: bool = False) -> np.ndarray:
    """Takes the photograph: lens blur, exposure, sensor noise, eight bits.

    Args:
        canvas: Array of shape `(rows, columns, 3)`, float32, 1 is white, more is overexposed.
        rng: Stream of the sensor.
        blur: Standard deviation of the lens blur in units of the image's width.
        grain: Standard deviation of the noise at mid grey, in units of white.
        grey: Whether the sensor is monochrome.

    Returns:
        Array of shape `(rows / OVERSAMPLING, columns / OVERSAMPLING, 3)`, uint8, RGB.
    """
    rows, columns = (side // OVERSAMPLING for side in canvas.shape[:2])
    exposure = float(np.exp(rng.normal(0, 0.025)))
    sigma = blur * columns * OVERSAMPLING * float(rng.uniform(0.7, 1.3))
    canvas = cv2.GaussianBlur(canvas, (7, 7), max(sigma, 0.3))  # the narrow kernel keeps a change local
    image = np.minimum(cv2.resize(canvas, (columns, rows), interpolation=cv2.INTER_AREA) * exposure, 1)
    speckle = rng.standard_normal((rows, columns, 1 if grey else 3), dtype=np.float32)
    # Photon noise grows with the square root of the light, and a saturated pixel shows none.
    depth = np.float32(grain) * np.sqrt(np.maximum(image, 0) * 2 + 0.05) * smoothstep(1.0, 0.93, image)
    return np.clip(np.round((image + depth * speckle) * 255), 0, 255).astype(np.uint8)
