"""Self-modeling networks: a classifier that also predicts activations of its own layers.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the
package but its configuration, by a flat relative import.
"""

import copy
import difflib
import fnmatch
import importlib
import inspect
import os
import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_self_modeling import SelfModelingConfig, encoder_class
from .positions_self_modeling import position_table
from .weights_self_modeling import check_backbone_weights, check_weights, copy_buffers, use_own_names

# arguments of `from_pretrained` that say where a configuration is
_PLACE = ("revision", "subfolder", "token", "cache_dir", "local_files_only")
_NEW_HEAD = {"self_model_head.weight", "self_model_head.bias"}

IGNORED_LABEL = -100  # transformers' convention: such a sample enters no loss


@dataclass
class SelfModelingOutput(ModelOutput):
    """What a self-modeling network returns.

    Attributes:
        loss: scalar, ``w_c * classification_loss + w_s * self_modeling_loss``; None without labels.
        logits: (B, num_labels).
        classification_loss: scalar, cross-entropy, averaged over the batch; None without labels.
        self_modeling_loss: scalar, square error averaged over the batch and the n activations; None without
            labels (which say what samples count) and for the baseline (no target layers).
        self_model_predictions: (B, n), the activations as the network predicts them.
        self_model_targets: (B, n), the activations themselves, all target layers flattened and concatenated.
        hidden_states: the encoder's own, a tuple; None unless ``output_hidden_states`` asks for them.
        attentions: the encoder's own, a tuple; None unless ``output_attentions`` asks for them.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    classification_loss: torch.Tensor | None = None
    self_modeling_loss: torch.Tensor | None = None
    self_model_predictions: torch.Tensor | None = None
    self_model_targets: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


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


# The activations of the forward call that runs now in this thread. Several threads may call one network at once.
_CALL = threading.local()


class _Capture:
    """Forward hook that keeps a module's output for the forward call that runs in this thread.

    A module may be called several times in one forward (ALBERT's layers share one). Its last call counts.

    Args:
        name: the module's name in the network.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        activations = getattr(_CALL, "activations", None)
        if activations is None:  # a layer that is called by itself
            return
        first = output if isinstance(output, torch.Tensor) or not output else output[0]
        if isinstance(first, torch.Tensor):
            activations[self.name] = first.clone()  # a later in-place operation must not change it


def _pooled(activation: torch.Tensor, pooling: str, mask: torch.Tensor | None) -> torch.Tensor:
    """One row per sample, (B, n): token-wise activations (B, T, n) pooled over the tokens, others flattened.

    Args:
        activation: (B, ...).
        pooling: "mean", "first" or "flatten".
        mask: (B, T), nonzero for tokens that are no padding; None: all are. A sample without any gives zeros.
    """
    if activation.dim() != 3 or pooling == "flatten":
        return activation.flatten(start_dim=1)
    if mask is None:
        return activation[:, 0] if pooling == "first" else activation.mean(dim=1)
    real = mask[:, :, None] != 0  # (B, T, 1)
    if pooling == "first":
        first = real.long().argmax(dim=1, keepdim=True)  # (B, 1, 1)
        return torch.where(real.any(dim=1), activation.take_along_dim(first, dim=1).squeeze(1), 0.0)
    total = torch.where(real, _at_least_float32(activation), 0.0).sum(dim=1)  # (B, n)
    return (total / real.sum(dim=1).clamp(min=1)).to(activation.dtype)


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
        """Add hidden layers and heads to `self.backbone`. The self-model's head comes last, so that a seed gives
        the rest of the network the same initial weights in every arm of an experiment.

        Args:
            example: inputs of two samples, only their shapes matter.
        """
        config = self.config
        self.target_layers: list[str] = []
        self.hidden: nn.Module = nn.Identity()
        in_features = self._probe(example)[0].shape[1]
        self.hidden = _hidden_stack(in_features, config.hidden_sizes)
        features = (config.hidden_sizes or [in_features])[-1]
        self.classifier = nn.Linear(features, config.num_labels)
        self.self_model_head: nn.Linear | None = None
        if config.target_layers:
            self._find_target_layers()
            _, activations = self._probe(example)
            self._check_targets(example, activations)
            self._check_training(example, activations)
            self.self_model_head = nn.Linear(features, self._targets(activations).shape[1])

    @torch.no_grad()
    def _probe(self, example: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what `_observe` returns, for these inputs in eval mode."""
        self._check_memory()
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
        """Reject targets that a training step may lack, or of which it sees a part: LayerDrop skips whole layers, and
        patch dropout leaves out tokens."""
        rates = _drop_rates(self.backbone)
        if not rates:
            return
        twin = self._twin().train()
        for owner, name, _ in _drop_rates(twin.backbone):
            setattr(owner, name, 0.5 if name == "prob" else 1.0)  # of the layers all go, of the patches half
        with torch.random.fork_rng(devices=[]):
            _, found = twin._observe_shapes(example)
        for layer in self.target_layers:
            changed = layer not in found or len(activations[layer].shape) != len(found[layer].shape)
            if self.config.target_pooling == "flatten":
                changed = changed or activations[layer].shape != found[layer].shape
            if changed:
                given = ", ".join(sorted({described for _, _, described in rates}))
                raise ValueError(
                    f"target_layers: {layer!r} is skipped or cut in some training steps, because the backbone has "
                    f"{given}; allowed are 0 there, or layers that give all their activations in every step"
                )

    def _find_target_layers(self) -> None:
        modules = {name: m for name, m in self.named_modules() if name.startswith(("backbone.", "hidden."))}
        for pattern in self.config.target_layers:
            found = [name for name in modules if _matches(name, pattern)]
            if not found:
                raise ValueError(f"target_layers: no module is named {pattern!r}; allowed are {', '.join(modules)}")
            self.target_layers += [name for name in found if name not in self.target_layers]

    def _hook_target_layers(self) -> None:
        """Hook the modules that bear the target layers' names now. An adapter or a quantized layer may have taken a
        layer's place since the last call; then its output is the layer's activation."""
        for name in self.target_layers:
            try:
                module = self.get_submodule(name)
            except AttributeError as error:
                raise ValueError(f"target_layers: {name!r} is no longer a module of the network") from error
            hooks = list(module._forward_hooks.values())  # another thread may add one now
            if not any(isinstance(hook, _Capture) and hook.name == name for hook in hooks):
                module.register_forward_hook(_Capture(name))

    def _observe(self, **inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the last hidden features, (B, F), and by their names what the target layers gave in this call."""
        self._hook_target_layers()
        before = getattr(_CALL, "activations", None)
        activations: dict[str, torch.Tensor] = {}
        _CALL.activations = activations
        try:
            features = self._features(**inputs)
        finally:
            _CALL.activations = before
        return features, activations

    def _check_targets(self, example: dict[str, torch.Tensor], activations: dict[str, torch.Tensor]) -> None:
        """Refuse layers without one activation of fixed size for each sample. What a wildcard has matched beside others
        may be a mere container, which is never called."""
        called = [name for name in self.target_layers if name in activations]
        for pattern in self.config.target_layers:
            if not any(_matches(name, pattern) for name in called):
                raise ValueError(
                    f"target_layers: {pattern!r} gives no activation (a container of layers is never called); name a "
                    f"layer within it, such as '{pattern}.*'"
                )
        self.target_layers = called
        for name, activation in activations.items():
            shape, tokens = tuple(activation.shape), example.get("input_ids")
            usable = activation.dim() > 1 and len(activation) == 2 and activation.is_floating_point()
            if tokens is not None:  # texts differ in length
                usable &= activation.dim() == 2 or (activation.dim() == 3 and shape[1] == tokens.shape[1])
            if not usable:
                raise ValueError(
                    f"target_layers: {name!r} gives {shape} for two samples; allowed are layers that give (samples, n) "
                    "or, of texts, (samples, tokens, n)"
                )

    def _targets(self, activations: dict[str, torch.Tensor], mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the activations of one call side by side, (B, n).

        Raises:
            ValueError: a target layer that was not called.
        """
        for name in self.target_layers:
            if name not in activations:
                raise ValueError(f"target_layers: {name!r} gave no activation in this forward; it was not called")
        pooling = self.config.target_pooling
        return torch.cat([_pooled(activations[name], pooling, mask) for name in self.target_layers], dim=1)

    def _features(self, **inputs: Any) -> torch.Tensor:
        """The last hidden features, (B, F), that both heads read."""
        raise NotImplementedError

    def _asked_states(self, output_hidden_states: Any, output_attentions: bool | None) -> dict[str, Any]:
        """Return which states of the encoder are asked for, by their names in its output. None means the
        configuration's own value.

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
    ) -> SelfModelingOutput | tuple[Any, ...]:
        logits = self.classifier(features)  # (B, num_labels)
        predictions, targets = None, None
        if self.self_model_head is not None:
            predictions = self.self_model_head(features)  # (B, n)
            targets = self._targets(activations, mask)  # (B, n)
            targets = targets.detach() if self.config.detach_targets else targets
        terms: dict[str, Any] = self._losses(logits, labels, predictions, targets, num_items_in_batch)
        output = SelfModelingOutput(
            logits=logits, self_model_predictions=predictions, self_model_targets=targets, **terms, **states
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
        if labels is None:
            return {}
        terms = {}
        counted = labels != IGNORED_LABEL  # (B,)
        items = counted.sum() if num_items_in_batch is None else num_items_in_batch
        items = items + (items == 0)  # without any label the sums are zero, and so is the loss
        terms["classification_loss"] = classification_losses(logits, labels).sum() / items
        terms["loss"] = self.config.classification_weight * terms["classification_loss"]
        if predictions is not None and targets is not None:
            self_modeling = self_modeling_losses(predictions, targets)  # (B,)
            terms["self_modeling_loss"] = (self_modeling * counted).sum() / items
            terms["loss"] = terms["loss"] + self.config.aux_weight * terms["self_modeling_loss"]
        return terms

    def get_input_embeddings(self) -> nn.Module | None:
        """The encoder's own; None for other backbones. (Accelerate asks for it, to shard it apart with FSDP2.)"""
        return self.backbone.get_input_embeddings() if isinstance(self.backbone, PreTrainedModel) else None

    def prune(self) -> "SelfModelingPreTrainedModel":
        """The classification-only network: a copy without the self-model's head, of the same structure whatever
        was predicted. Complexity is measured on it. Its logits are bit-identical to this model's.

        Raises:
            ValueError: a network in which modules were replaced after it was built, by an adapter for example.
        """
        config = type(self.config).from_dict({**self.config.to_dict(), "target_layers": [], "aux_weight": 0.0})
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
        """torch's and timm's own initializations stand (the paper's): the constructors have drawn them. Only
        `from_pretrained` calls again, for what a checkpoint lacks."""
        if not self._initialized_by_constructors:
            return
        for draw in ("init_non_persistent_buffers", "reset_parameters"):  # the first: timm's, for what no file holds
            if callable(method := getattr(module, draw, None)):
                method()
                return

    def initialize_weights(self) -> None:
        """Initialize what no file holds, in the encoder first: as a part of other code, transformers skips its modules
        that have no parameters of their own, and with them the buffers that these compute (Falcon-H1's)."""
        if isinstance(self.backbone, PreTrainedModel):
            self.backbone.initialize_weights()
        super().initialize_weights()

    def post_init(self) -> None:
        self._check_memory()
        super().post_init()
        self._initialized_by_constructors = True

    def _check_memory(self) -> None:
        """Refuse a network that is larger than the machine. `from_pretrained` builds on torch's meta device first, and
        so is refused before memory is taken."""
        sizes = [tensor.nbytes for tensor in (*self.parameters(), *self.buffers())]
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else sum(sizes)
        if sum(sizes) > machine:
            raise ValueError(
                f"config: describes a network of {sum(sizes) / 2**30:.1f} GiB; allowed is this machine's memory, "
                f"{machine / 2**30:.1f} GiB"
            )

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
            pretrained = _timm_backbone(model.config, pretrained=True)
            model.config.base_model = getattr(pretrained, "pretrained_cfg", {}).get(
                "hf_hub_id"
            )  # with the tag of the weights
        else:
            # code of strangers is not run, and not asked about either
            encoder = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
            base_model = None if os.path.isdir(name) else name  # a folder of this machine means nothing elsewhere
            config = cls.config_class(backbone_config=encoder, base_model=base_model, **config_fields)
            with torch.device("meta"):
                cls(config)  # refuses what is too large before memory is taken
            model = cls(config)
            pretrained, info = AutoModel.from_pretrained(
                name, revision=revision, use_safetensors=True, trust_remote_code=False, dtype=torch.float32,
                output_loading_info=True, ignore_mismatched_sizes=True, **_without_pooler(encoder),
            )  # fmt: skip
            check_backbone_weights(info, name)
        model.backbone.load_state_dict(pretrained.state_dict())
        model.pretrained_folder = name if os.path.isdir(name) else None
        return model


def _matches(name: str, pattern: str) -> bool:
    """Whether a module's name fits a pattern, part by part: a wildcard does not reach over a dot."""
    parts = name.split(".")
    candidates = (pattern.split("."), ["backbone", *pattern.split(".")])
    return any(
        len(parts) == len(wanted) and all(fnmatch.fnmatchcase(part, w) for part, w in zip(parts, wanted, strict=True))
        for wanted in candidates
    )


def _drop_rates(backbone: nn.Module) -> list[tuple[Any, str, str]]:
    """Return where a backbone keeps a rate above 0 at which layers or patches are left out while it trains: the
    module or configuration, the attribute's name, and both for a message."""
    found = []
    for module in backbone.modules():
        owners: list[Any] = [module]
        if hasattr(module, "config"):
            owners.append(module.config)
        patches = type(module).__name__.startswith("PatchDropout")  # timm's
        for owner in owners:
            for name, value in vars(owner).items():
                drops = "layerdrop" in name or (patches and name == "prob")
                if drops and isinstance(value, float) and value > 0:
                    label = "patch_drop_rate" if patches else name
                    found.append((owner, name, f"{label}={value:g}"))
    return found


def _without_pooler(encoder: Any) -> dict[str, bool]:
    """The argument that leaves out a pooling layer, where the encoder knows it: nothing here reads that layer."""
    known = "add_pooling_layer" in inspect.signature(encoder_class(encoder.model_type).__init__).parameters
    return {"add_pooling_layer": False} if known else {}


def _transformers_backbone(config: SelfModelingConfig) -> nn.Module:
    fields = dict(config.backbone_config or {})
    encoder = AutoConfig.for_model(fields.pop("model_type"), **fields)
    encoder.return_dict = True  # its output is read by names
    if encoder_class(encoder.model_type) is None:
        raise ValueError(f"backbone_config: transformers has no encoder for model_type={encoder.model_type!r}")
    if encoder.is_encoder_decoder:
        raise ValueError(
            f"backbone_config: model_type={encoder.model_type!r} has a decoder; allowed are encoders alone"
        )
    # the encoder's weights may be stored in half precision; here they are trained, in the precision of the heads
    dtype = torch.get_default_dtype()
    return AutoModel.from_config(encoder, dtype=dtype, trust_remote_code=False, **_without_pooler(encoder))


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
            self.backbone = _transformers_backbone(config)
        else:
            self.backbone = _timm_backbone(config) if config.backbone != "mlp" else nn.Flatten()
        self._build_heads({"pixel_values": torch.zeros(2, config.num_channels, *config.image_size)})
        self.post_init()

    def _features(  # type: ignore[override]
        self, pixel_values: torch.Tensor, states: dict[str, Any] | None = None
    ) -> torch.Tensor:
        if self.config.num_channels == 1 and pixel_values.shape[1] == 3:
            # transformers' pipelines turn every picture into RGB; a grey one has three equal channels then
            pixel_values = pixel_values.mean(dim=1, keepdim=True)
        if self.config.backbone == "transformers" and pixel_values.shape[1] == 1:
            # an encoder of RGB pictures sees a grey one as RGB
            channels = getattr(self.backbone.config, "num_channels", 1)
            pixel_values = pixel_values.expand(-1, channels, -1, -1)
        if self.config.backbone == "transformers":
            features = self._encode(states or {}, pixel_values)
            # (B, T, n), or (B, n, height, width) of a convolutional encoder
            features = features.mean(dim=(2, 3)) if features.dim() == 4 else features
        else:
            features = self.backbone(pixel_values)
            if features.dim() > 2:  # a timm model that does not pool
                raise ValueError(f"backbone={self.config.backbone!r}: gives {tuple(features.shape)}, not (samples, n)")
        return self.hidden(_pooled(features, self.config.feature_pooling, None))

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
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

        Raises:
            ValueError: states that the backbone does not give.
        """
        states = self._asked_states(output_hidden_states, output_attentions)
        features, activations = self._observe(pixel_values=pixel_values, states=states)
        return self._heads(features, activations, labels, num_items_in_batch, return_dict, states)


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
        self.backbone = MeanEmbeddingBag(**config.backbone_kwargs) if bag else _transformers_backbone(config)
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
        return self.hidden(_pooled(tokens, self.config.feature_pooling, attention_mask))

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
        return self._heads(features, activations, labels, num_items_in_batch, return_dict, states, attention_mask)


class MeanEmbeddingBag(nn.EmbeddingBag):
    """The mean of the tokens' embeddings, (B, embedding_dim); zero for a text without tokens.

    Attributes:
        sparse: whether the gradient is a sparse tensor, which an optimizer applies to the rows that a batch has
            touched. A Trainer sets it where its optimizer can take it (plain SGD).
    """

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__(num_embeddings, embedding_dim, mode="mean")

    def forward(
        self,
        input_ids: torch.Tensor | None,
        offsets: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: Any = None,
    ) -> torch.Tensor:
        if offsets is not None:
            return _MeanOfBags.apply(self.weight, input_ids, offsets, self.sparse)
        if input_ids is not None:
            inputs_embeds = F.embedding(input_ids, self.weight)  # (B, T, D)
        return _pooled(inputs_embeds, "mean", attention_mask)


class _MeanOfBags(torch.autograd.Function):
    """Means over bags of rows of `weight`, with a gradient that may be sparse, for one network or for K at once.

    torch's own embedding bag has no rule for `vmap` that keeps the gradient sparse: it would cost a pass over all
    parameters in each step (6.4 million for IMDB). Shapes, with a leading K where there are K networks:
    weight (V, D), tokens (N,), offsets (B + 1,) -> (B, D).
    """

    @staticmethod
    def forward(weight: torch.Tensor, tokens: torch.Tensor, offsets: torch.Tensor, sparse: bool) -> torch.Tensor:
        rows, starts = _flat_bags(weight.shape, tokens, offsets)
        table = weight.reshape(-1, weight.shape[-1])  # (K * V, D)
        sums = F.embedding_bag(rows, table, starts, mode="sum")  # with a bag of filler after each network's
        sums = sums.unflatten(0, offsets.shape)[..., :-1, :]  # (B, D)
        return sums / offsets.diff().clamp(min=1)[..., None]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        weight, tokens, offsets, ctx.sparse = inputs
        ctx.save_for_backward(tokens, offsets)
        ctx.shape = weight.shape

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        tokens, offsets = ctx.saved_tensors
        rows, starts = _flat_bags(ctx.shape, tokens, offsets)
        gradient = gradient / offsets.diff().clamp(min=1)[..., None]  # (B, D)
        gradient = F.pad(gradient, (0, 0, 0, 1)).flatten(0, -2)  # filler has none
        ends = F.pad(starts[1:], (0, 1), value=len(rows))
        bags = torch.arange(len(starts), dtype=starts.dtype, device=rows.device)
        bags = bags.repeat_interleave(ends - starts, output_size=len(rows))  # (K * N,), the bag of each token
        return _row_gradient(ctx.shape, rows, bags, gradient, ctx.sparse), None, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        weight: torch.Tensor,
        tokens: torch.Tensor,
        offsets: torch.Tensor,
        sparse: bool,
    ) -> tuple[torch.Tensor, int]:
        def leading(tensor: torch.Tensor, dim: int | None, repeat: bool) -> torch.Tensor:
            if dim is None:
                return tensor.expand(info.batch_size, *tensor.shape) if repeat else tensor
            return tensor.movedim(dim, 0)

        # a weight that all share stays one table
        weight = leading(weight, in_dims[0], repeat=False)
        tokens, offsets = leading(tokens, in_dims[1], repeat=True), leading(offsets, in_dims[2], repeat=True)
        return _MeanOfBags.apply(weight, tokens, offsets, sparse), 0


def _flat_bags(shape: torch.Size, tokens: torch.Tensor, offsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """K networks' bags as those of one table (K * V, D): its rows (K * N,) and where each bag starts (K * (B + 1),)."""
    if tokens.dim() == 1:
        return tokens, offsets
    count, length = tokens.shape
    member = torch.arange(count, device=tokens.device)[:, None]
    rows = tokens + member.to(tokens.dtype) * shape[-2] if len(shape) == 3 else tokens
    return rows.flatten(), (offsets + member.to(offsets.dtype) * length).flatten()


def _row_gradient(
    shape: torch.Size, rows: torch.Tensor, bags: torch.Tensor, gradient: torch.Tensor, sparse: bool
) -> torch.Tensor:
    """The gradient of a table of `shape` (V, D) or (K, V, D): row `rows[i]` of (K * V, D) gets `gradient[bags[i]]`."""
    if not sparse:
        dense = gradient.new_zeros(shape)
        dense.view(-1, shape[-1]).index_add_(0, rows.long(), gradient.index_select(0, bags))
        return dense
    # each row's terms side by side, so that they are added up before the table is touched (the transposed bags)
    rows, order = rows.sort()
    rows, counts = rows.unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).to(bags.dtype)
    values = F.embedding_bag(bags[order], gradient, starts, mode="sum")  # (touched rows, D)
    rows, size = rows.long(), shape[-2]
    indices = rows[None] if len(shape) == 2 else torch.stack([rows // size, rows % size])
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=False, is_coalesced=True)


def _timm_backbone(config: SelfModelingConfig, pretrained: bool = False) -> nn.Module:
    # by name, since transformers would ask a user of an MLP to install whatever this file imports
    timm = importlib.import_module("timm")
    name = config.backbone.removeprefix("timm/")
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), n=5) or ["those of timm.list_models()"]
        raise ValueError(f"backbone={config.backbone!r}: timm has no such model; closest are {', '.join(similar)}")
    backbone = timm.create_model(
        name, pretrained=pretrained, num_classes=0, in_chans=config.num_channels, **config.backbone_kwargs
    )
    if config.small_image_stem:
        first = getattr(backbone, "conv1", None)
        if not isinstance(first, nn.Conv2d) or not hasattr(backbone, "maxpool"):
            raise ValueError(f"small_image_stem=True: {config.backbone!r} has no single first convolution and max-pool")
        backbone.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")  # timm's own rule
        backbone.maxpool = nn.Identity()
    return backbone
