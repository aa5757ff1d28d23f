"""How well types are told apart: who has seen what, every figure against scikit-learn or brute force, the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.spatial.distance import cosine
from scipy.special import log_softmax, softmax
from scipy.stats import t as student
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score, silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from mvtec_ad import artifacts, benchmark, metrics
from mvtec_ad.benchmark import defect_types as measuring
from mvtec_ad.cli import main
from mvtec_ad.config import transfer_folder
from mvtec_ad.data import index
from mvtec_ad.errors import DataError
from mvtec_ad.methods.defect_types import Defects, DefectTypes
from mvtec_ad.methods.padim import Padim

SMALL = DefectTypes(
    **{"backbone": "resnet18", "weights": "synthetic", "copies": 2},
    **{"look": "mask", "roi_size": 0.5, "focus": 0.25, "image_size": 32},
    **{"steps": 1, "batch": 6, "projection": 8, "neighbours": 3, "folds": 3, "repeats": 2},
)
COLOURS = {"blot": (200, 30, 30), "cut": (20, 20, 20), "dye": (40, 60, 220), "combined": (230, 230, 230)}
COUNTS = {
    "part": {"blot": 6, "combined": 2, "cut": 4, "dye": 3},
    "pair": {"blot": 4, "cut": 4},
    "one": {"blot": 4, "combined": 2},
}


@pytest.fixture(scope="module")
def root(
    tmp_path_factory: pytest.TempPathFactory, draw: Callable, write_image: Callable, make_category: Callable
) -> Path:
    """Categories whose types differ in the colour of their patch: `part` with three types and mixtures, and others."""
    folder, rng = tmp_path_factory.mktemp("types"), np.random.default_rng(1)
    for category, types in COUNTS.items():
        make_category(folder, category, train=6, test_good=2, defects={}, size=64)
        for defect, count in types.items():
            for number in range(count):
                image, mask = draw(rng, 64, True)
                image[mask] = COLOURS[defect] + rng.integers(0, 20, 3)
                write_image(folder / category / "test" / defect / f"{number:03d}.png", image)
                write_image(folder / category / "ground_truth" / defect / f"{number:03d}_mask.png", mask)
    return folder


@pytest.fixture(scope="module")
def table(root: Path) -> pd.DataFrame:
    """Of `part`."""
    return index.read_category(root, "part")


@pytest.fixture(scope="module")
def defects(table: pd.DataFrame) -> Defects:
    """What is learned from it."""
    return SMALL.gather(table)


@pytest.fixture(scope="module")
def watched() -> Callable[..., tuple[tuple, list]]:
    """Calls a function, and gives what it returns and the options and rows of every fit."""

    def watch(function: Callable, *given: object, **named: object) -> tuple[tuple, list]:
        calls, fit = [], DefectTypes.fit_rows

        def fit_rows(self: DefectTypes, defects: Defects, rows: np.ndarray, *more: object, **options: object):
            calls.append((self, np.array(rows)))
            return fit(self, defects, rows, *more, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DefectTypes, "fit_rows", fit_rows)
            return function(*given, **named), calls

    return watch


def test_anomaly_maps_are_padims(table: pd.DataFrame) -> None:
    """Fitted on the good training images, in the order of the defective rows; too few of these are refused."""
    padim = Padim(image_size=64, crop=64, channels=8, backbone="resnet18", weights="random")
    maps = measuring.anomaly_maps(table, SMALL, padim, progress=False)
    good = table[(table["split"] == "train") & (table["label"] == 0)]
    detector = replace(padim, weights="synthetic").fit(list(good["image_path"]), 0)
    np.testing.assert_array_equal(maps, detector.score(list(table.loc[table["label"] == 1, "image_path"])).maps)
    with pytest.raises(DataError, match="part has 1 good training images, too few for an anomaly map"):
        measuring.anomaly_maps(table.drop(good.index[1:]), SMALL, padim, progress=False)


def test_maps_come_from_padim_zip_or_are_fitted_here(
    table: pd.DataFrame, own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of its first seed, of the defective images in their order; without it or its row, a line says so."""
    padim = Padim(image_size=32, crop=32, channels=4, backbone="resnet18", weights="random")
    result = benchmark.run(padim, table, (3, 1), data_source="own", false_alarm_rate=0.5)
    path = benchmark.save_results("padim", [result], profile="quick", inputs=[], maps=True)
    expected = result.maps[3][result.labels == 1]
    maps = measuring.padim_maps(artifacts.load(path), table, "quick")
    np.testing.assert_allclose(maps, expected, rtol=2e-3)  # kept in half precision
    monkeypatch.setattr(measuring, "anomaly_maps", lambda *_, **__: "fitted")
    assert measuring.padim_maps(None, table, "quick") == "fitted"
    assert measuring.padim_maps(artifacts.load(path), table.assign(category="other"), "quick") == "fitted"
    assert capsys.readouterr().out.count("PaDiM is fitted here instead: ") == 2


# Answers --------------------------------------------------------------------------------------------------------------

WAYS = ["always the same", "mean colours", "frozen, linear probe", "frozen, prototypes", "frozen, k-NN"]


@pytest.fixture(scope="module")
def answered(defects: Defects) -> tuple[dict, dict, np.ndarray, np.ndarray]:
    """Every second typed image is learned from, the others are named."""
    train, test = defects.typed[::2], defects.typed[1::2]
    return *measuring.answers(SMALL, defects, train, test, ("supcon", "simclr"), 3), train, test


def test_every_way_answers_for_every_image(answered: tuple, defects: Defects) -> None:
    """Two ways a network, three that need none trained; the frozen one took no step; the last is by scikit-learn."""
    by_way, fitted, train, test = answered
    trained = [f"{name}, {way}" for name in ("supcon", "simclr") for way in ("prototypes", "k-NN")]
    assert sorted(by_way) == sorted([*WAYS, *trained])
    assert all(answer.predicted.shape == (len(test),) for answer in by_way.values())
    described = [(detector.objective, len(detector.curve), detector.seed) for detector in fitted.values()]
    assert described == [("supcon", 0, 3), ("supcon", 1, 3), ("simclr", 1, 3)]
    assert set(by_way["always the same"].predicted) == {"blot"}
    types = defects.types[train].astype(str)
    for name, detector in fitted.items():
        answer = by_way[f"{name}, prototypes"]
        asked, known = answer.embeddings
        np.testing.assert_array_equal(known, detector.embeddings)
        middles = {kind: known[types == kind].mean(0) for kind in set(types)}
        nearest = [min(middles, key=lambda kind, row=row: cosine(row, middles[kind])) for row in asked]
        assert answer.predicted.tolist() == nearest
        distances = np.sort(1 - asked.astype(float) @ known.T.astype(float), 1)
        np.testing.assert_allclose(answer.novelty, distances[:, : SMALL.neighbours].mean(1), atol=1e-5)
        voters = KNeighborsClassifier(3, weights="distance", metric="cosine").fit(known, types)
        assert by_way[f"{name}, k-NN"].predicted.tolist() == voters.predict(asked).tolist()


def test_mean_colours_by_a_loop(answered: tuple, defects: Defects) -> None:
    """Mean and spread of each colour, standardised on the training images; the nearest mean of a type."""
    by_way, _, train, test = answered
    features = np.array([[*image.mean((0, 1)), *image.std((0, 1))] for image in defects.images.astype(float)])
    features = (features - features[train].mean(0)) / features[train].std(0)
    types = defects.types[train]
    middles = {name: features[train][types == name].mean(0) for name in set(types)}
    nearest = [min(middles, key=lambda name, row=row: np.linalg.norm(row - middles[name])) for row in features[test]]
    assert by_way["mean colours"].predicted.tolist() == nearest
    assert by_way["mean colours"].novelty is None


def test_the_probe_is_a_penalised_regression(answered: tuple, defects: Defects) -> None:
    """Its objective minimised by scipy: balanced cross entropy times C = 0.1, plus half of the squared weights."""
    by_way, fitted, train, _ = answered
    known, asked = fitted["frozen"].embeddings.astype(float), by_way["frozen, prototypes"].embeddings[0].astype(float)
    scale = np.sqrt(known.shape[1])
    names, numbers = np.unique(defects.types[train].astype(str), return_inverse=True)
    weights = len(numbers) / (len(names) * np.bincount(numbers)[numbers])
    # The weights lie in the span of the images: the same problem, in as few unknowns as there are images.
    basis = np.linalg.qr(known.T)[0]
    inputs, count = known @ basis * scale, len(names)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        table = flat.reshape(count, -1)
        logits = inputs @ table[:, :-1].T + table[:, -1]
        wrong = 0.1 * weights[:, None] * (softmax(logits, axis=1) - np.eye(count)[numbers])
        loss = -0.1 * (weights * log_softmax(logits, axis=1)[np.arange(len(numbers)), numbers]).sum()
        slope = np.column_stack([wrong.T @ inputs + table[:, :-1], wrong.sum(0)])
        return loss + (table[:, :-1] ** 2).sum() / 2, slope.ravel()

    best = minimize(objective, np.zeros(count * (inputs.shape[1] + 1)), jac=True, method="L-BFGS-B", tol=1e-12)
    table = best.x.reshape(count, -1)
    chances = softmax(asked @ basis * scale @ table[:, :-1].T + table[:, -1], axis=1)
    np.testing.assert_allclose(by_way["frozen, linear probe"].novelty, 1 - chances.max(1), atol=5e-3)
    assert by_way["frozen, linear probe"].predicted.tolist() == names[chances.argmax(1)].tolist()


# Folds ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folded(defects: Defects, watched: Callable) -> tuple[pd.DataFrame, pd.DataFrame, list]:
    """Three folds, twice."""
    (verdicts, quality), calls = watched(measuring.cross_validate, SMALL, defects, ("supcon",))
    return verdicts, quality, calls


def test_each_image_is_tested_once_by_a_model_that_has_not_seen_it(folded: tuple, defects: Defects) -> None:
    """In every repeat, by every way; the folds of the repeats differ, and each holds every type. Mixtures are never
    learned from, but named in every fold."""
    verdicts, _, calls = folded
    ids = defects.table["image_id"].to_numpy()
    typed = verdicts[verdicts["defect"] != "combined"]
    for _, rows in typed.groupby(["repeat", "way"]):
        assert sorted(rows["image_id"]) == sorted(ids[defects.typed])
        assert (rows.groupby("fold")["defect"].nunique() == 3).all()
    first, second = (
        typed[(typed["repeat"] == k) & (typed["way"] == WAYS[0])].set_index("image_id")["fold"] for k in (0, 1)
    )
    assert first[second.index].tolist() != second.tolist()
    assert verdicts["defect"].tolist() == verdicts["image_id"].map(dict(zip(ids, defects.types, strict=True))).tolist()
    assert set(verdicts["way"]) == {*WAYS, "supcon, prototypes", "supcon, k-NN"}
    assert [detector.steps for detector, _ in calls] == [0, 1] * 6  # repeats × folds, the frozen beside the trained one
    for number, (_, asked) in enumerate(verdicts.groupby(["repeat", "fold"])):
        assert set(asked.loc[asked["defect"] == "combined", "image_id"]) == set(ids[defects.mixed])
        for _, rows in calls[2 * number : 2 * number + 2]:
            assert set(ids[rows]) == set(ids[defects.typed]) - set(asked["image_id"])


def test_quality_is_that_of_the_verdicts(folded: tuple, answered: tuple, defects: Defects) -> None:
    """Scikit-learn's, of the images with one type, a row per fold and way; what follows them changes nothing."""
    verdicts, quality, _ = folded
    assert len(quality) == 6 * 7
    single = verdicts[verdicts["defect"] != "combined"].groupby(["repeat", "fold", "way"])
    for place, row in quality.set_index(["repeat", "fold", "way"]).iterrows():
        pair = single.get_group(place)[["defect", "predicted"]].to_numpy(str).T
        assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(*pair))
        assert row["macro_f1"] == pytest.approx(f1_score(*pair, average="macro", zero_division=0))
        assert np.isnan(row["retrieval_map"]) == ("prototypes" not in place[2])
    by_way, _, train, test = answered
    answer, types, known = by_way["frozen, prototypes"], defects.types[test], defects.types[train]
    measured = measuring._quality(types, known, answer)
    assert measured["silhouette"] == pytest.approx(silhouette_score(answer.embeddings[0], types, metric="cosine"))
    embeddings, gallery = answer.embeddings
    longer = np.append(answer.predicted, ["blot"] * 2), None, (np.concatenate([embeddings, embeddings[:2]]), gallery)
    assert measuring._quality(types, known, measuring.Answer(*longer)) == measured


def test_checkpoints_are_kept_on_request(defects: Defects, own_home: Path) -> None:
    """And listed, one a training; a second run finds them and gives the same; without the request there are none."""
    once, folder = replace(SMALL, repeats=1, steps=2), own_home / "transfer" / "checkpoints"
    plain, _ = measuring.cross_validate(once, defects, ("supcon",))
    assert not folder.exists()
    checkpoints: list[Path] = []
    for _ in range(2):
        again, _ = measuring.cross_validate(once, defects, ("supcon",), 0, checkpoints)
        assert set(checkpoints) == set(folder.iterdir())
        pd.testing.assert_frame_equal(again, plain)
    assert len(set(checkpoints)) == 3


# Types left out -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left(defects: Defects, watched: Callable) -> tuple[pd.DataFrame, pd.DataFrame, list]:
    """Each of three types in turn, two folds of the others."""
    (novelty, shown), calls = watched(measuring.leave_one_out, SMALL, defects, ("supcon",))
    return novelty, shown, calls


def test_the_type_that_is_left_out_is_in_no_training_set(left: tuple, defects: Defects) -> None:
    """Nor is any image that is asked about, nor a mixture. Of the left-out type all are asked in every fold, of the
    known ones each once; `known` tells them apart."""
    novelty, shown, calls = left
    ids, types = defects.table["image_id"].to_numpy(), defects.types
    for number, ((name, _), asked) in enumerate(novelty.groupby(["left_out", "fold"])):
        for _, rows in calls[2 * number : 2 * number + 2]:
            assert set(types[rows]) == {"blot", "cut", "dye"} - {name}
            assert set(ids[rows]).isdisjoint(asked["image_id"])
            assert set(ids[rows]) | set(asked["image_id"]) == set(ids[defects.typed])
    assert len(calls) == 2 * (number + 1) == 3 * 2 * 2
    truth = novelty["image_id"].map(dict(zip(ids, types, strict=True)))
    assert (novelty["known"] == (truth != novelty["left_out"])).all()
    assert set(novelty["way"]) == {"frozen, linear probe", "frozen, prototypes", "supcon, prototypes"}
    for (name, _), rows in novelty.groupby(["left_out", "way"]):
        assert sorted(rows.loc[rows["known"], "image_id"]) == sorted(ids[defects.typed][types[defects.typed] != name])
        assert sorted(rows.loc[~rows["known"], "image_id"]) == sorted(np.tile(ids[types == name], 2))
    assert np.isfinite(novelty["novelty"]).all()
    shots = {name: sorted(set(rows["shots"])) for name, rows in shown.groupby("left_out")}
    assert shots == {"blot": [1, 2, 4], "cut": [1, 2], "dye": [1, 2]}  # never all of them
    assert (shown.groupby(["left_out", "fold", "way", "shots"]).size() == measuring.DRAWS).all()


def test_few_shot_figures_are_those_of_a_loop(answered: tuple, defects: Defects) -> None:
    """A prototype of the chosen ones; recall of the rest of the new type, balanced accuracy over all that is left."""
    *_, train, test = answered
    detector = replace(SMALL, steps=0).fit_rows(defects, train[defects.types[train] != "dye"], 3)
    new, known = defects.typed[defects.types[defects.typed] == "dye"], test[defects.types[test] != "dye"]
    rows = list(measuring.few_shot(detector, defects, known, new))
    assert [(row["shots"], row["draw"]) for row in rows] == [(shots, draw) for shots in (1, 2) for draw in range(5)]
    embedded = {k: detector.encoder.embed(defects.plain[k : k + 1])[0] for k in [*known, *new]}
    for row in rows:
        possible = []  # the choice is not told: it must be one of all
        for chosen in combinations(new, row["shots"]):
            mean = np.mean([embedded[k] for k in chosen], axis=0)
            prototypes = dict(zip(detector.names, detector.prototypes, strict=True)) | {
                "dye": mean / np.linalg.norm(mean)
            }
            rest = [k for k in [*known, *new] if k not in chosen]
            named = [max(prototypes, key=lambda name, k=k: float(embedded[k] @ prototypes[name])) for k in rest]
            truth = np.array([defects.types[k] for k in rest])
            recalls = {name: np.mean(np.array(named)[truth == name] == name) for name in set(truth)}
            possible.append((recalls["dye"], np.mean(list(recalls.values()))))
        assert any((row["recall"], row["balanced_accuracy"]) == pytest.approx(pair) for pair in possible)


def test_too_few_types_or_images_are_refused(defects: Defects) -> None:
    """Two types leave none to tell apart when one of them is left out; a type needs an image a fold."""
    two = replace(defects, typed=defects.typed[defects.types[defects.typed] != "dye"])
    with pytest.raises(DataError, match="leaving out a type needs three or more of them, and part has 2"):
        measuring.leave_one_out(SMALL, two, ("supcon",))
    with pytest.raises(DataError, match="part/dye has 3 images, too few for 4 folds"):
        measuring.cross_validate(replace(SMALL, folds=4), defects, ("supcon",))


def test_folds_are_checked_before_anything_is_fitted(table: pd.DataFrame) -> None:
    """As many images of each type as there are folds; mixtures do not count."""
    assert measuring.check_folds(table, SMALL) is table
    with pytest.raises(DataError, match="3 images of dye are too few for 4 folds"):
        measuring.check_folds(table, replace(SMALL, folds=4))


# Limits and summaries -------------------------------------------------------------------------------------------------


def novelties(known: int = 9, new: int = 6) -> pd.DataFrame:
    """As `leave_one_out` returns them, with scales that differ between folds."""
    rng = np.random.default_rng(0)
    rows = [
        {"left_out": left_out, "fold": fold, "way": way, "image_id": f"{kind}{fold}-{k}", "known": kind == "known"}
        | {"novelty": rng.normal((kind == "new") * 1.5 + 0.3 * fold, 1)}
        for left_out in ("bent", "hole")
        for way in ("first", "other")
        for fold in range(3)
        for kind, count in (("known", known), ("new", new))
        for k in range(count)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_open_sets_equal_brute_force(share: float) -> None:
    """AUROC within each fold; a fold's limit is the conformal quantile of the others' known images."""
    table = novelties()
    summary = measuring.open_set_summary(table, share).set_index(["left_out", "way"])
    assert len(summary) == 4
    for place, part in table.groupby(["left_out", "way"]):
        values = []
        for fold in range(3):
            asked = part[part["fold"] == fold]
            others = sorted(part[(part["fold"] != fold) & part["known"]]["novelty"])
            limit = others[int(np.ceil(round((len(others) + 1) * (1 - share), 9))) - 1]
            called, known = asked["novelty"] > limit, asked["known"]
            values.append([roc_auc_score(~known, asked["novelty"]), called[~known].mean(), called[known].mean()])
        assert summary.loc[place].tolist() == pytest.approx(np.mean(values, axis=0).tolist())


def test_too_few_known_images_vouch_for_no_limit() -> None:
    """Then nothing is called unknown, and the AUROC stays."""
    table = novelties(known=4)  # eight in the other folds, nine are needed for a tenth
    summary = measuring.open_set_summary(table, 0.1)
    assert (summary[["called_unknown", "false_unknown"]] == 0).all(axis=None)
    assert (summary["auroc"] > 0.6).all()
    assert (measuring.open_set_summary(table, 0.2)["called_unknown"] > 0).all()


def test_the_limit_is_the_conformal_quantile_of_known_images() -> None:
    """Each image's mean over the repeats; of 19 images a tenth gives the 18th smallest, whatever mixtures scored."""
    scores = np.random.default_rng(2).permutation(19).astype(float)
    rows = [
        {"way": way, "image_id": f"i{k}", "defect": "bent", "novelty": score + offset + 50 * (way == "other")}
        for way in ("first", "other")
        for offset in (-0.25, 0.25)
        for k, score in enumerate(scores)
    ]
    mixed = [{"way": "first", "image_id": f"m{k}", "defect": "combined", "novelty": 1000.0} for k in range(30)]
    table = pd.DataFrame(rows + mixed).sample(frac=1, random_state=0)
    assert measuring.calibrated_limit(table, "first", SMALL) == pytest.approx(17)  # ⌈20 · 0.9⌉ = 18, counted from 0
    assert measuring.calibrated_limit(table, "other", SMALL) == pytest.approx(67)
    assert measuring.calibrated_limit(table, "first", replace(SMALL, unknown=0.5)) == pytest.approx(9)
    few = table[table["image_id"].isin([*(f"i{k}" for k in range(8)), *(f"m{k}" for k in range(30))])]
    assert measuring.calibrated_limit(few, "first", SMALL) == np.inf  # nine are needed


def test_differences_are_paired_and_intervals_stay_in_range() -> None:
    """A way that is better by 0.1 in every fold is so without doubt, in whatever order its rows come; folds that hardly
    agree have a wide t interval, but no metric exceeds 1."""
    rng = np.random.default_rng(3)
    places = [{"repeat": repeat, "fold": fold, "way": "frozen, prototypes"} for repeat in range(2) for fold in range(4)]
    frozen = pd.DataFrame(places).assign(balanced_accuracy=rng.uniform(0.3, 0.8, 8), macro_f1=[0.0, 1.0] * 4)
    frozen = frozen.assign(retrieval_map=rng.uniform(size=8), silhouette=np.nan)
    better = frozen.assign(way="supcon, prototypes", balanced_accuracy=frozen["balanced_accuracy"] + 0.1)
    chance = frozen.assign(way="always the same", balanced_accuracy=rng.uniform(size=8), retrieval_map=np.nan)
    quality = pd.concat([chance, better.sample(frac=1, random_state=1), frozen], ignore_index=True)
    summary = measuring.summary(quality, 4)
    assert list(summary) == ["always the same", "supcon, prototypes", "frozen, prototypes"]
    by_way = {way: measured["balanced_accuracy_difference"] for way, measured in summary.items()}
    assert by_way["supcon, prototypes"] == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})
    assert by_way["frozen, prototypes"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    for table, way in ((frozen, "frozen, prototypes"), (chance, "always the same")):
        accuracy = table["balanced_accuracy"]
        by_name = {"": (0.0, accuracy), "_difference": (-1.0, accuracy - frozen["balanced_accuracy"])}
        for name, (lowest, values) in by_name.items():
            reach = student.ppf(0.975, 7) * np.sqrt((1 / 8 + 1 / 3) * values.var(ddof=1))
            low, high = max(lowest, values.mean() - reach), min(1.0, values.mean() + reach)
            assert summary[way][f"balanced_accuracy{name}"] == pytest.approx(
                {"mean": values.mean(), "low": low, "high": high}
            )
    assert metrics.corrected_t(frozen["macro_f1"], 0.25)["high"] > 1
    assert summary["frozen, prototypes"]["macro_f1"] == {"mean": 0.5, "low": 0.0, "high": 1.0}
    assert "silhouette" not in summary["frozen, prototypes"]
    assert "retrieval_map" not in summary["always the same"]


def test_means_over_types_resample_types() -> None:
    """The interval holds the mean, stays within the values, and is a point where all types agree."""
    spread = measuring.over_types(pd.Series([0.5, 0.7, 0.9]))
    assert spread["mean"] == pytest.approx(0.7)
    assert 0.5 <= spread["low"] < 0.7 < spread["high"] <= 0.9
    assert measuring.over_types(pd.Series([0.8] * 3)) == pytest.approx({"mean": 0.8, "low": 0.8, "high": 0.8})


# The command ----------------------------------------------------------------------------------------------------------

OPTIONS = ["--backbone", "resnet18", "--weights", "synthetic", "--image-size", "32"]
OPTIONS += ["--steps", "1", "--batch", "6", "--folds", "2"]
BY_MASK = [*OPTIONS, "--look", "mask"]


def test_the_report_is_what_was_measured(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All parts are there, counts are those of the folder, means lie in their intervals; no checkpoint is left."""
    target = tmp_path / "report.json"
    where = ["--root", str(root), "--category", "part", "--json", str(target)]
    assert main(["evaluate", "defect_types", *where, *BY_MASK]) == 0
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["types"] == {"blot": 6, "cut": 4, "dye": 3}
    assert np.sum(report["confusion"]["counts"]) == 13  # every image with one type once
    assert report["mixtures"]["images"] == 2
    assert sum(report["mixtures"]["nearest"].values()) == pytest.approx(1, abs=1e-3)
    assert report["ways"][measuring.CHANCE]["balanced_accuracy"]["mean"] == pytest.approx(1 / 3)
    assert set(report["open_set"]["supcon, prototypes"]["types"]) == {"blot", "cut", "dye"}
    assert set(report["few_shot"]["supcon"]) == {"1", "2", "4"}
    for way in report["ways"].values():
        assert all(metric["low"] <= metric["mean"] <= metric["high"] for metric in way.values())
    assert not list((transfer_folder() / "checkpoints").iterdir())
    printed = capsys.readouterr().out
    assert "defect types on part (own): resnet18, synthetic" in printed
    assert "13 defects of 3 types: 6 blot, 4 cut, 3 dye" in printed
    assert "2 images with several types at once" in printed
    assert printed.count("AUROC") == len(report["open_set"])


def test_two_types_leave_none_out(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is measured that cannot be, and the lines say so; without a look given, PaDiM says where to look."""
    target = tmp_path / "report.json"
    where = ["--root", str(root), "--category", "pair", "--json", str(target)]
    assert main(["evaluate", "defect_types", *where, *OPTIONS]) == 0
    assert "no type was left out: that takes three or more" in capsys.readouterr().out
    assert json.loads(target.read_text(encoding="utf-8"))["settings"]["look"] == "predicted"


@pytest.mark.parametrize(
    ("category", "options", "words"),
    [
        ("one", [], "needs two or more, and there is only blot"),
        ("part", ["--folds", "5"], "part/dye has 3 images, too few for 5 folds"),
        ("part", ["--look", "sideways"], "'sideways' is unknown"),
        ("part", ["--roi-size", "2"], "roi_size 2.0 must be 1 or less"),
    ],
)
def test_it_fails_in_one_line(
    root: Path, category: str, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the thing."""
    assert main(["evaluate", "defect_types", "--root", str(root), "--category", category, *BY_MASK, *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mvtec-ad")]
    assert len(lines) == 1
    assert words in lines[0]
