"""A category is one plain path component, checked wherever it enters this room."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mvtec_ad import artifacts, profile
from mvtec_ad.config import Profile
from mvtec_ad.data import acquire, index
from mvtec_ad.data.prepare import prepare, prepare_packages, read_all, unpack
from mvtec_ad.errors import DataError

Maker = Callable[..., Path]


def run(**settings: object) -> Profile:
    """The quick profile, with a few small images."""
    few = {"image_size": 32, "rendered_train": 1, "rendered_test_good": 1, "rendered_per_defect": 1}
    return replace(profile("quick"), data=replace(profile("quick").data, **{**few, **settings}))


ENTRANCES: dict[str, Callable[[Path, str], object]] = {
    "read_category": index.read_category,
    "data_source": lambda root, name: index.data_source(root, name, index.read_category(root, "part")),
    "locate": lambda root, name: acquire.locate(name, root=root),
    "locate together": lambda root, name: acquire.locate("part", root=root, together=["part", name]),
    "locate drawn": lambda root, name: acquire.locate(name, source="rendered"),
    "locate_packages": lambda root, name: acquire.locate_packages(name, root=root),
    "read_all": lambda root, name: read_all([name], settings=run().data, root=root),
    "prepare": lambda root, name: prepare(run(categories=("part", name)), root=root, progress=False),
    "prepare_packages": lambda root, name: prepare_packages(run(packages=name), root=root, progress=False),
    "prepare_packages, named": lambda root, name: prepare_packages(run(), root=root, category=name, progress=False),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_path_is_refused(tmp_path: Path, make_category: Maker, entrance: str) -> None:
    """Also one that leads to a category: what it names would lie elsewhere than where it is looked for."""
    root = make_category(tmp_path / "root", train=1, test_good=1, defects={}, size=8)
    with pytest.raises(DataError, match=r"category '\.\./root/part' must be .*: give the folders above it with --root"):
        ENTRANCES[entrance](root, "../root/part")
    assert not (tmp_path / "transfer" / "data.zip").exists()


def test_a_completed_name_is_prepared_as_the_plain_one(tmp_path: Path, make_category: Maker) -> None:
    """Once, though it was given twice."""
    root = make_category(tmp_path / "root", train=2, test_good=1, defects={}, size=8)
    table, sources = read_all(["./part", "part/"], settings=run().data, root=root)
    assert (set(table["category"]), len(table), sources) == ({"part"}, 3, {"part": "own"})
    artifact = artifacts.load(prepare(run(categories=("part/", "part")), root=root, progress=False))
    assert artifact.manifest["categories"] == artifact.manifest["options"]["categories"] == ["part"]
    assert len(index.read_category(unpack(artifact), "part")) == 3


def test_a_completed_name_is_found_in_an_archive(tmp_path: Path, make_category: Maker) -> None:
    """And those unpacked together with it."""
    for name in ("part", "bolt"):
        make_category(tmp_path / "root", name, train=1, test_good=0, defects={}, size=8)
    archive = shutil.make_archive(str(tmp_path / "mine"), "zip", tmp_path / "root")
    place = acquire.locate("part/", root=archive, together=["bolt/"])
    assert index.list_categories(place) == ["bolt", "part"]


def test_a_completed_name_is_drawn() -> None:
    """Bottles, and packages."""
    assert (acquire.locate("bottle/", source="rendered", settings=run().data) / "bottle" / "train").is_dir()
    few = run(package_train=1, package_test=1).data
    assert (acquire.locate_packages("package/", source="rendered", settings=few) / "package" / "train").is_dir()
