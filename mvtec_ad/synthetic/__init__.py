"""Products drawn by code in the layout of MVTec AD: from a seed, with exact masks, free of any licence."""

from mvtec_ad.synthetic.dataset import CATEGORIES, ProductImage, defect_types, draw, write_category
from mvtec_ad.synthetic.package import PACKAGE, PackageImages, draw_package, write_packages
from mvtec_ad.synthetic.showcase import showcase
from mvtec_ad.synthetic.writing import RENDER_VERSION

__all__ = [
    "CATEGORIES",
    "PACKAGE",
    "RENDER_VERSION",
    "PackageImages",
    "ProductImage",
    "defect_types",
    "draw",
    "draw_package",
    "showcase",
    "write_category",
    "write_packages",
]
