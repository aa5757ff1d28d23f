"""An exported graph equals the model that it was made of: resizing to the bit, scores, maps, verdicts; the proof."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from mvtec_ad import artifacts, edge, export
from mvtec_ad.backbones import Backbone
from mvtec_ad.cli import main
from mvtec_ad.data.loading import resample
from mvtec_ad.errors import ArtifactError, DataError, SettingsError
from mvtec_ad.export import certificate as certificates
from mvtec_ad.export import page, resizing
from mvtec_ad.inspection.second_opinion import CalibratedDetector
from mvtec_ad.methods.autoencoder import Autoencoder, Vae
from mvtec_ad.methods.base import Detector, FeatureDetector
from mvtec_ad.methods.classifier import Classifier, ClassifierNetwork
from mvtec_ad.methods.knn import Knn
from mvtec_ad.methods.padim import Padim
from mvtec_ad.methods.patchcore import Patchcore

PROJECT = Path(__file__).resolve().parents[1]
SIZES = [(50, 70), (32, 32), (64, 96), (20, 90), (7, 5), (33, 31), (128, 64)]  # height, width of pictures


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise, in which every value is half way between two others somewhere."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def small_backbone() -> Backbone:
    """Three layers of strides 4, 8 and 16, random and soon traced."""
    torch.manual_seed(0)
    steps = [torch.nn.Conv2d(3, 8, 5, 4, 2), torch.nn.Conv2d(8, 12, 3, 2, 1), torch.nn.Conv2d(12, 16, 3, 2, 1)]
    network = torch.nn.ModuleList(steps).requires_grad_(False).eval()

    def tensors(pixels: torch.Tensor) -> list[torch.Tensor]:
        layers = []
        for step in network:
            pixels = step(pixels).relu()
            layers.append(pixels)
        return layers

    def forward(images: np.ndarray) -> list[torch.Tensor]:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        return [layer.permute(0, 2, 3, 1) for layer in tensors(pixels)]

    return Backbone("small", "random", True, forward, tensors=tensors, network=network)


def detector_of(kind: type[Detector], **options: Any) -> Detector:
    """Fitted on noise of 32 pixels, of which the central 24 (a method that halves: all) are looked at."""
    detector = kind(**{"image_size": 32, "crop": 24} | options)
    if isinstance(detector, FeatureDetector) or "features" in options.values():
        detector.use_backbone(small_backbone())
    return detector.fit(np.stack([picture(32, 32, seed) for seed in range(1, 9)]), seed=0)


def exported(detector: Detector) -> tuple[export.Fitted, bytes]:
    """With its median good score as threshold, which noise is on both sides of."""
    threshold = {"value": float(np.median(detector.good_scores)), "false_alarm_rate": 0.5}
    model = export.fitted(detector, "noise", threshold)
    return model, export.to_onnx(model).SerializeToString()


@pytest.fixture(scope="module")
def patchcore() -> tuple[export.Fitted, bytes]:
    """PatchCore and its graph."""
    return exported(detector_of(Patchcore, coreset=0.9, sigma=1.0))


@pytest.mark.parametrize("size", [32, 45])
def test_the_graph_resizes_as_opencv_to_the_bit(size: int) -> None:
    """Areas, whole factors (of 2: halves go up, of 3, of 4), one axis that grows, both; down to one pixel."""
    graph = resizing.resized(size).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    shapes = [(100, 117), (64, 64), (90, 90), (96, 128), (180, 135), (31, 200), (9, 300), (20, 13), (1, 1), (2, 77)]
    for height, width in [*shapes, *SIZES, (size, size), (size, 1)]:
        image = picture(height, width)
        (square,) = session.run(None, {"image": image})
        np.testing.assert_array_equal(square, resample(image, size, size), f"{height}×{width}")
    exact = cv2.resize(picture(90, 90), (size, size), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(session.run(None, {"image": picture(90, 90)})[0], exact)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Padim, {"channels": 5}),  # fewer than the 8 images: direct
        (Padim, {"channels": 20, "interpolation": "bilinear", "sigma": 0.0, "feature_scale": 2.0}),  # dual
        (Autoencoder, {"crop": 32, "width": 2, "depth": 2, "steps": 2, "latent": 0, "image_score": "error"}),
        (Vae, {"crop": 32, "width": 2, "depth": 2, "steps": 2, "map": "features", "image_score": "elbo"}),
    ],
    ids=["direct", "dual", "ssim", "features"],
)
def test_scores_maps_and_verdicts_equal_the_models(kind: type[Detector], options: dict[str, Any]) -> None:
    """Of pictures of any size; the image that comes with them is the one that the model sees."""
    detector = detector_of(kind, **options)
    model, graph = exported(detector)
    check(edge.EdgeModel(graph), model)


def test_a_classifier_gives_logit_and_verdict_without_a_map() -> None:
    """Its pyramid's cells do not divide the grid; one that looks for the item first is refused."""
    torch.manual_seed(0)
    model = Classifier(roi="whole", image_size=40, pyramid=(1, 3))
    model.network = ClassifierNetwork(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, 4, 2)), model.pyramid, True)
    model.seed, model.validation = 0, pd.DataFrame({"label": [0, 1, 0], "score": [-0.25, 1.0, 0.5]})
    images = [picture(height, width, number + 50) for number, (height, width) in enumerate(SIZES)]
    logits = [float(model.logits(resample(image, 40, 40)[None])[0]) for image in images]
    fitted = export.fitted_classifier(model, "noise", float(np.median(logits)) + 1e-4)
    opened = edge.EdgeModel(export.to_onnx(fitted).SerializeToString())
    for image, logit in zip(images, logits, strict=True):
        score, anomaly_map, defect = opened.run(image)
        assert score == pytest.approx(logit, rel=1e-4)
        assert anomaly_map is None
        assert defect == (logit > opened.threshold)
    assert (opened.false_alarm_rate, opened.good_scores.tolist()) == (None, [-0.25, 0.5])
    with pytest.raises(SettingsError, match="roi registered finds the item by key points"):
        export.fitted_classifier(Classifier(), "noise", 0.0)


def check(opened: edge.EdgeModel, model: export.Fitted) -> None:
    """Equal up to the rounding of float32."""
    for number, (height, width) in enumerate(SIZES):
        image = picture(height, width, number + 50)
        expected_image, expected, expected_map = model.score(image)
        seen, score, anomaly_map = opened.score(image)
        np.testing.assert_array_equal(seen, expected_image)
        assert score == pytest.approx(expected, rel=1e-4)
        np.testing.assert_allclose(anomaly_map, expected_map, rtol=1e-3, atol=1e-4 * float(expected_map.max()))
        assert opened.run(image)[2] == (expected > opened.threshold)


def test_patchcore_and_what_the_file_says_of_itself(patchcore: tuple[export.Fitted, bytes], tmp_path: Path) -> None:
    """From a file too; the manifest carries what a line needs to know."""
    model, graph = patchcore
    path = tmp_path / "model.onnx"
    path.write_bytes(graph)
    opened = edge.EdgeModel(path)
    check(opened, model)
    detector = model.head.detector
    assert (opened.method, opened.category, opened.image_size, opened.crop) == ("patchcore", "noise", 32, 24)
    np.testing.assert_array_equal(opened.good_scores, detector.good_scores)
    own_threshold = float(np.median(detector.good_scores))
    assert opened.manifest["threshold"]["model"] == own_threshold
    assert own_threshold * 1.00009 < opened.threshold < own_threshold * 1.00011  # a tie is no defect after rounding
    assert opened.map_scale == CalibratedDetector(detector, own_threshold).map_scale
    assert opened.false_alarm_rate == 0.5
    with pytest.raises(DataError, match=r"must be \(H, W, 3\) uint8"):
        opened.score(np.zeros((8, 8, 3), np.float32))


def test_int8_weights_are_rounded_to_a_127th_of_the_largest(patchcore: tuple[export.Fitted, bytes]) -> None:
    """Row by row, and the graph still scores; the bank itself is stored in a quarter of its bytes."""
    model, graph = patchcore
    small = export.with_int8_weights(onnx.load_from_string(graph))
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in small.graph.initializer}
    bank = model.head.bank.numpy()
    names = [name for name in arrays if arrays[name].shape == bank.shape]
    assert names
    assert not [name for name in names if arrays[name].dtype != np.int8]
    for name in names:
        restored = arrays[name] * arrays[name.replace("_int8", "_scale")][:, None]
        assert (np.abs(restored - bank) <= np.abs(bank).max(1, keepdims=True) / 127 / 2 * 1.001).all()
    scores = [edge.EdgeModel(data).run(picture(40, 40, 99))[0] for data in (graph, small.SerializeToString())]
    assert scores[0] != scores[1] == pytest.approx(scores[0], rel=0.1)


@pytest.fixture(scope="module")
def lowered(patchcore: tuple[export.Fitted, bytes]) -> onnx.ModelProto:
    """The graph of the same model under another threshold, below all its scores."""
    limit = {"value": -1.0, "false_alarm_rate": 0.5}
    return export.to_onnx(export.fitted(patchcore[0].head.detector, "noise", limit))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Files of noise."""
    paths = [tmp_path / "noise" / f"{number}.png" for number in range(6)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        Image.fromarray(picture(40, 48, number + 50)).save(path)
    return paths


def test_the_certificate_counts_what_differs(
    patchcore: tuple[export.Fitted, bytes],
    lowered: onnx.ModelProto,
    images: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside the true graph one whose threshold is lower: exactly the images between the two change."""
    monkeypatch.setattr(certificates, "TIMED", 2)
    model, graph = patchcore
    scores = np.array([model.score(np.array(Image.open(path)))[1] for path in images])
    graphs = {"float32": graph, "other": lowered.SerializeToString()}
    certificate = export.certify(model, graphs, {"good": images[:2], "test": images[2:]})
    assert certificate["images"] == {"good": 2, "test": 4}
    assert certificate["graphs"]["float32"]["verdicts_changed"] == 0
    assert certificate["graphs"]["float32"]["relative_score_difference"] < 1e-4
    good = int((scores <= model.description["threshold"]["model"]).sum())
    assert 0 < good == certificate["graphs"]["other"]["verdicts_changed"]
    assert len(certificate["graphs"]["other"]["changed"]) == good
    lines = "\n".join(export.certificate_lines(certificate))
    assert re.search(rf"verdicts changed +\| +0 +\| +{good} ", lines)


def test_a_graph_that_judges_otherwise_is_not_written(
    patchcore: tuple[export.Fitted, bytes],
    lowered: onnx.ModelProto,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What lies at its place stays; without an image nothing is promised either."""
    monkeypatch.setattr(certificates, "TIMED", 1)
    model, _ = patchcore
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"old")
    monkeypatch.setattr(export, "to_onnx", lambda _: lowered)
    with pytest.raises(DataError, match=r"calls \d of 6 images otherwise than the model, first noise/\d.png"):
        export.export_model(model, folder, "model", {"test": images})
    assert [path.read_bytes() for path in folder.iterdir()] == [b"old"]
    with pytest.raises(DataError, match="needs images"):
        export.export_model(model, folder, "model", {"good": []})


def test_what_cannot_be_exported_is_one_line() -> None:
    """A method without a head, a network of Keras, one that is not fitted, one beyond 2 GB."""
    limit = {"value": 1.0, "false_alarm_rate": 0.05}
    with pytest.raises(SettingsError, match="knn cannot be exported"):
        export.fitted(detector_of(Knn), "noise", limit)
    keras = Padim()
    keras.use_backbone(Backbone("keras:mobilenet", "random", False, lambda images: []))
    with pytest.raises(SettingsError, match="keras:mobilenet runs in Keras"):
        export.fitted(keras, "noise", limit)
    with pytest.raises(SettingsError, match="is not fitted"):
        export.fitted(Autoencoder(), "noise", limit)


def test_files_that_are_none_of_ours(tmp_path: Path, patchcore: tuple[export.Fitted, bytes]) -> None:
    """Missing, damaged, another graph, ours without its notes, of another schema: a line each."""
    with pytest.raises(ArtifactError, match="is missing"):
        edge.EdgeModel(tmp_path / "no.onnx")
    with pytest.raises(ArtifactError, match="cannot be opened"):
        edge.EdgeModel(patchcore[1][:1000])
    with pytest.raises(ArtifactError, match="takes or gives something else"):
        edge.EdgeModel(resizing.resized(8).SerializeToString())
    graph = onnx.load_from_string(patchcore[1])
    note = graph.metadata_props[0]
    note.value = json.dumps(json.loads(note.value) | {"schema": 99})
    with pytest.raises(ArtifactError, match="of schema 99"):
        edge.EdgeModel(graph.SerializeToString())
    note.value = "[]"
    with pytest.raises(ArtifactError, match="none of ours"):
        edge.EdgeModel(graph.SerializeToString())


BARE = """
import sys
REFUSED = "torch torchvision tensorflow keras timm pandas scipy sklearn joblib psutil matplotlib seaborn tqdm "
REFUSED += "safetensors captum umap bokeh jinja2 onnx onnxscript"
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED.split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from mvtec_ad.cli import main
sys.exit(main(sys.argv[1:]))
"""


def bare(*words: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """The command line where only numpy, OpenCV, Pillow and onnxruntime are installed."""
    child = [sys.executable, "-c", BARE, *map(str, words)]
    return subprocess.run(child, cwd=home, env={"PYTHONPATH": str(PROJECT)}, capture_output=True, text=True)


def test_detect_needs_numpy_opencv_pillow_and_onnxruntime_alone(
    patchcore: tuple[export.Fitted, bytes], images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same rows as the artifact gives with everything there; what cannot be done says what to install."""
    model, graph = patchcore
    (tmp_path / "model.onnx").write_bytes(graph)
    (images[0].parent / "broken.png").write_bytes(b"no image")
    detected = bare("detect", "model.onnx", images[0].parent, "--json", home=tmp_path)
    rows = json.loads(detected.stdout)
    assert detected.returncode == 2
    assert "1 of 7 images not judged" in detected.stderr
    assert "no heat maps: to draw them, pip install" in detected.stderr
    expected = {str(path): model.score(np.array(Image.open(path)))[1] for path in images}
    judged = {row["image"]: row for row in rows if row["verdict"] != "unreadable"}
    assert judged.keys() == expected.keys()
    for path, score in expected.items():
        assert judged[path]["score"] == pytest.approx(score, rel=1e-4)
        assert (judged[path]["verdict"] == "defect") == (score > judged[path]["threshold"])
    fitting = bare("fit", "padim", "--category", "part", "--out", "part.zip", home=tmp_path)
    assert fitting.returncode == 2
    assert re.fullmatch(
        r"mvtec-ad fit: \w+ is not installed: pip install \"mvtec-ad-notebooks\[notebooks\]\"\n", fitting.stderr
    )
    assert bare("detect", "--help", home=tmp_path).returncode == 0
    asked = bare("detect", "model.onnx", images[0], "--category", "noise", home=tmp_path)
    assert "--category says nothing with an exported model" in asked.stderr
    assert main(["detect", str(tmp_path / "model.onnx"), str(images[0]), "--heat-maps", str(tmp_path / "maps")]) == 0
    assert "heat maps in" in capsys.readouterr().out
    assert len(list((tmp_path / "maps").glob("*.png"))) == 1


def test_export_on_the_command_line(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files, table and certificate; what cannot work is refused before any work."""
    monkeypatch.setattr(certificates, "TIMED", 1)
    detector = detector_of(Autoencoder, crop=32, width=2, depth=2, steps=2)
    threshold = {"value": float(np.median(detector.good_scores)), "false_alarm_rate": 0.5}
    path = artifacts.save_model(tmp_path / "small.zip", detector, "noise", threshold, data_source="own")
    words = ["export", str(path), "--onnx", str(tmp_path / "out")]
    assert main(words) == 2
    assert "needs images" in capsys.readouterr().err
    assert main([*words, "--good", str(images[0].parent), "--int8"]) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "small.onnx",
        "small-int8.onnx",
        "small-certificate.json",
    }
    certificate = json.loads((tmp_path / "out" / "small-certificate.json").read_text())
    assert certificate["images"] == {"good": 6}
    assert certificate["graphs"]["float32"]["file"] == "small.onnx"
    assert certificate["graphs"]["float32"]["bytes"] == (tmp_path / "out" / "small.onnx").stat().st_size
    assert "verdicts changed" in capsys.readouterr().out
    assert edge.EdgeModel(tmp_path / "out" / "small.onnx").method == "autoencoder"


def test_the_page_holds_everything_and_asks_for_nothing(
    patchcore: tuple[export.Fitted, bytes], tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graph and runtime come out of it as they went in; where npm is missing, a line says so."""
    model, graph = patchcore
    runtime = {"script": b"let ort = '</script>';\n//# sourceMappingURL=x", "glue": b"glue", "wasm": b"\0asm"}
    text = page.inspector_page(graph, model.description, runtime)
    files = json.loads(re.search(r"^const FILES = (.*);$", text, re.M)[1])
    assert {name: gzip.decompress(base64.b64decode(data)) for name, data in files.items()} == {
        "glue": b"glue",
        "wasm": b"\0asm",
        "graph": graph,
    }
    assert text.count("</script") == 1
    assert not re.search(r"sourceMappingURL|https?://|src=", text)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="there is no npm"):
        page.onnxruntime_web()
