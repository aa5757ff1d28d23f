"""The data card of the drawn products says what was measured, on the pixels that are drawn now."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from mvtec_ad import synthetic
from mvtec_ad.benchmark.published import published

ROOT = Path(__file__).parents[1]
MEASURED = json.loads((ROOT / "assets" / "difficulty.json").read_text(encoding="utf-8"))
CARD = (ROOT / "mvtec_ad" / "synthetic" / "README.md").read_text(encoding="utf-8")
SYNTHETIC = {row["category"]: row for row in MEASURED["rows"] if row["data_source"] == "synthetic"}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("difficulty", ROOT / "benchmarks" / "difficulty.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def between(name: str) -> str:
    return CARD.split(f"<!-- {name}: start -->\n")[1].split(f"\n<!-- {name}: end -->")[0]


def test_the_card_holds_what_was_measured(script) -> None:
    assert between("difficulty") == script.difficulty_table(MEASURED)
    assert between("realism") == script.realism_table(MEASURED)


def test_it_was_measured_on_these_pixels_and_all_products() -> None:
    assert MEASURED["render_version"] == synthetic.RENDER_VERSION
    assert tuple(SYNTHETIC) == synthetic.CATEGORIES
    assert all(row["differences"] == [] for row in SYNTHETIC.values())


def test_the_order_of_difficulty_is_the_rank_correlation_with_published_figures() -> None:
    theirs_of = {
        row["category"]: row["value"]
        for row in published()
        if row["method"] == "padim" and row["backbone"] == "resnet18" and row["metric"] == "image_auroc"
        if row["source"].startswith("xiahaifeng")
    }
    ours = rankdata([row["imagenet"]["image_auroc"]["mean"] for row in SYNTHETIC.values()])
    theirs = rankdata([theirs_of[category] for category in SYNTHETIC])
    assert MEASURED["spearman"] == pytest.approx(np.corrcoef(ours, theirs)[0, 1])
