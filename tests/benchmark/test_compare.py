"""Every method before the same images: metrics at each row's own size, differences of all pairs, costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from mvtec_ad import artifacts, metrics
from mvtec_ad.benchmark import Result, compare, metrics_table
from mvtec_ad.benchmark.result import PROMISE
from mvtec_ad.data import index, loading, splits
from mvtec_ad.errors import DataError, SettingsError

GENERATOR = np.random.default_rng(0)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, make_category: Callable[..., Path]) -> pd.DataFrame:
    """Ten good test images and twice six defective ones."""
    root = make_category(tmp_path_factory.mktemp("root"), test_good=10, defects={"dent": 6, "patch": 6})
    return index.read_category(root, "part")


@pytest.fixture(scope="module")
def images(table: pd.DataFrame) -> pd.DataFrame:
    """The official test images."""
    return table[table["split"] == "test"].reset_index(drop=True)


def make_row(images: pd.DataFrame, name: str, scores: np.ndarray, **changes: Any) -> Result:
    """A result as far as a comparison reads it."""
    report = {
        "method": "padim",
        "row": name,
        "category": "part",
        "data_source": "own",
        "protocol": "official",
        "seeds": list(range(len(scores))),
        "images": {"train": 8, "good": 10, "defective": 12},
        "settings": {},
        "metrics": {},
        "seconds": {"fit": 8.0, "score": 0.44},
        "peak_memory_gb": 1.5,
        "model_bytes": 2_500_000,
        "profile": "quick",
        "device": "cpu",
    }
    known = {"table": images, "seeds": tuple(report["seeds"]), "scores": np.asarray(scores, dtype=float), "maps": {}}
    return Result(**(known | {"masks": None, "good_scores": {}, "report": report} | changes))


def contest(images: pd.DataFrame) -> list[Result]:
    """A good row, a slightly different one, and one that knows nothing."""
    generator = np.random.default_rng(1)
    base = generator.normal(size=(2, len(images))) + 3 * images["label"].to_numpy()
    return [
        make_row(images, "good", base),
        make_row(images, "similar", base[:1] + 0.1 * generator.normal(size=len(images))),
        make_row(images, "blind", generator.normal(size=(1, len(images)))),
    ]


def test_the_common_part_is_the_supervised_test_part(table: pd.DataFrame) -> None:
    """All of it lies in the official test folder, with both classes and every type."""
    ids = compare.common_part(table)
    cut = splits.supervised(table, seed=0)
    assert ids == list(cut[cut["part"] == "test"]["image_id"])
    part = table.set_index("image_id").loc[ids]
    assert set(part["split"]) == {"test"}
    assert set(part["defect"]) == {"good", "dent", "patch"}
    assert compare.common_part(table, seed=1) != ids


def test_measured_like_scikit_learn(images: pd.DataFrame) -> None:
    """Image metrics over all seeds, pixel metrics over those with maps; F1 stands beside its floor."""
    labels, masks = images["label"].to_numpy(), loading.load_masks(images, 40, 32)
    scores = GENERATOR.normal(size=(2, len(images))) + labels
    maps = (GENERATOR.random(masks.shape) + masks).astype(np.float16)
    row = make_row(images, "a", scores, maps={1: maps}, masks=masks)
    values = compare.measure(row, resamples=50)
    assert values["image_auroc"]["values"] == pytest.approx([roc_auc_score(labels, s) for s in scores])
    assert values["image_ap"]["mean"] == pytest.approx(np.mean([average_precision_score(labels, s) for s in scores]))
    assert values["f1_max"]["floor"] == pytest.approx(24 / 34)  # 12 defects, 10 good images
    assert values["f1_max"]["mean"] >= values["f1_max"]["floor"]
    assert len(values["false_alarms"]["values"]) == 2
    assert values["pixel_auroc"]["values"] == pytest.approx([roc_auc_score(masks.ravel(), maps.ravel())])
    assert len(values["au_pro"]["values"]) == 1
    for less in ({"maps": {}}, {"masks": None}):
        assert set(compare.measure(replace(row, **less), 50)) == {"image_auroc", "image_ap", "f1_max", "false_alarms"}
    with pytest.raises(DataError, match="shape"):
        compare.measure(replace(row, masks=masks[:, :16]))


def test_defect_types_against_all_good_images(images: pd.DataFrame) -> None:
    """Each type alone, with Newcombe's interval for its few images."""
    scores = GENERATOR.normal(size=(2, len(images)))
    values = compare.by_defect([make_row(images, "a", scores), make_row(images, "b", -scores)])
    assert list(values["row"]) == ["a", "a", "b", "b"]
    assert list(values["defect"]) == ["dent", "patch"] * 2
    kept = images["defect"].isin(["good", "patch"]).to_numpy()
    expected = np.mean([roc_auc_score(images["label"][kept], s[kept]) for s in scores])
    line = values.iloc[1]
    assert (line["images"], line["seeds"]) == (6, 2)
    assert line["mean"] == pytest.approx(expected)
    assert (line["low"], line["high"]) == pytest.approx(metrics.newcombe(expected, 6, 10))
    assert values.iloc[3]["mean"] == pytest.approx(1 - expected)
    good = make_row(images, "a", scores).only(list(images["image_id"][images["label"] == 0]))
    with pytest.raises(DataError, match="part: a has no AUROC by defect type"):
        compare.by_defect([good])


def test_costs_are_those_of_one_seed_and_one_image(images: pd.DataFrame) -> None:
    """8 s and .44 s for two seeds and 22 images, whatever part of them is looked at; what nobody measured is nan."""
    row = make_row(images, "a", np.zeros((2, 22)))
    expected = {"fit_seconds": 4.0, "milliseconds": 10.0, "memory_gb": 1.5, "model_mb": 2.5}
    assert compare.cost(row) == pytest.approx(expected)
    assert compare.cost(row.only(images["image_id"][:5])) == pytest.approx(expected)
    assert all(np.isnan(value) for value in compare.cost(replace(row, report={"seeds": [0]})).values())


def test_a_table_of_metrics_ends_with_the_best_row_that_needs_no_model(images: pd.DataFrame) -> None:
    """A column per result, with intervals, and what the threshold promised."""
    report = {"metrics": {"au_pro": {"mean": 0.5, "low": 0.25, "high": 1.0}}, "trivial": {"mean": 0.4, "z": 0.75}}
    report |= {"false_alarm_rate": 0.1, "images": {"good": 10}, "thresholds": {"calibrated": {"false_alarm_rate": 0.5}}}
    table = metrics_table({"a": make_row(images, "a", np.zeros((1, 22)), report=report)})
    assert table["a"].to_dict() == {
        "au_pro": ".500 [.250, 1.000]",
        PROMISE: "10 % → .500 [.237, .763] of 10",
        "best trivial row": ".750 (z)",
    }


def test_trivial_rows_are_those_of_the_methods_room(table: pd.DataFrame) -> None:
    """Five rows of all test images; the one with maps scores by their peak, and has masks of their size."""
    values = {row.row: row for row in compare.trivial(table, data_source="own", profile="quick")}
    names = ["all_defective", "mean_intensity", "mean_intensity_inverted", "distance_to_mean", "pixel_z_score"]
    assert list(values) == names
    mean = values["distance_to_mean"]
    np.testing.assert_allclose(mean.scores[0], mean.maps[0].reshape(len(mean.labels), -1).max(1), rtol=1e-3)
    assert [name for name, row in values.items() if row.maps] == ["distance_to_mean"]
    np.testing.assert_array_equal(mean.masks, loading.load_masks(mean.table, mean.maps[0].shape[-1]))
    assert compare.measure(values["all_defective"])["image_auroc"]["mean"] == 0.5
    assert compare.measure(mean, resamples=20)["pixel_auroc"]["mean"] > 0.9  # bright patches on rippled parts
    assert (mean.method, mean.report["profile"], mean.data_source) == ("trivial", "quick", "own")
    assert mean.report["thresholds"] == {}


@pytest.mark.parametrize("metric", ["image_auroc", "image_ap", "f1_max", "false_alarms"])
def test_all_pairs_on_the_same_resamples(images: pd.DataFrame, metric: str) -> None:
    """Difference, interval and p-value from a loop over resamples, seeds averaged before the difference."""
    rows = contest(images)
    values = compare.paired(rows, metric, resamples=400).set_index(["first", "second"])
    weights = metrics.resample_weights(rows[0].labels, 400)
    assert list(values.index) == list(itertools.combinations(["good", "similar", "blind"], 2))
    for first, other in itertools.combinations(rows, 2):
        drawn = [
            np.mean([metrics.resampled_ranking(r.labels, s, weights)[metric] for s in r.scores], axis=0)
            for r in (first, other)
        ]
        gap = drawn[0] - drawn[1]
        line = values.loc[first.row, other.row]
        means = [compare.measure(r)[metric]["mean"] for r in (first, other)]
        assert line["mean"] == pytest.approx(means[0] - means[1])
        assert line["low"] == pytest.approx(min(np.quantile(gap, 0.025), line["mean"]))
        assert line["high"] == pytest.approx(max(np.quantile(gap, 0.975), line["mean"]))
        worse = min((gap < 1e-12).sum(), (gap > -1e-12).sum())
        assert line["p"] == pytest.approx(min(1, 2 * (worse + 1) / 401))
        assert line["differs"] == (line["low"] > 0 or line["high"] < 0)
    np.testing.assert_allclose(values["p_holm"], compare.holm(values["p"]))


def test_the_winner_is_named_and_equals_are_not(images: pd.DataFrame) -> None:
    """The blind row loses twice, also after Holm; the other two share the place."""
    pairs = compare.paired(contest(images))
    values = compare.wins(pairs)
    assert values.loc["blind"].to_dict() == {"beats": 0, "beaten_by": 2, "beats_holm": 0, "beaten_by_holm": 2}
    assert list(values.loc["good"]) == list(values.loc["similar"]) == [1, 0, 1, 0]
    turned = compare.wins(pairs, lower_is_better=True)
    assert turned.loc["blind", "beats"] == 2
    assert turned.index[0] == "blind"


def test_places_are_compared_too_at_different_sizes(images: pd.DataFrame) -> None:
    """Maps of 32 and of 16 pixels; rows without maps or masks are left out; a row minus itself is no difference."""
    fine, coarse = loading.load_masks(images, 40, 32), loading.load_masks(images, 16)
    scores = np.zeros((1, len(images)))
    sharp = (0.3 * GENERATOR.random(fine.shape) + fine).astype(np.float16)
    blind = GENERATOR.random(coarse.shape).astype(np.float16)
    rows = [
        make_row(images, "sharp", scores, maps={0: sharp}, masks=fine),
        make_row(images, "no maps", scores),
        make_row(images, "no masks", scores, maps={0: sharp}),
        make_row(images, "blind", scores, maps={0: blind}, masks=coarse),
        make_row(images, "copy", scores, maps={0: sharp}, masks=fine),
    ]
    for metric in ("pixel_auroc", "au_pro"):
        values = compare.paired(rows, metric, resamples=200).set_index(["first", "second"])
        assert len(values) == 3
        line = values.loc["sharp", "blind"]
        exact = [metrics.pixel_metrics(m, k)[metric] for m, k in ((sharp, fine), (blind, coarse))]
        assert line["mean"] == pytest.approx(exact[0] - exact[1])
        assert line["differs_holm"]
        same = values.loc["sharp", "copy"]
        assert (same["mean"], same["p"], bool(same["differs"])) == (0.0, 1.0, False)


def test_holm_against_the_definition() -> None:
    """Reject, from the smallest up, while p ≤ level / (K − rank): the largest level that does is the adjusted p."""
    for _ in range(50):
        p = np.round(GENERATOR.random(GENERATOR.integers(1, 8)) ** 2, 2)
        adjusted = compare.holm(p)
        for level in (0.01, 0.05, 0.2, 0.5):
            rejected = set()
            for rank, place in enumerate(np.argsort(p, kind="stable")):
                if p[place] * (len(p) - rank) > level + 1e-12:
                    break
                rejected.add(place)
            assert set(np.flatnonzero(adjusted <= level + 1e-12)) == rejected
    np.testing.assert_allclose(compare.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_a_contest_that_cannot_be_held_is_refused(images: pd.DataFrame) -> None:
    """Other images, one name twice, one row alone, an unknown metric, too few resamples."""
    rows = contest(images)
    turned = rows[1].only(list(images["image_id"][::-1]))
    for those, options, problem, words in (
        ([rows[0], turned], {}, DataError, "have other images"),
        ([rows[0], rows[0]], {}, DataError, "two rows are named good"),
        (rows[:1], {}, DataError, "rows with image_auroc: 1"),
        (rows, {"metric": "au_pro"}, DataError, "needs two"),
        (rows, {"metric": "auroc"}, SettingsError, "metric 'auroc' is unknown"),
        (rows, {"resamples": 100}, SettingsError, "100 resamples cannot decide 3 pairs: use 120 or more"),
    ):
        with pytest.raises(problem, match=words):
            compare.paired(those, **options)


def test_a_report_says_which_images_and_what_it_cost(table: pd.DataFrame, images: pd.DataFrame) -> None:
    """Of the common part, with what the row's own report knows beyond its metrics."""
    row = contest(images)[0].only(compare.common_part(table))
    row.report |= {"second": "padim", "thresholds": {"oracle": {}}, "git_commit": "abc"}
    measured = compare.measure(row)
    values = compare.report(row, measured)
    assert (values["part"], values["row"], values["profile"]) == (compare.TEST_PART, "good", "quick")
    assert (values["second"], values["git_commit"], values["metrics"]) == ("padim", "abc", measured)
    assert values["images"] == {"good": int((row.labels == 0).sum()), "defective": int(row.labels.sum())}
    assert values["cost"] == {"fit_seconds": 4.0, "milliseconds": 10.0, "memory_gb": 1.5, "model_mb": 2.5}
    assert "thresholds" not in values
    del row.report["model_bytes"]
    assert compare.report(row, measured)["cost"]["model_mb"] is None


def test_what_was_promised_is_counted_on_the_common_images(table: pd.DataFrame, images: pd.DataFrame) -> None:
    """Of two seeds the thresholds 8 and 18, the 9th and 19th of good scores in another order; by hand."""
    scores = np.arange(44.0).reshape(2, 22) - [[0.0], [22.0]]
    known = {"false_alarm_rate": 0.1, "thresholds": {"calibrated": {"false_alarm_rate": 0.9}}}
    row = make_row(images, "a", scores, good_scores={1: np.arange(10.0, 19.0), 0: np.arange(9.0)})
    row.report |= known
    part = row.only(compare.common_part(table))
    good = part.scores[:, part.labels == 0]
    point = compare.report(part, compare.measure(part))["thresholds"]["calibrated"]
    assert point["value"] == (8 + 18) / 2
    assert point["false_alarm_rate"] == pytest.approx(np.mean([(good[0] > 8).mean(), (good[1] > 18).mean()]))


def test_the_artifact_holds_what_was_measured(table: pd.DataFrame, images: pd.DataFrame) -> None:
    """A line per category, images, row and metric; differences, defect types and costs by category; reports of rows."""
    rows = contest(images)
    common = [row.only(compare.common_part(table)) for row in rows]
    measured = {
        part: {row.row: compare.measure(row) for row in of_part}
        for part, of_part in (("official", rows), ("common", common))
    }
    differences = compare.paired(rows)
    compare.save({"part": rows}, {"part": common}, {"part": measured}, {"part": differences}, profile="quick")
    artifact = artifacts.load("comparison")
    lines = artifact.table("metrics.csv").set_index(["category", "images", "row", "metric"])
    assert len(lines) == sum(len(values) for of_part in measured.values() for values in of_part.values())
    for part, row, metric in (("official", "good", "image_auroc"), ("common", "blind", "false_alarms")):
        line, values = lines.loc[("part", part, row, metric)], measured[part][row][metric]
        assert {key: line[key] for key in ("mean", "sd", "low", "high")} == pytest.approx(
            {key: values[key] for key in ("mean", "sd", "low", "high")}
        )
        assert line["seeds"] == len(values["values"])
    tables = {
        "differences.csv": differences,
        "defect_types.csv": compare.by_defect(rows),
        "costs.csv": pd.DataFrame([{"row": row.row, **compare.cost(row)} for row in rows]),
    }
    for name, expected in tables.items():
        pd.testing.assert_frame_equal(artifact.table(name)[list(expected)], expected)
        assert set(artifact.table(name)["category"]) == {"part"}
    costs = artifact.table("costs.csv")
    assert costs["mean"].tolist() == pytest.approx(
        [measured["official"][r]["image_auroc"]["mean"] for r in costs["row"]]
    )
    reports = artifact.json("reports.json")
    assert [report["row"] for report in reports] == ["good", "similar", "blind"]
    assert reports[0] == compare.report(common[0], measured["common"]["good"])
    assert artifact.manifest["options"] == {"rows": ["blind", "good", "similar"], "split_seed": 0}
    assert artifact.manifest["metrics"]["part good"] == measured["common"]["good"]["image_auroc"]["mean"]
    assert (artifact.manifest["data_source"], artifact.manifest["categories"]) == ("own", ["part"])
