"""The models, registered with transformers' Auto classes on import."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from .configuration_self_modeling import SelfModelingConfig
from .image_processing_self_modeling import SelfModelingImageProcessor
from .loading import check_config, load_config, load_model, model_class_of
from .losses_self_modeling import SelfModelingOutput
from .modeling_self_modeling import SelfModelingForImageClassification, SelfModelingForSequenceClassification
from .pretrained_self_modeling import SelfModelingPreTrainedModel

AutoConfig.register(SelfModelingConfig.model_type, SelfModelingConfig)
AutoModelForImageClassification.register(SelfModelingConfig, SelfModelingForImageClassification)
AutoModelForSequenceClassification.register(SelfModelingConfig, SelfModelingForSequenceClassification)
# one class for both backends: it gives the same pixels with and without torchvision
AutoImageProcessor.register(
    SelfModelingConfig,
    image_processor_classes={"pil": SelfModelingImageProcessor, "torchvision": SelfModelingImageProcessor},
)
# these write the code beside the weights, for loading with trust_remote_code
SelfModelingConfig.register_for_auto_class()
SelfModelingForImageClassification.register_for_auto_class("AutoModelForImageClassification")
SelfModelingForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
SelfModelingImageProcessor.register_for_auto_class()
# by name, because `hub` stands above this package and is imported when something is pushed
SelfModelingPreTrainedModel.pushed_by = "selfmod_hf.hub.push_network"

__all__ = [
    "SelfModelingConfig",
    "SelfModelingForImageClassification",
    "SelfModelingForSequenceClassification",
    "SelfModelingImageProcessor",
    "SelfModelingOutput",
    "SelfModelingPreTrainedModel",
    "check_config",
    "load_config",
    "load_model",
    "model_class_of",
]
