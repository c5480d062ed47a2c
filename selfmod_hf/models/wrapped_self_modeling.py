"""Any task model of transformers with its own head and loss, and a self-model beside it.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .adapters_self_modeling import has_adapter
from .base_weights_self_modeling import check_base
from .configuration_self_modeling import SelfModelingConfig
from .counted_self_modeling import counted_labels, harmless_labels, labels_in, loss_of_counted
from .losses_self_modeling import SelfModelingOutput, Tensors, activation_mean_squares
from .pretrained_self_modeling import SelfModelingPreTrainedModel
from .targets_self_modeling import CALL, called_layers, choose_targets, hook_target_layers, matching_layers, pooled
from .task_config_self_modeling import take_labels
from .task_models_self_modeling import (
    data_arguments,
    forward_arguments,
    name_of_base,
    new_task_model,
    only_part_of_base,
    plain_task_model,
)
from .task_network_self_modeling import TaskNetwork
from .task_outputs_self_modeling import PASSED_ON, Counted, Given, TaskModelOutput, task_terms
from .tasks_self_modeling import TaskKind

# beginnings of patterns for modules of the task model, which mean nothing more
_PREFIXES = ("task_model.", "backbone.")


class WrappedTask(TaskNetwork):
    """Hold a task model with its own head and loss, and a linear self-model on its last hidden features.

    L = w_c * task loss + w_s * mean((predicted - target)^2). Both terms are sums over the counted labels with the
    same divisor: the task loss is the task model's own. Padding and the label -100 enter no term.

    Args:
        config: configuration with a `wrapped_config`.
        task_model: the task model, taken as it is. Default: a new one with the weights of a plain model of that seed.

    Raises:
        ValueError: transformers has no such task model, or an unknown target layer. The message lists the known ones.
    """

    def __init__(self, config: SelfModelingConfig, task_model: Any = None) -> None:
        SelfModelingPreTrainedModel.__init__(self, config)  # not that of the classes without a task model
        if config.wrapped_config is None:
            raise ValueError("wrapped_config=None: needed here, the configuration of a task model")
        if config.task_type not in (None, self.kind.name):
            raise ValueError(f"task_type={config.task_type!r}: {type(self).__name__} is for {self.kind.name!r}")
        self.kind.check_loss(config.wrapped_config)
        if task_model is None:
            task_model = new_task_model(config.wrapped_config, self.kind)
        elif has_adapter(task_model):
            config.adapter = True
            config.base_checksum = check_base(task_model, config.base_checksum)
            task_model.all_tied_weights_keys = {}  # transformers would look for the base's names in peft's wrapper
        self.task_model = task_model
        plain = plain_task_model(task_model)
        if self.kind.classes:
            take_labels(config, plain.config)
        config.wrapped_config = plain.config
        config.task_type = self.kind.name
        _complete_labels(config, self.kind)
        self.main_input_name = plain.main_input_name
        names, takes_others = forward_arguments(plain)
        self._names = names
        # a class without the promise takes the argument by its **kwargs, and hands it to a part that does not know it
        promises = getattr(plain, "accepts_loss_kwargs", True)
        self._takes_items = "num_items_in_batch" in names or (takes_others and promises)
        self.target_layers: list[str] = []
        self.self_model_head: nn.Linear | None = None
        self.feature_layer = ""
        if config.target_layers:
            self._add_self_model()
        self.post_init()

    def input_names(self) -> list[str]:
        """Return the names of all inputs and labels that a forward takes."""
        return data_arguments(self._names)

    def count_items(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the number of counted labels in a batch, a scalar: the divisor of its losses.

        Raises:
            ValueError: a batch without labels.
        """
        labels = labels_in(batch, self.kind.label_names)
        if labels is None:
            raise ValueError(f"{', '.join(self.kind.label_names)}: missing in the batch")
        return self._counted(labels, batch).sum()

    def _counted(self, labels: Tensors, batch: Mapping[str, Any]) -> Tensor:
        """Return which labels of a batch count, as booleans."""
        return counted_labels(self.kind, labels, self._tokens_in(batch), self.config.problem_type)

    def _tokens_in(self, batch: Mapping[str, Any]) -> int:
        """Return the number of tokens of the padded texts. Images have none."""
        if batch.get("input_ids") is not None:
            return int(batch["input_ids"].shape[-1])
        if batch.get("inputs_embeds") is not None:
            return int(batch["inputs_embeds"].shape[-2])
        return 0

    # ---- construction ----

    def _feature_layer(self) -> str:
        """Return the name of the module whose output the self-model reads."""
        plain = plain_task_model(self.task_model)
        base = name_of_base(plain)
        wanted = self.config.feature_layer
        if wanted is not None:
            found = matching_layers(_names_of(plain), [_short(wanted)], base or "", "feature_layer")
            if len(found) > 1:
                raise ValueError(f"feature_layer={wanted!r}: is {', '.join(found)}; allowed is one module")
            return found[0]
        if base is None:
            raise ValueError(
                f"feature_layer=None: {type(plain).__name__} has no base model; name the layer that its head reads"
            )
        return base

    def _add_self_model(self) -> None:
        """Add the self-model's head last, because then a seed gives every arm the same task model."""
        plain = plain_task_model(self.task_model)
        self.feature_layer = self._feature_layer()
        base = name_of_base(plain) or ""
        patterns = [_short(pattern) for pattern in self.config.target_layers]
        found = matching_layers(_names_of(plain), patterns, base)
        self.target_layers = found
        example = self._example()
        _, activations = self._probe(example)
        part = only_part_of_base(plain)
        if self.feature_layer not in activations and self.feature_layer == base and part is not None:
            self.feature_layer = part
            _, activations = self._probe(example)
        if self.feature_layer not in activations:
            raise ValueError(f"feature_layer={self.feature_layer!r}: was not called; name a layer that is")
        tokens = example["input_ids"].shape[-1] if "input_ids" in example else None
        self._check_features(activations[self.feature_layer], tokens)
        self.target_layers = called_layers(found, patterns, activations, base)
        for name in self.target_layers:
            self._check_predictable(name, activations, tokens)
        self._check_training(example, activations)
        features, targets = self._aligned(activations, None)
        # with `from_pretrained` all weights are on the device "meta", but features are those of a copy
        device = plain.device if plain.device.type == "meta" else features.device
        self.self_model_head = nn.Linear(features.shape[-1], targets.shape[-1], device=device, dtype=features.dtype)

    def _example(self) -> Tensors:
        """Return inputs of two samples. Only their shapes matter."""
        plain = plain_task_model(self.task_model)
        if self.main_input_name != "input_ids":
            images = torch.zeros(2, *self.config.input_shape, dtype=plain.dtype, device=plain.device)
            return {self.main_input_name: images}
        shape = (2, 2, 3) if self.kind.labels_are == "choices" else (2, 3)
        return {"input_ids": torch.zeros(shape, dtype=torch.long, device=plain.device)}

    def _check_features(self, features: Tensor, tokens: int | None) -> None:
        """Raise a ValueError for features of texts, (rows, T, n), that have no row for each of the `tokens`."""
        if tokens is None or features.dim() != 3 or features.shape[1] == tokens:
            return
        raise ValueError(
            f"feature_layer={self.feature_layer!r}: gives {tuple(features.shape)} for texts of {tokens} tokens; "
            "allowed are layers that give (samples, tokens, n) or (samples, n)"
        )

    def _check_predictable(self, name: str, activations: Tensors, tokens: int | None) -> None:
        """Raise a ValueError for activations without one row of floats for each sample, or token."""
        features = activations[self.feature_layer]
        activation = activations[name]
        length = features.shape[1] if tokens is None else tokens
        token_wise = activation.dim() == 3 and activation.shape[1] == length
        fits = activation.is_floating_point() and activation.dim() >= 2 and len(activation) == len(features)
        allowed = "(samples, ...)"
        if self.config.target_pooling == "tokens":
            fits = fits and token_wise and features.dim() == 3
            allowed = "(samples, tokens, n)"
        elif self.main_input_name == "input_ids":
            fits = fits and (token_wise or activation.dim() == 2)
            allowed = "(samples, n) or (samples, tokens, n)"
        if not fits:
            raise ValueError(
                f"target_layers: {name!r} gives {tuple(activation.shape)} for features {tuple(features.shape)}; with "
                f"target_pooling={self.config.target_pooling!r} allowed are layers that give {allowed}"
            )

    # ---- forward ----

    def forward(
        self,
        *,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        self_model_targets: Tensor | None = None,
        **inputs: Any,
    ) -> SelfModelingOutput | tuple[Any, ...]:
        """Run the task model and predict its activations.

        Args:
            labels: labels of the task model. -100 leaves a label out of every loss.
            num_items_in_batch: divisor of the summed losses. Default: the number of counted labels. A Trainer with
                gradient accumulation passes the count of the complete accumulated batch.
            return_dict: False gives a plain tuple.
            self_model_targets: targets in place of the network's own activations, of their shape, for a
                `target_source` outside of the network.
            inputs: inputs of the task model, by its names.

        Raises:
            ValueError: a mask of attention that is not one number a token.
        """
        given_labels = None if labels is None else {"labels": labels}
        given = Given(given_labels, num_items_in_batch, self_model_targets)
        return self._returned(self._run(inputs, given), return_dict)

    def _run(self, inputs: dict[str, Any], given: Given) -> TaskModelOutput:
        """Return the output of a forward."""
        mask = self._token_mask(inputs)
        inputs = self._inner_inputs(inputs)
        counted = None
        if given.labels is not None:
            counted = self._counted(given.labels, inputs)
            inputs |= harmless_labels(self.kind, given.labels, counted, self.config.problem_type)
            if given.num_items_in_batch is not None and self._takes_items:
                inputs["num_items_in_batch"] = counted.sum().clamp(min=1)
        output, activations = self._observe(**inputs)
        parts: dict[str, Any] = {name: value for name, value in output.items() if name in PASSED_ON}
        if self.self_model_head is not None:
            features, own = self._aligned(activations, mask)
            targets = choose_targets(self.config, own, given.self_model_targets, counted is not None)
            parts["self_model_predictions"] = self.self_model_head(features)
            parts["self_model_targets"] = targets
            if self.config.activation_penalty > 0:
                parts["activation_mean_squares"] = activation_mean_squares(own)
        terms: dict[str, Any] = {}
        if counted is not None:
            what = Counted(counted, mask, given.num_items_in_batch)
            task_loss = output.loss
            if self.kind.labels_are == "samples":
                problem = self.config.problem_type
                task_loss = loss_of_counted(problem, task_loss, output.logits, inputs["labels"], counted)
            terms = task_terms(self.config, self.kind, task_loss, parts, what)
        return TaskModelOutput(**terms, **parts)

    def _token_mask(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Return the mask of the tokens, (rows, T). None: no token is padding."""
        mask = inputs.get("attention_mask")
        if mask is None or self.main_input_name != "input_ids":
            return None
        dimensions = 3 if self.kind.labels_are == "choices" else 2
        if mask.dim() != dimensions:
            raise ValueError(
                f"attention_mask: of shape {tuple(mask.shape)}; allowed are {dimensions} dimensions, one number a token"
            )
        if self.config.target_source == "shuffled" and self.config.target_pooling == "tokens":
            raise ValueError(
                "target_source='shuffled' with target_pooling='tokens': pairs tokens with padding; allowed without an "
                "attention_mask, or with target_pooling mean, first"
            )
        return mask.flatten(0, -2)

    def _inner_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the task model."""
        inputs = dict(inputs)
        if "token_type_ids" not in self._names:
            inputs.pop("token_type_ids", None)  # some tokenizers give them to any model
        if "use_cache" in self._names:
            inputs["use_cache"] = False
        images = inputs.get("pixel_values")
        if images is not None and images.dim() == 4 and images.shape[1] == 1:  # grey pictures
            channels = getattr(self.config.wrapped_config, "num_channels", 1)
            inputs["pixel_values"] = images.expand(-1, channels, -1, -1)
        return inputs

    def _observe(self, **inputs: Any) -> tuple[Any, Tensors]:
        """Return the task model's output, and the activations of feature layer and target layers in this call."""
        plain = plain_task_model(self.task_model)
        if self.target_layers:
            hook_target_layers(plain, [self.feature_layer, *self.target_layers])
        before = getattr(CALL, "activations", None)
        activations: Tensors = {}
        CALL.activations = activations
        try:
            output = plain(**inputs)
        finally:
            CALL.activations = before
        return output, activations

    def _aligned(self, activations: Tensors, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return features and targets row by row, (rows, n), or token by token, (rows, T, n).

        Raises:
            ValueError: a target layer was not called.
        """
        pooling = self.config.target_pooling
        features = activations[self.feature_layer]
        if features.dim() == 4:  # (rows, F, height, width)
            features = features.mean(dim=(2, 3))
        if pooling != "tokens":
            features = pooled(features, "mean" if pooling == "flatten" else pooling, mask)
        targets = []
        for name in self.target_layers:
            if name not in activations:
                raise ValueError(f"target_layers: {name!r} gave no activation in this forward; it was not called")
            target = activations[name]
            if pooling != "tokens":
                target = pooled(target, pooling, mask)
            targets.append(target)
        return features, torch.cat(targets, dim=-1)


def _names_of(model: nn.Module) -> list[str]:
    """Return the names of all modules within a model."""
    return [name for name, _ in model.named_modules() if name]


def _short(pattern: str) -> str:
    """Return a pattern without a prefix of _PREFIXES."""
    for prefix in _PREFIXES:
        pattern = pattern.removeprefix(prefix)
    return pattern


def _complete_labels(config: Any, kind: TaskKind) -> None:
    """Set the problem type and the padding token that transformers would look for in the first forward.

    Its losses write the problem type into the configuration. A decoder that classifies texts needs a padding token to
    find the last token of each.

    Raises:
        ValueError: a padding token outside of the vocabulary.
    """
    if kind.labels_are != "samples":
        return
    inner = config.wrapped_config
    if inner.problem_type is None:
        inner.problem_type = "regression" if inner.num_labels == 1 else "single_label_classification"
    config.problem_type = inner.problem_type
    if kind.name == "text-classification":
        _complete_padding(config, inner)


def _complete_padding(config: Any, inner: Any) -> None:
    """Set the padding token of a task model without one to its end of text.

    Raises:
        ValueError: the padding token is not in the vocabulary. Every place of a text would be taken for a token.
    """
    pad = getattr(inner, "pad_token_id", 0)
    end = getattr(inner, "eos_token_id", None)
    if pad is None and end is not None:
        pad = end[0] if isinstance(end, (list, tuple)) else end
        inner.pad_token_id = config.pad_token_id = pad
    size = getattr(inner.get_text_config(), "vocab_size", None)
    if pad is not None and size is not None and not 0 <= pad < size:
        raise ValueError(
            f"pad_token_id={pad}: allowed are 0 to {size - 1}, the tokens of the model, because it may find the last "
            "token of a text by it (eos_token_id is its default)"
        )
