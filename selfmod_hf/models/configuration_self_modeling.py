"""Configuration of a self-modeling network.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the
package.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig

# A configuration may come from a stranger: what is larger would take memory, or time without end, before anything
# can be counted. Whether the whole fits into memory is looked at when the network is built.
MOST = 2**31 - 1  # of any number that is a size
MOST_CLASSES = 1_000_000
MOST_PIXELS = 16_384  # of one side
MOST_LAYERS = 1_000

# arguments of `timm.create_model` that decide where weights come from, or what this package sets itself
_NOT_ARCHITECTURE = (
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable",
    "exportable", "no_jit", "num_classes", "in_chans", "features_only",
)  # fmt: skip


class SelfModelingConfig(PreTrainedConfig):
    """Describes a classifier that also predicts activations of its own layers.

    The network is ``backbone -> hidden -> (classifier, self_model_head)``: `hidden` is a stack of linear layers
    with ReLU, and both heads read the same last features (Premakumar et al. 2024, arXiv 2407.10188, section 2).

    Args:
        backbone: ``"mlp"`` (the flattened image goes straight to `hidden`), ``"timm/<name>"`` (any timm model, its
            own classifier removed), ``"embedding_bag"`` (the mean of the tokens' embeddings), or ``"transformers"``
            (any encoder of transformers, text or images; implied by `backbone_config`).
        backbone_kwargs: further arguments of `timm.create_model`; of an embedding bag, ``num_embeddings`` (size of the
            vocabulary) and ``embedding_dim``.
        backbone_config: configuration of the transformers encoder, as an object or as a dict with ``model_type``.
        base_model: Hub id of the pretrained backbone that training started from, for the model card; None: there is
            none, or a folder.
        small_image_stem: a timm ResNet for images of 32x32: a first convolution of 3x3 and stride 1, no max-pool.
        hidden_sizes: widths of the linear + ReLU layers between backbone and heads; may be empty.
        feature_pooling: what the heads read of an encoder's tokens (B, T, n): their "mean" or the "first".
        image_size: height and width in pixels; one number means a square. Default: the encoder's own, or 28.
        num_channels: channels of the input image. Default: the encoder's own, or 1.
        target_layers: modules whose activations are predicted, as `model.named_modules()` spells them
            (``"hidden.relu1"``, ``"backbone.layer4"``); a leading ``"backbone."`` may be left off. Wildcards stand
            within one part of a name: ``"encoder.layer.*.output"``. Empty: the baseline, a plain classifier.
            A module that one forward calls several times (ALBERT's layers are one module) counts by its last call.
        target_pooling: what of token-wise activations (B, T, n) is predicted: their "mean" over the tokens that are
            no padding, the "first" such token's, or (images alone) all of them, "flatten". Other activations are
            flattened, as the paper does it.
        aux_weight: weight w_s of the self-modeling loss (the paper's AW), >= 0.
        classification_weight: weight w_c of the classification loss, >= 0.
        detach_targets: whether the activations to be predicted are constants for the gradient. True is the
            recipe behind the paper's figures; False lets training change either side, as the paper's text says.

    Raises:
        ValueError: a value of a wrong type or outside its range, with the field's name, the value and what is allowed;
            a field that is not known and looks like one of these mistyped.
    """

    model_type = "self_modeling"
    # What a Trainer must not gather over a whole evaluation set: at ResNet size these are 10,000 numbers a sample.
    # A list, because transformers' Trainer adds another list to it.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "classification_loss",
        "self_modeling_loss",
        "self_model_predictions",
        "self_model_targets",
        "hidden_states",
        "attentions",
    ]

    def __init__(
        self,
        backbone: str = "mlp",
        backbone_kwargs: dict[str, Any] | None = None,
        backbone_config: dict[str, Any] | PreTrainedConfig | None = None,
        base_model: str | None = None,
        small_image_stem: bool = False,
        feature_pooling: str = "mean",
        hidden_sizes: Sequence[int] = (),
        image_size: int | Sequence[int] | None = None,
        num_channels: int | None = None,
        target_layers: Sequence[str] = (),
        target_pooling: str = "mean",
        aux_weight: float = 0.0,
        classification_weight: float = 1.0,
        detach_targets: bool = True,
        **kwargs: Any,  # the fields of PreTrainedConfig: num_labels, id2label, ...
    ) -> None:
        if "transformers_version" not in kwargs:  # else it was read from a file, where others may have left theirs
            _check_names(kwargs)
        _check_types({name: value for name, value in locals().items() if name in _FIELDS} | kwargs)
        try:
            super().__init__(**kwargs)
        except (TypeError, AttributeError) as error:  # of a field of transformers' own
            raise ValueError(f"config: a field has a wrong type ({error})") from error
        self.backbone = "transformers" if backbone == "mlp" and backbone_config is not None else backbone
        self.backbone_kwargs = dict(backbone_kwargs or {})
        encoder = backbone_config.to_dict() if isinstance(backbone_config, PreTrainedConfig) else backbone_config
        self.backbone_config = None if encoder is None else _without_place(encoder)
        self.base_model = base_model
        self.small_image_stem = small_image_stem
        self.feature_pooling = feature_pooling
        self.hidden_sizes = list(hidden_sizes)
        own = encoder or {}
        image_size = own.get("image_size", 28) if image_size is None else image_size
        sides: Any = image_size if isinstance(image_size, (list, tuple)) else [image_size] * 2
        self.image_size = list(sides)
        self.num_channels = own.get("num_channels", 1) if num_channels is None else num_channels
        self.target_layers = [target_layers] if isinstance(target_layers, str) else list(target_layers)
        self.target_pooling = target_pooling
        self.aux_weight = aux_weight
        self.classification_weight = classification_weight
        self.detach_targets = detach_targets
        self._check()

    @property
    def reads_text(self) -> bool:
        """Whether the backbone takes tokens, not images."""
        if self.backbone != "transformers":
            return self.backbone == "embedding_bag"
        assert self.backbone_config is not None
        # by its class: some encoders of images have a vocabulary, too (BEiT). What there is none of is refused later
        encoder = encoder_class(self.backbone_config["model_type"])
        return encoder is not None and encoder.main_input_name == "input_ids"

    def _check(self) -> None:
        self._check_backbone()
        _check_types({name: getattr(self, name) for name in ("image_size", "num_channels")})  # may be the encoder's
        if self.aux_weight > 0 and not self.target_layers:
            raise ValueError(f"aux_weight={self.aux_weight!r} without target_layers: name a layer to predict, or use 0")

    def _check_backbone(self) -> None:
        timm = self.backbone.startswith("timm/") and len(self.backbone) > 5
        if self.backbone not in ("mlp", "embedding_bag", "transformers") and not timm:
            raise ValueError(
                f"backbone={self.backbone!r}: allowed are 'mlp', 'timm/<model name>', 'embedding_bag', 'transformers'"
            )
        if (self.backbone == "transformers") != (self.backbone_config is not None):
            raise ValueError(f"backbone={self.backbone!r}: 'transformers', and it alone, goes with a backbone_config")
        if self.backbone_config is not None and not isinstance(self.backbone_config.get("model_type"), str):
            raise ValueError("backbone_config: a 'model_type' is needed, as transformers names its encoders")
        if self.backbone in ("mlp", "transformers") and self.backbone_kwargs:
            raise ValueError(f"backbone_kwargs={self.backbone_kwargs!r}: backbone {self.backbone!r} takes none")
        bag = self.backbone_kwargs if self.backbone == "embedding_bag" else {"num_embeddings": 1, "embedding_dim": 1}
        if set(bag) != {"num_embeddings", "embedding_dim"} or not all(map(_integer, bag.values())):
            raise ValueError(
                f"backbone_kwargs={bag!r}: an embedding bag takes num_embeddings and embedding_dim, {_SIZES}"
            )
        if timm and (names := [name for name in _NOT_ARCHITECTURE if name in self.backbone_kwargs]):
            raise ValueError(
                f"backbone_kwargs: {names[0]!r} is not a property of the architecture, or is set by other fields; "
                "leave it out"
            )
        if self.small_image_stem and not timm:
            raise ValueError(f"small_image_stem=True: backbone {self.backbone!r} has no such stem; allowed with timm")


def _without_place(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return an encoder's configuration without the folder it was read from. That path means nothing elsewhere."""
    kept = {name: value for name, value in encoder.items() if name != "_name_or_path"}
    parts = {name: _without_place(value) for name, value in kept.items() if isinstance(value, Mapping)}
    return kept | parts


def encoder_class(model_type: str) -> Any:
    """Return the first encoder class that transformers has for a type. None: it has none."""
    if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in AutoModel._model_mapping:
        return None
    found = AutoModel._model_mapping[CONFIG_MAPPING[model_type]]
    return found[0] if isinstance(found, tuple) else found


# ---- types and ranges of single fields ----


def _integer(value: Any, most: int = MOST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _integers(value: Any, most: int = MOST) -> bool:
    return isinstance(value, (list, tuple)) and all(_integer(item, most) for item in value)


def _weight(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value))


def _label_names(value: Any) -> bool:
    return isinstance(value, Mapping) and 0 < len(value) <= MOST_CLASSES and set(map(str, value)) == set(
        map(str, range(len(value)))
    ) and all(isinstance(name, str) for name in value.values())  # fmt: skip


def _image_sides(value: Any) -> bool:
    sides = value if isinstance(value, (list, tuple)) else [value, value]
    return value is None or (len(sides) == 2 and _integers(sides, MOST_PIXELS))


def _architecture(value: Any) -> bool:
    """Whether this is nothing or a mapping of names in which no number is beyond reason, however deep."""
    if isinstance(value, PreTrainedConfig):
        value = value.to_dict()
    return value is None or (isinstance(value, Mapping) and all(map(_reasonable, value, value.values())))


def _reasonable(name: Any, value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_reasonable, value, value.values()))
    if isinstance(value, (list, tuple)):
        return all(_reasonable(name, item) for item in value)
    if not isinstance(name, (str, int)):
        return False
    return not isinstance(value, int) or abs(value) <= _most(str(name))


def _most(name: str) -> int:
    """How large an entry of this name may be: what is counted one by one, less than a mere size."""
    if name.endswith("image_size"):
        return MOST_PIXELS
    if "labels" in name:
        return MOST_CLASSES
    counted = re.search("layer|depth|block|repeat|stage", name) and not name.endswith(("size", "dim", "width"))
    return MOST_LAYERS if counted else MOST


_DTYPES = ("float32", "float64", "bfloat16", "float16")
_SIZES = f"integers from 1 to {MOST}"
_POOLINGS = ("mean", "first", "flatten")
_ARCHITECTURE = (
    f"mappings of names to values, their integers at most {MOST} (layers {MOST_LAYERS}, classes {MOST_CLASSES}, "
    f"image sides {MOST_PIXELS})"
)
# field -> (whether a value can be used, what is allowed)
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "backbone": (lambda value: isinstance(value, str), "strings"),
    "backbone_kwargs": (_architecture, _ARCHITECTURE),
    "backbone_config": (_architecture, _ARCHITECTURE),
    "base_model": (lambda value: value is None or isinstance(value, str), "None and strings"),
    "small_image_stem": (lambda value: isinstance(value, bool), "true and false"),
    "feature_pooling": (lambda value: value in _POOLINGS[:2], ", ".join(_POOLINGS[:2])),
    "hidden_sizes": (
        lambda value: _integers(value) and len(value) <= MOST_LAYERS,
        f"{_SIZES}, at most {MOST_LAYERS} of them",
    ),
    "image_size": (_image_sides, f"integers from 1 to {MOST_PIXELS}, one or height and width"),
    "num_channels": (lambda value: value is None or _integer(value), _SIZES),
    "target_layers": (_names, "names of modules"),
    "target_pooling": (lambda value: value in _POOLINGS, ", ".join(_POOLINGS)),
    "aux_weight": (_weight, "finite numbers of at least 0"),
    "classification_weight": (_weight, "finite numbers of at least 0"),
    "detach_targets": (lambda value: isinstance(value, bool), "true and false"),
    # of PreTrainedConfig
    "dtype": (
        lambda value: value is None or str(value).removeprefix("torch.") in _DTYPES,
        ", ".join(_DTYPES),
    ),
    "num_labels": (lambda value: value is None or _integer(value, MOST_CLASSES), f"integers from 1 to {MOST_CLASSES}"),
    "id2label": (
        lambda value: value is None or _label_names(value),
        f"mappings of the numbers from 0 to the classes' names, at most {MOST_CLASSES}",
    ),
}


def _check_names(values: Mapping[str, Any]) -> None:
    # PreTrainedConfig takes any name, and transformers passes many: of those in its own configurations (5.24) one alone
    # is as close to a field as this, hidden_size
    for name, value in values.items():
        for field in difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0.9):
            if field != name:
                raise ValueError(f"{name}={_shown(value)}: no such field; did you mean {field}?")


def _check_types(values: Mapping[str, Any]) -> None:
    for name, (usable, allowed) in _FIELDS.items():
        if name in values and not usable(values[name]):
            raise ValueError(f"{name}={_shown(values[name])}: allowed are {allowed}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
