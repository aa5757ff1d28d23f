"""Measure a method on one category: the same images, metrics, thresholds and trivial baselines for all."""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from mvtec_ad import metrics
from mvtec_ad.benchmark.result import Report, Result, check_file_name, make_result
from mvtec_ad.data import loading, splits
from mvtec_ad.errors import DataError, SettingsError

if TYPE_CHECKING:
    from mvtec_ad.methods.base import Detector


def run(
    detector: Detector,
    table: pd.DataFrame,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    data_source: str,
    false_alarm_rate: float = 0.05,
    row: str | None = None,
    keep_models: bool = False,
    progress: bool = True,
) -> Result:
    """Fit on train/good with each seed, score the official test images, measure.

    Several seeds share one pass through the backbone: what it gives is kept (1.4 MB an image for ResNet-18 at 224 px).

    Args:
        detector: its options are measured; it stays as it is.
        table: images of one category, as from `data.index.read_category`.
        seeds: of the fits.
        data_source: as `data.index.data_source` tells it.
        false_alarm_rate: that the calibrated threshold promises.
        row: name of this recipe in tables and files; the method's when None.
        keep_models: keep every fitted detector; otherwise one at a time is in memory.
        progress: show bars.

    Raises:
        DataError: there are no test images of both classes, so that no AUROC can be computed; or too few good ones to
            calibrate on.
        SettingsError: seeds cannot work, or the name of the row is no file name.

    Examples:
        >>> from mvtec_ad.methods.padim import Padim
        >>> run(Padim(), table, seeds=(0, 1), data_source="own").report["metrics"]["image_auroc"]  # doctest: +SKIP
        {'mean': 0.99, 'sd': 0.001, 'low': 0.97, 'high': 1.0, 'values': [0.99, 0.99]}
    """
    from mvtec_ad.methods.baselines import trivial_scores
    from mvtec_ad.training import checkpoints_folder, remove_checkpoints

    seeds = check_seeds(seeds)
    check_file_name("row", row or detector.name)
    table = splits.official(table)
    train_rows, test_rows = (table[table["part"] == part].reset_index(drop=True) for part in ("train", "test"))
    if test_rows["label"].nunique() < 2:
        raise DataError(
            f"{table['category'].iloc[0]}: no AUROC can be computed without good and defective test images "
            f"({len(test_rows)} test images, {int(test_rows['label'].sum())} defective); "
            "`fit` and `detect` work with good images alone"
        )
    metrics.check_enough(detector.calibration_images(len(train_rows)), false_alarm_rate)
    reset_peak_memory()
    backbone, weights = detector.backbone_name, detector.weights_name  # loaded here, so that all copies share it
    train, test = (detector.load(list(rows["image_path"])) for rows in (train_rows, test_rows))
    fitted = train[detector.fitted(len(train))]
    seconds = {"fit": 0.0, "score": 0.0}

    def seen(images: np.ndarray, word: str) -> Iterable[Any]:
        bar = {"desc": f"{detector.name} {word}", "unit": "batch", "disable": not progress}
        batches = tqdm(detector.parts(images), total=math.ceil(len(images) / detector.batch()), **bar)
        return list(batches) if len(seeds) > 1 else batches

    training = testing = None
    scores, good_scores, detectors, checkpoints = {}, {}, [], []
    for seed in seeds:
        fitted_detector = copy.copy(detector)
        with _clock(seconds, "fit"):
            training = training or seen(fitted, "fit")
            fitted_detector.fit_seen(training, len(fitted), seed, checkpoints=checkpoints_folder(), progress=progress)
        with _clock(seconds, "score"):
            testing = testing or seen(test, "score")
            scores[seed] = fitted_detector.score_seen(testing)
        good_scores[seed] = fitted_detector.good_scores
        checkpoints += fitted_detector.checkpoint_files
        detectors += [fitted_detector] if keep_models else []
    memory = peak_memory_gb()
    model_bytes = sum(getattr(value, "nbytes", 0) for value in fitted_detector.state().values())
    result = make_result(
        detector.name,
        test_rows,
        scores,
        good_scores,
        loading.load_masks(test_rows, detector.image_size, detector.crop),
        row=row,
        detectors=detectors,
        train=len(train),
        data_source=data_source,
        protocol="official",
        backbone=backbone,
        weights=weights,
        settings=detector.options(),
        false_alarm_rate=false_alarm_rate,
        trivial={
            name: metrics.image_auroc(test_rows["label"], values)
            for name, values in trivial_scores(train, test).items()
        },
        seconds=seconds,
        peak_memory_gb=memory,
        model_bytes=model_bytes,
    )
    remove_checkpoints(checkpoints)
    return result


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Different whole numbers from 0, at least one: a draw that counts twice would narrow no interval honestly.

    Raises:
        SettingsError: they are not.

    Examples:
        >>> check_seeds([0, 1])
        (0, 1)
    """
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise SettingsError(f"seed {seed!r} must be a whole number from 0")
        if list(seeds).count(seed) > 1:
            raise SettingsError(f"seed {seed} is given {list(seeds).count(seed)} times: one draw counts once")
    if not seeds:
        raise SettingsError("no seed is given: name at least one, for example 0")
    return tuple(seeds)


def describe(report: Report) -> str:
    """A report as lines to read."""
    seeds, images, show = len(report["seeds"]), report["images"], metrics.format_number
    network = f"{report['backbone']}, {report['weights']}, " if report["backbone"] else ""
    lines = [
        f"{report['row']} on {report['category']} ({report['data_source']}): {network}{seeds} seed{'s' * (seeds > 1)}",
        f"{images['train']} images to learn from; tested on {images['good']} good, {images['defective']} defective",
        "",
        *(f"  {name:<13} {metrics.format_metric(metric)}" for name, metric in report["metrics"].items()),
        "",
        "  image AUROC of the trivial rows",
        *(f"    {name:<24} {show(value)}" for name, value in report["trivial"].items()),
        "",
    ]
    if report["thresholds"]:
        rate = report["false_alarm_rate"]
        lines.append(f"  thresholds (calibrated on good training images for {rate:.0%} false alarms)")
    for name, point in report["thresholds"].items():
        note = "  (chosen on the test labels)" if name == "oracle" else ""
        lines.append(
            f"    {name:<11} {point['value']:.4g}: accuracy {point['accuracy']:.1%}, "
            f"false alarms {point['false_alarm_rate']:.1%}, detected {point['detection_rate']:.1%}{note}"
        )
    seconds, memory = report["seconds"], report["peak_memory_gb"]
    return "\n".join(
        [*lines, "", f"  fit {seconds['fit']:.1f} s, score {seconds['score']:.1f} s, peak memory {memory:.2f} GB"]
    )


def reset_peak_memory() -> None:
    """Let the peak begin anew, where the system can (Linux): what ran before in this process is not ours to count."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gb() -> float:
    """Largest resident memory of this process, 10⁹ bytes: since `reset_peak_memory`, or so far where it cannot."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e9
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


@contextlib.contextmanager
def _clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add what the body takes."""
    begun = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - begun
