"""Products by their distance: against scikit-learn and scipy, strangers refused, the file gives the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from mvtec_ad import artifacts
from mvtec_ad.errors import ArtifactError, DataError
from mvtec_ad.inspector import products
from mvtec_ad.settings import InspectionSettings

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
SMALL = InspectionSettings(weights="drawn", image_size=64, rejected=0.02)


def dots(rng: np.random.Generator) -> np.ndarray:
    """A picture of another size and kind, (48, 80, 3) uint8: discs on a dark ground."""
    rows, columns = np.mgrid[:48, :80]
    picture = np.full((48, 80, 3), 30.0)
    for y, x in ((12, 20), (12, 60), (36, 40)):
        picture[(rows - y - rng.normal()) ** 2 + (columns - x - rng.normal()) ** 2 < 64] = (200, 90, 40)
    return np.clip(picture + rng.normal(0, 5, picture.shape), 0, 255).astype(np.uint8)


def stripes(rng: np.random.Generator) -> np.ndarray:
    """A stranger."""
    picture = 128 + 100 * np.sign(np.sin(np.arange(64) * 0.8 + rng.uniform(0, 6)))[:, None, None] * np.ones((64, 64, 3))
    return np.clip(picture + rng.normal(0, 5, picture.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def learned(draw: Draw) -> dict[str, list[np.ndarray]]:
    """Forty pictures of each of two products."""
    rng = np.random.default_rng(0)
    return {"part": [draw(rng, 64, number % 4 == 0)[0] for number in range(40)], "dots": [dots(rng) for _ in range(40)]}


@pytest.fixture(scope="module")
def known(learned: dict[str, list[np.ndarray]]) -> products.ProductClassifier:
    """Fitted on them."""
    return products.fit(SMALL, learned)


def test_distances_are_mahalanobis_distances(
    known: products.ProductClassifier, learned: dict[str, list[np.ndarray]]
) -> None:
    """Of the covariance within products, shrunk by scikit-learn after every number got unit variance."""
    features = {name: products.described(known.backbone, learned[name], SMALL).astype(float) for name in known.names}
    within = np.concatenate([own - own.mean(0) for own in features.values()])
    scale = within.std(0) + 1e-6
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(within / scale).covariance_)
    asked = [learned["part"][3], learned["dots"][5]]
    found = known.distances(asked) * known.limits
    for row, picture in zip(found, asked, strict=True):
        own = products.described(known.backbone, [picture], SMALL)[0] / scale
        by_hand = [mahalanobis(own, features[name].mean(0) / scale, precision) for name in known.names]
        assert row == pytest.approx(by_hand, rel=1e-3)


def test_new_pictures_are_named_and_strangers_refused(known: products.ProductClassifier, draw: Draw) -> None:
    """Defective ones of a known product too."""
    rng = np.random.default_rng(7)
    parts, others = [draw(rng, 64, number % 2 == 0)[0] for number in range(20)], [dots(rng) for _ in range(20)]
    said, strangeness = known.name(parts + others)
    assert said.tolist() == ["part"] * 20 + ["dots"] * 20
    assert (strangeness <= 1).mean() >= 0.9
    _, far = known.name([stripes(rng) for _ in range(10)])
    assert (far > 1).all()


def test_limits_hold_out_what_they_judge(
    known: products.ProductClassifier, learned: dict[str, list[np.ndarray]]
) -> None:
    """Written out with fits that have not seen a fold: a quantile of all distances, in units of each product's median.

    Of 80 distances, all but 2 % of those to come stay below the ⌈81 · .98⌉ = 80th, the largest.
    """
    held: dict[str, list[float]] = {name: [] for name in known.names}
    for part in np.array_split(np.random.default_rng(0).permutation(40), 5):
        others = {name: [own[n] for n in range(40) if n not in part] for name, own in learned.items()}
        once = products.fit(SMALL, others)
        for column, name in enumerate(known.names):
            distances = once.distances([learned[name][n] for n in part])[:, column] * once.limits[column]
            held[name] += list(distances)
    medians = {name: np.median(own) for name, own in held.items()}
    largest = max(distance / medians[name] for name, own in held.items() for distance in own)
    assert known.limits == pytest.approx([medians[name] * largest for name in known.names], rel=1e-3)


def test_the_file_gives_the_same(
    known: products.ProductClassifier, learned: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    """Names, distances and limits, to the bit."""
    path = artifacts.save(
        "inspection",
        products.members(known),
        profile="custom",
        data_source="own",
        categories=["part"],
        options={},
        seed=0,
        path=tmp_path / "inspection.zip",
    )
    again = products.restore(artifacts.load(path))
    assert again.names == known.names
    assert again.distances(learned["dots"][:3]).tobytes() == known.distances(learned["dots"][:3]).tobytes()


def test_an_artifact_without_products(tmp_path: Path) -> None:
    """Is one line."""
    path = artifacts.save(
        "inspection",
        {"products/model.json": {"options": {}, "names": []}, "products/model.safetensors": {"means": np.ones(2)}},
        profile="custom",
        data_source="own",
        categories=[],
        options={},
        seed=0,
        path=tmp_path / "inspection.zip",
    )
    with pytest.raises(ArtifactError, match="holds no whole model") as problem:
        products.restore(artifacts.load(path))
    assert "\n" not in str(problem.value)


def test_too_few_pictures(learned: dict[str, list[np.ndarray]]) -> None:
    """The product is named; none at all is refused as well."""
    with pytest.raises(DataError, match="dots has too few pictures"):
        products.fit(SMALL, {**learned, "dots": learned["dots"][:9]})
    with pytest.raises(DataError, match="too few"):
        products.fit(SMALL, {})
