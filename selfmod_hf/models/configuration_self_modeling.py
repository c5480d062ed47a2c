"""Configuration of a self-modeling network.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the
package.
"""

import difflib
import functools
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, get_args, get_origin

from huggingface_hub.dataclasses import as_validated_field, strict
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig

# A configuration may come from a stranger. Larger values would take memory or time without end before anything can
# be counted. The size of the complete network is compared with the memory when the network is built.
MOST = 2**31 - 1  # of any number that is a size
MOST_CLASSES = 1_000_000
MOST_PIXELS = 16_384  # of one side
MOST_LAYERS = 1_000

# arguments of `timm.create_model` that choose the weights, or that this package sets itself
_NOT_ARCHITECTURE = (
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable",
    "exportable", "no_jit", "num_classes", "in_chans", "features_only",
)  # fmt: skip
_DTYPES = ("float32", "float64", "bfloat16", "float16")
NETWORK_SOURCE = "network:"  # begins a target_source that names another network
_SIZES = f"allowed are integers from 1 to {MOST}"


# ---- ranges of single fields. The types stand in the annotations of the fields ----


@as_validated_field
def _weight(value: float) -> None:
    if not 0 <= value <= sys.float_info.max:
        raise ValueError("allowed are finite numbers of at least 0")


@as_validated_field
def _size(value: int | None) -> None:
    if value is not None and not 1 <= value <= MOST:
        raise ValueError(_SIZES)


@as_validated_field
def _sizes(value: list[int] | tuple[int, ...]) -> None:
    if len(value) > MOST_LAYERS or not all(1 <= size <= MOST for size in value):
        raise ValueError(f"{_SIZES}, at most {MOST_LAYERS} of them")


@as_validated_field
def _image_sides(value: int | list[int] | tuple[int, ...] | None) -> None:
    if value is None:
        return
    sides = [value, value] if isinstance(value, int) else value
    if len(sides) != 2 or not all(1 <= side <= MOST_PIXELS for side in sides):
        raise ValueError(f"allowed are integers from 1 to {MOST_PIXELS}, one or height and width")


@as_validated_field
def _label_names(value: dict[int, str] | dict[str, str] | None) -> None:
    if value is None:
        return
    expected = {str(number) for number in range(len(value))}
    if not 0 < len(value) <= MOST_CLASSES or set(map(str, value)) != expected:
        raise ValueError(f"allowed are mappings of the numbers from 0 to the classes' names, at most {MOST_CLASSES}")


@as_validated_field
def _source(value: str) -> None:
    is_network = value.startswith(NETWORK_SOURCE) and len(value) > len(NETWORK_SOURCE)
    if value not in ("own", "shuffled", "random") and not is_network:
        raise ValueError(f"allowed are own, shuffled, random, {NETWORK_SOURCE}<folder or Hub id>")


@as_validated_field
def _floating_point(value: Any) -> None:
    if value is not None and str(value).removeprefix("torch.") not in _DTYPES:
        raise ValueError(f"allowed are {', '.join(_DTYPES)}")


@as_validated_field
def _architecture(value: Mapping[str, Any] | PreTrainedConfig | None) -> None:
    if value is None:
        return
    described = value.to_dict() if isinstance(value, PreTrainedConfig) else value
    for name, number in _integers_in(described):
        if abs(number) > _most(name):
            raise ValueError(
                f"{name}={number} is too large; allowed are integers of at most {MOST} "
                f"(layers {MOST_LAYERS}, classes {MOST_CLASSES}, image sides {MOST_PIXELS})"
            )


def _integers_in(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield all integers in nested mappings and lists, each with the name of its entry."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _integers_in(item, str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _integers_in(item, name)
    elif isinstance(value, int):
        yield name, value


def _most(name: str) -> int:
    """Return the largest integer for an entry of this name. Layers and classes are counted one by one."""
    if name.endswith("image_size"):
        return MOST_PIXELS
    if "labels" in name:
        return MOST_CLASSES
    if name.endswith(("size", "dim", "width")):
        return MOST
    counted = re.search("layer|depth|block|repeat|stage", name)
    return MOST_LAYERS if counted else MOST


def _is_size(value: Any, most: int) -> bool:
    """Return whether an untyped value is an integer from 1 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


# ---- errors ----


def _raise_value_errors(strict_class: Any) -> Any:
    """Make a strict dataclass raise ValueErrors of one line.

    huggingface_hub raises errors of its own kind, on two lines and without the value. transformers raises TypeErrors
    and AttributeErrors for wrong values of its own fields.
    """
    strict_init = strict_class.__init__
    strict_setattr = strict_class.__setattr__

    @functools.wraps(strict_init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            strict_init(self, *args, **kwargs)
        except StrictDataclassClassValidationError as error:
            raise ValueError(str(error.__cause__)) from error
        except (TypeError, AttributeError) as error:  # of a field of transformers' own
            raise ValueError(f"config: a field has a wrong type ({error})") from error

    def __setattr__(self: Any, name: str, value: Any) -> None:
        try:
            strict_setattr(self, name, value)
        except StrictDataclassFieldValidationError as error:
            reason = str(error.__cause__)
            if isinstance(error.__cause__, TypeError):
                reason = _allowed_by(strict_class.__dataclass_fields__[name].type)
            raise ValueError(f"{name}={_shown(value)}: {reason}") from error

    strict_class.__init__ = __init__
    strict_class.__setattr__ = __setattr__
    return strict_class


def _allowed_by(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return f"allowed are {', '.join(get_args(annotation))}"
    return f"allowed is {inspect.formatannotation(annotation)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


# ---- the configuration ----


@_raise_value_errors
@strict
class SelfModelingConfig(PreTrainedConfig):
    """Describe a classifier that also predicts activations of its own layers.

    The network is ``backbone -> hidden -> (classifier, self_model_head)``: `hidden` is a stack of linear layers
    with ReLU, and both heads read the same last features (Premakumar et al. 2024, arXiv 2407.10188, section 2).

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
        image_size: height and width in pixels. One number means a square. Default: the encoder's own, or 28. Stored
            as ``[height, width]``.
        num_channels: channels of the input image. Default: the encoder's own, or 1.
        target_layers: modules whose activations are predicted, as `model.named_modules()` spells them
            (``"hidden.relu1"``, ``"backbone.layer4"``). A leading ``"backbone."`` is optional. A wildcard matches
            within one part of a name: ``"encoder.layer.*.output"``. Empty means the baseline, a plain classifier.
            If one forward calls a module several times (ALBERT's layers are one module), its last call counts.
        target_pooling: how token-wise activations (B, T, n) are reduced to targets: their "mean" over the tokens
            without the padding, the "first" such token, or "flatten" for all tokens (images only). Other activations
            are flattened, as in the paper.
        aux_weight: weight w_s of the self-modeling loss (the paper's AW), >= 0.
        classification_weight: weight w_c of the classification loss, >= 0.
        detach_targets: whether the targets are constants for the gradient. True is the recipe behind the paper's
            figures. With False, training can change predictions and targets, as in the paper's text.
        target_source: the activations that are predicted. ``"own"``: those of the target layers. The others are
            controls: ``"shuffled"`` (those of the previous sample of the batch), ``"random"`` (a fixed random
            projection of the input), ``"network:<folder or Hub id>"`` (another trained network's). The last two are
            given to `forward` as `self_model_targets`, by the Trainer.
        target_normalization: ``"rms"`` divides the targets of each sample by their root mean square. Shrinking
            activations then does not lower the square error.
        activation_penalty: weight w_a of the mean square of the target layers' activations, >= 0. It needs no
            self-model: the control of plain activation regularization.

    Raises:
        ValueError: if a value has a wrong type or is outside its range. The message has the field's name, the value
            and what is allowed. Also if an unknown name looks like one of these fields.

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
        "self_model_predictions",
        "self_model_targets",
        "hidden_states",
        "attentions",
    ]

    backbone: str = "mlp"
    backbone_kwargs: dict[str, Any] = _architecture(default_factory=dict)
    backbone_config: dict[str, Any] | PreTrainedConfig | None = _architecture(default=None)
    base_model: str | None = None
    small_image_stem: bool = False
    feature_pooling: Literal["mean", "first"] = "mean"
    hidden_sizes: list[int] | tuple[int, ...] = _sizes(default=())
    image_size: int | list[int] | tuple[int, ...] | None = _image_sides(default=None)
    num_channels: int | None = _size(default=None)
    target_layers: str | list[str] | tuple[str, ...] = ()
    target_pooling: Literal["mean", "first", "flatten"] = "mean"
    aux_weight: int | float = _weight(default=0.0)
    classification_weight: int | float = _weight(default=1.0)
    detach_targets: bool = True
    target_source: str = _source(default="own")
    target_normalization: Literal["none", "rms"] = "none"
    activation_penalty: int | float = _weight(default=0.0)
    # fields of PreTrainedConfig, which checks less
    dtype: Any = _floating_point(default=None)
    id2label: dict[int, str] | dict[str, str] | None = _label_names(default=None)

    def __post_init__(self, **kwargs: Any) -> None:
        if self.transformers_version is None:  # a file written by transformers may hold the names of other packages
            self._check_names(kwargs)
        # not a field, because PreTrainedConfig has a property of this name
        num_labels = kwargs.get("num_labels")
        if num_labels is not None and not _is_size(num_labels, MOST_CLASSES):
            raise ValueError(f"num_labels={_shown(num_labels)}: allowed are integers from 1 to {MOST_CLASSES}")
        super().__post_init__(**kwargs)
        self._complete()

    def _complete(self) -> None:
        """Fill in the defaults that depend on the encoder, and store each field in one form."""
        encoder: dict[str, Any] = {}
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

    def _check_names(self, others: Mapping[str, Any]) -> None:
        """Raise a ValueError for a name that looks like a mistyped field.

        PreTrainedConfig takes any name, and transformers passes many. Among the names of its own configurations
        (5.24), only hidden_size is as close to a field as this.
        """
        known = [*SelfModelingConfig.__annotations__, "num_labels"]
        for name, value in others.items():
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
            if close and close[0] != name:
                raise ValueError(f"{name}={_shown(value)}: no such field; did you mean {close[0]}?")

    @property
    def reads_text(self) -> bool:
        """Whether the backbone takes tokens, not images."""
        if self.backbone != "transformers":
            return self.backbone == "embedding_bag"
        assert self.backbone_config is not None
        # by its class: some encoders of images have a vocabulary, too (BEiT). A missing class is an error later
        encoder = encoder_class(self.backbone_config["model_type"])
        return encoder is not None and encoder.main_input_name == "input_ids"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the input image."""
        assert self.num_channels is not None
        assert isinstance(self.image_size, list)
        height, width = self.image_size
        return self.num_channels, height, width

    @property
    def _uses_timm(self) -> bool:
        return self.backbone.startswith("timm/") and len(self.backbone) > len("timm/")

    # `strict` runs the methods named validate_* after __post_init__

    def validate_backbone(self) -> None:
        """Raise a ValueError for an unknown backbone, or one that does not match backbone_config."""
        if self.backbone not in ("mlp", "embedding_bag", "transformers") and not self._uses_timm:
            raise ValueError(
                f"backbone={self.backbone!r}: allowed are 'mlp', 'timm/<model name>', 'embedding_bag', 'transformers'"
            )
        if (self.backbone == "transformers") != (self.backbone_config is not None):
            raise ValueError(f"backbone={self.backbone!r}: 'transformers', and it alone, goes with a backbone_config")
        if self.backbone_config is not None and not isinstance(self.backbone_config.get("model_type"), str):
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
            are_sizes = all(_is_size(size, MOST) for size in given.values())
            if set(given) != {"num_embeddings", "embedding_dim"} or not are_sizes:
                raise ValueError(
                    f"backbone_kwargs={given!r}: an embedding bag takes num_embeddings and embedding_dim, {_SIZES}"
                )
        elif given:
            raise ValueError(f"backbone_kwargs={given!r}: backbone {self.backbone!r} takes none")

    def validate_small_image_stem(self) -> None:
        """Raise a ValueError for the stem of a timm ResNet on another backbone."""
        if self.small_image_stem and not self._uses_timm:
            raise ValueError(f"small_image_stem=True: backbone {self.backbone!r} has no such stem; allowed with timm")

    def validate_target_layers(self) -> None:
        """Raise a ValueError for the weight of a term without a layer."""
        if self.aux_weight > 0 and not self.target_layers:
            raise ValueError(f"aux_weight={self.aux_weight!r} without target_layers: name a layer to predict, or use 0")
        if self.activation_penalty > 0 and not self.target_layers:
            raise ValueError(
                f"activation_penalty={self.activation_penalty!r} without target_layers: name a layer, or use 0"
            )


def _without_place(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return an encoder's configuration without the folder it was read from. That path means nothing elsewhere."""
    kept = {}
    for name, value in encoder.items():
        if name != "_name_or_path":
            kept[name] = _without_place(value) if isinstance(value, Mapping) else value
    return kept


def encoder_class(model_type: str) -> Any:
    """Return the first encoder class that transformers has for a type, or None."""
    if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in AutoModel._model_mapping:
        return None
    found = AutoModel._model_mapping[CONFIG_MAPPING[model_type]]
    return found[0] if isinstance(found, tuple) else found
