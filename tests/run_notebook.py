"""Run notebooks on the pretended GPU with small budgets: every cell is reached, nothing is learned.

    python tests/run_notebook.py quick             all, on images drawn as small and few as the notebooks allow
    python tests/run_notebook.py quick 06 07       some, on what earlier ones left in MVTEC_AD_HOME
    python tests/run_notebook.py full              all, on a few images of each real product in ../shared

One line for each notebook, after what its failing cells print; exit status 1 where a cell failed, or the rest of a
notebook was left out. The code cells of notebooks/source run in one process, in which IPython plays the kernel. Those
that read most come first, so that each makes what it reads.

What is replaced, beside the device (`pretended_gpu`):

| what | by |
|---|---|
| options of the data | `DATA`, in the profile: it is no longer quick's own, so `lesson` prints and asserts nothing |
| counts and size of drawn products above `DRAWN`, as in notebook 10 | these |
| size of drawn packages | `PACKAGES` |
| options of methods above `LIMITS` | these |
| steps of any training above `STEPS` | `STEPS` |
| UMAP, which compiles for a quarter of a minute | principal components |
| figures of 90 dots an inch | of 20 |
| a file of weights that is read again | what was read |
| full: MVTec AD | of bottle, capsule and metal_nut in ../shared the first images of each folder, as `DATA` says |
| full: MNIST from its servers | its test part in ../shared |
| full: torchvision's ImageNet weights | ResNet-18's in ../shared, random ones of other networks |
| full: Keras's ImageNet weights | random ones |
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mvtec_ad.notebooks import READS, number_of

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"
REAL = ("bottle", "capsule", "metal_nut")

# A promise of 5 % false alarms needs 19 good images, where half of them are held out twice as many.
DATA = {
    **{"synthetic_train": 40, "synthetic_test_good": 4, "synthetic_per_defect": 3, "image_size": 64},
    **{"package_train": 6, "package_test": 4},
}
DRAWN = {"train": 40, "test_good": 4, "per_defect": 3, "size": 64}
PACKAGES = {"size": (108, 192)}
STEPS = 2
LIMITS = {
    **{"image_size": 64, "crop": 64, "width": 4, "discriminator_width": 4, "latent": 16},
    "channels": 24,  # notebook 02 wants more than its 20 images
    **{"batch_images": 8, "batch": 16},
    "search_steps": 21,  # notebook 07b looks at the 20th
    **{"copies": 2, "folds": 2},
    **{"images": 8, "few": 6, "path_steps": 4, "noisy_copies": 2, "windows": 2, "removals": 2, "randomised": 2},
    **{"recipes": 8, "view": 32, "views": 4},
}


def shrink() -> None:
    """Put the small budgets in the place of the profile's."""
    from sklearn.decomposition import PCA

    import mvtec_ad
    from mvtec_ad import config, frameworks, synthetic
    from mvtec_ad.backbones import trunk
    from mvtec_ad.methods.gan import Dcgan
    from mvtec_ad.plotting import style
    from mvtec_ad.training import Run

    check, profile, begin, draw = config.Options.__post_init__, config.profile, Run.__init__, synthetic.write_category

    def limited(options: config.Options) -> None:
        """Options are cut down, then checked."""
        names = () if isinstance(options, config.DataSettings) else [field.name for field in options.option_fields()]
        for name in set(names) & set(LIMITS):
            object.__setattr__(options, name, min(getattr(options, name), LIMITS[name]))  # some are frozen
        check(options)

    def small_profile(*arguments: str) -> config.Profile:
        run = profile(*arguments)
        return replace(run, data=replace(run.data, **DATA))

    def few_steps(run: Run, *arguments: Any, steps: int, **more: Any) -> None:
        begin(run, *arguments, steps=min(steps, STEPS), **more)

    config.Options.__post_init__, Run.__init__ = limited, few_steps
    Dcgan.steps = lambda *_: STEPS  # it plans its snapshots by them

    def few_images(*arguments: Any, **counts: Any) -> Path:
        return draw(*arguments, **counts | {name: min(counts[name], limit) for name, limit in DRAWN.items()})

    mvtec_ad.profile = config.profile = small_profile
    synthetic.write_category = few_images
    synthetic.write_packages = functools.partial(synthetic.write_packages, **PACKAGES)
    frameworks.import_umap = lambda: lambda **_: PCA(2)
    style.to_png.__defaults__ = style.to_jpeg.__defaults__ = (20,)
    trunk.state_of = functools.cache(trunk.state_of)


def stay_at_home(folder: Path) -> None:
    """Put what lies in ../shared, and random weights, in the place of what *full* downloads."""
    from mvtec_ad.backbones import keras_networks, trunk
    from mvtec_ad.frameworks import import_torchvision

    for part in (part for name in REAL for part in (SHARED / "data" / "mvtec_anomaly_detection" / name).glob("*/*")):
        most = DATA["synthetic_train"] if part.parts[-2:] == ("train", "good") else DATA["synthetic_per_defect"]
        most = DATA["synthetic_test_good"] if part.parts[-2:] == ("test", "good") else most
        for file in sorted(part.iterdir())[:most]:
            target = folder / file.relative_to(SHARED / "data" / "mvtec_anomaly_detection")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    os.environ |= {"MVTEC_AD_ROOT": str(folder), "MVTEC_AD_DIGITS": str(SHARED / "data" / "mnist")}
    os.environ["MVTEC_AD_CATEGORIES"] = " ".join(REAL)
    state_of, load = trunk.state_of, keras_networks.load

    def local_state(name: str, weights: str) -> Any:
        if weights != "imagenet" or name in trunk.LITE:
            return state_of(name, weights)
        if name == "resnet18":
            return state_of(name, str(SHARED / "weights" / "resnet18_in1k_to_layer3.pth"))
        with trunk.seeded(0):
            return import_torchvision().models.get_model(name, weights=None).state_dict(), "random, for ImageNet's"

    def local_keras(name: str, weights: str) -> Any:
        return load(name, weights if name in keras_networks.FROM_TORCH else weights.replace("imagenet", "random"))

    trunk.state_of = keras_networks.state_of = local_state
    keras_networks.load = local_keras


def failures(source: Path) -> Iterator[str]:
    """Run the code cells of a notebook; what those that fail print, and where the rest is left out."""
    import jupytext
    import matplotlib.pyplot as plt
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance(colors="nocolor")
    gc.freeze()  # a reset collects garbage, and would go through all that was imported
    shell.reset()
    transformers = list(shell.input_transformers_cleanup)
    cells = [cell.source for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    for number, cell in enumerate(cells):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            complete = shell.run_cell(cell).success
        if shell.input_transformers_cleanup != transformers:  # by `leave_out_rest`
            shell.input_transformers_cleanup[:] = transformers
            complete = False
        if not complete:
            text = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())
            yield f"cell {number} of {source.stem} failed:\n{cell}\n{text}"
        plt.close("all")


def in_order() -> list[Path]:
    """The notebooks, those that read most first: what they read is not there yet, so each makes it itself."""
    sources = sorted((PROJECT / "notebooks" / "source").glob("[0-9][0-9]*_*.py"))
    return sorted(sources, key=lambda source: -len(READS.get(number_of(source), "").split()))


def main(profile: str, *numbers: str) -> int:
    """Run notebooks; 1 where something failed."""
    import warnings

    import matplotlib
    import pretended_gpu

    os.environ["MVTEC_AD_PROFILE"] = profile
    matplotlib.use("Agg")
    warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
    pretended_gpu.install(bfloat16=True)  # float16 is slow on a CPU
    shrink()
    if profile == "full":
        stay_at_home(Path(os.environ["MVTEC_AD_HOME"]) / "few")
    status = 0
    for source in in_order():
        if numbers and number_of(source) not in numbers:
            continue
        begun = time.process_time()
        problems = list(failures(source))
        for problem in problems:
            print(problem)
        print(f"{source.stem}: {len(problems)} failed, {time.process_time() - begun:.0f} CPU seconds", flush=True)
        status |= bool(problems)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
