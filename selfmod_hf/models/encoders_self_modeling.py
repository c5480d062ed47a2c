"""Encoders of transformers as backbones: how they are made, and how their hidden states and attentions are read.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from .configuration_self_modeling import SelfModelingConfig, encoder_class
from .weights_self_modeling import check_backbone_weights


def transformers_backbone(config: SelfModelingConfig) -> nn.Module:
    """Return the encoder of `backbone_config`, with random weights.

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
    # the encoder's weights may be stored in half precision. Here they are trained, in the precision of the heads
    dtype = torch.get_default_dtype()
    return AutoModel.from_config(encoder, dtype=dtype, trust_remote_code=False, **_without_pooler(encoder))


def pretrained_encoder(name: str, encoder: Any, place: dict[str, Any]) -> nn.Module:
    """Return a pretrained encoder of transformers, read from safetensors only.

    Args:
        name: Hub id or folder.
        encoder: its configuration.
        place: further arguments of `from_pretrained` for its place, such as `revision`.

    Raises:
        OSError: no such encoder, or one without safetensors.
        ValueError: its weights are not complete.
    """
    # code of strangers is not run, and the user is not asked about it
    pretrained, info = AutoModel.from_pretrained(
        name,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **place,
        **_without_pooler(encoder),
    )
    check_backbone_weights(info, name)
    return pretrained


def _without_pooler(encoder: Any) -> dict[str, bool]:
    """Return the argument that leaves out a pooling layer, if the encoder has one. Nothing here reads it."""
    constructor = encoder_class(encoder.model_type).__init__
    if "add_pooling_layer" in inspect.signature(constructor).parameters:
        return {"add_pooling_layer": False}
    return {}


def asked_states(
    config: SelfModelingConfig, output_hidden_states: bool | None, output_attentions: bool | None
) -> dict[str, Any]:
    """Return the requested states of the encoder, by their names in its output.

    Args:
        config: the network's.
        output_hidden_states: the argument of the forward. None: the configuration's own value.
        output_attentions: the argument of the forward. None: the configuration's own value.

    Raises:
        ValueError: the backbone is no encoder of transformers.
    """
    given = {"hidden_states": output_hidden_states, "attentions": output_attentions}
    asked = {}
    for name, value in given.items():
        if value is None:
            value = getattr(config, f"output_{name}")
        if value is None or value is False:
            continue
        if config.backbone != "transformers":
            raise ValueError(
                f"output_{name}={value!r}: allowed with an encoder of transformers, not with "
                f"backbone={config.backbone!r}, whose activations `target_layers` can give"
            )
        asked[name] = value
    return asked


def encode(encoder: Any, states: dict[str, Any], *args: Any, **inputs: Any) -> Tensor:
    """Run the encoder and return its last hidden state.

    Args:
        encoder: the encoder.
        states: the requested states. Each value is replaced by the encoder's states.
        args: arguments of the encoder.
        inputs: further arguments of the encoder, by name.

    Raises:
        ValueError: the encoder does not give a requested state. Fused attention (sdpa) gives no attentions.
    """
    asked = {f"output_{name}": value for name, value in states.items()}
    output = encoder(*args, **inputs, **asked)
    for name, value in states.items():
        given = output.get(name)
        if not given or any(state is None for state in given):
            raise ValueError(
                f"output_{name}={value!r}: {type(encoder).__name__} gives none with "
                f"attn_implementation={encoder.config._attn_implementation!r}; "
                "`model.backbone.set_attn_implementation('eager')` may help"
            )
        states[name] = given
    return output.last_hidden_state
