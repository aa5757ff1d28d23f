"""Transfer learning with labels: networks against loops and torchvision, the head against sklearn, runs that repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from alike import equal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from mvtec_ad import artifacts, metrics
from mvtec_ad.backbones.backbone import TORCH_TAPS
from mvtec_ad.backbones.trunk import _name_in_file
from mvtec_ad.config import torch_device
from mvtec_ad.data import splits
from mvtec_ad.data.loading import read_image
from mvtec_ad.errors import ArtifactError, DataError, MvtecAdError, SettingsError, WeightsError
from mvtec_ad.frameworks import import_torchvision
from mvtec_ad.methods import classifier, items
from mvtec_ad.methods.classifier import Classifier, joint_minus_better_view, measure, score_unseen
from mvtec_ad.training import Run

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
Writer = Callable[[Path, np.ndarray], Path]
SIZE = 64
SMALL = Classifier(
    backbone="resnet18", weights="synthetic", roi="whole", image_size=SIZE, pyramid=(1,), steps=4, batch_images=8
)
HEAD = replace(SMALL, steps=0)
CHANNELS = {
    "resnet18": 256,
    "resnet50": 1024,
    "wide_resnet50_2": 1024,
    "efficientnet_b0": 112,
    "mobilenet_v3_large": 112,
}
CHANNELS |= {"efficientnet_lite0": 112, "efficientnet_lite1": 112, "efficientnet_lite2": 120}


def noise(count: int, seed: int = 0) -> np.ndarray:
    """(count, SIZE, SIZE, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def state_of(backbone: str, without: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """What torchvision or timm would save, every value random, statistics of batch norm too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        lite = backbone.startswith("efficientnet_lite")
        make = timm.create_model if lite else import_torchvision().models.get_model
        state = make(f"tf_{backbone}" if lite else backbone).state_dict()
        for name, value in state.items():
            if "running_mean" in name:
                value.copy_(0.1 * torch.randn_like(value))
            if "running_var" in name:
                value.copy_(0.5 + torch.rand_like(value))
    return {name: value for name, value in state.items() if not name.startswith(without)}


def saved(folder: Path, state: object) -> str:
    """The path of a state dict."""
    torch.save(state, folder / "weights.pth")
    return str(folder / "weights.pth")


def fails(error: type[MvtecAdError], message: str, action: Callable[[], object]) -> None:
    """It raises the error, with this in its one line."""
    with pytest.raises(error, match=message):
        action()


# Networks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=TORCH_TAPS)
def with_weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict, str]:
    """A backbone, what `state_of` gives for it, and the file that holds it."""
    state = state_of(request.param)
    return request.param, state, saved(tmp_path_factory.mktemp("weights"), state)


def test_every_network_gives_one_logit_and_takes_weights(with_weights: tuple[str, dict, str]) -> None:
    """The trunk has the weights of the file, to the bit; a new head on the pyramid's cells."""
    backbone, state, weights = with_weights
    network, name = replace(SMALL, backbone=backbone, weights=weights, pyramid=(1, 3)).new_network(4)
    assert name.startswith("weights.pth (SHA-256 ")
    loaded = {_name_in_file(backbone, name): value for name, value in network.body.state_dict().items()}
    assert loaded.keys() <= state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        assert network.pooled(images).shape == (2, CHANNELS[backbone] * 10)
        torch.testing.assert_close(network(images), network.head(network.pooled(images))[:, 0])
    groups = network.groups()
    named = [[f"{group}.{name}" for name, _ in network.get_submodule(group).named_parameters()] for group in groups]
    assert all(named)
    in_order = [name for names in reversed(named[1:]) for name in names] + named[0]
    assert in_order == [name for name, _ in network.named_parameters()]  # torch lists them from input to output


@pytest.mark.parametrize("pretrained", [True, False])
def test_only_a_network_from_scratch_estimates_statistics(
    with_weights: tuple[str, dict, str], pretrained: bool
) -> None:
    """Batch norm's means and variances stay to the bit, while weights have gradients."""
    backbone, _, weights = with_weights
    weights = weights if pretrained else "random"
    network, name = replace(SMALL, backbone=backbone, weights=weights).new_network()
    assert (network.training, network.pretrained, name == "random, from scratch") == (False, pretrained, not pretrained)
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    network.train()(torch.rand(4, 3, SIZE, SIZE)).sum().backward()
    assert {torch.equal(network.state_dict()[name], value) for name, value in before.items()} == {pretrained}
    assert all(weight.grad is not None for weight in network.parameters())
    assert not any(module.training for module in network.eval().modules())


@pytest.mark.parametrize("pyramid", [(2,), (1, 2, 4), (3, 5)])
def test_the_pyramid_averages_cells(pyramid: tuple[int, ...]) -> None:
    """A loop over cells, on images that are standardised with ImageNet's numbers; a grid of 5 × 5 has uneven ones."""
    network, _ = replace(SMALL, weights="random", pyramid=pyramid).new_network()
    images = torch.rand(2, 3, 96, 96)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        features = network.body((images - mean[:, None, None]) / deviation[:, None, None])
        pooled = network.pooled(images)
    side = features.shape[-1]
    expected = []
    for cells in pyramid:
        ends = [(k * side // cells, -(-(k + 1) * side // cells)) for k in range(cells)]
        grid = [[features[:, :, a:b, c:d].mean((2, 3)) for c, d in ends] for a, b in ends]
        expected.append(torch.stack([cell for row in grid for cell in row], 2).flatten(1))  # channels, then cells
    assert side == 6
    torch.testing.assert_close(pooled, torch.cat(expected, 1), rtol=1e-4, atol=1e-5)


def test_a_seed_draws_what_is_new() -> None:
    """The same for the same seed, and without touching torch's own stream."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, same, other = (SMALL.new_network(seed)[0] for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert equal(first, same)
    for part in ("head", "body.layer3.0.conv1"):
        weights = [network.get_submodule(part).weight for network in (first, other)]
        assert torch.equal(*weights) == ("layer3" in part)


@pytest.mark.parametrize(
    ("backbone", "state", "message"),
    [
        ("resnet18", lambda: state_of("resnet18", ("layer3.1.",)), "lacks .* tensors of resnet18, first layer3.1"),
        ("resnet18", lambda: {"state_dict": torch.zeros(1)}, "lacks .* tensors of resnet18, first conv1.weight"),
        ("efficientnet_b0", lambda: state_of("mobilenet_v3_large"), "of efficientnet_b0|efficientnet_b0 needs"),
        *((name, None, f"{name} has no synthetic weights, only resnet18") for name in TORCH_TAPS if name != "resnet18"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, backbone: str, state: Callable[[], object] | None, message: str
) -> None:
    """Before anything is learnt."""
    weights = saved(tmp_path, state()) if state else "synthetic"
    fails(WeightsError, message, replace(SMALL, backbone=backbone, weights=weights).new_network)


@pytest.mark.parametrize(("hflip", "penalty"), [(False, 1.0), (True, 100.0)])
def test_the_head_is_that_of_sklearn(hflip: bool, penalty: float) -> None:
    """Features standardised by a spread of at least 0.3 of the median one, logistic regression, 6 defects, 14 good."""
    model = replace(SMALL, pyramid=(1, 2), hflip=hflip, penalty=penalty)
    model.network, _ = model.new_network()
    images, labels = noise(20), np.array([0, 0, 1, 0, 1, 0, 0] * 2 + [0, 0, 1, 0, 1, 0])
    images[labels == 1, 20:40, 5:30] //= 2
    views = np.concatenate([images, images[:, :, ::-1]]) if hflip else images
    with torch.inference_mode():
        pooled = model.network.pooled(torch.from_numpy(views.copy()).permute(0, 3, 1, 2) / 255)
    features = pooled.numpy().astype(np.float64) - pooled.numpy().astype(np.float64).mean(0)
    spread = StandardScaler().fit(features).scale_ * (features.std(0) > 0)  # scikit-learn puts 1 for 0
    assert 0 < (spread < 0.3 * np.median(spread)).mean() < 0.5
    features /= np.maximum(spread, 0.3 * np.median(spread))
    reference = LogisticRegression(C=1 / penalty, class_weight="balanced", tol=1e-9, max_iter=10_000)
    expected = reference.fit(features, np.tile(labels, 2 if hflip else 1)).decision_function(features[:20])
    before = {name: value.clone() for name, value in model.network.body.state_dict().items()}
    model.network.to(torch_device())
    model.fit_head(images, labels)
    logits = model.logits(images)
    assert logits.dtype == np.float32
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert all(torch.equal(value.cpu(), before[name]) for name, value in model.network.body.state_dict().items())


# The fit ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_table(draw: Draw, write_image: Writer) -> Callable[..., pd.DataFrame]:
    """Writes good items and items with a bright patch, two views each."""

    def make(folder: Path, count: int = 10, seed: int = 0) -> pd.DataFrame:
        generator = np.random.default_rng(seed)
        rows = []
        for item in range(2 * count):
            for view in ("side", "top"):
                name = f"{item:02d}_{view}"
                path = write_image(folder / f"{name}.png", draw(generator, SIZE, item % 2 == 1)[0])
                kind = "patch" if item % 2 else "good"
                rows.append((f"part/{name}", "part", "train", kind, item % 2, str(path), "", view, f"part/{item:02d}"))
        names = ["image_id", "category", "split", "defect", "label", "image_path", "mask_path", "view", "group"]
        return pd.DataFrame(rows, columns=names)

    return make


@pytest.fixture(scope="module")
def table(make_table: Callable[..., pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """10 items, every second one damaged."""
    return make_table(tmp_path_factory.mktemp("parts"), count=5)


@pytest.fixture(scope="module")
def many(make_table: Callable[..., pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """20 items."""
    return make_table(tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def other_table(make_table: Callable[..., pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """20 others."""
    return make_table(tmp_path_factory.mktemp("others"), seed=9)


@pytest.fixture(scope="module")
def fitted(table: pd.DataFrame) -> Classifier:
    """On the first, from synthetic weights."""
    return replace(SMALL).fit(table)


def relabelled(table: pd.DataFrame, defective: np.ndarray) -> pd.DataFrame:
    """Other labels."""
    return table.assign(label=defective.astype(int), defect=np.where(defective, "patch", "good"))


def weighted_loss(logits: np.ndarray, labels: np.ndarray, weight: float) -> float:
    """Cross entropy in numpy; a defect counts `weight` times."""
    return float(np.mean(np.where(labels == 1, weight * np.logaddexp(0, -logits), np.logaddexp(0, logits))))


def test_it_tells_new_items_apart(fitted: Classifier, other_table: pd.DataFrame) -> None:
    """The patch is plain to see; batches of 16 change no score, and it stays in evaluation mode."""
    scores = fitted.score(other_table)
    assert (scores.image.shape, scores.image.dtype, scores.maps) == ((40,), np.float32, None)
    assert metrics.image_auroc(other_table["label"], scores.image) == 1
    np.testing.assert_array_equal(scores.image, fitted.logits(fitted.cut(other_table)[0]))
    np.testing.assert_allclose(fitted.score(other_table[20:21]).image, scores.image[20:21], rtol=1e-4, atol=1e-5)
    assert len(np.unique(scores.image)) == 40
    assert not any(module.training for module in fitted.network.modules())
    assert fitted.weights_name.startswith("synthetic")
    assert (fitted.seed, SMALL.seed, fitted) == (0, None, SMALL)  # equal where the options are


def test_no_item_is_on_both_sides(many: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head and every step see only images whose item is not in the validation part; which has both classes."""
    heads: list[np.ndarray] = []
    batches: list[np.ndarray] = []
    head, change = Classifier.fit_head, classifier.augment.jitter

    def watch_head(model: Classifier, cuts: np.ndarray, labels: np.ndarray) -> None:
        heads.append(cuts)
        head(model, cuts, labels)

    def watch_step(images: torch.Tensor, *rest: object, **limits: object) -> torch.Tensor:
        batches.append((images.permute(0, 2, 3, 1) * 255).round().byte().cpu().numpy())
        return change(images, *rest, **limits)

    monkeypatch.setattr(Classifier, "fit_head", watch_head)
    monkeypatch.setattr(classifier.augment, "jitter", watch_step)
    model = replace(SMALL).fit(many)
    rows = many.set_index("image_id").loc[model.validation["image_id"]]
    held = set(rows["group"])
    assert model.validation["image_id"].is_unique
    assert len(model.validation) == 2 * len(held) == 8  # both views of a fifth of 20 items
    assert model.validation["label"].tolist() == rows["label"].tolist()
    assert rows["label"].sum() == 4
    group_of = dict(zip([image.tobytes() for image in model.cut(many)[0]], many["group"], strict=True))
    trained = {group_of[image.tobytes()] for image in heads[0]}
    assert trained == set(many["group"]) - held
    assert len(batches) == 4
    for batch in batches:
        assert len({image.tobytes() for image in batch}) == 8
        assert {group_of[image.tobytes()] for image in batch} <= trained


@pytest.mark.parametrize("seed", [3, 4])
def test_the_best_check_is_kept(many: pd.DataFrame, seed: int) -> None:
    """By AUROC, then by loss, on labels that have nothing to do with the images: what is learnt helps no one."""
    shuffled = relabelled(many, np.repeat(np.random.default_rng(seed).permutation(20) < 8, 2))
    model = replace(SMALL, steps=8, lr=1e-3).fit(shuffled, seed)
    checks = model.curve.dropna(subset="validation_auroc")
    assert checks["step"].tolist() == list(range(-1, 8))
    assert model.curve["loss"].notna().sum() == 8
    best = checks.sort_values(["validation_auroc", "validation_loss"], ascending=[False, True]).iloc[0]
    labels, scores = (model.validation[name].to_numpy() for name in ("label", "score"))
    held = shuffled["image_id"].isin(model.validation["image_id"])
    np.testing.assert_allclose(model.score(shuffled[held]).image, scores, rtol=1e-5, atol=1e-5)
    learnt = shuffled.loc[~held, "label"]
    weight = float((learnt == 0).sum() / (learnt == 1).sum())
    assert weight > 1.2
    assert metrics.image_auroc(labels, scores) == pytest.approx(best["validation_auroc"], abs=1e-9)
    assert weighted_loss(scores, labels, weight) == pytest.approx(best["validation_loss"], rel=1e-3)  # half precision
    assert ((scores > 0) == labels).mean() == pytest.approx(best["validation_accuracy"])
    assert checks["validation_loss"].nunique() == 9


def test_no_steps_keep_the_head_and_find_the_temperature(many: pd.DataFrame) -> None:
    """On labels that are wrong now and then, so that it lies between its bounds; the body is that of the weights."""
    noisy = relabelled(many, np.repeat(np.arange(20) % 2 ^ np.isin(np.arange(20), [3, 4, 10, 13]), 2).astype(bool))
    model = replace(HEAD, held_out=0.5).fit(noisy)
    assert model.temperature == metrics.fit_temperature(model.validation["label"], model.validation["score"])
    assert 0.06 < model.temperature < 19
    assert model.temperature != 1
    assert (model.curve.columns.tolist(), len(model.curve)) == (["step", "loss"], 0)
    assert equal(model.network.cpu().body, SMALL.new_network()[0].body)


def test_without_steps_every_image_is_validated_by_a_head_that_has_not_seen_it(table: pd.DataFrame) -> None:
    """Five folds of items: the logits are those of heads that were fitted on the other folds; the last head on all."""
    model = replace(HEAD).fit(table, 3)
    cuts, labels = model.cut(table)[0], table["label"].to_numpy()
    folds = splits.grouped_folds(table, 5, 3)
    assert model.validation["image_id"].tolist() == table["image_id"].tolist()
    other, everything = replace(HEAD), replace(HEAD)
    for fitted in (other, everything):
        fitted.network, _ = fitted.new_network(3)
        fitted.network.to(torch_device())
    expected = np.empty(len(table))
    for fold in range(5):
        other.fit_head(cuts[folds != fold], labels[folds != fold])
        expected[folds == fold] = other.logits(cuts[folds == fold])
    np.testing.assert_allclose(model.validation["score"], expected, atol=1e-3)
    everything.fit_head(cuts, labels)
    np.testing.assert_allclose(model.logits(cuts), everything.logits(cuts), atol=1e-4)


def test_cuts_that_are_given_are_not_made_again(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scores, and a table of validation scores that names view and item."""
    cuts = dict(zip(table["image_id"], replace(HEAD).cut(table)[0], strict=True))
    expected, _ = score_unseen(HEAD, table, table)
    monkeypatch.setattr(Classifier, "cut", lambda *given: pytest.fail("cut again"))
    scores, models = score_unseen(HEAD, table, table, cuts=cuts)
    assert scores.equals(expected)
    held = classifier.validation_scores(models, table)
    assert sorted(held["image_id"]) == sorted(table["image_id"])
    rows = table.set_index("image_id").loc[held["image_id"]]
    assert held["group"].tolist() == rows["group"].tolist()


def test_from_scratch(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """No head is fitted to features that mean nothing; and the learning rate is higher."""
    asked: list[float] = []

    def watch(*given: object, **named: object) -> Run:
        asked.append(named["lr"])
        return Run(*given, **named)

    monkeypatch.setattr(classifier, "Run", watch)
    replace(SMALL, steps=1).fit(table)
    monkeypatch.setattr(Classifier, "fit_head", lambda *given: pytest.fail("a head was fitted"))
    assert replace(SMALL, weights="random", steps=1).fit(table).curve["loss"].notna().sum() == 1
    assert asked == [SMALL.lr, pytest.approx(30 * SMALL.lr)]


@pytest.mark.parametrize("backbone", ["efficientnet_b0", "mobilenet_v3_large"])
def test_dropout_draws_from_the_step_too(table: pd.DataFrame, backbone: str) -> None:
    """Whatever torch's own generator has drawn before, the same seed trains the same network."""
    networks = []
    for state in (1, 2):
        torch.manual_seed(state)
        networks.append(replace(SMALL, backbone=backbone, weights="random", steps=2).fit(table, 5).network)
    assert equal(*networks)


def test_a_killed_run_goes_on(table: pd.DataFrame, tmp_path: Path, moves: list[tuple[int]]) -> None:
    """From its last checkpoint to the same bits, as if it had not been killed."""
    settings = replace(SMALL, steps=4, lr=1e-3)
    whole = replace(settings).fit(table, 3)
    assert moves == [(0,), (0,), (1,), (2,), (3,)]  # the first one chooses the training images that are watched
    moves.clear()
    moves.stop = 4
    with pytest.raises(KeyboardInterrupt):
        replace(settings).fit(table, 3, checkpoints=tmp_path)
    moves.clear()
    again = replace(settings).fit(table, 3, checkpoints=tmp_path)
    assert (again.checkpoint_files, whole.checkpoint_files) == (list(tmp_path.iterdir()), [])
    assert moves == [(0,), (3,)]
    assert equal(again.network, whole.network)
    assert again.curve.equals(whole.curve)
    assert again.validation.equals(whole.validation)
    assert again.temperature == whole.temperature


def test_every_run_has_a_checkpoint_of_its_own(
    make_table: Callable[..., pd.DataFrame], tmp_path: Path, write_image: Writer
) -> None:
    """The same run the same one; another label, pixel, seed or option another."""
    table, settings = make_table(tmp_path / "own", count=3), replace(SMALL, steps=1, held_out=0.4)
    other = table.copy()
    pixels = read_image(table["image_path"][2])
    pixels[63, 63, 2] ^= 1
    other.loc[2, "image_path"] = str(write_image(tmp_path / "other.png", pixels))
    flipped = relabelled(table, table["group"].isin(["part/01", "part/03", "part/04"]).to_numpy())
    runs = [(settings, table, 0), (settings, other, 0), (settings, flipped, 0), (settings, table, 1)]
    runs += [(replace(settings, color_jitter=0.2), table, 0), (replace(settings, weights="random"), table, 0)]
    paths = [replace(model).fit(rows, seed, checkpoints=tmp_path).checkpoint_files for model, rows, seed in runs]
    assert len({str(path) for path in paths}) == len(runs)
    assert replace(settings).fit(table, checkpoints=tmp_path).checkpoint_files == paths[0]


# What it looks at ---------------------------------------------------------------------------------------------------


def test_each_view_has_its_finder(table: pd.DataFrame) -> None:
    """And rows keep their order, however views are mixed; a view that it was not fitted on has none."""
    model = replace(HEAD, roi="item")
    finders = model.find_items(table)
    assert list(finders) == ["side", "top"]
    for view in finders:
        pictures = [read_image(path) for path in table.loc[table["view"] == view, "image_path"]]
        np.testing.assert_array_equal(finders[view].rarity, items.fit_finder(pictures, progress=False).rarity)
    assert SMALL.find_items(table) == {}
    mixed, model.finders = table.sample(12, random_state=1), finders
    cuts, transforms = model.cut(mixed)
    assert mixed["view"].tolist() != sorted(mixed["view"])
    for row, image, transform in zip(mixed.itertuples(), cuts, transforms, strict=True):
        (cut,), (place,) = items.cut_files([row.image_path], finders[row.view], SIZE, "item")
        np.testing.assert_array_equal(image, cut)
        np.testing.assert_array_equal(transform, place)
        np.testing.assert_array_equal(model.look_at([read_image(row.image_path)], row.view)[0], cut)
    model.fit(table[table["view"] == "side"])
    assert model.score(table[table["view"] == "side"].iloc[:3]).image.shape == (3,)
    fails(DataError, "view 'top' is new to this classifier: it knows side", lambda: model.score(table))


@pytest.mark.parametrize(
    ("roi", "registers", "hflip", "flips"),
    [
        ("registered", (True, False), True, False),
        ("registered", (False, False), True, True),
        ("item", (True, True), True, True),
        ("item", (False, False), False, False),
        ("whole", (), True, True),
    ],
)
def test_registered_cuts_are_not_mirrored(roi: str, registers: tuple[bool, ...], hflip: bool, flips: bool) -> None:
    """There a place has a meaning."""
    rarity, model = np.zeros((16, 16, 16), np.float32), replace(SMALL, roi=roi, hflip=hflip)
    model.finders = {
        str(k): items.Finder(rarity, keypoints=np.zeros((20 * known, 2), np.float32))
        for k, known in enumerate(registers)
    }
    assert model.flips == flips


def test_what_cannot_be_scored_is_refused(fitted: Classifier) -> None:
    """Cuts of another size, with both sizes; and anything before the fit."""
    for shape in ((2, 32, 32, 3), (2, SIZE, 32, 3), (2, SIZE, SIZE, 4), (SIZE, SIZE, 3)):
        images = np.zeros(shape, np.uint8)
        fails(DataError, r"images must be \(N, 64, 64, 3\), not", lambda images=images: fitted.logits(images))
    fails(SettingsError, r"not fitted: call fit\(table\) first", lambda: SMALL.logits(noise(1)))


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda table: table[table["label"] == 0], "part holds no defective item"),
        (lambda table: table[table["label"] == 1], "part holds no good item"),
        (lambda table: table[(table["label"] == 0) | (table["group"] == "part/01")], "part/patch has 1 items"),
        (lambda table: table[(table["label"] == 1) | (table["group"] == "part/00")], "part/good has 1 items"),
        (lambda table: table.assign(image_path="gone.png"), "gone.png cannot be read"),
    ],
)
def test_a_table_that_teaches_nothing_is_refused(
    table: pd.DataFrame, choose: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    """One class, a class that one of the two parts lacks, or no file."""
    fails(DataError, message, lambda: replace(SMALL).fit(choose(table)))


# What it is worth ---------------------------------------------------------------------------------------------------


def two_views(side: list[float], top: list[float], labels: list[int], folds: list[int] | None = None) -> pd.DataFrame:
    """Two views of each item, as `score_unseen` returns them; of a cross-validation with its folds."""
    rows = [
        {"group": f"item{i}", "view": view, "defect": "damaged" if label else "good", "label": label, "score": score}
        | ({"fold": folds[i]} if folds else {})
        for view, scores in (("side", side), ("top", top))
        for i, (score, label) in enumerate(zip(scores, labels, strict=True))
    ]
    return pd.DataFrame(rows)


def test_measures_are_those_of_sklearn() -> None:
    """Of one set; and each fold ranked by its own model, where scales differ between folds."""
    labels = np.tile([0, 1], 20)
    scores = np.random.default_rng(0).normal(labels, 1.0)
    measured = measure(labels, scores)
    assert measured["image_auroc"]["mean"] == pytest.approx(roc_auc_score(labels, scores))
    assert measured["image_ap"]["mean"] == pytest.approx(average_precision_score(labels, scores))
    assert measured["accuracy"]["mean"] == pytest.approx(accuracy_score(labels, scores > 0))
    assert measured["image_auroc"]["low"] < measured["image_auroc"]["mean"] < measured["image_auroc"]["high"]
    folds = np.repeat([0, 1], 20)
    moved = scores + 100 * folds
    apart = measure(labels, moved, folds)
    mean = np.mean([roc_auc_score(labels[folds == k], scores[folds == k]) for k in (0, 1)])
    assert apart["image_auroc"]["mean"] == pytest.approx(mean)
    assert apart["pooled_auroc"] == pytest.approx(roc_auc_score(labels, moved))
    assert apart["pooled_auroc"] < mean


def test_a_second_view_that_says_nothing_changes_little_and_one_that_knows_changes_much() -> None:
    """The better view is named; the interval holds the difference."""
    labels, rng = [0, 1] * 15, np.random.default_rng(1)
    weak = list(rng.normal(0, 1, 30))
    knows = list(np.where(np.array(labels) == 1, 9.0, -9.0))
    difference = joint_minus_better_view(two_views(weak, knows, labels), resamples=200)
    assert difference["better"] == "top"
    assert difference["mean"] == pytest.approx(0)
    scores = two_views(*(list(rng.normal(labels, 1.0)) for _ in range(2)), labels, [0] * 14 + [1] * 16)
    difference = joint_minus_better_view(scores, resamples=200)
    views = classifier.by_view(scores)
    better = max(views["side"]["image_auroc"]["mean"], views["top"]["image_auroc"]["mean"])
    assert difference["mean"] == pytest.approx(views["joint"]["image_auroc"]["mean"] - better)
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert difference["low"] < difference["high"]


def test_unseen_items_are_scored_by_their_view(
    table: pd.DataFrame, other_table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By calibrated logits, in their view's order; finders that are known are not fitted again."""
    model = replace(HEAD, roi="item")
    expected, models = score_unseen(model, table, other_table)
    by_hand = [
        (fitted, other_table[other_table["view"] == view]) for fitted, view in zip(models, ("side", "top"), strict=True)
    ]
    logits = np.concatenate([fitted.score(rows).image.astype(float) / fitted.temperature for fitted, rows in by_hand])
    np.testing.assert_array_equal(expected["score"], logits)
    assert expected["image_id"].tolist() == [name for _, rows in by_hand for name in rows["image_id"]]
    finders = model.find_items(table)
    monkeypatch.setattr(items, "fit_finder", lambda *given, **named: pytest.fail("fitted again"))
    scores, models = score_unseen(model, table, other_table, finders=finders)
    pd.testing.assert_frame_equal(scores, expected)
    assert [list(fitted.finders) for fitted in models] == [["side"], ["top"]]
    scores, models = score_unseen(model, table, other_table, per_view=False, finders=finders)
    assert scores["image_id"].tolist() == other_table["image_id"].tolist()
    assert [list(fitted.finders) for fitted in models] == [["side", "top"]]
    assert replace(HEAD).fit(table, finders=finders).finders == {}


def test_the_file_gives_the_same_scores(table: pd.DataFrame, other_table: pd.DataFrame, tmp_path: Path) -> None:
    """To the bit, with a new last block and two finders; what is missing or cut off is one line."""
    model = replace(SMALL, roi="registered", steps=2, held_out=0.34).fit(table, 2)
    files = classifier.files(model, "part", "resnet18-all", threshold=0.5, metrics={"a": 1})
    keep = {"profile": "custom", "data_source": "synthetic", "categories": ["part"], "options": {}, "seed": 0}
    artifact = artifacts.load(artifacts.save("models", files, **keep, path=tmp_path / "models.zip"))
    assert classifier.names(artifact) == [("part", "resnet18-all")]
    again, description = classifier.restore(artifact, "part", "resnet18-all")
    assert (again, again.seed, again.weights_name) == (model, 2, model.weights_name)
    np.testing.assert_array_equal(again.score(other_table).image, model.score(other_table).image)
    assert (description["threshold"], description["metrics"], again.temperature) == (0.5, {"a": 1}, model.temperature)
    pd.testing.assert_frame_equal(again.curve, model.curve, check_dtype=False)
    assert again.validation["image_id"].tolist() == model.validation["image_id"].tolist()
    message = r"no classifier part/other: it holds part/resnet18-all"
    fails(ArtifactError, message, lambda: classifier.restore(artifact, "part", "other"))
    fails(
        ArtifactError,
        r"no classifier part/resnet18-all/1: ",
        lambda: classifier.restore(artifact, "part", "resnet18-all", 1),
    )
    del files["part/resnet18-all/2/model.safetensors"]
    broken = artifacts.load(artifacts.save("models", files, **keep, path=tmp_path / "broken.zip"))
    fails(ArtifactError, "broken.zip", lambda: classifier.restore(broken, "part", "resnet18-all"))


def test_of_a_frozen_network_the_file_keeps_the_head(
    table: pd.DataFrame, other_table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers below are the package's; where they are others, the model is no longer that one."""
    model = replace(SMALL, weights="synthetic", steps=0, held_out=0.34).fit(table)
    files = classifier.files(model, "part", "resnet18", threshold=0.0, metrics={})
    arrays = files["part/resnet18/0/model.safetensors"]
    assert {name for name in arrays if not name.startswith("finder.")} == {"head.weight", "head.bias"}
    keep = {"profile": "custom", "data_source": "synthetic", "categories": ["part"], "options": {}, "seed": 0}
    artifact = artifacts.load(artifacts.save("models", files, **keep, path=tmp_path / "models.zip"))
    again, _ = classifier.restore(artifact, "part", "resnet18")
    np.testing.assert_array_equal(again.score(other_table).image, model.score(other_table).image)
    monkeypatch.setattr(classifier, "load_trunk", lambda *_: "synthetic (SHA-256 0000…)")
    message = r"its frozen layers are synthetic \(SHA-256 [1-9a-f].*, here they would be synthetic \(SHA-256 0000…\)"
    fails(ArtifactError, message, lambda: classifier.restore(artifact, "part", "resnet18"))


@pytest.mark.parametrize(
    ("backbone", "weights", "steps", "frozen"),
    [
        ("resnet18", "synthetic", 0, True),
        ("resnet18", "synthetic", 1, False),
        ("resnet18", "random", 0, False),
        ("efficientnet_lite0", "imagenet", 0, True),
        ("efficientnet_lite0", "random", 0, False),
    ],
)
def test_frozen_are_untuned_networks_whose_weights_are_installed(
    backbone: str, weights: str, steps: int, frozen: bool
) -> None:
    """Of any other the file holds all layers."""
    assert replace(SMALL, backbone=backbone, weights=weights, steps=steps).frozen == frozen


def test_a_tuned_network_takes_half_the_bytes(table: pd.DataFrame) -> None:
    """Parameters are those of half precision when the training ends; what batch norm has measured stays as it is."""
    model = replace(SMALL, weights="random", steps=1, held_out=0.34).fit(table)
    state = model.state()
    for name, parameter in model.network.named_parameters():
        assert state[name].dtype == np.float16
        np.testing.assert_array_equal(state[name].astype(np.float32), parameter.numpy(force=True))
    assert (
        state["body.bn1.running_var" if "body.bn1.running_var" in state else "body.1.running_var"].dtype == np.float32
    )
