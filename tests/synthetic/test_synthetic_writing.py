"""Writing a set, products and packages alike: equal bytes, a finished set stays, and nothing of a user's is lost."""

import json

import pytest

from mvtec_ad.errors import DataError
from mvtec_ad.synthetic import RENDER_VERSION, dataset, write_category, write_packages, writing
from mvtec_ad.synthetic.package import dataset as packages


class Products:
    """Screws."""

    name, good, step = "screw", "train/good", (dataset, "_write_image")
    wrong = ({"seed": -1}, {"size": 8}, {"train": -1}, {"per_defect": 10_001}, {"workers": 0})
    wrong += ({"least_severity": 0.05}, {"least_severity": 1.5})

    def write(self, root, **changes):
        counts = {"train": 3, "test_good": 2, "per_defect": 2, "size": 64, "progress": False}
        return write_category(root, "screw", **{**counts, **changes})


class Packages:
    """Cartons from two sides."""

    name, good, step = "package", "train/intact/top", (packages, "Annotation")
    wrong = ({"seed": -1}, {"height": (8, 160)}, {"width": (90, 5000)}, {"train": -1}, {"test": 10_001}, {"workers": 0})
    wrong += ({"least_severity": 0.05}, {"least_severity": 1.5})

    def write(self, root, **changes):
        changes = {"size" if name in ("height", "width") else name: value for name, value in changes.items()}
        return write_packages(root, **{"train": 2, "test": 2, "size": (90, 160), "progress": False, **changes})


@pytest.fixture(params=[Products, Packages], ids=lambda kind: kind.name)
def kind(request):
    """One after the other."""
    return request.param()


def test_bytes_depend_on_neither_run_nor_workers(tmp_path, kind, digests):
    one, two, other = (
        digests(kind.write(tmp_path / name, workers=workers, seed=seed))
        for name, workers, seed in (("one", 1, 0), ("two", 2, 0), ("other", 2, 1))
    )
    assert one == two
    images = {path: digest for path, digest in one.items() if path.endswith(".png") and "ground_truth" not in path}
    assert len(set(images.values())) == len(images)
    assert not set(images.values()) & set(other.values())


def test_finished_set_is_kept_and_another_one_replaced(tmp_path, monkeypatch, kind):
    folder = kind.write(tmp_path)
    marker = folder / "synthetic.json"
    before = marker.stat().st_mtime_ns
    kind.write(tmp_path)
    assert marker.stat().st_mtime_ns == before
    kind.write(tmp_path, train=1)
    assert len(list((folder / kind.good).iterdir())) == 1
    monkeypatch.setattr(writing, "RENDER_VERSION", RENDER_VERSION + 1)
    kind.write(tmp_path, train=1)
    assert json.loads(marker.read_text())["version"] == RENDER_VERSION + 1
    assert [path.name for path in tmp_path.iterdir()] == [kind.name]


def test_another_least_severity_is_another_set(tmp_path, kind, digests):
    """The folder is replaced: good images have the same bytes, and every defect is at least so severe."""
    folder = kind.write(tmp_path)
    before = digests(folder)
    kind.write(tmp_path, least_severity=0.9)
    after = digests(folder)
    assert json.loads((folder / "synthetic.json").read_text())["least_severity"] == 0.9
    good = [path for path in before if path.startswith(kind.good)]
    assert good
    assert all(before[path] == after[path] for path in good)
    assert before != after
    images = json.loads((folder / "synthetic.json").read_text())["images"].values()
    assert all(entry["severity"] == 0 or 0.9 <= entry["severity"] <= 1 for entry in images)
    assert any(entry["severity"] > 0 for entry in images)


@pytest.mark.parametrize("before", [None, "older set"])
def test_interrupted_run_leaves_nothing_half_made(tmp_path, monkeypatch, kind, before, digests):
    older = digests(kind.write(tmp_path, train=1)) if before else {}
    module, name = kind.step
    step, done = getattr(module, name), []

    def fails_late(*arguments):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(arguments)
        return step(*arguments)

    monkeypatch.setattr(module, name, fails_late)
    with pytest.raises(KeyboardInterrupt):
        kind.write(tmp_path, workers=1)
    assert len(done) == 4
    assert [path.name for path in tmp_path.iterdir()] == ([kind.name] if before else [])
    assert digests(tmp_path / kind.name) == older


@pytest.mark.parametrize("manifest", [None, "{", '{"drawn_by": "someone else"}', "[]"])
def test_a_users_folder_is_not_touched(tmp_path, kind, manifest, digests):
    folder = tmp_path / kind.name / kind.good
    folder.mkdir(parents=True)
    (folder / "000.png").write_bytes(b"mine")
    if manifest:
        (tmp_path / kind.name / "synthetic.json").write_text(manifest)
    before = digests(tmp_path)
    with pytest.raises(DataError, match=f"{kind.name} holds"):
        kind.write(tmp_path)
    assert digests(tmp_path) == before


def test_numbers_out_of_range(tmp_path, kind):
    for wrong in kind.wrong:
        ((name, value),) = wrong.items()
        value = {"height": 8, "width": 5000}.get(name, value)
        with pytest.raises(DataError, match=f"{name} is {value}"):
            kind.write(tmp_path, **wrong)
    assert list(tmp_path.iterdir()) == []
