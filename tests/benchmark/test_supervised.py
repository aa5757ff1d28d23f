"""Classifier and inspector as rows of a table: the same test part, costs by hand, intervals that do not collapse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mvtec_ad import metrics
from mvtec_ad.benchmark import Result, supervised
from mvtec_ad.data import index, splits
from mvtec_ad.errors import SettingsError
from mvtec_ad.inspection import InspectionOptions, RejectBand
from mvtec_ad.inspection.second_opinion import combined_score
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.methods.padim import Padim

MODEL = Classifier(backbone="resnet18", weights="synthetic", roi="whole", image_size=64, pyramid=(1,), steps=0)
SECOND = Padim(backbone="resnet18", weights="synthetic", image_size=64, crop=64, channels=8, sigma=1.0)
SMALL = InspectionOptions(second="padim", backbone="resnet18", weights="synthetic")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, make_category: Callable[..., Path]) -> pd.DataFrame:
    """A product with two types of defects."""
    root = make_category(tmp_path_factory.mktemp("images"), train=24, test_good=8, defects={"patch": 8, "spot": 8})
    return index.read_category(root, "part")


@pytest.fixture(scope="module")
def alone(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The classifier, measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MVTEC_AD_HOME", str(tmp_path_factory.mktemp("home")))
        return supervised.run("classifier", table, MODEL, (0, 1), data_source="own")


def test_the_classifier_is_a_row_like_every_other(table: pd.DataFrame, alone: Result, tmp_path: Path) -> None:
    """Scores of the test part that every seed shares, maps of its size, metrics of those scores; and a file."""
    cut = splits.supervised(table, seed=0)
    assert set(alone.table["image_id"]) == set(cut.loc[cut["part"] == "test", "image_id"])
    assert alone.seeds == (0, 1)
    by_hand = [roc_auc_score(alone.labels, scores) for scores in alone.scores]
    assert alone.report["metrics"]["image_auroc"]["mean"] == pytest.approx(np.mean(by_hand))
    assert (alone.protocol, alone.method, alone.report["thresholds"]) == ("supervised", "classifier", {})
    assert (alone.report["settings"], MODEL.seed) == (MODEL.options(), None)
    assert all(maps.shape == alone.masks.shape == (len(alone.table), 64, 64) for maps in alone.maps.values())
    assert "pixel_auroc" in alone.report["metrics"]
    assert min(alone.report["seconds"].values()) > 0
    again = Result.load(alone.save(tmp_path / "classifier.zip"))
    np.testing.assert_array_equal(again.masks, alone.masks)
    assert again.name == "part: classifier"


def test_the_inspector_asks_inside_its_band(table: pd.DataFrame, alone: Result, own_home: Path) -> None:
    """Its scores follow from the classifier's, the band, and nothing else; its costs from its verdicts."""
    options = {"data_source": "own", "inspection": SMALL, "second": SECOND, "row": "inspector-padim"}
    found = supervised.run("inspector", table, MODEL, (0, 1), **options)
    assert (found.row, found.report["second"], found.maps, found.masks) == ("inspector-padim", "padim", {}, None)
    assert SECOND.seed is None
    verdicts = []
    for number, own in enumerate(found.scores):
        band = RejectBand.from_dict(found.report["bands"][number])
        assert band.width == min(band.costs, key=lambda width: (band.costs[width], width))
        logits = alone.scores[number].astype(float)
        outside = ~band.unsure(logits)
        assert own[outside] == pytest.approx([combined_score(logit, band) for logit in logits[outside]], abs=1e-5)
        assert (np.abs(own[~outside]) <= band.width).all()
        verdicts.append((logits > band.threshold, own > 0))
        np.testing.assert_array_equal(found.report["verdicts"][number], verdicts[-1])
    labels = found.labels.astype(bool)
    for way, name in ((0, "classifier"), (1, "inspector")):
        missed = np.mean([(labels & ~pair[way]).sum() for pair in verdicts])
        alarms = np.mean([(~labels & pair[way]).sum() for pair in verdicts])
        assert found.report["mistakes"][name]["mean"] == pytest.approx((10 * missed + alarms) / len(labels))
    assert list((own_home / "transfer" / "checkpoints").iterdir()) == []


def test_the_difference_is_paired() -> None:
    """The interval of the difference is that of the differences, not of two independent costs."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    alone = rng.random(100) < 0.5
    both = alone.copy()
    both[60] = ~both[60]
    found = supervised.cost_difference(labels, [(alone, both)], SMALL)
    sign = 10 if alone[60] else -10  # one defect more, or less, that passes
    assert found["difference"]["mean"] == pytest.approx(sign / 100)
    wide = found["classifier"]["high"] - found["classifier"]["low"]
    assert found["difference"]["high"] - found["difference"]["low"] < wide / 2
    drawn = np.random.default_rng(0).multinomial(50, np.full(50, 0.02), 100_000)[:, 10] * sign / 100
    ends = (found["difference"]["low"], found["difference"]["high"])
    assert ends == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.011)


def test_no_difference_is_no_proof_of_none() -> None:
    """Where no verdict differs the interval is what could have stayed unseen."""
    labels, calls = np.array([0, 1] * 10), np.array([False, True] * 10)
    found = supervised.cost_difference(labels, [(calls, calls)], SMALL)
    unseen = 10 * (1 - metrics.wilson(1.0, 20)[0])
    assert found["difference"] == pytest.approx({"mean": 0.0, "low": -unseen, "high": unseen})
    assert (found["classifier"]["low"], found["classifier"]["mean"]) == (0.0, 0.0)


def test_no_other_method_and_no_seed_twice(table: pd.DataFrame) -> None:
    """Its name is told."""
    with pytest.raises(SettingsError, match="'padim' is neither of classifier, inspector"):
        supervised.run("padim", table, MODEL, data_source="own")
    with pytest.raises(SettingsError, match="seed 1 is given 2 times"):
        supervised.run("classifier", table, MODEL, (1, 1), data_source="own")
