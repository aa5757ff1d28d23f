"""The drawn data set: exact bytes, exact masks, the layout of MVTec AD, and nothing of a user's lost."""

import functools
import json

import cv2
import numpy as np
import pytest

from mvtec_ad.data import index
from mvtec_ad.data.catalog import official_counts
from mvtec_ad.errors import DataError
from mvtec_ad.synthetic import (
    CATEGORIES,
    RENDER_VERSION,
    dataset,
    defect_types,
    draw,
    write_category,
)

EVERY_DEFECT = [(category, defect) for category in CATEGORIES for defect in defect_types(category)]
COUNTS = {"train": 3, "test_good": 2, "per_defect": 2, "size": 64}
draw_good = functools.lru_cache(maxsize=12)(draw)  # six seeds in two sizes, for all defects of a category


def distance_to(mask):
    """Of each pixel to the nearest one of the mask, exact."""
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def written(root, category="screw", **changes):
    return write_category(root, category, **{**COUNTS, "progress": False, **changes})


def test_names_are_those_of_mvtec_ad():
    assert defect_types("bottle") == ("broken_large", "broken_small", "contamination")
    assert defect_types("screw") == ("manipulated_front", "scratch_head", "scratch_neck", "thread_side", "thread_top")
    assert tuple(sorted(CATEGORIES)) == CATEGORIES


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("category", CATEGORIES)
def test_good_image(category, size):
    drawn = draw(category, 5, size=size)
    assert (drawn.image.shape, drawn.image.dtype) == ((size, size, 3), np.uint8)
    assert (drawn.mask.shape, drawn.mask.dtype) == ((size, size), bool)
    assert not drawn.mask.any()
    assert drawn.severity == 0
    assert drawn.image.std() > 10  # there is something in the picture


@pytest.mark.parametrize(("category", "defect"), [(c, d) for c in CATEGORIES for d in (None, *defect_types(c))])
def test_same_arguments_same_pixels(category, defect):
    first, second = draw(category, 3, defect, size=64), draw(category, 3, defect, size=64)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.mask, second.mask)
    assert first.severity == second.severity
    assert not np.array_equal(first.image, draw(category, 4, defect, size=64).image)


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize(("category", "defect"), EVERY_DEFECT)
def test_only_the_defect_differs(category, defect, size):
    for seed in range(40, 46):
        good, bad = draw_good(category, seed, size=size), draw(category, seed, defect, size=size)
        changed = (good.image != bad.image).any(-1)
        assert bad.mask.any()
        assert 0.1 <= bad.severity <= 1
        assert changed[bad.mask].any(), "the mask lies beside the defect"
        away = distance_to(bad.mask)
        assert (away[changed] <= 3).mean() >= 0.99


@pytest.mark.parametrize(("category", "defect"), EVERY_DEFECT)
def test_size_changes_the_resolution_only(category, defect):
    small, large = draw(category, 8, defect, size=128), draw(category, 8, defect, size=256)
    assert small.severity == large.severity
    # A pixel counts from a quarter covered on, so thin lines widen when pixels grow: outlines agree to 2 pixels.
    large_mask = large.mask.reshape(128, 2, 128, 2).any((1, 3))
    for one, other in ((small.mask, large_mask), (large_mask, small.mask)):
        assert distance_to(other)[one].max() <= 2
    shrunk = cv2.resize(large.image, (128, 128), interpolation=cv2.INTER_AREA).astype(float)
    # Sensor noise is per pixel and the exposure the same: two unrelated images differ by more than 20.
    assert np.abs(cv2.GaussianBlur(shrunk - small.image, (0, 0), 2)).mean() < 2.5


@pytest.mark.parametrize("category", CATEGORIES)
def test_severity_runs_from_barely_visible_to_obvious(category):
    defect = defect_types(category)[0]
    severities = np.array([draw(category, seed, defect, size=32).severity for seed in range(60)])
    assert severities.min() < 0.2
    assert severities.max() > 0.9
    assert severities.mean() == pytest.approx(0.55, abs=0.1)  # uniform from 0.1 to 1


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_least_severity_changes_the_defect_only(category):
    """Above it severities keep their order; object, light and noise stay, so that all that differs lies at a defect."""
    assert np.array_equal(draw(category, 5, size=128).image, draw(category, 5, size=128, least_severity=0.5).image)
    for defect in defect_types(category):
        for seed in range(40, 43):
            faint, strong = (draw(category, seed, defect, size=128, least_severity=least) for least in (0.1, 0.5))
            assert strong.severity == pytest.approx(0.5 + (faint.severity - 0.1) / 0.9 * 0.5)
            away = distance_to(faint.mask | strong.mask)
            assert (away[(faint.image != strong.image).any(-1)] <= 3).mean() >= 0.99
    severities = [draw(category, seed, defect, size=32, least_severity=0.8).severity for seed in range(30)]
    assert min(severities) >= 0.8
    assert max(severities) <= 1
    assert draw(category, 3, defect, size=32, least_severity=1).severity == 1


@pytest.mark.parametrize("least", [-1, 0, 0.09, 1.01, 2])
def test_a_least_severity_out_of_range_is_refused(least):
    with pytest.raises(DataError, match=f"least_severity is {least}; it must be from 0.1 to 1"):
        draw("bottle", 0, "contamination", size=32, least_severity=least)


@pytest.mark.parametrize("category", CATEGORIES)
def test_layout(tmp_path, category, digests):
    folder = written(tmp_path, category)
    assert folder == tmp_path / category
    expected = {
        "synthetic.json",
        *(f"train/good/{i:03d}.png" for i in range(3)),
        "test/good/000.png",
        "test/good/001.png",
    }
    for defect in defect_types(category):
        expected |= {f"test/{defect}/{i:03d}.png" for i in range(2)}
        expected |= {f"ground_truth/{defect}/{i:03d}_mask.png" for i in range(2)}
    assert set(digests(folder)) == expected

    manifest = json.loads((folder / "synthetic.json").read_text())
    images = manifest.pop("images")
    head = {"drawn_by": "mvtec_ad.synthetic", "version": RENDER_VERSION, "category": category, "seed": 0}
    head["least_severity"] = 0.1
    assert manifest == {**head, **COUNTS, "per_defect": dict.fromkeys(defect_types(category), COUNTS["per_defect"])}
    assert set(images) == {path for path in expected if path.endswith(".png") and not path.startswith("ground")}
    for path, entry in images.items():
        _, kind, name = path.split("/")
        drawn = draw(category, entry["seed"], None if kind == "good" else kind, COUNTS["size"])
        assert np.array_equal(cv2.imread(str(folder / path))[..., ::-1], drawn.image)
        assert entry["severity"] == drawn.severity
        if kind != "good":
            mask = cv2.imread(str(folder / "ground_truth" / kind / name.replace(".png", "_mask.png")), -1)
            assert np.array_equal(mask, drawn.mask.astype(np.uint8) * 255)


def test_no_seed_occurs_twice():
    plans = [
        dataset._plan(c, seed, 300, 60, dict.fromkeys(defect_types(c), 40)) for c in CATEGORIES for seed in range(3)
    ]
    seeds = [seed for plan in plans for seed, _ in plan.values()]
    assert len(set(seeds)) == len(seeds)


def test_official_counts_pass_the_official_audit(tmp_path):
    written(tmp_path, "bottle", **{**official_counts("bottle"), "size": 32})
    table = index.read_category(tmp_path, "bottle")
    assert index.audit(table) == []
    assert index.data_source(tmp_path, "bottle", table) == "synthetic"
    severity = table.loc[table["label"] == 1, "severity"]
    assert (severity < 0.3).any()
    assert (severity > 0.9).any()
    for category in CATEGORIES:  # what the audit compares, of the others
        assert set(official_counts(category)["per_defect"]) == set(defect_types(category))


def test_every_defect_type_needs_its_number(tmp_path):
    with pytest.raises(DataError, match="bottle has the defect types broken_large, broken_small, contamination"):
        written(tmp_path, "bottle", per_defect={"broken_large": 2})


def test_larger_set_begins_like_the_smaller_one(tmp_path, digests):
    small, large = digests(written(tmp_path / "a")), digests(written(tmp_path / "b", train=5, per_defect=3))
    del small["synthetic.json"]  # it holds the counts
    assert small.items() <= large.items()


def test_unknown_names_list_the_known_ones(tmp_path):
    for call in (lambda: draw("hazelnut", 0), lambda: defect_types("hazelnut"), lambda: written(tmp_path, "hazelnut")):
        with pytest.raises(DataError, match=r"hazelnut.*bottle, cable.*screw"):
            call()
    with pytest.raises(DataError, match=r"bottle.*thread_top.*broken_large, broken_small, contamination"):
        draw("bottle", 0, "thread_top")
    assert list(tmp_path.iterdir()) == []
