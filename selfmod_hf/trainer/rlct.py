"""The RLCT of this package's networks on this package's data: `estimate_llc` with modules, inputs and targets made."""

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
from .checkpoints import saved_sha256
from .collated import CollatedData, collate, is_data_of_rows
from .recipe_network import check_labels, check_one_class, check_tokens

if TYPE_CHECKING:
    from typing_extensions import Unpack

Models = Sequence[SelfModelingPreTrainedModel]
Collator = Callable[[Any], Any]  # rows -> a batch


class _OnPixels(nn.Module):
    """Run the classification-only network on uint8 pixels: a minibatch is gathered as bytes, then normalized."""

    def __init__(self, network: SelfModelingPreTrainedModel, data: ImageTensors) -> None:
        super().__init__()
        self.network = network
        self.scale, self.shift = data.scale_and_shift()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        scale = on_device(self.scale, pixels.device)
        shift = on_device(self.shift, pixels.device)
        values = pixels.mul(scale).sub(shift)  # (B, C, H, W)
        # to the weights' type, because a run in bfloat16 has rounded them
        dtype = next(self.network.parameters()).dtype
        return self.network(pixel_values=values.to(dtype)).logits


class _OnInputs(nn.Module):
    """Run the classification-only network on its own arguments: padded tokens, or pixels of any kind."""

    def __init__(self, network: SelfModelingPreTrainedModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        dtype = next(self.network.parameters()).dtype
        for name, value in inputs.items():
            if value.is_floating_point():
                inputs[name] = value.to(dtype)
        return self.network(**inputs).logits


def _pruned(model: SelfModelingPreTrainedModel) -> SelfModelingPreTrainedModel:
    """Return the classification-only network, with attention for several chains at once."""
    network = model.prune().eval()
    config = network.config
    config.return_dict = True
    config.output_hidden_states = False
    config.output_attentions = False
    if isinstance(network.backbone, PreTrainedModel):
        if network.main_input_name == "input_ids":
            network.backbone.set_attn_implementation(_attention_that_maps())
        else:
            # the fused attention has no gradient of a bias (Swin's), and none at all for several chains at once
            network.backbone.set_attn_implementation("eager")
    return network


def _attention_that_maps() -> str:
    """Return the name of a variant of transformers' scaled dot product attention. It always builds its mask.

    The original first checks whether any token is padding. This decision cannot be made for all chains at once.
    """

    def mask(*args: Any, **settings: Any) -> torch.Tensor | None:
        settings["allow_is_bidirectional_skip"] = False
        return sdpa_mask(*args, **settings)

    name = "selfmod_sdpa_with_mask"
    AttentionInterface.register(name, sdpa_attention_forward)
    AttentionMaskInterface.register(name, mask)
    return name


class _OnTexts(nn.Module):
    """Run the classification-only network of an embedding bag on the numbers of texts, because their lengths differ."""

    def __init__(self, network: SelfModelingPreTrainedModel, data: TextTensors) -> None:
        super().__init__()
        self.network = network
        self.texts = _Texts(data)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        input_ids, offsets = _Bags.apply(rows, self.texts)
        return self.network(input_ids=input_ids, offsets=offsets).logits


class _Texts:
    """Hold the data behind `_Bags` by reference, so that stacked and copied networks share one."""

    def __init__(self, data: TextTensors) -> None:
        self.data = data

    def __deepcopy__(self, memo: Any) -> _Texts:
        return self


class _Bags(torch.autograd.Function):
    """Gather tokens (N,) and offsets (B + 1,) of the texts in rows (B,). Mapped over chains, all get the longest N."""

    @staticmethod
    def forward(rows: torch.Tensor, texts: _Texts) -> tuple[torch.Tensor, torch.Tensor]:
        take = texts.data.take
        if rows.dim() > 1:
            take = texts.data.take_members
        batch = take(rows)
        return batch["input_ids"], batch["offsets"]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, rows: torch.Tensor, texts: _Texts) -> Any:
        rows = rows.movedim(in_dims[0], 0)  # (chains, B)
        return _Bags.apply(rows, texts), (0, 0)


def _modules_and_data(models: Models, data: Any, device: Any) -> tuple[list[nn.Module], Any, torch.Tensor]:
    """Return modules, inputs and targets for `estimate_llc`, of the samples with a label.

    Args:
        models: networks of one architecture.
        data: of `_checked_data`.
        device: of the computation. None: that of the networks.
    """
    counted = data.labels.cpu() != IGNORED_LABEL
    rows = counted.nonzero().flatten()
    labels = data.labels[rows]
    networks = [_pruned(model) for model in models]
    modules: list[nn.Module]
    inputs: Any
    if isinstance(data, ImageTensors):
        modules = [_OnPixels(network, data) for network in networks]
        inputs = data.pixels
        if len(rows) < len(data):
            inputs = inputs[rows]
    elif isinstance(data, CollatedData):
        modules = [_OnInputs(network) for network in networks]
        inputs = {name: value[rows] for name, value in data.inputs.items()}
    elif data.padded:
        modules = [_OnInputs(network) for network in networks]
        inputs = data.take(rows)
        del inputs["labels"]
    else:
        if device is None:
            device = models[0].device
        near = data.to(device)
        modules = [_OnTexts(network, near) for network in networks]
        inputs = rows
    return modules, inputs, labels


@shows_settings(LLCOptions)
def estimate_rlct(
    models: Models,
    train_data: Any,
    /,
    data_collator: Collator | None = None,
    *,
    members: Sequence[int] | None = None,
    **settings: Unpack[LLCOptions],
) -> list[LLCResult]:
    """Estimate the RLCT of each network, pruned, with cross-entropy on `train_data`, all chains of all stacked.

    Args:
        models: networks of one architecture at their trained weights. They are not changed.
        train_data: the training set. `ImageTensors` or `TextTensors`: `load_images(...).train`, images without
            augmentation. Or rows with a length, such as a `datasets.Dataset`. They are read into memory. Samples with
            the label -100 are left out.
        data_collator: makes a batch of rows, like the Trainer's. None: transformers' `default_data_collator`.
        members: numbers of the networks' noise, as for `estimate_llc_many`.
        settings: as for `estimate_llc` except the loss, for example from `llc_preset("paper", "mnist")`. Parameters
            have the pruned network's names, after `network.`.

    Returns:
        One result per network, in the same order. Each names its weights by `weights_sha256`.

    Raises:
        ValueError: no network, a network of another kind, data of another kind, size or number of classes than the
            networks', or an unusable setting.

    Example:
        >>> from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification
        >>> config = SelfModelingConfig(hidden_sizes=[4], image_size=8, num_labels=2)
        >>> network = SelfModelingForImageClassification(config)
        >>> images = ImageTensors(torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8), torch.arange(32) % 2)
        >>> (result,) = estimate_rlct([network], images, num_chains=2, num_draws=40, batch_size=16)
        >>> result.loss_trace.shape
        (2, 40)
    """
    data = _checked_data(models, train_data, data_collator)
    modules, inputs, targets = _modules_and_data(models, data, settings.get("device"))
    chosen = LLCSettings(**settings)
    check_members(members, len(models))
    problem = make_problem(modules, inputs, targets, chosen)
    groups = one_group_each(problem, chosen, members)
    results = sample(problem, groups, chosen)
    for k, model in enumerate(models):
        sha256 = saved_sha256(model)
        results[k] = replace(results[k], weights_sha256=sha256)
    return results


@shows_settings(CalibrationOptions, sampler=CALIBRATION_SAMPLER)
def calibrate_rlct(
    model: SelfModelingPreTrainedModel,
    train_data: Any,
    /,
    data_collator: Collator | None = None,
    *,
    step_sizes: Sequence[float] | None = None,
    localizations: Sequence[float] | None = None,
    **settings: Unpack[CalibrationOptions],
) -> LLCCalibration:
    """Calibrate the RLCT of one network, pruned, with cross-entropy on `train_data`, like `calibrate_llc`.

    Args:
        model: a network at its trained weights. It is not changed.
        train_data: the training set, as for `estimate_rlct`.
        data_collator: as for `estimate_rlct`.
        step_sizes: as for `calibrate_llc`.
        localizations: as for `calibrate_llc`.
        settings: as for `calibrate_llc` except the loss.

    Raises:
        ValueError: a network of another kind, data of another kind, size or number of classes than the network's, or
            an unusable setting.

    Example:
        >>> from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification
        >>> config = SelfModelingConfig(hidden_sizes=[4], image_size=8, num_labels=2)
        >>> network = SelfModelingForImageClassification(config)
        >>> images = ImageTensors(torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8), torch.arange(32) % 2)
        >>> found = calibrate_rlct(network, images, step_sizes=[0.01], localizations=[1.0], num_draws=40, batch_size=16)
        >>> found.result.settings.step_size
        0.01
    """
    data = _checked_data([model], train_data, data_collator)
    modules, inputs, targets = _modules_and_data([model], data, settings.get("device"))
    found = calibrate_llc(
        modules[0],
        inputs,
        targets,
        step_sizes=step_sizes,
        localizations=localizations,
        **settings,
    )
    result = replace(found.result, weights_sha256=saved_sha256(model))
    return replace(found, result=result)


def _checked_data(models: Any, data: Any, collator: Collator | None) -> Any:
    """Return a training set as tensors, and check their kind, size and labels.

    Raises:
        InputError: networks or data of another kind, size or number of classes.
    """
    _check_kinds(models, data)
    model = models[0]
    if is_data_of_rows(data) and not isinstance(data, TensorData):
        data = collate(data, collator, model)
    if isinstance(data, TensorData):
        check_one_class(data)
    if not bool((data.labels != IGNORED_LABEL).any()):
        raise InputError("train_data.labels", IGNORED_LABEL, "no sample has a label")
    check_labels("train_data.labels", data.labels, model.config.num_labels)
    if isinstance(data, ImageTensors):
        _check_images(model, data)
    elif isinstance(data, TextTensors):
        _check_input_name(model, "input_ids")
        if data.padded != (model.config.backbone == "transformers"):
            raise InputError("train_data.padded", data.padded, "encoders take padded texts, embedding bags bags")
        check_tokens(model, data.longest)
    elif "input_ids" in data.inputs:  # it was collated for this network
        tokens = data.inputs["input_ids"]
        check_tokens(model, tokens.shape[1])
    return data


def _check_kinds(models: Any, data: Any) -> None:
    """Raise an InputError unless these are self-modeling networks, and data of a usable kind."""
    several = isinstance(models, (Sequence, nn.ModuleList))
    check("models", type(models).__name__, several, "a list of networks, of one network too")
    check("models", models, len(models) > 0, "one network or more")
    for model in models:
        config = getattr(model, "config", None)
        ours = getattr(config, "model_type", None) == SelfModelingConfig.model_type
        check("model", type(model).__name__, ours, "a self-modeling network; for others there is estimate_llc")
    usable = isinstance(data, (ImageTensors, TextTensors, CollatedData)) or is_data_of_rows(data)
    allowed = "ImageTensors or TextTensors, such as load_images(...).train, or rows with a length and a data_collator"
    check("train_data", type(data).__name__, usable, allowed)


def _check_images(model: SelfModelingPreTrainedModel, data: ImageTensors) -> None:
    """Raise an InputError unless these images have the network's size."""
    _check_input_name(model, "pixel_values")
    expected = list(model.config.input_shape)
    found = list(data.pixels.shape[1:])
    if expected != found:
        raise InputError("train_data", found, f"the model takes images of {expected} (channels, height, width)")


def _check_input_name(model: SelfModelingPreTrainedModel, name: str) -> None:
    """Raise an InputError unless the network's main input has this name."""
    if model.main_input_name != name:
        raise InputError("train_data", name, f"the model takes {model.main_input_name}")
