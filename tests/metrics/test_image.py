"""Image metrics against scikit-learn, pair counting, a search over all thresholds and numbers derived by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics import average_precision, f1_max, false_alarms_at, image_auroc, oracle

GENERATOR = np.random.default_rng(0)
LABELS = (GENERATOR.random(120) < 0.6).astype(int)
CONTINUOUS = GENERATOR.normal(size=120) + LABELS
TIED = np.round(CONTINUOUS)


def pairs_won(labels, scores):
    """The Mann–Whitney statistic, pair by pair."""
    defect, good = scores[labels == 1][:, None], scores[labels == 0][None]
    return ((defect > good) + 0.5 * (defect == good)).mean()


def false_alarms_by_search(labels, scores, detection):
    """Try every score as a threshold, from the highest down."""
    for threshold in sorted(set(scores), reverse=True):
        if (scores[labels == 1] >= threshold).sum() >= detection * labels.sum() - 1e-9:
            return (scores[labels == 0] >= threshold).mean()
    raise AssertionError("the lowest score finds every defect")


@pytest.mark.parametrize("scores", [CONTINUOUS, TIED, np.zeros(120)])
def test_metrics_equal_their_definitions(scores):
    assert image_auroc(LABELS, scores) == pytest.approx(pairs_won(LABELS, scores), abs=1e-12)
    assert image_auroc(LABELS, scores) == pytest.approx(roc_auc_score(LABELS, scores), abs=1e-12)
    assert average_precision(LABELS, scores) == pytest.approx(average_precision_score(LABELS, scores), abs=1e-12)
    below_all = scores.min() - 1
    best = max(f1_score(LABELS, scores > threshold) for threshold in [below_all, *np.unique(scores)[:-1]])
    f1, threshold = f1_max(LABELS, scores)
    assert f1 == pytest.approx(best, abs=1e-12)
    assert f1_score(LABELS, scores > threshold) == pytest.approx(best, abs=1e-12)
    assert oracle(LABELS, scores) == threshold


@pytest.mark.parametrize("detection", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("tied", [False, True])
def test_false_alarms_equal_a_search(detection, tied):
    """Any mixture of classes, with and without ties."""
    for _ in range(40):
        defects, good = GENERATOR.integers(1, 30, 2)
        labels = GENERATOR.permutation(np.repeat([0, 1], [good, defects]))
        scores = GENERATOR.normal(size=good + defects) + labels
        scores = np.round(scores) if tied else scores
        expected = false_alarms_by_search(labels, scores, detection)
        assert false_alarms_at(labels, scores, detection) == pytest.approx(expected)


def test_numbers_derived_by_hand():
    labels, scores = [0, 1, 0, 1], [1.0, 2.0, 3.0, 4.0]
    assert image_auroc(labels, scores) == 3 / 4  # one of four pairs is lost
    assert average_precision(labels, scores) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert f1_max(labels, scores) == pytest.approx((2 * 2 / (2 * 2 + 1), 1.5))  # two hits, one false alarm
    # Twenty defects: 19 must be found, so the weakest may be missed; a tie is a false alarm; a constant costs all.
    labels, defects = np.repeat([0, 1], [4, 20]), np.arange(1.0, 21)
    assert false_alarms_at(labels, [0, 1.5, 2, 3, *defects]) == 0.5  # threshold 2: the tie counts
    assert false_alarms_at(labels, [0, 1.5, 2, 3, *defects], detection=1.0) == 0.75  # threshold 1
    assert false_alarms_at(labels, np.ones(24)) == 1.0
    assert false_alarms_at(labels, labels * 1.0) == 0.0
    assert false_alarms_at([0, 1], [1e300, -1e300]) == 1.0


@pytest.mark.parametrize(
    "change", [lambda s: s + 30, lambda s: 1e6 + 1e-3 * s, lambda s: s * 1e300, lambda s: s * 1e-300]
)
def test_metrics_depend_on_the_order_only(change):
    scores = change(CONTINUOUS)
    assert len(np.unique(scores)) == 120  # the change itself must not make ties
    for metric in (image_auroc, average_precision, false_alarms_at):
        assert metric(LABELS, scores) == metric(LABELS, CONTINUOUS)
    f1, threshold = f1_max(LABELS, scores)
    assert f1 == f1_max(LABELS, CONTINUOUS)[0]
    assert f1_score(LABELS, scores > threshold) == pytest.approx(f1)


def test_what_rounding_could_spoil():
    labels = np.repeat([0, 1], 50)
    scores = np.concatenate([np.linspace(23, 25, 50), np.linspace(29, 31, 50)]).astype(np.float32)
    assert image_auroc(labels, scores) == 1.0  # a sigmoid in float32 ties all of them at 1.0: 0.5
    upper = np.nextafter(1.0, 2.0)
    f1, threshold = f1_max([0, 1], [1.0, upper])
    assert f1 == 1.0
    assert 1.0 <= threshold < upper
    for defects in range(1, 60):  # scikit-learn's sum can be one unit in the last place above 1
        assert average_precision(np.repeat([0, 1], [6, defects]), np.arange(6.0 + defects)) <= 1.0


@pytest.mark.parametrize("metric", [image_auroc, average_precision, f1_max, false_alarms_at])
def test_what_is_not_a_score_or_a_label_is_refused(metric):
    refused = [
        ([0, 0, 0], [1.0, 2.0, 3.0], "all 3 test images are good; add defective images"),
        ([1, 1, 1], [1.0, 2.0, 3.0], "all 3 test images are defective; add good images"),
        ([0, 1], [1.0, np.nan], "score of image 1 is nan"),
        ([0, 1, 1], [1.0, 2.0], "2 scores need 2 labels"),
        ([0, 2], [1.0, 2.0], "labels must be 0"),
        ([], [], "one number per image"),
    ]
    for labels, scores, message in refused:
        with pytest.raises(DataError, match=message):
            metric(labels, scores)


@pytest.mark.parametrize("detection", [0.0, -0.1, 1.1, np.nan])
def test_a_share_outside_of_its_range_is_refused(detection):
    with pytest.raises(SettingsError, match=r"for example 0\.95"):
        false_alarms_at([0, 1], [1.0, 2.0], detection)
