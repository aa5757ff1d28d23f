"""One look for all figures: colours that colour-blind readers can tell apart, quiet axes, a figure that shows itself.

Good parts are blue and defects are vermilion in every figure (Okabe & Ito, "Color Universal Design", 2008).
"""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

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
    """

    def _ipython_display_(self) -> None:
        """A PNG; a JPEG where photographs are shown, which keeps a notebook of galleries under a megabyte."""
        from IPython.display import Image, display

        shows_pictures = any(np.ndim(image.get_array()) == 3 for axes in self.axes for image in axes.images)
        display(Image(to_jpeg(self), format="jpeg") if shows_pictures else Image(to_png(self), format="png"))


def new_figure(width: float, height: float) -> NotebookFigure:
    """An empty figure of the given size in inches whose parts arrange themselves."""
    return NotebookFigure(figsize=(width, height), layout="constrained")


def to_png(figure: Figure, dpi: float = 90) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes: no date and no software version is stored."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
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
