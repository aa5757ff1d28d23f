"""Packages on a production line: one box in space, one damage, two cameras."""

from mvtec_ad.data.rendered.package.dataset import PACKAGE, write_packages
from mvtec_ad.data.rendered.package.item import DrawnPackage, draw_package

__all__ = ["PACKAGE", "DrawnPackage", "draw_package", "write_packages"]
