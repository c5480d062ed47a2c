"""The base class of all self-modeling networks: target layers, heads, losses, pruning, loading and saving.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import copy
import importlib
import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from .adapters_self_modeling import is_adapted
from .backbones_self_modeling import check_memory, drop_rates, hidden_stack, timm_backbone
from .configuration_self_modeling import SelfModelingConfig
from .encoders_self_modeling import pretrained_encoder
from .loading_arguments_self_modeling import place_in, taken_from
from .losses_self_modeling import LossInputs, SelfModelingOutput, Tensors, activation_mean_squares, loss_terms
from .targets_self_modeling import (
    CALL,
    LOST_GRADIENT,
    check_same_in_training,
    choose_targets,
    find_target_layers,
    hook_target_layers,
    layers_that_give,
    loses_gradient,
    pooled,
    warn_of_no_weight,
)
from .weights_self_modeling import NEW_HEAD, check_loaded, copy_buffers, use_own_names

# fields of a network without a self-model
_TASK_ONLY = {"target_layers": [], "aux_weight": 0.0, "target_source": "own", "activation_penalty": 0.0}


class SelfModelingPreTrainedModel(PreTrainedModel):
    """Hold the common parts of all self-modeling networks: two heads on the same features, losses, pruning."""

    config: SelfModelingConfig
    config_class = SelfModelingConfig
    # The forward takes `num_items_in_batch` and divides its sums by it. So the Trainer's accumulated and distributed
    # gradients equal those of one large batch, uneven last batches included.
    accepts_loss_kwargs = True
    supports_gradient_checkpointing = True  # hooks keep nothing when a layer is called again in the backward pass

    # the module for pushing a complete repository. The package sets it, because a copy of this file knows no package
    pushed_by: str | None = None
    companions: Any = None  # a Trainer's knowledge of the network besides its weights
    loaded_from: dict[str, str] | None = None  # arguments of `from_pretrained`
    pretrained_folder: str | None = None  # folder of this machine with the backbone. No file records it

    wrapped_class: Any = None  # the class of networks over task models, for a class that also has others

    backbone: nn.Module

    def __new__(cls, config: Any = None, *args: Any, **kwargs: Any) -> Any:
        wrapped_class = vars(cls).get("wrapped_class")
        if wrapped_class is None or getattr(config, "wrapped_config", None) is None:
            return super().__new__(cls)
        return super().__new__(wrapped_class)

    def __init__(self, config: SelfModelingConfig) -> None:
        if config.wrapped_config is not None and not hasattr(self, "kind"):
            raise ValueError(f"wrapped_config: {type(self).__name__} has no networks over task models")
        super().__init__(config)
        self._initialized_by_constructors = False
        self.register_load_state_dict_pre_hook(use_own_names)

    def _build_heads(self, example: Tensors) -> None:
        """Add hidden layers and heads to `self.backbone`.

        The self-model's head comes last, so that a seed gives the rest of the network the same initial weights in
        every arm of an experiment.

        Args:
            example: inputs of two samples. Only their shapes matter.
        """
        config = self.config
        self.target_layers: list[str] = []
        self.hidden: nn.Module = nn.Identity()
        backbone_features, _ = self._probe(example)
        width = backbone_features.shape[1]
        self.hidden = hidden_stack(width, config.hidden_sizes, config.hidden_activation)
        if config.hidden_sizes:
            width = config.hidden_sizes[-1]
        self.classifier = nn.Linear(width, config.num_labels)
        self.self_model_head: nn.Linear | None = None
        if config.target_layers:
            found = find_target_layers(self, config.target_layers)
            self.target_layers = found
            _, activations = self._probe(example)
            tokens = example.get("input_ids")
            self.target_layers = layers_that_give(found, config.target_layers, activations, tokens)
            self._check_training(example, activations)
            targets = self._targets(activations)
            assert targets is not None
            self.self_model_head = nn.Linear(width, targets.shape[1])

    @torch.no_grad()
    def _probe(self, example: Tensors) -> tuple[Tensor, Tensors]:
        """Return the results of `_observe` for these inputs in eval mode."""
        check_memory(self)
        self.eval()  # without dropout no random number is drawn. Without batch statistics no buffer changes
        try:
            found = self._observe(**example)
        except RuntimeError:  # `from_pretrained` builds on the device "meta". Some encoders cannot run there
            if next(self.parameters()).device.type != "meta":
                raise
            found = self._twin()._observe_shapes(example)
        self.train()
        return found

    def _twin(self) -> "SelfModelingPreTrainedModel":
        """Return a copy on the CPU with all numbers zero, because only shapes matter."""
        with torch.device("cpu"):
            twin = copy.deepcopy(self).to_empty(device="cpu")
        with torch.no_grad():
            for tensor in (*twin.parameters(), *twin.buffers()):
                tensor.zero_()
        return twin

    def _observe_shapes(self, example: Tensors) -> tuple[Tensor, Tensors]:
        """Return the results of `_observe` for zeros of these shapes."""
        with torch.device("cpu"):
            zeros = {name: torch.zeros(values.shape, dtype=values.dtype) for name, values in example.items()}
            return self._observe(**zeros)

    @torch.no_grad()
    def _check_training(self, example: Tensors, activations: Tensors) -> None:
        """Reject targets skipped by LayerDrop or cut by patch dropout in some training steps."""
        rates = drop_rates(self.backbone)
        if not rates:
            return
        twin = self._twin().train()
        for owner, name, _ in drop_rates(twin.backbone):
            rate = 0.5 if name == "prob" else 1.0  # all layers are left out, and half of the patches
            setattr(owner, name, rate)
        with torch.random.fork_rng(devices=[]):
            _, found = twin._observe_shapes(example)
        check_same_in_training(activations, found, self.target_layers, self.config.target_pooling, rates)

    def _observe(self, **inputs: Any) -> tuple[Tensor, Tensors]:
        """Return the last hidden features, (B, F), and the target layers' activations in this call."""
        hook_target_layers(self, self.target_layers)
        before = getattr(CALL, "activations", None)
        activations: Tensors = {}
        CALL.activations = activations
        try:
            features = self._features(**inputs)
        finally:
            CALL.activations = before
        return features, activations

    def _targets(self, activations: Tensors, mask: Tensor | None = None) -> Tensor | None:
        """Return the activations of one call side by side, (B, n). None: no target layers.

        Raises:
            ValueError: a target layer was not called.
        """
        if not self.target_layers:
            return None
        targets = []
        for name in self.target_layers:
            if name not in activations:
                raise ValueError(f"target_layers: {name!r} gave no activation in this forward; it was not called")
            target = pooled(activations[name], self.config.target_pooling, mask)
            targets.append(target)
        return torch.cat(targets, dim=1)

    def _features(self, **inputs: Any) -> Tensor:
        """Return the last hidden features, (B, F), the input of both heads."""
        raise NotImplementedError

    def _heads(
        self, features: Tensor, own: Tensor | None, given: LossInputs, states: dict[str, Any]
    ) -> SelfModelingOutput:
        """Return the output of a forward, with the losses if there are labels.

        Args:
            features: (B, F), the input of both heads.
            own: (B, n), the activations of the target layers. None: no target layers.
            given: labels and other arguments for the losses.
            states: the requested states of the encoder.
        """
        parts: dict[str, Any] = {"logits": self.classifier(features)}  # (B, num_labels)
        if own is not None and self.self_model_head is not None:
            has_labels = given.labels is not None
            parts["self_model_predictions"] = self.self_model_head(features)  # (B, n)
            parts["self_model_targets"] = choose_targets(self.config, own, given.self_model_targets, has_labels)
            if self.config.activation_penalty > 0:
                parts["activation_mean_squares"] = activation_mean_squares(own)  # (B,)
        losses = loss_terms(self.config, parts, given)
        return SelfModelingOutput(**losses, **parts, **states)  # type: ignore[arg-type]

    def _returned(self, output: SelfModelingOutput, return_dict: bool | None) -> SelfModelingOutput | tuple[Any, ...]:
        """Return the output as it is, or as a plain tuple."""
        if return_dict is None:
            return_dict = self.config.return_dict
        return output if return_dict else output.to_tuple()

    def get_input_embeddings(self) -> nn.Module | None:
        """Return the encoder's input embeddings, because Accelerate shards them apart with FSDP2. None: no encoder."""
        if isinstance(self.backbone, PreTrainedModel):
            return self.backbone.get_input_embeddings()
        return None

    def prune(self) -> "SelfModelingPreTrainedModel":
        """Return the classification-only network, a copy without the self-model's head.

        Its structure does not depend on the predicted layers, so complexity is measured on it. Its logits are
        bit-identical to this model's.

        Raises:
            ValueError: modules were replaced after the network was built, by an adapter for example.

        Example:
            >>> from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification
            >>> config = SelfModelingConfig(hidden_sizes=[4], target_layers=["hidden.relu1"], image_size=8)
            >>> SelfModelingForImageClassification(config).prune().self_model_head is None
            True
        """
        fields = self.config.to_dict() | _TASK_ONLY
        config = type(self.config).from_dict(fields)
        with torch.random.fork_rng():  # the weights drawn here are overwritten. The caller's generator stays unchanged
            pruned = type(self)(config)
        pruned = pruned.to(device=self.device)
        kept = {name: values.clone() for name, values in self.state_dict().items()}
        for name in NEW_HEAD:
            kept.pop(name, None)
        own_names = pruned.state_dict().keys()
        strange = sorted(kept.keys() ^ own_names)
        if strange:
            raise ValueError(
                f"prune: modules were replaced since the network was built ({strange[0]}); merge an adapter first, "
                "for example by PeftModel.merge_and_unload()"
            )
        pruned.load_state_dict(kept, assign=True)  # keeps the type of each tensor
        copy_buffers(self, pruned)
        pruned.loaded_from = self.loaded_from
        if self.companions is not None:
            pruned.companions = self.companions.of_other_weights()
        return pruned.train(self.training)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's and timm's own initializations (the paper's) from the constructors.

        Only `from_pretrained` draws again, for weights missing in a checkpoint.
        """
        if not self._initialized_by_constructors:
            return
        for name in ("init_non_persistent_buffers", "reset_parameters"):  # the first is timm's, for buffers in no file
            draw = getattr(module, name, None)
            if callable(draw):
                draw()
                return

    def initialize_weights(self) -> None:
        """Initialize all values held by no file, in the encoder first.

        As a part of other code, transformers skips an encoder's modules without parameters of their own. With them it
        would skip their computed buffers (Falcon-H1's).
        """
        if isinstance(self.backbone, PreTrainedModel):
            self.backbone.initialize_weights()
        super().initialize_weights()

    def post_init(self) -> None:
        check_memory(self)
        super().post_init()
        self._initialized_by_constructors = True

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs: Any) -> None:
        arguments = getattr(kwargs.get("gradient_checkpointing_func"), "keywords", {})
        if enable and loses_gradient(self.config, arguments):
            raise ValueError(f"gradient_checkpointing_kwargs={arguments!r}: {LOST_GRADIENT}")
        super()._set_gradient_checkpointing(enable=enable, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a network like `PreTrainedModel.from_pretrained`, from safetensors only, all of its weights.

        A `config` with target layers gives a baseline a self-model. Its head is drawn then.
        With `output_loading_info=True`, all fitting weights are loaded, and the names of the rest are returned.

        Raises:
            OSError: the folder or repository holds no ``model.safetensors``.
            ValueError: weights are missing, left over, or of other shapes than in the configuration.
        """
        if cls.wrapped_class is not None and is_adapted(cls.config_class, pretrained_model_name_or_path, kwargs):
            return cls.wrapped_class.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        with_info = kwargs.pop("output_loading_info", False)
        resized = kwargs.pop("ignore_mismatched_sizes", False)
        place = place_in(kwargs)
        kwargs |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model.loaded_from = {
            "name": str(pretrained_model_name_or_path),
            "revision": kwargs.get("revision") or "main",
            "subfolder": kwargs.get("subfolder") or "",
        }
        model.read_generation_config(pretrained_model_name_or_path, place)
        if with_info:
            return model, info
        check_loaded(cls.config_class, pretrained_model_name_or_path, place, info, ignore_mismatched_sizes=resized)
        return model

    def read_generation_config(self, name: Any, place: dict[str, Any]) -> None:
        """Read nothing, because only task models generate."""

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Tensors | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save the network like `PreTrainedModel.save_pretrained`.

        With `push_to_hub=True` the package pushes the same files as `model.push_to_hub`, and `kwargs` also holds its
        arguments. `repo_id` is the folder's name by default.

        Raises:
            ValueError: `push_to_hub` with weights or file names other than the network's own.
        """
        if not push_to_hub or self.pushed_by is None:
            super().save_pretrained(save_directory, is_main_process, state_dict, push_to_hub, **kwargs)
            return
        package = importlib.import_module(self.pushed_by)
        arguments = {"save_directory": save_directory, "state_dict": state_dict, **kwargs}
        saving, pushing = package.split_arguments(arguments)
        self.save_pretrained(is_main_process=is_main_process, **saving)
        if is_main_process:
            self.push_to_hub(**pushing)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Push the network like `PreTrainedModel.push_to_hub`.

        The package also sends the image processor or tokenizer, run.json and the package's card. They come from the
        Trainer, or from the folder or repository of the network.

        Args:
            repo_id: ``user/name``.
            kwargs: arguments of `PreTrainedModel.push_to_hub`. With the package also `license`, an identifier of the
                Hub.
        """
        if self.pushed_by is None:
            return super().push_to_hub(repo_id, **kwargs)
        package = importlib.import_module(self.pushed_by)
        return package.push_network(self, repo_id, **kwargs)

    @classmethod
    def from_backbone_pretrained(
        cls, name: str, *, revision: str = "main", head: str = "new", **config_fields: Any
    ) -> Any:
        """Return a network on a pretrained backbone, with new hidden layers and heads, or with its own head.

        Args:
            name: Hub id or folder of a transformers encoder (only safetensors are read), or ``"timm/<name>"``.
            revision: branch, tag or commit of the encoder's repository.
            head: "new", or "own" for a task model of transformers that keeps its own head and loss.
            config_fields: fields of `SelfModelingConfig`: target_layers, aux_weight, hidden_sizes, num_labels, ... Also
                arguments of `from_pretrained` for the encoder's place, such as `token`.

        Raises:
            OSError: no such encoder, or one without safetensors.
            ValueError: an encoder with incomplete weights, another `head`, or an argument without an effect here.
        """
        if head == "own" and cls.wrapped_class is not None:
            return cls.wrapped_class.from_backbone_pretrained(name, revision=revision, **config_fields)
        if head != "new":
            raise ValueError(f"head={head!r}: allowed are new, own")
        place = taken_from(config_fields)
        for argument in place.keys() - place_in(place).keys():
            raise ValueError(f"{argument}: allowed with head='own'; the encoder of a new head is loaded in float32")
        warn_of_no_weight(config_fields)
        if name.startswith("timm/"):
            config = cls.config_class(backbone=name, **config_fields)
            model = cls(config)
            pretrained = timm_backbone(model.config, pretrained=True)
            weights: dict[str, Any] = getattr(pretrained, "pretrained_cfg", {})
            model.config.base_model = weights.get("hf_hub_id")  # with the tag of the weights
        else:
            place["revision"] = revision
            encoder = AutoConfig.from_pretrained(name, trust_remote_code=False, **place)
            base_model = None if os.path.isdir(name) else name  # a folder of this machine means nothing elsewhere
            config = cls.config_class(backbone_config=encoder, base_model=base_model, **config_fields)
            with torch.device("meta"):
                cls(config)  # rejects a too large network before memory is taken
            model = cls(config)
            pretrained = pretrained_encoder(name, encoder, place)
        model.backbone.load_state_dict(pretrained.state_dict())
        if os.path.isdir(name):
            model.pretrained_folder = name
        return model
