"""Figures of a training."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.style import METHOD_COLOURS, STYLE, new_figure


@rc_context(STYLE)
def training_curves(curves: Mapping[str, pd.DataFrame], what: str = "loss") -> Figure:
    """Loss against steps; a line for the training, dots for held-out images, and a mark at the kept weights.

    Args:
        curves: Name -> as `training.train` returns it: columns step, loss and, where looked at, held_out.
        what: The loss is, for the axis.

    Raises:
        DataError: There is no curve.
    """
    if not curves:
        raise DataError("there is no curve to draw")
    figure = new_figure(7.4, 3.2)
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        colour = METHOD_COLOURS[index % len(METHOD_COLOURS)]
        smooth = curve["loss"].rolling(20, min_periods=1).mean()
        axes.plot(curve["step"] + 1, smooth, color=colour, label=f"{name}, training")
        if "held_out" in curve:
            seen = curve.dropna(subset="held_out")
            best = seen.loc[seen["held_out"].idxmin()]
            axes.plot(seen["step"] + 1, seen["held_out"], "o--", color=colour, label=f"{name}, held-out good images")
            axes.plot(best["step"] + 1, best["held_out"], "o", markersize=12, fillstyle="none", color=colour)
    axes.set(xlabel="step", ylabel=what, yscale="log")
    axes.legend()
    return figure
