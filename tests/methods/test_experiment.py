"""One experiment from a folder to a report: the promised shape, and every number from the trials it names."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from mvtec_ad.data import decoding, index, loading
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods import experiment, module_of
from mvtec_ad.methods.trivial import trivial_scores
from mvtec_ad.settings import PRESETS, AutoencoderSettings, PadimSettings, as_dict

Maker = Callable[..., Path]
SETTINGS = PadimSettings(
    backbone="resnet18", weights="random", channels=8, seeds=(0, 5), image_size=40, crop=32, sigma=1.0
)
# What issue and command line promise, and three keys that say what was measured how.
KEYS = {
    "method",
    "category",
    "data_source",
    "backbone",
    "weights",
    "seeds",
    "metrics",
    "trivial",
    "thresholds",
    "seconds",
    "peak_memory_gb",
} | {"images", "settings", "false_alarm_rate"}


def run(root: Path, **options: object) -> experiment.Experiment:
    """Measure `part` below a root."""
    table = index.read_category(root, "part")
    options = {"data_source": "own", "false_alarm_rate": 0.2, "progress": False} | options
    return experiment.run(options.pop("method", "padim"), table, options.pop("settings", SETTINGS), **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_category: Maker) -> Path:
    """12 good training images, 5 good and 3 + 2 defective test images, with masks."""
    folder = tmp_path_factory.mktemp("images")
    return make_category(folder, train=12, test_good=5, defects={"patch": 3, "spot": 2}, size=40)


@pytest.fixture(scope="module")
def found(root: Path) -> experiment.Experiment:
    """Measured once for all tests that only look."""
    return run(root)


def test_the_report_has_the_promised_shape(found: experiment.Experiment) -> None:
    """Every key, no other, and plain JSON."""
    report = json.loads(json.dumps(found.report, allow_nan=False))
    assert report == found.report
    assert set(report) == KEYS
    assert (report["method"], report["category"], report["data_source"]) == ("padim", "part", "own")
    assert (report["backbone"], report["weights"], report["seeds"]) == ("resnet18", "random (seed 0)", [0, 5])
    assert report["images"] == {"train": 12, "good": 5, "defective": 5}
    assert report["settings"] == as_dict(SETTINGS)
    assert set(report["metrics"]) == {"image_auroc", "image_ap", "f1_max", "pixel_auroc", "pixel_ap", "au_pro"}
    for metric in report["metrics"].values():
        assert set(metric) == {"mean", "sd", "low", "high", "values"}
        assert len(metric["values"]) == 2
        assert 0 <= metric["low"] <= metric["mean"] <= metric["high"] <= 1
    assert set(report["thresholds"]) == {"calibrated", "oracle"}
    for point in report["thresholds"].values():
        assert set(point) == {"value", "accuracy", "false_alarm_rate", "detection_rate"}
    assert set(report["seconds"]) == {"fit", "score"}
    assert min(report["seconds"].values()) > 0
    assert 0.05 < report["peak_memory_gb"] < 100


def test_metrics_are_those_of_the_trials(found: experiment.Experiment) -> None:
    """scikit-learn on each trial's own scores, masks at the size of the maps."""
    labels = np.array([1] * 5 + [0] * 5)
    order = found.labels
    assert sorted(order) == sorted(labels)
    masks = np.stack(
        [
            loading.resize(decoding.read_mask(path), 40, 32) if path else np.zeros((32, 32), bool)
            for path in found.test["mask_path"]
        ]
    )
    np.testing.assert_array_equal(found.masks, masks)
    for seed, trial in enumerate(found.trials):
        expected = {
            "image_auroc": roc_auc_score(order, trial.scores.image),
            "image_ap": average_precision_score(order, trial.scores.image),
            "pixel_auroc": roc_auc_score(masks.ravel(), trial.scores.maps.ravel()),
            "pixel_ap": average_precision_score(masks.ravel(), trial.scores.maps.ravel()),
        }
        for name, value in expected.items():
            assert found.report["metrics"][name]["values"][seed] == pytest.approx(value, abs=1e-6)
    assert found.report["metrics"]["image_auroc"]["mean"] == 1


def test_test_images_stay_with_their_rows(found: experiment.Experiment) -> None:
    """Arrays in the order of the table."""
    for row, image in zip(found.test.itertuples(), found.images, strict=True):
        np.testing.assert_array_equal(image, loading.resize(decoding.read_image(row.image_path), 40, 32))


def test_the_calibrated_threshold_comes_from_images_left_out(found: experiment.Experiment) -> None:
    """The ⌈(n + 1)(1 − rate)⌉-th smallest of the left-out scores, averaged over the seeds; no test label is used."""
    values, alarms, detected = [], [], []
    for trial in found.trials:
        assert trial.good_scores.shape == (12,)
        values.append(float(np.sort(trial.good_scores)[math.ceil(13 * 0.8) - 1]))
        flagged = trial.scores.image > values[-1]
        alarms.append(flagged[found.labels == 0].mean())
        detected.append(flagged[found.labels == 1].mean())
    point = found.report["thresholds"]["calibrated"]
    assert point["value"] == pytest.approx(np.mean(values), rel=1e-6)
    assert point["false_alarm_rate"] == pytest.approx(np.mean(alarms))
    assert point["detection_rate"] == pytest.approx(np.mean(detected))
    assert found.report["false_alarm_rate"] == 0.2
    assert found.report["thresholds"]["oracle"]["accuracy"] == 1


def test_trivial_rows_stand_beside(found: experiment.Experiment, root: Path) -> None:
    """Their AUROC by scikit-learn, on the very images that the method saw."""
    train = sorted((root / "part" / "train" / "good").iterdir())
    rows = trivial_scores(loading.load_images(train, 40, 32), found.images)
    assert found.report["trivial"] == pytest.approx(
        {name: roc_auc_score(found.labels, scores) for name, scores in rows.items()}
    )
    assert found.report["trivial"]["all_defective"] == 0.5


def test_the_scores_table(found: experiment.Experiment) -> None:
    """One row per seed and image: what every scoring artifact holds."""
    table = found.scores_table()
    assert list(table.columns) == ["image_id", "split", "method", "seed", "label", "score"]
    assert len(table) == 2 * 10
    for trial in found.trials:
        own = table[table["seed"] == trial.seed]
        assert own["image_id"].tolist() == found.test["image_id"].tolist()
        np.testing.assert_array_equal(own["score"], trial.scores.image)
        np.testing.assert_array_equal(own["label"], found.labels)
    assert set(table["method"] + table["split"]) == {"padimtest"}


def test_models_are_kept_only_on_request(root: Path, found: experiment.Experiment) -> None:
    """A kept model gives the reported scores again."""
    assert all(trial.model is None for trial in found.trials)
    kept = run(root, keep_models=True, settings=replace(SETTINGS, seeds=(5,)))
    np.testing.assert_array_equal(kept.trials[0].model.score(kept.images).image, found.trials[1].scores.image)


def test_without_masks_there_are_image_metrics_only(tmp_path: Path, make_category: Maker) -> None:
    """And nothing pretends to be a pixel metric."""
    make_category(tmp_path, train=6, test_good=3, defects={"patch": 3}, size=40, masks=False)
    report = run(tmp_path).report
    assert set(report["metrics"]) == {"image_auroc", "image_ap", "f1_max"}


@pytest.mark.parametrize(
    ("good", "defects", "words"),
    [(3, {}, r"3 test images, 0 defective"), (0, {}, "0 test images"), (0, {"patch": 2}, "2 test images, 2 defective")],
)
def test_one_class_alone_gives_no_auroc(
    tmp_path: Path, make_category: Maker, good: int, defects: dict[str, int], words: str
) -> None:
    """The message says so, and what works instead."""
    make_category(tmp_path, train=4, test_good=good, defects=defects, size=40)
    with pytest.raises(DataError, match=f"no AUROC can be computed .*{words}.*`fit` and `detect`") as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)


def test_too_few_images_for_the_rate(tmp_path: Path, make_category: Maker) -> None:
    """The message says how many it takes."""
    make_category(tmp_path, train=4, test_good=2, defects={"patch": 2}, size=40)
    with pytest.raises(DataError, match="at least 19"):
        run(tmp_path, false_alarm_rate=0.05)


@pytest.mark.parametrize("method", PRESETS)
def test_every_method_keeps_the_contract(method: str) -> None:
    """The four functions that experiment, commands and artifacts call, with these arguments."""
    wanted = {
        "fit": ["settings", "images", "checkpoint", "progress"],
        "fit_and_score": ["settings", "train", "test", "progress"],
        "pack": ["model"],
        "unpack": ["settings", "seed", "description", "arrays", "backbone"],
    }
    module = module_of(method)
    found = {name: list(inspect.signature(getattr(module, name)).parameters) for name in wanted}
    assert found == wanted


def test_an_unknown_method_is_refused() -> None:
    """With those that there are."""
    with pytest.raises(SettingsError, match="'magic' is unknown: use one of padim, autoencoder, vae, patchcore"):
        experiment.run("magic", pd.DataFrame(), SETTINGS, data_source="own")


DRAWING = AutoencoderSettings(image_size=32, crop=32, latent=8, width=4, steps=30, batch=8, sigma=1.0, seeds=(0, 5))


@pytest.mark.parametrize("method", ["autoencoder", "vae"])
def test_a_method_that_is_trained_has_the_same_report(
    root: Path, found: experiment.Experiment, own_home: Path, method: str
) -> None:
    """Key by key, without a backbone; the same images and trivial rows; no checkpoint is left."""
    settings = replace(DRAWING, variational=method == "vae")
    # 12 good images: 6 are held out, enough for 25 %
    other = run(root, method=method, settings=settings, false_alarm_rate=0.25, keep_models=True)
    report = other.report
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report) == KEYS
    assert (report["method"], report["backbone"], report["weights"]) == (method, None, None)
    assert (report["seeds"], report["settings"]) == ([0, 5], as_dict(settings))
    assert report["images"] == found.report["images"]
    assert set(report["metrics"]) == set(found.report["metrics"])
    np.testing.assert_array_equal(other.images.shape, (10, 32, 32, 3))
    assert set(report["trivial"]) == set(found.report["trivial"])
    assert set(other.scores_table()["method"]) == {method}
    thresholds = []
    for seed, trial in enumerate(other.trials):
        assert trial.good_scores.shape == (6,)
        auroc = roc_auc_score(other.labels, trial.scores.image)
        assert report["metrics"]["image_auroc"]["values"][seed] == pytest.approx(auroc)
        np.testing.assert_array_equal(trial.model.score(other.images).image, trial.scores.image)
        thresholds.append(np.sort(trial.good_scores)[math.ceil(7 * 0.75) - 1])
    assert report["thresholds"]["calibrated"]["value"] == pytest.approx(np.mean(thresholds), rel=1e-6)
    assert (other.trials[0].scores.image != other.trials[1].scores.image).any()
    assert not list((own_home / "transfer" / "checkpoints").iterdir())


def test_too_few_held_out_images_for_the_rate(tmp_path: Path, make_category: Maker) -> None:
    """Said before anything is trained: of seven images three are held out, and 20 % take four."""
    make_category(tmp_path, train=7, test_good=2, defects={"patch": 2}, size=40)
    with pytest.raises(DataError, match="at least 4 good images to calibrate on, but there are 3"):
        run(tmp_path, method="autoencoder", settings=DRAWING, false_alarm_rate=0.2)
    assert not (tmp_path / "transfer" / "checkpoints").exists()
