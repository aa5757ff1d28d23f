"""`fit`: a model and a threshold from good images alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from mvtec_ad.commands.options import add_data_options, add_method_parsers, method_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    for own in add_method_parsers(parser).values():
        own.add_argument("--category", required=True, help="folder of one product below --root")
        add_data_options(own)
        own.add_argument("--false-alarm-rate", type=float, default=0.05, help="share of good parts that may be flagged")
        own.add_argument("--out", required=True, help="artifact to write, a .zip")


def run(arguments: argparse.Namespace) -> None:
    """Read good images, fit, calibrate on images that the model has not seen, save.

    Raises:
        SettingsError: `--out` names something else than a .zip, which would be replaced.
    """
    from mvtec_ad import evaluation, transfer
    from mvtec_ad.data import acquire, index, loading
    from mvtec_ad.errors import SettingsError
    from mvtec_ad.methods import model_artifact, module_of
    from mvtec_ad.settings import as_dict
    from mvtec_ad.training import checkpoint_path

    if Path(arguments.out).suffix != ".zip":
        raise SettingsError(f"--out {arguments.out} is no artifact: give a name that ends in .zip")
    settings = method_settings(arguments, whole_picture=True)
    root = acquire.locate(arguments.category, root=arguments.root, source=arguments.source)
    table = index.read_category(root, arguments.category)
    good = table[(table["split"] == "train") & (table["label"] == 0)]
    rate = arguments.false_alarm_rate
    evaluation.check_enough(settings.calibration_images(len(good)), rate)
    images = loading.load_images(list(good["image_path"]), settings.image_size, settings.crop)
    checkpoint = checkpoint_path(f"fit-{arguments.method}", as_dict(settings), images)
    model = module_of(arguments.method).fit(settings, images, checkpoint=checkpoint)
    threshold = {"value": evaluation.calibrated(model.good_scores, rate), "false_alarm_rate": rate}
    path = transfer.save(
        arguments.method,
        model_artifact.members(arguments.method, model, arguments.category, threshold),
        profile="custom",
        data_source=index.data_source(root, arguments.category, table),
        categories=[arguments.category],
        settings=as_dict(settings),
        seed=model.seed,
        metrics={"good_images": len(good), "threshold": threshold["value"]},
        path=arguments.out,
    )
    checkpoint.unlink(missing_ok=True)  # of a method that trains; until here a killed run finds it again
    print(
        f"{path}: fitted on {len(good)} good images of {arguments.category}; threshold {threshold['value']:.4g} "
        f"for at most {rate:.0%} false alarms; {path.stat().st_size / 1e6:.1f} MB"
    )
    if not (table["label"] == 1).any() or not ((table["split"] == "test") & (table["label"] == 0)).any():
        print("No AUROC can be computed: there are no good and defective test images. Try `detect` on images you know.")
