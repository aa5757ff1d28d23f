"""Rows of pictures: the same parts seen in several ways, one below the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.images import draw_mask, heat_scale, show_image
from mvtec_ad.plotting.style import HEAT, STYLE, bare, new_figure


@rc_context(STYLE)
def picture_rows(
    rows: Mapping[str, Sequence[ArrayLike]],
    titles: Sequence[str] | None = None,
    masks: Sequence[ArrayLike] | None = None,
    scales: Mapping[str, tuple[float, float]] | None = None,
    side: float = 1.5,
) -> Figure:
    """A row per way of seeing, a column per part; defects are outlined in the first row.

    Args:
        rows: Name -> N pictures: images `(H, W, 3)`, or maps `(H, W)`, which are shown as heat on one scale per row.
        titles: One line for each column.
        masks: N masks of shape `(H, W)`, true where defective; outlined where not empty.
        scales: Row -> lowest and highest value of its colours; by default `heat_scale` of the maps in the row.
        side: Of a picture, in inches.

    Raises:
        DataError: There is no row, or rows, titles or masks differ in length.
    """
    counts = {len(pictures) for pictures in rows.values()} | {len(one) for one in (titles, masks) if one is not None}
    if len(counts) != 1 or 0 in counts:
        raise DataError(f"rows, titles and masks must have one length, at least 1, not {sorted(counts)}")
    count = counts.pop()
    figure = new_figure(count * side + 1.1, len(rows) * side + 0.35)
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        maps = np.ndim(pictures[0]) == 2
        low, high = ((scales or {}).get(name) or heat_scale(pictures)) if maps else (0, 1)
        for axes, picture in zip(line, pictures, strict=True):
            if maps:
                axes.imshow(picture, cmap=HEAT, vmin=low, vmax=high)
                bare(axes)
            else:
                show_image(axes, picture)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for column, axes in enumerate(grid[0]):
        if titles is not None:
            axes.set_title(titles[column], fontsize=9)
        if masks is not None:
            draw_mask(axes, masks[column], np.shape(rows[next(iter(rows))][column])[:2], 1.2)
    return figure
