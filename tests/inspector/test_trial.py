"""Classifier and inspector as rows of a table: the same test part, costs by hand, intervals that do not collapse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mvtec_ad import evaluation
from mvtec_ad.data import index, splits
from mvtec_ad.errors import SettingsError
from mvtec_ad.inspector import Band, trial
from mvtec_ad.inspector.opinion import joined
from mvtec_ad.settings import ClassifierSettings, InspectionSettings, PadimSettings

JUDGE = ClassifierSettings(weights="drawn", look="whole", image_size=64, pyramid=(1,), steps=0, seeds=(0, 1))
SECOND = PadimSettings(weights="drawn", image_size=64, crop=64, channels=8, sigma=1.0, seeds=(5,))
SMALL = InspectionSettings(second="padim", weights="drawn")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, make_category: Callable[..., Path]) -> pd.DataFrame:
    """A product with two types of defects."""
    root = make_category(tmp_path_factory.mktemp("images"), train=24, test_good=8, defects={"patch": 8, "spot": 8})
    return index.read_category(root, "part")


def test_the_classifier_is_a_row_like_every_other(table: pd.DataFrame) -> None:
    """Scores of the test part that every seed shares, maps of its size, metrics of those scores."""
    found = trial.run("classifier", table, JUDGE, data_source="own")
    cut = splits.supervised(table, seed=0)
    assert set(found.test["image_id"]) == set(cut.loc[cut["part"] == "test", "image_id"])
    assert [one.seed for one in found.trials] == [0, 1]
    by_hand = [roc_auc_score(found.labels, one.scores.image) for one in found.trials]
    assert found.report["metrics"]["image_auroc"]["mean"] == pytest.approx(np.mean(by_hand))
    assert found.report["protocol"] == "supervised"
    assert all(one.scores.maps.shape == (len(found.test), 64, 64) for one in found.trials)
    assert "pixel_auroc" in found.report["metrics"]
    assert set(found.scores_table()["image_id"]) == set(found.test["image_id"])


def test_the_inspector_asks_inside_its_band(table: pd.DataFrame) -> None:
    """Its scores follow from the classifier's, the band, and nothing else; its costs from its verdicts."""
    alone = trial.run("classifier", table, JUDGE, data_source="own")
    found = trial.run("inspector", table, JUDGE, data_source="own", inspection=SMALL, second=SECOND)
    verdicts = []
    for number, (one, own) in enumerate(zip(alone.trials, found.trials, strict=True)):
        band = Band.from_dict(found.report["bands"][number])
        assert band.width == min(band.costs, key=lambda width: (band.costs[width], width))
        logits = one.scores.image.astype(float)
        outside = ~band.unsure(logits)
        expected = [joined(logit, band) for logit in logits[outside]]
        assert own.scores.image[outside] == pytest.approx(expected, abs=1e-5)
        assert (np.abs(own.scores.image[~outside]) <= band.width).all()
        verdicts.append((logits > band.threshold, own.scores.image > 0))
    labels = found.labels.astype(bool)
    for way, name in ((0, "classifier"), (1, "inspector")):
        missed = np.mean([(labels & ~pair[way]).sum() for pair in verdicts])
        alarms = np.mean([(~labels & pair[way]).sum() for pair in verdicts])
        assert found.report["cost"][name]["mean"] == pytest.approx((10 * missed + alarms) / len(labels))


def test_the_difference_is_paired() -> None:
    """The interval of the difference is that of the differences, not of two independent costs."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    alone = rng.random(100) < 0.5
    both = alone.copy()
    both[60] = ~both[60]
    found = trial.cost_difference(labels, [(alone, both)], SMALL)
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
    found = trial.cost_difference(labels, [(calls, calls)], SMALL)
    unseen = 10 * (1 - evaluation.wilson(1.0, 20)[0])
    assert found["difference"] == pytest.approx({"mean": 0.0, "low": -unseen, "high": unseen})
    assert (found["classifier"]["low"], found["classifier"]["mean"]) == (0.0, 0.0)


def test_no_other_method(table: pd.DataFrame) -> None:
    """Its name is told."""
    with pytest.raises(SettingsError, match="'padim' is neither of classifier, inspector"):
        trial.run("padim", table, JUDGE, data_source="own")
