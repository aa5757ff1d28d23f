"""Every method on a (pretended) GPU: trained, killed, gone on with, scored, saved there and loaded on a CPU.

The same file is the child process that has the GPU (`python test_gpu.py FOLDER`), for that changes torch for the whole
process. The oracle is the CPU, where nothing is killed.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from mvtec_ad import artifacts, training
from mvtec_ad.data.digits import Digits
from mvtec_ad.methods import (
    METHODS,
    classifier,
    defect_types,
    detector_class,
    explain,
    gan_quality,
    load_model,
    pretraining,
)
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.methods.defect_types import DefectTypes
from mvtec_ad.methods.gan import Dcgan
from mvtec_ad.training import Run

SIDE, GOOD = 32, 9
TINY = {  # each method takes those it has
    **{"image_size": SIDE, "crop": SIDE, "sigma": 1.0, "channels": 8, "coreset": 0.2},
    **{"backbone": "resnet18", "weights": "synthetic", "latent": 8, "width": 4, "steps": 4, "batch_images": 4},
    **{"critic_steps": 1, "encoder_steps": 2, "search_steps": 3, "patience": 0},
    **{"roi": "whole", "pyramid": (1, 2), "lr": 1e-3},
    **{"look": "mask", "roi_size": 0.5, "copies": 2, "batch": 6, "projection": 8, "neighbours": 3},
    **{"epochs": 2, "discriminator_width": 4, "snapshots": 2},
}
ABOUT = {"profile": "quick", "data_source": "own", "categories": ["part"], "options": {}, "seed": 3}
THRESHOLD = {"value": 1.0, "false_alarm_rate": 0.05}
TOLERANCE = {"classifier": 1e-2}  # its weights are rounded to half precision, and a last digit decides which way
# A slope follows every weight; with the same weights it is held to SAME_WEIGHTS.
SLOPES = {"integrated_gradients": 5e-2, "smooth_grad": 5e-2}
SAME_WEIGHTS = 1e-4
SUBJECTS = (*METHODS, "classifier", "defect_types", "dcgan", "digits", "pretraining")


def tiny(kind: type) -> Any:
    """The smallest of a method."""
    return kind(**{field.name: TINY[field.name] for field in kind.option_fields() if field.name in TINY})


def material(folder: Path) -> SimpleNamespace:
    """Images, a table of good and defective ones with their masks, and gray pictures; the same in every process."""
    rng = np.random.default_rng(0)
    images = rng.integers(90, 130, (GOOD + 8, SIDE, SIDE, 3), np.uint8)
    masks = np.zeros(images.shape[:3], bool)
    rows = []
    for number, image in enumerate(images):
        defect = "good" if number < GOOD else ("blot", "cut")[number % 2]
        if defect != "good":
            row, column = rng.integers(0, SIDE - 8, 2)
            masks[number, row : row + 8, column : column + 8] = True
            image[masks[number]] = {"blot": (220, 30, 30), "cut": (20, 20, 20)}[defect]
        paths = [folder / f"{number}-{part}.png" for part in ("image", "mask")]
        Image.fromarray(image).save(paths[0])
        Image.fromarray(255 * masks[number].astype(np.uint8)).save(paths[1])
        rows.append((str(number), "part", "test", defect, int(defect != "good"), *map(str, paths), "", str(number)))
    columns = ["image_id", "category", "split", "defect", "label", "image_path", "mask_path", "view", "group"]
    gray = rng.integers(0, 256, (24, 28, 28), np.uint8)
    digits = Digits(gray, np.arange(24) % 10, "noise")
    bank = images, rng.integers(0, 3, images.shape[:3]).astype(np.int16)
    return SimpleNamespace(images=images, table=pd.DataFrame(rows, columns=columns), digits=digits, bank=bank)


@contextlib.contextmanager
def killed() -> Iterator[None]:
    """The first training that begins inside ends after two steps, as if its process had been killed."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    short = partialmethod(Run.__init__, until=2)
    with mock.patch.multiple(Run, __init__=short, __exit__=die), contextlib.suppress(KeyboardInterrupt):
        yield


def trained(fit: Callable[[], Any], interrupted: bool) -> Any:
    """What `fit` gives; where it is interrupted, it is killed first and then goes on from its checkpoint."""
    if interrupted:
        with killed():
            fit()
    return fit()


def measure(subject: str, given: SimpleNamespace, folder: Path, interrupted: bool = False) -> dict[str, np.ndarray]:
    """Train one subject, save its model in the folder, and give all that it computes."""
    checkpoints, path = folder / "checkpoints", folder / f"{subject}.zip"
    good, images, digits = given.images[:GOOD], given.images, given.digits
    if subject in METHODS:
        detector = trained(lambda: tiny(detector_class(subject)).fit(good, 3, checkpoints=checkpoints), interrupted)
        artifacts.save_model(path, detector, "part", THRESHOLD, data_source="own")
        return scores(detector, images)
    if subject == "classifier":
        model = trained(lambda: tiny(Classifier).fit(given.table, 3, checkpoints=checkpoints), interrupted)
        artifacts.save("models", classifier.files(model, "part", "tiny", threshold=0.0, metrics={}), path=path, **ABOUT)
        return answers(model, given)
    if subject == "defect_types":
        known = tiny(DefectTypes).gather(given.table[given.table["label"] == 1])
        model = trained(lambda: tiny(DefectTypes).fit_rows(known, known.typed, 3, checkpoints=checkpoints), interrupted)
        artifacts.save("contrastive", defect_types.files(model, "part"), path=path, **ABOUT)
        return {"embeddings": model.embed(known.images, known.centres), "curve": model.curve["loss"].to_numpy()}
    if subject == "dcgan":
        checkpoint = folder / "dcgan.checkpoint"
        options = replace(tiny(Dcgan), batch_images=8)
        model = trained(lambda: replace(options).fit(digits.images, 3, checkpoint=checkpoint), interrupted)
        return {"sample": model.sample(4, seed=1), "grids": model.grids, **model.state()}
    if subject == "digits":
        model = gan_quality.fit_digit_classifier(digits, digits, steps=2, progress=False)
        return {"probabilities": model.probabilities(digits.images), "features": model.features(digits.images)}
    options = pretraining.Pretraining(
        objective="both", images=17, image_size=SIDE, recipes=3, view=32, views=4, steps=4
    )
    settings = {"checkpoint": folder / "pretraining.checkpoint", "progress": False}
    student, curve = trained(lambda: pretraining.pretrain(options, given.bank, **settings), interrupted)
    return {"loss": curve["loss"].to_numpy(), "filters": student.conv1.weight.detach().numpy()}


def scores(detector: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Of images, and of the good ones that a threshold rests on."""
    result = detector.score(images)
    return {"image": result.image, "good": detector.good_scores} | (
        {} if result.maps is None else {"maps": result.maps}
    )


def answers(model: Classifier, given: SimpleNamespace) -> dict[str, np.ndarray]:
    """Logits, and maps of all methods that explain them."""
    attribution = explain.Attribution.preset("quick", path_steps=4, noisy_copies=2, windows=2)
    images = torch.from_numpy(given.images[-2:]).permute(0, 3, 1, 2) / 255
    maps, _ = attribution.maps(model.network, model.network.body, images, np.ones(2))
    removed = explain.deletion_insertion(model.network, images, maps["occlusion"], np.ones(2), steps=2)
    logits = model.logits(model.cut(given.table)[0])
    return {"logits": logits, **maps, **{f"curve {name}": curve for name, curve in removed.items()}}


def half_precision(given: SimpleNamespace, folder: Path, bfloat16: bool) -> dict[str, np.ndarray]:
    """Of an autoencoder: the loss of each step, the kinds of numbers inside, and the loss's scale in its checkpoint."""
    kinds, forward = [], nn.Conv2d.forward
    torch.cuda.is_bf16_supported = lambda **_: bfloat16

    def watched(layer: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        output = forward(layer, images)
        kinds.append(str(output.dtype) if layer.training else "")
        return output

    with mock.patch.object(nn.Conv2d, "forward", watched):
        model = trained(
            lambda: tiny(detector_class("autoencoder")).fit(given.images[:GOOD], 3, checkpoints=folder),
            interrupted=True,
        )
    scaler = torch.load(model.checkpoint_files[0], weights_only=True, map_location="cpu")["scaler"]
    kinds = sorted(set(kinds) - {""})
    return {
        "loss": model.curve["loss"].to_numpy(),
        "kinds": np.array(kinds),
        "scale": np.array(scaler.get("scale", 0.0)),
    }


def on_gpu(folder: Path) -> None:
    """What the child does: all subjects on the pretended GPU, their numbers into `on_gpu.npz`."""
    import pretended_gpu

    pretended_gpu.install()
    given, numbers, precision = material(folder), {}, training._precision
    training._precision = lambda device, mixed: precision(device, False)  # half precision gives other numbers
    for subject in SUBJECTS:
        numbers |= {f"{subject}/{name}": value for name, value in measure(subject, given, folder, True).items()}
    training._precision = precision
    for kind in ("float16", "bfloat16"):
        half = half_precision(given, folder / kind, kind == "bfloat16")
        numbers |= {f"{kind}/{name}": value for name, value in half.items()}
    np.savez(folder / "on_gpu.npz", **numbers)


# --- what the tests compare -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """The folder in which the child worked, and its numbers, `SUBJECT/NAME`."""
    folder = tmp_path_factory.mktemp("gpu")
    child = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    with np.load(folder / "on_gpu.npz") as numbers:
        return folder, dict(numbers)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The same material here."""
    return material(tmp_path_factory.mktemp("cpu"))


def close(
    first: dict[str, np.ndarray],
    second: dict[str, np.ndarray],
    tolerance: float = 1e-5,
    others: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """The same names, and the same numbers, but for how sums are taken in batches of another size."""
    assert set(first) == set(second)
    for name, values in first.items():
        allowed = others.get(name, tolerance)
        scale = np.abs(second[name]).max()
        np.testing.assert_allclose(values, second[name], rtol=allowed, atol=allowed * scale, err_msg=name)


def of(subject: str, numbers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The numbers of one subject."""
    return {name.partition("/")[2]: values for name, values in numbers.items() if name.startswith(f"{subject}/")}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_gpu_gives_the_cpus_numbers(subject: str, gpu: Any, given: SimpleNamespace, tmp_path: Path) -> None:
    """Killed and gone on with there, in one go here."""
    close(of(subject, gpu[1]), measure(subject, given, tmp_path), TOLERANCE.get(subject, 1e-5), SLOPES)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_of_a_gpu_scores_on_a_cpu(method: str, gpu: Any, given: SimpleNamespace) -> None:
    """As it did there."""
    folder, numbers = gpu
    restored, _ = load_model(folder / f"{method}.zip")
    close(scores(restored, given.images), of(method, numbers))


def test_classifier_and_defect_types_of_a_gpu_answer_on_a_cpu(gpu: Any, given: SimpleNamespace) -> None:
    """As they did there."""
    folder, numbers = gpu
    restored, _ = classifier.restore(artifacts.load(folder / "classifier.zip"), "part", "tiny")
    close(answers(restored, given), of("classifier", numbers), SAME_WEIGHTS)
    types, _ = defect_types.load(folder / "defect_types.zip")
    known = types.gather(given.table[given.table["label"] == 1])
    close({"embeddings": types.embed(known.images, known.centres)}, {"embeddings": numbers["defect_types/embeddings"]})


@pytest.mark.parametrize(("kind", "scale"), [("float16", 2.0**16), ("bfloat16", 0.0)])
def test_half_precision_learns_as_single_does(
    kind: str, scale: float, gpu: Any, given: SimpleNamespace, tmp_path: Path
) -> None:
    """Inside in half precision; where that has a small range, with a scaler, which the checkpoint keeps."""
    half = of(kind, gpu[1])
    assert list(half["kinds"]) == [f"torch.{kind}"]
    assert half["scale"] in (scale, scale / 2, scale / 4)  # halved where a gradient overflows, as at the beginning
    single = tiny(detector_class("autoencoder")).fit(given.images[:GOOD], 3).curve["loss"].to_numpy()
    np.testing.assert_allclose(half["loss"], single, rtol=0.02)


if __name__ == "__main__":
    on_gpu(Path(sys.argv[1]))
