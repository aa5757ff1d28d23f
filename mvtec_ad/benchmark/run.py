"""Measure a method on one category: the same images, metrics, thresholds and trivial baselines for all."""

from __future__ import annotations

import contextlib
import copy
import math
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from mvtec_ad import metrics
from mvtec_ad.benchmark.result import Result, check_file_name, make_result
from mvtec_ad.config import check_seed
from mvtec_ad.data import loading, splits
from mvtec_ad.data.copies import content_hash, distinct, image_notes
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
        table, data_source: images of one category, as from `data.index.read_category`, and `data.index.data_source`.
        false_alarm_rate: that the calibrated threshold promises.
        row: name of this recipe in tables and files; the method's when None.
        keep_models: keep every fitted detector; otherwise one at a time is in memory.

    Raises:
        DataError: there are no test images of both classes, so that no AUROC can be computed; or too few good ones to
            calibrate on.
        SettingsError: seeds cannot work, or the name of the row is no file name.

    Examples:
        >>> from mvtec_ad.methods.padim import Padim
        >>> run(Padim(), table, seeds=(0, 1), data_source="own").report["metrics"]["image_auroc"]  # doctest: +SKIP
        {'mean': 0.99, 'sd': 0.001, 'low': 0.97, 'high': 1.0, 'values': [0.99, 0.99]}
    """
    from mvtec_ad.methods.base import check_table
    from mvtec_ad.methods.baselines import trivial_scores
    from mvtec_ad.training import checkpoints_folder, remove_checkpoints

    seeds = check_seeds(seeds)
    check_file_name("row", row or detector.name)
    check_table(table, "image_id", "category", "split", "defect", "label", "image_path", "mask_path")
    check_measurable(detector, table, false_alarm_rate)
    table = splits.official(table)
    train_rows, test_rows = (table[table["part"] == part].reset_index(drop=True) for part in ("train", "test"))
    reset_peak_memory()
    backbone, weights = detector.backbone_name, detector.weights_name  # loaded here, so that all copies share it
    train, test = (detector.load(list(rows["image_path"])) for rows in (train_rows, test_rows))
    hashes = [content_hash(pixels) for images in (train, test) for pixels in images]
    notes = image_notes(pd.concat([train_rows, test_rows]), hashes)
    chosen = distinct(hashes[: len(train)])
    train = train[chosen]
    check_calibration(detector, len(train), false_alarm_rate)
    masks = loading.load_masks(test_rows, detector.image_size, detector.crop)  # now: a broken one must cost no training
    fitted = train[detector.fitted(len(train))]
    known_hashes = [hashes[position] for position in chosen[detector.fitted(len(train))]]

    def seen(images: np.ndarray, word: str) -> Iterable[Any]:
        bar = {"desc": f"{detector.name} {word}", "unit": "batch", "disable": not progress}
        batches = tqdm(detector.parts(images), total=math.ceil(len(images) / detector.batch()), **bar)
        return list(batches) if len(seeds) > 1 else batches

    training = testing = None
    seconds, scores, good_scores, detectors, checkpoints = {"fit": 0.0, "score": 0.0}, {}, {}, [], []
    for seed in seeds:
        seed_detector, begun = copy.copy(detector), time.perf_counter()
        training = training or seen(fitted, "fit")
        how = {"hashes": known_hashes, "checkpoints": checkpoints_folder(), "progress": progress}
        seed_detector.fit_seen(training, len(fitted), seed, **how)
        between = time.perf_counter()
        testing = testing or seen(test, "score")
        scores[seed] = seed_detector.score_seen(testing)
        good_scores |= {seed: seed_detector.good_scores} if detector.calibrates else {}
        seconds["fit"] += between - begun
        seconds["score"] += time.perf_counter() - between
        checkpoints += seed_detector.checkpoint_files
        detectors += [seed_detector] if keep_models else []
    memory, trivial = peak_memory_gb(), trivial_scores(train, test)
    known = {"row": row, "detectors": detectors, "train": len(train), "data_source": data_source}
    known |= {"protocol": "official", "backbone": backbone, "weights": weights, "settings": detector.options()}
    known |= {"false_alarm_rate": false_alarm_rate, "promises": detector.calibrates, "notes": notes}
    known |= {"trivial": {name: metrics.image_auroc(test_rows["label"], values) for name, values in trivial.items()}}
    known |= {"seconds": seconds, "peak_memory_gb": memory}
    known |= {"model_bytes": sum(getattr(value, "nbytes", 0) for value in seed_detector.state().values())}
    result = make_result(detector.name, test_rows, scores, good_scores, masks, **known)
    remove_checkpoints(checkpoints)
    return result


def check_measurable(detector: Detector, table: pd.DataFrame, false_alarm_rate: float = 0.05) -> pd.DataFrame:
    """The table of one category as it came, or the DataError that `run` would raise for what it lacks."""
    test, category = table[table["split"] == "test"], table["category"].iloc[0]
    if test["label"].nunique() < 2:
        images = f"({len(test)} test images, {int(test['label'].sum())} defective)"
        why = f"no AUROC can be computed without good and defective test images {images}"
        raise DataError(f"{category}: {why}; `fit` and `detect` work with good images alone")
    good = (table["split"] == "train") & (table["label"] == 0)
    check_calibration(detector, int(good.sum()), false_alarm_rate)
    return table


def check_calibration(detector: Detector, count: int, false_alarm_rate: float) -> None:
    """Refuse `count` good images that are too few for the threshold of a detector that has one: `check_enough`."""
    if detector.calibrates:
        metrics.check_enough(detector.calibration_images(count), false_alarm_rate)


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Different whole numbers from 0, at least one: a draw that counts twice would narrow no interval honestly.

    Examples:
        >>> check_seeds([0, 1])
        (0, 1)
    """
    for seed in seeds:
        check_seed(seed)
        if list(seeds).count(seed) > 1:
            raise SettingsError(f"seed {seed} is given {list(seeds).count(seed)} times: one draw counts once")
    if not seeds:
        raise SettingsError("no seed is given: name at least one, for example 0")
    return tuple(seeds)


def reset_peak_memory() -> None:
    """Let the peak begin anew, where the system can (Linux): what ran before in this process is not ours to count."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gb() -> float:
    """Largest resident memory of this process, 10⁹ bytes: since `reset_peak_memory`, or so far where it cannot."""
    with contextlib.suppress(OSError, AttributeError):
        return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e9
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
