"""Products drawn by code in the layout of MVTec AD: from a seed, with exact masks, free of any licence."""

from mvtec_ad.data.rendered.dataset import CATEGORIES, Drawn, defect_types, draw, official_counts, write_category
from mvtec_ad.data.rendered.package import PACKAGE, DrawnPackage, draw_package, write_packages
from mvtec_ad.data.rendered.showcase import showcase
from mvtec_ad.data.rendered.writing import RENDER_VERSION

__all__ = [
    "CATEGORIES",
    "PACKAGE",
    "RENDER_VERSION",
    "Drawn",
    "DrawnPackage",
    "defect_types",
    "draw",
    "draw_package",
    "official_counts",
    "showcase",
    "write_category",
    "write_packages",
]
