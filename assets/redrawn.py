"""Draw assets/redrawn.jpg: drawn bottles, what an autoencoder makes of them, and the difference.

    python assets/redrawn.py ARTIFACT

ARTIFACT is what `mvtec-ad fit autoencoder --category bottle --source synthetic` wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mvtec_ad import plotting
from mvtec_ad.data import index, loading
from mvtec_ad.data.sources import locate
from mvtec_ad.methods import load_model
from mvtec_ad.plotting.style import to_jpeg

TARGET = Path(__file__).resolve().parent / "redrawn.jpg"
SHOWN = {"good": 2, "broken_large": 2, "broken_small": 1, "contamination": 2}  # test images of each kind


def main() -> None:
    """Load the model, choose images, draw."""
    detector, _ = load_model(sys.argv[1])
    table = index.read_category(locate("bottle", source="synthetic"), "bottle").query("split == 'test'")
    rows = [row for kind, number in SHOWN.items() for row in table[table["defect"] == kind].head(number).index]
    table = table.loc[rows]
    images = detector.load(list(table["image_path"]))
    figure = plotting.picture_rows(
        {"seen": images, "redrawn": detector.reconstruct(images), "difference": detector.score(images).maps},
        titles=list(table["defect"]),
        masks=loading.load_masks(table, detector.image_size, detector.crop),
        size=1.6,
    )
    TARGET.write_bytes(to_jpeg(figure, dpi=100))


if __name__ == "__main__":
    main()
