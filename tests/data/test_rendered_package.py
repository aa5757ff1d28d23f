"""The drawn packages: one box and one damage in two views, boxes and bar codes that say what they should."""

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from mvtec_ad.config import DataSettings
from mvtec_ad.data import acquire, index
from mvtec_ad.data.boxes import read_annotation
from mvtec_ad.data.rendered import RENDER_VERSION
from mvtec_ad.data.rendered.package import dataset, item
from mvtec_ad.data.rendered.package.dataset import write_packages
from mvtec_ad.data.rendered.package.ean13 import check_digit, ean13
from mvtec_ad.data.rendered.package.faces import carton
from mvtec_ad.data.rendered.package.item import draw_package, package_number
from mvtec_ad.data.rendered.package.scene import CAMERAS
from mvtec_ad.data.rendered.package.view import _look_up
from mvtec_ad.data.rendered.tools.drawing import streams
from mvtec_ad.errors import DataError

SMALL, DEFAULT = (90, 160), (270, 480)
COUNTS = {"train": 2, "test": 2, "size": SMALL}
VIEWS = ("side", "top")
PARTS = [f"{stage}/{kind}" for stage in ("train", "test") for kind in ("damaged", "intact")]


def written(root, **changes):
    return write_packages(root, **{**COUNTS, "progress": False, **changes})


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def seen_at(view, points, size):
    """Projects world points with OpenCV's camera model."""
    camera, scale = CAMERAS[view], size[1] / 960
    matrix = np.array([[camera.focal * scale, 0, size[1] / 2], [0, camera.focal * scale, size[0] / 2], [0, 0, 1]])
    turn, _ = cv2.Rodrigues(camera.rotation)
    return cv2.projectPoints(np.asarray(points, float), turn, -camera.rotation @ camera.centre, matrix, None)[0][:, 0]


@pytest.mark.parametrize("damage", [False, True])
def test_same_arguments_same_pixels(damage):
    first, second, other = (draw_package(seed, damage, SMALL) for seed in (3, 3, 4))
    for view in VIEWS:
        assert (first.views[view].shape, first.views[view].dtype) == ((*SMALL, 3), np.uint8)
        assert (first.masks[view].shape, first.masks[view].dtype) == (SMALL, bool)
        assert np.array_equal(first.views[view], second.views[view])
        assert np.array_equal(first.masks[view], second.masks[view])
        assert not np.array_equal(first.views[view], other.views[view])
    assert (first.number, first.boxes, first.severity) == (second.number, second.boxes, second.severity)


@pytest.mark.parametrize(("size", "seeds"), [((144, 256), range(40, 56)), (DEFAULT, range(5))])
def test_only_the_damage_differs_and_both_views_show_it(size, seeds):
    for seed in seeds:
        good, bad = draw_package(seed, False, size), draw_package(seed, True, size)
        assert good.number == bad.number
        assert good.severity == 0
        assert 0.1 <= bad.severity <= 1
        for view in VIEWS:
            assert not good.masks[view].any()
            mask, changed = bad.masks[view], (good.views[view] != bad.views[view]).any(-1)
            assert np.abs(good.views[view][mask].astype(int) - bad.views[view][mask]).max() > 8, (seed, view)
            assert (distance_transform_edt(~mask)[changed] <= 3).mean() >= 0.99, (seed, view)


def test_box_of_damage_is_that_of_the_mask():
    for seed in range(12):
        bad = draw_package(seed, True, SMALL)
        for view in VIEWS:
            places = np.argwhere(bad.masks[view])[:, ::-1]
            assert bad.boxes[view] == (*places.min(0), *places.max(0))


def test_box_of_an_intact_item_is_that_of_its_eight_corners():
    for seed in range(6):
        drawn, (pose, _) = draw_package(seed, False, DEFAULT), item._pose(streams(item.NUMBER, seed))
        half = np.array([10.8, 5.5, 3.22]) / [2, 2, 1]
        corners = half * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (0, 1)])
        for view in VIEWS:
            seen = seen_at(view, corners @ pose.turn.T + pose.place, DEFAULT)
            assert drawn.boxes[view] == pytest.approx((*seen.min(0), *(seen.max(0) - 1)), abs=2)


def test_both_views_show_one_damage():
    size = (144, 256)
    for seed in range(12):
        drawn, camera = draw_package(seed, True, size), CAMERAS["top"]
        row, column = np.argwhere(drawn.masks["top"]).mean(0)
        depth = (camera.centre[2] - 3.22) / (camera.focal * size[1] / 960)  # from the top camera to the lid
        place = [(column + 0.5 - size[1] / 2) * depth, (size[0] / 2 - row - 0.5) * depth, 3.22]
        (x, y), (left, top, right, bottom) = seen_at("side", [place], size)[0], drawn.boxes["side"]
        assert left - 2 <= x <= right + 2, seed
        assert top - 2 <= y <= bottom + 2, seed


def test_a_ray_along_a_face_meets_it_nowhere():
    meets = np.array([[1.0, 0, 0], [0, 1, 2], [1, 0, -5]])  # in column 5 the face is seen edge-on
    across, down = _look_up(meets, (slice(0, 3), slice(0, 10)), None, 10.0)
    x, y = np.delete(np.arange(10.0), 5), np.arange(3.0)[:, None]
    assert np.delete(across, 5, 1) == pytest.approx(np.broadcast_to(x / (x - 5), (3, 9)), rel=1e-5)
    assert np.delete(down, 5, 1) == pytest.approx((y + 2) / (x - 5), rel=1e-5)
    assert np.isfinite([across, down]).all()
    assert down[:, 5].min() > 1e6


def test_size_changes_the_resolution_only():
    small, large = draw_package(8, True, (144, 256)), draw_package(8, True, (288, 512))
    assert (small.number, small.severity) == (large.number, large.severity)
    for view in VIEWS:
        assert np.array(small.boxes[view]) == pytest.approx(np.array(large.boxes[view]) / 2, abs=3)
        shrunk = cv2.resize(large.views[view], (256, 144), interpolation=cv2.INTER_AREA).astype(float)
        # Two unrelated items differ by more than 15.
        assert np.abs(cv2.GaussianBlur(shrunk - small.views[view], (0, 0), 2)).mean() < 2.5


def test_severity_runs_from_faint_to_obvious_and_enlarges_the_damage():
    drawn = [draw_package(seed, True, (36, 64)) for seed in range(40)]
    severities = np.array([item.severity for item in drawn])
    assert severities.min() < 0.2
    assert severities.max() > 0.9
    areas = np.array([item.masks["top"].mean() for item in drawn])
    assert np.corrcoef(severities, areas)[0, 1] > 0.4


# Widths of the four elements of a digit as the standard prints them: space, bar, space, bar on the left.
WIDTHS = ("3211", "2221", "2122", "1411", "1132", "1231", "1114", "1312", "1213", "3112")
PARITY = ("LLLLLL", "LLGLGG", "LLGGLG", "LLGGGL", "LGLLGG", "LGGLLG", "LGGGLL", "LGLGLG", "LGLGGL", "LGGLGL")


def decoded(modules):
    """Reads an EAN-13 by the widths of its bars."""
    ends = np.flatnonzero(np.diff(np.concatenate([[2], modules, [2]])))
    widths = np.diff(ends)
    assert len(widths) == 59
    digits, kinds = "", ""
    for start in (*range(3, 27, 4), *range(32, 56, 4)):
        code = "".join(map(str, widths[start : start + 4]))
        kinds += "L" if code in WIDTHS else "G"
        digits += str(WIDTHS.index(code if code in WIDTHS else code[::-1]))
    assert kinds[6:] == "LLLLLL"  # the right half shows the same widths with bars and spaces exchanged
    return f"{PARITY.index(kinds[:6])}{digits}"


KNOWN = ["5901234123457", "4006381333931"]  # printed on real goods
EVERY_FIRST_DIGIT = [digits + check_digit(digits) for digits in (f"{first}98765432101" for first in range(10))]


@pytest.mark.parametrize("number", [*KNOWN, *EVERY_FIRST_DIGIT, package_number(7_770_001)])
def test_bar_code_reads_back(number):
    assert check_digit(number[:12]) == number[12]
    assert decoded(ean13(number)) == number
    bars = np.kron(1 - ean13(number), np.ones((120, 4), np.uint8)) * 255
    quiet = cv2.copyMakeBorder(bars, 80, 80, 80, 80, cv2.BORDER_CONSTANT, value=255)
    assert cv2.barcode.BarcodeDetector().detectAndDecode(cv2.GaussianBlur(quiet, (0, 0), 0.8))[0].zfill(13) == number
    wrong = number[:12] + str((int(number[12]) + 1) % 10)
    with pytest.raises(ValueError, match=wrong):
        ean13(wrong)


def test_carton_carries_the_bar_code_of_its_number():
    number = package_number(11)
    line = carton(np.random.default_rng(0), number, 200.0)["right"][160:170, 60:700].mean((0, 2))  # inside the frame
    dark = np.flatnonzero(line < 0.5)
    bounds = np.linspace(dark[0], dark[-1] + 1, 96)
    modules = np.array([int(line[round((a + b) / 2)] < 0.5) for a, b in pairwise(bounds)])
    assert decoded(modules) == number


def test_no_seed_and_no_number_occurs_twice():
    for seed in (0, 1, 12_345):
        seeds = list(dataset._plan(seed, 400, 300))
        assert len(seeds) == len(set(seeds)) == 1400
        numbers = {package_number(s) for s in seeds}
        assert len(numbers) == 1400
        assert all(len(number) == 13 and number.isdigit() for number in numbers)
    assert not set(dataset._plan(0, 9, 9)) & set(dataset._plan(1, 9, 9))


def test_layout(tmp_path):
    folder = written(tmp_path)
    assert folder == tmp_path / "package"
    manifest = json.loads((folder / "rendered.json").read_text())
    images = manifest.pop("images")
    head = {"drawn_by": "mvtec_ad.data.rendered", "version": RENDER_VERSION, "category": "package", "seed": 0}
    assert manifest == {**head, "size": [90, 160], "train": 2, "test": 2}
    files = set(digests(folder)) - {"rendered.json"}
    assert {path for path in files if path.endswith(".png")} == set(images)
    assert len(images) == 16
    annotated = {path.removesuffix(".png") + ".xml" for path in images if path.startswith("test/")}
    assert files == set(images) | annotated
    for part in PARTS:
        names = {view: {p.name for p in (folder / part / view).glob("*.png")} for view in VIEWS}
        assert {name.replace("_side", "_top") for name in names["side"]} == names["top"]
    for path, entry in images.items():
        stage, kind, view, name = path.split("/")
        drawn = draw_package(entry["seed"], kind == "damaged", SMALL)
        assert f"{stage}/{kind}" in PARTS
        assert name == f"{drawn.number}_{view}.png"
        assert entry["severity"] == drawn.severity
        assert np.array_equal(cv2.imread(str(folder / path))[..., ::-1], drawn.views[view])


def test_annotations_are_pascal_voc(tmp_path):
    folder = written(tmp_path, train=0)
    images = json.loads((folder / "rendered.json").read_text())["images"]
    names = set()
    for path, entry in images.items():
        _, kind, view, name = path.split("/")
        root = ElementTree.parse((folder / path).with_suffix(".xml")).getroot()
        assert root.findtext("filename") == name
        height, width, depth = cv2.imread(str(folder / path)).shape
        assert [int(root.findtext(f"size/{key}")) for key in ("width", "height", "depth")] == [width, height, depth]
        (thing,) = root.findall("object")
        box = tuple(int(thing.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
        assert box == draw_package(entry["seed"], kind == "damaged", SMALL).boxes[view]
        names.add((kind, view, thing.findtext("name")))
    assert names == {(kind, view, kind) for kind in ("damaged", "intact") for view in VIEWS}


def test_the_index_reads_it_like_the_original(tmp_path):
    written(tmp_path)
    table = index.read_category(tmp_path, "package")
    counts = table.groupby(["split", "defect", "view"]).size()
    assert counts.to_dict() == {
        (split, defect, view): 2 for split in ("train", "test") for defect in ("damaged", "good") for view in VIEWS
    }
    assert (table.groupby("group")["view"].agg(tuple) == VIEWS).all()
    assert ((table["severity"] > 0) == (table["label"] == 1)).all()
    assert index.data_source(tmp_path, "package", table) == "rendered"
    for row in table[table["box_path"] != ""].itertuples():
        annotation = read_annotation(row.box_path)
        assert annotation.size == SMALL
        assert annotation.name == Path(row.image_path).parts[-3]


def test_bytes_depend_on_neither_run_nor_workers(tmp_path):
    one, two, other = (
        digests(written(tmp_path / name, workers=workers, seed=seed))
        for name, workers, seed in (("one", 1, 0), ("two", 2, 0), ("other", 2, 1))
    )
    assert one == two
    assert not set(one.values()) & set(other.values())


def test_finished_set_is_kept_and_another_one_replaced(tmp_path):
    folder = written(tmp_path)
    before = (folder / "rendered.json").stat().st_mtime_ns
    written(tmp_path)
    assert (folder / "rendered.json").stat().st_mtime_ns == before
    written(tmp_path, train=1)
    assert len(list((folder / "train" / "intact" / "top").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_interrupted_run_leaves_the_older_set(tmp_path, monkeypatch):
    kept = digests(written(tmp_path, train=1))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "Annotation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["package"]
    assert digests(tmp_path / "package") == kept


@pytest.mark.parametrize("manifest", [None, "{", '{"drawn_by": "someone else"}'])
def test_a_users_folder_is_not_touched(tmp_path, manifest):
    own = tmp_path / "package" / "train" / "intact" / "top"
    own.mkdir(parents=True)
    (own / "1_top.png").write_bytes(b"mine")
    if manifest:
        (tmp_path / "package" / "rendered.json").write_text(manifest)
    before = digests(tmp_path)
    with pytest.raises(DataError, match="package holds"):
        written(tmp_path)
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"size": (8, 160)}, "height is 8"),
        ({"size": (90, 5000)}, "width is 5000"),
        ({"train": -1}, "train is -1"),
        ({"test": 10_001}, "test is 10001"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_numbers_out_of_range(tmp_path, wrong, message):
    with pytest.raises(DataError, match=message):
        written(tmp_path, **wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_category_is_drawn_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("MVTEC_AD_HOME", str(tmp_path))
    settings = DataSettings(package_train=1, package_test=2)
    root = acquire.locate("package", source="rendered", settings=settings)
    counts = index.read_category(root, "package").groupby(["split", "label", "view"]).size()
    assert counts.to_dict() == {
        (split, label, view): n for split, n in (("train", 1), ("test", 2)) for label in (0, 1) for view in VIEWS
    }
