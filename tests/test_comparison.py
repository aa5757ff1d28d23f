"""Artifacts in, comparisons out: the same images, masks at each method's size, differences of all pairs."""

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

from mvtec_ad import comparison, evaluation, transfer
from mvtec_ad.data import index, loading, splits
from mvtec_ad.errors import ArtifactError, DataError, SettingsError

GENERATOR = np.random.default_rng(0)
SETTINGS = {"image_size": 40, "crop": 32}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, make_category: Callable[..., Path]) -> pd.DataFrame:
    """Ten good test images and twice six defective ones."""
    root = make_category(tmp_path_factory.mktemp("root"), test_good=10, defects={"dent": 6, "patch": 6})
    return index.read_category(root, "part")


def official_test(table: pd.DataFrame) -> pd.DataFrame:
    """The official test images."""
    return table[table["split"] == "test"].reset_index(drop=True)


def make_report(**changes: Any) -> dict[str, Any]:
    """What an experiment writes, as far as a comparison reads it."""
    own = {
        "method": "padim",
        "category": "part",
        "data_source": "own",
        "backbone": "resnet18",
        "weights": "drawn",
        "seeds": [0, 1],
        "settings": SETTINGS,
        "images": {"train": 8, "good": 10, "defective": 12},
        "metrics": {},
        "seconds": {"fit": 8.0, "score": 0.44},
        "peak_memory_gb": 1.5,
    }
    return own | changes


def make_scores(images: pd.DataFrame, row: str, seeds: tuple[int, ...] = (0, 1)) -> pd.DataFrame:
    """Rows of scores.csv."""
    frames = [
        images[["image_id", "split", "label"]].assign(method=row, seed=seed, score=GENERATOR.normal(size=len(images)))
        for seed in seeds
    ]
    return pd.concat(frames)


def save(stage: str, members: dict[str, Any], **changes: Any) -> transfer.Artifact:
    """An artifact of this test's own home."""
    about = {"profile": "quick", "data_source": "own", "categories": ["part"], "settings": {}, "seed": 0} | changes
    return transfer.load(transfer.save(stage, members, **about))


def make_row(images: pd.DataFrame, name: str, scores: np.ndarray, **changes: Any) -> comparison.Scored:
    """A row that no artifact holds."""
    own = {
        "category": "part",
        "row": name,
        "method": "padim",
        "protocol": "official",
        "data_source": "own",
        "profile": "quick",
        "device": "cpu",
        "seeds": tuple(range(len(scores))),
        "images": images[["image_id", "split", "label", "defect"]],
        "scores": np.asarray(scores, dtype=float),
        "maps": {},
        "report": make_report(row=name),
    }
    return comparison.Scored(**(own | changes))


def test_rows_come_from_the_artifact_as_they_were_kept(table: pd.DataFrame) -> None:
    """Scores by seed, maps in the order of the images, sizes, and what the manifest knows; rows are told apart."""
    images = official_test(table)
    scores = pd.concat([make_scores(images, "padim"), make_scores(images[::-1], "padim-keras", (3,))])
    maps = GENERATOR.random((len(images), 8, 8)).astype(np.float16)
    artifact = save(
        "padim",
        {
            "scores.csv": scores,
            "reports.json": [make_report(), make_report(row="padim-keras", backbone="keras:resnet18", seeds=[3])],
            "part/padim/0/maps.npz": {"maps": maps},
            "part/padim/0/model.json": {"weights_member": "backbone/w.safetensors"},
            "part/padim/0/model.safetensors": {"a": np.zeros(100, np.float32)},
            "backbone/w.safetensors": {"w": np.zeros(1000, np.float32)},
        },
    )
    first, second = comparison.read([artifact])
    assert (first.row, second.row, first.method, second.method) == ("padim", "padim-keras", "padim", "padim")
    assert (first.seeds, second.seeds, first.protocol, first.profile) == ((0, 1), (3,), "official", "quick")
    assert list(first.images["image_id"]) == list(images["image_id"])
    assert list(first.images["defect"]) == list(images["defect"])
    np.testing.assert_array_equal(first.labels, images["label"])
    own = scores[(scores["method"] == "padim") & (scores["seed"] == 1)]
    np.testing.assert_allclose(first.scores[1], own["score"], rtol=1e-12)
    np.testing.assert_array_equal(first.maps[0], maps)
    assert list(first.maps) == [0]
    assert second.maps == {}
    sizes = [len(artifact.read(name)) for name in artifact.names if "model." in name or "backbone" in name]
    assert len(sizes) == 3
    assert first.model_bytes == sum(sizes)
    assert second.model_bytes is None
    assert first.device == artifact.manifest["device"]


def test_seeds_in_another_order_are_brought_to_that_of_the_first(table: pd.DataFrame) -> None:
    """Scores and maps belong to images, not to places."""
    images = official_test(table)
    scores = make_scores(images, "padim")
    turned = pd.concat([scores[scores["seed"] == 0], scores[scores["seed"] == 1][::-1]])
    maps = GENERATOR.random((len(images), 4, 4)).astype(np.float16)
    members = {"scores.csv": turned, "reports.json": [make_report()], "part/padim/1/maps.npz": {"maps": maps[::-1]}}
    (row,) = comparison.read([save("padim", members)])
    np.testing.assert_allclose(row.scores[1], scores.loc[scores["seed"] == 1, "score"], rtol=1e-12)
    np.testing.assert_array_equal(row.maps[1], maps)


def test_artifacts_without_rows_hold_none_and_other_categories_are_left_out(table: pd.DataFrame) -> None:
    """A data.zip has no scores; a category that is not at hand is nobody's fault."""
    data = save("data", {"index.csv": table[["image_id"]]})
    assert comparison.read([data]) == []
    other = official_test(table).assign(image_id=lambda t: t["image_id"].str.replace("part/", "screw/"))
    members = {"scores.csv": make_scores(other, "padim"), "reports.json": [make_report(category="screw")]}
    artifact = save("padim", members, inputs=[data])
    assert [row.category for row in comparison.read([artifact])] == ["screw"]
    assert comparison.read([artifact], data) == []


def test_scores_of_other_images_are_refused(table: pd.DataFrame) -> None:
    """One line that names the zip and the notebook; without a recorded input nothing can be said."""
    members = {"scores.csv": make_scores(official_test(table), "padim"), "reports.json": [make_report()]}
    old = save("data", {"index.csv": table[["image_id"]]})
    artifact, silent = save("padim", members, inputs=[old]), save("gan", members)
    assert len(comparison.read([artifact], old)) == 1
    new = save("data", {"index.csv": table[["image_id", "label"]]})
    with pytest.raises(
        ArtifactError, match=r"^padim\.zip was made from another data\.zip .* notebooks/02_padim\.ipynb"
    ):
        comparison.read([artifact], new)
    assert len(comparison.read([silent], new)) == 1


@pytest.mark.parametrize("damage", ["twice", "no scores", "maps", "seeds", "column"])
def test_what_does_not_fit_together_is_refused(table: pd.DataFrame, damage: str) -> None:
    """Each in one line."""
    images = official_test(table)
    scores, reports, maps = make_scores(images, "padim"), [make_report()], np.zeros((len(images), 4, 4), np.float16)
    if damage == "twice":
        reports *= 2
    elif damage == "no scores":
        reports[0]["row"] = "other"
    elif damage == "maps":
        maps = maps[1:]
    elif damage == "seeds":
        scores = scores.iloc[:-1]
    else:
        scores = scores.drop(columns="seed")
    members = {"scores.csv": scores, "reports.json": reports, "part/padim/0/maps.npz": {"maps": maps}}
    artifact = save("padim", members)
    words = {
        "twice": "part: padim is there 2 times",
        "no scores": "part: other and no scores",
        "maps": "21 maps of 22 images",
        "seeds": "other images with seed 1",
        "column": "lacks seed",
    }
    with pytest.raises(ArtifactError, match=words[damage]) as problem:
        comparison.read([artifact])
    assert "\n" not in str(problem.value)


def test_only_some_images_in_the_order_asked_for(table: pd.DataFrame) -> None:
    """Scores, maps and labels move together; a missing image is named."""
    images = official_test(table)
    maps = GENERATOR.random((len(images), 4, 4))
    row = make_row(images, "a", GENERATOR.normal(size=(2, len(images))), maps={0: maps})
    wanted = [images["image_id"][i] for i in (5, 0, 12)]
    found = comparison.only(row, wanted)
    assert list(found.images["image_id"]) == wanted
    np.testing.assert_array_equal(found.scores, row.scores[:, [5, 0, 12]])
    np.testing.assert_array_equal(found.maps[0], maps[[5, 0, 12]])
    assert len(row.images) == len(images)
    with pytest.raises(DataError, match="part: a has no score of part/test/none/000"):
        comparison.only(row, [*wanted, "part/test/none/000"])


def test_the_common_part_is_the_supervised_test_part(table: pd.DataFrame) -> None:
    """All of it lies in the official test folder, with both classes and every type."""
    ids = comparison.common_part(table)
    cut = splits.supervised(table, seed=0)
    assert ids == list(cut[cut["part"] == "test"]["image_id"])
    part = table.set_index("image_id").loc[ids]
    assert set(part["split"]) == {"test"}
    assert set(part["defect"]) == {"good", "dent", "patch"}
    assert comparison.common_part(table, seed=1) != ids


def test_masks_have_the_size_and_crop_of_the_maps(table: pd.DataFrame) -> None:
    """Cropped where the settings crop, squeezed to the maps' size where they know no crop, none without maps."""
    images = official_test(table)
    scores = np.zeros((1, len(images)))
    cropped = make_row(images, "a", scores, maps={0: np.zeros((len(images), 32, 32))})
    np.testing.assert_array_equal(comparison.masks_for(cropped, table), loading.load_masks(images, 40, 32))
    report = make_report(settings={"image_size": 224})
    whole = make_row(images, "b", scores, maps={0: np.zeros((len(images), 16, 16))}, report=report)
    np.testing.assert_array_equal(comparison.masks_for(whole, table), loading.load_masks(images, 16))
    some = comparison.only(whole, list(images["image_id"][[20, 3]]))
    np.testing.assert_array_equal(comparison.masks_for(some, table), loading.load_masks(images, 16)[[20, 3]])
    assert comparison.masks_for(make_row(images, "c", scores), table) is None
    assert comparison.masks_for(whole, table.assign(mask_path="")) is None
    with pytest.raises(DataError, match="part: a has scored part/test/"):
        comparison.masks_for(cropped, table[table["split"] == "train"])


def test_measured_like_scikit_learn(table: pd.DataFrame) -> None:
    """Image metrics over all seeds, pixel metrics over those with maps; F1 stands beside its floor."""
    images = official_test(table)
    labels = images["label"].to_numpy()
    masks = loading.load_masks(images, 40, 32)
    scores = GENERATOR.normal(size=(2, len(images))) + labels
    maps = (GENERATOR.random(masks.shape) + masks).astype(np.float16)
    row = make_row(images, "a", scores, maps={1: maps})
    found = comparison.measure(row, masks, resamples=50)
    assert found["image_auroc"]["values"] == pytest.approx([roc_auc_score(labels, s) for s in scores])
    assert found["image_ap"]["mean"] == pytest.approx(np.mean([average_precision_score(labels, s) for s in scores]))
    assert found["f1_max"]["floor"] == pytest.approx(24 / 34)  # 12 defects, 10 good images
    assert found["f1_max"]["mean"] >= found["f1_max"]["floor"]
    assert len(found["false_alarms"]["values"]) == 2
    assert found["pixel_auroc"]["values"] == pytest.approx([roc_auc_score(masks.ravel(), maps.ravel())])
    assert len(found["au_pro"]["values"]) == 1
    assert set(comparison.measure(row)) == {"image_auroc", "image_ap", "f1_max", "false_alarms"}
    with pytest.raises(DataError, match="shape"):
        comparison.measure(row, masks[:, :16])


def test_defect_types_against_all_good_images(table: pd.DataFrame) -> None:
    """Each type alone, with Newcombe's interval for its few images."""
    images = official_test(table)
    scores = GENERATOR.normal(size=(2, len(images)))
    found = comparison.by_defect([make_row(images, "a", scores), make_row(images, "b", -scores)])
    assert list(found["row"]) == ["a", "a", "b", "b"]
    assert list(found["defect"]) == ["dent", "patch"] * 2
    kept = images["defect"].isin(["good", "patch"]).to_numpy()
    expected = np.mean([roc_auc_score(images["label"][kept], s[kept]) for s in scores])
    line = found.iloc[1]
    assert (line["images"], line["seeds"]) == (6, 2)
    assert line["mean"] == pytest.approx(expected)
    assert (line["low"], line["high"]) == pytest.approx(evaluation.newcombe(expected, 6, 10))
    assert found.iloc[3]["mean"] == pytest.approx(1 - expected)
    good = comparison.only(make_row(images, "a", scores), list(images["image_id"][images["label"] == 0]))
    with pytest.raises(DataError, match="part: a has no AUROC by defect type"):
        comparison.by_defect([good])


def test_costs_are_those_of_one_seed_and_one_image(table: pd.DataFrame) -> None:
    """8 s and .44 s for two seeds and 22 images; what nobody measured is nan."""
    row = make_row(official_test(table), "a", np.zeros((2, 22)), model_bytes=2_500_000)
    expected = {"fit_seconds": 4.0, "milliseconds": 10.0, "memory_gb": 1.5, "model_mb": 2.5}
    assert comparison.cost(row) == pytest.approx(expected)
    own = replace(row, report={**row.report, "model_bytes": 4_000_000})
    assert comparison.cost(own)["model_mb"] == 4.0
    bare = replace(row, report={"seeds": [0]}, model_bytes=None)
    assert all(np.isnan(value) for value in comparison.cost(bare).values())


def test_trivial_rows_are_those_of_the_methods_room(table: pd.DataFrame) -> None:
    """Five rows of all test images; the one with maps scores by their peak."""
    found = {row.row: row for row in comparison.trivial(table, data_source="own", profile="quick")}
    assert list(found) == [
        "all_defective",
        "mean_intensity",
        "mean_intensity_inverted",
        "distance_to_mean",
        "pixel_z_score",
    ]
    mean = found["distance_to_mean"]
    np.testing.assert_allclose(mean.scores[0], mean.maps[0].reshape(len(mean.labels), -1).max(1), rtol=1e-3)
    assert [name for name, row in found.items() if row.maps] == ["distance_to_mean"]
    assert comparison.masks_for(mean, table).shape == mean.maps[0].shape
    assert comparison.measure(found["all_defective"])["image_auroc"]["mean"] == 0.5
    metrics = comparison.measure(mean, comparison.masks_for(mean, table), resamples=20)
    assert metrics["pixel_auroc"]["mean"] > 0.9  # bright patches on rippled parts


def contest(table: pd.DataFrame) -> list[comparison.Scored]:
    """A good row, a slightly different one, and one that knows nothing."""
    images = official_test(table)
    labels = images["label"].to_numpy()
    base = GENERATOR.normal(size=(2, len(images))) + 3 * labels
    return [
        make_row(images, "good", base),
        make_row(images, "similar", base[:1] + 0.1 * GENERATOR.normal(size=len(images))),
        make_row(images, "blind", GENERATOR.normal(size=(1, len(images)))),
    ]


@pytest.mark.parametrize("metric", ["image_auroc", "image_ap", "f1_max", "false_alarms"])
def test_all_pairs_on_the_same_resamples(table: pd.DataFrame, metric: str) -> None:
    """Difference, interval and p-value from a loop over resamples, seeds averaged before the difference."""
    rows = contest(table)
    found = comparison.paired(rows, metric, resamples=400).set_index(["first", "second"])
    weights = evaluation.resample_weights(rows[0].labels, 400)
    assert list(found.index) == list(itertools.combinations(["good", "similar", "blind"], 2))
    for one, other in itertools.combinations(rows, 2):
        drawn = [
            np.mean([evaluation.resampled_ranking(r.labels, s, weights)[metric] for s in r.scores], axis=0)
            for r in (one, other)
        ]
        gap = drawn[0] - drawn[1]
        line = found.loc[one.row, other.row]
        means = [comparison.measure(r)[metric]["mean"] for r in (one, other)]
        assert line["mean"] == pytest.approx(means[0] - means[1])
        assert line["low"] == pytest.approx(min(np.quantile(gap, 0.025), line["mean"]))
        assert line["high"] == pytest.approx(max(np.quantile(gap, 0.975), line["mean"]))
        worse = min((gap < 1e-12).sum(), (gap > -1e-12).sum())
        assert line["p"] == pytest.approx(min(1, 2 * (worse + 1) / 401))
        assert line["differs"] == (line["low"] > 0 or line["high"] < 0)
    np.testing.assert_allclose(found["p_holm"], comparison.holm(found["p"]))


def test_the_winner_is_named_and_equals_are_not(table: pd.DataFrame) -> None:
    """The blind row loses twice, also after Holm; the other two share the place."""
    found = comparison.wins(comparison.paired(contest(table)))
    assert found.loc["blind"].to_dict() == {"beats": 0, "beaten_by": 2, "beats_holm": 0, "beaten_by_holm": 2}
    assert list(found.loc["good"]) == [1, 0, 1, 0]
    assert list(found.loc["similar"]) == [1, 0, 1, 0]
    turned = comparison.wins(comparison.paired(contest(table)), lower_is_better=True)
    assert turned.loc["blind", "beats"] == 2
    assert turned.index[0] == "blind"


def test_places_are_compared_too_at_different_sizes(table: pd.DataFrame) -> None:
    """Maps of 32 and of 16 pixels; a row without maps is left out; a row minus itself is no difference."""
    images = official_test(table)
    fine, coarse = loading.load_masks(images, 40, 32), loading.load_masks(images, 16)
    scores = np.zeros((1, len(images)))
    sharp = (0.3 * GENERATOR.random(fine.shape) + fine).astype(np.float16)
    blind = GENERATOR.random(coarse.shape).astype(np.float16)
    rows = [
        make_row(images, "sharp", scores, maps={0: sharp}),
        make_row(images, "none", scores),
        make_row(images, "blind", scores, maps={0: blind}),
        make_row(images, "copy", scores, maps={0: sharp}),
    ]
    masks = [fine, None, coarse, fine]
    for metric in ("pixel_auroc", "au_pro"):
        found = comparison.paired(rows, metric, masks, resamples=200).set_index(["first", "second"])
        assert len(found) == 3
        line = found.loc["sharp", "blind"]
        exact = [evaluation.pixel_metrics(m, k)[metric] for m, k in ((sharp, fine), (blind, coarse))]
        assert line["mean"] == pytest.approx(exact[0] - exact[1])
        assert line["differs_holm"]
        same = found.loc["sharp", "copy"]
        assert (same["mean"], same["p"], bool(same["differs"])) == (0.0, 1.0, False)


def test_holm_against_the_definition() -> None:
    """Reject, from the smallest up, while p ≤ level / (K − rank): the largest level that does is the adjusted p."""
    for _ in range(50):
        p = np.round(GENERATOR.random(GENERATOR.integers(1, 8)) ** 2, 2)
        adjusted = comparison.holm(p)
        for level in (0.01, 0.05, 0.2, 0.5):
            rejected = set()
            for rank, place in enumerate(np.argsort(p, kind="stable")):
                if p[place] * (len(p) - rank) > level + 1e-12:
                    break
                rejected.add(place)
            assert set(np.flatnonzero(adjusted <= level + 1e-12)) == rejected
    np.testing.assert_allclose(comparison.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_a_contest_that_cannot_be_held_is_refused(table: pd.DataFrame) -> None:
    """Other images, one name twice, one row alone, an unknown metric, too few resamples."""
    rows = contest(table)
    fewer = comparison.only(rows[1], list(rows[1].images["image_id"][::-1]))
    with pytest.raises(DataError, match="have other images"):
        comparison.paired([rows[0], fewer])
    with pytest.raises(DataError, match="two rows are named good"):
        comparison.paired([rows[0], rows[0]])
    with pytest.raises(DataError, match="rows with image_auroc: 1"):
        comparison.paired(rows[:1])
    with pytest.raises(DataError, match="needs two"):
        comparison.paired(rows, "au_pro")
    with pytest.raises(SettingsError, match="metric 'auroc' is unknown"):
        comparison.paired(rows, "auroc")
    with pytest.raises(SettingsError, match="100 resamples cannot decide 3 pairs: use 120 or more"):
        comparison.paired(rows, resamples=100)


def test_a_report_says_which_images_and_what_it_cost(table: pd.DataFrame) -> None:
    """Plain JSON that `results` finds again."""
    row = comparison.only(contest(table)[0], comparison.common_part(table))
    metrics = comparison.measure(row)
    found = comparison.report(row, metrics)
    artifact = save("comparison", {"reports.json": [found]})
    assert artifact.json("reports.json") == [found]
    assert (found["part"], found["row"], found["profile"]) == (comparison.TEST_PART, "good", "quick")
    assert found["images"] == {"good": int((row.labels == 0).sum()), "defective": int(row.labels.sum())}
    assert found["cost"]["model_mb"] is None
    assert found["cost"]["fit_seconds"] == 4.0
