"""The RLCT of this package's networks on this package's data: `estimate_llc` with the pieces joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..complexity import LLCCalibration, LLCResult, calibrate_llc, estimate_llc_many
from ..complexity.settings import check
from ..data import ImageTensors, TensorData, TextTensors
from ..data.tensors import on_device
from ..errors import InputError
from ..models import SelfModelingConfig, SelfModelingPreTrainedModel
from .network import check_length


class _OnPixels(nn.Module):
    """The classification-only network, from uint8 pixels: a minibatch is gathered as bytes, then normalized."""

    def __init__(self, model: SelfModelingPreTrainedModel, data: ImageTensors) -> None:
        super().__init__()
        self.network = model.prune().eval()
        if isinstance(self.network.backbone, PreTrainedModel):
            # the fused attention has no gradient of a bias (Swin's), and none at all for several chains at once
            self.network.backbone.set_attn_implementation("eager")
        self.scale, self.shift = data.scale_and_shift()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        scale, shift = on_device(self.scale, pixels.device), on_device(self.shift, pixels.device)
        values = pixels.mul(scale).sub(shift)  # (B, C, H, W)
        # to the weights' type, which a run in bfloat16 has rounded
        return self.network(pixel_values=values.to(next(self.network.parameters()).dtype)).logits


class _OnTokens(nn.Module):
    """The classification-only network of an encoder, from padded tokens."""

    def __init__(self, model: SelfModelingPreTrainedModel) -> None:
        super().__init__()
        self.network = model.prune().eval()
        self.network.backbone.set_attn_implementation(_attention_that_maps())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.network(input_ids=input_ids, attention_mask=attention_mask).logits


def _attention_that_maps() -> str:
    """transformers' scaled dot product attention, by the name of a variant that always builds its mask. The original
    looks first whether anything is padded, a decision that cannot be taken for all chains at once."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def mask(*args: Any, **settings: Any) -> torch.Tensor | None:
        return sdpa_mask(*args, **{**settings, "allow_is_bidirectional_skip": False})

    name = "selfmod_sdpa_with_mask"
    AttentionInterface.register(name, sdpa_attention_forward)
    AttentionMaskInterface.register(name, mask)
    return name


class _OnTexts(nn.Module):
    """The classification-only network of an embedding bag, from the numbers of texts, whose lengths differ."""

    def __init__(self, model: SelfModelingPreTrainedModel, data: TextTensors) -> None:
        super().__init__()
        self.network = model.prune().eval()
        self.texts = _Texts(data)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        input_ids, offsets = _Bags.apply(rows, self.texts)
        return self.network(input_ids=input_ids, offsets=offsets).logits


class _Texts:
    """The data behind `_Bags`, by reference: networks that are stacked and copied share one."""

    def __init__(self, data: TextTensors) -> None:
        self.data = data

    def __deepcopy__(self, memo: Any) -> _Texts:
        return self


class _Bags(torch.autograd.Function):
    """Rows (B,) to the tokens (N,) and offsets (B + 1,) of these texts; mapped over chains, all get the longest N."""

    @staticmethod
    def forward(rows: torch.Tensor, texts: _Texts) -> tuple[torch.Tensor, torch.Tensor]:
        batch = (texts.data.take if rows.dim() == 1 else texts.data.take_members)(rows)
        return batch["input_ids"], batch["offsets"]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, rows: torch.Tensor, texts: _Texts) -> tuple[Any, tuple[int, int]]:
        return _Bags.apply(rows.movedim(in_dims[0], 0), texts), (0, 0)


def _problem(
    models: Sequence[SelfModelingPreTrainedModel], data: TensorData, device: Any
) -> tuple[list[nn.Module], Any, torch.Tensor]:
    """Modules, inputs and targets, as `estimate_llc` takes them."""
    _check_kinds(models, data)
    _check_fit(models[0], data)
    if isinstance(data, ImageTensors):
        return [_OnPixels(model, data) for model in models], data.pixels, data.labels
    assert isinstance(data, TextTensors)
    if data.padded:
        batch = data.take(torch.arange(len(data)))
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return [_OnTokens(model) for model in models], inputs, data.labels
    near = data.to(models[0].device if device is None else device)
    return [_OnTexts(model, near) for model in models], torch.arange(len(data)), data.labels


def estimate_rlct(
    models: Sequence[SelfModelingPreTrainedModel], train_data: TensorData, /, **settings: Any
) -> list[LLCResult]:
    """RLCT of each network, pruned, with cross-entropy on `train_data`; all chains of all networks stacked.

    Args:
        models: networks of one architecture at their trained weights. They are not changed.
        train_data: the training set, `ImageTensors` or `TextTensors`: `load_images(...).train`; images as they are,
            without augmentation.
        settings: as for `estimate_llc_many`, but for the loss; for example from `llc_preset("paper", "mnist")`.
            Parameters are named as the pruned network's, after `network.`.

    Returns:
        One result a network, in their order.

    Raises:
        ValueError: no network, one of another kind, data that do not fit the networks (kind, size, labels), or a
            setting that cannot be used.
    """
    modules, inputs, targets = _problem(models, train_data, settings.get("device"))
    return estimate_llc_many(modules, inputs, targets, **settings)


def calibrate_rlct(model: SelfModelingPreTrainedModel, train_data: TensorData, /, **settings: Any) -> LLCCalibration:
    """`calibrate_llc` for one network, pruned, with cross-entropy on `train_data`.

    Args:
        model: a network at its trained weights. It is not changed.
        train_data: the training set, as for `estimate_rlct`.
        settings: as for `calibrate_llc`, but for the loss.

    Raises:
        ValueError: a network of another kind, data that do not fit it (kind, size, labels), or a setting that cannot be
            used.
    """
    (module,), inputs, targets = _problem([model], train_data, settings.get("device"))
    return calibrate_llc(module, inputs, targets, **settings)


def _check_kinds(models: Any, data: Any) -> None:
    several = isinstance(models, (Sequence, nn.ModuleList))
    check("models", type(models).__name__, several, "a list of networks, of one network too")
    check("models", models, len(models) > 0, "one network or more")
    for model in models:
        kind = getattr(getattr(model, "config", None), "model_type", None)
        ours = kind == SelfModelingConfig.model_type
        check("model", type(model).__name__, ours, "a self-modeling network; for others there is estimate_llc")
    usable = isinstance(data, (ImageTensors, TextTensors))
    check("train_data", type(data).__name__, usable, "ImageTensors or TextTensors, such as load_images(...).train")


def _check_fit(model: SelfModelingPreTrainedModel, data: TensorData) -> None:
    config = model.config
    kind = "pixel_values" if isinstance(data, ImageTensors) else "input_ids"
    if model.main_input_name != kind:
        raise InputError("train_data", kind, f"the model takes {model.main_input_name}")
    if isinstance(data, ImageTensors):
        expected, found = [config.num_channels, *config.image_size], list(data.pixels.shape[1:])
        if expected != found:
            problem = f"the model takes images of {expected} (channels, height, width)"
            raise InputError("train_data", found, problem)
    if isinstance(data, TextTensors) and data.padded != (config.backbone == "transformers"):
        raise InputError("train_data.padded", data.padded, "encoders take padded texts, embedding bags bags")
    check_length(model, data)
    if int(data.labels.max()) >= config.num_labels:
        problem = f"the model has {config.num_labels} classes"
        raise InputError("train_data.labels", int(data.labels.max()), problem)
