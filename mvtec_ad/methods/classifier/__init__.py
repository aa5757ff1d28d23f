"""Learn defects from labelled parts, by transfer learning."""

from mvtec_ad.methods.classifier.augmentation import augment
from mvtec_ad.methods.classifier.files import members, names, restore
from mvtec_ad.methods.classifier.fitting import find_items, fit, fit_head
from mvtec_ad.methods.classifier.model import DefectClassifier
from mvtec_ad.methods.classifier.networks import Classifier, build

__all__ = [
    "Classifier",
    "DefectClassifier",
    "augment",
    "build",
    "find_items",
    "fit",
    "fit_head",
    "members",
    "names",
    "restore",
]
