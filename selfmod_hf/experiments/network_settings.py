"""The settings of a run's network, and building the network."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any, Literal

from ..data import (
    ImagePreprocessing,
    TaskData,
    TaskSpec,
    TextTensors,
    backbone_preprocessing,
    resolve_task,
)
from ..data.preprocessing import FIELDS, unfollowed
from ..data.tasks import BLOCKS
from ..errors import InputError
from ..models import (
    SelfModelingConfig,
    SelfModelingForImageClassification,
    SelfModelingForSequenceClassification,
    SelfModelingPreTrainedModel,
    check_config,
)
from ..trainer.freezing import freeze_parameters
from ..trainer.recipe_network import check_forward, check_length, check_one_class, network_fields
from .data_settings import DataSettings, load_data
from .lora import check_lora
from .own_head import build_own_head, check_own_head, with_order_of_head
from .setting import setting

PLAIN_FIELDS = (
    "hidden_activation",
    "feature_pooling",
    "target_pooling",
    "aux_weight",
    "classification_weight",
    "detach_targets",
    "target_source",
    "target_normalization",
    "activation_penalty",
)
JSON_FIELDS = ("backbone_kwargs", "backbone_config")
logger = logging.getLogger(__name__)


@dataclass
class NetworkSettings:
    """Settings of the network. See `SelfModelingConfig`."""

    backbone: str | None = setting("mlp (default), timm/<name>: any timm model; of texts embedding_bag (default).")
    backbone_kwargs: str = setting("Further arguments of the timm model or the embedding bag, as JSON.", default="{}")
    backbone_name: str | None = setting(
        "Pretrained backbone: Hub id or folder of a transformers encoder, or timm/<name>."
    )
    backbone_config: str | None = setting("An encoder with random weights: its configuration as JSON, with model_type.")
    head: Literal["new", "own"] = setting(
        "new: hidden layers and a linear classifier on the backbone. own: the task model of transformers with its own "
        "head and loss, for every `task_type` and `problem_type`.",
        default="new",
    )
    small_image_stem: bool = setting("A timm ResNet for 32x32: first convolution 3x3, stride 1, no max-pool.", False)
    feature_pooling: str = setting("What the heads read of an encoder's tokens: mean or first.", default="mean")
    hidden_sizes: list[int] | None = setting(
        "Widths of the linear + ReLU layers between backbone and heads; default: the task's; of a data set of your own "
        "128, with a backbone of your own none."
    )
    hidden_activation: str = setting(
        "Activation of the hidden layers: relu, or leaky_relu (slope 0.01 below 0), whose units cannot die.",
        default="relu",
    )
    target_layers: list[str] | None = setting(
        "Modules whose activations are predicted, e.g. hidden.relu1, or encoder.layer.*.output; default: the task's; "
        "of a data set of your own the last hidden layer, with a backbone of your own none."
    )
    target_pooling: str = setting(
        "What of token-wise activations is predicted: mean, first, flatten; with `head` own also tokens, each from its "
        "own features.",
        default="mean",
    )
    feature_layer: str | None = setting(
        "With `head` own, the module whose output the self-model reads; default: the task model without its head."
    )
    aux_weight: float = setting(
        "Weight of the self-modeling loss; 0 is the baseline, a plain classifier; default: the task's; of a data set "
        "of your own 1, with a backbone of your own 0.",
        default=0.0,
    )
    classification_weight: float = setting("Weight of the classification loss.", default=1.0)
    detach_targets: bool = setting("No gradient flows into the predicted activations (published recipe).", default=True)

    target_source: str = setting(
        "Predicted activations: own, or as a control shuffled (the previous sample's), random (a fixed random "
        "projection of the input), network:<folder or Hub id> (another trained network's).",
        default="own",
    )
    target_normalization: str = setting(
        "none, or rms: the targets of each sample are divided by their root mean square.", default="none"
    )
    activation_penalty: float = setting(
        "Weight of the mean square of the target layers' activations, a control that needs no self-model.", default=0.0
    )
    freeze: list[str] | None = setting(
        "Parameters that keep their weights, by name with wildcards, such as backbone.embeddings*."
    )
    lora_r: int | None = setting(
        "Rank of LoRA adapters, with `head` own and a `backbone_name`: they are trained in place of the task model's "
        "weights. Needs peft."
    )
    lora_alpha: int | None = setting("Scale of the adapters, times `lora_r`; default: 2 `lora_r`.")
    lora_dropout: float = setting("Dropout of the adapters' inputs.", default=0.0)
    lora_target_modules: list[str] | None = setting(
        "Last parts of the names of the layers with an adapter, or all-linear; default: peft's of the architecture."
    )

    @property
    def is_encoder(self) -> bool:
        """Return whether the backbone is an encoder of transformers, or a pretrained network."""
        return bool(self.backbone_name or self.backbone_config)


def load_network_data(spec: TaskSpec, settings: DataSettings, network: NetworkSettings) -> TaskData[Any]:
    """Load the data for a network, with the preprocessing or the tokenizer of its backbone.

    Args:
        spec: the task.
        settings: of the data.
        network: of the network.

    Raises:
        InputError: contradictory settings, or settings of other data.
    """
    _check_backbone(network)
    check_own_head(network)
    check_lora(network)
    data = _load(resolve_task(spec), settings, network)
    if network.head == "own" and network.backbone_name is not None:
        return with_order_of_head(data, network.backbone_name)
    return data


def _load(spec: TaskSpec, settings: DataSettings, network: NetworkSettings) -> TaskData[Any]:
    if spec.text_column is None:
        return load_data(spec, settings, preprocessing=_backbone_preprocessing(settings, network))
    if network.backbone_config and not settings.tokenizer_name and spec.kind != BLOCKS:
        problem = "an encoder with random weights needs a `tokenizer_name` with texts"
        raise InputError("backbone_config", network.backbone_config, problem)
    return load_data(spec, settings, tokenizer=network.backbone_name, padded=network.is_encoder)


def _check_backbone(network: NetworkSettings) -> None:
    name = network.backbone_name
    if not name:
        return
    if network.backbone or network.backbone_config:
        problem = "names the whole backbone; allowed without `backbone`, `backbone_config`"
        raise InputError("backbone_name", name, problem)
    if not name.startswith("timm/") and network.backbone_kwargs != "{}":
        problem = "allowed with timm models and embedding bags"
        raise InputError("backbone_kwargs", network.backbone_kwargs, problem)


def _backbone_preprocessing(settings: DataSettings, network: NetworkSettings) -> ImagePreprocessing | None:
    """Return a pretrained backbone's preprocessing. None: there is none, or the settings give all of it."""
    if network.backbone_name is None:
        return None
    if all(getattr(settings, field) is not None for field in FIELDS):
        return None
    found = backbone_preprocessing(network.backbone_name)
    if network.backbone_name.startswith("timm/"):
        return found
    problem = unfollowed(network.backbone_name, found)
    if problem is not None:
        logger.warning(f"{network.backbone_name}: its image processor {problem}, which is not done here")
    return found


def build_network(settings: NetworkSettings, data: TaskData[Any]) -> SelfModelingPreTrainedModel:
    """Build the network of these settings for the samples and classes of some data.

    Args:
        settings: of the network.
        data: the task's.

    Returns:
        The network with new weights from torch's random numbers, or with those of a pretrained backbone.

    Raises:
        ValueError: settings of no possible network, or a network of other inputs than the data. A pattern of no
            parameter.
    """
    build = _own_head if settings.head == "own" else _new_head
    model = build(settings, data)
    check_length(model, data.train, data.test)
    check_forward(model, data.train)
    if settings.freeze:
        freeze_parameters(model, settings.freeze)
    return model


def _own_head(settings: NetworkSettings, data: TaskData[Any]) -> SelfModelingPreTrainedModel:
    fields = {name: getattr(settings, name) for name in PLAIN_FIELDS}
    fields["target_layers"] = settings.target_layers or ()
    fields["feature_layer"] = settings.feature_layer
    wrapped = None
    if settings.backbone_config is not None:
        wrapped = json_object("backbone_config", settings.backbone_config)
    return build_own_head(settings, data, fields, wrapped)


def _new_head(settings: NetworkSettings, data: TaskData[Any]) -> SelfModelingPreTrainedModel:
    check_one_class(data.train)
    if isinstance(data.train, TextTensors):
        model_class: type[SelfModelingPreTrainedModel] = SelfModelingForSequenceClassification
    else:
        model_class = SelfModelingForImageClassification
    fields = _config_fields(settings, data)
    name = settings.backbone_name
    if name is None:
        config = SelfModelingConfig(**fields)
        check_config(config)
        model = model_class(config)
    else:
        fields.pop("backbone", None)
        if not name.startswith("timm/"):
            fields.pop("backbone_kwargs", None)
        model = model_class.from_backbone_pretrained(name, **fields)
    return model


def _config_fields(settings: NetworkSettings, data: TaskData[Any]) -> dict[str, Any]:
    """Return fields of `SelfModelingConfig`."""
    given: dict[str, Any] = {}
    for name in PLAIN_FIELDS:
        given[name] = getattr(settings, name)
    given["backbone_kwargs"] = json_object("backbone_kwargs", settings.backbone_kwargs)
    given["hidden_sizes"] = settings.hidden_sizes or ()
    given["target_layers"] = settings.target_layers or ()
    if settings.backbone is not None:
        given["backbone"] = settings.backbone
    if not isinstance(data.train, TextTensors):
        given["small_image_stem"] = settings.small_image_stem
    if settings.backbone_config is not None:
        given["backbone_config"] = json_object("backbone_config", settings.backbone_config)
        given.setdefault("backbone", "transformers")
    return network_fields(data, given)


def json_object(name: str, text: str) -> dict[str, Any]:
    """Return the JSON object in the value of a field.

    Raises:
        InputError: no JSON object.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise InputError(name, text, "allowed is a JSON object")
    return value
