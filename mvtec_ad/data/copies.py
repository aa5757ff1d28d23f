"""Images that occur more than once: counted by content, not by name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from mvtec_ad.data.loading import masked, read_image


def content_hash(pixels: np.ndarray) -> str:
    """SHA-256 of a picture: a copy that was renamed, saved in another lossless format or given other metadata has other
    bytes, but a model sees the same picture."""
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def picture_hashes(paths: Sequence[str]) -> list[str]:
    """`content_hash` of each image file, decoded at its own size."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: content_hash(read_image(path)), paths))


def distinct(hashes: Sequence[str]) -> np.ndarray:
    """Positions of the first of each picture, ascending.

    Examples:
        >>> distinct(["a", "b", "a"]).tolist()
        [0, 1]
    """
    return np.sort(np.unique(np.asarray(hashes), return_index=True)[1])


def image_notes(table: pd.DataFrame, hashes: Sequence[str]) -> list[str]:
    """What a reader of numbers must know of the images they are from, a line each: copies among the images, training
    images in the test, images that are good and defective, defective ones without a mask; none where all is well."""
    table, notes = table.assign(hash=list(hashes)), []

    def note(rows: pd.DataFrame, words: str) -> None:
        if len(rows):
            notes.append(f"{len(rows)} {words}, first {rows['image_path'].iloc[0]}")

    train, test = table[(table["split"] == "train") & (table["label"] == 0)], table[table["split"] == "test"]
    note(train[train["hash"].duplicated()], f"of {len(train)} good training images are copies of others and count once")
    note(test[test["hash"].isin(table.loc[table["split"] == "train", "hash"])], "test images are training images too")
    note(test[test["hash"].duplicated()], "test images are copies of others, so intervals are too narrow")
    labels = table.groupby("hash")["label"].transform("nunique")
    note(table[(labels > 1) & (table["label"] == 1)], "defective images are good ones too: which is right?")
    unmasked = test[~masked(test)]
    if len(unmasked) < (test["label"] == 1).sum():
        types = ", ".join(sorted(set(unmasked["defect"])))
        note(unmasked, f"defective images have no mask ({types}) and count for no pixel metric")
    return notes
