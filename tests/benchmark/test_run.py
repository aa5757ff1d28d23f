"""A measurement from a folder to a report and a file: the promised shape, every number from the scores it names."""

from __future__ import annotations

import doctest
import importlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from mvtec_ad import artifacts, benchmark
from mvtec_ad.benchmark import Result, load_results, save_results
from mvtec_ad.benchmark.run import peak_memory_gb, reset_peak_memory
from mvtec_ad.data import index, loading
from mvtec_ad.errors import ArtifactError, DataError, SettingsError
from mvtec_ad.methods import load_model
from mvtec_ad.methods.autoencoder import Autoencoder
from mvtec_ad.methods.baselines import trivial_scores
from mvtec_ad.methods.padim import Padim
from mvtec_ad.pages import report_lines

Maker = Callable[..., Path]
SMALL = {"backbone": "resnet18", "weights": "random", "channels": 8, "image_size": 40, "crop": 32, "sigma": 1.0}
KEYS = {"method", "row", "category", "data_source", "protocol", "backbone", "weights", "seeds", "images", "settings"}
KEYS |= {"metrics", "false_alarm_rate", "thresholds", "trivial", "seconds", "peak_memory_gb", "model_bytes", "notes"}


def run(root: Path, detector: Any = None, seeds: tuple[int, ...] = (0, 5), **options: Any) -> Result:
    """Measure `part` below a root."""
    options = {"data_source": "own", "false_alarm_rate": 0.2, "progress": False} | options
    return benchmark.run(detector or Padim(**SMALL), index.read_category(root, "part"), seeds, **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_category: Maker) -> Path:
    """12 good training images, 5 good and 3 + 2 defective test images, with masks."""
    folder = tmp_path_factory.mktemp("images")
    return make_category(folder, train=12, test_good=5, defects={"patch": 3, "spot": 2}, size=40)


@pytest.fixture(scope="module")
def result(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Measured once for all tests that only look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MVTEC_AD_HOME", str(tmp_path_factory.mktemp("home")))
        return run(root, keep_models=True)


# --- run --------------------------------------------------------------------------------------------------------------


def test_the_report_has_the_promised_shape(result: Result, root: Path) -> None:
    """Every key, no other, and plain JSON; the trivial rows by scikit-learn on the images that the method saw."""
    report = json.loads(json.dumps(result.report, allow_nan=False))
    assert report == result.report
    assert set(report) == KEYS
    assert (report["method"], report["row"], report["category"]) == ("padim", "padim", "part")
    assert (report["data_source"], report["protocol"]) == ("own", "official")
    assert (report["backbone"], report["weights"], report["seeds"]) == ("resnet18", "random (seed 0)", [0, 5])
    assert report["images"] == {"train": 12, "good": 5, "defective": 5}
    assert report["settings"] == Padim(**SMALL).options()
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
    # of each of 8 × 8 positions a mean of 8 and its rest, and half of an 8 × 8 factor; 8 channels as int64, 12 good
    # scores, and the digests of their images
    assert report["model_bytes"] == 64 * (8 + 8 + 36) * 4 + 8 * 8 + 12 * 4 + 12 * 32
    train = sorted((root / "part" / "train" / "good").iterdir())
    images = [loading.load_images(paths, 40, 32) for paths in (train, list(result.table["image_path"]))]
    trivial = {name: roc_auc_score(result.labels, scores) for name, scores in trivial_scores(*images).items()}
    assert report["trivial"] == pytest.approx(trivial)
    text = "\n".join(report_lines(report))
    assert text.startswith(
        "padim on part (own): resnet18, random (seed 0), 2 seeds\n12 images to learn from; tested on 5"
    )
    for words in (
        "image_auroc   1.000 [",
        "all_defective            .500",
        "good training images for 20% false alarms",
    ):
        assert words in text


def test_memory_is_that_of_the_run() -> None:
    """Not of what this process held before, where the system can tell; a run's own arrays count."""
    before = np.ones(40_000_000)  # 0.32 GB
    high = peak_memory_gb()
    del before
    reset_peak_memory()
    low = peak_memory_gb()
    assert 0.05 < low <= high < 100
    if Path("/proc/self/clear_refs").exists():
        assert low < high - 0.2


def test_metrics_are_those_of_the_scores(result: Result) -> None:
    """scikit-learn on each seed's own scores, masks at the size of the maps."""
    labels = result.labels
    masks = [
        loading.resize(loading.read_mask(path), 40, 32) if path else np.zeros((32, 32), bool)
        for path in result.table["mask_path"]
    ]
    np.testing.assert_array_equal(result.masks, masks)
    for number, seed in enumerate(result.seeds):
        pixels, maps = result.masks.ravel(), result.maps[seed].ravel()
        expected = {
            "image_auroc": roc_auc_score(labels, result.scores[number]),
            "image_ap": average_precision_score(labels, result.scores[number]),
            "pixel_auroc": roc_auc_score(pixels, maps),
            "pixel_ap": average_precision_score(pixels, maps),
        }
        for name, value in expected.items():
            assert result.report["metrics"][name]["values"][number] == pytest.approx(value, abs=1e-6)
    assert result.report["metrics"]["image_auroc"]["mean"] == 1


def test_several_seeds_are_as_each_alone(root: Path, result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share what the backbone gives, each image once, and nothing else; a model gives its scores again."""
    looks, look = [], Padim.look
    monkeypatch.setattr(Padim, "look", lambda self, pixels: looks.append(len(pixels)) or look(self, pixels))
    detector = Padim(**SMALL)
    together = run(root, detector)
    assert sum(looks) == 12 + 10
    assert detector.seed is None
    np.testing.assert_array_equal(together.scores, result.scores)
    for number, seed in enumerate(result.seeds):
        alone = run(root, seeds=(seed,))
        np.testing.assert_array_equal(alone.scores[0], result.scores[number])
        np.testing.assert_array_equal(alone.maps[seed], result.maps[seed])
        np.testing.assert_array_equal(alone.good_scores[seed], result.good_scores[seed])
        assert alone.detectors == []
        model = result.detectors[number]
        assert model.seed == seed
        np.testing.assert_array_equal(model.score(list(result.table["image_path"])).image, result.scores[number])
    assert (result.scores[0] != result.scores[1]).any()


def test_the_calibrated_threshold_comes_from_images_left_out(result: Result) -> None:
    """The ⌈(n + 1)(1 − rate)⌉-th smallest of the left-out scores, averaged over the seeds; no test label is used."""
    values, alarms, detected = [], [], []
    for number, seed in enumerate(result.seeds):
        assert result.good_scores[seed].shape == (12,)
        values.append(float(np.sort(result.good_scores[seed])[math.ceil(13 * 0.8) - 1]))
        flagged = result.scores[number] > values[-1]
        alarms.append(flagged[result.labels == 0].mean())
        detected.append(flagged[result.labels == 1].mean())
    point = result.report["thresholds"]["calibrated"]
    assert point["value"] == pytest.approx(np.mean(values), rel=1e-6)
    assert point["false_alarm_rate"] == pytest.approx(np.mean(alarms))
    assert point["detection_rate"] == pytest.approx(np.mean(detected))
    assert result.report["false_alarm_rate"] == 0.2
    assert result.report["thresholds"]["oracle"]["accuracy"] == 1


def test_without_masks_there_are_image_metrics_only(tmp_path: Path, make_category: Maker) -> None:
    """And nothing pretends to be a pixel metric."""
    make_category(tmp_path, train=6, test_good=3, defects={"patch": 3}, size=40, masks=False)
    blind = run(tmp_path, seeds=(0,))
    assert set(blind.report["metrics"]) == {"image_auroc", "image_ap", "f1_max"}
    assert blind.masks is None


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        ((4, 3, {}), {}, "no AUROC can be computed .*3 test images, 0 defective.*`fit` and `detect`"),
        ((4, 0, {}), {}, "no AUROC can be computed .*0 test images"),
        ((4, 0, {"patch": 2}), {}, "no AUROC can be computed .*2 test images, 2 defective"),
        ((4, 2, {"patch": 2}), {"false_alarm_rate": 0.05}, "at least 19"),
        # of seven images three are held out, and 20 % take four; said before anything is trained
        (
            (7, 2, {"patch": 2}),
            {"detector": Autoencoder(image_size=32, crop=32)},
            "at least 4 good images to calibrate on, but there are 3",
        ),
    ],
)
def test_too_few_images(
    tmp_path: Path, make_category: Maker, images: tuple, options: dict[str, Any], words: str
) -> None:
    """One class alone gives no AUROC, few images no threshold: one line says so, and what it takes."""
    make_category(tmp_path, train=images[0], test_good=images[1], defects=images[2], size=40)
    with pytest.raises(DataError, match=words) as caught:
        run(tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "transfer").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": (0, 0)}, "seed 0 is given 2 times: one draw counts once"),
        ({"seeds": (0, -1)}, "seed -1 must be a whole number from 0"),
        ({"seeds": (True,)}, "seed True must be"),
        ({"seeds": ()}, "no seed is given"),
        ({"row": "../up"}, "row '../up' is no file name"),
    ],
)
def test_seeds_and_names_that_cannot_work(root: Path, options: dict[str, Any], words: str) -> None:
    """Refused before any work: the same draw twice would look like two."""
    with pytest.raises(SettingsError, match=words):
        run(root, **options)


def test_a_method_that_is_trained_has_the_same_report(
    root: Path, result: Result, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a backbone; the same images and trivial rows. Checkpoints outlive a run that fails, and no other."""
    folder = own_home / "transfer" / "checkpoints"
    detector = Autoencoder(image_size=32, crop=32, latent=8, width=4, steps=6, batch_images=8)
    # 12 good images: 6 are held out, enough for 25 %
    options, score = {"false_alarm_rate": 0.25, "keep_models": True, "row": "trained"}, Autoencoder.score_seen
    with monkeypatch.context() as patch:
        patch.setattr(Autoencoder, "score_seen", lambda self, seen: 1 / 0 if self.seed == 5 else score(self, seen))
        with pytest.raises(ZeroDivisionError):
            run(root, detector, **options)
    assert len(list(folder.iterdir())) == 2
    other = run(root, detector, **options)
    assert not list(folder.iterdir())
    report = other.report
    assert set(report) == KEYS
    assert (report["method"], report["row"]) == ("autoencoder", "trained")
    assert (report["backbone"], report["weights"]) == (None, None)
    assert (report["seeds"], report["settings"]) == ([0, 5], detector.options())
    assert report["images"] == result.report["images"]
    assert set(report["trivial"]) == set(result.report["trivial"])
    thresholds = []
    for number, seed in enumerate(other.seeds):
        assert other.good_scores[seed].shape == (6,)
        auroc = roc_auc_score(other.labels, other.scores[number])
        assert report["metrics"]["image_auroc"]["values"][number] == pytest.approx(auroc)
        again = other.detectors[number].score(list(other.table["image_path"])).image
        np.testing.assert_array_equal(again, other.scores[number])
        thresholds.append(np.sort(other.good_scores[seed])[math.ceil(7 * 0.75) - 1])
    assert report["thresholds"]["calibrated"]["value"] == pytest.approx(np.mean(thresholds), rel=1e-6)
    assert (other.scores[0] != other.scores[1]).any()


@pytest.mark.parametrize("module", ["result", "run", "cells", "compare", "supervised", "published"])
def test_examples_of_the_docstrings(module: str) -> None:
    """They say what happens."""
    assert doctest.testmod(importlib.import_module(f"mvtec_ad.benchmark.{module}")).failed == 0


def test_a_method_that_is_trained_on_all_good_images_promises_no_threshold(root: Path, tmp_path: Path) -> None:
    """Measured, saved and read like any other, with fewer images than a threshold takes; but its model is not kept."""
    detector = Autoencoder(image_size=32, crop=32, latent=8, width=4, epochs=2, batch_images=8, held_out=0.0)
    other = run(root, detector, seeds=(0,), false_alarm_rate=0.01, keep_models=True)
    assert (other.report["thresholds"], other.good_scores) == ({}, {})
    assert other.report["metrics"]["image_auroc"]["values"] == [roc_auc_score(other.labels, other.scores[0])]
    again = Result.load(other.save(tmp_path / "all.zip"))
    assert {key: again.report[key] for key in KEYS} == other.report
    with pytest.raises(DataError, match="at least 99 good images to calibrate on, but there are 0"):
        other.save(tmp_path / "all.zip", models=True)


# --- results and their files ------------------------------------------------------------------------------------------


def test_the_scores_table(result: Result) -> None:
    """One row per seed and image: what every scoring artifact holds."""
    table = result.scores_table()
    assert list(table.columns) == ["image_id", "split", "method", "seed", "label", "score"]
    assert len(table) == 2 * 10
    for number, seed in enumerate(result.seeds):
        rows = table[table["seed"] == seed]
        assert rows["image_id"].tolist() == result.table["image_id"].tolist()
        np.testing.assert_array_equal(rows["score"], result.scores[number])
        np.testing.assert_array_equal(rows["label"], result.labels)
    assert set(table["method"] + table["split"]) == {"padimtest"}


def test_a_result_comes_back_from_its_file(result: Result, own_home: Path) -> None:
    """Scores, maps, masks, good scores and report; and the model, ready for `detect`."""
    path = result.save("padim", profile="quick", models=True)
    assert path == own_home / "transfer" / "padim.zip"
    manifest = artifacts.load("padim", profile="quick", data_source="own").manifest
    assert (manifest["categories"], manifest["seed"]) == (["part"], [0, 5])
    assert manifest["options"] == {"padim": result.report["settings"]}
    assert manifest["metrics"] == {"part padim": 1.0}
    again = Result.load("padim")
    assert (again.seeds, again.method, again.protocol) == ((0, 5), "padim", "official")
    assert (again.report["profile"], again.report["device"]) == ("quick", manifest["device"])
    assert again.data_source == "own"
    columns = ["image_id", "split", "label", "defect", "category"]
    pd.testing.assert_frame_equal(again.table[columns], result.table[columns])
    np.testing.assert_array_equal(again.scores.astype(np.float32), result.scores)
    np.testing.assert_array_equal(again.masks, result.masks)
    for seed in result.seeds:
        np.testing.assert_array_equal(again.maps[seed], result.maps[seed].astype(np.float16))
        np.testing.assert_array_equal(again.good_scores[seed], result.good_scores[seed])
    assert {key: again.report[key] for key in KEYS} == result.report
    assert set(again.report) - KEYS == {"profile", "device", "date", "git_commit", "versions"}
    model, description = load_model(path)
    limits = [np.sort(result.good_scores[0])[math.ceil(13 * 0.8) - 1], 0.2]
    assert list(description["threshold"].values()) == pytest.approx(limits)
    np.testing.assert_array_equal(model.score(list(result.table["image_path"])).image, result.scores[0])


def test_maps_are_saved_as_asked(result: Result, tmp_path: Path) -> None:
    """Of all seeds, of the first, or of none; what float16 cannot hold is clipped."""
    huge = replace(result, maps={0: np.full_like(result.maps[0], 1e6), 5: -result.maps[5] * 1e9}, detectors=[])
    for maps, seeds in ((True, [0, 5]), ("first", [0]), (False, [])):
        again = Result.load(huge.save(tmp_path / "huge.zip", maps=maps))
        assert list(again.maps) == seeds
        assert (again.masks is None) == (not seeds)
        assert all(np.isfinite(seed_maps).all() for seed_maps in again.maps.values())


def test_only_some_images_in_the_order_asked_for(result: Result) -> None:
    """Scores, maps, masks and labels move together; a missing image is named."""
    wanted = [result.table["image_id"][i] for i in (5, 0, 7)]
    some = result.only(wanted)
    assert list(some.table["image_id"]) == wanted
    np.testing.assert_array_equal(some.scores, result.scores[:, [5, 0, 7]])
    np.testing.assert_array_equal(some.maps[5], result.maps[5][[5, 0, 7]])
    np.testing.assert_array_equal(some.masks, result.masks[[5, 0, 7]])
    with pytest.raises(DataError, match="part: padim has no score of part/test/none/000"):
        result.only([*wanted, "part/test/none/000"])


def test_several_rows_share_a_file(result: Result, tmp_path: Path) -> None:
    """Told apart by name, each in its own order of images; what cannot lie together is refused in one line."""
    report = {**result.report, "row": "padim-keras"}
    other = replace(result.only(result.table["image_id"][::-1]), report=report, detectors=[])
    path = save_results(tmp_path / "two.zip", [result, other], files={"more.json": [1]})
    first, second = load_results([path])
    assert (first.row, second.row, first.method, second.method) == ("padim", "padim-keras", "padim", "padim")
    assert list(second.table["image_id"]) == list(first.table["image_id"][::-1])
    np.testing.assert_array_equal(second.maps[5], first.maps[5][::-1])
    assert artifacts.load(path).json("more.json") == [1]
    assert Result.load(path, row="padim-keras").name == "part: padim-keras"
    with pytest.raises(ArtifactError, match="holds part: padim, part: padim-keras: choose one"):
        Result.load(path)
    for rows, problem, words in (
        ([result, result], ArtifactError, "part: padim is there 2 times"),
        ([result, replace(other, detectors=result.detectors)], ArtifactError, "padim-keras: another row keeps a model"),
        (
            [result, replace(other, report={**report, "data_source": "synthetic"})],
            DataError,
            "own and synthetic make no",
        ),
    ):
        with pytest.raises(problem, match=words):
            save_results(tmp_path / "x.zip", rows, models=True)


def files_of(result: Result) -> dict[str, Any]:
    """What a file of this result holds."""
    return benchmark.result_files([replace(result, detectors=[])])


def save(stage: str, files: dict[str, Any], **changes: Any) -> artifacts.Artifact:
    """An artifact of this test's own home."""
    about = {"profile": "quick", "data_source": "own", "categories": ["part"], "options": {}, "seed": 0} | changes
    return artifacts.load(artifacts.save(stage, files, **about))


def test_scores_and_maps_belong_to_images_not_to_positions(result: Result) -> None:
    """A seed whose lines and maps stand in another order says the same."""
    files = files_of(result)
    scores, maps = files["scores.csv"], files["part/padim/5/maps.npz"]["maps"]
    files["scores.csv"] = pd.concat([scores[scores["seed"] == 0], scores[scores["seed"] == 5][::-1]])
    files["part/padim/5/maps.npz"] = {"maps": maps[::-1]}
    (again,) = load_results([save("padim", files)])
    np.testing.assert_array_equal(again.scores.astype(np.float32), result.scores)
    np.testing.assert_array_equal(again.maps[5], result.maps[5].astype(np.float16))


def test_scores_of_other_images_are_refused_and_of_other_categories_left_out(result: Result) -> None:
    """One line names the zip and the notebook; a data.zip holds no row, and a silent artifact is believed."""
    old = save("data", {"index.csv": result.table[["image_id"]]})
    artifact, silent = save("padim", files_of(result), inputs=[old]), save("gan", files_of(result))
    assert [row.category for row in load_results([old, artifact], old)] == ["part"]
    new = save("data", {"index.csv": result.table[["image_id", "label"]]})
    with pytest.raises(
        ArtifactError, match=r"^padim\.zip was made from another data\.zip .* notebooks/02_padim\.ipynb"
    ):
        load_results([artifact], new)
    assert len(load_results([silent], new)) == 1
    assert load_results([silent], save("data", {"index.csv": result.table[["label"]]}, categories=["screw"])) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("twice", "part: padim is there 2 times"),
        ("no scores", "part: other and no scores"),
        ("maps", "9 maps of 10 images"),
        ("seeds", "other images with seed 5"),
        ("column", "lacks seed"),
    ],
)
def test_what_does_not_fit_together_is_refused(result: Result, damage: str, words: str) -> None:
    """Each in one line."""
    files = files_of(result)
    scores, maps = files["scores.csv"], files["part/padim/0/maps.npz"]["maps"]
    files |= {
        "twice": {"reports.json": [result.report] * 2},
        "no scores": {"reports.json": [{**result.report, "row": "other"}]},
        "maps": {"part/padim/0/maps.npz": {"maps": maps[1:]}},
        "seeds": {"scores.csv": scores.iloc[:-1]},
        "column": {"scores.csv": scores.drop(columns="seed")},
    }[damage]
    with pytest.raises(ArtifactError, match=words) as problem:
        load_results([save("padim", files)])
    assert "\n" not in str(problem.value)
