"""Metrics of verdicts over several types against scikit-learn, scipy, brute force and numbers by hand."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine
from scipy.stats import t as student
from scipy.stats import ttest_1samp
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics import corrected_t, retrieval_map, silhouette, type_confusion, verdict_metrics

GENERATOR = np.random.default_rng(0)
NAMES = np.array(["bent", "hole", "scratch", "colour"], dtype=object)
TYPES = GENERATOR.choice(NAMES, 80, p=[0.5, 0.3, 0.15, 0.05])
SAID = np.where(GENERATOR.random(80) < 0.6, TYPES, GENERATOR.choice(NAMES, 80))
WITH_UNKNOWN = np.where(GENERATOR.random(80) < 0.2, "unknown", SAID)


def unit(rng, count, size=5):
    vectors = rng.normal(size=(count, size))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_counting(types, said):
    """Mean recall and mean F1 of the true types, from counts."""
    pairs = list(zip(types, said, strict=True))
    recalls, f1s = [], []
    for name in set(types):
        hits = sum(1 for one, other in pairs if one == other == name)
        true, called = sum(1 for one, _ in pairs if one == name), sum(1 for _, other in pairs if other == name)
        recalls.append(hits / true)
        f1s.append(2 * hits / (true + called))
    return {"balanced_accuracy": pytest.approx(np.mean(recalls)), "macro_f1": pytest.approx(np.mean(f1s))}


def test_verdicts_have_the_metrics_of_scikit_learn():
    found = verdict_metrics(TYPES, SAID)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(TYPES, SAID))
    assert found["macro_f1"] == pytest.approx(f1_score(TYPES, SAID, average="macro"))


def test_a_name_that_is_no_true_type_is_simply_wrong():
    assert verdict_metrics(TYPES, WITH_UNKNOWN) == by_counting(TYPES, WITH_UNKNOWN)
    assert verdict_metrics(["a", "a", "b"], ["a", "unknown", "b"])["balanced_accuracy"] == pytest.approx(0.75)
    assert verdict_metrics(["a", "b"], ["unknown", "unknown"]) == {"balanced_accuracy": 0.0, "macro_f1": 0.0}
    assert verdict_metrics(["a", "b"], ["c", "b"]) == {"balanced_accuracy": 0.5, "macro_f1": 0.5}


def test_a_type_that_is_never_said_counts_as_zero_and_one_type_will_do():
    assert verdict_metrics(["a", "a", "a", "b"], ["a"] * 4) == by_counting(["a", "a", "a", "b"], ["a"] * 4)
    assert verdict_metrics(["a", "a", "a", "b"], ["a"] * 4)["balanced_accuracy"] == 0.5  # not 0.75
    assert verdict_metrics(["a", "a"], ["a", "a"]) == {"balanced_accuracy": 1.0, "macro_f1": 1.0}


def test_confusion_equals_scikit_learn_and_others_come_last():
    rows, columns, counts = type_confusion(TYPES, WITH_UNKNOWN)
    assert rows == sorted(NAMES)
    assert columns == [*sorted(NAMES), "unknown"]
    expected = confusion_matrix(TYPES, WITH_UNKNOWN, labels=columns)
    np.testing.assert_array_equal(counts, expected[:4])
    assert counts.sum() == 80
    assert counts.dtype == np.int64


def test_confusion_by_hand():
    rows, columns, counts = type_confusion(["b", "a", "b", "b"], ["a", "z", "b", "0"])
    assert (rows, columns) == (["a", "b"], ["a", "b", "0", "z"])  # of what is no type, sorted
    assert counts.tolist() == [[0, 0, 0, 1], [1, 1, 1, 0]]
    recalls = counts[:, :2].diagonal() / counts.sum(1)
    assert verdict_metrics(["b", "a", "b", "b"], ["a", "z", "b", "0"])["balanced_accuracy"] == pytest.approx(
        recalls.mean()
    )


@pytest.mark.parametrize("call", [verdict_metrics, type_confusion])
@pytest.mark.parametrize(("types", "said"), [([], []), (["a"], []), (["a", "b"], ["a"]), ([["a", "b"]], [["a", "b"]])])
def test_lists_that_do_not_fit_are_refused(call, types, said):
    with pytest.raises(DataError, match="must be two lists of one length, not") as problem:
        call(types, said)
    assert "\n" not in str(problem.value)


def average_precision(relevant, likeness):
    """Precision at each relevant image, most similar first; no two are equally similar."""
    ranked = np.asarray(relevant)[np.argsort(-likeness)]
    return np.mean([ranked[: place + 1].mean() for place in np.flatnonzero(ranked)])


def test_retrieval_equals_brute_force_with_each_type_counting_the_same():
    rng = np.random.default_rng(1)
    queries, gallery = unit(rng, 30), unit(rng, 40)
    own, theirs = rng.choice(NAMES, 30, p=[0.7, 0.1, 0.1, 0.1]), rng.choice(NAMES, 40)
    precision = {name: [] for name in set(own)}
    for query, name in zip(queries, own, strict=True):
        likeness = np.array([1 - cosine(query, other) for other in gallery])
        precision[name].append(average_precision(theirs == name, likeness))
    expected = np.mean([np.mean(values) for values in precision.values()])
    assert retrieval_map(queries, own, gallery, theirs) == pytest.approx(expected)
    assert expected != pytest.approx(np.mean(np.concatenate(list(precision.values()))))  # each image counting the same


def test_retrieval_by_hand():
    angles = np.radians([0, 10, 20, 30])
    gallery = np.stack([np.cos(angles), np.sin(angles)], 1)
    # From 0° the order is a, b, a, b: precision of a is (1/1 + 2/3) / 2, of b (1/2 + 2/4) / 2.
    assert retrieval_map(gallery[:1], ["a"], gallery, list("abab")) == pytest.approx(5 / 6)
    assert retrieval_map(gallery[:1], ["b"], gallery, list("abab")) == pytest.approx(1 / 2)
    both = retrieval_map(gallery[[0, 0, 0]], ["a", "b", "b"], gallery, list("abab"))
    assert both == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert retrieval_map(gallery[:1], ["a"], gallery[[0, 0]], ["a", "b"]) == pytest.approx(1 / 2)  # a tie is no help
    assert retrieval_map(gallery, list("aabb"), gallery, list("aabb")) > retrieval_map(
        gallery, list("aabb"), gallery, list("abab")
    )


def test_a_type_that_the_gallery_lacks_is_named():
    with pytest.raises(DataError, match="type hole is not in the gallery") as problem:
        retrieval_map(np.eye(3), ["bent", "hole", "scratch"], np.eye(3)[:2], ["bent", "scratch"])
    assert "\n" not in str(problem.value)
    assert retrieval_map(np.eye(3)[:1], ["bent"], np.eye(3), ["bent", "x", "y"]) == 1  # more than asked for will do


def silhouette_by_loops(vectors, types):
    """(b − a) / max(a, b), 0 for one that is alone, averaged."""
    found = []
    for i, name in enumerate(types):
        apart = {
            other: [cosine(vectors[i], vectors[j]) for j in range(len(types)) if types[j] == other and j != i]
            for other in set(types)
        }
        if not apart[name]:
            found.append(0.0)
            continue
        a, b = np.mean(apart[name]), min(np.mean(values) for other, values in apart.items() if other != name)
        found.append((b - a) / max(a, b))
    return np.mean(found)


def test_silhouette_equals_brute_force_whatever_the_lengths():
    rng = np.random.default_rng(2)
    types = np.array([*(["a"] * 9), *(["b"] * 6), *(["c"] * 4), "alone"], dtype=object)
    vectors = unit(rng, 20) + 0.8 * np.eye(5)[[0] * 9 + [1] * 6 + [2] * 4 + [3]]
    expected = silhouette_by_loops(vectors, types)
    assert 0 < expected < 1
    assert silhouette(vectors, types) == pytest.approx(expected)
    assert silhouette(vectors * rng.uniform(0.1, 10, (20, 1)), types) == pytest.approx(expected)
    assert silhouette(vectors, np.roll(types, 5)) < expected


def test_silhouette_by_hand():
    corners = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert silhouette(corners, list("aabb")) == pytest.approx(1)
    assert silhouette(corners, list("abab")) == pytest.approx(-0.5)  # a = 1, b = (0 + 1) / 2


@pytest.mark.parametrize("types", [["a", "a", "a"], ["a", "b", "c"], []])
def test_a_silhouette_needs_two_types_and_more_images(types):
    with pytest.raises(DataError, match="a silhouette needs two or more types and more images than types") as problem:
        silhouette(np.eye(3)[: len(types)], types)
    assert "\n" not in str(problem.value)


def test_the_corrected_t_by_hand():
    # Values 0.5, 0.7, 0.9, 0.7: mean 0.7, variance 0.08 / 3; five folds test a fifth, so n_test / n_train is 1/4.
    found = corrected_t([0.5, 0.7, 0.9, 0.7], 0.2)
    reach = 3.182446 * np.sqrt((1 / 4 + 1 / 4) * 0.08 / 3)  # t with 3 degrees of freedom, from a table
    assert found == pytest.approx({"mean": 0.7, "low": 0.7 - reach, "high": 0.7 + reach}, abs=1e-6)


def test_the_corrected_t_is_wider_than_students_and_becomes_it():
    values = np.random.default_rng(3).normal(0.6, 0.1, 15)
    usual = ttest_1samp(values, 0).confidence_interval(0.95)
    found = corrected_t(values, 1e-9)
    assert (found["low"], found["high"]) == pytest.approx((usual.low, usual.high))
    wide = corrected_t(values, 1 / 3)
    ratio = np.sqrt((1 / 15 + 1 / 2) / (1 / 15))
    assert wide["high"] - wide["mean"] == pytest.approx(ratio * (usual.high - values.mean()))
    assert wide["mean"] - wide["low"] == pytest.approx(wide["high"] - wide["mean"])


def test_repeats_do_not_shrink_the_corrected_interval_below_what_the_overlap_leaves():
    values = np.tile([0.4, 0.6], 5000)  # s² is 0.01
    found = corrected_t(values, 0.5)
    assert found["high"] - found["mean"] == pytest.approx(student.ppf(0.975, 9999) * 0.1, rel=1e-3)


def test_values_that_are_missing_are_left_out_and_equal_ones_have_no_width():
    assert corrected_t([0.1, np.nan, 0.4, 0.7], 0.25) == corrected_t([0.1, 0.4, 0.7], 0.25)
    assert corrected_t([0.25] * 4, 0.25) == {"mean": 0.25, "low": 0.25, "high": 0.25}


@pytest.mark.parametrize("values", [[], [0.5], [0.5, np.nan], [np.nan, np.nan]])
def test_an_interval_needs_two_values(values):
    with pytest.raises(DataError, match=r"needs two or more of them, not [01]") as problem:
        corrected_t(values, 0.2)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, 1.5, np.nan])
def test_the_share_that_is_tested_lies_between_0_and_1(share):
    with pytest.raises(SettingsError, match="of tested images must lie between 0 and 1") as problem:
        corrected_t([0.1, 0.2], share)
    assert "\n" not in str(problem.value)
