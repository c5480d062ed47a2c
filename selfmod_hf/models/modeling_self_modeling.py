"""Self-modeling networks: classifiers that also predict activations of their own layers.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from .backbones_self_modeling import timm_backbone
from .configuration_self_modeling import SelfModelingConfig
from .embedding_bag_self_modeling import MeanEmbeddingBag
from .encoders_self_modeling import asked_states, encode, transformers_backbone
from .losses_self_modeling import LossInputs, SelfModelingOutput
from .positions_self_modeling import position_table
from .pretrained_self_modeling import SelfModelingPreTrainedModel
from .targets_self_modeling import pooled


class _Classifier(SelfModelingPreTrainedModel):
    """Hold what the classes of images and of texts have in common."""

    @classmethod
    def wrap(cls, task_model: Any, **config_fields: Any) -> Any:
        """Return a network over a task model in memory, with its own head. The model itself is taken, not a copy.

        Args:
            task_model: a model of transformers, or peft's wrapper of one.
            config_fields: fields of `SelfModelingConfig`: target_layers, aux_weight, target_pooling, ...

        Raises:
            ValueError: a model of another kind, or one that transformers' Auto class would not make.
        """
        return cls.wrapped_class.wrap(task_model, **config_fields)


class SelfModelingForImageClassification(_Classifier):
    """Classify images and predict activations of the network's own layers.

    Args:
        config: configuration with backbone ``"mlp"``, ``"timm/<name>"`` or a transformers encoder.

    Raises:
        ValueError: an unknown timm model, or an unknown target layer. The message lists the known layers.

    Example:
        >>> config = SelfModelingConfig(hidden_sizes=[4], target_layers=["hidden.relu1"], image_size=8, num_labels=3)
        >>> output = SelfModelingForImageClassification(config)(torch.zeros(2, 1, 8, 8), labels=torch.tensor([0, 1]))
        >>> output.logits.shape, output.self_model_predictions.shape, output.loss.ndim
        (torch.Size([2, 3]), torch.Size([2, 4]), 0)
    """

    main_input_name = "pixel_values"

    def __init__(self, config: SelfModelingConfig) -> None:
        super().__init__(config)
        if config.backbone == "embedding_bag":
            raise ValueError("backbone='embedding_bag': reads tokens, not images")
        if config.backbone == "transformers":
            self.backbone = transformers_backbone(config)
        elif config.backbone == "mlp":
            self.backbone = nn.Flatten()
        else:
            self.backbone = timm_backbone(config)
        images = torch.zeros(2, *config.input_shape)
        self._build_heads({"pixel_values": images})
        self.post_init()

    def _features(  # type: ignore[override]
        self, pixel_values: Tensor, states: dict[str, Any] | None = None
    ) -> Tensor:
        if self.config.num_channels == 1 and pixel_values.shape[1] == 3:
            # transformers' pipelines turn every picture into RGB. The weights are those of Pillow's grey (ITU-R 601)
            red, green, blue = pixel_values.unbind(dim=1)
            grey = 0.299 * red + 0.587 * green + 0.114 * blue
            pixel_values = grey.unsqueeze(1)
        if self.config.backbone == "transformers":
            features = self._encoded(pixel_values, states or {})
        else:
            self._check_images(pixel_values)
            features = self.backbone(pixel_values)
            if features.dim() > 2:  # a timm model without pooling
                raise ValueError(f"backbone={self.config.backbone!r}: gives {tuple(features.shape)}, not (samples, n)")
        return self.hidden(pooled(features, self.config.feature_pooling, None))

    def _encoded(self, pixel_values: Tensor, states: dict[str, Any]) -> Tensor:
        """Return an encoder's features, (B, T, n), or (B, n) for a convolutional encoder."""
        if pixel_values.shape[1] == 1:  # an encoder of RGB pictures sees a grey one as RGB
            channels = getattr(self.backbone.config, "num_channels", 1)
            pixel_values = pixel_values.expand(-1, channels, -1, -1)
        features = encode(self.backbone, states, pixel_values)
        if features.dim() == 4:  # (B, n, height, width)
            return features.mean(dim=(2, 3))
        return features

    def _check_images(self, pixel_values: Tensor) -> None:
        """Raise a ValueError if the images have other channels than the network, or another size than an MLP."""
        found = list(pixel_values.shape[1:])
        expected = list(self.config.input_shape)
        fits = found == expected
        if self.config.backbone != "mlp":  # convolutions take several sizes
            fits = found[:1] == expected[:1]
        if not fits:
            raise ValueError(
                f"pixel_values: images of {found}; allowed are images of {expected} (channels, height, width)"
            )

    def forward(  # noqa: PLR0913 - transformers' signature
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        self_model_targets: Tensor | None = None,
    ) -> SelfModelingOutput | tuple[Any, ...]:
        """Classify a batch and predict its activations.

        Args:
            pixel_values: (B, num_channels, height, width), normalized as the data of the training.
            labels: (B,), integers. The label -100 leaves a sample out of both losses.
            num_items_in_batch: divisor of the summed losses. Default: the number of labels other than -100. A Trainer
                with gradient accumulation passes the count of the complete accumulated batch.
            return_dict: False gives a plain tuple.
            output_hidden_states: return the hidden states of an encoder of transformers too. Default: the
                configuration's value.
            output_attentions: return the attentions of an encoder of transformers too. Default: the configuration's
                value.
            self_model_targets: (B, n), targets in place of the network's own activations, for a `target_source`
                outside of the network.

        Raises:
            ValueError: requested states that the backbone does not give.
        """
        states = asked_states(self.config, output_hidden_states, output_attentions)
        features, activations = self._observe(pixel_values=pixel_values, states=states)
        own = self._targets(activations)
        given = LossInputs(labels, num_items_in_batch, self_model_targets)
        output = self._heads(features, own, given, states)
        return self._returned(output, return_dict)


class SelfModelingForSequenceClassification(_Classifier):
    """Classify texts and predict activations of the network's own layers. Padding enters no target and no loss.

    Args:
        config: configuration with backbone ``"embedding_bag"`` or a transformers encoder.

    Raises:
        ValueError: another backbone, an unknown target layer, or one without an activation of fixed size.

    Example:
        >>> bag = {"num_embeddings": 9, "embedding_dim": 4}
        >>> config = SelfModelingConfig(backbone="embedding_bag", backbone_kwargs=bag, num_labels=3)
        >>> SelfModelingForSequenceClassification(config)(torch.tensor([[1, 2], [3, 0]])).logits.shape
        torch.Size([2, 3])
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
        self._positions = None
        tokens = torch.zeros(2, 3, dtype=torch.long)
        if config.backbone == "embedding_bag":
            self.backbone = MeanEmbeddingBag(**config.backbone_kwargs)
        else:
            self.backbone = transformers_backbone(config)
            self._positions = position_table(self.backbone)
            # with feed-forward chunks of tokens an encoder calls those layers several times. Two chunks show it
            chunk = getattr(self.backbone.config, "chunk_size_feed_forward", 0)
            if chunk > 0:
                tokens = torch.zeros(2, 2 * chunk, dtype=torch.long)
        taken = inspect.signature(self.backbone.forward).parameters
        self._takes_token_types = "token_type_ids" in taken
        self._takes_embeddings = "inputs_embeds" in taken
        if "attention_mask" not in taken:
            raise ValueError(
                f"backbone_config: {type(self.backbone).__name__} takes no attention_mask, so that padding would enter "
                "targets and losses; allowed are encoders that do"
            )
        # without a mask: transformers would look into its values, and `from_pretrained` builds without any
        self._build_heads({"input_ids": tokens})
        self.post_init()

    def _features(  # type: ignore[override]  # noqa: PLR0913 - the inputs of forward
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        offsets: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        states: dict[str, Any] | None = None,
    ) -> Tensor:
        self._check_inputs(input_ids, inputs_embeds, offsets)
        if isinstance(self.backbone, MeanEmbeddingBag):
            features = self.backbone(input_ids, offsets, attention_mask, inputs_embeds)
            return self.hidden(features)
        if self._positions is not None:
            self._positions.check(input_ids, inputs_embeds)
        inputs: dict[str, Any] = {"attention_mask": attention_mask}
        if inputs_embeds is None:
            inputs["input_ids"] = input_ids
        else:
            inputs["inputs_embeds"] = inputs_embeds
        if token_type_ids is not None and self._takes_token_types:
            inputs["token_type_ids"] = token_type_ids
        tokens = encode(self.backbone, states or {}, **inputs)  # (B, T, n)
        features = pooled(tokens, self.config.feature_pooling, attention_mask)
        return self.hidden(features)

    def _check_inputs(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, offsets: Tensor | None) -> None:
        """Raise a ValueError unless either tokens or embeddings are given, and the backbone takes them."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids, inputs_embeds: exactly one of them must be given")
        if inputs_embeds is None:
            return
        if not self._takes_embeddings:
            raise ValueError(f"inputs_embeds: {type(self.backbone).__name__} takes input_ids alone")
        if offsets is not None:
            raise ValueError("offsets: allowed with input_ids; inputs_embeds take an attention_mask")

    def forward(  # noqa: PLR0913 - transformers' signature
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        offsets: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        self_model_targets: Tensor | None = None,
    ) -> SelfModelingOutput | tuple[Any, ...]:
        """Classify a batch and predict its activations.

        Args:
            input_ids: (B, T), tokens. With `offsets`: (N,), the tokens of all texts one after another.
            attention_mask: (B, T), zero for padding.
            labels: (B,), integers. The label -100 leaves a sample out of both losses.
            num_items_in_batch: divisor of the summed losses. Default: the number of labels other than -100. A Trainer
                with gradient accumulation passes the count of the complete accumulated batch.
            return_dict: False gives a plain tuple.
            offsets: (B + 1,), for an embedding bag. Text b is `input_ids[offsets[b]:offsets[b + 1]]`. Tokens after the
                last offset are filler. The texts have no padding, so nothing is wasted on unequal lengths.
            token_type_ids: (B, T), as some tokenizers give them. Encoders without such an input do not get them.
            inputs_embeds: (B, T, D), embeddings of the tokens in place of `input_ids`. `attention_mask` marks padding
                here too.
            output_hidden_states: return the hidden states of an encoder of transformers too. Default: the
                configuration's value.
            output_attentions: return the attentions of an encoder of transformers too. Default: the configuration's
                value.
            self_model_targets: (B, n), targets in place of the network's own activations, for a `target_source`
                outside of the network.

        Raises:
            ValueError: both of `input_ids` and `inputs_embeds` or neither, embeddings that the backbone does not take,
                or requested states that it does not give.
        """
        states = asked_states(self.config, output_hidden_states, output_attentions)
        features, activations = self._observe(
            input_ids=input_ids,
            attention_mask=attention_mask,
            offsets=offsets,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            states=states,
        )
        own = self._targets(activations, attention_mask)
        given = LossInputs(labels, num_items_in_batch, self_model_targets)
        output = self._heads(features, own, given, states)
        return self._returned(output, return_dict)
