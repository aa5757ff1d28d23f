"""Defects planted among the good images of real products: what leave-one-out ranks and conformal p-values find.

    python benchmarks/contamination.py --root DIR [--categories bottle capsule metal_nut] [--draws 10] [--preset quick]
                                       [--rate 0.1] [--out FILE]

Within one fit: of 150 images a share are defects from the test set, the model is fitted on all, and its leave-one-out
scores are judged among themselves; `law` is `metrics.leave_one_out_p_values`, beside it the laws that were not chosen.
Against a model: fitted on 100 good images, it judges 100 others, of which a share are defects, by conformal p-values.
Recall and false-discovery proportion are means over draws, in brackets 95 % of Student's t; a draw is another
choice of images, and another seed. The false-discovery rate asked for is `--rate`; without a defect the proportion is
the share of draws in which anything was discovered.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from tqdm import tqdm

from mvtec_ad import metrics
from mvtec_ad.data import index
from mvtec_ad.methods.padim import Padim
from mvtec_ad.methods.patchcore import Patchcore

IMAGES, FITTED, JUDGED = 150, 100, 100
SHARES = (0.0, 0.05, 0.1, 0.2, 0.4)


def normal_law(scores: np.ndarray) -> np.ndarray:
    """A normal law of the logarithm through its 16 % and 50 % quantiles."""
    logarithms = np.log(scores)
    middle, low = np.quantile(logarithms, (0.5, stats.norm.cdf(-1)))
    return stats.norm.sf((logarithms - middle) / (middle - low))


def gumbel_law(scores: np.ndarray) -> np.ndarray:
    """A Gumbel law of the scores through their 10 % and 50 % quantiles."""
    low, middle = np.quantile(scores, (0.1, 0.5))
    scale = (middle - low) / np.subtract(*stats.gumbel_r.ppf((0.5, 0.1)))
    return stats.gumbel_r.sf((scores - middle) / scale + stats.gumbel_r.ppf(0.5))


LAWS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "law": metrics.leave_one_out_p_values,
    "Gumbel": lambda scores, rate: gumbel_law(scores),
    "log-normal": lambda scores, rate: normal_law(scores),
}


def draws(labels: np.ndarray, total: int, share: float, seed: int, pool: np.ndarray) -> np.ndarray:
    """Positions of `total` images out of a pool, of which a share are defects."""
    rng = np.random.default_rng([seed, round(100 * share)])
    count = round(share * total)
    good, defects = pool[labels[pool] == 0], np.flatnonzero(labels == 1)
    return np.concatenate([rng.choice(good, total - count, replace=False), rng.choice(defects, count, replace=False)])


def measured(discovered: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Recall and false-discovery proportion."""
    recall = discovered[labels == 1].mean() if labels.any() else np.nan
    return float(recall), float((discovered & (labels == 0)).sum() / max(1, discovered.sum()))


def spread(values: list[float]) -> str:
    """Mean and its interval over draws."""
    values = np.array(values)
    if np.isnan(values).all():
        return "—"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.2f} ({max(0, values.mean() - half):.2f}–{min(1, values.mean() + half):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--categories", nargs="+", default=["bottle", "capsule", "metal_nut"])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--preset", default="quick", help="of both methods")
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--out", type=Path, help="write all figures into this JSON file")
    arguments = parser.parse_args()
    rows = []
    for category in arguments.categories:
        table = index.read_category(arguments.root, category)
        table = table[(table["split"] == "train") | (table["label"] == 1)]
        labels = table["label"].to_numpy()
        for kind in (Padim, Patchcore):
            detector = kind.preset(arguments.preset)
            seen = [
                [layer[number : number + 1] for layer in layers]
                for layers in detector.batches(list(table["image_path"]))
                for number in range(len(layers[0]))
            ]
            for share in SHARES:
                found: dict[str, list[tuple[float, float]]] = {}
                for seed in tqdm(range(arguments.draws), f"{category} {kind.name} {share:.0%}"):
                    chosen = draws(labels, IMAGES, share, seed, np.arange(len(labels)))
                    detector.fit_seen([seen[position] for position in chosen], IMAGES, seed)
                    for name, law in LAWS.items():
                        discovered = metrics.discoveries(law(detector.good_scores, arguments.rate), arguments.rate)
                        found.setdefault(name, []).append(measured(discovered, labels[chosen]))
                    good = np.random.default_rng(seed).permutation(np.flatnonzero(labels == 0))
                    detector.fit_seen([seen[position] for position in good[:FITTED]], FITTED, seed)
                    judged = draws(labels, JUDGED, share, seed, good[FITTED:])
                    scores = detector.score_seen(seen[position] for position in judged).image
                    p_values = metrics.conformal_p_values(scores, detector.good_scores)
                    discovered = metrics.discoveries(p_values, arguments.rate)
                    found.setdefault("conformal", []).append(measured(discovered, labels[judged]))
                row = {"category": category, "method": kind.name, "share": share}
                rows += [{**row, "p_values": name, "draws": values} for name, values in found.items()]
            del seen
    cells = []
    for name in dict.fromkeys(row["p_values"] for row in rows):
        for row in (row for row in rows if row["p_values"] == name):
            recall, false = zip(*row["draws"], strict=True)
            cells.append([name, row["category"], row["method"], f"{row['share']:.0%}", spread(recall), spread(false)])
    print(metrics.markdown_table(["p-values", "product", "method", "planted", "recall", "false discoveries"], cells))
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
