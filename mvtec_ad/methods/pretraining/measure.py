"""What features are worth: PaDiM under the published protocol on top of them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd

from mvtec_ad.backbones import Backbone
from mvtec_ad.backbones.torchvision_networks import as_backbone
from mvtec_ad.data import index, loading, splits
from mvtec_ad.evaluation import image_auroc, pixel_metrics
from mvtec_ad.methods import padim
from mvtec_ad.methods.pretraining.pretrain import Trunk
from mvtec_ad.settings import PadimSettings


def backbone_of(trunk: Trunk, description: str) -> Backbone:
    """A frozen copy of a trained network, as PaDiM wants it."""
    frozen = copy.deepcopy(trunk)
    return as_backbone(frozen, frozen, "resnet18", description)


def padim_auroc(backbone: Backbone, root: Path, category: str) -> dict[str, float]:
    """Image and pixel AUROC of PaDiM (100 channels, 256 → 224 px), means over the channel seeds 0, 1 and 2."""
    settings = PadimSettings()
    table = splits.official(index.read_category(root, category))
    train, test = (table[table["part"] == part] for part in ("train", "test"))
    size = settings.image_size, settings.crop
    models = padim.create(backbone, settings)
    padim.fit_many(models, loading.load_images(list(train["image_path"]), *size), progress=False)
    scores = padim.score_many(models, loading.load_images(list(test["image_path"]), *size), progress=False)
    labels, masks = test["label"].to_numpy(), loading.load_masks(test, *size)
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
