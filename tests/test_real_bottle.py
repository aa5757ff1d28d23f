"""PaDiM on the real bottle, where it lies beside the project: the published figures, at one seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sklearn.metrics import roc_auc_score

from mvtec_ad.data import index, loading
from mvtec_ad.methods import padim
from mvtec_ad.settings import PadimSettings


def test_padim_reaches_the_published_figures(shared: Callable[[str], Path]) -> None:
    """ResNet-18, 100 channels, 256 → 224 px: .994 to .996 image AUROC and .981 to .983 pixel AUROC are published."""
    root = shared("data/mvtec_anomaly_detection/bottle").parent
    settings = PadimSettings(weights=str(shared("weights/resnet18_in1k_to_layer3.pth")), seeds=(0,))
    table = index.read_category(root, "bottle")
    parts = [table[table["split"] == split] for split in ("train", "test")]
    train, test = (loading.load_images(list(rows["image_path"]), settings.image_size, settings.crop) for rows in parts)
    masks = loading.load_masks(parts[1], settings.image_size, settings.crop)
    (trial,) = padim.fit_and_score(settings, train, test, progress=False)
    assert roc_auc_score(parts[1]["label"], trial.scores.image) >= 0.99
    assert roc_auc_score(masks.ravel(), trial.scores.maps.ravel()) >= 0.975
