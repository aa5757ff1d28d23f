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
from mvtec_ad.data import decoding, index, loading
from mvtec_ad.errors import ArtifactError, DataError, SettingsError
from mvtec_ad.methods import load_model
from mvtec_ad.methods.autoencoder import Autoencoder, Vae
from mvtec_ad.methods.baselines import trivial_scores
from mvtec_ad.methods.padim import Padim

Maker = Callable[..., Path]
SMALL = {"weights": "random", "channels": 8, "image_size": 40, "crop": 32, "sigma": 1.0}
KEYS = {"method", "row", "category", "data_source", "protocol", "backbone", "weights", "seeds", "images", "settings"}
KEYS |= {"metrics", "false_alarm_rate", "thresholds", "trivial", "seconds", "peak_memory_gb", "model_bytes"}


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
def found(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Measured once for all tests that only look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MVTEC_AD_HOME", str(tmp_path_factory.mktemp("home")))
        return run(root, keep_models=True)


# --- run --------------------------------------------------------------------------------------------------------------


def test_the_report_has_the_promised_shape(found: Result) -> None:
    """Every key, no other, and plain JSON."""
    report = json.loads(json.dumps(found.report, allow_nan=False))
    assert report == found.report
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
    # of each of 8 × 8 positions a mean of 8, and half of an 8 × 8 factor; 8 channels as int64, 12 good scores
    assert report["model_bytes"] == 64 * (8 + 36) * 4 + 8 * 8 + 12 * 4


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


def test_metrics_are_those_of_the_scores(found: Result) -> None:
    """scikit-learn on each seed's own scores, masks at the size of the maps."""
    order = found.labels
    assert sorted(order) == [0] * 5 + [1] * 5
    masks = [
        loading.resize(decoding.read_mask(path), 40, 32) if path else np.zeros((32, 32), bool)
        for path in found.table["mask_path"]
    ]
    np.testing.assert_array_equal(found.masks, masks)
    for number, seed in enumerate(found.seeds):
        expected = {
            "image_auroc": roc_auc_score(order, found.scores[number]),
            "image_ap": average_precision_score(order, found.scores[number]),
            "pixel_auroc": roc_auc_score(found.masks.ravel(), found.maps[seed].ravel()),
            "pixel_ap": average_precision_score(found.masks.ravel(), found.maps[seed].ravel()),
        }
        for name, value in expected.items():
            assert found.report["metrics"][name]["values"][number] == pytest.approx(value, abs=1e-6)
    assert found.report["metrics"]["image_auroc"]["mean"] == 1


def test_several_seeds_are_as_each_alone(root: Path, found: Result) -> None:
    """They share what the backbone gives and nothing else; a kept model gives the reported scores again."""
    for number, seed in enumerate(found.seeds):
        alone = run(root, seeds=(seed,))
        np.testing.assert_array_equal(alone.scores[0], found.scores[number])
        np.testing.assert_array_equal(alone.maps[seed], found.maps[seed])
        np.testing.assert_array_equal(alone.good_scores[seed], found.good_scores[seed])
        assert alone.detectors == []
        kept = found.detectors[number]
        assert kept.seed == seed
        np.testing.assert_array_equal(kept.score(list(found.table["image_path"])).image, found.scores[number])
    assert (found.scores[0] != found.scores[1]).any()


def test_the_backbone_sees_each_image_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many seeds there are; and the detector that was given stays unfitted."""
    seen = []
    look = Padim.look
    monkeypatch.setattr(Padim, "look", lambda self, pixels: seen.append(len(pixels)) or look(self, pixels))
    detector = Padim(**SMALL)
    run(root, detector, seeds=(0, 1, 2))
    assert sum(seen) == 12 + 10
    assert detector.seed is None


def test_the_calibrated_threshold_comes_from_images_left_out(found: Result) -> None:
    """The ⌈(n + 1)(1 − rate)⌉-th smallest of the left-out scores, averaged over the seeds; no test label is used."""
    values, alarms, detected = [], [], []
    for number, seed in enumerate(found.seeds):
        assert found.good_scores[seed].shape == (12,)
        values.append(float(np.sort(found.good_scores[seed])[math.ceil(13 * 0.8) - 1]))
        flagged = found.scores[number] > values[-1]
        alarms.append(flagged[found.labels == 0].mean())
        detected.append(flagged[found.labels == 1].mean())
    point = found.report["thresholds"]["calibrated"]
    assert point["value"] == pytest.approx(np.mean(values), rel=1e-6)
    assert point["false_alarm_rate"] == pytest.approx(np.mean(alarms))
    assert point["detection_rate"] == pytest.approx(np.mean(detected))
    assert found.report["false_alarm_rate"] == 0.2
    assert found.report["thresholds"]["oracle"]["accuracy"] == 1


def test_trivial_rows_stand_beside(found: Result, root: Path) -> None:
    """Their AUROC by scikit-learn, on the very images that the method saw."""
    train = sorted((root / "part" / "train" / "good").iterdir())
    images = [loading.load_images(paths, 40, 32) for paths in (train, list(found.table["image_path"]))]
    expected = {name: roc_auc_score(found.labels, scores) for name, scores in trivial_scores(*images).items()}
    assert found.report["trivial"] == pytest.approx(expected)
    assert found.report["trivial"]["all_defective"] == 0.5


def test_without_masks_there_are_image_metrics_only(tmp_path: Path, make_category: Maker) -> None:
    """And nothing pretends to be a pixel metric."""
    make_category(tmp_path, train=6, test_good=3, defects={"patch": 3}, size=40, masks=False)
    result = run(tmp_path, seeds=(0,))
    assert set(result.report["metrics"]) == {"image_auroc", "image_ap", "f1_max"}
    assert result.masks is None


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


@pytest.mark.parametrize(
    ("detector", "train", "rate", "words"),
    [
        (Padim(**SMALL), 4, 0.05, "at least 19"),
        # of seven images three are held out, and 20 % take four; said before anything is trained
        (Autoencoder(image_size=32, crop=32), 7, 0.2, "at least 4 good images to calibrate on, but there are 3"),
    ],
)
def test_too_few_images_for_the_rate(
    tmp_path: Path, make_category: Maker, detector: Any, train: int, rate: float, words: str
) -> None:
    """The message says how many it takes."""
    make_category(tmp_path, train=train, test_good=2, defects={"patch": 2}, size=40)
    with pytest.raises(DataError, match=words):
        run(tmp_path, detector, false_alarm_rate=rate)
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


@pytest.mark.parametrize("kind", [Autoencoder, Vae])
def test_a_method_that_is_trained_has_the_same_report(root: Path, found: Result, own_home: Path, kind: Any) -> None:
    """Key by key, without a backbone; the same images and trivial rows; no checkpoint is left."""
    detector = kind(image_size=32, crop=32, latent=8, width=4, steps=6, batch_images=8)
    # 12 good images: 6 are held out, enough for 25 %
    other = run(root, detector, false_alarm_rate=0.25, keep_models=True, row="own-name")
    report = other.report
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report) == KEYS
    assert (report["method"], report["row"], report["backbone"], report["weights"]) == (
        kind.name,
        "own-name",
        None,
        None,
    )
    assert (report["seeds"], report["settings"]) == ([0, 5], detector.options())
    assert report["images"] == found.report["images"]
    assert set(report["metrics"]) == set(found.report["metrics"])
    assert set(report["trivial"]) == set(found.report["trivial"])
    assert set(other.scores_table()["method"]) == {"own-name"}
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
    assert not list((own_home / "transfer" / "checkpoints").iterdir())


def test_checkpoints_outlive_a_run_that_fails(root: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was trained is found again; it goes when all seeds are done."""
    folder, detector = own_home / "transfer" / "checkpoints", Autoencoder(image_size=32, crop=32, width=2, steps=2)
    score = Autoencoder.score_seen
    monkeypatch.setattr(
        Autoencoder, "score_seen", lambda self, seen: 1 / 0 if self.seed == 5 else score(self, seen), raising=True
    )
    with pytest.raises(ZeroDivisionError):
        run(root, detector, false_alarm_rate=0.25)
    assert len(list(folder.iterdir())) == 2
    monkeypatch.undo()
    monkeypatch.setenv("MVTEC_AD_HOME", str(own_home))
    run(root, detector, false_alarm_rate=0.25)
    assert list(folder.iterdir()) == []


def test_a_report_is_lines_to_read(found: Result) -> None:
    """What was measured on what, metrics, baselines, thresholds, costs."""
    text = benchmark.describe(found.report)
    assert text.startswith(
        "padim on part (own): resnet18, random (seed 0), 2 seeds\n12 images to learn from; tested on 5"
    )
    assert "image_auroc   1.000 [" in text
    assert "all_defective            .500" in text
    assert "calibrated on good training images for 20% false alarms" in text


@pytest.mark.parametrize("module", ["result", "run", "cells", "compare", "supervised", "published"])
def test_examples_of_the_docstrings(module: str) -> None:
    """They say what happens."""
    tried = doctest.testmod(importlib.import_module(f"mvtec_ad.benchmark.{module}"))
    assert tried.failed == 0


# --- results and their files ------------------------------------------------------------------------------------------


def test_the_scores_table(found: Result) -> None:
    """One row per seed and image: what every scoring artifact holds."""
    table = found.scores_table()
    assert list(table.columns) == ["image_id", "split", "method", "seed", "label", "score"]
    assert len(table) == 2 * 10
    for number, seed in enumerate(found.seeds):
        own = table[table["seed"] == seed]
        assert own["image_id"].tolist() == found.table["image_id"].tolist()
        np.testing.assert_array_equal(own["score"], found.scores[number])
        np.testing.assert_array_equal(own["label"], found.labels)
    assert set(table["method"] + table["split"]) == {"padimtest"}


def test_a_result_comes_back_from_its_file(found: Result, own_home: Path) -> None:
    """Scores, maps, masks, good scores and report; and the model, ready for `detect`."""
    path = found.save("padim", profile="quick", models=True)
    assert path == own_home / "transfer" / "padim.zip"
    manifest = artifacts.load("padim", profile="quick", data_source="own").manifest
    assert (manifest["categories"], manifest["seed"]) == (["part"], [0, 5])
    assert manifest["options"] == {"padim": found.report["settings"]}
    assert manifest["metrics"] == {"part padim": 1.0}
    again = Result.load("padim")
    assert (again.seeds, again.method, again.protocol, again.profile) == ((0, 5), "padim", "official", "quick")
    assert (again.device, again.data_source) == (manifest["device"], "own")
    columns = ["image_id", "split", "label", "defect", "category"]
    pd.testing.assert_frame_equal(again.table[columns], found.table[columns])
    np.testing.assert_array_equal(again.scores.astype(np.float32), found.scores)
    np.testing.assert_array_equal(again.masks, found.masks)
    for seed in found.seeds:
        np.testing.assert_array_equal(again.maps[seed], found.maps[seed].astype(np.float16))
        np.testing.assert_array_equal(again.good_scores[seed], found.good_scores[seed])
    assert {key: again.report[key] for key in KEYS} == found.report
    assert set(again.report) - KEYS == {"profile", "device", "date", "git_commit", "versions"}
    model, description = load_model(path)
    limits = [np.sort(found.good_scores[0])[math.ceil(13 * 0.8) - 1], 0.2]
    assert list(description["threshold"].values()) == pytest.approx(limits)
    np.testing.assert_array_equal(model.score(list(found.table["image_path"])).image, found.scores[0])


def test_maps_are_kept_as_asked(found: Result, tmp_path: Path) -> None:
    """Of all seeds, of the first, or of none; what float16 cannot hold is clipped."""
    huge = replace(found, maps={0: np.full_like(found.maps[0], 1e6), 5: -found.maps[5] * 1e9}, detectors=[])
    for maps, seeds in ((True, [0, 5]), ("first", [0]), (False, [])):
        again = Result.load(huge.save(tmp_path / "own.zip", maps=maps))
        assert list(again.maps) == seeds
        assert (again.masks is None) == (not seeds)
        assert all(np.isfinite(own).all() for own in again.maps.values())


def test_only_some_images_in_the_order_asked_for(found: Result) -> None:
    """Scores, maps, masks and labels move together; a missing image is named."""
    wanted = [found.table["image_id"][i] for i in (5, 0, 7)]
    some = found.only(wanted)
    assert list(some.table["image_id"]) == wanted
    np.testing.assert_array_equal(some.scores, found.scores[:, [5, 0, 7]])
    np.testing.assert_array_equal(some.maps[5], found.maps[5][[5, 0, 7]])
    np.testing.assert_array_equal(some.masks, found.masks[[5, 0, 7]])
    assert len(found.table) == 10
    with pytest.raises(DataError, match="part: padim has no score of part/test/none/000"):
        found.only([*wanted, "part/test/none/000"])


def test_several_rows_share_a_file(found: Result, tmp_path: Path) -> None:
    """Told apart by name; seeds in another order of images are brought to that of the first."""
    other = replace(
        found.only(found.table["image_id"][::-1]), report={**found.report, "row": "padim-keras"}, detectors=[]
    )
    path = save_results(tmp_path / "two.zip", [found, other], files={"more.json": [1]})
    first, second = load_results([path])
    assert (first.row, second.row, first.method, second.method) == ("padim", "padim-keras", "padim", "padim")
    assert list(second.table["image_id"]) == list(first.table["image_id"][::-1])
    np.testing.assert_array_equal(second.maps[5], first.maps[5][::-1])
    assert artifacts.load(path).json("more.json") == [1]
    assert Result.load(path, row="padim-keras").name == "part: padim-keras"
    with pytest.raises(ArtifactError, match="holds part: padim, part: padim-keras: choose one"):
        Result.load(path)
    with pytest.raises(ArtifactError, match="part: padim is there 2 times"):
        save_results(tmp_path / "x.zip", [found, found])
    with pytest.raises(ArtifactError, match="part: padim-keras: another row keeps a model of this name"):
        save_results(tmp_path / "x.zip", [found, replace(other, detectors=found.detectors)], models=True)
    with pytest.raises(DataError, match="results of own and rendered make no artifact"):
        save_results(tmp_path / "x.zip", [found, replace(other, report={**other.report, "data_source": "rendered"})])


def members(found: Result) -> dict[str, Any]:
    """What a file of this result holds."""
    return benchmark.result.result_files([replace(found, detectors=[])])


def save(stage: str, files: dict[str, Any], **changes: Any) -> artifacts.Artifact:
    """An artifact of this test's own home."""
    about = {"profile": "quick", "data_source": "own", "categories": ["part"], "options": {}, "seed": 0} | changes
    return artifacts.load(artifacts.save(stage, files, **about))


def test_scores_and_maps_belong_to_images_not_to_places(found: Result) -> None:
    """A seed whose lines and maps stand in another order says the same."""
    files = members(found)
    scores = files["scores.csv"]
    files["scores.csv"] = pd.concat([scores[scores["seed"] == 0], scores[scores["seed"] == 5][::-1]])
    files["part/padim/5/maps.npz"] = {"maps": files["part/padim/5/maps.npz"]["maps"][::-1]}
    (again,) = load_results([save("padim", files)])
    np.testing.assert_array_equal(again.scores.astype(np.float32), found.scores)
    np.testing.assert_array_equal(again.maps[5], found.maps[5].astype(np.float16))


def test_artifacts_without_rows_hold_none_and_other_categories_are_left_out(found: Result) -> None:
    """A data.zip has no scores; a category that is not at hand is nobody's fault."""
    data = save("data", {"index.csv": found.table[["image_id"]]}, categories=["screw"])
    assert load_results([data]) == []
    artifact = save("padim", members(found), inputs=[data])
    assert [one.category for one in load_results([artifact])] == ["part"]
    assert load_results([artifact], data) == []


def test_scores_of_other_images_are_refused(found: Result) -> None:
    """One line that names the zip and the notebook; without a recorded input nothing can be said."""
    old = save("data", {"index.csv": found.table[["image_id"]]})
    artifact, silent = save("padim", members(found), inputs=[old]), save("gan", members(found))
    assert len(load_results([artifact], old)) == 1
    new = save("data", {"index.csv": found.table[["image_id", "label"]]})
    with pytest.raises(
        ArtifactError, match=r"^padim\.zip was made from another data\.zip .* notebooks/02_padim\.ipynb"
    ):
        load_results([artifact], new)
    assert len(load_results([silent], new)) == 1


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
def test_what_does_not_fit_together_is_refused(found: Result, damage: str, words: str) -> None:
    """Each in one line."""
    files = members(found)
    if damage == "twice":
        files["reports.json"] = [found.report] * 2
    elif damage == "no scores":
        files["reports.json"] = [{**found.report, "row": "other"}]
    elif damage == "maps":
        files["part/padim/0/maps.npz"] = {"maps": files["part/padim/0/maps.npz"]["maps"][1:]}
    elif damage == "seeds":
        files["scores.csv"] = files["scores.csv"].iloc[:-1]
    else:
        files["scores.csv"] = files["scores.csv"].drop(columns="seed")
    with pytest.raises(ArtifactError, match=words) as problem:
        load_results([save("padim", files)])
    assert "\n" not in str(problem.value)
