"""What is served says what its model says alone, and tells nothing of the machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from served import GOOD_SCORES, THRESHOLD, Scorer, part, write_onnx

from mvtec_ad import artifacts, metrics
from mvtec_ad.errors import ArtifactError, SettingsError
from mvtec_ad.methods.knn import Knn
from mvtec_ad.methods.padim import Padim
from mvtec_ad.serving.models import in_picture, load_served, promise, without_paths

SMALL = {"backbone": "resnet18", "weights": "random"}
PICTURES = [np.random.default_rng(seed).integers(0, 256, (40 + seed, 60, 3), np.uint8) for seed in range(5)]


@pytest.mark.parametrize(
    "detector",
    [Padim(**SMALL, image_size=40, crop=32, channels=8, sigma=1.0), Knn(**SMALL, image_size=32, crop=32)],
    ids=["with maps", "without"],
)
def test_an_artifact_says_what_its_detector_says(detector: Padim | Knn, tmp_path: Path) -> None:
    """Each picture by the detector alone: score, verdict, map, promise."""
    good = np.random.default_rng(9).integers(0, 256, (24, 40, 40, 3), np.uint8)
    detector.fit(good)
    limit = float(metrics.calibrated(detector.good_scores, 0.1))
    known = {"value": limit, "false_alarm_rate": 0.1}
    path = artifacts.save_model(tmp_path / "part.zip", detector, "part", known, data_source="own")
    served = load_served(path)
    pictures = [*PICTURES, good[0]]
    alone = [detector.score([picture]) for picture in pictures]
    for findings, scores in zip(served.inspect(pictures), alone, strict=True):
        assert findings.score == pytest.approx(float(scores.image[0]), rel=1e-4)
        assert findings.verdict == ("defect" if scores.image[0] > limit else "good")
        assert (findings.threshold, findings.promised, findings.product) == (limit, 0.1, "part")
        assert findings.passes == (findings.verdict == "good")
        assert findings.good_score == pytest.approx(float(detector.good_scores.max()))
        if scores.maps is None:
            assert findings.anomaly_map is None
        else:
            assert np.allclose(findings.anomaly_map, scores.maps[0], rtol=1e-3, atol=1e-4)
            assert findings.map_scale == (0.0, pytest.approx(2 * limit))
            assert findings.seen == (0.1, 0.1, 0.8, 0.8)
    assert served.description["options"] == detector.options()
    assert served.description["manifest"]["data_source"] == "own"
    assert (served.description["good_images"], served.name) == (24, "part.zip")
    assert str(tmp_path) not in json.dumps(served.description)
    (scores, threshold) = served.good_scores["part"]
    assert np.array_equal(scores, detector.good_scores)
    assert threshold == limit


def test_an_exported_model_says_what_its_graph_says(tmp_path: Path) -> None:
    """By hand, and as the model that it was made of."""
    served = load_served(write_onnx(tmp_path / "part.onnx"))
    for findings, score in zip(served.inspect([part(10), part(60)]), (10.0, 60.0), strict=True):
        assert (findings.score, findings.threshold) == (score, THRESHOLD)
        assert findings.verdict == ("defect" if score > THRESHOLD else "good")
        assert np.array_equal(findings.anomaly_map, Scorer().score(part(int(score)))[2])
    assert np.array_equal(served.good_scores["part"][0], GOOD_SCORES)
    assert served.description["method"] == "distance"
    with pytest.raises(SettingsError, match="--seed says nothing"):
        load_served(tmp_path / "part.onnx", seed=1)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    """Missing, empty, or of another kind."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "image.png").write_bytes(b"x")
    for name in ("missing.zip", "missing.onnx", "folder", "image.png"):
        with pytest.raises(ArtifactError):
            load_served(tmp_path / name)


def test_a_map_of_a_cut_is_brought_back_into_its_picture() -> None:
    """Pixel by pixel: a cut that is rotated and moved, in a picture that is not square."""
    size, shape = 32, (120, 200, 3)
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * 0.3
    transform = np.eye(3)
    transform[:2, :2], transform[:2, 2] = turn, (size - 1) / 2 - turn @ (110, 55)
    values = np.random.default_rng(0).random((size, size)).astype(np.float32) + 1
    values[10:20, 5:15] += 5
    whole = in_picture(values, transform, shape)
    scale = np.array(shape[1::-1]) / 256
    rng = np.random.default_rng(1)
    inside = 0
    for column, row in rng.integers(0, 256, (500, 2)):
        x, y = transform[:2, :2] @ ((np.array([column, row]) + 0.5) * scale - 0.5) + transform[:2, 2]
        if not (0 <= x <= size - 1 and 0 <= y <= size - 1):
            continue
        inside += 1
        left, top = min(int(x), size - 2), min(int(y), size - 2)
        across = values[top : top + 2, left] * (left + 1 - x) + values[top : top + 2, left + 1] * (x - left)
        assert whole[row, column] == pytest.approx(across[0] * (top + 1 - y) + across[1] * (y - top), abs=0.25)
    assert inside > 100
    assert whole[0, 0] == values.min()


def test_paths_of_the_machine_are_not_told() -> None:
    """Their last names are; other texts, numbers and their order stay."""
    known = {"weights": "/srv/secret/net.pth", "a": ["C:\\x\\y.h5", 1, 0.5, None, True], "b": {"c": "timm:resnet18"}}
    expected = {"weights": "net.pth", "a": ["y.h5", 1, 0.5, None, True], "b": {"c": "timm:resnet18"}}
    assert without_paths(known) == expected
    assert promise(0, 0.05) == promise(9, None) == ""
    assert "209" in promise(209, 0.05)
    assert "5.0%" in promise(209, 0.05)
