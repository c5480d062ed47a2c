"""A network over a task model, without its forward: its layers, pruning, saving and loading.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import copy
import os
import warnings
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, GenerationConfig

from .adapter_checks_self_modeling import check_adapter
from .adapters_self_modeling import (
    FOLDER,
    add_adapter,
    check_drawn,
    has_adapter,
    head_of,
    is_adapted,
    load_adapted,
    read_adapter,
    read_head,
    save_adapter,
    without_adapter,
)
from .base_weights_self_modeling import keep_statistics
from .loading_arguments_self_modeling import place_in, taken_from
from .losses_self_modeling import Tensors
from .pretrained_self_modeling import SelfModelingPreTrainedModel
from .targets_self_modeling import warn_of_no_weight
from .task_config_self_modeling import check_order
from .task_models_self_modeling import (
    commit_of,
    drawn_weights,
    is_quantized,
    last_layer_of,
    plain_task_model,
    pretrained_task_model,
)
from .tasks_self_modeling import TaskKind
from .weights_self_modeling import check_loaded

# fields of the configuration that belong to the task model
_LABEL_FIELDS = ("num_labels", "id2label", "label2id", "problem_type", "pad_token_id")


class TaskNetwork(SelfModelingPreTrainedModel):
    """Hold a task model. Prune, save and load it."""

    kind: ClassVar[TaskKind]
    task_model: Any
    # transformers asks the class, though each task model decides for itself
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    @property
    def backbone(self) -> Any:  # type: ignore[override]
        """Return the task model without its head."""
        return plain_task_model(self.task_model).base_model

    @property
    def last_layer(self) -> tuple[str, nn.Module]:
        """Return the name and the module of the last linear layer of the task model."""
        plain = plain_task_model(self.task_model)
        _, layer = last_layer_of(plain)
        return next((name, module) for name, module in self.named_modules() if module is layer)

    def get_input_embeddings(self) -> nn.Module | None:
        """Return the task model's input embeddings, or None."""
        try:
            return plain_task_model(self.task_model).get_input_embeddings()
        except NotImplementedError:  # of some models of images
            return None

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the task model's output embeddings, or None."""
        return plain_task_model(self.task_model).get_output_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Set the task model's input embeddings."""
        plain_task_model(self.task_model).set_input_embeddings(value)

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Set the task model's output embeddings."""
        plain_task_model(self.task_model).set_output_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize the task model's embeddings like `PreTrainedModel.resize_token_embeddings`.

        Raises:
            ValueError: the task model has an adapter, whose files hold no embeddings.
        """
        if has_adapter(self.task_model):
            raise ValueError("adapter: its files hold no embeddings; allowed is a base with embeddings of this size")
        return self.task_model.resize_token_embeddings(*args, **kwargs)

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """Set the attention of the task model like `PreTrainedModel.set_attn_implementation`."""
        plain_task_model(self.task_model).set_attn_implementation(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate with the task model. The self-model takes no part."""
        return self.task_model.generate(*args, **kwargs)

    @property
    def generation_config(self) -> GenerationConfig | None:
        """Return the task model's defaults of `generate`, or None."""
        return getattr(plain_task_model(self.task_model), "generation_config", None)

    @generation_config.setter
    def generation_config(self, value: GenerationConfig) -> None:
        """Set them. The constructor of a model with code of its own does so before there is a task model."""
        if hasattr(self, "task_model"):
            plain_task_model(self.task_model).generation_config = value

    def initialize_weights(self) -> None:
        """Initialize all values held by no file. The constructor of the task model has drawn its own weights."""
        if not self._initialized_by_constructors:
            return
        plain_task_model(self.task_model).initialize_weights()
        super(SelfModelingPreTrainedModel, self).initialize_weights()

    def train(self, mode: bool = True) -> Any:
        """Set the mode like `nn.Module.train`. An adapter's base keeps its running statistics, like its weights."""
        super().train(mode)
        if has_adapter(self.task_model):
            keep_statistics(self.task_model)
        return self

    # ---- pruning, saving, loading ----

    def prune(self, adapter: str | None = None) -> Any:
        """Return a copy of the task model. Its outputs are bit-identical to this network's.

        It is a model of transformers. `save_pretrained` writes files that plain transformers loads.

        Args:
            adapter: "merge" adds an adapter to the weights, which rounds the outputs. "keep" returns peft's wrapper.
                Default: "merge" if there is an adapter.

        Raises:
            ValueError: another value of `adapter`, or one for a network without an adapter.

        Example:
            >>> from transformers import BertConfig
            >>> from selfmod_hf import SelfModelingConfig, SelfModelingForMaskedLM
            >>> bert = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
            >>> config = SelfModelingConfig(wrapped_config=bert, target_layers=["encoder.layer.0"])
            >>> type(SelfModelingForMaskedLM(config).prune()).__name__
            'BertForMaskedLM'
        """
        pruned = without_adapter(self.task_model, adapter).train(self.training)
        if has_adapter(pruned):
            keep_statistics(pruned)
        return pruned

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Tensors | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save the network like `PreTrainedModel.save_pretrained`, with the task model's defaults of `generate`.

        With an adapter, the files are those of the self-model's head, and of the adapter in the folder ``adapter``.
        """
        if push_to_hub or not has_adapter(self.task_model):
            super().save_pretrained(save_directory, is_main_process, state_dict, push_to_hub, **kwargs)
        else:
            weights = head_of(state_dict or self.state_dict())
            super().save_pretrained(save_directory, is_main_process, weights, **kwargs)
            if is_main_process:
                save_adapter(self.task_model, save_directory, state_dict)
        if is_main_process and self.generation_config is not None:
            self.generation_config.save_pretrained(save_directory)

    def load_adapted_parts(self, folder: str) -> None:
        """Read the adapter and the head of the self-model from a folder. The base stays as it is.

        Raises:
            ValueError: weights are missing, or left over.
        """
        read_adapter(self.task_model, os.path.join(folder, FOLDER))
        info = read_head(self, folder, {}, of_baseline=self.self_model_head is None)
        check_loaded(self.config_class, None, {"subfolder": folder}, info)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a network like `PreTrainedModel.from_pretrained`. With an adapter, its base is loaded first.

        Raises:
            OSError: the weights or the adapter's base are missing.
            ValueError: weights are missing, left over, or of other shapes than in the configuration.
        """
        name = pretrained_model_name_or_path
        if not is_adapted(cls.config_class, name, kwargs):
            return super().from_pretrained(name, *args, **kwargs)
        with_info = kwargs.pop("output_loading_info", False)
        options = taken_from(kwargs)
        place = place_in(options)
        config = kwargs.pop("config", None)
        if not isinstance(config, cls.config_class):
            config, kwargs = cls.config_class.from_pretrained(
                config or name, **place, **kwargs, return_unused_kwargs=True
            )
        if kwargs:
            raise ValueError(f"{min(kwargs)}: is no field of the configuration, and no argument for a network's place")
        network, info = cls._from_adapted(name, config, place, options)
        if with_info:
            return network, info
        check_loaded(cls.config_class, name, place, info)
        return network

    @classmethod
    def _from_adapted(
        cls, name: Any, config: Any, place: dict[str, Any], options: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return a network with an adapter, and the names of weights of its head that do not fit.

        Args:
            name: its folder or repository.
            config: its configuration.
            place: further arguments of `from_pretrained` for its place.
            options: those, and the arguments for the weights.
        """
        weights = {option: value for option, value in options.items() if option not in place}
        if weights.get("dtype") in (None, "auto"):
            weights["dtype"] = config.dtype or torch.float32
        task_model = load_adapted(cls.kind, config, name, place, weights)
        make: Any = cls
        network = make(copy.deepcopy(config), task_model).eval()
        stored, _ = cls.config_class.get_config_dict(name, **place)
        info = read_head(network, name, place, of_baseline=not stored.get("target_layers"))
        network.loaded_from = {
            "name": str(name),
            "revision": place.get("revision") or "main",
            "subfolder": place.get("subfolder") or "",
        }
        network.read_generation_config(name, place)
        return network, info

    def read_generation_config(self, name: Any, place: dict[str, Any]) -> None:
        """Read the defaults of `generate` beside the network's weights, if there are any."""
        plain = plain_task_model(self.task_model)
        if self.generation_config is None or name is None:
            return
        try:
            plain.generation_config = GenerationConfig.from_pretrained(name, **place)
        except OSError:  # no such file
            return

    @classmethod
    def wrap(cls, task_model: Any, **config_fields: Any) -> Any:
        """Return a network over a task model in memory. The model itself is taken, not a copy.

        Its own configuration gets the given labels and problem type, and a missing padding token.

        Args:
            task_model: a model of transformers, or peft's wrapper of one.
            config_fields: fields of `SelfModelingConfig`: target_layers, aux_weight, target_pooling, ...

        Raises:
            ValueError: a model of another kind, or one that transformers' Auto class would not make. An adapter that
                is not trained, or does not save drawn or trained weights of its base.

        Example:
            >>> from transformers import GPT2Config, GPT2LMHeadModel
            >>> from selfmod_hf import SelfModelingForCausalLM
            >>> gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=9))
            >>> network = SelfModelingForCausalLM.wrap(gpt2, target_layers=["h.*"], aux_weight=0.1)
            >>> network.target_layers
            ['transformer.h.0', 'transformer.h.1']
        """
        for argument in taken_from(config_fields):
            raise ValueError(f"{argument}: allowed where the task model is loaded, with from_backbone_pretrained")
        if not has_adapter(task_model):
            return cls._around(task_model, config_fields)
        settings = check_adapter(task_model)
        network = cls._around(task_model, config_fields)
        plain = plain_task_model(task_model)
        base = settings.base_model_name_or_path
        check_drawn(task_model, drawn_weights(cls.kind, plain, base, settings.revision or "main"))
        return network

    @classmethod
    def _around(cls, task_model: Any, config_fields: dict[str, Any]) -> Any:
        """Return a network over a task model in memory, with fields of its configuration."""
        plain = plain_task_model(task_model)
        expected = cls.kind.model_class(plain.config)
        if expected is not type(plain):
            allowed = expected.__name__ if expected is not None else "none of this model type"
            raise ValueError(
                f"task_model: a {type(plain).__name__} is no model for {cls.kind.name}; allowed is {allowed}"
            )
        if is_quantized(plain) and not has_adapter(task_model):
            raise ValueError("task_model: quantized weights are not trained; allowed with an adapter of peft")
        warn_of_no_weight(config_fields)
        config = cls.config_class(wrapped_config=plain.config, **config_fields)
        training = plain.training
        make: Any = cls  # the constructor of the subclasses takes the task model
        return make(config, task_model).train(training)

    @classmethod
    def from_backbone_pretrained(
        cls, name: str, *, revision: str = "main", head: str = "own", adapter: Any = None, **config_fields: Any
    ) -> Any:
        """Return a network over a pretrained task model, with its own head.

        Args:
            name: Hub id or folder of a model of transformers. Only safetensors are read.
            revision: branch, tag or commit of the model's repository.
            head: "own", the only one here.
            adapter: configuration of peft, for example a `LoraConfig`. Its weights are trained in place of the model's.
            config_fields: fields of `SelfModelingConfig`: target_layers, aux_weight, num_labels, ... Also arguments of
                `from_pretrained` for the task model: `dtype` (default: float32), `attn_implementation`, `token`, ...

        Raises:
            OSError: no such model, or one without safetensors.
            ValueError: a model with incomplete weights below its head, another `head`, or an unsupported argument.
        """
        if head != "own":
            raise ValueError(f"head={head!r}: {cls.__name__} keeps the task model's own head; allowed is own")
        options = {**taken_from(config_fields), "revision": revision}
        if adapter is not None:
            if options.get("subfolder"):
                raise ValueError("subfolder: allowed without an adapter, whose files name a repository alone")
            options["revision"] = commit_of(name, options)  # because the adapter does not fit later weights of a branch
        labels = _labels_from(config_fields)
        published, _ = cls.config_class.get_config_dict(name, **place_in(options))
        check_order(published, labels.get("id2label"), name)
        inner = AutoConfig.from_pretrained(name, trust_remote_code=False, **place_in(options), **labels)
        task_model, drawn = pretrained_task_model(cls.kind, name, inner, options)
        if drawn:
            warnings.warn(f"{name}: has no weights for {', '.join(drawn)}; they are drawn", stacklevel=2)
        is_folder = os.path.isdir(name)
        if adapter is not None:
            task_model = add_adapter(task_model, adapter, drawn, str(name), options["revision"])
            check_adapter(task_model)
        if not is_folder:  # a folder of this machine means nothing elsewhere
            config_fields["base_model"] = name
        network = cls._around(task_model, config_fields)
        if is_folder:
            network.pretrained_folder = name
        return network


def _labels_from(fields: dict[str, Any]) -> dict[str, Any]:
    """Take the fields of labels out of those of a network's configuration, and return them."""
    labels = {}
    for field in _LABEL_FIELDS:
        if fields.get(field) is not None:
            labels[field] = fields.pop(field)
    if "id2label" in labels:  # the numbers of the repository's own labels would stay
        labels.setdefault("label2id", {label: int(number) for number, label in labels["id2label"].items()})
    return labels
