"""The RLCT of this package's networks on this package's data: `estimate_llc` with the pieces joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..complexity import LLCCalibration, LLCResult, calibrate_llc
from ..complexity.calibration import SAMPLER as CALIBRATION_SAMPLER
from ..complexity.input_checks import check
from ..complexity.llc import check_members, one_group_each, sample
from ..complexity.prepare import make_problem
from ..complexity.settings import CalibrationOptions, LLCOptions, LLCSettings, shows_settings
from ..data import ImageTensors, TensorData, TextTensors
from ..data.tensors import on_device
from ..errors import InputError
from ..models import SelfModelingConfig, SelfModelingPreTrainedModel
from ..models.losses_self_modeling import IGNORED_LABEL
from .collated import CollatedData, collate, is_data_of_rows
from .measured import saved_sha256
from .recipe_network import check_labels, check_length, check_tokens

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _OnPixels(nn.Module):
    """Run the classification-only network on uint8 pixels: a minibatch is gathered as bytes, then normalized."""

    def __init__(self, model: SelfModelingPreTrainedModel, data: ImageTensors) -> None:
        super().__init__()
        self.network = _pruned(model)
        self.scale, self.shift = data.scale_and_shift()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        scale, shift = on_device(self.scale, pixels.device), on_device(self.shift, pixels.device)
        values = pixels.mul(scale).sub(shift)  # (B, C, H, W)
        # to the weights' type, which a run in bfloat16 has rounded
        return self.network(pixel_values=values.to(next(self.network.parameters()).dtype)).logits


class _OnInputs(nn.Module):
    """Run the classification-only network on its own arguments: padded tokens, or pixels of any kind."""

    def __init__(self, model: SelfModelingPreTrainedModel) -> None:
        super().__init__()
        self.network = _pruned(model)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        dtype = next(self.network.parameters()).dtype
        floats = {name: value.to(dtype) for name, value in inputs.items() if value.is_floating_point()}
        return self.network(**(inputs | floats)).logits


def _pruned(model: SelfModelingPreTrainedModel) -> SelfModelingPreTrainedModel:
    """Return the classification-only network, with attention that several chains can compute at once."""
    network = model.prune().eval()
    config = network.config
    config.return_dict = True
    config.output_hidden_states = config.output_attentions = False
    if isinstance(network.backbone, PreTrainedModel):
        if network.main_input_name == "input_ids":
            network.backbone.set_attn_implementation(_attention_that_maps())
        else:
            # the fused attention has no gradient of a bias (Swin's), and none at all for several chains at once
            network.backbone.set_attn_implementation("eager")
    return network


def _attention_that_maps() -> str:
    """Return the name of a variant of transformers' scaled dot product attention, one that always builds its mask.

    The original looks first whether anything is padded, a decision that cannot be taken for all chains at once.
    """

    def mask(*args: Any, **settings: Any) -> torch.Tensor | None:
        return sdpa_mask(*args, **{**settings, "allow_is_bidirectional_skip": False})

    name = "selfmod_sdpa_with_mask"
    AttentionInterface.register(name, sdpa_attention_forward)
    AttentionMaskInterface.register(name, mask)
    return name


class _OnTexts(nn.Module):
    """Run the classification-only network of an embedding bag on the numbers of texts, because their lengths differ."""

    def __init__(self, model: SelfModelingPreTrainedModel, data: TextTensors) -> None:
        super().__init__()
        self.network = _pruned(model)
        self.texts = _Texts(data)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        input_ids, offsets = _Bags.apply(rows, self.texts)
        return self.network(input_ids=input_ids, offsets=offsets).logits


class _Texts:
    """Hold the data behind `_Bags` by reference, so that networks that are stacked and copied share one."""

    def __init__(self, data: TextTensors) -> None:
        self.data = data

    def __deepcopy__(self, memo: Any) -> _Texts:
        return self


class _Bags(torch.autograd.Function):
    """Gather tokens (N,) and offsets (B + 1,) of the texts in rows (B,). Mapped over chains, all get the longest N."""

    @staticmethod
    def forward(rows: torch.Tensor, texts: _Texts) -> tuple[torch.Tensor, torch.Tensor]:
        batch = texts.data.take(rows) if rows.dim() == 1 else texts.data.take_members(rows)
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


def _modules_and_data(
    models: Sequence[SelfModelingPreTrainedModel], data: Any, collator: Callable[[Any], Any] | None, device: Any
) -> tuple[list[nn.Module], Any, torch.Tensor]:
    """Return modules, inputs and targets, as `estimate_llc` takes them, of the samples that have a label."""
    _check_kinds(models, data)
    if is_data_of_rows(data) and not isinstance(data, TensorData):
        data = collate(data, collator, models[0])
    _check_fit(models[0], data)
    rows = torch.arange(len(data.labels))[data.labels.cpu() != IGNORED_LABEL]
    labels = data.labels[rows]
    if isinstance(data, ImageTensors):
        pixels = data.pixels if len(rows) == len(data) else data.pixels[rows]
        return [_OnPixels(model, data) for model in models], pixels, labels
    if isinstance(data, CollatedData):
        inputs = {name: value[rows] for name, value in data.inputs.items()}
        return [_OnInputs(model) for model in models], inputs, labels
    if data.padded:
        batch = data.take(rows)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return [_OnInputs(model) for model in models], inputs, labels
    near = data.to(models[0].device if device is None else device)
    return [_OnTexts(model, near) for model in models], rows, labels


@shows_settings(LLCOptions)
def estimate_rlct(
    models: Sequence[SelfModelingPreTrainedModel],
    train_data: Any,
    /,
    data_collator: Callable[[Any], Any] | None = None,
    *,
    members: Sequence[int] | None = None,
    **settings: Unpack[LLCOptions],
) -> list[LLCResult]:
    """Estimate the RLCT of each network, pruned, with cross-entropy on `train_data`, all chains of all stacked.

    Args:
        models: networks of one architecture at their trained weights. They are not changed.
        train_data: the training set. `ImageTensors` or `TextTensors`: `load_images(...).train`, images as they are,
            without augmentation. Or rows with a length, such as a `datasets.Dataset`, which are read into memory.
            Samples with the label -100 are left out.
        data_collator: makes a batch of rows, as the Trainer's does. None: transformers' `default_data_collator`.
        members: numbers of the networks' noise, as for `estimate_llc_many`.
        settings: as for `estimate_llc`, but for the loss, for example from `llc_preset("paper", "mnist")`.
            Parameters are named as the pruned network's, after `network.`.

    Returns:
        One result a network, in their order. Each names the weights it was measured on by `weights_sha256`.

    Raises:
        ValueError: no network, one of another kind, data that do not fit the networks (kind, size, labels), or a
            setting that cannot be used.
    """
    modules, inputs, targets = _modules_and_data(models, train_data, data_collator, settings.get("device"))
    chosen = LLCSettings(**settings)
    check_members(members, len(modules))
    problem = make_problem(modules, inputs, targets, chosen)
    results = sample(problem, one_group_each(problem, chosen, members), chosen)
    pairs = zip(results, models, strict=True)
    return [replace(result, weights_sha256=saved_sha256(model)) for result, model in pairs]


@shows_settings(CalibrationOptions, sampler=CALIBRATION_SAMPLER)
def calibrate_rlct(
    model: SelfModelingPreTrainedModel,
    train_data: Any,
    /,
    data_collator: Callable[[Any], Any] | None = None,
    *,
    step_sizes: Sequence[float] | None = None,
    localizations: Sequence[float] | None = None,
    **settings: Unpack[CalibrationOptions],
) -> LLCCalibration:
    """Calibrate the RLCT of one network, pruned, with cross-entropy on `train_data`; see `calibrate_llc`.

    Args:
        model: a network at its trained weights. It is not changed.
        train_data: the training set, as for `estimate_rlct`.
        data_collator: as for `estimate_rlct`.
        step_sizes: as for `calibrate_llc`.
        localizations: as for `calibrate_llc`.
        settings: as for `calibrate_llc`, but for the loss.

    Raises:
        ValueError: a network of another kind, data that do not fit it (kind, size, labels), or a setting that cannot be
            used.
    """
    (module,), inputs, targets = _modules_and_data([model], train_data, data_collator, settings.get("device"))
    found = calibrate_llc(module, inputs, targets, step_sizes=step_sizes, localizations=localizations, **settings)
    return replace(found, result=replace(found.result, weights_sha256=saved_sha256(model)))


def _check_kinds(models: Any, data: Any) -> None:
    several = isinstance(models, (Sequence, nn.ModuleList))
    check("models", type(models).__name__, several, "a list of networks, of one network too")
    check("models", models, len(models) > 0, "one network or more")
    for model in models:
        kind = getattr(getattr(model, "config", None), "model_type", None)
        ours = kind == SelfModelingConfig.model_type
        check("model", type(model).__name__, ours, "a self-modeling network; for others there is estimate_llc")
    usable = isinstance(data, (ImageTensors, TextTensors, CollatedData)) or is_data_of_rows(data)
    allowed = "ImageTensors or TextTensors, such as load_images(...).train, or rows with a length and a data_collator"
    check("train_data", type(data).__name__, usable, allowed)


def _check_fit(model: SelfModelingPreTrainedModel, data: Any) -> None:
    config = model.config
    if not bool((data.labels != IGNORED_LABEL).any()):
        raise InputError("train_data.labels", IGNORED_LABEL, "no sample has a label")
    check_labels("train_data.labels", data.labels, config.num_labels)
    if isinstance(data, CollatedData):  # it was collated for this network
        if "input_ids" in data.inputs:
            check_tokens(model, data.inputs["input_ids"].shape[1])
        return
    kind = "pixel_values" if isinstance(data, ImageTensors) else "input_ids"
    if model.main_input_name != kind:
        raise InputError("train_data", kind, f"the model takes {model.main_input_name}")
    if isinstance(data, ImageTensors):
        expected, found = list(config.input_shape), list(data.pixels.shape[1:])
        if expected != found:
            problem = f"the model takes images of {expected} (channels, height, width)"
            raise InputError("train_data", found, problem)
    if isinstance(data, TextTensors) and data.padded != (config.backbone == "transformers"):
        raise InputError("train_data.padded", data.padded, "encoders take padded texts, embedding bags bags")
    check_length(model, data)
