"""What a classifier is worth, in numbers by hand; and the file that keeps it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

from mvtec_ad import artifacts
from mvtec_ad.data import index
from mvtec_ad.data.rendered import write_packages
from mvtec_ad.errors import ArtifactError
from mvtec_ad.methods import classifier
from mvtec_ad.methods.classifier import experiment
from mvtec_ad.settings import ClassifierSettings

SMALL = ClassifierSettings(weights="drawn", image_size=64, steps=2, batch=4, validation=0.34)


def scored(side: list[float], top: list[float], labels: list[int], folds: list[int] | None = None) -> pd.DataFrame:
    """Two views of each item, as `score_unseen` and `cross_validate` return them."""
    rows = [
        {"group": f"item{i}", "view": view, "defect": "damaged" if label else "good", "label": label, "score": score}
        | ({"fold": folds[i]} if folds else {})
        for view, scores in (("side", side), ("top", top))
        for i, (score, label) in enumerate(zip(scores, labels, strict=True))
    ]
    return pd.DataFrame(rows)


def test_calibrated_logits_of_the_views_add_up() -> None:
    """Probabilities .8 and .9 of independent views: odds 4 · 9."""
    items = experiment.joint_verdict(scored([np.log(4), -1.0], [np.log(9), 3.0], [1, 0]))
    assert items["score"].tolist() == pytest.approx([np.log(36), 2.0])
    assert items["label"].tolist() == [1, 0]
    assert items["side"].tolist() == pytest.approx([np.log(4), -1.0])


def test_measures_are_those_of_sklearn() -> None:
    """Of one set; and each fold ranked by its own model, where scales differ between folds."""
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 20)
    scores = rng.normal(labels, 1.0)
    found = experiment.measure(labels, scores)
    assert found["image_auroc"]["mean"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["image_ap"]["mean"] == pytest.approx(average_precision_score(labels, scores))
    assert found["accuracy"]["mean"] == pytest.approx(accuracy_score(labels, scores > 0))
    assert found["image_auroc"]["low"] < found["image_auroc"]["mean"] < found["image_auroc"]["high"]
    folds = np.repeat([0, 1], 20)
    moved = scores + 100 * folds
    apart = experiment.measure(labels, moved, folds)
    mean = np.mean([roc_auc_score(labels[folds == k], scores[folds == k]) for k in (0, 1)])
    assert apart["image_auroc"]["mean"] == pytest.approx(mean)
    assert apart["pooled_auroc"] == pytest.approx(roc_auc_score(labels, moved))
    assert apart["pooled_auroc"] < mean


def test_a_second_view_that_says_nothing_changes_little_and_one_that_knows_changes_much() -> None:
    """The better view is named; the interval holds the difference."""
    labels = [0, 1] * 15
    rng = np.random.default_rng(1)
    weak = list(rng.normal(0, 1, 30))
    knows = list(np.where(np.array(labels) == 1, 9.0, -9.0))
    found = experiment.joint_minus_better_view(scored(weak, knows, labels), resamples=200)
    assert found["better"] == "top"
    assert found["mean"] == pytest.approx(0)
    both = [list(rng.normal(labels, 1.0)) for _ in range(2)]
    frame = scored(*both, labels, [0] * 14 + [1] * 16)
    found = experiment.joint_minus_better_view(frame, resamples=200)
    views = experiment.by_view(frame)
    better = max(views["side"]["image_auroc"]["mean"], views["top"]["image_auroc"]["mean"])
    assert found["mean"] == pytest.approx(views["joint"]["image_auroc"]["mean"] - better)
    assert found["low"] <= found["mean"] <= found["high"]
    assert found["low"] < found["high"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Six damaged and six intact items to learn from, two each to test on."""
    root = tmp_path_factory.mktemp("drawn")
    write_packages(root, train=6, test=2, size=(90, 160), progress=False)
    return index.read_category(root, "package")


def test_every_item_is_scored_once_by_a_model_that_has_not_seen_it(
    packages: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three folds, two views; no other view of an item is in what its model learned from."""
    train = packages[packages["split"] == "train"].reset_index(drop=True)
    learned: list[set[str]] = []
    original = experiment.fit

    def watched(settings: ClassifierSettings, table: pd.DataFrame, **options: object) -> classifier.DefectClassifier:
        learned.append(set(table["group"]))
        return original(settings, table, **options)

    monkeypatch.setattr(experiment, "fit", watched)
    found = experiment.cross_validate(replace(SMALL, steps=0), train, folds=3, progress=False)
    assert found["image_id"].tolist() == train["image_id"].tolist()
    assert np.isfinite(found["score"]).all()
    assert len(learned) == 6
    for fold, groups in found.groupby("fold")["group"]:
        assert set(groups).isdisjoint(learned[2 * fold] | learned[2 * fold + 1])


def test_finders_that_are_known_are_not_fitted_again(packages: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scores, to the bit, from those of the training images; of one view, only that view's is kept."""
    train, test = (packages[packages["split"] == part] for part in ("train", "test"))
    own = replace(SMALL, steps=0)
    expected, _, _ = experiment.score_unseen(own, train, test, progress=False)
    finders = classifier.find_items(train, own, progress=False)

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr("mvtec_ad.methods.classifier.fitting.fit_finder", never)
    found, models, _ = experiment.score_unseen(own, train, test, finders=finders, progress=False)
    pd.testing.assert_frame_equal(found, expected)
    again, _, kept = experiment.score_unseen(own, train, test, finders=finders, resumable=False, progress=False)
    pd.testing.assert_frame_equal(again, expected)  # a run that keeps no checkpoint is the same run
    assert kept == []
    assert [list(model.finders) for model in models] == [["side"], ["top"]]
    whole = classifier.fit(replace(own, look="whole"), train, finders=finders, progress=False)
    assert whole.finders == {}


def test_trivial_rows_keep_the_order_and_the_view_apart(packages: pd.DataFrame) -> None:
    """Shuffled rows get the scores that they get in order."""
    train, test = (packages[packages["split"] == part] for part in ("train", "test"))
    mixed = test.sample(frac=1, random_state=0)
    rows = experiment.trivial_rows(train, mixed)
    assert rows.index.tolist() == mixed.index.tolist()
    only = experiment.trivial_rows(train, test[test["view"] == "top"])
    pd.testing.assert_frame_equal(rows.loc[only.index], only)


def test_the_file_gives_the_same_scores(packages: pd.DataFrame, tmp_path: Path) -> None:
    """To the bit, with a new last block and two finders; what is missing or cut off is one line."""
    model = classifier.fit(SMALL, packages[packages["split"] == "train"], progress=False)
    members = classifier.members(model, "package", "resnet18-all", threshold=0.5, metrics={"a": 1})
    keep = {"profile": "custom", "data_source": "rendered", "categories": ["package"], "options": {}, "seed": 0}
    path = artifacts.save("models", members, **keep, path=tmp_path / "models.zip")
    artifact = artifacts.load(path)
    assert classifier.names(artifact) == [("package", "resnet18-all")]
    again, description = classifier.restore(artifact, "package", "resnet18-all")
    test = packages[packages["split"] == "test"]
    np.testing.assert_array_equal(again.score(test), model.score(test))
    assert (description["threshold"], description["metrics"], again.temperature) == (0.5, {"a": 1}, model.temperature)
    assert again.curve["step"].tolist() == model.curve["step"].tolist()
    with pytest.raises(ArtifactError, match=r"no classifier package/other: it holds package/resnet18-all"):
        classifier.restore(artifact, "package", "other")
    del members["package/resnet18-all/0/model.safetensors"]
    broken = artifacts.load(artifacts.save("models", members, **keep, path=tmp_path / "broken.zip"))
    with pytest.raises(ArtifactError) as caught:
        classifier.restore(broken, "package", "resnet18-all")
    assert "\n" not in str(caught.value)
