"""Hierarchical inspection of an image by the models of all notebooks, from artifacts."""

from mvtec_ad.inspection.inspector import Inspection, Inspector
from mvtec_ad.inspection.products import InspectionOptions, ProductClassifier
from mvtec_ad.inspection.second_opinion import RejectBand, choose_reject_band

__all__ = ["Inspection", "InspectionOptions", "Inspector", "ProductClassifier", "RejectBand", "choose_reject_band"]
