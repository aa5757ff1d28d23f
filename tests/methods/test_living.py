"""`update` and `forget`: equal to a fit on the union and on the difference, from what an artifact holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from mvtec_ad import artifacts
from mvtec_ad.backbones import load_backbone
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods import METHODS, detector_class, load_model, padim, patchcore
from mvtec_ad.methods.base import Change, FeatureDetector
from mvtec_ad.methods.padim import Padim
from mvtec_ad.methods.patchcore import Patchcore

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
SIDE, RIDGE = 32, 0.01
THRESHOLD = {"value": 1.5, "false_alarm_rate": 0.05}


@pytest.fixture(scope="module")
def images(draw: Draw) -> np.ndarray:
    """Thirty different good surfaces."""
    generator = np.random.default_rng(0)
    return np.stack([draw(generator, SIDE, False)[0] for _ in range(30)])


@pytest.fixture(autouse=True)
def each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last digits of a feature depend on what an image is looked at together with; here only the algebra is."""
    monkeypatch.setattr(FeatureDetector, "batch", lambda self: 1)


def small(method: str = "padim", **options: object) -> Padim | Patchcore:
    """Not fitted, on random weights, with a scale that is measured."""
    more = {"channels": 12, "sigma": 1.0} if method == "padim" else {"projection": 16}
    return detector_class(method)(
        **{"backbone": "resnet18", "weights": "random", "image_size": SIDE, "crop": SIDE, **more, **options}
    )


def there_and_back(detector: Padim | Patchcore, folder: Path) -> Padim | Patchcore:
    """The same, as an artifact gives it."""
    return load_model(artifacts.save_model(folder / "a.zip", detector, "part", THRESHOLD, data_source="own"))[0]


def same_model(changed: Padim, fitted: Padim, unseen: np.ndarray) -> None:
    """Means, covariances, scale and scores of images, all to a millionth."""
    assert (changed.gaussians.dual, len(changed.hashes)) == (fitted.gaussians.dual, len(fitted.hashes))
    assert sorted(changed.hashes) == sorted(fitted.hashes)
    assert changed.scale == pytest.approx(fitted.scale, rel=1e-6)
    means = [model.gaussians.mean.double() + model.gaussians.mean_rest for model in (changed, fitted)]
    assert (means[0] - means[1]).abs().max() <= 1e-6 * means[1].abs().max()
    covariances = [covariance(model) for model in (changed, fitted)]
    error = torch.linalg.matrix_norm(covariances[0] - covariances[1]) / torch.linalg.matrix_norm(covariances[1])
    assert error.max() <= 1e-6
    np.testing.assert_allclose(changed.score(unseen).image, fitted.score(unseen).image, rtol=1e-6)


def covariance(detector: Padim) -> torch.Tensor:
    """Σ of each position: its scatter by N − 1, and the ridge."""
    gaussians, every = detector.gaussians, slice(0, len(detector.gaussians.mean))
    if gaussians.dual:
        features = gaussians.features(every).double()
        centred = features - features.mean(1, keepdim=True)
        scatter = centred.mT @ centred
    else:
        _, scatter = gaussians.moments(len(detector.good_scores), every)
    identity = torch.eye(scatter.shape[-1], dtype=torch.float64)
    return scatter / (len(detector.good_scores) - 1) + RIDGE * identity


# old and new: direct, dual, from dual to direct, one image only
@pytest.mark.parametrize(("old", "new"), [(15, 10), (4, 5), (8, 15), (20, 1)])
@pytest.mark.parametrize("scale", [None, 1.0], ids=["measured scale", "as they are"])
def test_an_update_equals_a_fit_on_all(
    old: int, new: int, scale: float | None, images: np.ndarray, tmp_path: Path
) -> None:
    """Of the model that an artifact holds, whose numbers are float32."""
    detector = there_and_back(small(feature_scale=scale).fit(images[:old], seed=3), tmp_path)
    scores = detector.good_scores
    change = detector.update(images[: old + new])  # the old ones among them are copies
    fitted = small(feature_scale=scale).fit(images[: old + new], seed=3)
    same_model(detector, fitted, images[25:])
    whole = old < 12  # all features are in the state
    assert change == Change(new, old, old + new if whole else new)
    np.testing.assert_allclose(
        detector.good_scores[0 if whole else old :], fitted.good_scores[0 if whole else old :], rtol=1e-5
    )
    if not whole:
        np.testing.assert_array_equal(detector.good_scores[:old], scores)
    same_model(there_and_back(detector, tmp_path), fitted, images[25:])


@pytest.mark.parametrize(("old", "gone"), [(25, 5), (9, 4), (14, 6)], ids=["direct", "dual", "fewer than channels"])
@pytest.mark.parametrize("scale", [None, 1.0], ids=["measured scale", "as they are"])
def test_forgetting_equals_a_fit_on_the_others(
    old: int, gone: int, scale: float | None, images: np.ndarray, tmp_path: Path
) -> None:
    """Whatever the order in which they are named; a direct model stays direct."""
    detector = there_and_back(small(feature_scale=scale).fit(images[:old], seed=3), tmp_path)
    before = detector.good_scores
    forgotten = np.random.default_rng(1).permutation(old)[:gone]
    rest = np.delete(np.arange(old), forgotten)
    change = detector.forget([*images[forgotten], images[forgotten[0]]])
    fitted = small(feature_scale=scale).fit(images[rest], seed=3)
    assert (change.images, change.copies) == (gone, 1)
    assert detector.hashes == fitted.hashes
    if detector.gaussians.dual == fitted.gaussians.dual:
        same_model(detector, fitted, images[25:])
    else:
        np.testing.assert_allclose(detector.score(images[20:]).image, fitted.score(images[20:]).image, rtol=2e-5)
    if detector.gaussians.dual:
        np.testing.assert_allclose(detector.good_scores, fitted.good_scores, rtol=1e-5)
    else:
        np.testing.assert_array_equal(detector.good_scores, before[rest])


def test_thirty_updates_and_thirty_forgettings_lead_back(images: np.ndarray) -> None:
    """Rounding does not add up: after sixty states the model is the one that it was."""
    start = small(feature_scale=1.0).fit(images[:15])
    detector, network = start, load_backbone("resnet18", "random")
    for step in range(30):
        for change in ("update", "forget"):
            detector = small(feature_scale=1.0).load_state(detector.state())
            detector.use_backbone(network)
            getattr(detector, change)(images[15 + step % 15 : 16 + step % 15])
    np.testing.assert_array_equal(detector.good_scores, start.good_scores)
    same_model(detector, start, images[25:])


def test_the_algebra_in_float64() -> None:
    """Means and scatters against numpy, in a shape of its own; a new image's distance against a model without it."""
    generator = np.random.default_rng(5)
    features = torch.tensor(generator.normal(1, 0.3, (3, 40, 6)), dtype=torch.float32)
    gaussians = padim.fit_gaussians(features[:, :30], RIDGE)
    held_out, more, factor = padim.changed(gaussians, 30, lambda chunk: features[chunk, 30:], 10)
    assert factor == 1
    mean, scatter = more.moments(40, slice(0, 3))
    for position in range(3):
        by_hand = features[position].double().numpy()
        np.testing.assert_allclose(mean[position], by_hand.mean(0), rtol=1e-7)
        np.testing.assert_allclose(scatter[position], 39 * np.cov(by_hand, rowvar=False), atol=3e-6)
    np.testing.assert_allclose(held_out, padim.leave_one_out(features, RIDGE)[:, 30:], rtol=1e-5)


# --- PatchCore --------------------------------------------------------------------------------------------------------


def test_a_whole_bank_is_updated_as_if_fitted_on_all(images: np.ndarray, tmp_path: Path) -> None:
    """Without a coreset nothing is left out: the bank is that of a fit, and so is every score."""
    detector = there_and_back(small("patchcore", coreset=1.0).fit(images[:6], seed=1), tmp_path)
    fitted = small("patchcore", coreset=1.0).fit(images[:10], seed=1)
    assert detector.update(images[4:10]) == Change(4, 2, 4)
    np.testing.assert_array_equal(detector.picks, fitted.picks)
    assert torch.equal(detector.bank, fitted.bank)
    np.testing.assert_allclose(detector.score(images).image, fitted.score(images).image, rtol=1e-5)
    np.testing.assert_allclose(detector.good_scores[6:], fitted.good_scores[6:], rtol=1e-5)
    detector.forget(images[[1, 7]])
    rest = np.delete(np.arange(10), [1, 7])
    other = small("patchcore", coreset=1.0).fit(images[rest], seed=1)
    np.testing.assert_array_equal(np.sort(detector.picks), np.sort(other.picks))
    np.testing.assert_allclose(detector.score(images).image, other.score(images).image, rtol=1e-5)


def test_a_coreset_covers_what_it_has_seen(images: np.ndarray) -> None:
    """Of the size that the share gives; no patch is farther from a row than the sum of both covering radii."""
    detector = small("patchcore", coreset=0.1, projection=10_000)  # chosen in the features themselves
    detector.fit(images[:8], seed=2)
    patches = patches_of(detector, images[:14])  # 14·16×C
    radius = cdist(patches[: 8 * 16], detector.bank).min(1).max()
    old = detector.bank.numpy()
    detector.update(images[8:14])
    assert len(detector.bank) == round(0.1 * 14 * 16)
    new = cdist(np.concatenate([old, patches[8 * 16 :]]), detector.bank).min(1).max()
    distances = cdist(patches, detector.bank).min(1)
    assert distances.max() <= (radius + new) * (1 + 1e-6)
    np.testing.assert_allclose(detector.bank, patches[detector.picks], atol=1e-5)  # each row is the patch it says


def test_forgotten_rows_are_those_of_the_image(images: np.ndarray) -> None:
    """The others say rightly where they come from; a second image is too many for so few, chained or not."""
    detector = small("patchcore", coreset=0.5).fit(images[:8], seed=2)
    before, scores = detector.picks, detector.good_scores
    words = "of a coreset of 8 images 1 can be forgotten, 2 would be: fit again on the others"
    with pytest.raises(DataError, match=words):
        detector.forget(images[[2, 5]])
    detector.forget(images[[2]])
    assert len(detector.picks) == (before // 16 != 2).sum()
    rest = images[[0, 1, 3, 4, 5, 6, 7]]
    np.testing.assert_allclose(detector.bank, patches_of(detector, rest)[detector.picks], atol=1e-5)
    np.testing.assert_array_equal(detector.good_scores, np.delete(scores, 2))
    assert detector.score(images[2:3]).image > scores[2] * 0.99  # unknown now
    again = replace(detector).load_state(detector.state())
    again.use_backbone(load_backbone("resnet18", "random"))
    with pytest.raises(DataError, match=words):
        again.forget(images[[5]])


def test_a_repair_scores_its_images_against_the_new_bank(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without their own rows; known ones stay one image each, and the others keep their scores."""
    detector = small("patchcore", coreset=0.3).fit(images[:10], seed=2)
    scores = detector.good_scores
    detector.forget(images[[9]])
    with pytest.raises(DataError, match="3 good images are too few"):
        detector.repair(images[[2, 4, 12]])
    monkeypatch.setattr(patchcore, "REPAIRING", 3)
    assert detector.repair(images[[2, 4, 12]]) == 3
    assert len(detector.hashes) == len(set(detector.hashes)) == len(detector.good_scores) == 10
    np.testing.assert_array_equal(detector.good_scores[:7], scores[[0, 1, 3, 5, 6, 7, 8]])
    order = images[[0, 1, 3, 5, 6, 7, 8, 2, 4, 12]]
    np.testing.assert_allclose(detector.bank, patches_of(detector, order)[detector.picks], atol=1e-5)
    for number in (7, 9):
        patches = patches_of(detector, order[number : number + 1])
        rest = detector.bank[torch.from_numpy(detector.picks // 16 != number)]
        by_hand, _ = patchcore.measure(torch.from_numpy(patches)[None], rest, rest.square().sum(1), detector.neighbours)
        assert detector.good_scores[number] == pytest.approx(float(by_hand), rel=1e-4)


def patches_of(detector: Patchcore, images: np.ndarray) -> np.ndarray:
    """All patches of images, (N·16, C)."""
    from mvtec_ad.methods.patchcore import patch_features

    layers = load_backbone("resnet18", "random")(images)
    return patch_features(layers, detector.layers, detector.neighbourhood).flatten(0, 2).numpy()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [method for method in METHODS if not detector_class(method).updates])
def test_other_methods_refuse(method: str) -> None:
    """In one line, before an image is read."""
    detector = detector_class(method)()
    detector.seed = 0
    for change in (detector.update, detector.forget):
        with pytest.raises(SettingsError, match=f"^{method} cannot be .*, only padim and patchcore can: fit it again"):
            change(["nowhere.png"])


@pytest.mark.parametrize("method", ["padim", "patchcore"])
def test_what_cannot_be_done_leaves_the_model_alone(method: str, images: np.ndarray) -> None:
    """Images that are known, unknown, too many, of another version's model."""
    detector = small(method, channels=6) if method == "padim" else small(method)
    detector.fit(images[:8])
    before = detector.state()
    for change, given, words in (
        (detector.update, images[2:5], "the model was fitted on all 3 images already: give new ones"),
        (detector.forget, images[7:9], "the model was not fitted on image number 1, nothing is forgotten"),
        (detector.forget, images[:6], "2 of 8 good images would be left, at least 3 must: forget fewer"),
    ):
        with pytest.raises(DataError, match=words):
            change(given)
    with pytest.raises(DataError, match=r"no\.png"):
        detector.update(["no.png"])
    assert all(np.array_equal(value, detector.state()[key]) for key, value in before.items())
    older = {key: value for key, value in before.items() if key != "images"}
    older = replace(detector).load_state(older)
    older.use_backbone(load_backbone("resnet18", "random"))
    np.testing.assert_array_equal(older.score(images).image, detector.score(images).image)
    with pytest.raises(SettingsError, match="does not know which images it was fitted on"):
        older.update(images[8:])


def test_a_fit_that_is_not_told_of_its_images_forgets_those_of_the_last(images: np.ndarray) -> None:
    """Else the hashes of other images would stand beside its scores."""
    detector = small().fit(images[:8])
    detector.fit_seen(list(detector.batches(images[8:16])), 8, 0)
    with pytest.raises(SettingsError, match="does not know"):
        detector.update(images[20:])
