"""The ResNet-18 that the package carries: trained on drawn images, measured beside others, kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvtec_ad.config import data_folder
from mvtec_ad.settings import PretrainingSettings

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("image_auroc", "pixel_auroc")


def carry(
    settings: PretrainingSettings, *, until: int | None = None, root: str | None = None, imagenet: str | None = None
) -> None:
    """Train, carry, and measure beside random and ImageNet weights; goes on where a run was stopped.

    Args:
        settings: of the training.
        until: stop after this many steps.
        root: folder of real MVTec AD with bottle, to be reported.
        imagenet: file with ImageNet weights of ResNet-18, to be reported beside.
    """
    from mvtec_ad.backbones import load_backbone
    from mvtec_ad.backbones.carried import load_drawn, save_drawn
    from mvtec_ad.methods import pretraining

    checkpoint = data_folder() / "abstract" / "backbone.checkpoint"
    trunk, curve, seconds = pretraining.timed(settings, checkpoint=checkpoint, until=until)
    if len(curve) < settings.steps:
        print(f"stopped at step {len(curve)} of {settings.steps}: the same command without --until goes on")
        return
    card = pretraining.card(settings, curve, seconds)
    save_drawn(trunk.state_dict(), card)
    print(f"carried: {load_drawn()[1]}; measuring it beside others")
    networks = {"drawn": load_backbone("resnet18", "drawn"), "random": load_backbone("resnet18", "random")}
    if imagenet:
        networks["imagenet"] = load_backbone("resnet18", imagenet)
    folders = _places("official_counts", root)
    results = {name: pretraining.worth(network, folders) for name, network in networks.items()}
    card["results"] = {name: table.to_dict("index") for name, table in results.items()}
    save_drawn(trunk.state_dict(), card)
    checkpoint.unlink()
    print(_table(results))


def compare_objectives(settings: PretrainingSettings, root: str | None) -> None:
    """Every objective with the same images, views and steps, judged on drawn products that report nothing else."""
    from mvtec_ad.backbones.carried import save_comparison
    from mvtec_ad.methods import pretraining

    folders = _places("choosing", root)
    results: dict[str, Any] = {}
    rows = []
    for name in pretraining.OBJECTIVES:
        recipe = replace(settings, objective=name)
        trunk, _, seconds = pretraining.timed(recipe)
        results[name] = pretraining.worth(pretraining.backbone_of(trunk, name), folders)
        rows.append({"objective": name, "cpu_seconds": seconds, "results": results[name].to_dict("index")})
        print(_table(results))
    command = f"python -m mvtec_ad backbone --compare --steps {settings.steps}"
    save_comparison({"command": command, "settings": settings.options(), "objectives": rows})


def _places(folder: str, root: str | None) -> dict[str, Path]:
    """Drawn products, and real bottle where it is."""
    from mvtec_ad.data import rendered

    folders = {}
    for name in rendered.CATEGORIES:
        counts = {"train": 100, "test_good": 40, "per_defect": 12, "seed": 5}
        if folder == "official_counts":
            counts = rendered.official_counts(name)
        folders[name] = rendered.write_category(data_folder() / folder, name, **counts)
    if root:
        folders["real bottle"] = Path(root) / "bottle"
    return folders


def _table(results: dict[str, pd.DataFrame]) -> str:
    from mvtec_ad.metrics import format_number, markdown_table

    rows = [
        [name, metric.replace("_", " "), *(format_number(value) for value in table[metric])]
        for name, table in results.items()
        for metric in METRICS
    ]
    return markdown_table(["weights", "", *next(iter(results.values())).index], rows)
