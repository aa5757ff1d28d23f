"""Regions of anomaly maps against a flood fill of a few lines and scipy, and the sentence against hand-made ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mvtec_ad.errors import DataError
from mvtec_ad.regions import Region, position_words, region_level, regions, seen_box, sentence

PROJECT = Path(__file__).resolve().parents[1]


def flooded(anomaly_map: np.ndarray, level: float) -> list[set[tuple[int, int]]]:
    """Pixels of each region, by walking from neighbour to neighbour."""
    waiting = {(row, column) for row, column in zip(*np.nonzero(anomaly_map > level), strict=True)}
    found = []
    while waiting:
        edge = [waiting.pop()]
        region = set(edge)
        while edge:
            row, column = edge.pop()
            around = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & waiting
            waiting -= around
            region |= around
            edge += around
        found.append(region)
    return found


def by_walking(anomaly_map: np.ndarray, level: float, seen: tuple[float, ...]) -> list[tuple[float, ...]]:
    """Box, area and peak of each region, rounded, in an order of its own."""
    height, width = anomaly_map.shape
    found = []
    for region in flooded(anomaly_map, level):
        rows, columns = zip(*region, strict=True)
        left, top = seen[0] + min(columns) / width * seen[2], seen[1] + min(rows) / height * seen[3]
        right, low = seen[0] + (max(columns) + 1) / width * seen[2], seen[1] + (max(rows) + 1) / height * seen[3]
        area = len(region) / (height * width) * seen[2] * seen[3]
        numbers = (left, top, right - left, low - top, area, max(anomaly_map[pixel] for pixel in region))
        found.append(tuple(round(float(number), 9) for number in numbers))
    return sorted(found)


@pytest.mark.parametrize("seed", range(12))
def test_regions_are_those_of_a_flood_fill(seed: int) -> None:
    """Smooth and noisy maps of any shape, whole pictures and central crops: box, area, peak; largest first."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2))
    anomaly_map = ndimage.gaussian_filter(rng.normal(size=shape), rng.choice([0, 1, 3])).astype(np.float32)
    level, seen = (
        float(np.quantile(anomaly_map, rng.uniform(0.3, 0.95))),
        (0.1, 0.2, 0.7, 0.6) if seed % 2 else (0, 0, 1, 1),
    )
    result = regions(anomaly_map, level, seen, most=10_000)
    assert sorted(tuple(round(v, 9) for v in (*r.box, r.area, r.peak)) for r in result) == by_walking(
        anomaly_map, level, seen
    )
    areas = [region.area for region in result]
    assert areas == sorted(areas, reverse=True)
    assert len(regions(anomaly_map, level, seen, most=3)) == min(3, len(result))


def test_regions_are_those_of_scipy() -> None:
    """At a size that is used; centres of gravity give the words."""
    anomaly_map = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(224, 224)), 8).astype(np.float32)
    level = float(np.quantile(anomaly_map, 0.9))
    labels, count = ndimage.label(anomaly_map > level, np.ones((3, 3)))
    result = regions(anomaly_map, level, most=10_000)
    assert len(result) == count > 5
    areas = ndimage.sum_labels(np.ones_like(labels), labels, range(1, count + 1)) / labels.size
    assert [r.area for r in result] == pytest.approx(sorted(areas, reverse=True))
    centres = ndimage.center_of_mass(np.maximum(anomaly_map - level, 0), labels, range(1, count + 1))
    words = {
        round(a, 9): position_words([(x + 0.5) / 224, (y + 0.5) / 224])
        for a, (y, x) in zip(areas, centres, strict=True)
    }
    assert len(words) > 5
    twice = {area for area in words if list(np.round(areas, 9)).count(area) > 1}
    assert [r.where for r in result if round(r.area, 9) not in twice] == [
        words[round(r.area, 9)] for r in result if round(r.area, 9) not in twice
    ]


def test_diagonal_neighbours_are_one_region_and_the_level_itself_is_none() -> None:
    """8-connected; larger, not equal, as verdicts are."""
    assert len(regions(np.eye(4), 0.5)) == 1
    assert regions(np.eye(4), 1.0) == []
    assert len(regions(np.eye(4)[:, [0, 2, 1, 3]], 0.5)) == 3
    assert regions(np.zeros((5, 5)), 0.0) == []


def test_a_crop_is_placed_in_the_picture() -> None:
    """The left upper pixel of the central 224 of 256 lies at 1/16 of the picture, and covers 1/256 of its side."""
    anomaly_map = np.zeros((224, 224), np.float32)
    anomaly_map[0, 0] = 1
    (region,) = regions(anomaly_map, 0.5, seen_box(256, 224))
    assert region.box == pytest.approx((1 / 16, 1 / 16, 1 / 256, 1 / 256))
    assert region.area == pytest.approx(256**-2)
    assert seen_box(256, 256) == (0, 0, 1, 1)
    assert seen_box(255, 224)[0] == pytest.approx(15 / 255)  # as `resize` cuts: (255 - 224) // 2


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        *((0.2, 0.2, "upper left"), (0.5, 0.0, "top"), (1.0, 0.3, "upper right")),
        *((0.0, 0.5, "left"), (0.5, 0.5, "centre"), (0.9, 0.5, "right")),
        *((0.3, 0.7, "lower left"), (0.4, 1.0, "bottom"), (0.99, 0.99, "lower right")),
        *((0.39, 0.6, "left"), (0.61, 0.4, "right"), (0.6, 0.39, "top")),
    ],
)
def test_nine_fields(x: float, y: float, words: str) -> None:
    """The middle fifth, with its edges, and what lies around it."""
    assert position_words((x, y)) == words
    assert position_words((x, y), (0.7, 0.5)) == words
    assert position_words((x, y), (0.7, 0.7)) == "all over"


def test_the_level_is_the_threshold_where_the_map_crosses_it() -> None:
    """Otherwise a region remains all the same: the peak is above halfway to it."""
    anomaly_map = np.linspace(0, 10, 101)[None]
    assert region_level(anomaly_map, 7.5) == 7.5
    assert region_level(anomaly_map, 10.0) == region_level(anomaly_map, None) == 7.5
    assert region_level(anomaly_map, 2.0) == 2.0  # most of it lies above
    assert region_level(np.full((2, 2), 9.0), 5.0) == 5.0  # and here all of it
    assert regions(anomaly_map, region_level(anomaly_map, 1e6))


@pytest.mark.parametrize(
    "wrong", [np.zeros(3), np.zeros((2, 0)), np.zeros((2, 2, 1)), np.array([[0, np.nan]]), np.array([[np.inf]])]
)
def test_what_is_no_map_is_refused(wrong: np.ndarray) -> None:
    """With its shape."""
    with pytest.raises(DataError, match=r"\(H, W\) finite numbers; its shape is \("):
        regions(wrong, 0.5)


UPPER_LEFT, RIGHT = (
    Region((0.1, 0.1, 0.2, 0.1), 0.014, 64.0, "upper left"),
    Region((0.8, 0.4, 0.1, 0.1), 0.002, 30.0, "right"),
)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (
            {"verdict": "defect", "regions": [UPPER_LEFT, RIGHT], "score": 60.0, "largest_good": 20.0},
            "upper left and 1 more place, 1.6 % of the picture, 3.0 × the largest good score",
        ),
        (
            {"verdict": "defect", "regions": [UPPER_LEFT, RIGHT, RIGHT], "score": -1.0, "largest_good": -2.0},
            "upper left and 2 more places, 1.8 % of the picture",
        ),
        ({"verdict": "defect"}, "a defect, by its score alone"),
        ({"verdict": "defect", "score": 3.0}, "a defect, by its score alone"),
        (
            {"verdict": "defect", "score": 3.0, "largest_good": 2.0, "defect_type": "unknown", "neighbours": (0, 5)},
            "1.5 × the largest good score; like no defect that is known",
        ),
        (
            {"verdict": "defect", "regions": [RIGHT], "defect_type": "crack"},
            "right, 0.20 % of the picture; looks like crack",
        ),
        ({"verdict": "good", "score": 1.0, "largest_good": 4.0}, "nothing stands out, 0.25 × the largest good score"),
        (
            {"verdict": "good", "regions": [RIGHT], "score": 1.0, "largest_good": 4.0, "defect_type": "crack"},
            "right, 0.20 % of the picture, but not enough to be stopped, 0.25 × the largest good score",
        ),
        ({"verdict": "undecided", "score": 1.0}, "nothing here can decide about it"),
        ({"verdict": "none of these", "regions": [RIGHT]}, "like no product that is known here"),
    ],
)
def test_sentences(known: dict, expected: str) -> None:
    """Of what is known, and nothing of what is not."""
    assert sentence(**known) == expected


@pytest.mark.parametrize(
    ("area", "words"),
    [
        (1.0, "100 %"),
        (0.0996, "10 %"),
        (0.0994, "9.9 %"),
        (0.00996, "1.0 %"),
        (0.0052, "0.52 %"),
        (1e-6, "less than 0.01 %"),
    ],
)
def test_areas_have_two_digits(area: float, words: str) -> None:
    """Never an exponent."""
    assert sentence("defect", [Region((0, 0, 1, 1), area, 1.0, "top")]) == f"top, {words} of the picture"


def test_regions_need_no_torch() -> None:
    """Nor pandas, scipy or matplotlib; and they are JSON."""
    code = (
        "import sys, json, numpy\nfrom mvtec_ad.regions import regions\n"
        "print(json.dumps([r.as_dict() for r in regions(numpy.eye(2, dtype='float32'), 0.5)]))\n"
        "print([name for name in ('torch', 'pandas', 'scipy', 'matplotlib', 'jinja2') if name in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    first, second = child.stdout.splitlines()
    assert json.loads(first) == [{"box": [0, 0, 1, 1], "area": 0.5, "peak": 1.0, "where": "all over"}]
    assert second == "[]"
