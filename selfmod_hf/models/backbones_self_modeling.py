"""Hidden layers, timm's models as backbones, and checks of any backbone.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import difflib
import importlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import nn

from .configuration_self_modeling import SelfModelingConfig

_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


def hidden_stack(in_features: int, sizes: Sequence[int], activation: str = "relu") -> nn.Sequential:
    """Return linear layers of these sizes, each with an activation: linear1, relu1, linear2, ...

    The names are the same for each activation, so that recipes and arms name one target layer.

    Args:
        in_features: width of the input.
        sizes: widths of the layers.
        activation: as `SelfModelingConfig.hidden_activation`.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, size in enumerate(sizes, start=1):
        layers[f"linear{index}"] = nn.Linear(in_features, size)
        layers[f"relu{index}"] = _ACTIVATIONS[activation]()
        in_features = size
    return nn.Sequential(layers)


def timm_backbone(config: SelfModelingConfig, pretrained: bool = False) -> nn.Module:
    """Return a timm model without its classifier.

    Raises:
        ValueError: timm has no such model, or its stem cannot be made small.
    """
    # by name, because transformers would ask a user of an MLP to install every import of this file
    timm = importlib.import_module("timm")
    name = config.backbone.removeprefix("timm/")
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), n=5)
        closest = ", ".join(similar) or "those of timm.list_models()"
        raise ValueError(f"backbone={config.backbone!r}: timm has no such model; closest are {closest}")
    backbone = timm.create_model(
        name, pretrained=pretrained, num_classes=0, in_chans=config.num_channels, **config.backbone_kwargs
    )
    if config.small_image_stem:
        _make_stem_small(backbone, config.backbone)
    return backbone


def _make_stem_small(backbone: Any, name: str) -> None:
    """Replace the first convolution of a ResNet by one of 3x3 and stride 1, and remove its max-pool."""
    first: Any = getattr(backbone, "conv1", None)
    has_stem = isinstance(first, nn.Conv2d) and hasattr(backbone, "maxpool")
    if not has_stem:
        raise ValueError(f"small_image_stem=True: {name!r} has no single first convolution and max-pool")
    convolution = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # timm's own rule
    backbone.conv1 = convolution
    backbone.maxpool = nn.Identity()


def drop_rates(backbone: nn.Module) -> list[tuple[Any, str, str]]:
    """Return the rates above 0 at which a backbone leaves out layers or patches in training.

    Returns:
        For each rate its module or configuration, the attribute's name, and name and value for a message.
    """
    found = []
    for module in backbone.modules():
        owners: list[Any] = [module]
        if hasattr(module, "config"):
            owners.append(module.config)
        labels = {}
        if type(module).__name__.startswith("PatchDropout"):  # timm's
            labels["prob"] = "patch_drop_rate"
        for owner in owners:
            for name, value in vars(owner).items():
                drops = name in labels or "layerdrop" in name
                if drops and isinstance(value, float) and value > 0:
                    described = f"{labels.get(name, name)}={value:g}"
                    found.append((owner, name, described))
    return found


def check_memory(network: nn.Module) -> None:
    """Reject a network larger than the machine.

    `from_pretrained` builds on torch's meta device first, so the network is rejected before memory is taken.

    Raises:
        ValueError: gives both sizes.
    """
    if not hasattr(os, "sysconf"):
        return
    needed = 0
    for tensor in (*network.parameters(), *network.buffers()):
        needed += tensor.nbytes
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > machine:
        gib = 2**30
        raise ValueError(
            f"config: describes a network of {needed / gib:.1f} GiB; allowed is this machine's memory, "
            f"{machine / gib:.1f} GiB"
        )
