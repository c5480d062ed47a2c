"""What every self-modeling network shares: target layers, heads, losses, pruning, loading and saving.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import copy
import importlib
import os
import warnings
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from .backbones_self_modeling import check_memory, drop_rates, hidden_stack, pretrained_encoder, timm_backbone
from .configuration_self_modeling import SelfModelingConfig
from .losses_self_modeling import SelfModelingOutput, loss_terms
from .targets_self_modeling import (
    CALL,
    check_same_in_training,
    choose_targets,
    find_target_layers,
    hook_target_layers,
    layers_that_give,
    pooled,
)
from .weights_self_modeling import check_weights, copy_buffers, use_own_names

# arguments of `from_pretrained` that say where a configuration is
_PLACE = ("revision", "subfolder", "token", "cache_dir", "local_files_only")
# fields of a network without a self-model
_TASK_ONLY = {"target_layers": [], "aux_weight": 0.0, "target_source": "own", "activation_penalty": 0.0}
_NEW_HEAD = {"self_model_head.weight", "self_model_head.bias"}


class SelfModelingPreTrainedModel(PreTrainedModel):
    """What every self-modeling network shares: two heads on the same features, the losses, pruning."""

    config: SelfModelingConfig
    config_class = SelfModelingConfig
    # The forward takes `num_items_in_batch` and divides its sums by it: with it the Trainer's accumulated and
    # distributed gradients equal those of one large batch, uneven last batches included.
    accepts_loss_kwargs = True

    # the module that pushes a complete repository; the package sets it, and a copy of this file knows no package
    pushed_by: str | None = None
    # what a Trainer knows of the network besides its weights, and where `from_pretrained` read it
    companions: Any = None
    loaded_from: dict[str, str] | None = None
    pretrained_folder: str | None = None  # of this machine, from which the backbone was read; no file records it

    backbone: nn.Module

    def __init__(self, config: SelfModelingConfig) -> None:
        super().__init__(config)
        self._initialized_by_constructors = False
        self.register_load_state_dict_pre_hook(use_own_names)

    def _build_heads(self, example: dict[str, torch.Tensor]) -> None:
        """Add hidden layers and heads to `self.backbone`.

        The self-model's head comes last, so that a seed gives the rest of the network the same initial weights in
        every arm of an experiment.

        Args:
            example: inputs of two samples, only their shapes matter.
        """
        config = self.config
        self.target_layers: list[str] = []
        self.hidden: nn.Module = nn.Identity()
        in_features = self._probe(example)[0].shape[1]
        self.hidden = hidden_stack(in_features, config.hidden_sizes)
        features = (config.hidden_sizes or [in_features])[-1]
        self.classifier = nn.Linear(features, config.num_labels)
        self.self_model_head: nn.Linear | None = None
        if config.target_layers:
            self.target_layers = find_target_layers(self, config.target_layers)
            _, activations = self._probe(example)
            given = (config.target_layers, activations, example.get("input_ids"))
            self.target_layers = layers_that_give(self.target_layers, *given)
            self._check_training(example, activations)
            self.self_model_head = nn.Linear(features, self._targets(activations).shape[1])

    @torch.no_grad()
    def _probe(self, example: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what `_observe` returns, for these inputs in eval mode."""
        check_memory(self)
        self.eval()  # no dropout: draws no random number; no batch statistics: changes no buffer
        try:
            found = self._observe(**example)
        except RuntimeError:  # `from_pretrained` builds on the device "meta", where some encoders cannot run
            if next(self.parameters()).device.type != "meta":
                raise
            found = self._twin()._observe_shapes(example)
        self.train()
        return found

    def _twin(self) -> "SelfModelingPreTrainedModel":
        """Return a copy on the CPU whose numbers are all zero: only shapes matter."""
        with torch.device("cpu"):
            twin = copy.deepcopy(self).to_empty(device="cpu")
        with torch.no_grad():
            for tensor in (*twin.parameters(), *twin.buffers()):
                tensor.zero_()
        return twin

    def _observe_shapes(self, example: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.device("cpu"):
            zeros = {name: torch.zeros(x.shape, dtype=x.dtype) for name, x in example.items()}
            return self._observe(**zeros)

    @torch.no_grad()
    def _check_training(self, example: dict[str, torch.Tensor], activations: dict[str, torch.Tensor]) -> None:
        """Reject targets that LayerDrop skips or that patch dropout cuts in some training steps."""
        rates = drop_rates(self.backbone)
        if not rates:
            return
        twin = self._twin().train()
        for owner, name, _ in drop_rates(twin.backbone):
            setattr(owner, name, 0.5 if name == "prob" else 1.0)  # of the layers all go, of the patches half
        with torch.random.fork_rng(devices=[]):
            _, found = twin._observe_shapes(example)
        check_same_in_training(activations, found, self.target_layers, self.config.target_pooling, rates)

    def _observe(self, **inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the last hidden features, (B, F), and by their names what the target layers gave in this call."""
        hook_target_layers(self, self.target_layers)
        before = getattr(CALL, "activations", None)
        activations: dict[str, torch.Tensor] = {}
        CALL.activations = activations
        try:
            features = self._features(**inputs)
        finally:
            CALL.activations = before
        return features, activations

    def _targets(self, activations: dict[str, torch.Tensor], mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the activations of one call side by side, (B, n).

        Raises:
            ValueError: a target layer that was not called.
        """
        for name in self.target_layers:
            if name not in activations:
                raise ValueError(f"target_layers: {name!r} gave no activation in this forward; it was not called")
        pooling = self.config.target_pooling
        return torch.cat([pooled(activations[name], pooling, mask) for name in self.target_layers], dim=1)

    def _features(self, **inputs: Any) -> torch.Tensor:
        """The last hidden features, (B, F), that both heads read."""
        raise NotImplementedError

    def _asked_states(self, output_hidden_states: Any, output_attentions: bool | None) -> dict[str, Any]:
        """Return which states of the encoder are asked for, by their names in its output.

        None means the configuration's own value.

        Raises:
            ValueError: the backbone is no encoder of transformers.
        """
        config = self.config
        given = {
            "hidden_states": config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            "attentions": config.output_attentions if output_attentions is None else output_attentions,
        }
        asked = {name: value for name, value in given.items() if value is not None and value is not False}
        for name, value in asked.items():
            if config.backbone != "transformers":
                raise ValueError(
                    f"output_{name}={value!r}: allowed with an encoder of transformers, not with "
                    f"backbone={config.backbone!r}, whose activations `target_layers` can give"
                )
        return asked

    def _encode(self, states: dict[str, Any], *args: Any, **inputs: Any) -> torch.Tensor:
        """Run the encoder and return its last hidden state.

        Args:
            states: what is asked for; each value is replaced by what the encoder gives.
            args, inputs: the encoder's.

        Raises:
            ValueError: the encoder does not give what is asked for. Fused attention (sdpa) gives no attentions.
        """
        output = self.backbone(*args, **inputs, **{f"output_{name}": value for name, value in states.items()})
        for name, asked in states.items():
            given = output.get(name)
            if not given or any(state is None for state in given):
                config: Any = self.backbone.config
                raise ValueError(
                    f"output_{name}={asked!r}: {type(self.backbone).__name__} gives none with "
                    f"attn_implementation={config._attn_implementation!r}; "
                    "`model.backbone.set_attn_implementation('eager')` may help"
                )
            states[name] = given
        return output.last_hidden_state

    def _heads(
        self,
        features: torch.Tensor,
        activations: dict[str, torch.Tensor],
        labels: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
        return_dict: bool | None,
        states: dict[str, Any],
        mask: torch.Tensor | None = None,
        given_targets: torch.Tensor | None = None,
    ) -> SelfModelingOutput | tuple[Any, ...]:
        logits = self.classifier(features)  # (B, num_labels)
        own, predictions, targets = None, None, None
        if self.self_model_head is not None:
            own = self._targets(activations, mask)  # (B, n)
            predictions = self.self_model_head(features)  # (B, n)
            targets = choose_targets(self.config, own, given_targets, needed=labels is not None)
        terms: dict[str, Any] = {}
        if labels is not None:
            terms = loss_terms(self.config, logits, labels, predictions, targets, own, num_items_in_batch)
        output = SelfModelingOutput(
            logits=logits, self_model_predictions=predictions, self_model_targets=targets, **terms, **states
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def get_input_embeddings(self) -> nn.Module | None:
        """Return the encoder's input embeddings, which Accelerate shards apart with FSDP2. None: another backbone."""
        return self.backbone.get_input_embeddings() if isinstance(self.backbone, PreTrainedModel) else None

    def prune(self) -> "SelfModelingPreTrainedModel":
        """Return the classification-only network, a copy without the self-model's head.

        Its structure does not depend on what was predicted, so complexity is measured on it. Its logits are
        bit-identical to this model's.

        Raises:
            ValueError: a network in which modules were replaced after it was built, by an adapter for example.
        """
        config = type(self.config).from_dict({**self.config.to_dict(), **_TASK_ONLY})
        with torch.random.fork_rng():  # the weights drawn here are overwritten; the caller's generator stays as it is
            pruned = type(self)(config).to(device=self.device)
        kept = {k: v.clone() for k, v in self.state_dict().items() if not k.startswith("self_model_head.")}
        strange = sorted(kept.keys() ^ pruned.state_dict().keys())
        if strange:
            raise ValueError(
                f"prune: modules were replaced since the network was built ({strange[0]}); merge an adapter first, "
                "for example by PeftModel.merge_and_unload()"
            )
        pruned.load_state_dict(kept, assign=True)  # keeps the type of each tensor
        copy_buffers(self, pruned)
        pruned.loaded_from = self.loaded_from
        pruned.companions = None if self.companions is None else self.companions.of_other_weights()
        return pruned.train(self.training)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's and timm's own initializations (the paper's), which the constructors have drawn.

        Only `from_pretrained` draws again, for what a checkpoint lacks.
        """
        if not self._initialized_by_constructors:
            return
        for draw in ("init_non_persistent_buffers", "reset_parameters"):  # the first: timm's, for what no file holds
            if callable(method := getattr(module, draw, None)):
                method()
                return

    def initialize_weights(self) -> None:
        """Initialize what no file holds, in the encoder first.

        As a part of other code, transformers skips an encoder's modules without parameters of their own. With them it
        would skip the buffers that these compute (Falcon-H1's).
        """
        if isinstance(self.backbone, PreTrainedModel):
            self.backbone.initialize_weights()
        super().initialize_weights()

    def post_init(self) -> None:
        check_memory(self)
        super().post_init()
        self._initialized_by_constructors = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a network like `PreTrainedModel.from_pretrained`, from safetensors only, all of its weights.

        A baseline may be given a self-model by a `config` with target layers. The self-model's head is drawn then.
        With `output_loading_info=True`, whatever fits is loaded, and the names of the rest are returned.

        Raises:
            OSError: the folder or repository holds no ``model.safetensors``.
            ValueError: weights are missing, left over, or of other shapes than the configuration says.
        """
        with_info = kwargs.pop("output_loading_info", False)
        resized = kwargs.pop("ignore_mismatched_sizes", False)
        place = {name: kwargs[name] for name in _PLACE if name in kwargs}
        kwargs |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model.loaded_from = {
            "name": str(pretrained_model_name_or_path),
            "revision": kwargs.get("revision") or "main",
            "subfolder": kwargs.get("subfolder") or "",
        }
        if with_info:
            return model, info
        if info["missing_keys"] == _NEW_HEAD and pretrained_model_name_or_path is not None:
            stored, _ = cls.config_class.get_config_dict(pretrained_model_name_or_path, **place)
            if not stored.get("target_layers"):
                info["missing_keys"] = set()
        folder = os.path.join(str(pretrained_model_name_or_path), kwargs.get("subfolder", ""))
        check_weights(info, os.path.join(folder, "model.safetensors"), ignore_mismatched_sizes=resized)
        return model

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save the network like `PreTrainedModel.save_pretrained`.

        With `push_to_hub=True` the package pushes what `model.push_to_hub` pushes. `kwargs` then also holds its
        arguments. `repo_id` is the folder's name if it is not given.

        Raises:
            ValueError: `push_to_hub` with weights or file names other than the network's own.
        """
        if not push_to_hub or self.pushed_by is None:
            super().save_pretrained(save_directory, is_main_process, state_dict, push_to_hub, **kwargs)
            return
        split = importlib.import_module(self.pushed_by).split_arguments
        saving, pushing = split({"save_directory": save_directory, "state_dict": state_dict, **kwargs})
        super().save_pretrained(is_main_process=is_main_process, **saving)
        if is_main_process:
            self.push_to_hub(**pushing)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Push the network like `PreTrainedModel.push_to_hub`.

        With the package also its image processor or tokenizer, run.json and the package's card are sent. They come
        from the Trainer, or from the folder or repository that the network was read from.

        Args:
            repo_id: ``user/name``.
            kwargs: as `PreTrainedModel.push_to_hub` takes them; with the package also `license`, an identifier of the
                Hub.
        """
        if self.pushed_by is None:
            return super().push_to_hub(repo_id, **kwargs)
        return importlib.import_module(self.pushed_by).push_network(self, repo_id, **kwargs)

    @classmethod
    def from_backbone_pretrained(cls, name: str, *, revision: str = "main", **config_fields: Any) -> Any:
        """A network on a pretrained backbone; hidden layers and heads are drawn anew.

        Args:
            name: Hub id or folder of a transformers encoder (safetensors alone are read), or ``"timm/<name>"``.
            revision: of the encoder's repository.
            config_fields: of `SelfModelingConfig`: target_layers, aux_weight, hidden_sizes, num_labels, ...

        Raises:
            OSError: no such encoder, or one without safetensors.
            ValueError: an encoder whose weights are not complete.
        """
        if config_fields.get("target_layers") and "aux_weight" not in config_fields:
            warnings.warn("aux_weight is 0: nothing trains the self-model of these target_layers", stacklevel=2)
        if name.startswith("timm/"):
            model = cls(cls.config_class(backbone=name, **config_fields))
            pretrained = timm_backbone(model.config, pretrained=True)
            weights: dict[str, Any] = getattr(pretrained, "pretrained_cfg", {})
            model.config.base_model = weights.get("hf_hub_id")  # with the tag of the weights
        else:
            encoder = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
            base_model = None if os.path.isdir(name) else name  # a folder of this machine means nothing elsewhere
            config = cls.config_class(backbone_config=encoder, base_model=base_model, **config_fields)
            with torch.device("meta"):
                cls(config)  # rejects what is too large before memory is taken
            model = cls(config)
            pretrained = pretrained_encoder(name, revision, encoder)
        model.backbone.load_state_dict(pretrained.state_dict())
        model.pretrained_folder = name if os.path.isdir(name) else None
        return model
