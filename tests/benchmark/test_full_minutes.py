"""benchmarks/full_minutes.py: what is listed, how operators are counted, and what the page says of it."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mvtec_ad.inspection import InspectionOptions
from mvtec_ad.methods import METHODS, WITH_LABELS, detector_class
from mvtec_ad.methods.defect_types import DefectTypes
from mvtec_ad.methods.explain import Attribution
from mvtec_ad.methods.gan import Dcgan
from mvtec_ad.methods.pretraining import Pretraining
from mvtec_ad.notebooks import number_of

PROJECT = Path(__file__).parents[2]
REPORT = json.loads((PROJECT / "assets" / "full_minutes.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scripts() -> SimpleNamespace:
    """The benchmark's files as modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROJECT / "benchmarks"))
        names = ("costs", "full_parts", "full_minutes")
        return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def test_every_notebook_and_every_method_in_full_is_listed(scripts: SimpleNamespace) -> None:
    """Nothing is trained for it."""
    parts = scripts.full_parts.parts()
    notebooks = {number_of(path) for path in (PROJECT / "notebooks").glob("[0-9][0-9]*_*.ipynb")}
    assert {part.notebook for part in parts} == notebooks
    methods = {detector_class(name) for name in (*METHODS, *WITH_LABELS)}
    methods |= {DefectTypes, Attribution, Dcgan, Pretraining, InspectionOptions}
    assert {part.method for part in parts} - {None} == methods
    assert all(part.count > 0 for part in parts)


def test_steps_are_those_of_presets_products_and_seeds(scripts: SimpleNamespace) -> None:
    """By hand: seven products, three seeds, 500 steps of the GAN; 50 epochs of 48,000 digits, 32 a batch."""
    counts = {part.what: part.count for part in scripts.full_parts.parts()}
    assert counts["f-AnoGAN"] == 7 * 3 * 500
    assert counts["DCGAN"] == 50 * 1500
    assert counts["images and masks"] == 1699 + 2 * 958  # sums of the official table


def test_operators_are_counted_and_the_slowest_resource_decides(scripts: SimpleNamespace) -> None:
    """A product of matrices by hand; a view costs nothing."""
    left, right = torch.ones(30, 40), torch.ones(50, 40)
    cost = scripts.costs.counted(lambda: left @ right.T)
    flop, size = 2 * 30 * 40 * 50, 4 * (30 * 40 + 40 * 50 + 30 * 50)
    assert cost.operators == Counter({(flop, size, False): 1})
    machine = scripts.costs.Machine(single=1e3, double=1.0, memory=1e9, launch=1e-6)
    assert cost.seconds(machine) == pytest.approx(flop / 1e3)
    assert cost.seconds(machine._replace(memory=1.0)) == pytest.approx(size)
    assert (cost * 3).seconds(machine._replace(launch=1e6)) == pytest.approx(3e6)


def test_a_trunk_costs_what_is_published(scripts: SimpleNamespace) -> None:
    """ResNet-50 has 4.09 GMAC at 224 px (torchvision's card), of which layer4 and the head, left out here, are 0.81."""
    flop = scripts.costs.forward("resnet50", 224, 1).gflop
    assert flop == pytest.approx(2 * (4.09 - 0.81), rel=0.01)


def test_what_a_notebook_needs_comes_with_what_that_is_made_from(scripts: SimpleNamespace) -> None:
    """Optional artifacts are not made."""
    assert scripts.full_minutes.needed("01") == set()
    assert scripts.full_minutes.needed("06") == {"data", "padim"}
    assert scripts.full_minutes.needed("08") == {"data", "packages", "models", "padim", "contrastive"}
    assert scripts.full_minutes.needed("09") == {"data"}


def test_the_page_holds_what_was_estimated(scripts: SimpleNamespace) -> None:
    """Its table, of the parts that are listed now."""
    page = (PROJECT / "docs" / "how_it_was_measured.md").read_text(encoding="utf-8")
    table = page.split("<!-- full_minutes: start -->\n")[1].split("\n<!-- full_minutes: end -->")[0]
    assert table == scripts.full_minutes.page_table(REPORT)
    listed = sorted((part.notebook, part.what) for part in scripts.full_parts.parts())
    assert sorted((row["notebook"], row["part"]) for row in REPORT["parts"]) == listed
