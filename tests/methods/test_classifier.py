"""Transfer learning with labels: networks against loops and torchvision, the head against sklearn, runs that repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mvtec_ad import metrics
from mvtec_ad.config import torch_device
from mvtec_ad.data import items
from mvtec_ad.data.decoding import read_image
from mvtec_ad.errors import DataError, SettingsError, TrainingError, WeightsError
from mvtec_ad.frameworks import import_torchvision
from mvtec_ad.methods.base import as_tensor
from mvtec_ad.methods.classifier import Classifier, DefectClassifier, augment, build, find_items, fit, fit_head, fitting
from mvtec_ad.settings import ARCHITECTURES, ClassifierSettings
from mvtec_ad.training import Run

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
Writer = Callable[[Path, np.ndarray], Path]
SIDE = 64
SMALL = ClassifierSettings(weights="drawn", look="whole", image_size=SIDE, pyramid=(1,), steps=4, batch=8)
CHANNELS = {"resnet18": 512, "resnet50": 2048, "efficientnet_b0": 1280, "mobilenet_v3_large": 960}


def noise(count: int, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """(count, side, side, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def state_of(architecture: str, seed: int = 1) -> dict[str, torch.Tensor]:
    """What torchvision would save, every value drawn, statistics of batch norm too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = import_torchvision().models.get_model(architecture, weights=None).state_dict()
        for name, value in state.items():
            if "running_mean" in name:
                value.copy_(0.1 * torch.randn_like(value))
            if "running_var" in name:
                value.copy_(0.5 + torch.rand_like(value))
    return state


def saved(folder: Path, state: object, name: str = "weights.pth") -> str:
    """The path of a state dict."""
    torch.save(state, folder / name)
    return str(folder / name)


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two networks are equal to the bit."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def check_line(problem: pytest.ExceptionInfo) -> None:
    """A message is one line."""
    assert "\n" not in str(problem.value)


# Networks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_gives_one_logit(architecture: str) -> None:
    """And its groups hold each weight once, from the output to the input."""
    network, description = build(architecture, "random", (1, 3))
    assert description == "random, from scratch"
    assert (network.training, network.pretrained) == (False, False)
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        assert network.pooled(images).shape == (2, CHANNELS[architecture] * 10)
        assert network(images).shape == (2,)
        torch.testing.assert_close(network(images), network.head(network.pooled(images))[:, 0])
    groups = network.groups()
    held = [[f"{group}.{name}" for name, _ in network.get_submodule(group).named_parameters()] for group in groups]
    assert all(held)
    in_order = [name for names in reversed(held[1:]) for name in names] + held[0]
    assert in_order == [name for name, _ in network.named_parameters()]  # torch lists them from input to output


def test_groups_of_a_resnet() -> None:
    """By name."""
    network, _ = build("resnet18", "random", (1,))
    assert network.groups() == [
        "head",
        *(f"body.{name}" for name in ["layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]),
    ]


@pytest.mark.parametrize("pyramid", [(1,), (2,), (1, 2, 4), (3, 5)])
def test_the_pyramid_averages_cells(pyramid: tuple[int, ...]) -> None:
    """A loop over cells, on images that are standardised with ImageNet's numbers; a grid of 3 × 3 has uneven ones."""
    network, _ = build("resnet18", "random", pyramid)
    images = torch.rand(2, 3, 96, 96)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        features = network.body((images - mean[:, None, None]) / deviation[:, None, None])
        found = network.pooled(images)
    side = features.shape[-1]
    expected = []
    for cells in pyramid:
        ends = [(k * side // cells, -(-(k + 1) * side // cells)) for k in range(cells)]
        grid = [[features[:, :, a:b, c:d].mean((2, 3)) for c, d in ends] for a, b in ends]
        expected.append(torch.stack([cell for row in grid for cell in row], 2).flatten(1))  # channels, then cells
    assert side == 3
    torch.testing.assert_close(found, torch.cat(expected, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("architecture", "side"), [("resnet18", 64), ("resnet18", 80), ("resnet50", 80)])
def test_a_new_block_passes_on_what_reaches_it(tmp_path: Path, architecture: str, side: int) -> None:
    """Weights without layer4: before training it averages 2 × 2 cells, at an odd end fewer, and copies channels."""
    state = {name: value for name, value in state_of(architecture).items() if not name.startswith(("layer4", "fc"))}
    network, description = build(architecture, saved(tmp_path, state), (1,))
    assert description.endswith(", layer4 new")
    assert network.pretrained
    images = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        features = images
        for name, part in network.body.named_children():
            if name == "layer4":
                break
            features = part(features)
        found = network.body(images)
    grid = features.shape[-1]
    assert grid == side // 16
    rows = [
        torch.stack([features[:, :, r : r + 2, c : c + 2].mean((2, 3)) for c in range(0, grid, 2)], -1)
        for r in range(0, grid, 2)
    ]
    expected = torch.stack(rows, -2).repeat(1, 2, 1, 1)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_new_block_learns(tmp_path: Path) -> None:
    """Its branches begin at zero, but not without gradients."""
    network, _ = build("resnet18", "drawn", (1,))
    network.train()(torch.rand(2, 3, SIDE, SIDE)).sum().backward()
    for block in network.body.layer4:
        assert not block.bn2.weight.any()
        assert block.bn2.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_are_loaded_to_the_bit(tmp_path: Path, architecture: str) -> None:
    """All that torchvision's network computes before its classifier."""
    state = state_of(architecture)
    network, description = build(architecture, saved(tmp_path, state), (1,), seed=4)
    assert description.startswith("weights.pth (SHA-256 ")
    prefix = "" if architecture.startswith("resnet") else "features."
    loaded = network.body.state_dict()
    kept = {name for name in state if not name.startswith(("fc.", "classifier."))}
    assert {prefix + name for name in loaded} == kept
    for name, value in loaded.items():
        assert torch.equal(value, state[prefix + name]), name


def test_a_seed_draws_what_is_new() -> None:
    """The same for the same seed, and without touching torch's own stream."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (build("resnet18", "drawn", (1,), seed)[0] for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert equal(one, same)
    assert not torch.equal(one.head.weight, other.head.weight)
    assert not torch.equal(one.body.layer4[0].conv1.weight, other.body.layer4[0].conv1.weight)
    assert torch.equal(one.body.layer3[0].conv1.weight, other.body.layer3[0].conv1.weight)


def without(state: dict[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    ("architecture", "spoil", "message"),
    [
        ("resnet18", lambda state: without(state, "layer2.0."), "lacks .* tensors of resnet18, first layer2.0"),
        ("resnet18", lambda state: without(state, "layer4.1."), "lacks .* tensors of resnet18, first layer4.1"),
        ("resnet18", lambda state: {"state_dict": torch.zeros(1)}, "lacks .* tensors of resnet18, first conv1.weight"),
        ("resnet18", lambda state: {**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, "conv1.weight has shape"),
        ("resnet50", lambda state: state_of("resnet18"), "of resnet50|resnet50 needs"),
        ("efficientnet_b0", lambda state: state_of("mobilenet_v3_large"), "of efficientnet_b0|efficientnet_b0 needs"),
        ("resnet18", lambda state: [1, 2], "cannot be read as a state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, architecture: str, spoil: Callable[[dict], object], message: str
) -> None:
    """Before anything is learnt."""
    with pytest.raises(WeightsError, match=message) as problem:
        build(architecture, saved(tmp_path, spoil(state_of(architecture))), (1,))
    check_line(problem)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "resnet18"])
def test_only_resnet18_has_drawn_weights(architecture: str) -> None:
    """Said with a way out."""
    with pytest.raises(WeightsError, match=f"{architecture} has no drawn weights.*--weights random") as problem:
        build(architecture, "drawn", (1,))
    check_line(problem)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Or is no state dict at all."""
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("gone.pth", "text.pth"):
        with pytest.raises(WeightsError, match=name) as problem:
            build("resnet18", str(tmp_path / name), (1,))
        check_line(problem)


@pytest.mark.parametrize("architecture", ["resnet18", "efficientnet_b0", "mobilenet_v3_large"])
@pytest.mark.parametrize("pretrained", [True, False])
def test_only_a_network_from_scratch_estimates_statistics(tmp_path: Path, architecture: str, pretrained: bool) -> None:
    """Batch norm's means and variances stay to the bit, while weights have gradients."""
    weights = saved(tmp_path, state_of(architecture)) if pretrained else "random"
    network, _ = build(architecture, weights, (1,))
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    assert network.train() is network
    assert network.training
    network(torch.rand(4, 3, SIDE, SIDE)).sum().backward()
    after = network.state_dict()
    assert {torch.equal(after[name], value) for name, value in before.items()} == {pretrained}
    assert all(weight.grad is not None for weight in network.parameters())
    assert not any(module.training for module in network.eval().modules())


# The head -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("penalty", [1.0, 100.0])
def test_the_head_is_that_of_sklearn(mirror: bool, penalty: float) -> None:
    """Features standardised by a spread of at least 0.3 of the median one, logistic regression, 6 defects, 14 good."""
    network, _ = build("resnet18", "drawn", (1, 2))
    images, labels = noise(20), np.array([0, 0, 1, 0, 1, 0, 0] * 2 + [0, 0, 1, 0, 1, 0])
    images[labels == 1, 20:40, 5:30] //= 2
    looks = np.concatenate([images, images[:, :, ::-1]]) if mirror else images
    with torch.inference_mode():
        features = network.pooled(torch.from_numpy(looks.copy()).permute(0, 3, 1, 2) / 255).numpy().astype(np.float64)
    features = features - features.mean(0)
    spread = StandardScaler().fit(features).scale_ * (features.std(0) > 0)  # scikit-learn puts 1 for 0
    assert 0 < (spread < 0.3 * np.median(spread)).mean() < 0.5
    features /= np.maximum(spread, 0.3 * np.median(spread))
    reference = LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=1000)
    reference.fit(features, np.concatenate([labels, labels]) if mirror else labels)
    expected = reference.decision_function(features[:20])
    before = {name: value.clone() for name, value in network.body.state_dict().items()}
    network.to(torch_device())
    fit_head(network, images, labels, replace(SMALL, penalty=penalty), mirror)
    found = DefectClassifier(network, SMALL, 0, "").logits(images)
    assert found.dtype == np.float32
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert all(torch.equal(value.cpu(), before[name]) for name, value in network.body.state_dict().items())


# Augmentation -------------------------------------------------------------------------------------------------------

STILL = replace(SMALL, turn=0.0, shift=0.0, light=0.0)


def augmented(images: torch.Tensor, settings: ClassifierSettings, mirror: bool = False, seed: int = 0) -> torch.Tensor:
    """With a stream of its own."""
    return augment(images, settings, mirror, np.random.default_rng(seed))


def test_no_change_is_no_change() -> None:
    """Pixels stay where they are."""
    images = as_tensor(noise(6))
    torch.testing.assert_close(augmented(images, STILL), images, rtol=0, atol=1e-5)


def test_mirrored_images() -> None:
    """Each is itself or its mirror image, about half of them; top stays on top."""
    images = as_tensor(noise(64, 32))
    found = augmented(images, STILL, True)
    itself = (found - images).abs().amax((1, 2, 3)) < 1e-4
    turned = (found - images.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    assert (itself ^ turned).all()
    assert 16 < int(turned.sum()) < 48


@pytest.mark.parametrize("settings", [SMALL, replace(SMALL, light=0.9, shift=0.5, turn=90.0)], ids=["usual", "wild"])
def test_augmented_images_stay_images(settings: ClassifierSettings) -> None:
    """Within [0, 1], the same bytes for the same stream, and numbers of their own."""
    images = as_tensor(np.repeat(noise(1), 8, 0))
    found = augmented(images, settings, True)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert torch.equal(augmented(images, settings, True), found)
    assert not torch.equal(augmented(images, settings, True, seed=1), found)
    assert all(not torch.equal(found[k], found[k + 1]) for k in range(7))


def test_light_changes_within_its_share() -> None:
    """A grey of .5 becomes .5 · (1 ± .1) ± .05; and the whole image alike."""
    found = augmented(torch.full((400, 3, 8, 8), 0.5), replace(STILL, light=0.1))
    assert float((found - found[:, :1, :1, :1]).abs().max()) < 1e-6
    levels = found[:, 0, 0, 0]
    assert 0.4 - 1e-6 <= float(levels.min()) < 0.42
    assert 0.58 < float(levels.max()) <= 0.6 + 1e-6


def test_a_defect_stays_in_the_image() -> None:
    """A square in the middle keeps its area but for the scale, and moves and turns no further than it may."""
    settings = replace(SMALL, light=0.0)
    images = torch.zeros(400, 3, SIDE, SIDE)
    images[:, :, 24:40, 16:48] = 1  # 16 × 32
    found = augmented(images, settings, True)[:, 0].double()
    area = found.sum((1, 2))
    assert float(area.min()) > 512 / 1.03**2 - 8
    assert float(area.max()) < 512 / 0.97**2 + 8
    assert float(area.max() - area.min()) > 30
    place = torch.arange(SIDE).double() - 31.5
    x, y = ((found * axis).sum((1, 2)) / area for axis in (place[None, None, :], place[None, :, None]))
    for away in (x.abs(), y.abs()):
        assert 0.025 * SIDE < float(away.max()) < 0.03 * SIDE / 0.97 * (1 + np.sin(np.radians(5))) + 0.1
    across, down = place[None, None, :] - x[:, None, None], place[None, :, None] - y[:, None, None]
    moments = [(found * product).sum((1, 2)) for product in (across * down, across**2, down**2)]
    angles = torch.rad2deg(torch.atan2(2 * moments[0], moments[1] - moments[2]) / 2)  # of the longer axis
    assert 4.5 < float(angles.max()) < 5.1
    assert -5.1 < float(angles.min()) < -4.5


def test_the_edge_is_repeated() -> None:
    """No black corners, which would tell what was turned."""
    found = augmented(torch.full((50, 3, 16, 16), 0.7), replace(SMALL, light=0.0, turn=45.0, shift=0.2), True)
    torch.testing.assert_close(found, torch.full_like(found, 0.7))


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
                path = write_image(folder / f"{name}.png", draw(generator, SIDE, item % 2 == 1)[0])
                kind = "patch" if item % 2 else "good"
                rows.append((f"part/{name}", "part", "train", kind, item % 2, str(path), "", view, f"part/{item:02d}"))
        names = ["image_id", "category", "split", "defect", "label", "image_path", "mask_path", "view", "group"]
        return pd.DataFrame(rows, columns=names)

    return make


@pytest.fixture(scope="module")
def table(make_table: Callable[..., pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """20 items, every second one damaged."""
    return make_table(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def fitted(table: pd.DataFrame) -> DefectClassifier:
    """On them, with the carried weights."""
    return fit(SMALL, table, progress=False)


def relabelled(table: pd.DataFrame, defective: np.ndarray) -> pd.DataFrame:
    """Other labels."""
    return table.assign(label=defective.astype(int), defect=np.where(defective, "patch", "good"))


def weighted_loss(logits: np.ndarray, labels: np.ndarray, weight: float) -> float:
    """Cross entropy in numpy; a defect counts `weight` times."""
    return float(np.mean(np.where(labels == 1, weight * np.logaddexp(0, -logits), np.logaddexp(0, logits))))


def test_it_tells_new_items_apart(
    fitted: DefectClassifier, make_table: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    """The patch is plain to see."""
    new = make_table(tmp_path, seed=9)
    scores = fitted.score(new)
    assert (scores.shape, scores.dtype) == ((40,), np.float32)
    assert metrics.image_auroc(new["label"], scores) == 1
    np.testing.assert_array_equal(scores, fitted.logits(fitted.cut(new)[0]))
    assert not any(module.training for module in fitted.network.modules())
    assert fitted.weights.startswith("drawn")
    assert fitted.seed == 0


def test_no_item_is_on_both_sides(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head and every step see only images whose item is not in the validation part; which has both classes."""
    heads: list[np.ndarray] = []
    batches: list[np.ndarray] = []
    head, change = fitting.fit_head, fitting.augment

    def watch_head(network: Classifier, images: np.ndarray, labels: np.ndarray, *rest: object) -> None:
        heads.append(images)
        head(network, images, labels, *rest)

    def watch_step(images: torch.Tensor, *rest: object) -> torch.Tensor:
        batches.append((images.permute(0, 2, 3, 1) * 255).round().byte().cpu().numpy())
        return change(images, *rest)

    monkeypatch.setattr(fitting, "fit_head", watch_head)
    monkeypatch.setattr(fitting, "augment", watch_step)
    model = fit(SMALL, table, progress=False)
    groups = table.set_index("image_id")["group"]
    held = set(groups[model.validation["image_id"]])
    assert model.validation["image_id"].is_unique
    assert len(model.validation) == 2 * len(held) == 8  # both views of a fifth of 20 items
    assert model.validation["label"].sum() == 4
    assert (
        model.validation["label"].tolist()
        == table.set_index("image_id")["label"][model.validation["image_id"]].tolist()
    )
    group_of = dict(zip([image.tobytes() for image in model.cut(table)[0]], table["group"], strict=True))
    trained = {group_of[image.tobytes()] for image in heads[0]}
    assert trained == set(table["group"]) - held
    assert len(batches) == 4
    for batch in batches:
        assert len({image.tobytes() for image in batch}) == 8
        assert {group_of[image.tobytes()] for image in batch} <= trained


@pytest.mark.parametrize("seed", [3, 4])
def test_the_best_check_is_kept(table: pd.DataFrame, seed: int) -> None:
    """By AUROC, then by loss, on labels that have nothing to do with the images: what is learnt helps no one."""
    items_of = np.random.default_rng(seed).permutation(20) < 8
    settings = replace(SMALL, steps=8, rate=1e-3)
    shuffled = relabelled(table, np.repeat(items_of, 2))
    model = fit(settings, shuffled, seed=seed, progress=False)
    checks = model.curve.dropna(subset="validation_auroc")
    assert checks["step"].tolist() == list(range(-1, 8))
    assert model.curve["loss"].notna().sum() == 8
    best = checks.sort_values(["validation_auroc", "validation_loss"], ascending=[False, True]).iloc[0]
    labels, scores = (model.validation[name].to_numpy() for name in ("label", "score"))
    again = shuffled[shuffled["image_id"].isin(model.validation["image_id"])]
    np.testing.assert_allclose(model.score(again), scores, rtol=1e-5, atol=1e-5)
    learnt = shuffled["label"][~shuffled["image_id"].isin(model.validation["image_id"])]
    weight = float((learnt == 0).sum() / (learnt == 1).sum())
    assert weight > 1.2
    assert metrics.image_auroc(labels, scores) == pytest.approx(best["validation_auroc"], abs=1e-9)
    assert weighted_loss(scores, labels, weight) == pytest.approx(best["validation_loss"], rel=1e-4)
    assert ((scores > 0) == labels).mean() == pytest.approx(best["validation_accuracy"])
    assert checks["validation_loss"].nunique() == 9


def test_the_temperature_is_that_of_the_validation_part(table: pd.DataFrame) -> None:
    """On labels that are wrong now and then, so that it lies between its bounds."""
    noisy = relabelled(table, np.repeat(np.arange(20) % 2 ^ np.isin(np.arange(20), [3, 4, 10, 13]), 2).astype(bool))
    model = fit(replace(SMALL, validation=0.5, steps=0), noisy, progress=False)
    assert model.temperature == metrics.fit_temperature(model.validation["label"], model.validation["score"])
    assert 0.06 < model.temperature < 19
    assert model.temperature != 1


def test_no_steps_keep_the_head(table: pd.DataFrame) -> None:
    """The network is that of the weights, the curve is empty."""
    model = fit(replace(SMALL, steps=0), table, progress=False)
    assert model.curve.columns.tolist() == ["step", "loss"]
    assert len(model.curve) == 0
    assert metrics.image_auroc(table["label"], model.score(table)) == 1
    assert equal(model.network.cpu().body, build("resnet18", "drawn", (1,))[0].body)


def test_from_scratch(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """No head is fitted to features that mean nothing; and the rate is higher."""
    asked: list[float] = []

    def watch(*given: object, **named: object) -> Run:
        asked.append(named["lr"])
        return Run(*given, **named)

    monkeypatch.setattr(fitting, "Run", watch)
    monkeypatch.setattr(fitting, "fit_head", lambda *given: pytest.fail("a head was fitted"))
    model = fit(replace(SMALL, weights="random", steps=1), table, progress=False)
    assert model.curve["loss"].notna().sum() == 1
    monkeypatch.undo()
    monkeypatch.setattr(fitting, "Run", watch)
    fit(replace(SMALL, steps=1), table, progress=False)
    assert asked == [pytest.approx(30 * SMALL.rate), SMALL.rate]


@pytest.mark.parametrize("architecture", ["efficientnet_b0", "mobilenet_v3_large"])
def test_dropout_draws_from_the_step_too(table: pd.DataFrame, architecture: str) -> None:
    """Whatever torch's own generator has drawn before, the same seed trains the same network."""
    settings = replace(SMALL, architecture=architecture, weights="random", steps=2)
    networks = []
    for state in (1, 2):
        torch.manual_seed(state)
        networks.append(fit(settings, table, seed=5, progress=False).network)
    assert equal(*networks)


def test_a_killed_run_goes_on(table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its last checkpoint to the same bits, as if it had not been killed."""
    settings = replace(SMALL, steps=4, rate=1e-3)
    whole = fit(settings, table, seed=3, progress=False)
    path, stream = tmp_path / "run.checkpoint", Run.rng

    def interrupt(run: Run, step: int) -> np.random.Generator:
        if step == 3:
            raise KeyboardInterrupt
        return stream(run, step)

    monkeypatch.setattr(Run, "rng", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(settings, table, seed=3, checkpoint=path, progress=False)
    assert path.is_file()
    taken: list[tuple[int, int]] = []

    def watched(run: Run, step: int) -> np.random.Generator:
        taken.append((run.seed, step))
        return stream(run, step)

    monkeypatch.setattr(Run, "rng", watched)
    again = fit(settings, table, seed=3, checkpoint=path, progress=False)
    assert taken == [(3, 0), (3, 3)]  # the first one chooses the training images that are watched
    assert equal(again.network, whole.network)
    assert again.curve.equals(whole.curve)
    assert again.validation.equals(whole.validation)
    assert again.temperature == whole.temperature


def test_a_checkpoint_of_another_run_is_refused(
    make_table: Callable[..., pd.DataFrame], tmp_path: Path, write_image: Writer
) -> None:
    """One other label, pixel, seed or setting; said in one line."""
    own, path = make_table(tmp_path / "own", count=3), tmp_path / "run.checkpoint"
    settings = replace(SMALL, steps=1, validation=0.4)
    fit(settings, own, checkpoint=path, progress=False)
    fit(settings, own, checkpoint=path, progress=False)
    other = own.copy()
    pixels = noise(1)[0]
    other.loc[2, "image_path"] = str(write_image(tmp_path / "other.png", pixels))
    flipped = relabelled(own, own["group"].isin(["part/01", "part/03", "part/04"]).to_numpy())
    for changed, given, seed, message in (
        (settings, other, 0, "images differ"),
        (settings, flipped, 0, "images differ"),
        (settings, own, 1, "images, seed differ"),
        (replace(settings, light=0.2), own, 0, "light differ"),
        (replace(settings, weights="random"), own, 0, "weights differ"),
    ):
        with pytest.raises(TrainingError, match=message) as problem:
            fit(changed, given, seed=seed, checkpoint=path, progress=False)
        check_line(problem)


def test_an_identity_holds_every_label_and_pixel(fitted: DefectClassifier) -> None:
    """Plain data; the same again, another with one label or one pixel changed."""
    images, labels = noise(4), np.array([0, 1, 0, 1])
    first = fitting.identity(fitted, images, labels)
    assert fitting.identity(fitted, images.copy(), labels.astype(bool)) == first
    seen = {first["images"]}
    for k in range(4):
        seen.add(fitting.identity(fitted, images, np.where(np.arange(4) == k, 1 - labels, labels))["images"])
        other = images.copy()
        other[k, 63, 63, 2] ^= 1
        seen.add(fitting.identity(fitted, other, labels)["images"])
    assert len(seen) == 9


# What it looks at ---------------------------------------------------------------------------------------------------


def test_each_view_has_its_finder(table: pd.DataFrame) -> None:
    """And rows keep their order, however views are mixed."""
    settings = replace(SMALL, look="item")
    finders = find_items(table, settings, progress=False)
    assert list(finders) == ["side", "top"]
    for view in finders:
        pictures = [read_image(path) for path in table.loc[table["view"] == view, "image_path"]]
        np.testing.assert_array_equal(finders[view].rarity, items.fit_finder(pictures, progress=False).rarity)
    assert find_items(table, SMALL) == {}
    mixed = table.sample(12, random_state=1)
    images, transforms = DefectClassifier(build("resnet18", "random", (1,))[0], settings, 0, "", finders).cut(mixed)
    assert mixed["view"].tolist() != sorted(mixed["view"])
    for row, image, transform in zip(mixed.itertuples(), images, transforms, strict=True):
        (cut,), (place,) = items.cut_files([row.image_path], finders[row.view], SIDE, "item")
        np.testing.assert_array_equal(image, cut)
        np.testing.assert_array_equal(transform, place)


@pytest.mark.parametrize(
    ("look", "registers", "wanted", "mirror"),
    [
        ("registered", (True, False), True, False),
        ("registered", (False, False), True, True),
        ("item", (True, True), True, True),
        ("item", (False, False), False, False),
        ("whole", (), True, True),
    ],
)
def test_registered_cuts_are_not_mirrored(look: str, registers: tuple[bool, ...], wanted: bool, mirror: bool) -> None:
    """There a place has a meaning."""
    finders = {
        f"view{k}": items.Finder(np.zeros((16, 16, 16), np.float32), places=np.zeros((20 * own, 2), np.float32))
        for k, own in enumerate(registers)
    }
    model = DefectClassifier(torch.nn.Identity(), replace(SMALL, look=look, mirror=wanted), 0, "", finders)
    assert model.mirror == mirror


def test_a_view_that_it_was_not_fitted_on(table: pd.DataFrame) -> None:
    """Has no finder."""
    model = fit(replace(SMALL, look="item", steps=0), table[table["view"] == "side"], progress=False)
    assert model.score(table[table["view"] == "side"].iloc[:3]).shape == (3,)
    with pytest.raises(DataError, match="view 'top' is new to this classifier: it knows side") as problem:
        model.score(table)
    check_line(problem)


@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (2, SIDE, 32, 3), (2, SIDE, SIDE, 4), (SIDE, SIDE, 3)])
def test_images_of_another_size_are_refused(fitted: DefectClassifier, shape: tuple[int, ...]) -> None:
    """With both sizes."""
    with pytest.raises(DataError, match=r"images must be \(N, 64, 64, 3\), not") as problem:
        fitted.logits(np.zeros(shape, np.uint8))
    check_line(problem)


def test_batches_change_no_score(fitted: DefectClassifier) -> None:
    """35 images in three batches, and one alone."""
    images = noise(35)
    logits = fitted.logits(images)
    np.testing.assert_allclose(fitted.logits(images[20:21]), logits[20:21], rtol=1e-4, atol=1e-5)
    assert len(np.unique(logits)) == 35


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
    with pytest.raises(DataError, match=message) as problem:
        fit(SMALL, choose(table), progress=False)
    check_line(problem)


@pytest.mark.parametrize(
    "bad",
    [
        {"architecture": "vgg16"},
        {"look": "box"},
        {"image_size": 31},
        {"image_size": 0},
        {"pyramid": ()},
        {"pyramid": (1, 0)},
        {"penalty": 0.0},
        {"penalty": -1.0},
        {"penalty": float("inf")},
        {"penalty": float("nan")},
        {"steps": -1},
        {"batch": 1},
        {"rate": 0.0},
        {"rate": float("inf")},
        {"rate": float("nan")},
        {"validation": 0.0},
        {"validation": 1.0},
        {"validation": float("nan")},
        {"turn": -1.0},
        {"turn": float("nan")},
        {"turn": float("inf")},
        {"shift": -0.1},
        {"shift": 1.0},
        {"shift": float("nan")},
        {"light": -0.1},
        {"light": 1.0},
        {"light": float("nan")},
        {"seeds": ()},
        {"seeds": (0, -1)},
    ],
    ids=str,
)
def test_settings_that_cannot_be(bad: dict[str, object]) -> None:
    """One line each; the values beside them are allowed."""
    with pytest.raises(SettingsError) as problem:
        ClassifierSettings(**bad)
    check_line(problem)
    ClassifierSettings(image_size=32, pyramid=(1,), steps=0, batch=2, turn=0.0, shift=0.0, light=0.0, seeds=(0, 0))
