"""Image metrics against scikit-learn, pair counting and numbers derived by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from mvtec_ad.errors import DataError
from mvtec_ad.metrics import average_precision, f1_max, image_auroc

GENERATOR = np.random.default_rng(0)
LABELS = (GENERATOR.random(120) < 0.6).astype(int)
CONTINUOUS = GENERATOR.normal(size=120) + LABELS
TIED = np.round(CONTINUOUS)


def pairs_won(labels, scores):
    """The Mann–Whitney statistic, pair by pair."""
    defect, good = scores[labels == 1][:, None], scores[labels == 0][None]
    return ((defect > good) + 0.5 * (defect == good)).mean()


@pytest.mark.parametrize("scores", [CONTINUOUS, TIED, np.zeros(120)])
def test_auroc_and_average_precision_equal_their_definitions(scores):
    assert image_auroc(LABELS, scores) == pytest.approx(pairs_won(LABELS, scores), abs=1e-12)
    assert image_auroc(LABELS, scores) == pytest.approx(roc_auc_score(LABELS, scores), abs=1e-12)
    assert average_precision(LABELS, scores) == pytest.approx(average_precision_score(LABELS, scores), abs=1e-12)


@pytest.mark.parametrize("scores", [CONTINUOUS, TIED, np.zeros(120)])
def test_f1_max_is_the_best_of_all_thresholds_and_its_threshold_reaches_it(scores):
    below_all = scores.min() - 1
    best = max(f1_score(LABELS, scores > threshold) for threshold in [below_all, *np.unique(scores)[:-1]])
    f1, threshold = f1_max(LABELS, scores)
    assert f1 == pytest.approx(best, abs=1e-12)
    assert f1_score(LABELS, scores > threshold) == pytest.approx(best, abs=1e-12)


def test_numbers_derived_by_hand():
    labels, scores = [0, 1, 0, 1], [1.0, 2.0, 3.0, 4.0]
    assert image_auroc(labels, scores) == 3 / 4  # one of four pairs is lost
    assert average_precision(labels, scores) == pytest.approx((1 / 1 + 2 / 3) / 2)
    f1, threshold = f1_max(labels, scores)
    assert f1 == pytest.approx(2 * 2 / (2 * 2 + 1))  # flag all but the first: two hits, one false alarm
    assert threshold == 1.5


@pytest.mark.parametrize(
    "change", [lambda s: s + 30, lambda s: 1e6 + 1e-3 * s, lambda s: s * 1e300, lambda s: s * 1e-300]
)
def test_metrics_depend_on_the_order_only(change):
    scores = change(CONTINUOUS)
    assert len(np.unique(scores)) == 120  # the change itself must not make ties
    assert image_auroc(LABELS, scores) == image_auroc(LABELS, CONTINUOUS)
    assert average_precision(LABELS, scores) == average_precision(LABELS, CONTINUOUS)
    f1, threshold = f1_max(LABELS, scores)
    assert f1 == f1_max(LABELS, CONTINUOUS)[0]
    assert f1_score(LABELS, scores > threshold) == pytest.approx(f1)


def test_scores_near_thirty_are_not_squashed():
    labels = np.repeat([0, 1], 50)
    scores = np.concatenate([np.linspace(23, 25, 50), np.linspace(29, 31, 50)]).astype(np.float32)
    assert image_auroc(labels, scores) == 1.0  # a sigmoid in float32 ties all of them at 1.0: 0.5


def test_the_threshold_between_neighbouring_floats_keeps_the_verdicts():
    upper = np.nextafter(1.0, 2.0)
    f1, threshold = f1_max([0, 1], [1.0, upper])
    assert f1 == 1.0
    assert 1.0 <= threshold < upper


@pytest.mark.parametrize("metric", [image_auroc, average_precision, f1_max])
@pytest.mark.parametrize(("label", "present", "absent"), [(0, "good", "defective"), (1, "defective", "good")])
def test_one_class_says_which_class_is_missing(metric, label, present, absent):
    with pytest.raises(DataError, match=f"all 3 test images are {present}; add {absent} images"):
        metric([label] * 3, [1.0, 2.0, 3.0])


def test_what_is_not_a_score_or_a_label_is_refused():
    with pytest.raises(DataError, match="score of image 1 is nan"):
        image_auroc([0, 1], [1.0, np.nan])
    with pytest.raises(DataError, match="2 scores need 2 labels"):
        image_auroc([0, 1, 1], [1.0, 2.0])
    with pytest.raises(DataError, match="labels must be 0"):
        image_auroc([0, 2], [1.0, 2.0])
    with pytest.raises(DataError, match="one number per image"):
        image_auroc([], [])
