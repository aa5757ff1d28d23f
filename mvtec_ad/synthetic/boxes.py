"""Bounding boxes in the XML of Pascal VOC (Everingham et al., IJCV 2010), one object an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from mvtec_ad.errors import DataError

LARGEST = 1_000_000  # bytes of a file with one object, and pixels of a side


@dataclass(frozen=True)
class Box:
    """A rectangle in an image, in pixels; the last column and row belong to it."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int

    def scaled(self, before: tuple[int, int], after: tuple[int, int]) -> Box:
        """The same rectangle after its image was resized; sizes are (height, width). It keeps at least one pixel."""
        rows, columns = after[0] / before[0], after[1] / before[1]
        left, top = int(self.xmin * columns), int(self.ymin * rows)
        right = max(left, min(after[1], round((self.xmax + 1) * columns)) - 1)
        bottom = max(top, min(after[0], round((self.ymax + 1) * rows)) - 1)
        return Box(left, top, right, bottom)


@dataclass(frozen=True)
class Annotation:
    """What one file says: the size (height, width) of its image, and the one object in it."""

    size: tuple[int, int]
    name: str
    box: Box

    def xml(self, filename: str) -> bytes:
        """The file's content, for an image of that name."""
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = filename
        _numbers(ElementTree.SubElement(root, "size"), width=self.size[1], height=self.size[0], depth=3)
        thing = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(thing, "name").text = self.name
        box = self.box
        edges = {"xmin": box.xmin, "ymin": box.ymin, "xmax": box.xmax, "ymax": box.ymax}
        _numbers(ElementTree.SubElement(thing, "bndbox"), **edges)
        ElementTree.indent(root)
        return ElementTree.tostring(root) + b"\n"


def _numbers(parent: ElementTree.Element, **values: int) -> None:
    for name, value in values.items():
        ElementTree.SubElement(parent, name).text = str(value)


def read_annotation(path: str | Path) -> Annotation:
    """Read one file.

    Raises:
        DataError: the file is missing, is no Pascal VOC, holds no object or several, or a box outside its image.
    """
    try:
        content = Path(path).read_bytes()
        if len(content) > LARGEST or b"<!DOCTYPE" in content.replace(b"\0", b""):  # entities can unfold without end
            raise ValueError("it is too large, or declares entities")
        root = ElementTree.fromstring(content)
        size = int(root.findtext("size/height", "")), int(root.findtext("size/width", ""))
        things = root.findall("object")
        if len(things) != 1:
            raise ValueError(f"it has {len(things)} objects, not one")
        if max(size) > LARGEST:
            raise ValueError("no image is that large")
        edges = (float(things[0].findtext(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax"))
        box = Box(*(int(edge) for edge in edges))
        name = things[0].findtext("name", "")
    except (OSError, ElementTree.ParseError, ValueError, LookupError, OverflowError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise DataError(f"box {path} cannot be read ({reason}): save it as Pascal VOC, or remove it") from problem
    if not (0 <= box.xmin <= box.xmax <= size[1] and 0 <= box.ymin <= box.ymax <= size[0]):
        raise DataError(f"box {path} lies outside its image of {size[1]}×{size[0]}: draw it again, or remove it")
    return Annotation(size, name, box)
