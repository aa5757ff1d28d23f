"""What features are worth: PaDiM under the published protocol on top of them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd

from mvtec_ad.backbones import Backbone
from mvtec_ad.backbones.backbone import as_backbone
from mvtec_ad.data import index, loading, splits
from mvtec_ad.methods.padim import Padim
from mvtec_ad.methods.pretraining.pretrain import Trunk
from mvtec_ad.metrics import image_auroc, pixel_metrics


def backbone_of(trunk: Trunk, description: str) -> Backbone:
    """A frozen copy of a trained network, as PaDiM wants it."""
    frozen = copy.deepcopy(trunk)
    return as_backbone(frozen, frozen, "resnet18", description)


def padim_auroc(backbone: Backbone, root: Path, category: str) -> dict[str, float]:
    """Image and pixel AUROC of PaDiM (100 channels, 256 → 224 px), means over the channel seeds 0, 1 and 2."""
    table = splits.official(index.read_category(root, category))
    train, test = (table[table["part"] == part] for part in ("train", "test"))
    detector = Padim()
    detector.use_backbone(backbone)
    good, count = detector.training_batches(list(train["image_path"]))
    good, seen = list(good), list(detector.batches(list(test["image_path"])))  # one pass for all seeds
    scores = [detector.fit_seen(good, count, seed).score_seen(seen) for seed in range(3)]
    labels, masks = test["label"].to_numpy(), loading.load_masks(test, detector.image_size, detector.crop)
    image = [image_auroc(labels, one.image) for one in scores]
    pixel = [pixel_metrics(one.maps, masks)["pixel_auroc"] for one in scores]
    return {"image_auroc": float(np.mean(image)), "pixel_auroc": float(np.mean(pixel))}


def worth(backbone: Backbone, places: dict[str, Path]) -> pd.DataFrame:
    """`padim_auroc` on several categories.

    Args:
        backbone: features to judge.
        places: name of the row -> category folder.

    Returns:
        A row a category, columns image_auroc and pixel_auroc.
    """
    return pd.DataFrame({name: padim_auroc(backbone, path.parent, path.name) for name, path in places.items()}).T
