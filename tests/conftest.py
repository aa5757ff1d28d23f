"""What several tests share: a home of their own, tiny categories in MVTec layout, the shared folder."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvtec_ad.errors import MvtecAdError

PROJECT = Path(__file__).resolve().parents[1]
# Files begin in this order, all others after them: of two workers none ends with a long file that the other waits for.
LONGEST = (
    *("test_notebooks_on_gpu", "test_gpu"),
    *("test_own_categories", "test_real_products", "test_command_line", "test_cells", "test_classifier"),
    *("test_imports", "test_backbones", "test_synthetic_products", "test_one_class", "test_defect_types"),
    *("test_fuzz_command_line", "test_pretraining", "test_items", "test_efficientnet_lite", "test_inspector"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    """What is imported by now stays: no search for garbage looks through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test reads and writes `data/` and `transfer/` below its own folder, under no one's settings."""
    for name in [name for name in os.environ if name.startswith("MVTEC_AD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MVTEC_AD_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True, scope="session")
def one_line_messages() -> Iterator[None]:
    """Every message a user can meet is one line: held here for all tests, so that none has to say it again."""

    def checked(error: MvtecAdError, *words: object) -> None:
        assert "\n" not in "".join(map(str, words)), words

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MvtecAdError, "__init__", checked)
        yield


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of real images and weights beside the checkout."""
    folder = PROJECT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared (real bottle images, ImageNet weights) is missing beside the project")
    return folder


@pytest.fixture(scope="session")
def shared(shared_folder: Path) -> Callable[[str], Path]:
    """Finds one thing in the shared folder, or skips and says what is missing."""

    def find(name: str) -> Path:
        if not (shared_folder / name).exists():
            pytest.skip(f"../shared/{name} is missing")
        return shared_folder / name

    return find


def draw_part(generator: np.random.Generator, size: int, defect: bool) -> tuple[np.ndarray, np.ndarray]:
    """A rippled surface with a little noise, and on request a bright square patch.

    Returns:
        The image, (size, size, 3) uint8, and its mask, (size, size) bool.
    """
    rows, columns = np.mgrid[:size, :size] / size
    ripples = 110 + 50 * np.sin(6 * np.pi * columns) * np.cos(4 * np.pi * rows)
    image = ripples[..., None] * np.array([1.0, 0.9, 0.8]) + generator.normal(0, 5, (size, size, 3))
    mask = np.zeros((size, size), bool)
    if defect:
        side = size // 4
        top, left = generator.integers(0, size - side, 2)
        mask[top : top + side, left : left + side] = True
        image[mask] = (250, 240, 60)
    return np.clip(image, 0, 255).astype(np.uint8), mask


@pytest.fixture(scope="session")
def write_image() -> Callable[[Path, np.ndarray], Path]:
    """Writes uint8 or bool pixels to an image file, making its folder."""

    def write(path: Path, pixels: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels).save(path)
        return path

    return write


@pytest.fixture(scope="session")
def make_category(write_image: Callable[[Path, np.ndarray], Path]) -> Callable[..., Path]:
    """Writes a small category in MVTec layout and returns the root that holds it."""

    def make(
        root: Path,
        category: str = "part",
        *,
        train: int = 8,
        test_good: int = 4,
        defects: dict[str, int] | None = None,
        size: int = 64,
        masks: bool = True,
        seed: int = 0,
    ) -> Path:
        generator = np.random.default_rng(seed)
        folder = root / category
        for part, count in (("train/good", train), ("test/good", test_good)):
            for index in range(count):
                write_image(folder / part / f"{index:03d}.png", draw_part(generator, size, False)[0])
        for defect, count in ({"patch": 4} if defects is None else defects).items():
            for index in range(count):
                image, mask = draw_part(generator, size, True)
                write_image(folder / "test" / defect / f"{index:03d}.png", image)
                if masks:
                    write_image(folder / "ground_truth" / defect / f"{index:03d}_mask.png", mask)
        return root

    return make


@pytest.fixture(scope="session")
def draw() -> Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]:
    """`draw_part`, for tests that need no files."""
    return draw_part
