"""GANs: digits drawn, digits and a real product as anomalies, and the latent search at once or one by one.

    python benchmarks/gan.py --digits FOLDER --product ROOT/FOLDER [--only digits|one_class|product|search] [--publish]

`--digits` holds MNIST's files; 8,000 of the 10,000 test images are learned from where only those are there. Writes
transfer/gan/ stage by stage; a killed run goes on with the training it was in. `--publish` writes assets/gan.json,
the tables in docs/results.md and assets/digits.gif.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from stages import stage, stages

from mvtec_ad import benchmark, metrics, plotting
from mvtec_ad.benchmark import published
from mvtec_ad.config import root_folder, torch_device, transfer_folder
from mvtec_ad.data import digits, index
from mvtec_ad.methods import detector_class
from mvtec_ad.methods import gan_quality as quality
from mvtec_ad.methods.anogan import search
from mvtec_ad.methods.autoencoder import Autoencoder
from mvtec_ad.methods.base import Scores, normal, peak
from mvtec_ad.methods.baselines import mean_image
from mvtec_ad.methods.f_anogan import FAnogan
from mvtec_ad.methods.gan import Dcgan
from mvtec_ad.metrics import format_metric, markdown_table
from mvtec_ad.training import checkpoint_path, checkpoints_folder

NORMALS = (0, 2, 4, 6, 8)
COMPONENTS = (8, 16, 32, 64, 128)
TEST_DIGITS, SAMPLES = 2000, 1000
TOGETHER, STEPS = 32, 20  # images and steps of the two searches
WAYS = {"f_anogan": "f-AnoGAN", "anogan": "AnoGAN", "autoencoder": "autoencoder", "pca": "PCA"}


def main() -> None:
    """Run what is missing, then print or publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", required=True, help="folder with MNIST's files")
    parser.add_argument("--product", required=True, type=Path, help="folder of a product in MVTec layout")
    parser.add_argument("--only", choices=("digits", "one_class", "product", "search"), help="may run side by side")
    parser.add_argument("--publish", action="store_true")
    arguments = parser.parse_args()
    place = transfer_folder() / "gan"
    train, test = digits.cut(digits.load("mnist", arguments.digits), TEST_DIGITS)
    tasks: dict[str, dict[str, Any]] = {
        "digits": {"digits": lambda kept: generated(train, test, kept)},
        "one_class": {f"normal {one}": lambda kept, one=one: anomalous(train, test, one, kept) for one in NORMALS}
        | {"pca sizes": lambda _: {"sizes": {str(size): linear(train, test, size) for size in COMPONENTS}}},
        "product": {
            name: lambda _, name=name: product(name, arguments.product)
            for name in (f"{arguments.product.name} f_anogan", f"{arguments.product.name} anogan")
        },
        "search": {"search": lambda _: searched()},
    }
    for name, own in tasks.items():
        for title, task in own.items():
            if arguments.only in (None, name):
                stage(place, title, task)
    found = stages(place)
    text = tables(found, test)
    print(text)
    if arguments.publish:
        publish(found, text)


def generated(train: digits.Digits, test: digits.Digits, kept: list[Path]) -> dict[str, Any]:
    """DCGAN on the digits; what a classifier of digits says of 1,000 generated ones, and of real ones."""
    model = Dcgan(digits="mnist")
    classifier = quality.fit_digit_classifier(train, test)
    kept.append(checkpoint_path(checkpoints_folder(), "dcgan", model.options(), train.images))
    begun = time.process_time()
    model.fit(train.images, checkpoint=kept[0], progress=True)
    minutes = (time.process_time() - begun + model.curve.attrs["seconds_before"]) / 60
    return {
        "source": train.source,
        "settings": model.options(),
        "steps": model.steps(len(train.images)),
        "training_minutes": minutes,
        "judge_accuracy": classifier.accuracy,
        "drawn": quality.quality(classifier, train.images, model.sample(SAMPLES)),
        "real, held out": quality.quality(classifier, train.images, test.images[:SAMPLES]),
        "grids": model.grids.tolist(),
        "moments": model.moments.tolist(),
    }


def anomalous(train: digits.Digits, test: digits.Digits, one: int, kept: list[Path]) -> dict[str, Any]:
    """Every way of reconstruction, with one digit as the normal one."""
    good = train.of(one)
    detector = FAnogan.preset("digits")
    detector.fit(in_colour(good.images), checkpoints=checkpoints_folder(), progress=True)
    kept += detector.checkpoint_files
    labels = (test.labels != one).astype(int)
    rows = {}
    for name, (scores, milliseconds) in compare(detector, good, test).items():
        auroc = metrics.image_auroc(labels, scores)
        low, high = metrics.newcombe(auroc, int(labels.sum()), int((labels == 0).sum()))
        rows[name] = {
            "auroc": {"mean": auroc, "low": low, "high": high},
            "milliseconds": milliseconds,
            "scores": [float(score) for score in scores],
        }
    return {"source": train.source, "settings": detector.options(), "normal": one, "ways": rows}


def in_colour(images: np.ndarray) -> np.ndarray:
    """Gray digits (N, S, S) as detectors take them, (N, S, S, 3): three times the same."""
    return np.repeat(images[..., None], 3, axis=3)


def compare(
    detector: FAnogan, good: digits.Digits, test: digits.Digits, autoencoder_steps: int = 600
) -> dict[str, tuple[np.ndarray, float]]:
    """Scores (M,) of all test digits and milliseconds a digit, by f-AnoGAN, AnoGAN, an autoencoder and PCA.

    AnoGAN searches through the generator and critic of f-AnoGAN, so that the two differ in the way back only. The
    autoencoder and PCA are fitted here on the good digits, squeeze a digit into as many numbers as the generator draws
    from, and score by the squared error.
    """
    seen, latent = in_colour(test.images), detector.latent
    autoencoder = Autoencoder(image_size=28, crop=28, depth=2, latent=latent, loss="mse", steps=autoencoder_steps)
    autoencoder.fit(in_colour(good.images), detector.seed, progress=True)
    pca = PCA(min(latent, len(good.images)), random_state=detector.seed).fit(good.images.reshape(len(good.images), -1))

    def components() -> np.ndarray:
        flat = pca.inverse_transform(pca.transform(test.images.reshape(len(test.images), -1)))
        return flat.clip(0, 255).round().reshape(test.images.shape)

    def by_error(reconstruct: Callable[[], np.ndarray]) -> np.ndarray:
        return np.square(test.images.astype(np.float32) - reconstruct().astype(np.uint8)).mean((1, 2))

    ways = {
        "f_anogan": lambda: detector.invert(seen)[1].image,
        "anogan": lambda: detector.as_search().invert(seen)[1].image,
        "autoencoder": lambda: by_error(lambda: autoencoder.reconstruct(seen)[..., 0]),
        "pca": lambda: by_error(components),
    }
    results = {}
    for name, score in ways.items():
        begun = time.perf_counter()
        scores = score()
        results[name] = (scores, 1000 * (time.perf_counter() - begun) / len(seen))
    return results


def mean_auroc(
    scores: Mapping[int, np.ndarray], labels: np.ndarray, other: Mapping[int, np.ndarray] | None = None
) -> dict[str, float]:
    """AUROC averaged over the digits that were normal in turn, or the difference of two ways, with a 95 % interval.

    Args:
        scores: normal digit -> scores (M,) of the same M test digits.
        labels: (M,) which digit each is.
        other: of another way, which is taken from the first.

    Returns:
        `{"mean", "low", "high"}`: percentile bootstrap, 1,000 resamples of the test digits, as many of each kind.
    """
    weights = np.zeros((1000, len(labels)), np.int64)
    for digit in np.unique(labels):
        rows = np.flatnonzero(labels == digit)
        weights[:, rows] = metrics.resample_weights(np.zeros(len(rows), int), len(weights), seed=int(digit))

    def averaged(scores: Mapping[int, np.ndarray]) -> tuple[float, np.ndarray]:
        aurocs = [metrics.image_auroc(labels != normal, values) for normal, values in scores.items()]
        resampled = [
            metrics.resampled_ranking(labels != normal, values, weights)["image_auroc"]
            for normal, values in scores.items()
        ]
        return float(np.mean(aurocs)), np.mean(resampled, 0)

    mean, resampled = averaged(scores)
    if other is None:
        low, high = metrics.interval(resampled, mean, len(labels))
        return {"mean": mean, "low": low, "high": high}
    second, also = averaged(other)
    return metrics.paired_difference(resampled, also, mean, second, len(labels))


def linear(train: digits.Digits, test: digits.Digits, size: int) -> dict[str, float]:
    """PCA with so many components: the mean over the normal digits."""
    seen, scores = test.images.reshape(len(test.images), -1).astype(np.float32), {}
    for one in NORMALS:
        good = train.of(one).images
        model = PCA(size, random_state=0).fit(good.reshape(len(good), -1))
        scores[one] = np.square(seen - model.inverse_transform(model.transform(seen))).mean(1)
    return mean_auroc(scores, test.labels)


def product(name: str, folder: Path) -> dict[str, Any]:
    """The report of `evaluate`, and for f-AnoGAN other scores of the same networks and the mean image beside."""
    method, table = name.split()[1], index.read_category(folder.parent, folder.name)
    detector, source = detector_class(method)(), index.data_source(folder.parent, folder.name, table)
    found = benchmark.run(detector, table, data_source=source, keep_models=True)
    published.record(found.report)

    def of(others: list[Scores]) -> dict[str, Any]:
        """Metrics of other scores of the same images."""
        scores, maps = np.stack([one.image for one in others]), [one.maps for one in others]
        return metrics.evaluate(found.labels, scores, maps, found.masks)

    rows = {"loss": found.report["metrics"], "peak": of([Scores(peak(maps), maps) for maps in found.maps.values()])}
    if method == "f_anogan":
        images = detector.load(list(found.table["image_path"]))
        rows["loss, izi"] = of([one.rescored(kappa=0.0).score(images) for one in found.detectors])
        good = detector.load(list(table.query("split == 'train' and label == 0")["image_path"]))
        rows["mean image"] = of([mean_image(good, images, detector.sigma)])
    return {"report": found.report, "rows": rows}


def searched() -> dict[str, Any]:
    """20 steps for 32 digits at once, and for one after the other, in the same run; the largest difference."""
    detector = FAnogan.preset("digits")
    networks = detector.new_networks(0).eval()
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.uniform(-1, 1, (TOGETHER, 3, 28, 28)).astype(np.float32)).to(torch_device())
    starts = normal((TOGETHER, 1, detector.latent), rng)

    def losses(part: slice) -> torch.Tensor:
        how = {"steps": STEPS, "lr": detector.search_lr, "feature_share": detector.feature_share}
        return search(networks.averaged, networks.critic, images[part], starts[part], **how).losses

    losses(slice(0, 1))
    ratios, differences = [], []
    for _ in range(3):
        begun = time.perf_counter()
        together = losses(slice(None))
        middle = time.perf_counter()
        alone = torch.cat([losses(slice(one, one + 1)) for one in range(TOGETHER)], 1)
        ratios.append((time.perf_counter() - middle) / (middle - begun))
        differences.append(float(((together - alone).abs() / alone).max()))
    return {"threads": torch.get_num_threads(), "ratios": ratios, "largest_relative_difference": max(differences)}


def tables(found: dict[str, Any], test: digits.Digits) -> str:
    """Markdown: drawn digits, digits as anomalies, the product, the search."""
    parts = [_digits_table(found), _one_class_table(found, test), _product_table(found), _search_line(found)]
    minutes = sum(one["cpu_minutes"] for one in found.values())
    parts.append(f"CPU minutes in all, scoring included: {minutes:.0f}.")
    return "\n\n".join(part for part in parts if part)


def _digits_table(found: dict[str, Any]) -> str:
    one = found.get("digits")
    if one is None:
        return ""
    rows = []
    for name, words in (("drawn", f"{SAMPLES:,} drawn"), ("real, held out", f"{SAMPLES:,} real, held out")):
        own = one[name]
        numbers = [f"{own['frechet']:.1f}", f"{own['precision']:.2f}", f"{own['recall']:.2f}"]
        rows.append([words, str(own["digits_found"]), f"{own['sure']:.1%}", *numbers])
    heads = ["Digits", "kinds found", "≥ .8 sure", "Fréchet distance", "precision", "recall"]
    note = (
        f"DCGAN, {one['source']}: {one['steps']:,} steps in {one['training_minutes']:.1f} CPU minutes; the judge reads "
        f"{one['judge_accuracy']:.1%} of held-out digits rightly; distances are to the digits that were trained on."
    )
    return f"{markdown_table(heads, rows)}\n\n{note}"


def _one_class_table(found: dict[str, Any], test: digits.Digits) -> str:
    own = {one["normal"]: one["ways"] for one in found.values() if "normal" in one}
    if not own:
        return ""
    scores = {way: {one: np.array(rows[way]["scores"]) for one, rows in own.items()} for way in WAYS}
    lines = []
    for way, words in WAYS.items():
        cells = [format_metric(rows[way]["auroc"]) for rows in own.values()]
        mean = format_metric(mean_auroc(scores[way], test.labels))
        time_ = np.mean([rows[way]["milliseconds"] for rows in own.values()])
        lines.append([words, *cells, f"**{mean}**", f"{time_:.2f}"])
    heads = ["AUROC, normal digit", *map(str, own), "mean", "ms a digit"]
    differences = [
        f"{WAYS[first]} − {WAYS[second]} " + format_metric(mean_auroc(scores[first], test.labels, scores[second]))
        for first, second in (("f_anogan", "pca"), ("f_anogan", "autoencoder"), ("f_anogan", "anogan"))
    ]
    sizes = found.get("pca sizes", {}).get("sizes", {})
    linear_line = "; ".join(f"{size} components {format_metric(value)}" for size, value in sizes.items())
    return (
        f"{markdown_table(heads, lines)}\n\nPaired differences of the means: {'; '.join(differences)}.\n\n"
        f"PCA, mean over the same five: {linear_line}."
    )


def _product_table(found: dict[str, Any]) -> str:
    rows = []
    for name, one in found.items():
        if "report" not in one:
            continue
        report = one["report"]
        for score, values in one["rows"].items():
            words = score if score == "mean image" else f"{WAYS[report['method']]}, score: {score}"
            cells = [format_metric(values[key]) for key in ("image_auroc", "pixel_auroc", "au_pro")]
            rows.append([f"{name.split()[0]} ({report['data_source']}): {words}", *cells])
        if report["method"] == "f_anogan":
            rows += [[f"trivial: {key}", f"{value:.3f}", "–", "–"] for key, value in report["trivial"].items()]
    return markdown_table(["Product, 64 px, three seeds", "image AUROC", "pixel AUROC", "AUPRO"], rows) if rows else ""


def _search_line(found: dict[str, Any]) -> str:
    one = found.get("search")
    if one is None:
        return ""
    times = ", ".join(f"{ratio:.1f}" for ratio in one["ratios"])
    return (
        f"Latent search, {TOGETHER} digits, {STEPS} steps, {one['threads']} threads: one by one takes {times} times as "
        f"long as all at once; losses differ by at most {one['largest_relative_difference']:.1e} (relative)."
    )


def publish(found: dict[str, Any], text: str) -> None:
    """The figures without single scores, the tables, and the digits as they come into being."""
    assets = root_folder() / "assets"
    one = found.get("digits", {})
    if "grids" in one:
        per_epoch = one["steps"] / one["settings"]["epochs"]
        titles = [f"epoch {moment / per_epoch:2.0f}" for moment in one["moments"]]
        grids = np.array(one.pop("grids"), np.uint8)
        frames = [plotting.tile_rows({title: grid}, columns=4) for title, grid in zip(titles, grids, strict=True)]
        (assets / "digits.gif").write_bytes(plotting.animation(frames, seconds=0.8, dpi=90))
    for own in found.values():
        for row in own.get("ways", {}).values():
            row.pop("scores", None)
    (assets / "gan.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    published.write_between(root_folder() / "docs" / "results.md", "gans", text)


if __name__ == "__main__":
    main()
