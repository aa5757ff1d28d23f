"""The printed carton: the faces of the box and what stands on them, with the item's number as text and as EAN-13."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.package.ean13 import ean13
from mvtec_ad.synthetic.tools.drawing import bump, fill, noise, smoothstep
from mvtec_ad.synthetic.tools.lettering import print_of, stamp, text

LENGTH, WIDTH, HEIGHT = 10.8, 5.5, 3.22  # of the carton, in centimetres
PAPER = np.array([0.765, 0.78, 0.822], np.float32)
GREEN = np.array([0.33, 0.785, 0.645], np.float32)
_PALE = np.array([0.60, 0.79, 0.75], np.float32)
_INK = np.array([0.20, 0.21, 0.24], np.float32)
_BAND = 3.35  # the green end of the carton


@dataclass(frozen=True)
class Face:
    """A rectangle of the box; points of it are `corner + s * right + t * down`."""

    corner: np.ndarray
    right: np.ndarray
    down: np.ndarray
    size: tuple[float, float]  # along right and down

    @property
    def outward(self) -> np.ndarray:
        """The unit normal."""
        return np.cross(self.down, self.right)

    def shape(self, pixels: float) -> tuple[int, int]:
        """Returns rows and columns of the face's picture at that many pixels per centimetre."""
        return round(self.size[1] * pixels), round(self.size[0] * pixels)

    def outline(self) -> np.ndarray:
        """Returns its four corners, `(4, 3)`."""
        right, down = self.size[0] * self.right, self.size[1] * self.down
        return np.array([self.corner + i * right + j * down for i in (0, 1) for j in (0, 1)])

    def grid(self, pixels: float) -> np.ndarray:
        """Returns the points of the pixel centres, `(rows, columns, 3)`."""
        rows, columns = self.shape(pixels)
        s, t = (np.arange(columns) + 0.5) / pixels, (np.arange(rows) + 0.5) / pixels
        return self.corner + s[None, :, None] * self.right + t[:, None, None] * self.down


def faces() -> dict[str, Face]:
    """Returns the faces that a camera can see, in the frame of the box: x towards the green end, z up."""
    x, y, z = np.eye(3)
    a, b = LENGTH / 2 * x, WIDTH / 2 * y
    top = HEIGHT * z
    return {
        "rear": Face(-a + b + top, -y, -z, (WIDTH, HEIGHT)),
        "left": Face(a + b + top, -x, -z, (LENGTH, HEIGHT)),
        "right": Face(-a - b + top, x, -z, (LENGTH, HEIGHT)),
        "end": Face(a - b + top, y, -z, (WIDTH, HEIGHT)),
        "top": Face(-a + b + top, x, -y, (LENGTH, WIDTH)),
    }


def carton(rng: Generator, number: str, pixels: float) -> dict[str, np.ndarray]:
    """Prints one carton.

    Args:
        rng: Stream of the surface.
        number: Thirteen digits, for text and bar code.
        pixels: Per centimetre.

    Returns:
        Picture of each face, float32 of shape `(rows, columns, 3)`, before any light.
    """
    paper = PAPER * (1 + rng.normal(0, 0.008) + rng.normal(0, 0.006, 3)).astype(np.float32)
    green = GREEN * (1 + rng.normal(0, 0.03, 3)).astype(np.float32)
    batch = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUVWXYZ"), 2)) + f"{rng.integers(10**6):06d}-{rng.integers(10)}"
    shift = rng.normal(0, 0.05, (len(faces()), 2))  # the print never sits quite the same
    pictures = {}
    for (name, face), aside in zip(faces().items(), shift, strict=True):
        shape = face.shape(pixels)
        sheet = _layout(name, pixels)
        layers = (sheet.black, sheet.green, sheet.pale, sheet.relief)
        black, green_cover, pale_cover, relief = (_moved(layer, aside * pixels) for layer in layers)
        if name == "end":
            black = np.maximum(black, _serial(shape, pixels, number, batch, aside))
        elif name == "right":
            black = np.maximum(black, _bar_code(shape, pixels, number, aside))
        fibres = noise(rng, shape, (9, 14), octaves=4)
        picture = np.empty((*shape, 3), np.float32)
        for channel in range(3):
            layer = np.full(shape, paper[channel], np.float32)
            layer += (_PALE[channel] - layer) * pale_cover
            layer += (green[channel] - layer) * green_cover
            layer += (_INK[channel] - layer) * black
            picture[..., channel] = layer * (1 + 0.006 * fibres + relief)
        pictures[name] = picture
    return pictures


def _moved(layer: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    matrix = np.array([[1.0, 0, pixels[0]], [0, 1.0, pixels[1]]])
    return cv2.warpAffine(layer, matrix, layer.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class _Sheet:
    """What is the same on a face of every carton: inks 0 to 1, relief as a relative change of light."""

    size: tuple[float, float]
    pixels: float
    black: np.ndarray
    green: np.ndarray
    pale: np.ndarray
    relief: np.ndarray

    @property
    def x(self) -> np.ndarray:
        """Distance from the left border, `(1, columns)`."""
        return (np.arange(self.black.shape[1], dtype=np.float32)[None] + 0.5) / self.pixels

    @property
    def y(self) -> np.ndarray:
        """Distance from the upper border, `(rows, 1)`."""
        return (np.arange(self.black.shape[0], dtype=np.float32)[:, None] + 0.5) / self.pixels

    def write(self, line: str, place: tuple[float, float], height: float, ink: str = "black", bold: str = "") -> None:
        """Prints a line that begins at `place` (x and middle of its height); `bold` is a font's suffix."""
        font, cover = f"DejaVuSans{bold}", getattr(self, ink)
        centre = (place[0] + _width(line, height, font) / 2, place[1])
        np.maximum(cover, text(line, cover.shape, self.pixels, centre, height, font=font), out=cover)

    def band(self, from_end: np.ndarray, edge: np.ndarray | float) -> None:
        """Prints the green end of the carton as far as `edge`, with a pale stripe before it."""
        soft = 0.6 / self.pixels
        self.green[:] = np.maximum(self.green, smoothstep(edge + soft, edge - soft, from_end))
        self.pale[:] = smoothstep(edge + 0.42 + soft, edge + 0.42 - soft, from_end)


@lru_cache(maxsize=32)
def _layout(name: str, pixels: float) -> _Sheet:
    face = faces()[name]
    sheet = _Sheet(face.size, pixels, *(np.zeros(face.shape(pixels), np.float32) for _ in range(4)))
    _LAYOUTS[name](sheet)
    x, y = sheet.x, sheet.y
    rim = np.minimum(np.minimum(x, face.size[0] - x), np.minimum(y, face.size[1] - y))
    sheet.relief[:] += 0.05 * bump(rim, 0, 0.09)  # rounded edges catch the light
    return sheet


def _lay_out_top(sheet: _Sheet) -> None:
    y = sheet.y
    wave = 0.38 * np.sin((y - 0.4) * 1.15) * np.exp(-0.5 * ((y - 2.9) / 1.3) ** 2)
    sheet.band(LENGTH - sheet.x, _BAND - 0.55 - 0.3 * y / WIDTH + wave)
    sheet.write("Exemplin", (0.35, 0.75), 0.58)
    sheet.write("H", (4.22, 0.70), 0.58)
    sheet.write("250mg", (5.0, 0.92), 0.38, "green", "-Bold")
    sheet.write("film-coated tablets / compressae obductae /", (0.4, 1.50), 0.13)
    sheet.write("Filmtabletten", (0.4, 1.80), 0.13)
    sheet.write("30 tablets", (0.42, 5.05), 0.25, bold="-Bold")
    sheet.relief[:] += _braille(sheet)


def _lay_out_left(sheet: _Sheet) -> None:
    sheet.band(sheet.x, _BAND - 0.85)
    _leaflet(sheet, 4.4)


def _lay_out_right(sheet: _Sheet) -> None:
    sheet.band(LENGTH - sheet.x, _BAND - 0.85)
    _leaflet(sheet, 3.8)
    sheet.write("© Example Works", (0.85, 2.55), 0.13)
    sheet.write("All rights reserved", (0.85, 2.82), 0.13)
    box = np.array([[0.12, 0.16], [3.6, 0.16], [3.6, 2.05], [0.12, 2.05]])
    inner = box + 0.03 * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    shape, pixels = sheet.black.shape, sheet.pixels
    np.maximum(sheet.black, 0.8 * (fill(box, shape, pixels) - fill(inner, shape, pixels)), out=sheet.black)


def _leaflet(sheet: _Sheet, left: float) -> None:
    lines = ("Each tablet contains", "250 mg exemplin, starch", "and lactose. By mouth.", "Read the leaflet before")
    for row, line in enumerate((*lines, "you take a tablet.")):
        sheet.write(line, (left, 0.62 + 0.33 * row), 0.16)


def _lay_out_end(sheet: _Sheet) -> None:
    """Leaves room for the serial number; the tuck's lock shows through."""
    sheet.relief[:] -= 0.055 * smoothstep(0.92, 0.88, np.abs(sheet.x - WIDTH / 2)) * smoothstep(0.52, 0.48, sheet.y)


def _lay_out_rear(sheet: _Sheet) -> None:
    sheet.write("Exemplin H 250mg", (0.7, 1.5), 0.31)


_LAYOUTS = {
    "rear": _lay_out_rear,
    "left": _lay_out_left,
    "right": _lay_out_right,
    "end": _lay_out_end,
    "top": _lay_out_top,
}


@lru_cache(maxsize=64)
def _width(line: str, height: float, font: str) -> float:
    return print_of(line, font).shape[1] * height / 96


def _braille(sheet: _Sheet) -> np.ndarray:
    """Returns embossed dots, light on one side and dark on the other."""
    shape, pixels = sheet.black.shape, sheet.pixels
    rng = np.random.default_rng(7)
    dots = np.zeros(shape, np.float32)
    angle = np.linspace(0, 2 * np.pi, 12)
    ring = 0.055 * np.column_stack([np.cos(angle), np.sin(angle)])
    for line in range(2):
        for cell in range(9):
            for dot in np.flatnonzero(rng.uniform(size=6) < 0.5):
                centre = np.array([0.9 + 0.62 * cell + 0.25 * (dot % 2), 2.45 + 1.0 * line + 0.25 * (dot // 2)])
                dots = np.maximum(dots, fill(centre + ring, shape, pixels))
    dots = cv2.GaussianBlur(dots, (0, 0), max(0.3, 0.025 * pixels))
    return 0.007 * pixels * (cv2.Sobel(dots, cv2.CV_32F, 0, 1) + 0.5 * cv2.Sobel(dots, cv2.CV_32F, 1, 0)) / 8


def _serial(shape: tuple[int, int], pixels: float, number: str, batch: str, aside: np.ndarray) -> np.ndarray:
    ink = np.zeros(shape, np.float32)
    for row, (label, value) in enumerate((("SN:", number), ("Lot:", batch), ("Exp.:", "12.2082"))):
        for line, left in ((label, 1.25), (value, 2.65)):
            centre = (left + _width(line, 0.19, "DejaVuSansMono") / 2 + aside[0], 1.35 + 0.38 * row + aside[1])
            np.maximum(ink, text(line, shape, pixels, centre, 0.19, font="DejaVuSansMono"), out=ink)
    return 0.9 * ink


def _bar_code(shape: tuple[int, int], pixels: float, number: str, aside: np.ndarray) -> np.ndarray:
    modules = np.repeat(np.repeat(ean13(number)[None].astype(np.float32), 40, 0), 8, 1)
    left, top, width, height = 0.47 + aside[0], 0.32 + aside[1], 2.8, 1.30
    across, down = width * pixels / modules.shape[1], height * pixels / modules.shape[0]
    matrix = np.array([[across, 0, left * pixels - 0.5], [0, down, top * pixels - 0.5]])
    bars = stamp(modules, shape, matrix)
    centre = (left + width / 2, top + height + 0.2)
    return np.maximum(bars, text(number, shape, pixels, centre, 0.17, font="DejaVuSansMono"))
