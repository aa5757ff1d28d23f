"""The drawn data set: exact bytes, exact masks, the layout of MVTec AD, and nothing of a user's lost."""

import hashlib
import json

import cv2
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from mvtec_ad.data import index
from mvtec_ad.data.rendered import (
    CATEGORIES,
    RENDER_VERSION,
    dataset,
    defect_types,
    draw,
    official_counts,
    write_category,
    writing,
)
from mvtec_ad.errors import DataError

EVERY_DEFECT = [(category, defect) for category in CATEGORIES for defect in defect_types(category)]
COUNTS = {"train": 3, "test_good": 2, "per_defect": 2, "size": 64}


def written(root, category="screw", **changes):
    return write_category(root, category, **{**COUNTS, "progress": False, **changes})


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


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
        good, bad = draw(category, seed, size=size), draw(category, seed, defect, size=size)
        changed = (good.image != bad.image).any(-1)
        assert bad.mask.any()
        assert 0.1 <= bad.severity <= 1
        assert changed[bad.mask].any(), "the mask lies beside the defect"
        away = distance_transform_edt(~bad.mask)
        assert (away[changed] <= 3).mean() >= 0.99


@pytest.mark.parametrize(("category", "defect"), EVERY_DEFECT)
def test_size_changes_the_resolution_only(category, defect):
    small, large = draw(category, 8, defect, size=128), draw(category, 8, defect, size=256)
    assert small.severity == large.severity
    # A pixel counts from a quarter covered on, so thin lines widen when pixels grow: outlines agree to 2 pixels.
    large_mask = large.mask.reshape(128, 2, 128, 2).any((1, 3))
    for one, other in ((small.mask, large_mask), (large_mask, small.mask)):
        assert distance_transform_edt(~other)[one].max() <= 2
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
def test_layout(tmp_path, category):
    folder = written(tmp_path, category)
    assert folder == tmp_path / category
    expected = {
        "rendered.json",
        *(f"train/good/{i:03d}.png" for i in range(3)),
        "test/good/000.png",
        "test/good/001.png",
    }
    for defect in defect_types(category):
        expected |= {f"test/{defect}/{i:03d}.png" for i in range(2)}
        expected |= {f"ground_truth/{defect}/{i:03d}_mask.png" for i in range(2)}
    assert set(digests(folder)) == expected

    manifest = json.loads((folder / "rendered.json").read_text())
    images = manifest.pop("images")
    head = {"drawn_by": "mvtec_ad.data.rendered", "version": RENDER_VERSION, "category": category, "seed": 0}
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


@pytest.mark.parametrize("category", CATEGORIES)
def test_bytes_depend_on_neither_run_nor_workers(tmp_path, category):
    one, two, other = (
        digests(written(tmp_path / name, category, workers=workers, seed=seed))
        for name, workers, seed in (("one", 1, 0), ("two", 2, 0), ("other", 2, 1))
    )
    assert one == two
    images = {path: digest for path, digest in one.items() if path.endswith(".png") and "ground_truth" not in path}
    assert len(set(images.values())) == len(images)
    assert not set(images.values()) & set(other.values())


def test_no_seed_occurs_twice():
    plans = [
        dataset._plan(c, seed, 300, 60, dict.fromkeys(defect_types(c), 40)) for c in CATEGORIES for seed in range(3)
    ]
    seeds = [seed for plan in plans for seed, _ in plan.values()]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("category", CATEGORIES)
def test_official_counts_pass_the_official_audit(tmp_path, category):
    written(tmp_path, category, **{**official_counts(category), "size": 32})
    table = index.read_category(tmp_path, category)
    assert index.audit(table) == []
    assert index.data_source(tmp_path, category, table) == "rendered"
    severity = table.loc[table["label"] == 1, "severity"]
    assert (severity < 0.3).any()
    assert (severity > 0.9).any()


def test_every_defect_type_needs_its_number(tmp_path):
    with pytest.raises(DataError, match="bottle has the defect types broken_large, broken_small, contamination"):
        written(tmp_path, "bottle", per_defect={"broken_large": 2})


def test_larger_set_begins_like_the_smaller_one(tmp_path):
    small, large = digests(written(tmp_path / "a")), digests(written(tmp_path / "b", train=5, per_defect=3))
    del small["rendered.json"]  # it holds the counts
    assert small.items() <= large.items()


def test_finished_set_is_kept_and_another_one_replaced(tmp_path, monkeypatch):
    folder = written(tmp_path)
    before = (folder / "rendered.json").stat().st_mtime_ns
    written(tmp_path)
    assert (folder / "rendered.json").stat().st_mtime_ns == before
    written(tmp_path, train=1)
    assert len(list((folder / "train" / "good").iterdir())) == 1
    monkeypatch.setattr(writing, "RENDER_VERSION", RENDER_VERSION + 1)
    written(tmp_path, train=1)
    assert json.loads((folder / "rendered.json").read_text())["version"] == RENDER_VERSION + 1
    assert [path.name for path in tmp_path.iterdir()] == ["screw"]


@pytest.mark.parametrize("before", [None, "older set"])
def test_interrupted_run_leaves_nothing_half_made(tmp_path, monkeypatch, before):
    if before:
        kept = digests(written(tmp_path, train=1))
    write_image, done = dataset._write_image, []

    def fails_late(*arguments):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(arguments)
        return write_image(*arguments)

    monkeypatch.setattr(dataset, "_write_image", fails_late)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, workers=1)
    assert len(done) == 4
    assert [path.name for path in tmp_path.iterdir()] == (["screw"] if before else [])
    if before:
        assert digests(tmp_path / "screw") == kept


@pytest.mark.parametrize("manifest", [None, "{", '{"drawn_by": "someone else"}', "[]"])
def test_a_users_folder_is_not_touched(tmp_path, manifest):
    own = tmp_path / "screw"
    (own / "train" / "good").mkdir(parents=True)
    (own / "train" / "good" / "000.png").write_bytes(b"mine")
    if manifest:
        (own / "rendered.json").write_text(manifest)
    before = digests(tmp_path)
    with pytest.raises(DataError, match="screw holds"):
        written(tmp_path)
    assert digests(tmp_path) == before


def test_unknown_names_list_the_known_ones(tmp_path):
    for call in (lambda: draw("hazelnut", 0), lambda: defect_types("hazelnut"), lambda: written(tmp_path, "hazelnut")):
        with pytest.raises(DataError, match=r"hazelnut.*bottle, cable.*screw"):
            call()
    with pytest.raises(DataError, match=r"bottle.*thread_top.*broken_large, broken_small, contamination"):
        draw("bottle", 0, "thread_top")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"size": 8}, {"train": -1}, {"per_defect": 10_001}, {"workers": 0}])
def test_numbers_out_of_range(tmp_path, wrong):
    with pytest.raises(DataError, match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        written(tmp_path, **wrong)
    assert list(tmp_path.iterdir()) == []
