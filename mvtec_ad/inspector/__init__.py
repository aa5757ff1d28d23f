"""One inspector from the models of all notebooks: product, verdict, second opinion, type, place in the atlas."""

from mvtec_ad.inspector.inspection import (
    DEFECT,
    GOOD,
    STRANGER,
    UNDECIDED,
    UNREADABLE,
    VERDICTS,
    Inspection,
    Opinion,
    Step,
)
from mvtec_ad.inspector.inspector import Inspector
from mvtec_ad.inspector.opinion import Band, choose_band
from mvtec_ad.inspector.products import ProductClassifier

__all__ = [
    "DEFECT",
    "GOOD",
    "STRANGER",
    "UNDECIDED",
    "UNREADABLE",
    "VERDICTS",
    "Band",
    "Inspection",
    "Inspector",
    "Opinion",
    "ProductClassifier",
    "Step",
    "choose_band",
]
