"""Transfer learning: the head first, exactly; then all layers, gently."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as functional
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from mvtec_ad import metrics
from mvtec_ad.config import torch_device
from mvtec_ad.data import splits
from mvtec_ad.data.decoding import read_image
from mvtec_ad.data.items import Finder, fit_finder
from mvtec_ad.data.loading import batches
from mvtec_ad.methods.base import as_tensor
from mvtec_ad.methods.classifier.augmentation import augment
from mvtec_ad.methods.classifier.model import DefectClassifier
from mvtec_ad.methods.classifier.networks import Classifier, build
from mvtec_ad.settings import ClassifierSettings
from mvtec_ad.training import Run

CHECKS = 8  # looks at the validation part
FLOOR = 0.3  # of the median spread: a feature that hardly varies among these images may vary wildly in others
WATCHED = 16  # training images whose accuracy is drawn beside that of the validation part; it decides nothing
SCRATCH = 30.0  # times the rate, for a network that knows nothing yet


def fit(
    settings: ClassifierSettings,
    table: pd.DataFrame,
    *,
    seed: int | None = None,
    finders: Mapping[str, Finder] | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> DefectClassifier:
    """Learn from labelled images.

    Args:
        settings: what to fit.
        table: table of images, of one view or of several; the labels are those of its column.
        seed: the first of the settings when None.
        finders: view -> finder, where `find_items` was asked before; those of the table's views are used.
        checkpoint: where the run is kept, and gone on from; None keeps nothing.
        progress: show bars.

    Raises:
        DataError: a class is missing from the training or the validation part, or a file cannot be read.
        WeightsError: the weights cannot be had.
    """
    seed = settings.seeds[0] if seed is None else seed
    held = splits.hold_out(table, settings.validation, seed)
    if finders is None or settings.look == "whole":
        finders = find_items(table, settings, progress=progress)
    else:
        finders = {view: finders[view] for view in sorted(table["view"].unique())}
    network, weights = build(settings.architecture, settings.weights, settings.pyramid, seed)
    network.to(torch_device(), memory_format=torch.channels_last)
    model = DefectClassifier(network, settings, seed, weights, finders)
    images, _ = model.cut(table)
    labels = table["label"].to_numpy()
    seen = images[~held], labels[~held], images[held], labels[held]
    if network.pretrained:  # otherwise there are no features yet that a head could read
        fit_head(network, seen[0], seen[1], settings, model.mirror)
    model.curve = _fine_tune(model, *seen, checkpoint, progress)
    network.eval()
    logits = model.logits(seen[2])
    model.temperature = metrics.fit_temperature(seen[3], logits)
    model.validation = pd.DataFrame(
        {"image_id": table["image_id"][held], "label": seen[3], "score": logits}
    ).reset_index(drop=True)
    return model


def find_items(table: pd.DataFrame, settings: ClassifierSettings, *, progress: bool = True) -> dict[str, Finder]:
    """A finder for each view; none where the whole picture is looked at."""
    if settings.look == "whole":
        return {}
    return {
        view: fit_finder([read_image(path) for path in rows["image_path"]], progress=progress)
        for view, rows in table.groupby("view", sort=True)
    }


def fit_head(
    network: Classifier, images: np.ndarray, labels: np.ndarray, settings: ClassifierSettings, mirror: bool
) -> None:
    """Logistic regression on what the frozen layers say, standardised; its solution becomes the head.

    The loss is convex, so this head is the best there is. Gradient steps on all layers under a random one would spoil
    what they know (Kumar et al. 2022, arXiv:2202.10054).

    Args:
        network: its head is replaced.
        images: (N, S, S, 3) uint8.
        labels: (N,) 0 or 1; both classes count the same together, however many images they have.
        settings: `penalty`.
        mirror: learn from mirrored images too.
    """
    looks = [images, images[:, :, ::-1]] if mirror else [images]
    with torch.no_grad():
        pooled = torch.cat([network.pooled(as_tensor(look[part])) for look in looks for part in batches(len(look), 16)])
    features = pooled.double().numpy(force=True)
    mean, scale = features.mean(0), features.std(0)
    scale = np.maximum(scale, FLOOR * np.median(scale))
    regression = LogisticRegression(C=1 / settings.penalty, class_weight="balanced", max_iter=1000)
    regression.fit((features - mean) / scale, np.tile(labels, len(looks)))
    weight = regression.coef_[0] / scale
    bias = regression.intercept_[0] - weight @ mean
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(weight)[None])
        network.head.bias.fill_(bias)


def identity(model: DefectClassifier, images: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    """All that a run depends on beside its seed."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(labels.astype(np.int8).tobytes())
    options = {name: value for name, value in model.settings.options().items() if name != "seeds"}
    return {**options, "weights": model.weights, "images": digest.hexdigest(), "recipe": [CHECKS, FLOOR, SCRATCH]}


def _fine_tune(
    model: DefectClassifier,
    images: np.ndarray,
    labels: np.ndarray,
    held_images: np.ndarray,
    held_labels: np.ndarray,
    checkpoint: Path | None,
    progress: bool,
) -> pd.DataFrame:
    """All layers at a low rate; the best checkpoint by validation AUROC, then by loss."""
    network, settings, seed = model.network, model.settings, model.seed
    if settings.steps == 0:
        return pd.DataFrame({"step": [], "loss": []})
    device = torch_device()
    targets, held_targets = (torch.from_numpy(own.astype(np.float32)).to(device) for own in (labels, held_labels))
    weight = torch.tensor(float((labels == 0).sum() / (labels == 1).sum()), device=device)

    def loss(logits: Tensor, wanted: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits.float(), wanted, pos_weight=weight)

    def look_at_held(run: Run) -> None:
        network.eval()
        with torch.autocast(device, enabled=False):  # in full precision, as it will be asked
            logits, trained = model.logits(held_images), model.logits(images[some])
        found = {
            "validation_auroc": metrics.image_auroc(held_labels, logits),
            "validation_loss": float(loss(torch.from_numpy(logits).to(device), held_targets)),
            "validation_accuracy": float(((logits > 0) == held_labels).mean()),
            "train_accuracy": float(((trained > 0) == labels[some]).mean()),
        }
        run.keep_best(found, rank=(-found["validation_auroc"], found["validation_loss"]))

    with Run(
        network,
        lr=settings.rate * (1 if network.pretrained else SCRATCH),
        steps=settings.steps,
        seed=seed,
        weight_decay=1e-2,
        every=max(1, settings.steps // CHECKS),
        mixed=True,
        checkpoint=checkpoint,
        identity=identity(model, np.concatenate([images, held_images]), np.concatenate([labels, held_labels])),
        description=f"{settings.architecture}, seed {seed}",
        progress=progress,
    ) as run:
        some = run.rng(0).permutation(len(images))[: min(len(held_images), WATCHED)]
        if not run.measured:  # before the first step, which may stay the best
            look_at_held(run)
        for step in run:
            rng = run.rng(step)
            drawn = np.sort(rng.permutation(len(images))[: settings.batch])
            pixels = augment(as_tensor(images[drawn]), settings, model.mirror, rng)
            with torch.random.fork_rng():  # dropout and stochastic depth draw from torch's own generator
                torch.manual_seed(int(rng.integers(2**31)))
                logits = network(pixels)
            run.minimise(loss(logits, targets[torch.from_numpy(drawn)]))
            if run.due(run.every):
                look_at_held(run)
    return run.curve()
