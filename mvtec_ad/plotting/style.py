"""One look for all figures: colours that colour-blind readers can tell apart, quiet axes, a figure that shows itself.

Good parts are blue and defects are vermilion in every figure (Okabe & Ito, "Color Universal Design", 2008).
"""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patheffects import Normal, Stroke
from matplotlib.text import Text

from mvtec_ad.data.loading import SOFTWARE
from mvtec_ad.errors import escape

GOOD = "#0072B2"
DEFECT = "#D55E00"
CLASS_NAMES = ("good", "defect")
CLASS_COLOURS = (GOOD, DEFECT)
METHOD_COLOURS = ("#009E73", "#AA4499", "#56B4E9", "#E69F00", "#332288", "#999933", "#882255", "#44AA99")
INK = "#222222"
FAINT = "#8A8A8A"
MASK = "#00E5FF"  # ground truth; no colour map in use comes near it
ANOMALY_MAP = "inferno"  # dark to bright in even steps, also in grey


STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so figures look the same everywhere
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2.0,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "figure.titlesize": 11,
}


class NotebookFigure(Figure):
    """A figure that Jupyter shows when it is the last expression of a cell, once, and whatever was imported before.

    A plain `Figure` is shown only after pyplot was imported in that kernel, and a figure made by pyplot is shown twice:
    when the cell ends and as its value. This one is unknown to pyplot, so nothing has to be closed either.

    Its texts hold names of files, categories and defects, so that no `$` in them begins a formula.
    """

    def draw(self, renderer: RendererBase) -> None:
        """As every figure, its words as they are spelled, and what their font lacks as `\\u5199`."""
        for text in self.findobj(Text):
            words = text.get_text()
            if not words.startswith(r"$\mathdefault{"):  # so matplotlib itself writes 10² along an axis
                text.set(text=in_font(words, text.get_fontproperties()))
                if "$" in words:
                    text.set_parse_math(False)
        super().draw(renderer)

    def _ipython_display_(self) -> None:
        """A PNG; a JPEG where photographs are shown, which keeps a notebook of galleries under a megabyte."""
        from IPython.display import Image, display

        shows_pictures = any(np.ndim(image.get_array()) == 3 for axes in self.axes for image in axes.images)
        display(Image(to_jpeg(self), format="jpeg") if shows_pictures else Image(to_png(self), format="png"))


def in_font(words: str, font: FontProperties | None = None) -> str:
    """The words, escaped where the font, by default that of `STYLE`, has no glyph for a character."""
    glyphs = _glyphs(findfont(font or STYLE["font.family"]))
    return "".join(letter if letter == "\n" or ord(letter) in glyphs else escape(letter) for letter in words)


def file_title(path: Path) -> str:
    """Folder and name of a file, the end of them where they are longer than a picture is wide."""
    name = "/".join(path.parts[-2:])
    return name if len(name) <= 36 else "…" + name[-35:]


@functools.cache
def _glyphs(path: str) -> frozenset[int]:
    return frozenset(get_font(path).get_charmap())


def new_figure(width: float, height: float) -> NotebookFigure:
    """An empty figure of the given size in inches whose parts arrange themselves."""
    return NotebookFigure(figsize=(width, height), layout="constrained")


def to_png(figure: Figure, dpi: float = 90) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes: no date and no version is stored."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": SOFTWARE})
    return buffer.getvalue()


def to_jpeg(figure: Figure, dpi: float = 90) -> bytes:
    """The figure as a JPEG file, colours at full resolution so that thin lines stay sharp."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=dpi, pil_kwargs={"quality": 88, "subsampling": 0})
    return buffer.getvalue()


def bare(axes: Axes) -> None:
    """Axes of a picture: no ticks, no grid, no frame."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def outlined(width: float = 3.0, colour: str = "black") -> list:
    """Path effects that keep a line or a text readable on any picture."""
    return [Stroke(linewidth=width, foreground=colour), Normal()]
