"""`backbone`: train the ResNet-18 that the package carries, on images without a subject."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvtec_ad.settings import PretrainingSettings

if TYPE_CHECKING:
    import pandas as pd


METRICS = ("image_auroc", "pixel_auroc")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command; a setting that is not given keeps the value of the carried weights."""
    for field in fields(PretrainingSettings):
        kind = {"str": str, "int": int, "float": float}[str(field.type)]
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, help=f"default {field.default}")
    parser.add_argument("--until", type=int, help="stop after this many steps; the same command goes on from there")
    parser.add_argument("--compare", action="store_true", help="train every objective this way, and carry none of them")
    parser.add_argument("--root", help="folder of real MVTec AD with bottle, to be reported (never chosen by)")
    parser.add_argument("--imagenet", help="file with ImageNet weights of ResNet-18, to be reported beside")


def run(arguments: argparse.Namespace) -> None:
    """Draw, train, measure, keep."""
    given = {field.name: getattr(arguments, field.name) for field in fields(PretrainingSettings)}
    settings = replace(PretrainingSettings(), **{name: value for name, value in given.items() if value is not None})
    if arguments.compare:
        _compare(settings, arguments.root)
    else:
        _carry(settings, arguments)


def _carry(settings: PretrainingSettings, arguments: argparse.Namespace) -> None:
    from mvtec_ad.backbones import load_backbone
    from mvtec_ad.backbones.carried import load_drawn, save_drawn
    from mvtec_ad.methods import pretraining
    from mvtec_ad.settings import data_folder

    checkpoint = data_folder() / "abstract" / "backbone.checkpoint"
    trunk, curve, seconds = pretraining.timed(settings, checkpoint=checkpoint, until=arguments.until)
    if len(curve) < settings.steps:
        print(f"stopped at step {len(curve)} of {settings.steps}: the same command without --until goes on")
        return
    card = pretraining.card(settings, curve, seconds)
    save_drawn(trunk.state_dict(), card)
    print(f"carried: {load_drawn()[1]}; measuring it beside others")
    networks = {"drawn": load_backbone("resnet18", "drawn"), "random": load_backbone("resnet18", "random")}
    if arguments.imagenet:
        networks["imagenet"] = load_backbone("resnet18", arguments.imagenet)
    places = _places("official_counts", arguments.root)
    results = {name: pretraining.worth(network, places) for name, network in networks.items()}
    card["results"] = {name: found.to_dict("index") for name, found in results.items()}
    save_drawn(trunk.state_dict(), card)
    checkpoint.unlink()
    print(_table(results))


def _compare(settings: PretrainingSettings, root: str | None) -> None:
    """Every objective with the same images, views and steps, judged on drawn products that report nothing else."""
    from mvtec_ad.backbones.carried import save_comparison
    from mvtec_ad.methods import pretraining
    from mvtec_ad.settings import as_dict

    places = _places("choosing", root)
    results: dict[str, Any] = {}
    rows = []
    for name in pretraining.OBJECTIVES:
        own = replace(settings, objective=name)
        trunk, _, seconds = pretraining.timed(own)
        results[name] = pretraining.worth(pretraining.backbone_of(trunk, name), places)
        rows.append({"objective": name, "cpu_seconds": seconds, "results": results[name].to_dict("index")})
        print(_table(results))
    command = f"python -m mvtec_ad backbone --compare --steps {settings.steps}"
    save_comparison({"command": command, "settings": as_dict(settings), "objectives": rows})


def _places(folder: str, root: str | None) -> dict[str, Path]:
    """Drawn products, and real bottle where it is."""
    from mvtec_ad.data import rendered
    from mvtec_ad.settings import data_folder

    places = {}
    for name in rendered.CATEGORIES:
        counts = {"train": 100, "test_good": 40, "per_defect": 12, "seed": 5}
        if folder == "official_counts":
            counts = rendered.official_counts(name)
        places[name] = rendered.write_category(data_folder() / folder, name, **counts)
    if root:
        places["real bottle"] = Path(root) / "bottle"
    return places


def _table(results: dict[str, pd.DataFrame]) -> str:
    from mvtec_ad.evaluation import format_number, markdown_table

    rows = [
        [name, metric.replace("_", " "), *(format_number(value) for value in found[metric])]
        for name, found in results.items()
        for metric in METRICS
    ]
    return markdown_table(["weights", "", *next(iter(results.values())).index], rows)
