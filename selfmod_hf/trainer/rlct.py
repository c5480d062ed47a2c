"""The RLCT of networks on a training set: `estimate_llc` with modules, inputs, targets and loss made.

The networks are this package's own, or task models of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from ..complexity import LLCCalibration, LLCResult, calibrate_llc
from ..complexity.calibration import SAMPLER as CALIBRATION_SAMPLER
from ..complexity.distributed import of_first_process
from ..complexity.input_checks import check
from ..complexity.llc import check_members, one_group_each, open_session, sample
from ..complexity.prepare import make_problem
from ..complexity.settings import CalibrationOptions, LLCOptions, LLCSettings, shows_settings
from ..data import ImageTensors, TensorData, TextTensors
from ..errors import InputError
from ..models import SelfModelingConfig, SelfModelingPreTrainedModel, WrappedTask
from ..models.adapters_self_modeling import check_merge
from ..models.losses_self_modeling import IGNORED_LABEL
from ..models.task_models_self_modeling import plain_task_model
from .any_model import is_task_model, task_models_on_data
from .attention import masked_attention
from .checkpoints import saved_sha256
from .collated import CollatedData, collate, is_data_of_rows
from .head_groups import heads_of, with_heads
from .on_data import OnInputs, OnPixels, OnTexts
from .recipe_network import check_labels, check_one_class, check_tokens
from .task_losses import NetworksOnData

if TYPE_CHECKING:
    from typing_extensions import Unpack

Models = Sequence[PreTrainedModel]
Collator = Callable[[Any], Any]  # rows -> a batch


def _pruned(model: SelfModelingPreTrainedModel) -> SelfModelingPreTrainedModel:
    """Return the classification-only network, with attention for several chains at once."""
    network = model.prune().eval()
    config = network.config
    config.return_dict = True
    config.output_hidden_states = False
    config.output_attentions = False
    if isinstance(network.backbone, PreTrainedModel):
        if network.main_input_name == "input_ids":
            network.backbone.set_attn_implementation(masked_attention())
        else:
            # the fused attention has no gradient of a bias (Swin's), and none at all for several chains at once
            network.backbone.set_attn_implementation("eager")
    return network


def networks_on_data(models: Any, data: Any, collator: Collator | None, settings: Mapping[str, Any]) -> NetworksOnData:
    """Return networks with their inputs, targets and loss, of the samples with a label.

    Args:
        models: networks of one architecture.
        data: a training set of any kind.
        collator: makes a batch of rows.
        settings: of the estimate.

    Raises:
        InputError: networks or data of another kind, size or number of classes.
    """
    if isinstance(models, (Sequence, nn.ModuleList)):
        names = settings.get("parameters") or ()
        if isinstance(names, str):  # one pattern
            names = [names]
        models = [_without_self_model(model, names) for model in models]
    _check_kinds(models, data)
    if is_task_model(models[0]):
        return task_models_on_data(models, data, collator)
    return _own_networks_on_data(models, _checked_data(models, data, collator), settings.get("device"))


def _without_self_model(model: Any, names: Iterable[str]) -> Any:
    """Return the task model in a network over one. Other networks are returned as they are.

    Args:
        model: a network.
        names: patterns of the sampled parameters. An adapter is merged unless one of them names its weights.

    Raises:
        InputError: an adapter that cannot be merged.
    """
    if not isinstance(model, WrappedTask):
        return model
    if model.config.adapter and any("lora_" in name for name in names):
        return plain_task_model(model.prune(adapter="keep"))
    if model.config.adapter:
        try:
            check_merge(model.task_model)
        except ValueError as error:
            raise InputError("model", "a network with an adapter", str(error)) from error
    return model.prune()


def _own_networks_on_data(models: Sequence[SelfModelingPreTrainedModel], data: Any, device: Any) -> NetworksOnData:
    """Return the same for self-modeling networks and the data of `_checked_data`."""
    counted = data.labels.cpu() != IGNORED_LABEL
    rows = counted.nonzero().flatten()
    labels = data.labels[rows]
    networks = [_pruned(model) for model in models]
    modules: list[nn.Module]
    inputs: Any
    if isinstance(data, ImageTensors):
        modules = [OnPixels(network, data) for network in networks]
        inputs = data.pixels
        if len(rows) < len(data):
            inputs = inputs[rows]
    elif isinstance(data, CollatedData):
        modules = [OnInputs(network) for network in networks]
        inputs = {name: value[rows] for name, value in data.inputs.items()}
    elif data.padded:
        modules = [OnInputs(network) for network in networks]
        inputs = data.take(rows)
        del inputs["labels"]
    else:
        if device is None:
            device = models[0].device
        near = data.to(device)
        modules = [OnTexts(network, near) for network in networks]
        inputs = rows
    return NetworksOnData(modules, inputs, labels)


@shows_settings(LLCOptions)
def estimate_rlct(
    models: Models,
    train_data: Any,
    /,
    data_collator: Collator | None = None,
    *,
    members: Sequence[int] | None = None,
    heads: Sequence[str] | None = None,
    **settings: Unpack[LLCOptions],
) -> list[LLCResult]:
    """Estimate the RLCT of each network on `train_data`, all chains of all stacked.

    A self-modeling network is pruned first. The loss is the negative log likelihood in nats: cross-entropy, the sum of
    the binary cross-entropies of several labels, half of the square error of scores, or the cross-entropy of a token.
    For tokens, n of nβ = n / log n is the number of counted tokens.

    Args:
        models: networks of one architecture at their trained weights, or task models of transformers (for images,
            texts or tokens, or causal language models). They are not changed.
        train_data: the training set. `ImageTensors` or `TextTensors`: `load_images(...).train`, images without
            augmentation. Or rows with a length, such as a `datasets.Dataset`. They are read into memory. Samples with
            the label -100 are left out. Tokens with this label do not count.
        data_collator: makes a batch of rows, like the Trainer's. None: transformers' `default_data_collator`.
        members: numbers of the networks' noise, as for `estimate_llc_many`.
        heads: attention heads to sample, like ``"transformer.h.3:0,2"``, in place of `parameters`. See `head_masks`.
        settings: as for `estimate_llc` except the loss, for example from `llc_preset("paper", "mnist")`. Parameters
            have the pruned network's names, after `network.`. An adapter is merged first. With
            `parameters=["network.*lora_*"]` it is kept, and its weights are sampled.

    Returns:
        One result per network, in the same order. Each names its weights by `weights_sha256`.

    Raises:
        ValueError: no network, a network of another kind, data of another kind, size or number of classes than the
            networks', or an unusable setting.

    Example:
        >>> import torch
        >>> from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification
        >>> config = SelfModelingConfig(hidden_sizes=[4], image_size=8, num_labels=2)
        >>> network = SelfModelingForImageClassification(config)
        >>> images = ImageTensors(torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8), torch.arange(32) % 2)
        >>> (result,) = estimate_rlct([network], images, num_chains=2, num_draws=40, batch_size=16)
        >>> result.loss_trace.shape
        (2, 40)
    """
    found = networks_on_data(models, train_data, data_collator, settings)
    given = with_heads(settings, models[0], heads)
    chosen = LLCSettings(**found.settings(given))
    check_members(members, len(models))
    problem = make_problem(found.modules, found.inputs, found.targets, chosen)
    groups = one_group_each(problem, chosen, members)
    with open_session(problem, groups, chosen) as session:
        results = sample(session)
    for k, model in enumerate(models):
        results[k] = _recorded(results[k], found, given, _weights_of(model))
    return results


def _weights_of(model: PreTrainedModel) -> str | None:
    """Return the SHA-256 of a network's weights, in every process."""
    # transformers writes weights in the first process alone
    digest: str | None = of_first_process(saved_sha256(model))
    return digest


def _recorded(result: LLCResult, networks: NetworksOnData, given: Mapping[str, Any], weights: str | None) -> LLCResult:
    """Return a result with the names of its loss, of its rule of nβ and of its heads, and with its weights.

    Args:
        result: of these networks.
        networks: with their data.
        given: settings of the estimate.
        weights: SHA-256 of the weights.
    """
    result = networks.described(result, given)
    settings = replace(result.settings, heads=heads_of(given))
    return replace(result, settings=settings, weights_sha256=weights)


@shows_settings(CalibrationOptions, sampler=CALIBRATION_SAMPLER)
def calibrate_rlct(  # noqa: PLR0913 - public
    model: PreTrainedModel,
    train_data: Any,
    /,
    data_collator: Collator | None = None,
    *,
    step_sizes: Sequence[float] | None = None,
    localizations: Sequence[float] | None = None,
    heads: Sequence[str] | None = None,
    **settings: Unpack[CalibrationOptions],
) -> LLCCalibration:
    """Calibrate the RLCT of one network on `train_data`, like `calibrate_llc`. The loss is that of `estimate_rlct`.

    Args:
        model: a network at its trained weights. It is not changed.
        train_data: the training set, as for `estimate_rlct`.
        data_collator: as for `estimate_rlct`.
        step_sizes: as for `calibrate_llc`.
        localizations: as for `calibrate_llc`.
        heads: as for `estimate_rlct`.
        settings: as for `calibrate_llc` except the loss.

    Raises:
        ValueError: a network of another kind, data of another kind, size or number of classes than the network's, or
            an unusable setting.

    Example:
        >>> import torch
        >>> from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification
        >>> config = SelfModelingConfig(hidden_sizes=[4], image_size=8, num_labels=2)
        >>> network = SelfModelingForImageClassification(config)
        >>> images = ImageTensors(torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8), torch.arange(32) % 2)
        >>> found = calibrate_rlct(network, images, step_sizes=[0.01], localizations=[1.0], num_draws=40, batch_size=16)
        >>> found.result.settings.step_size
        0.01
    """
    measured = networks_on_data([model], train_data, data_collator, settings)
    given = with_heads(settings, model, heads)
    found = calibrate_llc(
        measured.modules[0],
        measured.inputs,
        measured.targets,
        step_sizes=step_sizes,
        localizations=localizations,
        **measured.settings(given),
    )
    weights = _weights_of(model)
    results = [_recorded(cell, measured, given, weights) for cell in found.results]
    places = [place for place, cell in enumerate(found.results) if cell is found.result]
    return replace(found, result=results[places[0]], results=results)


def _checked_data(models: Any, data: Any, collator: Collator | None) -> Any:
    """Return a training set as tensors, and check their size and labels.

    Raises:
        InputError: data of another kind, size or number of classes than the networks'.
    """
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
    """Raise an InputError unless these are networks of one kind, and data of a usable kind."""
    several = isinstance(models, (Sequence, nn.ModuleList))
    check("models", type(models).__name__, several, "a list of networks, of one network too")
    check("models", models, len(models) > 0, "one network or more")
    plain = is_task_model(models[0])
    for model in models:
        name = type(model).__name__
        allowed = (
            "a self-modeling network or a task model of images, texts, tokens or language; for others there is "
            "estimate_llc"
        )
        check("model", name, plain or _is_ours(model), allowed)
        check("model", name, plain == is_task_model(model), "of one kind with the others")
    usable = isinstance(data, (TensorData, CollatedData)) or is_data_of_rows(data)
    allowed = "ImageTensors or TextTensors, such as load_images(...).train, or rows with a length and a data_collator"
    check("train_data", type(data).__name__, usable, allowed)


def _is_ours(model: Any) -> bool:
    """Return whether this is a self-modeling network."""
    config = getattr(model, "config", None)
    return getattr(config, "model_type", None) == SelfModelingConfig.model_type


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
