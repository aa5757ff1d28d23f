"""Detection from 1, 2, 4, 8 and 16 good images of real products, and from none: an unlabelled batch.

    python benchmarks/few_shot.py --root DIR [--categories bottle capsule metal_nut] [--turning metal_nut]
                                  [--draws 20] [--keep FOLDER] [--out assets/few_shot.json]

All methods look at the same cells: layer 3 of EfficientNet-Lite0 on whole images of 320 pixels, 20 × 20 cells of 112
channels, brought to unit length (but for a row that says otherwise). A draw is a choice of k among 60 good training
images; the draws of 16 begin with those of 8, and so on. Products of --turning lie at any angle, as their good images
show: there each good image is also seen at 8 angles. The test part is the official one.

What is printed is the image AUROC, its mean over draws, in brackets 95 % of Student's t over draws: what another choice
of good images would change, not what other test images would. `worst` is that of the worst draw.

Chosen elsewhere: unit length or not and the share of variance of the subspace, for each product those that are best on
the two others (mean over draws at k = 1 and 4); beside it what is printed as the default.

The batch: MuSc on the official test part; then on batches of 60, of which a share are defects, the others good test
and training images; a draw is another batch. --keep holds what the network said and what was measured of a product, so
that products can be measured one by one and shown together.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from mvtec_ad import metrics
from mvtec_ad.backbones import load_backbone
from mvtec_ad.data import index
from mvtec_ad.data.loading import load_images
from mvtec_ad.methods.musc import mutual_scores, nearest_in_each
from mvtec_ad.methods.padim import fit_gaussians
from mvtec_ad.methods.patchcore import nearest, select
from mvtec_ad.methods.subspace_ad import rotated, second_moments, subspace, top_mean

SIZE, ANGLES, SHOTS, POOL = 320, 8, (1, 2, 4, 8, 16), 60
TOP = 0.01  # share of the cells whose mean is the image score
VARIANCES, DEFAULT = (0.9, 0.95, 0.99), 0.95  # of the subspace
RIDGES = (1e-3, 0.1, 10.0)  # ε of PaDiM, in units of the mean variance
ROWS = 500  # of PatchCore's bank at most; a tenth of the patches where that is less
BATCH, SHARES = 60, (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)


class Product:
    """What the network says of the test images, and of the good images that are drawn."""

    def __init__(self, root: Path, category: str, turns: bool, draws: int, keep: Path | None) -> None:
        table = index.read_category(root, category)
        train, test = (np.flatnonzero(table["split"] == split) for split in ("train", "test"))
        self.name, self.turns, self.labels = category, turns, table["label"].to_numpy()[test]
        pool = np.random.default_rng(0).permutation(train)[:POOL]
        self.draws = [np.random.default_rng(seed).permutation(pool)[: max(SHOTS)] for seed in range(draws)]
        few = {int(row) for draw in self.draws for row in draw[:4]}  # seen at all angles, turning or not
        path = keep / f"{category}-{SIZE}-{draws}.npz" if keep else None
        if path and path.is_file():
            kept = dict(np.load(path))
        else:
            images = load_images(list(table["image_path"]), SIZE, SIZE)
            network = load_backbone("efficientnet_lite0", "imagenet")

            def seen(part: np.ndarray) -> np.ndarray:
                return network(part)[2].half().numpy()

            kept = {"test": np.concatenate([seen(images[[row]]) for row in tqdm(test, f"{category} test")])}
            for row in tqdm(pool.tolist(), f"{category} good"):
                views = rotated(images[row], ANGLES if turns or row in few else 1)
                kept[str(row)] = np.concatenate(
                    [seen(views[number : number + 4]) for number in range(0, len(views), 4)]
                )
            if path:
                keep.mkdir(parents=True, exist_ok=True)
                np.savez(path, **kept)
        self.test = torch.from_numpy(kept.pop("test")).float()  # N×h×w×C
        self.good = {int(row): torch.from_numpy(views).float() for row, views in kept.items()}

    def views(self, draw: int, shots: int, angles: int) -> list[Tensor]:
        """Layers of the good images of a draw, (angles, h, w, C) each."""
        return [self.good[int(row)][:angles] for row in self.draws[draw][:shots]]

    def auroc(self, scores: Tensor) -> float:
        """Image AUROC of (N,) scores."""
        return metrics.image_auroc(self.labels, scores.numpy())


def cells(layer: Tensor, unit: bool) -> Tensor:
    """(N, h, w, C) as (N, P, C)."""
    return (F.normalize(layer, dim=-1) if unit else layer).flatten(1, 2)


def by_subspace(product: Product, unit: bool, angles: int) -> Callable[[int, int], list[float]]:
    """AUROC of every share of `VARIANCES`, for a draw and a number of shots."""
    test, known = cells(product.test, unit), {}

    def moments(row: int) -> np.ndarray:
        if row not in known:
            known[row] = second_moments(cells(product.good[row][:angles], unit).flatten(0, 1)).numpy()
        return known[row]

    def measure(draw: int, shots: int) -> list[float]:
        total = sum(moments(int(row)) for row in product.draws[draw][:shots])
        parts = [subspace(total, variance) for variance in VARIANCES]  # their complements begin with the same columns
        squared = ((test - parts[0][0]) @ parts[0][1]).square()
        residual = [squared[..., : complement.shape[1]].sum(-1) for _, complement in parts]
        return [product.auroc(top_mean(values, TOP)) for values in residual]

    return measure


def by_patchcore(product: Product, angles: int) -> Callable[[int, int], list[float]]:
    """AUROC of the distance to the nearest patch in a greedy coreset."""
    test = cells(product.test, True)

    def measure(draw: int, shots: int) -> list[float]:
        patches = torch.cat([cells(views, True).flatten(0, 1) for views in product.views(draw, shots, angles)])
        patches = patches[torch.randperm(len(patches), generator=torch.Generator().manual_seed(draw))[: 10 * ROWS]]
        bank = patches[torch.from_numpy(select(patches, round(0.1 * len(patches)), seed=draw))]
        distances, _ = nearest(test.flatten(0, 1), bank, bank.square().sum(1))
        return [product.auroc(top_mean(distances.unflatten(0, test.shape[:2]), TOP))]

    return measure


def by_prototype(product: Product) -> Callable[[int, int], list[float]]:
    """AUROC of the distance of the pooled cells to the mean good image's."""
    test = F.normalize(product.test.mean((1, 2)), dim=1)

    def measure(draw: int, shots: int) -> list[float]:
        good = torch.stack([F.normalize(views[0].mean((0, 1)), dim=0) for views in product.views(draw, shots, 1)])
        return [product.auroc((test - good.mean(0)).norm(dim=1))]

    return measure


def by_padim(product: Product) -> Callable[[int, int], list[float]]:
    """AUROC of a Gaussian at each cell, of every ε of `RIDGES`; of one image the distance to it."""
    test = cells(product.test, True).transpose(0, 1).contiguous()  # P×N×C

    def measure(draw: int, shots: int) -> list[float]:
        good = torch.cat([cells(views, True) for views in product.views(draw, shots, 1)]).transpose(0, 1).contiguous()
        if shots == 1:
            return [product.auroc(top_mean((test - good).norm(dim=-1).T, TOP))] * len(RIDGES)
        unit = float(good.var(1).mean())
        distances = [fit_gaussians(good, ridge * unit).distance(test) for ridge in RIDGES]
        return [product.auroc(top_mean(values.T, TOP)) for values in distances]

    return measure


def interval(values: np.ndarray) -> dict[str, Any]:
    """Mean, its 95 % interval over draws, the worst, and all of them."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    mean = float(values.mean())
    numbers = {"mean": mean, "low": mean - half, "high": min(1.0, mean + half), "worst": float(values.min())}
    return {**{name: round(float(number), 4) for name, number in numbers.items()}, "draws": values.round(4).tolist()}


def contamination(product: Product, more: Tensor, draws: int) -> dict[str, Any]:
    """MuSc on the test part, and on batches with a given share of defects; `more` are good training images."""
    features = cells(torch.cat([product.test, more]), True)
    labels = np.concatenate([product.labels, np.zeros(len(more), int)])
    near, tested = nearest_in_each(features, progress=True), np.arange(len(product.labels))

    def auroc(chosen: np.ndarray) -> float:
        scores = top_mean(mutual_scores(near[chosen][:, :, chosen], 0.3), TOP)
        return metrics.image_auroc(labels[chosen], scores.numpy())

    found: dict[str, Any] = {"official": auroc(tested), "defects": float(product.labels.mean())}
    for share in SHARES:
        values, defects = [], round(share * BATCH)
        for seed in range(draws):
            rng = np.random.default_rng([seed, defects])
            parts = ((0, BATCH - defects), (1, defects))
            values.append(auroc(np.concatenate([rng.choice(np.flatnonzero(labels == c), n, False) for c, n in parts])))
        found[f"{share:g}"] = interval(np.array(values))
    return found


def text(value: dict[str, Any]) -> str:
    """As `.912 (.900–.924)`."""
    return f"{value['mean']:.3f} ({value['low']:.3f}–{value['high']:.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--categories", nargs="+", default=["bottle", "capsule", "metal_nut"])
    parser.add_argument("--turning", nargs="*", default=["metal_nut"])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found, batch = {}, {}
    for category in arguments.categories:
        kept = arguments.keep / f"{category}-{arguments.draws}.json" if arguments.keep else None
        if not (kept and kept.is_file()):
            measured = measure(category, arguments)
            if kept:
                kept.write_text(json.dumps(measured))
        found[category], batch[category] = json.loads(kept.read_text()) if kept else measured
    report(found, batch, arguments)


def measure(category: str, arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Row -> shots -> (draws, columns) AUROCs; and what `contamination` gives."""
    product = Product(arguments.root, category, category in arguments.turning, arguments.draws, arguments.keep)
    angles = ANGLES if product.turns else 1
    other = 1 if product.turns else ANGLES
    ways = {
        f"subspace, unit, {angles}": (by_subspace(product, True, angles), SHOTS),
        f"subspace, unit, {other}": (by_subspace(product, True, other), SHOTS[:3]),
        f"subspace, raw, {angles}": (by_subspace(product, False, angles), (1, 4)),
        "prototype": (by_prototype(product), SHOTS),
        "padim": (by_padim(product), (1, 2, 4, 16)),
        "patchcore": (by_patchcore(product, angles), SHOTS),
    }
    more = torch.stack([views[0] for views in list(product.good.values())[:40]])
    batch = contamination(product, more, arguments.draws)
    print(category, "batch", batch["official"], {name: batch[name]["mean"] for name in map("{:g}".format, SHARES)})
    found: dict[str, Any] = {}
    for name, (auroc, numbers) in ways.items():
        for shots in numbers:
            values = [auroc(draw, shots) for draw in tqdm(range(arguments.draws), f"{category} {name} {shots}")]
            found.setdefault(name, {})[str(shots)] = values
            print(category, name, shots, np.mean(values, 0).round(3), flush=True)
    return found, batch


def report(found: dict, batch: dict, arguments: argparse.Namespace) -> None:
    """Print the tables, write the file."""
    angles = {name: ANGLES if name in arguments.turning else 1 for name in found}
    default = VARIANCES.index(DEFAULT)

    def of(row: Callable[[str], tuple[str, int]], shots: int) -> dict[str, Any]:
        """Interval of each product and of the mean over products, draw by draw; `row` gives row and column of one."""
        parts = {name: np.array(found[name][row(name)[0]][str(shots)])[:, row(name)[1]] for name in found}
        return {name: interval(values) for name, values in {**parts, "mean": sum(parts.values()) / len(parts)}.items()}

    def chosen(name: str) -> tuple[str, int]:
        """Row and column that are best on the other products, at 1 and 4 shots."""
        others = [other for other in found if other != name] or [name]

        def on_others(choice: tuple[str, int]) -> float:
            rows = [found[other][f"subspace, {choice[0]}, {angles[other]}"] for other in others]
            return float(np.mean([np.array(row[shots])[:, choice[1]].mean() for row in rows for shots in ("1", "4")]))

        unit, column = max(itertools.product(("unit", "raw"), range(len(VARIANCES))), key=on_others)
        return f"subspace, {unit}, {angles[name]}", column

    rows = {
        "SubspaceAD": lambda name: (f"subspace, unit, {angles[name]}", default),
        "SubspaceAD, chosen elsewhere": chosen,
        "SubspaceAD, not of unit length": lambda name: (f"subspace, raw, {angles[name]}", default),
        "SubspaceAD, all at 8 angles": lambda name: ("subspace, unit, 8", default),
        "SubspaceAD, all at 1 angle": lambda name: ("subspace, unit, 1", default),
        "PatchCore": lambda name: ("patchcore", 0),
        "nearest prototype": lambda name: ("prototype", 0),
        **{f"PaDiM, ε = {e:g}": lambda name, e=e: ("padim", RIDGES.index(e)) for e in RIDGES},
    }
    results, lines = {}, []
    for title, row in rows.items():
        for shots in SHOTS:
            if all(str(shots) in found[name][row(name)[0]] for name in found):
                values = results.setdefault(title, {})[shots] = of(row, shots)
                lines.append([title, str(shots), *map(text, values.values()), f"{values['mean']['worst']:.3f}"])
    print(metrics.markdown_table(["method", "k", *found, "mean", "worst"], lines))
    print("chosen elsewhere:", {name: (chosen(name)[0], VARIANCES[chosen(name)[1]]) for name in found})
    print("batch, official test part:", {name: round(batch[name]["official"], 3) for name in batch})
    print("mean", round(float(np.mean([batch[name]["official"] for name in batch])), 3))
    lines = [[f"{s:g}", *(text(batch[name][f"{s:g}"]) for name in batch)] for s in SHARES]
    print(metrics.markdown_table(["share of defects", *batch], lines))
    if arguments.out:
        about = {"draws": arguments.draws, "size": SIZE, "angles": angles, "variance": DEFAULT, "top_share": TOP}
        about["chosen elsewhere"] = {name: [chosen(name)[0], VARIANCES[chosen(name)[1]]] for name in found}
        written = {"about": about, "rows": results, "batch": batch}
        arguments.out.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
