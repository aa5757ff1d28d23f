"""What MVTec AD contains: categories, defect types, official counts, licence; and what any category may be called.

Source: Bergmann et al., "MVTec AD — A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection",
CVPR 2019, table 1, and the folders of the official archive.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath

from mvtec_ad.errors import DataError

ARCHIVE_SHA256 = "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d"
ARCHIVE_BYTES = 5_264_982_680

LICENCE = (
    "MVTec AD: copyright 2019 MVTec Software GmbH, licensed under CC BY-NC-SA 4.0 "
    "(https://creativecommons.org/licenses/by-nc-sa/4.0/): attribution, no commercial use, share alike. "
    "Cite Bergmann, Fauser, Sattlegger, Steger, CVPR 2019."
)
SYNTHETIC_LICENCE = "Drawn by mvtec_ad.synthetic; contains no photograph. MIT, like the code that drew it."
USER_LICENCE = (
    "Own images: their owner says what may be done with them. Those among them that come from MVTec AD stay under "
    f"its licence. {LICENCE}"
)

LONGEST_NAME = 100  # characters of a category's name
_UNFIT = ("Cc", "Cs", "Zl", "Zp")  # Unicode: control characters, bytes that were no text, ends of lines and paragraphs


def category_name(text: str) -> str:
    """A category as a user gives it, as the one plain path component that it is everywhere else.

    It names a folder below the root, folders in artifacts, and files of results: a path, or what a zip or another
    system cannot hold, would end up elsewhere than where it is looked for, and is a DataError. A separator after the
    name or `./` before it, as a shell completes it, are dropped.

    Examples:
        >>> category_name("./widget/")
        'widget'
    """
    parts = PurePosixPath(text.replace("\\", "/")).parts  # both separators on every system: artifacts travel
    name = parts[0] if len(parts) == 1 else ""
    too_long = len(name) > LONGEST_NAME or len(name.encode(errors="replace")) > 255  # bytes: a file system's limit
    unfit = ":" in name or any(unicodedata.category(letter) in _UNFIT for letter in name)
    if not name.strip("./ ") or too_long or unfit:
        shown = repr(text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…")
        raise DataError(
            f"category {shown} must be the name of one folder, of at most {LONGEST_NAME} characters, without colons "
            "and control characters: give the folders above it with --root, or rename it"
        )
    return name


@dataclass(frozen=True)
class Category:
    """One product or texture of MVTec AD, with the official number of images of each kind."""

    name: str
    kind: str  # object | texture
    train: int
    test_good: int
    defects: dict[str, int]  # defect type -> test images of it

    @property
    def test_defective(self) -> int:
        """Number of defective test images."""
        return sum(self.defects.values())

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """Images by split and defect, as in `index.read_category`."""
        tested = {("test", defect): count for defect, count in self.defects.items()}
        return {("train", "good"): self.train, ("test", "good"): self.test_good, **tested}


# name, kind, training images, good test images: test images of each defect type
_TABLE = """
carpet texture 280 28: color 19, cut 17, hole 17, metal_contamination 17, thread 19
grid texture 264 21: bent 12, broken 12, glue 11, metal_contamination 11, thread 11
leather texture 245 32: color 19, cut 19, fold 17, glue 19, poke 18
tile texture 230 33: crack 17, glue_strip 18, gray_stroke 16, oil 18, rough 15
wood texture 247 19: color 8, combined 11, hole 10, liquid 10, scratch 21
bottle object 209 20: broken_large 20, broken_small 22, contamination 21
cable object 224 58: bent_wire 13, cable_swap 12, combined 11, cut_inner_insulation 14, cut_outer_insulation 10, \
missing_cable 12, missing_wire 10, poke_insulation 10
capsule object 219 23: crack 23, faulty_imprint 22, poke 21, scratch 23, squeeze 20
hazelnut object 391 40: crack 18, cut 17, hole 18, print 17
metal_nut object 220 22: bent 25, color 22, flip 23, scratch 23
pill object 267 26: color 25, combined 17, contamination 21, crack 26, faulty_imprint 19, pill_type 9, scratch 24
screw object 320 41: manipulated_front 24, scratch_head 24, scratch_neck 25, thread_side 23, thread_top 23
toothbrush object 60 12: defective 30
transistor object 213 60: bent_lead 10, cut_lead 10, damaged_case 10, misplaced 10
zipper object 240 32: broken_teeth 19, combined 16, fabric_border 17, fabric_interior 16, rough 17, split_teeth 18, \
squeezed_teeth 16
"""


def _category(line: str) -> Category:
    """One line of the table."""
    head, _, tail = line.partition(": ")
    name, kind, train, test_good = head.split()
    defects = {defect: int(count) for defect, count in map(str.split, tail.split(", "))}
    return Category(name, kind, int(train), int(test_good), defects)


CATEGORIES = {category.name: category for category in map(_category, _TABLE.strip().splitlines())}


def official_counts(category: str) -> dict[str, int | dict[str, int]]:
    """Numbers of images that MVTec AD has of a category, as arguments for `synthetic.write_category`."""
    official = CATEGORIES[category]
    return {"train": official.train, "test_good": official.test_good, "per_defect": official.defects}
