"""`report`: its numbers against brute force and hand-made images, its page whole, nothing lost to a bad file."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mvtec_ad import artifacts, metrics, plotting, report
from mvtec_ad.cli import main
from mvtec_ad.data import index
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.base import Scores
from mvtec_ad.methods.padim import Padim

SIZE = 64


class Contrast:
    """A detector whose score is the largest difference of a pixel from the middle gray, so that all can be foretold."""

    name, image_size, crop = "contrast", SIZE, SIZE

    def __init__(self, good_scores: np.ndarray) -> None:
        self.good_scores = good_scores

    def parts(self, images: np.ndarray) -> list[np.ndarray]:
        return [images]

    def score_seen(self, seen: list[np.ndarray]) -> Scores:
        maps = np.concatenate([np.abs(images.astype(np.float32) - 128).max(axis=3) for images in seen])
        return Scores(maps.reshape(len(maps), -1).max(axis=1), maps)


def flat(level: int, *, square: int = 0, width: int = 8) -> np.ndarray:
    """A gray picture, 128 with one brighter pixel, and a square that is so much brighter."""
    pixels = np.full((SIZE, SIZE, 3), 128, np.uint8)
    pixels[0, 0] = 128 + level
    if square:
        pixels[16 : 16 + width, 16 : 16 + width] = 128 + square
    return pixels


@pytest.fixture
def model() -> tuple[Any, dict[str, Any]]:
    """Good scores 1 to 39, so that 5 % is promised at 38."""
    scores = np.arange(1, 40, dtype=np.float32)
    threshold = {"value": metrics.calibrated(scores, 0.05), "false_alarm_rate": 0.05}
    return Contrast(scores), {"category": "part", "threshold": threshold}


@pytest.fixture
def folder(tmp_path: Path, write_image: Callable[[Path, np.ndarray], Path]) -> Path:
    """New good images of the levels 2, 4, …, 36 and 50; defects of 30 and 70 levels, 8 and 16 pixels wide."""
    for level in [*range(2, 38, 2), 50]:
        write_image(tmp_path / "new" / f"{level:02d}.png", flat(level))
    for name, square, width in (("weak", 30, 8), ("strong", 70, 16)):
        mask = np.zeros((SIZE, SIZE), bool)
        mask[16 : 16 + width, 16 : 16 + width] = True
        write_image(tmp_path / "part/test/spot" / f"{name}.png", flat(1, square=square, width=width))
        write_image(tmp_path / "part/ground_truth/spot" / f"{name}_mask.png", mask)
    write_image(tmp_path / "part/test/good/000.png", flat(10))
    return tmp_path


def test_every_number_is_what_the_images_make_it(model: tuple[Any, dict[str, Any]], folder: Path) -> None:
    """Of a detector whose scores are known: false alarms, sizes, contrasts, painted defects, the most doubtful."""
    paths = sorted((folder / "new").iterdir())
    measured = report.measure(*model, paths, index.read_test(folder / "part"), painted=3)
    assert measured["threshold"] == 38
    realised = measured["kept_promise"]
    assert (realised["alarms"], realised["images"]) == (1, 19)
    assert realised["interval"] == metrics.wilson(1 / 19, 19)
    assert realised["expected"] == tuple(stats.betabinom(19, 2, 38).ppf([0.025, 0.975]).astype(int))
    spot = measured["types"][0]
    assert (spot["name"], spot["images"], spot["detected"]) == ("spot", 2, 1)
    assert (spot["smallest"], spot["largest"]) == (pytest.approx(16 * 16 / SIZE**2), pytest.approx(8 * 8 / SIZE**2))
    table = measured["table"].set_index("image_path")
    contrasts = table["contrast"].dropna()
    assert sorted(contrasts) == pytest.approx([30 / 255, 70 / 255], abs=1e-6)
    # 10 % of 255 are 25.5 levels, 20 % are 51, wherever the paint covers a whole pixel
    for shape, detected in measured["detected"].items():
        assert not detected[:2].any(), shape
        assert detected[2:, 3:].all(), shape
    disc = {row["contrast"]: row["area"] for row in measured["smallest"] if row["shape"] == "disc"}
    assert disc[0.1] is None
    assert disc[0.2] in report.AREAS[:4]
    distances = [each.distance for each in measured["doubtful"]]
    assert distances == sorted(abs(table["score"] - 38))[: report.DOUBTFUL]
    assert len(distances) == report.DOUBTFUL


def test_copies_and_files_that_cannot_be_read_cost_nothing_else(
    model: tuple[Any, dict[str, Any]], folder: Path, write_image: Callable[[Path, np.ndarray], Path]
) -> None:
    """A copy counts once, in the test too, whose 000 is the new 10; a broken image is named."""
    write_image(folder / "new/copy.png", flat(50))
    write_image(folder / "part/test/good/copy.png", flat(2))
    (folder / "new/broken.png").write_bytes(b"no picture")
    measured = report.measure(*model, sorted((folder / "new").iterdir()), index.read_test(folder / "part"), painted=0)
    assert (measured["kept_promise"]["alarms"], measured["kept_promise"]["images"]) == (1, 19)
    assert [("broken.png" in line) for line in measured["problems"]] == [True]
    assert measured["notes"][0].startswith("3 of 25 images are copies")
    assert measured["detected"] == {}
    assert measured["costs"]["good"] == 19


@pytest.mark.parametrize("shape", report.SHAPES)
@pytest.mark.parametrize("area", [0.0003, 0.003, 0.03])
def test_painted_defects_have_the_area_and_contrast_they_say(shape: str, area: float) -> None:
    """The paint on the picture adds up to area × contrast, and no pixel changes by more than the contrast."""
    image = np.full((200, 200, 3), 90, np.uint8)
    painted = report.paint_defect(image, area, 0.2, shape, (101.3, 97.8), angle=0.7).astype(float) - 90
    assert painted.max() <= 51
    assert painted[..., 0].sum() / 51 == pytest.approx(area * 200**2, rel=0.05)
    assert report.paint_defect(np.full_like(image, 200), area, 0.2, shape, (100, 100)).max() == 200  # darker on light
    rows, columns = np.nonzero(painted[..., 0] > 25)
    length = np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1)
    if area == 0.03:
        expected = 2 * np.sqrt(2 * 1200 / np.pi) if shape == "disc" else 20 * np.sqrt(1200 / (np.pi + 36))
        assert length == pytest.approx(expected, rel=0.05)


def test_costs_are_those_of_each_part_by_itself(model: tuple[Any, dict[str, Any]], folder: Path) -> None:
    """At the share of defects that the images have, against `mean_cost` at every threshold."""
    test = index.read_test(folder / "part")
    first = report.measure(*model, sorted((folder / "new").iterdir()), test, painted=0)["table"]
    share = first["label"].mean()
    costs = report._costs(first, 38.0, {}, 7.0, 2.0, [share])
    for threshold, cost in zip(costs["thresholds"], costs["curves"][share], strict=True):
        assert cost == pytest.approx(metrics.mean_cost(first["label"], first["score"], threshold, 7.0, 2.0))
    row = costs["rows"][0]
    assert row["now"] == pytest.approx(metrics.mean_cost(first["label"], first["score"], 38.0, 7.0, 2.0))
    assert row["least"] <= row["now"]


def test_test_images_are_read_from_three_kinds_of_folder(folder: Path) -> None:
    """A category, its test/ with the masks beside it, and folders of types without masks."""
    whole = index.read_test(folder / "part")
    pd.testing.assert_frame_equal(whole, index.read_test(folder / "part/test"))
    assert list(whole["label"]) == [0, 1, 1]
    assert (whole["mask_path"] != "").sum() == 2
    (folder / "part/test").rename(folder / "types")
    plain = index.read_test(folder / "types")
    assert list(plain["label"]) == [0, 1, 1]
    assert (plain["mask_path"] == "").all()
    with pytest.raises(DataError, match="no test images"):
        index.read_test(folder / "new")


def test_what_makes_no_promise_is_refused(model: tuple[Any, dict[str, Any]], folder: Path) -> None:
    """A threshold that was not calibrated, costs and shares without a meaning, no readable image."""
    detector, description = model
    paths = sorted((folder / "new").iterdir())
    other = {**description, "threshold": {"value": 30.0, "false_alarm_rate": 0.05}}
    with pytest.raises(DataError, match="does not come from its good scores"):
        report.measure(detector, other, paths)
    for costs in ({"miss": 0}, {"false_alarm": np.nan}, {"prevalences": [0.0]}):
        with pytest.raises(SettingsError):
            report.measure(detector, description, paths, **costs)
    (folder / "new/broken.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 1 new good images .*broken\.png"):
        report.measure(detector, description, [folder / "new/broken.png"])


def test_the_command_writes_a_whole_page(
    make_category: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """With a fitted PaDiM: the page needs nothing else, names are text, and it says what the terminal says; a broken
    file ends in status 2 with the page written."""
    root = make_category(tmp_path, train=60, test_good=3, defects={"<b>patch": 4}, size=32)
    train = sorted((root / "part/train/good").iterdir())
    detector = Padim(weights="random", image_size=32, crop=32, channels=10).fit(list(map(str, train[:40])), seed=0)
    threshold = {"value": metrics.calibrated(detector.good_scores, 0.05), "false_alarm_rate": 0.05}
    artifact = artifacts.save_model(tmp_path / "model.zip", detector, "part", threshold, data_source="own")
    new = tmp_path / "new"
    new.mkdir()
    for path in train[40:]:
        path.rename(new / path.name)
    (new / "<img src=x>.png").write_bytes(b"no picture")
    page = tmp_path / "report.html"
    words = ["report", str(artifact), str(new), str(root / "part/test"), "--page", str(page), "--painted", "1"]
    assert main(words) == 2
    output = capsys.readouterr()
    assert "1 image not judged" in output.err
    assert "20 new good images" in output.out
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "<b>patch" not in text
    assert "<img src=x>" not in text
    assert html.escape("<img src=x>.png") in text
    low, high = stats.beta(2, 39).ppf([0.025, 0.975])
    assert f"{100 * low:.3g} % to {100 * high:.3g} %" in text
    assert f"{100 * low:.3g} % to {100 * high:.3g} %" in output.out
    assert text.count('<img class="figure"') == 5
    assert text.count("<article") == 10
    assert main([*words[:3], "--page", str(tmp_path / "absent/x.html")]) == 2
    assert "its folder does not exist" in capsys.readouterr().err
    assert main(["report", str(artifact), str(page)]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_figures_show_what_they_are_given() -> None:
    """The bar of the images at hand, the cells of the grid, the cheapest threshold; all with the page's width."""
    figure = plotting.true_rate_figure(209, 0.05)
    bars = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) == 2]
    assert any(np.allclose(ends, metrics.true_rate_interval(209, 0.05)) for ends in bars)
    rates = np.arange(24).reshape(4, 6) / 23
    grid = plotting.detection_grid({"disc": rates}, report.AREAS, report.CONTRASTS)
    assert [text.get_text() for text in grid.axes[0].texts] == [f"{100 * value:.0f}" for value in rates.ravel()]
    with pytest.raises(DataError, match="shape"):
        plotting.detection_grid({"disc": rates.T}, report.AREAS, report.CONTRASTS)
    curves = plotting.cost_curves([1, 2, 3], {0.1: [3, 1, 2]}, threshold=2.5)
    assert [
        list(map(float, np.ravel(line.get_data()))) for line in curves.axes[0].lines if line.get_marker() == "o"
    ] == [[2, 1]]
    sizes = plotting.defect_sizes([0.1, 0.01], [0.2, 0.3], [True, False])
    assert [line.get_xdata().tolist() for line in sizes.axes[0].lines] == [[0.1], [0.01]]
    steps = plotting.score_steps({"old": [1, 2], "new": [2, 3]}, 2.5)
    for each in (figure, grid, curves, sizes, steps):
        assert each.get_figwidth() == figure.get_figwidth()
        assert plotting.to_png(each).startswith(b"\x89PNG")
