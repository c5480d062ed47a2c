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
        backbone: ``"mlp"`` (the flattened image goes straight to `hidden`) or ``"timm/<name>"`` (any timm model,
            its own classifier removed).
        backbone_kwargs: further arguments of `timm.create_model`.
        hidden_sizes: widths of the linear + ReLU layers between backbone and heads; may be empty.
        image_size: height and width in pixels; one number means a square.
        num_channels: channels of the input image.
        target_layers: modules whose activations are predicted, as `model.named_modules()` spells them
            (``"hidden.relu1"``, ``"backbone.layer4"``); a leading ``"backbone."`` may be left off. Empty: the
            baseline, a plain classifier.
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
        hidden_sizes: Sequence[int] = (),
        image_size: int | Sequence[int] = 28,
        num_channels: int = 1,
        target_layers: Sequence[str] = (),
        aux_weight: float = 0.0,
        classification_weight: float = 1.0,
        detach_targets: bool = True,
        **kwargs: Any,  # the fields of PreTrainedConfig: num_labels, id2label, ...
    ) -> None:
        super().__init__(**kwargs)
        self.backbone = backbone
        self.backbone_kwargs = dict(backbone_kwargs or {})
        self.hidden_sizes = list(hidden_sizes)
        self.image_size = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
        self.num_channels = num_channels
        self.target_layers = [target_layers] if isinstance(target_layers, str) else list(target_layers)
        self.aux_weight = aux_weight
        self.classification_weight = classification_weight
        self.detach_targets = detach_targets
        self._check()

    def _check(self) -> None:
        if self.backbone != "mlp" and not (self.backbone.startswith("timm/") and len(self.backbone) > 5):
            raise ValueError(f"backbone={self.backbone!r}: allowed are 'mlp' and 'timm/<model name>'")
        if self.backbone == "mlp" and self.backbone_kwargs:
            raise ValueError(
                f"backbone_kwargs={self.backbone_kwargs!r}: backbone 'mlp' takes none (its widths are hidden_sizes)"
            )
        if "pretrained" in self.backbone_kwargs:
            raise ValueError("backbone_kwargs: 'pretrained' is not a property of the architecture; leave it out")
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
