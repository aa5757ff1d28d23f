"""Where the images of a category come from: a folder, an archive, MVTec's servers, or a program that draws them."""

from mvtec_ad.data.acquire.sources import MANUAL, SOURCES, locate, locate_packages

__all__ = ["MANUAL", "SOURCES", "locate", "locate_packages"]
