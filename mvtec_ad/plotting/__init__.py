"""Figures. Every function takes arrays and returns a matplotlib `Figure`; none shows it or changes global state."""

# ruff: noqa: F401

from mvtec_ad.plotting.curves import pro_curve_figure, roc_and_pr, score_histogram, seeds_strip, training_curves
from mvtec_ad.plotting.forest import interval_rows
from mvtec_ad.plotting.images import (
    animation,
    anomaly_map_gallery,
    draw_mask,
    gallery,
    map_scale,
    picture_rows,
    show_image,
    tile_rows,
    tiles,
)
from mvtec_ad.plotting.inspection import inspection_figure
from mvtec_ad.plotting.promise import cost_curves, defect_sizes, detection_grid, score_steps, true_rate_figure
from mvtec_ad.plotting.schematic import Schematic
from mvtec_ad.plotting.style import (
    ANOMALY_MAP,
    DEFECT,
    GOOD,
    METHOD_COLOURS,
    STYLE,
    bare,
    file_title,
    new_figure,
    to_png,
)
