"""`update` and `forget` against a refit on real products: models, scores, and thresholds whose old scores are earlier.

    python benchmarks/living.py --root DIR [--categories bottle capsule metal_nut] [--preset default] [--draws 3]
                                [--weights FILE --backbone resnet18] [--out FILE]

All good training images are shuffled. A model is fitted on three quarters and updated with the rest, another is fitted
on all and made to forget a quarter (of a coreset 2 %, repaired with 20 others), each through its state as an artifact
holds it; both are compared with a refit. A third begins with 40 images, fewer than channels, and crosses into the
direct shape. The threshold is at 5 %; beside it what both thresholds flag of the good test images and of the defects.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvtec_ad import metrics
from mvtec_ad.data import index
from mvtec_ad.methods.padim import Padim
from mvtec_ad.methods.patchcore import FORGOTTEN, Patchcore

RATE = 0.05
FEW, REPAIR = 40, 20


def restored(detector: Any) -> Any:
    """The same model as its state holds it."""
    again = type(detector).from_options(detector.options()).load_state(detector.state())
    again.use_backbone(detector.network)
    return again


def covariances(detector: Padim) -> torch.Tensor:
    """Σ of every sixteenth position, float64."""
    gaussians, parts = detector.gaussians, []
    for position in range(0, len(gaussians.mean), 16):
        chunk = slice(position, position + 1)
        if gaussians.dual:
            features = gaussians.features(chunk)
            parts.append(torch.cov(features[0].T)[None])
        else:
            parts.append(gaussians.moments(len(detector.good_scores), chunk)[1] / (len(detector.good_scores) - 1))
    return torch.cat(parts) + detector.ridge * torch.eye(parts[0].shape[-1], dtype=torch.float64)


def compared(changed: Any, fitted: Any, test: Any, labels: np.ndarray) -> dict[str, float]:
    """Relative differences of models and of test scores; thresholds, and what they flag."""
    row = {}
    if isinstance(fitted, Padim):
        a, b = covariances(changed), covariances(fitted)
        row["covariance"] = float((torch.linalg.matrix_norm(a - b) / torch.linalg.matrix_norm(b)).max())
        means = [model.gaussians.mean.double() + model.gaussians.mean_rest for model in (changed, fitted)]
        row["mean"] = float((means[0] - means[1]).abs().max() / means[1].abs().max())
    scores = {name: model.score_seen(test).image for name, model in (("changed", changed), ("refit", fitted))}
    row["score"] = float(np.abs(scores["changed"] / scores["refit"] - 1).max())
    for name, model in (("changed", changed), ("refit", fitted)):
        threshold = metrics.calibrated(model.good_scores, RATE)
        flagged = scores[name] > threshold
        row |= {f"{name}_threshold": threshold}
        row |= {
            f"{name}_false": float(flagged[labels == 0].mean()),
            f"{name}_recall": float(flagged[labels == 1].mean()),
        }
        row |= {f"{name}_auroc": metrics.image_auroc(labels, scores[name])}
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--categories", nargs="+", default=["bottle", "capsule", "metal_nut"])
    parser.add_argument("--methods", nargs="+", default=["padim", "patchcore"])
    parser.add_argument("--preset", default="default", help="of both methods")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write all figures into this JSON file")
    arguments = parser.parse_args()
    rows = []
    for category in arguments.categories:
        table = index.read_category(arguments.root, category)
        train, test = (table[table["split"] == split] for split in ("train", "test"))
        for name in arguments.methods:
            kind = {"padim": Padim, "patchcore": Patchcore}[name]
            detector = kind.preset(arguments.preset, backbone=arguments.backbone, weights=arguments.weights)
            images, labels = train["image_path"].to_numpy(), test["label"].to_numpy()
            test_seen = list(detector.batches(list(test["image_path"])))
            for seed in range(arguments.draws):
                order = np.random.default_rng(seed).permutation(len(images))
                part, rest = order[: 3 * len(order) // 4], order[3 * len(order) // 4 :]

                def fitted(chosen: np.ndarray, seed: int = seed, detector: Any = detector, images: Any = images) -> Any:
                    model = type(detector).from_options(detector.options())
                    model.use_backbone(detector.network)
                    return model.fit(list(images[chosen]), seed)

                whole = fitted(order)
                updated = restored(fitted(part))
                updated.update(list(images[rest]))
                forgotten = restored(whole)
                if name == "patchcore":  # more of a coreset cannot be forgotten
                    rest = rest[: int(FORGOTTEN * len(order))]
                    part = np.setdiff1d(order, rest)
                forgotten.forget(list(images[rest]))
                if name == "patchcore":
                    forgotten.repair(list(images[order[:REPAIR]]))
                models = [("update", updated, whole), ("forget", forgotten, fitted(part))]
                if name == "padim":
                    crossed = restored(fitted(order[:FEW]))
                    crossed.update(list(images[order[FEW:]]))
                    models.append(("cross", crossed, whole))
                for what, changed, refit in models:
                    row = compared(changed, refit, test_seen, labels)
                    rows.append({"category": category, "method": name, "change": what, "seed": seed, **row})
                    print(rows[-1], flush=True)
    cells = []
    for key in dict.fromkeys((row["category"], row["method"], row["change"]) for row in rows):
        group = [row for row in rows if (row["category"], row["method"], row["change"]) == key]
        worst = [max(row.get(name, np.nan) for row in group) for name in ("mean", "covariance", "score")]
        pairs = []
        for name in ("threshold", "false", "recall", "auroc"):
            means = [np.mean([row[f"{which}_{name}"] for row in group]) for which in ("changed", "refit")]
            pairs.append(f"{means[0]:.3f} / {means[1]:.3f}")
        cells.append([*key, *(f"{value:.1e}" for value in worst), *pairs])
    names = ["product", "method", "change", "mean", "covariance", "score", "threshold, changed / refit"]
    print(metrics.markdown_table([*names, "false alarms", "recall", "image AUROC"], cells))
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
