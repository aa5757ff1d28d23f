"""Build course/lite/NN_name.ipynb from NN_name.py, executed, and the features that chapter 03 reads.

python course/lite/build.py [--features]
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat
import numpy as np
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
CHANNELS, SIZE, GRID = 10, 224, 14


def features() -> dict[str, np.ndarray]:
    """What chapter 03 reads: `good` and `test` features, float16, `labels` and `masks` of the test."""
    from mvtec_ad import synthetic
    from mvtec_ad.backbones import load_backbone

    kinds = synthetic.defect_types("bottle")
    asked = [(seed, None) for seed in (*range(60), *range(1000, 1012))]
    asked += [(2000 + number, kinds[number % len(kinds)]) for number in range(12)]
    drawn = [synthetic.draw("bottle", seed, kind, size=SIZE, least_severity=0.3) for seed, kind in asked]
    network = load_backbone("efficientnet_lite0")
    deep = network(np.stack([item.image for item in drawn]))[-1].cpu().numpy()  # stride 16: (84, 14, 14, C)
    chosen = np.sort(np.random.default_rng(0).choice(deep.shape[-1], CHANNELS, replace=False))
    grid = deep[..., chosen]
    grid = (grid / grid[:60].std(axis=(0, 1, 2))).astype(np.float16)
    cells = np.stack([item.mask for item in drawn[60:]]).reshape(24, GRID, SIZE // GRID, GRID, SIZE // GRID)
    masks = cells.any(axis=(2, 4)).astype(np.uint8)
    return {"good": grid[:60], "test": grid[60:], "labels": np.repeat(np.uint8([0, 1]), 12), "masks": masks}


def main() -> None:
    """Build."""
    if "--features" in sys.argv:
        np.savez_compressed(HERE / "features.npz", **features())
    for source in sorted(HERE.glob("[0-9][0-9]_*.py")):
        notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
        notebook.metadata = {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        notebook.nbformat, notebook.nbformat_minor = 4, 5
        for number, cell in enumerate(notebook.cells):
            cell.metadata, cell.id = {}, f"cell-{number}"
        NotebookClient(notebook, resources={"metadata": {"path": HERE}}).execute()
        for cell in notebook.cells:
            cell.metadata = {}
        nbformat.write(notebook, source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
