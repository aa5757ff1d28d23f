"""The drawn packages: one box and one damage in two views, boxes and bar codes that say what they should."""

import json
from itertools import pairwise
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from mvtec_ad.synthetic import RENDER_VERSION
from mvtec_ad.synthetic.package import dataset, item
from mvtec_ad.synthetic.package.dataset import write_packages
from mvtec_ad.synthetic.package.ean13 import check_digit, ean13
from mvtec_ad.synthetic.package.faces import carton
from mvtec_ad.synthetic.package.item import draw_package, package_number
from mvtec_ad.synthetic.package.scene import CAMERAS
from mvtec_ad.synthetic.package.view import _look_up
from mvtec_ad.synthetic.tools.drawing import streams

SMALL, DEFAULT = (90, 160), (270, 480)
COUNTS = {"train": 2, "test": 2, "size": SMALL}
VIEWS = ("side", "top")
PARTS = [f"{stage}/{kind}" for stage in ("train", "test") for kind in ("damaged", "intact")]


def written(root, **changes):
    return write_packages(root, **{**COUNTS, "progress": False, **changes})


def seen_at(view, points, size):
    """Projects world points with OpenCV's camera model."""
    camera, scale = CAMERAS[view], size[1] / 960
    matrix = np.array([[camera.focal * scale, 0, size[1] / 2], [0, camera.focal * scale, size[0] / 2], [0, 0, 1]])
    turn, _ = cv2.Rodrigues(camera.rotation)
    return cv2.projectPoints(np.asarray(points, float), turn, -camera.rotation @ camera.centre, matrix, None)[0][:, 0]


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


def test_layout(tmp_path, digests):
    folder = written(tmp_path)
    assert folder == tmp_path / "package"
    manifest = json.loads((folder / "synthetic.json").read_text())
    images = manifest.pop("images")
    head = {"drawn_by": "mvtec_ad.synthetic", "version": RENDER_VERSION, "category": "package", "seed": 0}
    assert manifest == {**head, "size": [90, 160], "least_severity": 0.1, "train": 2, "test": 2}
    files = set(digests(folder)) - {"synthetic.json"}
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
    images = json.loads((folder / "synthetic.json").read_text())["images"]
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
