"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, get_type_hints

from mvtec_ad.settings import PRESETS, TYPING_PRESETS


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """--root and --source."""
    parser.add_argument(
        "--root",
        help="folder that holds the category folders, or an archive (.tar.xz, .zip) of them; without it real MVTec AD "
        "is looked for",
    )
    parser.add_argument(
        "--source",
        default="auto",
        help="where --root is not given: auto (real MVTec AD where it lies on disk or in transfer/raw-data.zip, else "
        "drawn), mvtec_ad (real or an error), download (real, fetched from MVTec where missing; CC BY-NC-SA 4.0) or "
        "rendered (drawn by code)",
    )


# What a setting means, where the command line offers it; its type and preset values come from its dataclass.
SETTINGS = {
    "backbone": "resnet18, resnet50, wide_resnet50_2, efficientnet_b0 or keras:NAME; typing: one of the first three",
    "weights": "imagenet, random, drawn or the path of a weights file",
    "seeds": "of whatever the method draws: channels, weights, picks",
    "image_size": "side after resizing, in pixels",
    "crop": "side of the central part that is kept; the image size keeps all",
    "sigma": "Gaussian smoothing of the map, in pixels",
    "memory_gb": "features or distances held at once",
    "channels": "random channels kept out of all layers",
    "ridge": "ε of eq. 1, in units of feature variance",
    "layers": "depths of the network, of 1, 2 and 3",
    "coreset": "share of the patches that is kept",
    "neighbours": "patchcore: b of eq. 7, 1 leaves the image score unweighted; typing: nearest known defects",
    "loss": "mse, ssim, mse+ssim or features",
    "map": "absolute, ssim or features: which difference is mapped",
    "score": "of an image: peak of its map, error (squared), for the vae elbo; anogan, f_anogan: loss or peak",
    "latent": "numbers that an image is squeezed into, or drawn from; autoencoder: 0 leaves the last grid as it is",
    "halvings": "layers down, and as many up",
    "width": "channels of the finest grid",
    "critic_steps": "of the critic, for each of the generator's",
    "encoder_steps": "training steps of the encoder",
    "kappa": "κ: weight of the features in the encoder's loss and the score; 0 is the way izi, else izi_f",
    "search_steps": "of the latent search",
    "restarts": "of the latent search: starting points, of which the best counts",
    "feature_share": "λ of the latent search: share of the features in its loss",
    "beta": "weight of the KL divergence",
    "corruption": "none, noise or mask: what is done to the input and must be undone",
    "steps": "training steps",
    "batch": "images a step",
    "rate": "learning rate",
    "held_out": "share of the good images kept for early stopping and the threshold",
    "objective": "supcon (learns from types) or simclr (from images alone)",
    "look": "whole, predicted (around the peak of PaDiM's map) or mask",
    "side": "of the region that is looked at, as a share of the picture",
    "trained": "first layer that is trained: layer3, layer2, layer1 or all",
    "turn": "largest turn of an augmented copy, degrees",
    "temperature": "τ of the contrastive loss",
    "unknown": "share of known defects that may be called unknown",
    "folds": "of the cross-validation",
    "repeats": "of the folds",
    "patience": "checks without progress before training stops; 0 never stops early",
}


def add_method_parsers(
    parser: argparse.ArgumentParser, presets_of: Mapping[str, Mapping[str, Any]] = PRESETS
) -> dict[str, argparse.ArgumentParser]:
    """Method -> a parser of its own, with `--preset` and the settings that the method has."""
    choice = parser.add_subparsers(dest="method", required=True, metavar="METHOD")
    parsers = {}
    for method, presets in presets_of.items():
        own = choice.add_parser(method, help=f"presets: {', '.join(presets)}")
        own.add_argument("--preset", choices=list(presets), default=next(iter(presets)), help="settings to start from")
        settings = next(iter(presets.values()))
        hints = get_type_hints(type(settings))
        for field in fields(settings):
            if field.name in SETTINGS:
                option = "--" + field.name.replace("_", "-")
                kind = int if hints[field.name] == tuple[int, ...] else hints[field.name]
                many = {"nargs": "+"} if hints[field.name] == tuple[int, ...] else {}
                own.add_argument(option, type=kind, help=SETTINGS[field.name], **many)
        parsers[method] = own
    return parsers


def method_settings(arguments: argparse.Namespace, *, whole_picture: bool = False) -> Any:
    """The preset with everything that was given on the command line put over it.

    Args:
        arguments: parsed, with the options of `add_method_parsers`.
        whole_picture: drop the preset's crop, which published protocols have and a product's border does not forgive.
    """
    preset = (PRESETS | TYPING_PRESETS)[arguments.method][arguments.preset]
    given: dict[str, Any] = {}
    for field in fields(preset):
        value = getattr(arguments, field.name, None)
        if value is not None:
            given[field.name] = tuple(value) if isinstance(value, list) else value
    if hasattr(preset, "crop") and "crop" not in given and (whole_picture or "image_size" in given):
        given["crop"] = given.get("image_size", preset.image_size)
    return replace(preset, **given)
