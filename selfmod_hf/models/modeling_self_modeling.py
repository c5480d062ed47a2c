"""Self-modeling networks: classifiers that also predict activations of their own layers.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import inspect
from typing import Any

import torch
from torch import nn

from .backbones_self_modeling import timm_backbone, transformers_backbone
from .configuration_self_modeling import SelfModelingConfig
from .embedding_bag_self_modeling import MeanEmbeddingBag
from .losses_self_modeling import SelfModelingOutput
from .positions_self_modeling import position_table
from .pretrained_self_modeling import SelfModelingPreTrainedModel
from .targets_self_modeling import pooled


class SelfModelingForImageClassification(SelfModelingPreTrainedModel):
    """Image classifier that predicts activations of its own layers.

    Args:
        config: backbone ``"mlp"``, ``"timm/<name>"`` or a transformers encoder; see `SelfModelingConfig`.

    Raises:
        ValueError: a target layer that does not exist (the message lists those that do), or a timm model that
            is unknown.
    """

    main_input_name = "pixel_values"

    def __init__(self, config: SelfModelingConfig) -> None:
        super().__init__(config)
        if config.backbone == "embedding_bag":
            raise ValueError("backbone='embedding_bag': reads tokens, not images")
        if config.backbone == "transformers":
            self.backbone = transformers_backbone(config)
        else:
            self.backbone = timm_backbone(config) if config.backbone != "mlp" else nn.Flatten()
        self._build_heads({"pixel_values": torch.zeros(2, *config.input_shape)})
        self.post_init()

    def _features(  # type: ignore[override]
        self, pixel_values: torch.Tensor, states: dict[str, Any] | None = None
    ) -> torch.Tensor:
        if self.config.num_channels == 1 and pixel_values.shape[1] == 3:
            # transformers' pipelines turn every picture into RGB; the weights are those of Pillow's grey (ITU-R 601)
            red, green, blue = pixel_values.unbind(dim=1)
            pixel_values = (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)
        if self.config.backbone == "transformers" and pixel_values.shape[1] == 1:
            # an encoder of RGB pictures sees a grey one as RGB
            channels = getattr(self.backbone.config, "num_channels", 1)
            pixel_values = pixel_values.expand(-1, channels, -1, -1)
        if self.config.backbone == "transformers":
            features = self._encode(states or {}, pixel_values)
            # (B, T, n), or (B, n, height, width) of a convolutional encoder
            features = features.mean(dim=(2, 3)) if features.dim() == 4 else features
        else:
            self._check_images(pixel_values)
            features = self.backbone(pixel_values)
            if features.dim() > 2:  # a timm model that does not pool
                raise ValueError(f"backbone={self.config.backbone!r}: gives {tuple(features.shape)}, not (samples, n)")
        return self.hidden(pooled(features, self.config.feature_pooling, None))

    def _check_images(self, pixel_values: torch.Tensor) -> None:
        """Raise a ValueError if the images have other channels than the network, or another size than an MLP."""
        found = list(pixel_values.shape[1:])
        expected = list(self.config.input_shape)
        compared = slice(None) if self.config.backbone == "mlp" else slice(1)  # convolutions take several sizes
        if found[compared] != expected[compared]:
            raise ValueError(
                f"pixel_values: images of {found}; allowed are images of {expected} (channels, height, width)"
            )

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        self_model_targets: torch.Tensor | None = None,
    ) -> SelfModelingOutput | tuple[Any, ...]:
        """Classify a batch and predict its activations.

        Args:
            pixel_values: (B, num_channels, height, width), normalized as the data of the training.
            labels: (B,), integers; -100 leaves a sample out of both losses.
            num_items_in_batch: what the summed losses are divided by; default: the labels that count in this
                batch. A Trainer that accumulates gradients passes the count of the whole accumulated batch.
            return_dict: False gives a plain tuple.
            output_hidden_states: return those of an encoder of transformers too; default: the configuration's value.
            output_attentions: likewise.
            self_model_targets: (B, n), predicted in place of the network's own activations, for a `target_source`
                outside of the network.

        Raises:
            ValueError: states that the backbone does not give.
        """
        states = self._asked_states(output_hidden_states, output_attentions)
        features, activations = self._observe(pixel_values=pixel_values, states=states)
        return self._heads(
            features, activations, labels, num_items_in_batch, return_dict, states, None, self_model_targets
        )


class SelfModelingForSequenceClassification(SelfModelingPreTrainedModel):
    """Text classifier that predicts activations of its own layers. Padding enters no target and no loss.

    Args:
        config: backbone ``"embedding_bag"`` or a transformers encoder; see `SelfModelingConfig`.

    Raises:
        ValueError: another backbone, or a target layer that does not exist or has no activation of fixed size.
    """

    main_input_name = "input_ids"

    def __init__(self, config: SelfModelingConfig) -> None:
        super().__init__(config)
        if config.backbone not in ("embedding_bag", "transformers"):
            raise ValueError(
                f"backbone={config.backbone!r}: of a text classifier allowed are embedding_bag, transformers"
            )
        if config.target_pooling == "flatten":
            raise ValueError("target_pooling='flatten': texts differ in length; allowed are mean, first")
        bag = config.backbone == "embedding_bag"
        self.backbone = MeanEmbeddingBag(**config.backbone_kwargs) if bag else transformers_backbone(config)
        taken = inspect.signature(self.backbone.forward).parameters
        self._takes_token_types = "token_type_ids" in taken
        self._takes_embeddings = bag or "inputs_embeds" in taken
        if "attention_mask" not in taken:
            raise ValueError(
                f"backbone_config: {type(self.backbone).__name__} takes no attention_mask, so that padding would enter "
                "targets and losses; allowed are encoders that do"
            )
        # an encoder that feeds forward in chunks of tokens calls those layers several times: two chunks show it
        chunk = 0 if bag else getattr(self.backbone.config, "chunk_size_feed_forward", 0)
        tokens = torch.zeros(2, 2 * chunk or 3, dtype=torch.long)
        self._positions = None if bag else position_table(self.backbone)
        # without a mask: transformers would look into its values, and `from_pretrained` builds without any
        self._build_heads({"input_ids": tokens})
        self.post_init()

    def _features(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        offsets: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        states: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        self._check_inputs(input_ids, inputs_embeds, offsets)
        if isinstance(self.backbone, MeanEmbeddingBag):
            return self.hidden(self.backbone(input_ids, offsets, attention_mask, inputs_embeds))
        if self._positions is not None:
            self._positions.check(input_ids, inputs_embeds)
        inputs = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        if token_type_ids is not None and self._takes_token_types:
            inputs["token_type_ids"] = token_type_ids
        tokens = self._encode(states or {}, **inputs, attention_mask=attention_mask)  # (B, T, n)
        return self.hidden(pooled(tokens, self.config.feature_pooling, attention_mask))

    def _check_inputs(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, offsets: torch.Tensor | None
    ) -> None:
        """Raise a ValueError unless there are either tokens or embeddings, and a backbone that takes them."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids, inputs_embeds: exactly one of them must be given")
        if inputs_embeds is None:
            return
        if not self._takes_embeddings:
            raise ValueError(f"inputs_embeds: {type(self.backbone).__name__} takes input_ids alone")
        if offsets is not None:
            raise ValueError("offsets: allowed with input_ids; inputs_embeds take an attention_mask")

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
        offsets: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        self_model_targets: torch.Tensor | None = None,
    ) -> SelfModelingOutput | tuple[Any, ...]:
        """Classify a batch and predict its activations.

        Args:
            input_ids: (B, T), tokens; with `offsets`, (N,), the tokens of all texts one after another.
            attention_mask: (B, T), zero for padding.
            labels: (B,), integers; -100 leaves a sample out of both losses.
            num_items_in_batch: what the summed losses are divided by; default: the labels that count in this
                batch. A Trainer that accumulates gradients passes the count of the whole accumulated batch.
            return_dict: False gives a plain tuple.
            offsets: (B + 1,), for an embedding bag: text b is `input_ids[offsets[b]:offsets[b + 1]]`; what lies after
                the last offset is filler. No padding within, and so nothing wasted on texts of unequal length.
            token_type_ids: (B, T), as some tokenizers give them; for encoders that take them, else not used.
            inputs_embeds: (B, T, D), embeddings of the tokens in place of `input_ids`. `attention_mask` marks padding
                here too.
            output_hidden_states: return those of an encoder of transformers too; default: the configuration's value.
            output_attentions: likewise.
            self_model_targets: (B, n), predicted in place of the network's own activations, for a `target_source`
                outside of the network.

        Raises:
            ValueError: both of `input_ids` and `inputs_embeds` or neither, embeddings that the backbone does not take,
                or states that it does not give.
        """
        states = self._asked_states(output_hidden_states, output_attentions)
        features, activations = self._observe(
            input_ids=input_ids,
            attention_mask=attention_mask,
            offsets=offsets,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            states=states,
        )
        given = (attention_mask, self_model_targets)
        return self._heads(features, activations, labels, num_items_in_batch, return_dict, states, *given)
