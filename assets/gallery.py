"""Draws `assets/gallery.jpg`, a row per product, and `assets/packages.jpg`; masks outlined.

python assets/gallery.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mvtec_ad import plotting
from mvtec_ad.plotting.style import to_jpeg
from mvtec_ad.synthetic import CATEGORIES, draw_package, showcase


def main() -> None:
    """Write both pictures."""
    row = [item for category in CATEGORIES for item in showcase(category, columns=9, size=224)]
    _write("gallery.jpg", [(title, one.image, one.mask) for title, one in row], columns=9, size=1.35)
    packages = [
        (draw_package(seed, damage, (270, 480)), damage) for seed, damage in ((1, False), (3, True), (10, True))
    ]
    views = [
        (f"{'damaged' if damage else 'intact'}, {view}", one.views[view], one.masks[view])
        for view in ("side", "top")
        for one, damage in packages
    ]
    _write("packages.jpg", views, columns=3, size=3.6)


def _write(name: str, pictures: list[tuple[str, np.ndarray, np.ndarray]], columns: int, size: float) -> None:
    titles, images, masks = zip(*pictures, strict=True)
    labels = [int(mask.any()) for mask in masks]
    figure = plotting.gallery(images, titles=titles, columns=columns, masks=masks, labels=labels, size=size)
    Path(__file__).with_name(name).write_bytes(to_jpeg(figure, dpi=100))


if __name__ == "__main__":
    main()
