"""Does a map depend on what the network has learnt? One that stays when the weights are drawn anew explains nothing.

Adebayo et al., "Sanity Checks for Saliency Maps", 2018 (arXiv:1810.03292), section 4.1: cascading randomisation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from mvtec_ad.errors import SettingsError
from mvtec_ad.methods.attribution.quality import agreement


def cascade(network: nn.Module, groups: Sequence[str], seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Copies of a network, each with one more group of layers as before training.

    Weights are drawn as torch draws them for new layers, and the running statistics of batch normalisation start over.

    Args:
        network: stays as it is.
        groups: names of modules in it, as in `named_modules`, the one next to the output first. What no group holds
            keeps its weights.
        seed: of the weights.

    Yields:
        A group's name, and a copy in which this group and all before it are new; on the network's device, in its mode.

    Raises:
        SettingsError: a name is unknown or stands twice, holds no weights, or weights that cannot be drawn.
    """
    _check(network, groups)
    current = copy.deepcopy(network)
    for stage, name in enumerate(groups):
        group = current.get_submodule(name)
        device = next(group.parameters()).device
        group.cpu()  # the same weights on every device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng([seed, stage]).integers(2**63)))
            for module in group.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        group.to(device)
        yield name, copy.deepcopy(current)


def randomisation_check(
    network: nn.Module, groups: Sequence[str], explain: Callable[[nn.Module], np.ndarray], *, seed: int = 0
) -> dict[str, np.ndarray]:
    """How far the maps along the cascade still resemble those of the trained network.

    Args:
        network: trained; stays as it is.
        groups: as in `cascade`.
        explain: network -> maps (N, H, W) of always the same images; a layer is to be looked up in the network given.
        seed: of the weights.

    Returns:
        Group -> Spearman's correlation of each map with that of the trained network, (N,), once this group and all
        before it are random; near 1 is a failure. Nan where a map is constant, as of a Grad-CAM that is zero all over.
    """
    trained = explain(network)
    return {name: agreement(trained, explain(partly)) for name, partly in cascade(network, groups, seed)}


def _check(network: nn.Module, groups: Sequence[str]) -> None:
    modules = dict(network.named_modules())
    if isinstance(groups, str) or len(set(groups)) != len(groups) or not groups:
        raise SettingsError(f"groups must be a list of different module names, not {groups!r}")
    for name in groups:
        if name not in modules:
            raise SettingsError(f"the network has no module {name!r}: it has {', '.join(filter(None, modules))[:200]}")
        if next(modules[name].parameters(), None) is None:
            raise SettingsError(f"the module {name!r} holds no weights that could be drawn anew")
        for module in modules[name].modules():
            owns = next(module.parameters(recurse=False), None) is not None
            if owns and not hasattr(module, "reset_parameters"):
                raise SettingsError(f"{type(module).__name__} in {name!r} has no reset_parameters to draw it anew")
