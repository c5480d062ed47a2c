"""Self-modeling networks: a classifier that also predicts activations of its own layers.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the
package but its configuration, by a flat relative import.
"""

import difflib
import importlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_self_modeling import SelfModelingConfig

IGNORED_LABEL = -100  # transformers' convention: such a sample enters no loss


@dataclass
class SelfModelingOutput(ModelOutput):
    """What a self-modeling network returns.

    Attributes:
        loss: scalar, ``w_c * classification_loss + w_s * self_modeling_loss``; None without labels.
        logits: (B, num_labels).
        classification_loss: scalar, cross-entropy, averaged over the batch; None without labels.
        self_modeling_loss: scalar, square error averaged over the batch and the n activations; None for the
            baseline (no target layers).
        self_model_predictions: (B, n), the activations as the network predicts them.
        self_model_targets: (B, n), the activations themselves, all target layers flattened and concatenated.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    classification_loss: torch.Tensor | None = None
    self_modeling_loss: torch.Tensor | None = None
    self_model_predictions: torch.Tensor | None = None
    self_model_targets: torch.Tensor | None = None


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Losses are taken in float32 at least, also under bf16 or fp16 autocast."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def classification_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each sample, (B,); zero where the label is -100.

    Args:
        logits: (B, num_labels).
        labels: (B,), integers.
    """
    return F.cross_entropy(_at_least_float32(logits), labels, reduction="none", ignore_index=IGNORED_LABEL)


def self_modeling_losses(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Square error of each sample averaged over its n activations, (B,).

    Args:
        predictions: (B, n).
        targets: (B, n).
    """
    return (_at_least_float32(predictions) - _at_least_float32(targets)).square().mean(dim=1)


def _capture(store: dict[str, torch.Tensor], name: str, module: nn.Module, args: Any, output: Any) -> None:
    """Forward hook that keeps a module's output. A clone: a later in-place operation must not change it."""
    store[name] = output.clone()


def _hidden_stack(in_features: int, sizes: list[int]) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, size in enumerate(sizes, start=1):
        layers[f"linear{index}"] = nn.Linear(in_features, size)
        layers[f"relu{index}"] = nn.ReLU()
        in_features = size
    return nn.Sequential(layers)


class SelfModelingPreTrainedModel(PreTrainedModel):
    """What every self-modeling network shares: two heads on the same features, the losses, pruning."""

    config: SelfModelingConfig
    config_class = SelfModelingConfig
    # The forward takes `num_items_in_batch` and divides its sums by it: with it the Trainer's accumulated and
    # distributed gradients equal those of one large batch, uneven last batches included.
    accepts_loss_kwargs = True

    backbone: nn.Module

    def __init__(self, config: SelfModelingConfig) -> None:
        super().__init__(config)
        self._initialized_by_constructors = False
        self._activations: dict[str, torch.Tensor] = {}

    def _build_heads(self, example: dict[str, torch.Tensor]) -> None:
        """Add hidden layers and heads to `self.backbone`. The self-model's head comes last, so that a seed gives
        the rest of the network the same initial weights in every arm of an experiment.

        Args:
            example: inputs of one sample, only their shapes matter.
        """
        config = self.config
        self.hidden: nn.Module = nn.Identity()
        in_features = self._probe(example).shape[1]
        self.hidden = _hidden_stack(in_features, config.hidden_sizes)
        features = (config.hidden_sizes or [in_features])[-1]
        self.classifier = nn.Linear(features, config.num_labels)
        self.self_model_head: nn.Linear | None = None
        if config.target_layers:
            self._hook_target_layers()
            self._probe(example)
            self.self_model_head = nn.Linear(features, self._pop_targets().shape[1])

    @torch.no_grad()
    def _probe(self, example: dict[str, torch.Tensor]) -> torch.Tensor:
        self.eval()  # no dropout: draws no random number; no batch statistics: changes no buffer
        features = self._features(**example)
        self.train()
        return features

    def _hook_target_layers(self) -> None:
        modules = {name: m for name, m in self.named_modules() if name.startswith(("backbone.", "hidden."))}
        for name in self.config.target_layers:
            full_name = name if name in modules else f"backbone.{name}"
            if full_name not in modules:
                raise ValueError(f"target_layers: no module is named {name!r}; allowed are {', '.join(modules)}")
            # partial, not a closure: copy.deepcopy then gives the copy's hook the copy's store
            modules[full_name].register_forward_hook(partial(_capture, self._activations, name))

    def _pop_targets(self) -> torch.Tensor:
        """The activations captured by the last forward pass, (B, n). Popped, so that no graph outlives its step."""
        captured = [self._activations.pop(name) for name in self.config.target_layers]
        return torch.cat([activation.flatten(start_dim=1) for activation in captured], dim=1)

    def _features(self, **inputs: torch.Tensor) -> torch.Tensor:
        """The last hidden features, (B, F), that both heads read."""
        raise NotImplementedError

    def _heads(
        self,
        features: torch.Tensor,
        labels: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
        return_dict: bool | None,
    ) -> SelfModelingOutput | tuple[Any, ...]:
        logits = self.classifier(features)  # (B, num_labels)
        predictions, targets = None, None
        if self.self_model_head is not None:
            predictions = self.self_model_head(features)  # (B, n)
            targets = self._pop_targets()  # (B, n)
            targets = targets.detach() if self.config.detach_targets else targets
        terms = self._losses(logits, labels, predictions, targets, num_items_in_batch)
        output = SelfModelingOutput(
            logits=logits, self_model_predictions=predictions, self_model_targets=targets, **terms
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _losses(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor | None,
        predictions: torch.Tensor | None,
        targets: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> dict[str, torch.Tensor]:
        """The named terms of L = w_c * CE + w_s * mean((predicted - actual activation)^2), arXiv 2407.10188."""
        terms = {}
        if predictions is not None and targets is not None:
            self_modeling = self_modeling_losses(predictions, targets)  # (B,)
            terms["self_modeling_loss"] = self_modeling.mean()
        if labels is None:
            return terms
        counted = labels != IGNORED_LABEL  # (B,)
        items = counted.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        terms["classification_loss"] = classification_losses(logits, labels).sum() / items
        terms["loss"] = self.config.classification_weight * terms["classification_loss"]
        if "self_modeling_loss" in terms:
            terms["self_modeling_loss"] = (self_modeling * counted).sum() / items
            terms["loss"] = terms["loss"] + self.config.aux_weight * terms["self_modeling_loss"]
        return terms

    def prune(self) -> "SelfModelingPreTrainedModel":
        """The classification-only network: a copy without the self-model's head, of the same structure whatever
        was predicted. Complexity is measured on it. Its logits are bit-identical to this model's."""
        config = type(self.config).from_dict({**self.config.to_dict(), "target_layers": [], "aux_weight": 0.0})
        with torch.random.fork_rng():  # the weights drawn here are overwritten; the caller's generator stays as it is
            pruned = type(self)(config).to(device=self.device, dtype=self.dtype)
        kept = {k: v for k, v in self.state_dict().items() if not k.startswith("self_model_head.")}
        pruned.load_state_dict(kept)
        return pruned.train(self.training)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """torch's and timm's own initializations stand (the paper's): the constructors have drawn them. Only
        `from_pretrained` calls again, for what a checkpoint lacks."""
        if not self._initialized_by_constructors:
            return
        for draw in ("init_non_persistent_buffers", "reset_parameters"):  # the first: timm's, for what no file holds
            if callable(method := getattr(module, draw, None)):
                method()
                return

    def post_init(self) -> None:
        super().post_init()
        self._initialized_by_constructors = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As `PreTrainedModel.from_pretrained`, from safetensors only: nothing is ever unpickled.

        Raises:
            OSError: the folder or repository holds no ``model.safetensors``.
        """
        kwargs["use_safetensors"] = True
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)


class SelfModelingForImageClassification(SelfModelingPreTrainedModel):
    """Image classifier that predicts activations of its own layers.

    Args:
        config: backbone ``"mlp"`` or ``"timm/<name>"``; see `SelfModelingConfig`.

    Raises:
        ValueError: a target layer that does not exist (the message lists those that do), or a timm model that
            is unknown.
    """

    main_input_name = "pixel_values"

    def __init__(self, config: SelfModelingConfig) -> None:
        super().__init__(config)
        self.backbone = _timm_backbone(config) if config.backbone != "mlp" else nn.Flatten()
        self._build_heads({"pixel_values": torch.zeros(1, config.num_channels, *config.image_size)})
        self.post_init()

    def _features(self, pixel_values: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        if self.config.num_channels == 1 and pixel_values.shape[1] == 3:
            # transformers' pipelines turn every picture into RGB; a grey one has three equal channels then
            pixel_values = pixel_values.mean(dim=1, keepdim=True)
        return self.hidden(self.backbone(pixel_values))

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
    ) -> SelfModelingOutput | tuple[Any, ...]:
        """Classify a batch and predict its activations.

        Args:
            pixel_values: (B, num_channels, height, width), normalized with the config's mean and std.
            labels: (B,), integers; -100 leaves a sample out of both losses.
            num_items_in_batch: what the summed losses are divided by; default: the labels that count in this
                batch. A Trainer that accumulates gradients passes the count of the whole accumulated batch.
            return_dict: False gives a plain tuple.
        """
        return self._heads(self._features(pixel_values), labels, num_items_in_batch, return_dict)


def _timm_backbone(config: SelfModelingConfig) -> nn.Module:
    # by name, since transformers would ask a user of an MLP to install whatever this file imports
    timm = importlib.import_module("timm")
    name = config.backbone.removeprefix("timm/")
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), n=5) or ["those of timm.list_models()"]
        raise ValueError(f"backbone={config.backbone!r}: timm has no such model; closest are {', '.join(similar)}")
    return timm.create_model(
        name, pretrained=False, num_classes=0, in_chans=config.num_channels, **config.backbone_kwargs
    )
