"""Metrics of verdicts over several types against scikit-learn, scipy, brute force and numbers by hand."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine
from scipy.stats import ttest_1samp
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics import corrected_t, retrieval_map, silhouette, type_confusion, verdict_metrics

GENERATOR = np.random.default_rng(0)
NAMES = np.array(["bent", "hole", "scratch", "colour"], dtype=object)
TYPES = GENERATOR.choice(NAMES, 80, p=[0.5, 0.3, 0.15, 0.05])
PREDICTED = np.where(GENERATOR.random(80) < 0.6, TYPES, GENERATOR.choice(NAMES, 80))
WITH_UNKNOWN = np.where(GENERATOR.random(80) < 0.2, "unknown", PREDICTED)


def unit(rng, count, size=5):
    vectors = rng.normal(size=(count, size))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_verdicts_have_the_metrics_of_scikit_learn():
    measured = verdict_metrics(TYPES, PREDICTED)
    assert measured["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(TYPES, PREDICTED))
    assert measured["macro_f1"] == pytest.approx(f1_score(TYPES, PREDICTED, average="macro"))


@pytest.mark.parametrize(
    ("types", "predicted", "accuracy", "f1"),
    [
        ("aab", "aub", 0.75, (2 / 3 + 1) / 2),  # a name that is no true type is simply wrong
        ("ab", "uu", 0.0, 0.0),
        ("ab", "cb", 0.5, 0.5),
        ("aaab", "aaaa", 0.5, (6 / 7) / 2),  # a type that is never predicted counts as zero: not 0.75
        ("aa", "aa", 1.0, 1.0),
        ("babb", "azb0", (1 / 3 + 0) / 2, (2 / 4 + 0) / 2),
    ],
)
def test_verdicts_by_hand(types, predicted, accuracy, f1):
    expected = pytest.approx({"balanced_accuracy": accuracy, "macro_f1": f1})
    assert verdict_metrics(list(types), list(predicted)) == expected


def test_confusion_equals_scikit_learn_and_others_come_last():
    rows, columns, counts = type_confusion(TYPES, WITH_UNKNOWN)
    assert (rows, columns) == (sorted(NAMES), [*sorted(NAMES), "unknown"])
    np.testing.assert_array_equal(counts, confusion_matrix(TYPES, WITH_UNKNOWN, labels=columns)[:4])
    assert counts.dtype == np.int64
    rows, columns, counts = type_confusion(["b", "a", "b", "b"], ["a", "z", "b", "0"])
    assert (rows, columns) == (["a", "b"], ["a", "b", "0", "z"])  # of what is no type, sorted
    assert counts.tolist() == [[0, 0, 0, 1], [1, 1, 1, 0]]


@pytest.mark.parametrize("call", [verdict_metrics, type_confusion])
@pytest.mark.parametrize(
    ("types", "predicted"), [([], []), (["a"], []), (["a", "b"], ["a"]), ([["a", "b"]], [["a", "b"]])]
)
def test_lists_that_do_not_fit_are_refused(call, types, predicted):
    with pytest.raises(DataError, match=r"must be two lists of one length, not .*$"):
        call(types, predicted)


def average_precision(relevant, similarity):
    """Precision at each relevant image, most similar first; no two are equally similar."""
    ranked = np.asarray(relevant)[np.argsort(-similarity)]
    return np.mean([ranked[: rank + 1].mean() for rank in np.flatnonzero(ranked)])


def test_retrieval_equals_brute_force_with_each_type_counting_the_same():
    rng = np.random.default_rng(1)
    queries, gallery = unit(rng, 30), unit(rng, 40)
    types, others = rng.choice(NAMES, 30, p=[0.7, 0.1, 0.1, 0.1]), rng.choice(NAMES, 40)
    precision = {name: [] for name in set(types)}
    for query, name in zip(queries, types, strict=True):
        similarity = np.array([1 - cosine(query, other) for other in gallery])
        precision[name].append(average_precision(others == name, similarity))
    expected = np.mean([np.mean(values) for values in precision.values()])
    assert retrieval_map(queries, types, gallery, others) == pytest.approx(expected)
    assert expected != pytest.approx(np.mean(np.concatenate(list(precision.values()))))  # each image counting the same


def test_retrieval_by_hand():
    angles = np.radians([0, 10, 20, 30])
    gallery = np.stack([np.cos(angles), np.sin(angles)], 1)
    # From 0° the order is a, b, a, b: precision of a is (1/1 + 2/3) / 2, of b (1/2 + 2/4) / 2.
    assert retrieval_map(gallery[:1], ["a"], gallery, list("abab")) == pytest.approx(5 / 6)
    both = retrieval_map(gallery[[0, 0, 0]], ["a", "b", "b"], gallery, list("abab"))
    assert both == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert retrieval_map(gallery[:1], ["a"], gallery[[0, 0]], ["a", "b"]) == pytest.approx(1 / 2)  # a tie is no help
    assert retrieval_map(np.eye(3)[:1], ["bent"], np.eye(3), ["bent", "x", "y"]) == 1  # more than asked for will do
    with pytest.raises(DataError, match="type hole is not in the gallery"):
        retrieval_map(np.eye(3), ["bent", "hole", "scratch"], np.eye(3)[:2], ["bent", "scratch"])


def silhouette_by_loops(vectors, types):
    """(b − a) / max(a, b), 0 for one that is alone, averaged."""
    values = []
    for i, name in enumerate(types):
        apart = {
            other: [cosine(vectors[i], vectors[j]) for j in range(len(types)) if types[j] == other and j != i]
            for other in set(types)
        }
        if not apart[name]:
            values.append(0.0)
            continue
        a, b = np.mean(apart[name]), min(np.mean(distances) for other, distances in apart.items() if other != name)
        values.append((b - a) / max(a, b))
    return np.mean(values)


def test_silhouette_equals_brute_force_whatever_the_lengths():
    rng = np.random.default_rng(2)
    types = np.array([*(["a"] * 9), *(["b"] * 6), *(["c"] * 4), "alone"], dtype=object)
    vectors = unit(rng, 20) + 0.8 * np.eye(5)[[0] * 9 + [1] * 6 + [2] * 4 + [3]]
    expected = silhouette_by_loops(vectors, types)
    assert 0 < expected < 1
    assert silhouette(vectors * rng.uniform(0.1, 10, (20, 1)), types) == pytest.approx(expected)
    corners = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert silhouette(corners, list("abab")) == pytest.approx(-0.5)  # a = 1, b = (0 + 1) / 2
    for refused in (["a", "a", "a"], ["a", "b", "c"], []):
        with pytest.raises(DataError, match="a silhouette needs two or more types and more images than types"):
            silhouette(np.eye(3)[: len(refused)], refused)


def test_the_corrected_t_by_hand():
    # Values 0.5, 0.7, 0.9, 0.7: mean 0.7, variance 0.08 / 3; five folds test a fifth, so n_test / n_train is 1/4.
    reach = 3.182446 * np.sqrt((1 / 4 + 1 / 4) * 0.08 / 3)  # t with 3 degrees of freedom, from a table
    expected = pytest.approx({"mean": 0.7, "low": 0.7 - reach, "high": 0.7 + reach}, abs=1e-6)
    assert corrected_t([0.5, 0.7, 0.9, 0.7], 0.2) == expected
    assert corrected_t([0.5, np.nan, 0.7, 0.9, 0.7], 0.2) == expected
    assert corrected_t([0.25] * 4, 0.25) == {"mean": 0.25, "low": 0.25, "high": 0.25}


def test_the_corrected_t_is_wider_than_students_and_becomes_it():
    values = np.random.default_rng(3).normal(0.6, 0.1, 15)
    usual = ttest_1samp(values, 0).confidence_interval(0.95)
    same, wide = corrected_t(values, 1e-9), corrected_t(values, 1 / 3)
    assert (same["low"], same["high"]) == pytest.approx((usual.low, usual.high))
    ratio = np.sqrt((1 / 15 + 1 / 2) / (1 / 15))
    assert wide["high"] - wide["mean"] == pytest.approx(ratio * (usual.high - values.mean()))
    repeated = corrected_t(np.tile([0.4, 0.6], 5000), 0.5)  # s² is 0.01; repeats do not shrink what the overlap leaves
    assert repeated["high"] - repeated["mean"] == pytest.approx(1.96 * 0.1, rel=1e-3)


def test_the_corrected_t_needs_two_values_and_a_share():
    for values in ([], [0.5], [0.5, np.nan], [np.nan, np.nan]):
        with pytest.raises(DataError, match=r"needs two or more of them, not [01]"):
            corrected_t(values, 0.2)
    for share in (0.0, 1.0, -0.2, 1.5, np.nan):
        with pytest.raises(SettingsError, match="of tested images must lie between 0 and 1"):
            corrected_t([0.1, 0.2], share)
