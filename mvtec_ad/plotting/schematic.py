"""Schematics: boxes, stacks of planes and arrows, with which a notebook draws how a method works."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from mvtec_ad.plotting.style import FAINT, INK, STYLE, new_figure


class Node(NamedTuple):
    """What `Schematic` has drawn: where it lies, so that arrows find it."""

    x: float
    y: float
    width: float
    height: float

    def edge(self, towards: Node) -> tuple[float, float]:
        """The middle of the side that faces another node."""
        across, up = towards.x - self.x, towards.y - self.y
        if abs(across) * (self.height + towards.height) >= abs(up) * (self.width + towards.width):
            return self.x + np.sign(across) * self.width / 2, self.y
        return self.x, self.y + np.sign(up) * self.height / 2


class Schematic:
    """A figure on which boxes, stacks, pictures and arrows are put, in inches from the lower left corner.

    Every method takes the middle of what it draws. `figure` is shown by Jupyter when it ends a cell, `axes` takes
    whatever else a lesson needs.

    Example:
        >>> draw = Schematic(4, 1)
        >>> image, code = draw.stack("image", 0.6, 0.6), draw.box("encoder", 2, 0.6)
        >>> draw.arrow(image, code, "3 × 64 × 64")
        >>> figure = draw.figure
    """

    @rc_context(STYLE)
    def __init__(self, width: float, height: float) -> None:
        self.figure = new_figure(width, height)
        self.figure.set_layout_engine("none")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        self.axes.axis("off")

    def box(
        self, text: str, x: float, y: float, width: float = 1.1, height: float = 0.5, colour: str = "#E8EEF4"
    ) -> Node:
        """A rounded box with a text: something that is computed."""
        corner, style = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=0.08"
        looks = {"facecolor": colour, "edgecolor": FAINT, "linewidth": 1}
        self.axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, **looks))
        self.text(text, x, y)
        return Node(x, y, width, height)

    def stack(
        self,
        text: str,
        x: float,
        y: float,
        width: float = 0.5,
        height: float = 0.5,
        planes: int = 4,
        colour: str = "#56B4E9",
    ) -> Node:
        """Planes behind one another, with a text below: a tensor, or vectors of an image's positions."""
        step = 0.05
        for plane in reversed(range(planes)):
            offset = step * (plane - (planes - 1) / 2)
            corner = (x - width / 2 + offset, y - height / 2 + offset)
            self.axes.add_patch(Rectangle(corner, width, height, facecolor=colour, edgecolor="white", linewidth=0.8))
        reach = step * (planes - 1)
        self.text(text, x, y - (height + reach) / 2 - 0.05, va="top")
        return Node(x, y, width + reach, height + reach)

    def picture(self, image: np.ndarray, x: float, y: float, size: float = 0.7, text: str = "") -> Node:
        """An image, (H, W, 3) uint8 or (H, W) as a heat map, with a text below."""
        half = size / 2
        self.axes.imshow(image, cmap="inferno", extent=(x - half, x + half, y - half, y + half), zorder=2)
        width, height = self.figure.get_size_inches()
        self.axes.set(xlim=(0, width), ylim=(0, height))  # imshow has moved them
        self.text(text, x, y - half - 0.05, va="top")
        return Node(x, y, size, size)

    def arrow(
        self, start: Node, end: Node, text: str = "", bend: float = 0.0, colour: str = INK, dashed: bool = False
    ) -> None:
        """From one node to another, with a text above its middle; `bend` in parts of its length."""
        ends, line = (start.edge(end), end.edge(start)), "--" if dashed else "-"
        looks = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 2, "shrinkB": 2, "zorder": 3}
        curve = f"arc3,rad={bend}"
        self.axes.add_patch(
            FancyArrowPatch(*ends, connectionstyle=curve, color=colour, linestyle=line, linewidth=1.2, **looks)
        )
        (x, y), (to_x, to_y) = ends
        middle = ((x + to_x) / 2 + bend * (to_y - y) / 2, (y + to_y) / 2 - bend * (to_x - x) / 2)
        self.text(text, middle[0], middle[1] + 0.05, va="bottom", size=8.5, colour=colour)

    def text(
        self, text: str, x: float, y: float, size: float = 9, va: str = "center", ha: str = "center", colour: str = INK
    ) -> None:
        """Words alone."""
        self.axes.text(x, y, text, ha=ha, va=va, fontsize=size, color=colour, zorder=4, linespacing=1.25)
