"""Configuration of a self-modeling network.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the
package.
"""

import math
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig


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
        num_channels: channels of the input image.
        target_layers: modules whose activations are predicted, as `model.named_modules()` spells them
            (``"hidden.relu1"``, ``"backbone.layer4"``); a leading ``"backbone."`` may be left off. Wildcards stand
            within one part of a name: ``"encoder.layer.*.output"``. Empty: the baseline, a plain classifier.
        target_pooling: what of token-wise activations (B, T, n) is predicted: their "mean" over the tokens that are
            no padding, the "first" such token's, or (images alone) all of them, "flatten". Other activations are
            flattened, as the paper does it.
        aux_weight: weight w_s of the self-modeling loss (the paper's AW), >= 0.
        classification_weight: weight w_c of the classification loss, >= 0.
        detach_targets: whether the activations to be predicted are constants for the gradient. True is the
            recipe behind the paper's figures; False lets training change either side, as the paper's text says.

    Raises:
        ValueError: a value outside its range, with the field's name, the value and what is allowed.
    """

    model_type = "self_modeling"
    # What a Trainer must not gather over a whole evaluation set: at ResNet size these are 10,000 numbers a sample.
    keys_to_ignore_at_inference = (
        "classification_loss",
        "self_modeling_loss",
        "self_model_predictions",
        "self_model_targets",
    )

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
        super().__init__(**kwargs)
        self.backbone = "transformers" if backbone == "mlp" and backbone_config is not None else backbone
        self.backbone_kwargs = dict(backbone_kwargs or {})
        encoder = backbone_config.to_dict() if isinstance(backbone_config, PreTrainedConfig) else backbone_config
        self.backbone_config = None if encoder is None else dict(encoder)
        self.base_model = base_model
        self.small_image_stem = small_image_stem
        self.feature_pooling = feature_pooling
        self.hidden_sizes = list(hidden_sizes)
        own = encoder or {}
        image_size = own.get("image_size", 28) if image_size is None else image_size
        self.image_size = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
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
        return self.backbone == "embedding_bag" or "vocab_size" in (self.backbone_config or {})

    def _check(self) -> None:
        self._check_backbone()
        for name, allowed in (("feature_pooling", ("mean", "first")), ("target_pooling", ("mean", "first", "flatten"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: allowed are {', '.join(allowed)}")
        for name in ("hidden_sizes", "image_size"):
            values = getattr(self, name)
            if any(not isinstance(value, int) or isinstance(value, bool) or value < 1 for value in values):
                raise ValueError(f"{name}={values!r}: allowed are integers of at least 1")
        if len(self.image_size) != 2:
            raise ValueError(f"image_size={self.image_size!r}: allowed is one integer, or height and width")
        if self.num_channels < 1:
            raise ValueError(f"num_channels={self.num_channels!r}: allowed are integers of at least 1")
        for name in ("aux_weight", "classification_weight"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value!r}: allowed are finite numbers of at least 0")
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
        if self.backbone_config is not None and "model_type" not in self.backbone_config:
            raise ValueError("backbone_config: a 'model_type' is needed, as transformers names its encoders")
        if self.backbone in ("mlp", "transformers") and self.backbone_kwargs:
            raise ValueError(f"backbone_kwargs={self.backbone_kwargs!r}: backbone {self.backbone!r} takes none")
        if self.backbone == "embedding_bag" and set(self.backbone_kwargs) != {"num_embeddings", "embedding_dim"}:
            raise ValueError(
                f"backbone_kwargs={self.backbone_kwargs!r}: an embedding bag takes num_embeddings and embedding_dim"
            )
        if "pretrained" in self.backbone_kwargs:
            raise ValueError("backbone_kwargs: 'pretrained' is not a property of the architecture; leave it out")
        if self.small_image_stem and not timm:
            raise ValueError(f"small_image_stem=True: backbone {self.backbone!r} has no such stem; allowed with timm")
