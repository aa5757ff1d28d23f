"""How well types are told apart: who has seen what, and every figure against scikit-learn or brute force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.spatial.distance import cosine
from scipy.special import log_softmax, softmax
from scipy.stats import t as student
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score, silhouette_score
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler

from mvtec_ad import metrics
from mvtec_ad.data import index, loading
from mvtec_ad.errors import DataError
from mvtec_ad.methods.contrastive import DefectTyper, experiment, material, regions, views_of, ways
from mvtec_ad.methods.contrastive.material import Material, gather
from mvtec_ad.methods.padim import Padim
from mvtec_ad.settings import TypingSettings

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
Writer = Callable[[Path, np.ndarray], Path]
SMALL = TypingSettings(
    weights="drawn",
    look="mask",
    side=0.5,
    focus=0.25,
    image_size=32,
    copies=2,
    steps=1,
    batch=6,
    projection=8,
    neighbours=3,
    folds=3,
    repeats=2,
)
COLOURS = {"blot": (200, 30, 30), "cut": (20, 20, 20), "dye": (40, 60, 220), "combined": (230, 230, 230)}
COUNTS = {"blot": 6, "combined": 2, "cut": 4, "dye": 3}


def check_line(problem: pytest.ExceptionInfo) -> None:
    """A message is one line."""
    assert "\n" not in str(problem.value)


@pytest.fixture(scope="module")
def make_types(draw: Draw, write_image: Writer, make_category: Callable[..., Path]) -> Callable[..., pd.DataFrame]:
    """Writes a category whose types differ in the colour of their patch, and returns its table."""

    def make(root: Path, counts: dict[str, int] = COUNTS, *, masks: bool = True, train: int = 4) -> pd.DataFrame:
        make_category(root, train=train, test_good=2, defects={}, size=64)
        rng = np.random.default_rng(1)
        for defect, count in counts.items():
            for number in range(count):
                image, mask = draw(rng, 64, True)
                image[mask] = COLOURS[defect] + rng.integers(0, 20, 3)
                write_image(root / "part" / "test" / defect / f"{number:03d}.png", image)
                if masks:
                    write_image(root / "part" / "ground_truth" / defect / f"{number:03d}_mask.png", mask)
        return index.read_category(root, "part")

    return make


@pytest.fixture(scope="module")
def table(make_types: Callable[..., pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Three types, one of them with three images, and a folder of mixtures."""
    return make_types(tmp_path_factory.mktemp("typed"))


@pytest.fixture(scope="module")
def own(table: pd.DataFrame) -> Material:
    """What is learned from it."""
    return gather(table, SMALL, progress=False)


class Watch:
    """Stands for `fit`, and remembers the types and rows of every call."""

    def __init__(self) -> None:
        self.fit, self.rows, self.settings = ways.fit, [], []

    def __call__(self, settings: TypingSettings, views: object, types: np.ndarray, rows: np.ndarray, **named: object):
        self.rows.append(np.array(rows))
        self.settings.append(settings)
        return self.fit(settings, views, types, rows, **named)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """In place of `fit`."""
    watch = Watch()
    monkeypatch.setattr(ways, "fit", watch)
    return watch


# Material -----------------------------------------------------------------------------------------------------------


def test_the_defects_of_a_category_are_gathered(own: Material, table: pd.DataFrame) -> None:
    """Good images are left out, mixtures stand apart, and a region of a picture fills what the network sees."""
    assert own.table["image_id"].tolist() == table.loc[table["label"] == 1, "image_id"].tolist()
    assert own.images.shape == (15, 64, 64, 3)
    assert set(own.types[own.mixed]) == {"combined"}
    assert {name: int((own.types[own.typed] == name).sum()) for name in set(own.types[own.typed])} == {
        "blot": 6,
        "cut": 4,
        "dye": 3,
    }
    assert sorted([*own.typed, *own.mixed]) == list(range(15))
    masks = loading.load_masks(own.table, 64)
    np.testing.assert_array_equal(own.regions.centres, regions.around_masks(masks, 0.5).centres)
    assert len(own.views.plain) == len(own.views.copies) == 15


@pytest.mark.parametrize(
    ("look", "side", "size", "expected"),
    [("whole", 0.5, 48, 48), ("mask", 0.5, 48, 96), ("predicted", 0.25, 32, 128), ("predicted", 0.3, 128, 427)],
)
def test_the_loaded_size_by_hand(look: str, side: float, size: int, expected: int) -> None:
    """A region of `side` has the pixels that the network takes."""
    assert material.loaded_size(replace(SMALL, look=look, side=side, image_size=size)) == expected


def test_each_look_has_its_regions(table: pd.DataFrame) -> None:
    """The whole picture, and the peaks of maps in the order of the defective rows."""
    found = gather(table, replace(SMALL, look="whole"), progress=False)
    assert found.images.shape[1] == 32
    np.testing.assert_array_equal(found.regions.boxes(32), [[0, 0, 32, 32]] * 15)
    maps = np.random.default_rng(0).random((15, 20, 20))
    found = gather(table, replace(SMALL, look="predicted"), maps, progress=False)
    np.testing.assert_array_equal(found.regions.centres, regions.around_peaks(maps, 0.5).centres)
    assert found.regions.side == 0.5


def test_which_folders_are_mixtures_is_a_setting(table: pd.DataFrame) -> None:
    """Another name, or none: then "combined" is a type like the others."""
    everything = gather(table, replace(SMALL, mixtures=()), progress=False)
    assert len(everything.typed) == 15
    assert len(everything.mixed) == 0
    other = gather(table, replace(SMALL, mixtures=("combined", "dye")), progress=False)
    assert set(other.types[other.mixed]) == {"combined", "dye"}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"blot": 3, "combined": 3}, "two or more, and there is only blot"),
        ({"combined": 3}, "two or more, and there is none"),
        ({}, "two or more, and there is none"),
        ({"blot": 3, "cut": 1}, "part/cut has a single image"),
    ],
)
def test_too_few_types_or_images_are_refused(
    counts: dict[str, int], message: str, make_types: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    """Mixtures are no type; in one line, before any image is loaded."""
    table = make_types(tmp_path, counts).assign(image_path="gone.png")
    with pytest.raises(DataError, match=message) as problem:
        gather(table, replace(SMALL, look="whole"), progress=False)
    check_line(problem)


def test_missing_masks_and_maps_are_refused(make_types: Callable[..., pd.DataFrame], tmp_path: Path) -> None:
    """With the way out; other looks need neither."""
    table = make_types(tmp_path, masks=False)
    with pytest.raises(DataError, match="part/test/blot/000 has no mask: use the look predicted, or whole") as problem:
        gather(table, SMALL, progress=False)
    check_line(problem)
    predicted = replace(SMALL, look="predicted")
    for maps, found in ((None, "none"), (np.zeros((3, 8, 8)), "3")):
        with pytest.raises(
            DataError, match=f"15 defective images need as many .*maps, and there are {found}"
        ) as problem:
            gather(table, predicted, maps, progress=False)
        check_line(problem)
    with pytest.raises(DataError, match="anomaly map 0 holds values that are not finite") as problem:
        gather(table, predicted, np.full((15, 8, 8), np.nan), progress=False)
    check_line(problem)
    assert len(gather(table, replace(SMALL, look="whole"), progress=False).typed) == 13


def test_anomaly_maps_are_padims(make_types: Callable[..., pd.DataFrame], table: pd.DataFrame, tmp_path: Path) -> None:
    """Fitted on the good training images, in the order of the defective rows; too few of these are refused."""
    own = Padim(image_size=64, crop=64, channels=8, weights="random")
    found = material.anomaly_maps(table, SMALL, own, progress=False)
    good = table[(table["split"] == "train") & (table["label"] == 0)]
    detector = replace(own, backbone="resnet18", weights="drawn").fit(list(good["image_path"]), 0)
    np.testing.assert_array_equal(found, detector.score(list(table.loc[table["label"] == 1, "image_path"])).maps)
    assert found.shape == (15, 64, 64)
    one = make_types(tmp_path, train=1)
    with pytest.raises(DataError, match="part has 1 good training images, too few for an anomaly map") as problem:
        material.anomaly_maps(one, SMALL, own, progress=False)
    check_line(problem)


# Answers ------------------------------------------------------------------------------------------------------------

WAYS = ["always the same", "mean colours", "frozen, linear probe", "frozen, prototypes", "frozen, k-NN"]


@pytest.fixture(scope="module")
def answered(own: Material) -> tuple[dict[str, ways.Answer], dict[str, DefectTyper], np.ndarray, np.ndarray]:
    """Every second typed image is learned from, the others are named."""
    train, test = own.typed[::2], own.typed[1::2]
    found, typers = ways.answers(SMALL, own, train, test, ("supcon", "simclr"), seed=3)
    return found, typers, train, test


def test_every_way_answers_for_every_image(answered: tuple, own: Material) -> None:
    """Two ways a network, three that need none trained; the frozen one took no step."""
    found, typers, train, test = answered
    trained = [f"{name}, {way}" for name in ("supcon", "simclr") for way in ("prototypes", "k-NN")]
    assert sorted(found) == sorted([*WAYS, *trained])
    assert all(answer.said.shape == (len(test),) for answer in found.values())
    assert list(typers) == ["frozen", "supcon", "simclr"]
    assert [len(typer.curve) for typer in typers.values()] == [0, 1, 1]
    assert [typer.seed for typer in typers.values()] == [3] * 3
    assert [typers[name].settings.objective for name in ("supcon", "simclr")] == ["supcon", "simclr"]
    for typer in typers.values():
        assert typer.types.tolist() == own.types[train].tolist()
    (only,) = set(found["always the same"].said)
    assert only in set(own.types)


def test_prototypes_and_neighbours_are_those_of_scikit_learn(answered: tuple, own: Material) -> None:
    """Of the embeddings that come with the answer."""
    found, typers, train, _ = answered
    for name, typer in typers.items():
        answer = found[f"{name}, prototypes"]
        asked, known = answer.embeddings
        np.testing.assert_array_equal(known, typer.embeddings)
        types = own.types[train].astype(str)
        middles = {one: known[types == one].mean(0) for one in set(types)}
        nearest = [min(middles, key=lambda one, row=row: cosine(row, middles[one])) for row in asked]
        assert answer.said.tolist() == nearest
        distances = np.sort(1 - asked.astype(float) @ known.T.astype(float), 1)
        np.testing.assert_allclose(answer.novelty, distances[:, : SMALL.neighbours].mean(1), atol=1e-5)
        voters = KNeighborsClassifier(3, weights="distance", metric="cosine").fit(known, types)
        assert found[f"{name}, k-NN"].said.tolist() == voters.predict(asked).tolist()


def test_mean_colours_are_a_nearest_centroid(answered: tuple, own: Material) -> None:
    """Of mean and spread of each colour, standardised on the training images, by scikit-learn."""
    found, _, train, test = answered
    features = np.array([[*image.mean((0, 1)), *image.std((0, 1))] for image in own.images.astype(float)])
    scaler = StandardScaler().fit(features[train])
    nearest = NearestCentroid().fit(scaler.transform(features[train]), own.types[train].astype(str))
    assert found["mean colours"].said.tolist() == nearest.predict(scaler.transform(features[test])).tolist()
    assert found["mean colours"].novelty is None


def test_the_probe_is_a_penalised_regression(answered: tuple, own: Material) -> None:
    """Its objective minimised by scipy: balanced cross entropy times C = 0.1, plus half of the squared weights."""
    found, typers, train, _ = answered
    known, asked = typers["frozen"].embeddings.astype(float), found["frozen, prototypes"].embeddings[0].astype(float)
    scale = np.sqrt(known.shape[1])
    names, numbers = np.unique(own.types[train].astype(str), return_inverse=True)
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
    np.testing.assert_allclose(found["frozen, linear probe"].novelty, 1 - chances.max(1), atol=5e-3)
    assert found["frozen, linear probe"].said.tolist() == names[chances.argmax(1)].tolist()


# Folds --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folded(own: Material) -> tuple[pd.DataFrame, pd.DataFrame, Watch]:
    """Three folds, twice."""
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ways, "fit", watch)
        verdicts, quality = experiment.cross_validate(SMALL, own, progress=False)
    return verdicts, quality, watch


def test_each_typed_image_is_tested_once_a_repeat(folded: tuple, own: Material) -> None:
    """By every way; the folds of the two repeats differ, and each holds every type."""
    verdicts, _, _ = folded
    ids = own.table["image_id"].to_numpy()
    typed = verdicts[verdicts["defect"] != "combined"]
    for (_, way), rows in typed.groupby(["repeat", "way"]):
        assert sorted(rows["image_id"]) == sorted(ids[own.typed]), way
        assert (rows.groupby("fold")["defect"].nunique() == 3).all()
    first, second = (
        typed[(typed["repeat"] == k) & (typed["way"] == WAYS[0])].set_index("image_id")["fold"] for k in (0, 1)
    )
    assert first[second.index].tolist() != second.tolist()
    truth = dict(zip(ids, own.types, strict=True))
    assert verdicts["defect"].tolist() == [truth[name] for name in verdicts["image_id"]]
    assert set(verdicts["way"]) == {*WAYS, "supcon, prototypes", "supcon, k-NN"}


def test_no_image_is_named_by_a_model_that_has_seen_it(folded: tuple, own: Material) -> None:
    """And mixtures are never learned from, but named in every fold."""
    verdicts, _, watch = folded
    ids = own.table["image_id"].to_numpy()
    assert len(watch.rows) == 2 * 3 * 2  # repeats, folds, and the frozen beside the trained one
    places = [(repeat, fold) for repeat in range(2) for fold in range(3)]
    for number, (repeat, fold) in enumerate(places):
        asked = verdicts[(verdicts["repeat"] == repeat) & (verdicts["fold"] == fold)]
        tested, mixed = (set(asked.loc[(asked["defect"] == "combined") == one, "image_id"]) for one in (False, True))
        assert mixed == set(ids[own.mixed])
        for rows in watch.rows[2 * number : 2 * number + 2]:
            assert set(ids[rows]) == set(ids[own.typed]) - tested
    assert not any(np.isin(rows, own.mixed).any() for rows in watch.rows)
    assert [settings.steps for settings in watch.settings] == [0, 1] * 6


def test_quality_is_that_of_the_verdicts(folded: tuple) -> None:
    """Scikit-learn's, of the images with one type; a row per fold and way."""
    verdicts, quality, _ = folded
    assert len(quality) == 6 * 7
    single = verdicts[verdicts["defect"] != "combined"]
    for (repeat, fold, way), rows in single.groupby(["repeat", "fold", "way"]):
        found = quality[(quality["repeat"] == repeat) & (quality["fold"] == fold) & (quality["way"] == way)].iloc[0]
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(rows["defect"], rows["said"]))
        f1 = f1_score(rows["defect"], rows["said"], average="macro", zero_division=0)
        assert found["macro_f1"] == pytest.approx(f1)
        assert np.isnan(found["retrieval_map"]) == ("prototypes" not in way)
    chance = quality[quality["way"] == WAYS[0]]["balanced_accuracy"]
    np.testing.assert_allclose(chance, 1 / 3)


def test_quality_of_embeddings_leaves_mixtures_out(answered: tuple, own: Material) -> None:
    """What follows the first images of an answer changes nothing."""
    found, _, train, test = answered
    answer = found["frozen, prototypes"]
    types, known = own.types[test], own.types[train]
    measured = experiment._quality(types, known, answer)
    assert measured["silhouette"] == pytest.approx(silhouette_score(answer.embeddings[0], types, metric="cosine"))
    longer = ways.Answer(
        np.append(answer.said, ["blot"] * 2),
        None,
        (np.concatenate([answer.embeddings[0], answer.embeddings[0][:2]]), answer.embeddings[1]),
    )
    assert experiment._quality(types, known, longer) == measured


def test_a_type_with_fewer_images_than_folds_is_refused(own: Material) -> None:
    """It is named."""
    with pytest.raises(DataError, match="part/dye has 3 images, too few for 4 folds") as problem:
        experiment.cross_validate(replace(SMALL, folds=4), own, progress=False)
    check_line(problem)


def test_checkpoints_are_kept_on_request(own: Material, own_home: Path) -> None:
    """And listed, one a training; a second run finds them and gives the same; without the request there are none."""
    once = replace(SMALL, repeats=1, steps=2)
    plain, _ = experiment.cross_validate(once, own, progress=False)
    folder = own_home / "transfer" / "checkpoints"
    assert not folder.exists()
    kept: list[Path] = []
    first, _ = experiment.cross_validate(once, own, kept=kept, progress=False)
    assert sorted(kept) == sorted(folder.iterdir())
    assert len(set(kept)) == 3
    second, _ = experiment.cross_validate(once, own, kept=kept, progress=False)
    pd.testing.assert_frame_equal(first, plain)
    pd.testing.assert_frame_equal(second, plain)


# Types left out -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left(own: Material) -> tuple[pd.DataFrame, pd.DataFrame, Watch]:
    """Each of three types in turn, two folds of the others."""
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ways, "fit", watch)
        novelty, shown = experiment.leave_one_out(SMALL, own, folds=2, progress=False)
    return novelty, shown, watch


def test_the_type_that_is_left_out_is_in_no_training_set(left: tuple, own: Material) -> None:
    """Nor is any image that is asked about, nor a mixture."""
    novelty, _, watch = left
    ids = own.table["image_id"].to_numpy()
    assert len(watch.rows) == 3 * 2 * 2
    places = [(name, fold) for name in ("blot", "cut", "dye") for fold in (0, 1)]
    for number, (name, fold) in enumerate(places):
        asked = novelty[(novelty["left_out"] == name) & (novelty["fold"] == fold)]
        for rows in watch.rows[2 * number : 2 * number + 2]:
            assert set(own.types[rows]) == {"blot", "cut", "dye"} - {name}
            assert set(ids[rows]).isdisjoint(asked["image_id"])
            assert set(ids[rows]) | set(asked["image_id"]) == set(ids[own.typed])


def test_every_image_is_asked_about(left: tuple, own: Material) -> None:
    """Of the left-out type in every fold, of the known ones once; `known` tells them apart."""
    novelty, _, _ = left
    ids, types = own.table["image_id"].to_numpy(), own.types
    truth = dict(zip(ids, types, strict=True))
    assert (novelty["known"] == (novelty["image_id"].map(truth) != novelty["left_out"])).all()
    assert set(novelty["way"]) == {"frozen, linear probe", "frozen, prototypes", "supcon, prototypes"}
    for (name, _), rows in novelty.groupby(["left_out", "way"]):
        known, new = rows[rows["known"]], rows[~rows["known"]]
        assert sorted(known["image_id"]) == sorted(ids[own.typed][types[own.typed] != name])
        assert sorted(new["image_id"]) == sorted(np.tile(ids[types == name], 2))
    assert np.isfinite(novelty["novelty"]).all()


def test_a_few_images_teach_a_type(left: tuple) -> None:
    """1, 2 or 4 of them, never all; five choices each, of every network."""
    _, shown, _ = left
    shots = {name: sorted(set(rows["shots"])) for name, rows in shown.groupby("left_out")}
    assert shots == {"blot": [1, 2, 4], "cut": [1, 2], "dye": [1, 2]}
    assert (shown.groupby(["left_out", "fold", "way", "shots"]).size() == experiment.DRAWS).all()
    assert set(shown["way"]) == {"frozen", "supcon"}
    assert shown[["recall", "balanced_accuracy"]].stack().between(0, 1).all()


def test_few_shot_figures_are_those_of_a_loop(answered: tuple, own: Material) -> None:
    """A prototype of the chosen ones; recall of the rest of the new type, balanced accuracy over all that is left."""
    _, typers, _, test = answered
    typer = typers["frozen"]
    new = own.typed[own.types[own.typed] == "dye"]
    keep = typer.types != "dye"
    typer = replace(typer, embeddings=typer.embeddings[keep], types=typer.types[keep])
    known = test[own.types[test] != "dye"]
    rows = list(experiment.few_shot(typer, own, known, new))
    assert [(row["shots"], row["draw"]) for row in rows] == [(shots, draw) for shots in (1, 2) for draw in range(5)]
    embedded = {k: ways.embed(typer.encoder, own.views.plain[k : k + 1])[0] for k in [*known, *new]}
    for row in rows:
        possible = []  # the choice is not told: it must be one of all
        for chosen in [set(pick) for pick in _choices(list(new), row["shots"])]:
            mean = np.mean([embedded[k] for k in chosen], axis=0)
            likeness = {
                **dict(zip(typer.names, typer.prototypes, strict=True)),
                "dye": mean / np.linalg.norm(mean),
            }
            rest = [k for k in [*known, *new] if k not in chosen]
            said = [max(likeness, key=lambda name, k=k: float(embedded[k] @ likeness[name])) for k in rest]
            truth = [own.types[k] for k in rest]
            recall = np.mean([one == "dye" for one, true in zip(said, truth, strict=True) if true == "dye"])
            recalls = [
                np.mean([s == name for s, t in zip(said, truth, strict=True) if t == name]) for name in set(truth)
            ]
            possible.append((recall, np.mean(recalls)))
        assert any((row["recall"], row["balanced_accuracy"]) == pytest.approx(one) for one in possible)


def _choices(items: list[int], count: int) -> list[list[int]]:
    """All ways to take so many."""
    if count == 0:
        return [[]]
    return [[items[i], *rest] for i in range(len(items)) for rest in _choices(items[i + 1 :], count - 1)]


def test_two_types_leave_none_to_tell_apart(own: Material) -> None:
    """When one of them is left out."""
    two = replace(own, typed=own.typed[own.types[own.typed] != "dye"])
    with pytest.raises(DataError, match="leaving out a type needs three or more of them, and part has 2") as problem:
        experiment.leave_one_out(SMALL, two, progress=False)
    check_line(problem)


# Limits and summaries -----------------------------------------------------------------------------------------------


def novelties(seed: int = 0, known: int = 9, new: int = 6) -> pd.DataFrame:
    """As `leave_one_out` returns them, with scales that differ between folds."""
    rng = np.random.default_rng(seed)
    rows = [
        {"left_out": left_out, "fold": fold, "way": way, "image_id": f"{kind}{fold}-{k}", "known": kind == "known"}
        | {"novelty": rng.normal((kind == "new") * 1.5 + 0.3 * fold, 1)}
        for left_out in ("bent", "hole")
        for way in ("one", "other")
        for fold in range(3)
        for kind, count in (("known", known), ("new", new))
        for k in range(count)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("rate", [0.1, 0.25])
def test_open_sets_equal_brute_force(rate: float) -> None:
    """AUROC within each fold; a fold's limit is the conformal quantile of the others' known images."""
    table = novelties()
    found = experiment.open_set_summary(table, rate).set_index(["left_out", "way"])
    assert len(found) == 4
    for (left_out, way), part in table.groupby(["left_out", "way"]):
        aurocs, called, false = [], [], []
        for fold in range(3):
            own = part[part["fold"] == fold]
            others = sorted(part[(part["fold"] != fold) & part["known"]]["novelty"])
            limit = others[int(np.ceil(round((len(others) + 1) * (1 - rate), 9))) - 1]
            aurocs.append(roc_auc_score(~own["known"], own["novelty"]))
            called.append((own.loc[~own["known"], "novelty"] > limit).mean())
            false.append((own.loc[own["known"], "novelty"] > limit).mean())
        row = found.loc[(left_out, way)]
        assert row["auroc"] == pytest.approx(np.mean(aurocs))
        assert row["called_unknown"] == pytest.approx(np.mean(called))
        assert row["false_unknown"] == pytest.approx(np.mean(false))


def test_too_few_known_images_vouch_for_no_limit() -> None:
    """Then nothing is called unknown, and the AUROC stays."""
    table = novelties(known=4)  # eight in the other folds, nine are needed for a tenth
    found = experiment.open_set_summary(table, 0.1)
    assert (found[["called_unknown", "false_unknown"]] == 0).all(axis=None)
    assert (found["auroc"] > 0.6).all()
    enough = experiment.open_set_summary(table, 0.2)
    assert (enough["called_unknown"] > 0).all()


def test_open_sets_of_real_runs(left: tuple) -> None:
    """A row a type and way."""
    novelty, _, _ = left
    found = experiment.open_set_summary(novelty, 0.2)
    assert len(found) == 3 * 3
    rows = novelty[(novelty["left_out"] == "blot") & (novelty["way"] == "frozen, prototypes")]
    expected = np.mean([roc_auc_score(~own["known"], own["novelty"]) for _, own in rows.groupby("fold")])
    row = found[(found["left_out"] == "blot") & (found["way"] == "frozen, prototypes")].iloc[0]
    assert row["auroc"] == pytest.approx(expected)


def test_the_limit_is_the_conformal_quantile_of_known_images() -> None:
    """Each image's mean over the repeats; of 19 images a tenth gives the 18th smallest, whatever mixtures scored."""
    rng = np.random.default_rng(2)
    scores = rng.permutation(19).astype(float)
    rows = [
        {"way": way, "image_id": f"i{k}", "defect": "bent", "novelty": score + offset + 50 * (way == "other")}
        for way in ("own", "other")
        for offset in (-0.25, 0.25)
        for k, score in enumerate(scores)
    ]
    mixed = [{"way": "own", "image_id": f"m{k}", "defect": "combined", "novelty": 1000.0} for k in range(30)]
    table = pd.DataFrame(rows + mixed).sample(frac=1, random_state=0)
    settings = replace(SMALL, unknown=0.1)
    assert experiment.calibrated_limit(table, "own", settings) == pytest.approx(17)  # ⌈20 · 0.9⌉ = 18, counted from 0
    assert experiment.calibrated_limit(table, "other", settings) == pytest.approx(67)
    assert experiment.calibrated_limit(table, "own", replace(settings, unknown=0.5)) == pytest.approx(9)
    few = table[table["image_id"].isin([*(f"i{k}" for k in range(8)), *(f"m{k}" for k in range(30))])]
    assert experiment.calibrated_limit(few, "own", settings) == np.inf  # nine are needed


def test_differences_are_paired() -> None:
    """A way that is better by 0.1 in every fold is so without doubt, in whatever order its rows come."""
    rng = np.random.default_rng(3)
    base = [
        {"repeat": repeat, "fold": fold, "way": "frozen, prototypes", "balanced_accuracy": rng.uniform(0.3, 0.8)}
        for repeat in range(2)
        for fold in range(4)
    ]
    frozen = pd.DataFrame(base).assign(macro_f1=0.5, retrieval_map=rng.uniform(size=8), silhouette=np.nan)
    better = frozen.assign(way="supcon, prototypes", balanced_accuracy=frozen["balanced_accuracy"] + 0.1)
    chance = frozen.assign(way="always the same", balanced_accuracy=rng.uniform(size=8), retrieval_map=np.nan)
    quality = pd.concat([chance, better.sample(frac=1, random_state=1), frozen], ignore_index=True)
    found = experiment.summary(quality, 4)
    assert list(found) == ["always the same", "supcon, prototypes", "frozen, prototypes"]
    assert found["supcon, prototypes"]["balanced_accuracy_difference"] == pytest.approx(
        {"mean": 0.1, "low": 0.1, "high": 0.1}
    )
    assert found["frozen, prototypes"]["balanced_accuracy_difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    for table, way in ((frozen, "frozen, prototypes"), (chance, "always the same")):
        for values, name in (
            (table["balanced_accuracy"], "balanced_accuracy"),
            (table["balanced_accuracy"] - frozen["balanced_accuracy"], "balanced_accuracy_difference"),
        ):
            reach = student.ppf(0.975, 7) * np.sqrt((1 / 8 + 1 / 3) * values.var(ddof=1))
            lowest = values.mean() - reach
            if name == "balanced_accuracy":
                lowest = max(0.0, lowest)
            expected = {"mean": values.mean(), "low": lowest, "high": min(1.0, values.mean() + reach)}
            assert found[way][name] == pytest.approx(expected)
    assert "silhouette" not in found["frozen, prototypes"]
    assert "retrieval_map" not in found["always the same"]
    assert "retrieval_map" in found["frozen, prototypes"]


def test_intervals_stay_within_the_range_of_a_metric() -> None:
    """Two folds that hardly agree have a wide t interval; no metric exceeds 1."""
    rows = [
        {"repeat": 0, "fold": k, "way": "frozen, prototypes", "macro_f1": 0.5, "retrieval_map": 0.5, "silhouette": 0.0}
        | {"balanced_accuracy": value}
        for k, value in enumerate((0.4, 1.0))
    ]
    found = experiment.summary(pd.DataFrame(rows), 2)["frozen, prototypes"]["balanced_accuracy"]
    assert found["mean"] == pytest.approx(0.7)
    assert found["high"] == 1
    assert found["low"] == 0
    assert found["mean"] - metrics.corrected_t([0.4, 1.0], 0.5)["low"] > 0.7  # it would have left the range


def test_the_summary_of_a_run_has_every_way(folded: tuple) -> None:
    """With the mean of its folds."""
    _, quality, _ = folded
    found = experiment.summary(quality, SMALL.folds)
    assert set(found) == set(quality["way"])
    for way, rows in quality.groupby("way"):
        assert found[way]["balanced_accuracy"]["mean"] == pytest.approx(rows["balanced_accuracy"].mean())


def test_views_are_shared_by_all_folds(own: Material, table: pd.DataFrame) -> None:
    """They depend on images, regions, settings and seed alone."""
    again = views_of(SMALL, own.images, own.regions, seed=0, progress=False)
    assert (again.copies == own.views.copies).all()
    other = gather(table, SMALL, seed=1, progress=False)
    assert (other.views.plain == own.views.plain).all()
    assert not (other.views.copies == own.views.copies).all()
