"""Backbones: encoders of transformers and timm's models.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import difflib
import importlib
import inspect
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from .configuration_self_modeling import SelfModelingConfig, encoder_class
from .weights_self_modeling import check_backbone_weights


def hidden_stack(in_features: int, sizes: Sequence[int]) -> nn.Sequential:
    """Return linear + ReLU layers of these sizes, named linear1, relu1, linear2, ..."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, size in enumerate(sizes, start=1):
        layers[f"linear{index}"] = nn.Linear(in_features, size)
        layers[f"relu{index}"] = nn.ReLU()
        in_features = size
    return nn.Sequential(layers)


def drop_rates(backbone: nn.Module) -> list[tuple[Any, str, str]]:
    """Return where a backbone keeps a rate above 0 at which layers or patches are left out in training.

    Returns:
        For each rate its module or configuration, the attribute's name, and name and value for a message.
    """
    found = []
    for module in backbone.modules():
        owners: list[Any] = [module]
        if hasattr(module, "config"):
            owners.append(module.config)
        patches = type(module).__name__.startswith("PatchDropout")  # timm's
        for owner in owners:
            for name, value in vars(owner).items():
                drops = "layerdrop" in name or (patches and name == "prob")
                if drops and isinstance(value, float) and value > 0:
                    label = "patch_drop_rate" if patches else name
                    found.append((owner, name, f"{label}={value:g}"))
    return found


def _without_pooler(encoder: Any) -> dict[str, bool]:
    """The argument that leaves out a pooling layer, where the encoder knows it: nothing here reads that layer."""
    known = "add_pooling_layer" in inspect.signature(encoder_class(encoder.model_type).__init__).parameters
    return {"add_pooling_layer": False} if known else {}


def transformers_backbone(config: SelfModelingConfig) -> nn.Module:
    """Return the encoder that `backbone_config` describes, with random weights.

    Raises:
        ValueError: transformers has no such encoder, or it has a decoder.
    """
    fields = dict(config.backbone_config or {})
    encoder = AutoConfig.for_model(fields.pop("model_type"), **fields)
    encoder.return_dict = True  # its output is read by names
    if encoder_class(encoder.model_type) is None:
        raise ValueError(f"backbone_config: transformers has no encoder for model_type={encoder.model_type!r}")
    if encoder.is_encoder_decoder:
        raise ValueError(
            f"backbone_config: model_type={encoder.model_type!r} has a decoder; allowed are encoders alone"
        )
    # the encoder's weights may be stored in half precision; here they are trained, in the precision of the heads
    dtype = torch.get_default_dtype()
    return AutoModel.from_config(encoder, dtype=dtype, trust_remote_code=False, **_without_pooler(encoder))


def pretrained_encoder(name: str, revision: str, encoder: Any) -> nn.Module:
    """Return a pretrained encoder of transformers, read from safetensors alone.

    Args:
        name: Hub id or folder.
        revision: of the repository.
        encoder: its configuration.

    Raises:
        OSError: no such encoder, or one without safetensors.
        ValueError: its weights are not complete.
    """
    # code of strangers is not run, and not asked about either
    pretrained, info = AutoModel.from_pretrained(
        name, revision=revision, use_safetensors=True, trust_remote_code=False, dtype=torch.float32,
        output_loading_info=True, ignore_mismatched_sizes=True, **_without_pooler(encoder),
    )  # fmt: skip
    check_backbone_weights(info, name)
    return pretrained


def timm_backbone(config: SelfModelingConfig, pretrained: bool = False) -> nn.Module:
    """Return a timm model without its classifier.

    Raises:
        ValueError: timm has no such model, or it has no stem that can be made small.
    """
    # by name, since transformers would ask a user of an MLP to install whatever this file imports
    timm = importlib.import_module("timm")
    name = config.backbone.removeprefix("timm/")
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), n=5) or ["those of timm.list_models()"]
        raise ValueError(f"backbone={config.backbone!r}: timm has no such model; closest are {', '.join(similar)}")
    backbone = timm.create_model(
        name, pretrained=pretrained, num_classes=0, in_chans=config.num_channels, **config.backbone_kwargs
    )
    if config.small_image_stem:
        first = getattr(backbone, "conv1", None)
        if not isinstance(first, nn.Conv2d) or not hasattr(backbone, "maxpool"):
            raise ValueError(f"small_image_stem=True: {config.backbone!r} has no single first convolution and max-pool")
        backbone.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")  # timm's own rule
        backbone.maxpool = nn.Identity()
    return backbone


def check_memory(network: nn.Module) -> None:
    """Reject a network that is larger than the machine.

    `from_pretrained` builds on torch's meta device first, so the network is rejected before memory is taken.

    Raises:
        ValueError: gives both sizes.
    """
    needed = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    if not hasattr(os, "sysconf"):
        return
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > machine:
        raise ValueError(
            f"config: describes a network of {needed / 2**30:.1f} GiB; allowed is this machine's memory, "
            f"{machine / 2**30:.1f} GiB"
        )
