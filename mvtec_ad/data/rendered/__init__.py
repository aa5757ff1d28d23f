"""Products drawn by code in the layout of MVTec AD: from a seed, with exact masks, free of any licence."""

from mvtec_ad.data.rendered.dataset import CATEGORIES, RENDER_VERSION, Drawn, defect_types, draw, write_category

__all__ = ["CATEGORIES", "RENDER_VERSION", "Drawn", "defect_types", "draw", "write_category"]
