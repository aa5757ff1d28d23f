"""Tables that are none, wherever images come with labels: refused in one line before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mvtec_ad import benchmark
from mvtec_ad.errors import DataError
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.methods.defect_types import DefectTypes
from mvtec_ad.methods.gan import Dcgan
from mvtec_ad.methods.padim import Padim

COLUMNS = ("image_id", "category", "split", "defect", "image_path", "mask_path", "view", "group")
TABLE = pd.DataFrame({name: ["x"] for name in COLUMNS})
TABLE = TABLE.assign(label=1)
ASK: dict[str, Callable[[Any], Any]] = {
    "classifier": lambda table: Classifier(weights="random").fit(table),
    "defect types": lambda table: DefectTypes(backbone="resnet18", weights="synthetic").fit(table),
    "benchmark": lambda table: benchmark.run(Padim(weights="random"), table, data_source="own"),
}


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
@pytest.mark.parametrize(
    ("table", "words"),
    [
        (None, "not a NoneType: give a table as from"),
        (["a.png"], "not a list: give a table"),
        (TABLE.drop(columns="label"), "has no column label: give"),
        (TABLE.drop(columns="image_path"), "has no column image_path: give"),
        (TABLE[:0], "the table of images is empty"),
        (TABLE.astype(str), "labels must be the numbers 0"),
        (TABLE.assign(label=np.nan), "labels must be the numbers 0"),
        (TABLE.assign(label=2), "labels must be the numbers 0"),
    ],
)
def test_what_is_no_table_of_images_is_refused(ask: Callable[[Any], Any], table: Any, words: str) -> None:
    """By all who learn from labels, alike."""
    with pytest.raises(DataError, match=words):
        ask(table)


def test_digits_of_floats_are_refused() -> None:
    """They would be taken for nearly black."""
    with pytest.raises(DataError, match=r"uint8 from 0 to 255, and these are .* float64"):
        Dcgan(batch_images=2).fit(np.ones((4, 28, 28)))
