"""Figures. Every function takes arrays and returns a matplotlib `Figure`; none shows it or changes global state."""

from mvtec_ad.plotting.animation import animation
from mvtec_ad.plotting.atlas import atlas_page
from mvtec_ad.plotting.attributions import attribution_rows, deletion_insertion_curves, randomisation_figure
from mvtec_ad.plotting.classification import confusion_matrices, cost_curve, learning_curves, reliability_diagram
from mvtec_ad.plotting.comparison import accuracy_and_cost, defect_type_table, difference_matrix, interval_rows
from mvtec_ad.plotting.curves import pro_curve_figure, roc_and_pr, seeds_strip
from mvtec_ad.plotting.drawn import drawn_grid, drawn_strips, growth, search_figure, tiles
from mvtec_ad.plotting.embeddings import compared, dendrogram_and_distances, embedding_maps, few_shot_curve
from mvtec_ad.plotting.images import draw_mask, gallery, heat_maps, heat_scale, show_image
from mvtec_ad.plotting.inspection import inspection_figure
from mvtec_ad.plotting.inspection_tree import decision_tree
from mvtec_ad.plotting.rows import picture_rows
from mvtec_ad.plotting.scores import score_histogram
from mvtec_ad.plotting.style import DEFECT, GOOD, HEAT, METHOD_COLOURS, STYLE, bare, new_figure, to_png
from mvtec_ad.plotting.training import adversarial_curves, training_curves

__all__ = [
    "DEFECT",
    "GOOD",
    "HEAT",
    "METHOD_COLOURS",
    "STYLE",
    "accuracy_and_cost",
    "adversarial_curves",
    "animation",
    "atlas_page",
    "attribution_rows",
    "bare",
    "compared",
    "confusion_matrices",
    "cost_curve",
    "decision_tree",
    "defect_type_table",
    "deletion_insertion_curves",
    "dendrogram_and_distances",
    "difference_matrix",
    "draw_mask",
    "drawn_grid",
    "drawn_strips",
    "embedding_maps",
    "few_shot_curve",
    "gallery",
    "growth",
    "heat_maps",
    "heat_scale",
    "inspection_figure",
    "interval_rows",
    "learning_curves",
    "new_figure",
    "picture_rows",
    "pro_curve_figure",
    "randomisation_figure",
    "reliability_diagram",
    "roc_and_pr",
    "score_histogram",
    "search_figure",
    "seeds_strip",
    "show_image",
    "tiles",
    "to_png",
    "training_curves",
]
