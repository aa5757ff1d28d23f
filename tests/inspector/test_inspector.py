"""The whole line from tiny artifacts: what each stage says equals what its model says alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mvtec_ad import artifacts, metrics
from mvtec_ad.cli import main
from mvtec_ad.data import index, loading
from mvtec_ad.data.decoding import read_image
from mvtec_ad.errors import ArtifactError, DataError, SettingsError
from mvtec_ad.inspector import DEFECT, GOOD, STRANGER, UNDECIDED, UNREADABLE, Band, Inspector, models, products
from mvtec_ad.methods import classifier, contrastive
from mvtec_ad.methods.contrastive import around_peaks, fitting
from mvtec_ad.methods.padim import Padim
from mvtec_ad.settings import ClassifierSettings, InspectionSettings, TypingSettings

JUDGE = ClassifierSettings(weights="drawn", look="whole", image_size=64, pyramid=(1,), steps=0)
DETECTOR = Padim(weights="drawn", image_size=64, crop=64, channels=8, sigma=1.0)
TYPER = TypingSettings(weights="drawn", side=0.5, image_size=32, copies=2, steps=0, batch=4, neighbours=2)
SMALL = InspectionSettings(weights="drawn", image_size=64, rejected=0.02)
THRESHOLD = 9.0  # of the detector; only its place among the scores matters


def save(folder: Path, stage: str, members: dict[str, Any]) -> None:
    """An artifact of a custom profile."""
    path = folder / f"{stage}.zip"
    artifacts.save(
        stage, members, profile="custom", data_source="own", categories=["part"], options={}, seed=0, path=path
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, make_category: Callable[..., Path]) -> pd.DataFrame:
    """A product with two types of defects."""
    root = make_category(
        tmp_path_factory.mktemp("images"), train=24, test_good=6, defects={"patch": 6, "spot": 6}, masks=False
    )
    return index.read_category(root, "part")


@pytest.fixture(scope="module")
def parts(table: pd.DataFrame) -> dict[str, Any]:
    """The fitted models."""
    good = table[(table["split"] == "train") & (table["label"] == 0)]
    bad = table[table["label"] == 1].reset_index(drop=True)
    detector = DETECTOR.fit(list(good["image_path"]), seed=0)
    seen = loading.load_images(list(bad["image_path"]), 64)
    regions = around_peaks(detector.score(seen).maps, TYPER.side)
    typer = contrastive.fit(
        TYPER, fitting.views_of(TYPER, seen, regions, progress=False), list(bad["defect"]), progress=False
    )
    rng = np.random.default_rng(1)
    grey = [np.clip(rng.normal(128, 4, (40, 60, 3)), 0, 255).astype(np.uint8) for _ in range(20)]
    return {
        "judge": classifier.fit(JUDGE, table, progress=False),
        "detector": detector,
        "typer": replace(typer, limit=1.0),
        "typed": bad,
        "known": products.fit(SMALL, {"part": [read_image(path) for path in table["image_path"]], "grey": grey}),
        "places": rng.normal(0, 10, (len(bad), 2)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def logits(parts: dict[str, Any], table: pd.DataFrame) -> np.ndarray:
    """What the classifier says of all images, calibrated."""
    return parts["judge"].score(table).astype(float) / parts["judge"].temperature


@pytest.fixture(scope="module")
def band(logits: np.ndarray) -> Band:
    """One that holds about half of the images."""
    middle = float(np.median(logits)) + 1e-4
    return Band(middle, float(np.median(np.abs(logits - middle))), {0.0: 1.0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, parts: dict[str, Any], band: Band) -> Path:
    """All artifacts."""
    folder = tmp_path_factory.mktemp("transfer")
    judge, known = parts["judge"], parts["known"]
    save(
        folder,
        "models",
        classifier.members(judge, "part", "resnet18", threshold=band.threshold * judge.temperature, metrics={}),
    )
    limit = {"value": THRESHOLD, "false_alarm_rate": 0.05}
    save(folder, "padim", artifacts.model_files(parts["detector"], "part", limit))
    atlas = {
        "atlas.csv": parts["typed"][["image_id", "category", "defect"]],
        "atlas.npz": {"tsne": parts["places"]},
    }
    ids = list(parts["typed"]["image_id"])
    save(folder, "contrastive", contrastive.members(parts["typer"], "part", ids, {}) | atlas)
    save(
        folder,
        "inspection",
        models.members(known, [models.entry("part", "", "resnet18", "padim", band, (0.0, 2.0))]),
    )
    return folder


def without(folder: Path, stage: str, target: Path) -> Path:
    """A copy that lacks one artifact."""
    target = target / f"without_{stage}"
    shutil.copytree(folder, target)
    (target / f"{stage}.zip").unlink()
    return target


def test_every_stage_says_what_its_model_says(
    folder: Path, parts: dict[str, Any], table: pd.DataFrame, logits: np.ndarray, band: Band
) -> None:
    """Probability, band, second opinion, verdict, type, place: each by the model alone."""
    paths = list(table["image_path"])
    found = list(Inspector.load(folder, second="padim").inspect(paths))
    seen = parts["detector"].score(loading.load_images(paths, 64))
    chances = metrics.probability(logits)
    unsure = np.abs(logits - band.threshold) < band.width
    assert 0 < unsure.sum() < len(unsure)
    for number, one in enumerate(found):
        assert (one.image, one.product, one.view) == (str(paths[number]), "part", "")
        assert one.probability == pytest.approx(chances[number], abs=1e-5)
        stages = {step.stage: step.outcome for step in one.path}
        assert stages["product"] == "part"
        if unsure[number]:
            assert stages["classifier"] == "unsure"
            assert one.opinion.score == pytest.approx(float(seen.image[number]), rel=1e-4)
            expected, by = DEFECT if seen.image[number] > THRESHOLD else GOOD, "padim"
            assert np.allclose(one.heat, seen.maps[number], rtol=1e-3, atol=1e-3)
        else:
            expected, by = DEFECT if logits[number] > band.threshold else GOOD, "classifier"
            assert stages["classifier"] == f"sure: {expected}"
            assert one.opinion is None
            assert one.heat_scale == (0.0, 2.0)
        assert (one.verdict, one.decided_by) == (expected, by)
        assert (one.score > 0) == (expected == DEFECT)
        assert one.heat.shape == one.picture.shape[:2]
        assert (one.type is None) == (expected == GOOD)
    assert {one.decided_by for one in found} == {"classifier", "padim"}
    _check_types(parts, [one for one in found if one.verdict == DEFECT])


def _check_types(parts: dict[str, Any], found: list[Any]) -> None:
    typer = parts["typer"]
    images = loading.load_images([one.image for one in found], 64)
    regions = around_peaks(parts["detector"].score(images).maps, TYPER.side)
    embeddings = typer.embed(images, regions)
    for one, own, name in zip(found, embeddings, typer.name(embeddings), strict=True):
        assert one.type == name
        assert one.type_distance == pytest.approx(float(1 - (own @ typer.prototypes.T).max()), abs=1e-4)
        near = np.argsort(-(typer.embeddings @ own))[:3]
        assert one.place == pytest.approx(tuple(parts["places"][near].mean(0)), abs=1e-3)


def test_arrays_files_and_what_cannot_be_read(folder: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    """In order; an array says what its file says, and a bad source costs no other."""
    path = table["image_path"].iloc[-1]
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(path).read_bytes()[:200])
    sources = [path, broken, read_image(path), np.zeros((4, 4), np.uint8), tmp_path / "none.png"]
    inspector = Inspector.load(folder, second="padim")
    file, damaged, array, grey, absent = inspector.inspect(sources)
    assert [one.verdict for one in (damaged, grey, absent)] == [UNREADABLE] * 3
    assert ["broken.png" in damaged.problem, "is no image" in grey.problem, "none.png" in absent.problem] == [True] * 3
    assert array.image == "image 2"
    assert replace(array, image=file.image).as_dict() == file.as_dict()
    assert list(inspector.inspect([])) == []


def test_strangers_go_no_further(folder: Path) -> None:
    """Nobody judges what nobody knows; a picture to look at is there all the same."""
    stripes = (128 + 100 * np.sign(np.sin(np.arange(64) * 0.8)))[:, None, None] * np.ones((64, 64, 3))
    (one,) = Inspector.load(folder, second="padim").inspect([stripes.astype(np.uint8)])
    assert one.verdict == STRANGER
    assert one.strangeness > 1
    assert (one.product, one.probability, one.score, one.heat) == (None, None, None, None)
    assert [step.stage for step in one.path] == ["product"]
    assert one.picture.ndim == 3


def test_without_heat_maps_the_verdicts_are_the_same(folder: Path, table: pd.DataFrame) -> None:
    """Only the maps are missing."""
    inspector, paths = Inspector.load(folder, second="padim"), list(table["image_path"][-4:])
    plain, drawn = (list(inspector.inspect(paths, heat=heat)) for heat in (False, True))
    assert [one.as_dict() for one in plain] == [one.as_dict() for one in drawn]
    assert all(one.heat is None for one in plain)


@pytest.mark.parametrize(
    ("stage", "notebook", "skipped"),
    [
        ("models", "04_supervised_classifier", "classifier"),
        ("padim", "02_padim", "second opinion"),
        ("contrastive", "06_contrastive_typing", "type"),
        ("inspection", "08_inspection_pipeline", None),
    ],
)
def test_a_missing_artifact_is_a_skipped_stage(
    folder: Path, table: pd.DataFrame, tmp_path: Path, stage: str, notebook: str, skipped: str | None
) -> None:
    """And the result says which notebook makes it; all other stages go on."""
    inspector = Inspector.load(without(folder, stage, tmp_path), second="padim")
    assert len(inspector.missing) == 1
    assert f"notebooks/{notebook}.ipynb" in inspector.missing[0]
    found = list(inspector.inspect(list(table["image_path"])))
    assert {one.verdict for one in found} <= {DEFECT, GOOD}
    told = [line for one in found for line in one.skipped]
    if skipped:
        assert any(line.startswith(f"{skipped}: ") and notebook in line for line in told)
        if stage == "models":
            assert {one.decided_by for one in found} == {"padim"}
    else:  # the only product is assumed, and nobody is ever unsure
        assert {one.path[0].outcome for one in found} == {"part"}
        assert {one.decided_by for one in found} == {"classifier"}
        assert "nobody has checked" in found[0].path[0].words
        assert "no band was chosen" in found[0].path[1].words


def test_a_told_product(folder: Path, table: pd.DataFrame) -> None:
    """Is not asked about; one without a model is refused, and so is a view of nothing."""
    inspector = Inspector.load(folder, second="padim")
    (one,) = inspector.inspect([table["image_path"].iloc[0]], product="part")
    assert (one.path[0].outcome, one.strangeness) == ("told", None)
    with pytest.raises(SettingsError, match=r"no model for product 'shoe': there is one for part"):
        inspector.inspect([], product="shoe")
    with pytest.raises(SettingsError, match="view 'top'"):
        inspector.inspect([], product="part", view="top")


def test_a_product_without_any_model_is_undecided(folder: Path) -> None:
    """It is named, and that is all."""
    rng = np.random.default_rng(3)
    grey = np.clip(rng.normal(128, 4, (40, 60, 3)), 0, 255).astype(np.uint8)
    (one,) = Inspector.load(folder, second="padim").inspect([grey])
    assert (one.verdict, one.product, one.decided_by) == (UNDECIDED, "grey", None)
    assert len(one.skipped) == 2


def test_a_band_belongs_to_its_second_opinion(folder: Path, table: pd.DataFrame) -> None:
    """Asked for none, the classifier decides alone, at the same threshold."""
    alone = list(Inspector.load(folder, second=None).inspect(list(table["image_path"])))
    assert {one.decided_by for one in alone} == {"classifier"}
    assert {step.outcome for one in alone for step in one.path if step.stage == "classifier"} <= {
        "sure: good",
        "sure: defect",
    }


def test_what_cannot_be_loaded(folder: Path, tmp_path: Path) -> None:
    """An empty folder, a second opinion that does not exist, a damaged artifact, another profile: each one line."""
    with pytest.raises(ArtifactError, match="holds no model to inspect with"):
        Inspector.load(tmp_path)
    with pytest.raises(SettingsError, match="second opinion 'oracle' is unknown"):
        Inspector.load(folder, second="oracle")
    with pytest.raises(ArtifactError, match="profile 'custom'"):
        Inspector.load(folder, second="padim", profile="quick")
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / "padim.zip").write_bytes((folder / "padim.zip").read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="damaged"):
        Inspector.load(damaged, second="padim")


def test_models_of_different_images_are_refused(folder: Path, tmp_path: Path, parts: dict[str, Any]) -> None:
    """One model's test image may be another's training image."""
    target = tmp_path / "mixed"
    shutil.copytree(folder, target)
    for number, stage in enumerate(("padim", "models")):
        data = tmp_path / str(number) / "data.zip"
        given = {"profile": "custom", "data_source": "own", "categories": [], "options": {"n": number}, "seed": 0}
        artifacts.save("data", {}, **given, path=data)
        artifact = artifacts.load(target / f"{stage}.zip")
        members = {name: target / stage / name for name in artifact.names}
        artifact.extract(target / stage)
        artifacts.save(stage, members, **given, inputs=[artifacts.load(data)], path=target / f"{stage}.zip")
    with pytest.raises(ArtifactError, match=r"two different data\.zip"):
        Inspector.load(target, second="padim")


def test_a_band_of_another_classifier_is_not_used(folder: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    """Where models.zip was made anew, inspection.zip counts as missing, and says what to do."""
    target = tmp_path / "stale"
    shutil.copytree(folder, target)
    given = {"profile": "custom", "data_source": "own", "categories": [], "options": {}, "seed": 0}
    for inputs, missing in ((["models"], 0), (["padim"], 1)):
        kept = artifacts.load(folder / "inspection.zip")
        kept.extract(tmp_path / "members")
        one = tmp_path / "models.zip"
        shutil.copy(target / f"{inputs[0]}.zip", one)
        members = {name: tmp_path / "members" / name for name in kept.names}
        artifacts.save("inspection", members, **given, inputs=[artifacts.load(one)], path=target / "inspection.zip")
        found = Inspector.load(target, second="padim")
        assert len(found.missing) == missing
        assert all("belongs to another models.zip" in line and "08_" in line for line in found.missing)


def test_the_command_on_a_folder_of_mixed_images(
    folder: Path, table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every good image gets its verdict, every bad one its line, and the exit status says so; the page holds all."""
    images = tmp_path / "mixed"
    images.mkdir()
    for number, path in enumerate(table["image_path"]):
        (images / f"{number:03d}.png").write_bytes(Path(path).read_bytes())
    broken = ("007.png", "021.png", "030.png")
    (images / broken[0]).write_bytes(b"")
    (images / broken[1]).write_bytes(b"no picture at all")
    (images / broken[2]).write_bytes((images / broken[2]).read_bytes()[:300])
    page = tmp_path / "page.html"
    given = ["inspect", str(images), "--artifacts", str(folder), "--second", "padim", "--page", str(page)]
    assert main(given) == 2
    printed = capsys.readouterr()
    assert f"3 of {len(table)} images not judged" in printed.err
    alone = Inspector.load(folder, second="padim").inspect(sorted(images.glob("*.png")), heat=False)
    lines = printed.out.splitlines()
    for one in alone:
        (line,) = (line for line in lines if Path(one.image).name in line)
        assert line.startswith(one.verdict)
        assert (one.verdict == UNREADABLE) == (Path(one.image).name in broken)
    assert all(name in page.read_text(encoding="utf-8") for name in broken)


def test_heat_of_a_view_it_does_not_know(parts: dict[str, Any], table: pd.DataFrame) -> None:
    """A classifier of whole pictures takes any view; `look_at` gives what `cut` gives."""
    pictures = [read_image(path) for path in table["image_path"][:3]]
    assert np.array_equal(parts["judge"].look_at(pictures, "any"), parts["judge"].cut(table[:3])[0])
    with pytest.raises(DataError, match="view 'top' is new"):
        replace(parts["judge"], finders={"side": None}).look_at(pictures, "top")
