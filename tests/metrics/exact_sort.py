"""Pixel metrics from one sort of all pixels: the oracle that the histograms of the package must equal."""

import numpy as np
from scipy import ndimage


def exact_sort(maps, masks, limit=0.3):
    """Pixel AUROC, average precision, AUPRO and the bends of the PRO curve, `(fpr, pro)`; ties enter together."""
    shares = []
    for mask in masks:
        regions = ndimage.label(mask, structure=np.ones((3, 3)))[0][mask]
        shares.append(1 / np.bincount(regions)[regions])
    order = np.argsort(maps[masks])[::-1]
    shares, defect, normal = np.concatenate(shares)[order], maps[masks][order], np.sort(maps[~masks])

    last = np.flatnonzero(np.append(defect[1:] != defect[:-1], True))
    found = np.cumsum(shares)[last] / shares.sum()
    above = normal.size - np.searchsorted(normal, defect[last], side="right")
    reached = normal.size - np.searchsorted(normal, defect[last], side="left")
    new = np.diff(last + 1, prepend=0)
    fpr = np.concatenate([[0], np.stack([above, reached], axis=1).ravel() / normal.size, [1]])
    pro = np.concatenate([[0], np.stack([np.append(0, found[:-1]), found], axis=1).ravel(), [1]])
    cut = np.argmax(fpr >= limit)  # the segment that reaches the limit ends there
    height = pro[cut - 1] + (pro[cut] - pro[cut - 1]) * (limit - fpr[cut - 1]) / (fpr[cut] - fpr[cut - 1])
    x, y = np.append(fpr[:cut], limit), np.append(pro[:cut], height)
    values = {
        "pixel_auroc": 1 - (new * (above + reached) / 2).sum() / defect.size / normal.size,
        "pixel_ap": (new * (last + 1) / (last + 1 + reached)).sum() / defect.size,
        "au_pro": (np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / limit,
    }
    return values, (fpr, pro)
