"""Configuration of a self-modeling network.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the file beside it, by a flat relative import.
"""

import copy
import difflib
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig

from .fields_self_modeling import (
    MOST,
    MOST_CLASSES,
    NETWORK_SOURCE,
    SIZES,
    architecture_field,
    dtype_field,
    image_sides_field,
    is_size,
    label_names_field,
    raise_value_errors,
    shown,
    size_field,
    sizes_field,
    source_field,
    weight_field,
)
from .task_config_self_modeling import check_wrapped, give_labels, own_copy, size_defaults

# arguments of `timm.create_model` that choose the weights, or that this package sets itself
_NOT_ARCHITECTURE = (
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable",
    "exportable", "no_jit", "num_classes", "in_chans", "features_only",
)  # fmt: skip

# fields of controls, each with its default
CONTROLS = {"target_source": "own", "target_normalization": "none", "activation_penalty": 0.0}


@raise_value_errors
@strict
class SelfModelingConfig(PreTrainedConfig):
    """Describe a classifier that also predicts activations of its own layers.

    The network is ``backbone -> hidden -> (classifier, self_model_head)``: `hidden` is a stack of linear layers,
    each with an activation, and both heads read the same last features (Premakumar et al. 2026,
    doi 10.1098/rsta.2024.0531, section 2 of the preprint, arXiv 2407.10188).

    Args:
        backbone: ``"mlp"`` (`hidden` reads the flattened image), ``"timm/<name>"`` (any timm model without its own
            classifier), ``"embedding_bag"`` (the mean of the tokens' embeddings), or ``"transformers"`` (any encoder
            of transformers, text or images). `backbone_config` implies ``"transformers"``.
        backbone_kwargs: further arguments of `timm.create_model`. For an embedding bag: ``num_embeddings`` (size of
            the vocabulary) and ``embedding_dim``.
        backbone_config: configuration of the transformers encoder, as an object or as a dict with ``model_type``.
        base_model: Hub id of the pretrained backbone at the start of training, for the model card. None means that
            there was none, or a folder.
        small_image_stem: give a timm ResNet the stem for images of 32x32: a first convolution of 3x3 and stride 1,
            and no max-pool.
        feature_pooling: how the heads read an encoder's tokens (B, T, n): their "mean" or the "first".
        hidden_sizes: widths of the linear + ReLU layers between backbone and heads. May be empty.
        hidden_activation: ``"relu"``, or ``"leaky_relu"`` (slope 0.01 below 0), with which no hidden unit can die. The
            layers are named relu1, relu2, ... with both.
        image_size: height and width in pixels. One number means a square. Default: the encoder's own, or 28. Stored
            as ``[height, width]``.
        num_channels: channels of the input image. Default: the encoder's own, or 1.
        target_layers: modules whose activations are predicted, as `model.named_modules()` spells them
            (``"hidden.relu1"``, ``"backbone.layer4"``). A leading ``"backbone."`` is optional. A wildcard matches
            within one part of a name: ``"encoder.layer.*.output"``. Empty means the baseline, a plain classifier.
            If one forward calls a module several times (ALBERT's layers are one module), its last call counts.
        target_pooling: how token-wise activations (B, T, n) are reduced to targets: their "mean" over the tokens
            without the padding, the "first" such token, or "flatten" for all tokens (images only). Other activations
            are flattened, as in the paper. With a `wrapped_config` also "tokens": the self-model predicts each token's
            activations from that token's features.
        aux_weight: weight w_s of the self-modeling loss (the paper's AW), >= 0.
        classification_weight: weight w_c of the classification loss, >= 0.
        detach_targets: whether the targets are constants for the gradient. True is the recipe behind the paper's
            figures. With False, training can change predictions and targets, as in the paper's text.
        target_source: origin of the predicted activations. ``"own"``: the target layers. The others are controls:
            ``"shuffled"`` (those of the previous sample of the batch), ``"random"`` (a fixed random projection of the
            input), ``"network:<folder or Hub id>"`` (another trained network's). The Trainer gives the last two to
            `forward` as `self_model_targets`. A saved configuration has the folder's last name alone.
        target_normalization: ``"rms"`` divides the targets of each sample by their root mean square. Shrinking
            activations then does not lower the square error.
        activation_penalty: weight w_a of the mean square of the target layers' activations, >= 0. It needs no
            self-model: the control of plain activation regularization.
        wrapped_config: configuration of a task model of transformers, as an object or as a dict with ``model_type``.
            The network is then this task model with its own head and loss, and a self-model beside it. The fields of
            a backbone and of hidden layers keep their defaults.
        task_type: the kind of the task model, for example ``"token-classification"``. The class of the network sets it.
        feature_layer: the module of the task model whose output the self-model reads. Default: the task model without
            its head (`base_model`).
        adapter: whether the task model has an adapter of peft. Its files hold the adapter, and name its base.
        base_checksum: of the weights below the adapter. Loading compares it with that of the loaded base. The network
            sets it.

    Raises:
        ValueError: if a value has a wrong type or is outside its range. The message has the field's name, the value
            and the allowed values. Also if an unknown name looks like one of these fields.

    Example:
        >>> config = SelfModelingConfig(hidden_sizes=[64], target_layers=["hidden.relu1"], num_labels=10)
        >>> config.image_size, config.num_labels
        ([28, 28], 10)
    """

    model_type = "self_modeling"
    # A Trainer must not gather these over a complete evaluation set. At ResNet size they are 10,000 numbers a sample.
    # A list, because transformers' Trainer adds another list to it.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "classification_loss",
        "self_modeling_loss",
        "activation_loss",
        "activation_mean_squares",
        "self_model_predictions",
        "self_model_targets",
        "hidden_states",
        "attentions",
        "aux_loss",
    ]
    # by its older name, which transformers 5.17 knows too
    sub_configs: ClassVar[dict[str, type]] = {"wrapped_config": AutoConfig}

    backbone: str = "mlp"
    backbone_kwargs: dict[str, Any] = architecture_field(default_factory=dict)
    backbone_config: dict[str, Any] | PreTrainedConfig | None = architecture_field(default=None)
    base_model: str | None = None
    small_image_stem: bool = False
    feature_pooling: Literal["mean", "first"] = "mean"
    hidden_sizes: list[int] | tuple[int, ...] = sizes_field(default=())
    hidden_activation: Literal["relu", "leaky_relu"] = "relu"
    image_size: int | list[int] | tuple[int, ...] | None = image_sides_field(default=None)
    num_channels: int | None = size_field(default=None)
    target_layers: str | list[str] | tuple[str, ...] = ()
    target_pooling: Literal["mean", "first", "flatten", "tokens"] = "mean"
    aux_weight: int | float = weight_field(default=0.0)
    classification_weight: int | float = weight_field(default=1.0)
    detach_targets: bool = True
    target_source: str = source_field(default="own")
    target_normalization: Literal["none", "rms"] = "none"
    activation_penalty: int | float = weight_field(default=0.0)
    wrapped_config: dict[str, Any] | PreTrainedConfig | None = architecture_field(default=None)
    task_type: str | None = None
    feature_layer: str | None = None
    adapter: bool = False
    base_checksum: str | None = None
    # fields of PreTrainedConfig with further checks
    dtype: Any = dtype_field(default=None)
    id2label: dict[int, str] | dict[str, str] | None = label_names_field(default=None)

    def __post_init__(self, **kwargs: Any) -> None:
        if self.transformers_version is None:  # a file written by transformers may hold the names of other packages
            _check_names(kwargs)
        # not a field, because PreTrainedConfig has a property of this name
        num_labels = kwargs.get("num_labels")
        if num_labels is not None and not is_size(num_labels, MOST_CLASSES):
            raise ValueError(f"num_labels={shown(num_labels)}: allowed are integers from 1 to {MOST_CLASSES}")
        if self.wrapped_config is None:
            super().__post_init__(**kwargs)
            self._complete({})
            return
        task_model = own_copy(self.wrapped_config, self.model_type)
        kwargs.pop("num_labels", None)
        tokens = give_labels(self, num_labels, task_model)
        self.wrapped_config = task_model
        super().__post_init__(**kwargs | tokens)
        self._complete(size_defaults(task_model))

    def _complete(self, encoder: dict[str, Any]) -> None:
        """Fill in the defaults of an encoder or task model, and store each field in one form.

        Args:
            encoder: image size and channels of the task model. Empty: there is none.
        """
        if self.backbone_config is not None:
            given = self.backbone_config
            encoder = given.to_dict() if isinstance(given, PreTrainedConfig) else given
            self.backbone_config = _without_place(encoder)
            if self.backbone == "mlp":
                self.backbone = "transformers"
        self.backbone_kwargs = dict(self.backbone_kwargs)
        self.hidden_sizes = list(self.hidden_sizes)
        if self.image_size is None:
            self.image_size = encoder.get("image_size", 28)
        if isinstance(self.image_size, int):
            self.image_size = [self.image_size, self.image_size]
        self.image_size = list(self.image_size)
        if self.num_channels is None:
            self.num_channels = encoder.get("num_channels", 1)
        if isinstance(self.target_layers, str):
            self.target_layers = [self.target_layers]
        self.target_layers = list(self.target_layers)

    @property
    def reads_text(self) -> bool:
        """Return whether the backbone takes tokens, not images."""
        if isinstance(self.wrapped_config, PreTrainedConfig):
            model_type = self.wrapped_config.model_type
        elif self.backbone == "transformers":
            assert isinstance(self.backbone_config, dict)
            model_type = self.backbone_config["model_type"]
        else:
            return self.backbone == "embedding_bag"
        # by its class, because some encoders of images have a vocabulary too (BEiT). A missing class is an error later
        encoder = encoder_class(model_type)
        return encoder is not None and encoder.main_input_name == "input_ids"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of the input image."""
        assert self.num_channels is not None
        assert isinstance(self.image_size, list)
        height, width = self.image_size
        return self.num_channels, height, width

    @property
    def _uses_timm(self) -> bool:
        return self.backbone.startswith("timm/") and self.backbone != "timm/"

    @property
    def published_source(self) -> str:
        """Return `target_source` with the last name alone of a folder. Its path means nothing elsewhere."""
        name = self.target_source.removeprefix(NETWORK_SOURCE)
        if name == self.target_source or not is_folder(name):
            return self.target_source
        return NETWORK_SOURCE + os.path.basename(os.path.abspath(name))

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save like `PreTrainedConfig.save_pretrained`, without the paths of folders."""
        published = copy.copy(self)
        published.target_source = self.published_source
        if self.wrapped_config is not None:
            published.wrapped_config = own_copy(self.wrapped_config, self.model_type)
        super(SelfModelingConfig, published).save_pretrained(save_directory, push_to_hub, **kwargs)

    # `strict` runs the methods named validate_* after __post_init__

    def validate_backbone(self) -> None:
        """Raise a ValueError for an unknown backbone, or one in conflict with backbone_config."""
        known = self._uses_timm or self.backbone in ("mlp", "embedding_bag", "transformers")
        if not known:
            raise ValueError(
                f"backbone={self.backbone!r}: allowed are 'mlp', 'timm/<model name>', 'embedding_bag', 'transformers'"
            )
        encoder = self.backbone_config
        if (self.backbone == "transformers") != (encoder is not None):
            raise ValueError(f"backbone={self.backbone!r}: 'transformers', and it alone, goes with a backbone_config")
        if encoder is None:
            return
        if not isinstance(encoder.get("model_type"), str):
            raise ValueError("backbone_config: a 'model_type' is needed, as transformers names its encoders")

    def validate_backbone_kwargs(self) -> None:
        """Raise a ValueError for arguments that the backbone does not take."""
        given = self.backbone_kwargs
        if self._uses_timm:
            for name in _NOT_ARCHITECTURE:
                if name in given:
                    raise ValueError(
                        f"backbone_kwargs: {name!r} is not a property of the architecture, or is set by other "
                        "fields; leave it out"
                    )
        elif self.backbone == "embedding_bag":
            are_sizes = all(is_size(size, MOST) for size in given.values())
            if set(given) != {"num_embeddings", "embedding_dim"} or not are_sizes:
                raise ValueError(
                    f"backbone_kwargs={given!r}: an embedding bag takes num_embeddings and embedding_dim, {SIZES}"
                )
        elif given:
            raise ValueError(f"backbone_kwargs={given!r}: backbone {self.backbone!r} takes none")

    def validate_small_image_stem(self) -> None:
        """Raise a ValueError for the stem of a timm ResNet on another backbone."""
        if self.small_image_stem and not self._uses_timm:
            raise ValueError(f"small_image_stem=True: backbone {self.backbone!r} has no such stem; allowed with timm")

    def validate_hidden_activation(self) -> None:
        """Raise a ValueError for another activation of no layers."""
        if self.hidden_activation != "relu" and not self.hidden_sizes:
            raise ValueError(f"hidden_activation={self.hidden_activation!r}: allowed with hidden_sizes")

    def validate_wrapped_config(self) -> None:
        """Raise a ValueError for fields that do not go with a task model, or only with one."""
        check_wrapped(self)

    def validate_target_layers(self) -> None:
        """Raise a ValueError for the weight of a term without a layer."""
        if self.target_layers:
            return
        if self.aux_weight > 0:
            raise ValueError(f"aux_weight={self.aux_weight!r} without target_layers: name a layer to predict, or use 0")
        if self.activation_penalty > 0:
            raise ValueError(
                f"activation_penalty={self.activation_penalty!r} without target_layers: name a layer, or use 0"
            )


def is_folder(name: str) -> bool:
    """Return whether the name of a model is that of a folder, here or on another machine, and not a Hub id."""
    if os.path.isdir(name):
        return True
    try:
        validate_repo_id(name)
    except HFValidationError:
        return True
    return False


def _without_place(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return an encoder's configuration without the path of its folder. That path means nothing elsewhere."""
    kept = {}
    for name, value in encoder.items():
        if isinstance(value, Mapping):
            value = _without_place(value)
        kept[name] = value
    kept.pop("_name_or_path", None)
    return kept


def _check_names(others: Mapping[str, Any]) -> None:
    """Raise a ValueError for a name that looks like a mistyped field.

    PreTrainedConfig takes any name, and transformers passes many. Among the names of its own configurations (5.24),
    only hidden_size is as close to a field as this.
    """
    known = [*SelfModelingConfig.__annotations__, "num_labels"]
    for name, value in others.items():
        for field in difflib.get_close_matches(name, known, n=1, cutoff=0.9):
            if field != name:
                raise ValueError(f"{name}={shown(value)}: no such field; did you mean {field}?")


def encoder_class(model_type: str) -> Any:
    """Return the first encoder class of a type in transformers, or None."""
    if model_type not in CONFIG_MAPPING:
        return None
    config_class = CONFIG_MAPPING[model_type]
    if config_class not in AutoModel._model_mapping:
        return None
    found = AutoModel._model_mapping[config_class]
    if isinstance(found, tuple):
        return found[0]
    return found
