"""The models, registered with transformers' Auto classes on import."""

import transformers
from transformers import AutoConfig, AutoImageProcessor

from .configuration_self_modeling import SelfModelingConfig
from .image_processing_self_modeling import SelfModelingImageProcessor
from .loading import check_config, load_config, load_model, model_class_of
from .losses_self_modeling import SelfModelingOutput
from .modeling_self_modeling import SelfModelingForImageClassification, SelfModelingForSequenceClassification
from .pretrained_self_modeling import SelfModelingPreTrainedModel
from .tasks_self_modeling import KINDS, TaskKind
from .wrapped_classes_self_modeling import (
    SelfModelingForCausalLM,
    SelfModelingForMaskedLM,
    SelfModelingForMultipleChoice,
    SelfModelingForQuestionAnswering,
    SelfModelingForTokenClassification,
)
from .wrapped_self_modeling import WrappedTask

_PUBLIC = (
    SelfModelingForImageClassification,
    SelfModelingForSequenceClassification,
    SelfModelingForTokenClassification,
    SelfModelingForQuestionAnswering,
    SelfModelingForMultipleChoice,
    SelfModelingForCausalLM,
    SelfModelingForMaskedLM,
)
AutoConfig.register(SelfModelingConfig.model_type, SelfModelingConfig)
# one class for both backends: it gives the same pixels with and without torchvision
AutoImageProcessor.register(
    SelfModelingConfig,
    image_processor_classes={"pil": SelfModelingImageProcessor, "torchvision": SelfModelingImageProcessor},
)
# `register_for_auto_class` writes the code beside the weights, for loading with trust_remote_code
SelfModelingConfig.register_for_auto_class()
for _model_class in _PUBLIC:
    _auto_name = _model_class.__name__.replace("SelfModelingFor", "AutoModelFor")
    getattr(transformers, _auto_name).register(SelfModelingConfig, _model_class)
    _model_class.register_for_auto_class(_auto_name)
SelfModelingImageProcessor.register_for_auto_class()
# by name, because `hub` stands above this package and is imported when something is pushed
SelfModelingPreTrainedModel.pushed_by = "selfmod_hf.hub.push_network"

__all__ = [
    "KINDS",
    "SelfModelingConfig",
    "SelfModelingForCausalLM",
    "SelfModelingForImageClassification",
    "SelfModelingForMaskedLM",
    "SelfModelingForMultipleChoice",
    "SelfModelingForQuestionAnswering",
    "SelfModelingForSequenceClassification",
    "SelfModelingForTokenClassification",
    "SelfModelingImageProcessor",
    "SelfModelingOutput",
    "SelfModelingPreTrainedModel",
    "TaskKind",
    "WrappedTask",
    "check_config",
    "load_config",
    "load_model",
    "model_class_of",
]
