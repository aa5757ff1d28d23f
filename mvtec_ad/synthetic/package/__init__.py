"""Packages on a production line: one box in space, one damage, two cameras."""

from mvtec_ad.synthetic.package.dataset import PACKAGE, write_packages
from mvtec_ad.synthetic.package.item import PackageImages, draw_package

__all__ = ["PACKAGE", "PackageImages", "draw_package", "write_packages"]
