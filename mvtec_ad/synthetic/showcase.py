"""A row of pictures per product: good ones, then one of each defect."""

from __future__ import annotations

from itertools import count

from mvtec_ad.synthetic.dataset import ProductImage, defect_types, draw

VISIBLE = 0.6  # severity from which a defect shows in a small picture


def showcase(category: str, columns: int = 9, size: int = 128, seed: int = 1) -> list[tuple[str, ProductImage]]:
    """Returns `columns` drawn images with their titles, the last ones one of each defect type, plainly visible.

    Args:
        category: A product that can be drawn.
        columns: Number of images, more than the category has defect types.
        size: Image side in pixels.
        seed: First image seed; no two images show the same part.
    """
    defects = defect_types(category)
    seeds = count(seed)
    row = [(category, draw(category, next(seeds), None, size)) for _ in range(columns - len(defects))]
    for defect in defects:
        picture = next(image for image in (draw(category, s, defect, size) for s in seeds) if image.severity >= VISIBLE)
        row.append((defect, picture))
    return row
