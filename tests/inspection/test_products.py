"""Products by their distance: against scikit-learn and scipy, others refused, the file gives the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from mvtec_ad import artifacts
from mvtec_ad.backbones import load_backbone
from mvtec_ad.errors import ArtifactError, DataError, SettingsError
from mvtec_ad.inspection.products import InspectionOptions, ProductClassifier, describe

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
OPTIONS = InspectionOptions(backbone="resnet18", weights="synthetic", image_size=64, rejected=0.02)
NETWORK = load_backbone("resnet18", "synthetic")


def dots(rng: np.random.Generator) -> np.ndarray:
    """A picture of another size and kind, (48, 80, 3) uint8: discs on a dark ground."""
    rows, columns = np.mgrid[:48, :80]
    picture = np.full((48, 80, 3), 30.0)
    for y, x in ((12, 20), (12, 60), (36, 40)):
        picture[(rows - y - rng.normal()) ** 2 + (columns - x - rng.normal()) ** 2 < 64] = (200, 90, 40)
    return np.clip(picture + rng.normal(0, 5, picture.shape), 0, 255).astype(np.uint8)


def stripes(rng: np.random.Generator) -> np.ndarray:
    """Neither product."""
    picture = 128 + 100 * np.sign(np.sin(np.arange(64) * 0.8 + rng.uniform(0, 6)))[:, None, None] * np.ones((64, 64, 3))
    return np.clip(picture + rng.normal(0, 5, picture.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def features(draw: Draw) -> dict[str, np.ndarray]:
    """Of forty pictures of each of two products."""
    rng = np.random.default_rng(0)
    parts = [draw(rng, 64, number % 4 == 0)[0] for number in range(40)]
    return {"part": describe(NETWORK, parts, 64), "dots": describe(NETWORK, [dots(rng) for _ in range(40)], 64)}


@pytest.fixture(scope="module")
def known(features: dict[str, np.ndarray]) -> ProductClassifier:
    """Fitted on them."""
    return ProductClassifier.fit(OPTIONS, NETWORK, features)


def test_distances_are_mahalanobis_distances(known: ProductClassifier, features: dict[str, np.ndarray]) -> None:
    """Of the covariance within products, shrunk by scikit-learn after every number got unit variance."""
    within = np.concatenate([rows - rows.mean(0, dtype=float) for rows in features.values()])
    scale = within.std(0) + 1e-6
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(within / scale).covariance_)
    pictures = [dots(np.random.default_rng(9)), stripes(np.random.default_rng(9))]
    for row, picture in zip(known.distances(pictures) * known.limits, pictures, strict=True):
        seen = describe(NETWORK, [picture], 64)[0] / scale
        by_hand = [mahalanobis(seen, features[name].mean(0, dtype=float) / scale, precision) for name in known.names]
        assert row == pytest.approx(by_hand, rel=1e-3)


def test_new_pictures_are_named_and_others_refused(known: ProductClassifier, draw: Draw) -> None:
    """Defective ones of a known product too."""
    rng = np.random.default_rng(7)
    parts, others = [draw(rng, 64, number % 2 == 0)[0] for number in range(20)], [dots(rng) for _ in range(20)]
    names, ood_scores = known.name(parts + others)
    assert names.tolist() == ["part"] * 20 + ["dots"] * 20
    assert (ood_scores <= 1).mean() >= 0.9
    assert (known.name([stripes(rng) for _ in range(10)])[1] > 1).all()


def test_limits_hold_out_what_they_judge(known: ProductClassifier, features: dict[str, np.ndarray]) -> None:
    """Written out with fits that have not seen a fold: a quantile of all distances, in units of each product's median.

    Of 80 distances, all but 2 % of those to come stay below the ⌈81 · .98⌉ = 80th, the largest.
    """
    held: dict[str, list[float]] = {name: [] for name in known.names}
    for part in np.array_split(np.random.default_rng(0).permutation(40), 5):
        fold = ProductClassifier.fit(OPTIONS, NETWORK, {name: np.delete(x, part, 0) for name, x in features.items()})
        for column, name in enumerate(known.names):
            held[name] += list(np.linalg.norm(features[name][part] @ fold.whitening - fold.means[column], axis=1))
    medians = {name: np.median(distances) for name, distances in held.items()}
    largest = max(distance / medians[name] for name, distances in held.items() for distance in distances)
    assert known.limits == pytest.approx([medians[name] * largest for name in known.names], rel=1e-3)


def test_the_file_gives_the_same(known: ProductClassifier, tmp_path: Path) -> None:
    """Names, distances and limits, to the bit; half a file is one line."""
    given: dict[str, Any] = {"profile": "custom", "data_source": "own", "categories": [], "options": {}, "seed": 0}
    path = artifacts.save("inspection", known.files(), **given, path=tmp_path / "inspection.zip")
    again, picture = ProductClassifier.restore(artifacts.load(path)), dots(np.random.default_rng(1))
    assert (again.names, again.options) == (known.names, known.options)
    assert again.distances([picture]).tobytes() == known.distances([picture]).tobytes()
    files = {"products/model.json": {"options": {}, "names": []}, "products/model.safetensors": {"means": np.ones(2)}}
    path = artifacts.save("inspection", files, **given, path=tmp_path / "half.zip")
    with pytest.raises(ArtifactError, match="holds no whole model") as problem:
        ProductClassifier.restore(artifacts.load(path))
    assert "\n" not in str(problem.value)


def test_what_cannot_be_fitted(features: dict[str, np.ndarray]) -> None:
    """Too few pictures of a product, no product, options that cannot work: each is named."""
    with pytest.raises(DataError, match="dots has too few pictures"):
        ProductClassifier.fit(OPTIONS, NETWORK, {**features, "dots": features["dots"][:9]})
    with pytest.raises(DataError, match="too few"):
        ProductClassifier.fit(OPTIONS, NETWORK, {})
    for option in ({"miss": 0.0}, {"widths": (1.0, 0.5)}, {"widths": ()}, {"image_size": 16}, {"rejected": 1.0}):
        with pytest.raises(SettingsError, match=next(iter(option))):
            InspectionOptions(**option)
