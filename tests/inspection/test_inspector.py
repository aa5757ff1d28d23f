"""The whole line from tiny artifacts: what each stage says equals what its model says alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mvtec_ad import artifacts, metrics
from mvtec_ad.backbones import load_backbone
from mvtec_ad.cli import main
from mvtec_ad.data import index, loading
from mvtec_ad.data.loading import read_image
from mvtec_ad.errors import ArtifactError, DataError, SettingsError
from mvtec_ad.inspection import Inspection, InspectionOptions, Inspector, ProductClassifier, RejectBand
from mvtec_ad.inspection.inspector import (
    DEFECT,
    GOOD,
    OUT_OF_DISTRIBUTION,
    UNDECIDED,
    UNREADABLE,
    CalibratedClassifier,
    Classify,
    RecogniseProduct,
)
from mvtec_ad.inspection.products import describe
from mvtec_ad.methods import classifier, defect_types
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.methods.defect_types import DefectTypes, around_peaks
from mvtec_ad.methods.padim import Padim

CLASSIFIER = Classifier(backbone="resnet18", weights="synthetic", roi="whole", image_size=64, pyramid=(1,), steps=0)
DETECTOR = Padim(backbone="resnet18", weights="synthetic", image_size=64, crop=64, channels=8, sigma=1.0)
TYPES = DefectTypes(
    backbone="resnet18", weights="synthetic", roi_size=0.5, image_size=32, copies=2, steps=0, batch=4, neighbours=2
)
OPTIONS = InspectionOptions(backbone="resnet18", weights="synthetic", image_size=64, rejected=0.02)
THRESHOLD = 9.0  # of the detector; only its place among the scores matters
GIVEN: dict[str, Any] = {"profile": "custom", "data_source": "own", "categories": [], "options": {}, "seed": 0}
GREY = np.clip(np.random.default_rng(1).normal(128, 4, (21, 40, 60, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, make_category: Callable[..., Path]) -> SimpleNamespace:
    """Models of a product with two types of defects, their artifacts, and a product without a model, grey."""
    defects = {"patch": 6, "spot": 6}
    root = make_category(tmp_path_factory.mktemp("images"), train=24, test_good=6, defects=defects, masks=False)
    table = index.read_category(root, "part")
    good = table[(table["split"] == "train") & (table["label"] == 0)]
    bad = table[table["label"] == 1].reset_index(drop=True)
    model = replace(CLASSIFIER).fit(table)
    logits = model.score(table).image.astype(float) / model.temperature
    middle = float(np.median(logits)) + 1e-4  # a band that holds about half of the images
    band = RejectBand(middle, float(np.median(np.abs(logits - middle))), {0.0: 1.0})
    detector = replace(DETECTOR).fit(list(good["image_path"]), seed=0)
    types = replace(TYPES).fit(bad, maps=detector.score(list(bad["image_path"])).maps)
    types.limit = 1.0
    network = load_backbone("resnet18", "synthetic")
    pictures = {"part": [read_image(path) for path in table["image_path"]], "grey": list(GREY[:20])}
    features = {name: describe(network, images, 64) for name, images in pictures.items()}
    coordinates = np.random.default_rng(2).normal(0, 10, (len(bad), 2)).astype(np.float32)
    folder = tmp_path_factory.mktemp("transfer")
    files = {
        "models": classifier.files(model, "part", "resnet18", threshold=middle * model.temperature, metrics={}),
        "padim": artifacts.model_files(detector, "part", {"value": THRESHOLD, "false_alarm_rate": 0.05}),
        "contrastive": defect_types.files(types, "part")
        | {"atlas.csv": bad[["image_id", "category", "defect"]], "atlas.npz": {"tsne": coordinates}},
        "inspection": ProductClassifier.fit(OPTIONS, network, features).files()
        | {"bands.json": [CalibratedClassifier("resnet18", model, band, (0.0, 2.0)).entry("part", "", "padim")]},
    }
    for stage, content in files.items():
        artifacts.save(stage, content, **GIVEN, path=folder / f"{stage}.zip")
    paths, logits = list(table["image_path"])[::2], logits[::2]  # to be inspected
    return SimpleNamespace(**{**locals(), "inspector": Inspector.load(folder, second="padim")})


def copied(line: SimpleNamespace, target: Path, without: str = "") -> Path:
    """A copy of the artifacts that may lack one."""
    shutil.copytree(line.folder, target)
    (target / f"{without or 'none'}.zip").unlink(missing_ok=True)
    return target


def test_every_stage_says_what_its_model_says(line: SimpleNamespace) -> None:
    """Probability, band, second opinion, verdict, map: each by the model alone."""
    inspections = list(line.inspector.inspect(line.paths))
    seen, band = line.detector.score(loading.load_images(line.paths, 64)), line.band
    unsure = np.abs(line.logits - band.threshold) < band.width
    assert 0 < unsure.sum() < len(unsure)
    for number, (inspection, logit) in enumerate(zip(inspections, line.logits, strict=True)):
        stages = {step.stage: step.result for step in inspection.path}
        assert (inspection.image, inspection.product, stages["product"]) == (str(line.paths[number]), "part", "part")
        assert inspection.probability == pytest.approx(metrics.probability([logit])[0], abs=1e-5)
        if unsure[number]:
            assert stages["classifier"] == "unsure"
            assert inspection.second_opinion.score == pytest.approx(float(seen.image[number]), rel=1e-4)
            expected, by = DEFECT if seen.image[number] > THRESHOLD else GOOD, "padim"
            assert np.allclose(inspection.anomaly_map, seen.maps[number], rtol=1e-3, atol=1e-3)
        else:
            expected, by = DEFECT if logit > band.threshold else GOOD, "classifier"
            assert (stages["classifier"], inspection.second_opinion) == (f"sure: {expected}", None)
            assert inspection.map_scale == (0.0, 2.0)
        assert (inspection.verdict, inspection.decided_by) == (expected, by)
        assert (inspection.score > 0) == (expected == DEFECT)
        assert inspection.anomaly_map.shape == inspection.picture.shape[:2]
        assert (inspection.type is None) == (expected == GOOD)
    assert {inspection.decided_by for inspection in inspections} == {"classifier", "padim"}
    alone = line.inspector.inspect(line.paths[-1:], anomaly_maps=False)  # depends on no neighbour, and on no map
    assert [inspection.as_dict() for inspection in alone] == [inspections[-1].as_dict()]


def test_types_and_their_places(line: SimpleNamespace) -> None:
    """The nearest prototype, and the mean place of the three nearest known defects."""
    defects = [one for one in line.inspector.inspect(line.paths) if one.verdict == DEFECT]
    images = loading.load_images([one.image for one in defects], 64)
    embeddings = line.types.embed(images, around_peaks(line.detector.score(images).maps))
    for inspection, embedding, name in zip(defects, embeddings, line.types.predict(embeddings), strict=True):
        distance = float(1 - (embedding @ line.types.prototypes.T).max())
        assert (inspection.type, inspection.type_distance) == (name, pytest.approx(distance, abs=1e-4))
        near = np.argsort(-(line.types.embeddings @ embedding))[:3]
        assert inspection.place == pytest.approx(tuple(line.coordinates[near].mean(0)), abs=1e-3)


def test_arrays_files_and_what_cannot_be_read(line: SimpleNamespace, tmp_path: Path) -> None:
    """In order; an array says what its file says, and a bad source costs no other."""
    path, broken = line.paths[-1], tmp_path / "broken.png"
    broken.write_bytes(Path(path).read_bytes()[:200])
    sources = [path, broken, read_image(path), np.zeros((4, 4)), tmp_path / "none.png"]
    file, damaged, array, grey, absent = line.inspector.inspect(sources)
    assert [inspection.verdict for inspection in (damaged, grey, absent)] == [UNREADABLE] * 3
    assert [
        "broken.png" in damaged.problem,
        "must be paths or uint8 RGB" in grey.problem,
        "none.png" in absent.problem,
    ] == [True] * 3
    assert array.image == "image 2"
    assert replace(array, image=file.image).as_dict() == file.as_dict()
    with pytest.raises(DataError, match="no images to look at"):
        line.inspector.inspect([])


def test_what_nobody_can_judge(line: SimpleNamespace) -> None:
    """None of the products goes no further, a product without a model is named; a picture to look at is there."""
    stripes = (128 + 100 * np.sign(np.sin(np.arange(64) * 0.8)))[:, None, None] * np.ones((64, 64, 3))
    other, grey = line.inspector.inspect([stripes.astype(np.uint8), GREY[20]])
    assert (other.verdict, [step.stage for step in other.path]) == (OUT_OF_DISTRIBUTION, ["product"])
    assert other.ood_score > 1
    assert (other.product, other.probability, other.score, other.anomaly_map) == (None, None, None, None)
    assert (grey.verdict, grey.product, grey.decided_by, len(grey.skipped)) == (UNDECIDED, "grey", None, 2)
    assert other.picture.ndim == grey.picture.ndim == 3


@pytest.mark.parametrize(
    ("distances", "product", "view", "expected"),
    [
        ([0.2, 0.5, 0.4], None, "", ("nut", "", "nut")),
        ([2.0, 0.5, 0.4], None, "", ("box", "top", "box top")),
        ([1.5, 1.2, 1.1], None, "", (None, "", OUT_OF_DISTRIBUTION)),
        ([0.2, 3.0, 4.0], "box", "", ("box", "side", "told")),  # told what, and asked only from which side
        ([0.2, 3.0, 4.0], "box", "top", ("box", "top", "told")),
        (None, "nut", "", ("nut", "", "told")),
        (None, "box", "", (None, "", "told")),
        (None, None, "", (None, "", "skipped")),
    ],
)
def test_product_and_view(distances: list[float] | None, product: str | None, view: str, expected: tuple) -> None:
    """The nearest one within its limit; a told one is believed; nothing is guessed."""
    names, asked = ("nut", "box/side", "box/top"), np.array([distances])
    products = distances and SimpleNamespace(names=names, distances=lambda pictures: asked)
    stage = RecogniseProduct(products, {"box": ["side", "top"], "nut": [""]}, "nothing tells")
    after = stage.apply(Inspection("x", UNDECIDED, product, view), GREY[0])
    assert (after.product, after.view, after.path[0].result) == expected


def test_a_score_that_is_no_number() -> None:
    """It is above no threshold, and must not pass as good."""
    model = SimpleNamespace(look_at=lambda *_: GREY[:1], logits=lambda _: np.array([np.nan], np.float32), temperature=1)
    stage = Classify({("nut", ""): CalibratedClassifier("net", model, RejectBand(0.0))}, "")
    with pytest.raises(DataError, match="x: net gives nan"):
        stage.apply(Inspection("x", UNDECIDED, "nut"), GREY[0])


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
    line: SimpleNamespace, tmp_path: Path, stage: str, notebook: str, skipped: str | None
) -> None:
    """And the result says which notebook makes it; all other stages go on."""
    inspector = Inspector.load(copied(line, tmp_path / "copy", without=stage), second="padim")
    assert [f"notebooks/{notebook}.ipynb" in text for text in inspector.missing] == [True]
    inspections = list(inspector.inspect(line.paths))
    assert {inspection.verdict for inspection in inspections} <= {DEFECT, GOOD}
    reasons = [text for inspection in inspections for text in inspection.skipped]
    if skipped:
        assert any(text.startswith(f"{skipped}: ") and notebook in text for text in reasons)
        if stage == "models":
            assert {inspection.decided_by for inspection in inspections} == {"padim"}
    else:  # the only product is assumed, and nobody is ever unsure
        assert {inspection.path[0].result for inspection in inspections} == {"part"}
        assert {inspection.decided_by for inspection in inspections} == {"classifier"}
        assert "nobody has checked" in inspections[0].path[0].words
        assert "no band was chosen" in inspections[0].path[1].words


def test_what_was_told(line: SimpleNamespace) -> None:
    """A product is not asked about; one without a model is refused, and so is a view of nothing; a band has its method.

    Asked for no second opinion, the classifier decides alone, at the same threshold.
    """
    (inspection,) = line.inspector.inspect(line.paths[:1], product="part")
    assert (inspection.path[0].result, inspection.ood_score) == ("told", None)
    with pytest.raises(SettingsError, match=r"no model for product 'shoe': there is one for part"):
        line.inspector.inspect([], product="shoe")
    with pytest.raises(SettingsError, match="view 'top'"):
        line.inspector.inspect([], product="part", view="top")
    alone = list(Inspector.load(line.folder, second=None).inspect(line.paths))
    assert {inspection.path[1].result for inspection in alone} == {"sure: good", "sure: defect"}


def test_what_cannot_be_loaded(line: SimpleNamespace, tmp_path: Path) -> None:
    """An empty folder, a second opinion that does not exist, a damaged artifact, another profile: each one line."""
    with pytest.raises(ArtifactError, match="holds no model to inspect with"):
        Inspector.load(tmp_path)
    with pytest.raises(SettingsError, match="second opinion 'oracle' is unknown"):
        Inspector.load(line.folder, second="oracle")
    with pytest.raises(ArtifactError, match="profile 'custom'"):
        Inspector.load(line.folder, second="padim", profile="quick")
    damaged = copied(line, tmp_path / "damaged")
    (damaged / "padim.zip").write_bytes((line.folder / "padim.zip").read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="damaged"):
        Inspector.load(damaged, second="padim")


def made_again(target: Path, stage: str, source: Path) -> None:
    """An artifact of the folder, as if it had been made from this one."""
    artifact = artifacts.load(target / f"{stage}.zip")
    artifact.extract(target / stage)
    files = {name: target / stage / name for name in artifact.names}
    artifacts.save(stage, files, **GIVEN, inputs=[artifacts.load(source)], path=target / f"{stage}.zip")


def test_models_of_different_images_are_refused(line: SimpleNamespace, tmp_path: Path) -> None:
    """One model's test image may be another's training image."""
    target = copied(line, tmp_path / "mixed")
    for number, stage in enumerate(("padim", "models")):
        data = artifacts.save("data", {"a.json": number}, **GIVEN, path=tmp_path / str(number) / "data.zip")
        made_again(target, stage, data)
    with pytest.raises(ArtifactError, match=r"two different data\.zip"):
        Inspector.load(target, second="padim")


def test_a_band_of_another_classifier_is_not_used(line: SimpleNamespace, tmp_path: Path) -> None:
    """Where models.zip was made anew, inspection.zip counts as missing, and says what to do."""
    target = copied(line, tmp_path / "stale")
    for source, missing in (("models", 0), ("padim", 1)):
        made_again(target, "inspection", shutil.copy(target / f"{source}.zip", tmp_path / "models.zip"))
        texts = Inspector.load(target, second="padim").missing
        assert len(texts) == missing
        assert all("belongs to another models.zip" in text and "08_" in text for text in texts)


def test_the_command_on_a_folder_of_mixed_images(
    line: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every good image gets its verdict, every bad one its line, and the exit status says so."""
    images = tmp_path / "mixed"
    images.mkdir()
    for number, path in enumerate(line.paths[::2]):
        shutil.copy(path, images / f"{number:03d}.png")
    broken = {"003.png": b"", "007.png": b"no picture at all", "009.png": (images / "009.png").read_bytes()[:300]}
    for name, content in broken.items():
        (images / name).write_bytes(content)
    assert main(["detect", str(line.folder), str(images), "--second", "padim"]) == 2
    printed = capsys.readouterr()
    assert f"3 of {len(line.paths[::2])} images not judged" in printed.err
    for inspection in line.inspector.inspect(sorted(images.glob("*.png")), anomaly_maps=False):
        (text,) = (text for text in printed.out.splitlines() if Path(inspection.image).name in text)
        assert text.startswith(inspection.verdict)
        assert (inspection.verdict == UNREADABLE) == (Path(inspection.image).name in broken)


def test_a_service_of_the_line_says_what_the_line_says(line: SimpleNamespace) -> None:
    """Verdict, score and threshold of whoever decided, type with its neighbours, path; and which parts are compared."""
    pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
    from mvtec_ad.serving.models import load_served
    from mvtec_ad.serving.records import record

    served = load_served(line.folder, second="padim")
    pictures = [read_image(path) for path in line.paths] + [GREY[20], np.zeros((40, 60, 3), np.uint8)]
    deciders = set()
    for picture, findings, inspection in zip(
        pictures, served.inspect(pictures), line.inspector.inspect(pictures), strict=True
    ):
        assert (findings.verdict, findings.product, findings.type) == (
            inspection.verdict,
            inspection.product,
            inspection.type,
        )
        assert [step["result"] for step in findings.path] == [step.result for step in inspection.path]
        deciders.add(inspection.decided_by)
        assert findings.passes == (findings.verdict == GOOD)
        if findings.verdict in (GOOD, DEFECT):
            assert (findings.score > findings.threshold) == (findings.verdict == DEFECT)
            assert findings.passes == (findings.stream == ("part", inspection.score))
        if inspection.decided_by == "classifier":
            assert (findings.score, findings.promised) == (inspection.probability, None)
        elif inspection.decided_by == "padim":
            assert (findings.score, findings.threshold, findings.promised) == (
                inspection.second_opinion.score,
                THRESHOLD,
                0.05,
            )
        if inspection.type is not None:
            agreeing, asked = findings.type_neighbours
            embedding = line.types.embed(
                loading.resize(picture, line.types.loaded_size)[None], around_peaks(line.detector.score([picture]).maps)
            )
            nearest = np.argsort(-(line.types.embeddings @ embedding[0]))[:asked]
            assert asked == line.types.neighbours
            assert agreeing == sum(line.types.types[nearest] == inspection.type)
        answer = record("a.png", findings, picture.shape, 1.0, "1")
        assert (answer["verdict"], bool(answer["regions"])) == (findings.verdict, findings.verdict == DEFECT) or answer[
            "regions"
        ]
    assert deciders == {"classifier", "padim", None}
    about = served.description["products"]["part"]
    assert about["threshold"] == {"value": THRESHOLD, "false_alarm_rate": 0.05}
    assert (about["types"], about["classifiers"]) == (["patch", "spot"], ["resnet18"])
    assert str(line.folder) not in str(served.description)
