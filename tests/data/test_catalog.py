"""The catalogue against table 1 of Bergmann et al. 2019, typed in independently."""

from __future__ import annotations

import pytest

from mvtec_ad.data.catalog import ARCHIVE_BYTES, ARCHIVE_SHA256, CATEGORIES, LICENCE, category_name
from mvtec_ad.errors import DataError

# name: (train, good test, defective test, defect types)
TABLE_1 = {
    "carpet": (280, 28, 89, 5),
    "grid": (264, 21, 57, 5),
    "leather": (245, 32, 92, 5),
    "tile": (230, 33, 84, 5),
    "wood": (247, 19, 60, 5),
    "bottle": (209, 20, 63, 3),
    "cable": (224, 58, 92, 8),
    "capsule": (219, 23, 109, 5),
    "hazelnut": (391, 40, 70, 4),
    "metal_nut": (220, 22, 93, 4),
    "pill": (267, 26, 141, 7),
    "screw": (320, 41, 119, 5),
    "toothbrush": (60, 12, 30, 1),
    "transistor": (213, 60, 40, 4),
    "zipper": (240, 32, 119, 7),
}
TEXTURES = {"carpet", "grid", "leather", "tile", "wood"}


@pytest.mark.parametrize("name", TABLE_1)
def test_counts_of_a_category(name: str) -> None:
    """Train, good test, defective test, defect types, kind."""
    found = CATEGORIES[name]
    assert (found.train, found.test_good, found.test_defective, len(found.defects)) == TABLE_1[name]
    assert found.name == name
    assert found.kind == ("texture" if name in TEXTURES else "object")


def test_totals() -> None:
    """The numbers that the data set's page states."""
    rows = CATEGORIES.values()
    assert len(rows) == 15
    assert sum(row.train for row in rows) == 3629
    assert sum(row.test_good for row in rows) == 467
    assert sum(row.test_defective for row in rows) == 1258
    assert sum(len(row.defects) for row in rows) == 73
    assert (ARCHIVE_BYTES, len(bytes.fromhex(ARCHIVE_SHA256))) == (5264982680, 32)
    assert "CC BY-NC-SA 4.0" in LICENCE


@pytest.mark.parametrize("text", ["metal_nut", "Größe 3 (neu)", "v1.2", "..x", "-", "部品", "w" * 100])
@pytest.mark.parametrize("form", ["{}", "{}/", "{}//", "{}\\", "./{}", ".\\{}\\", "././{}/."])
def test_any_plain_name_is_a_category(text: str, form: str) -> None:
    """Spaces, dots and other alphabets too; a shell may complete it, on every system."""
    assert category_name(form.format(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ".", "./", "..", "../", "...", "/", "//", "\\"),
        *("../widget", "a/b", "a\\b", "/widget", "\\widget", "C:\\images\\widget", "C:widget"),
        *("wid\nget", "wid\0get", "wid\x1bget", "wid\u2028get", "wid\udcffget"),
        *("w" * 101, "部" * 86, "w/" * 300),
    ],
)
def test_a_path_is_no_category(text: str) -> None:
    """Nor what a zip or another system cannot hold: one line that can be printed names it and the way out."""
    with pytest.raises(DataError, match="give the folders above it with --root") as caught:
        category_name(text)
    words = str(caught.value)
    assert words.startswith(f"category {text[:100]!r}"[:100])
    assert len(words.encode().splitlines()) == 1
    assert len(words) < 600
