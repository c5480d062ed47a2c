"""The models, registered with transformers' Auto classes on import."""

from transformers import AutoConfig, AutoModelForImageClassification

from .configuration_self_modeling import SelfModelingConfig
from .modeling_self_modeling import (
    SelfModelingForImageClassification,
    SelfModelingOutput,
    SelfModelingPreTrainedModel,
)

AutoConfig.register(SelfModelingConfig.model_type, SelfModelingConfig)
AutoModelForImageClassification.register(SelfModelingConfig, SelfModelingForImageClassification)
# these write the code beside the weights, for those who load with trust_remote_code
SelfModelingConfig.register_for_auto_class()
SelfModelingForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = [
    "SelfModelingConfig",
    "SelfModelingForImageClassification",
    "SelfModelingOutput",
    "SelfModelingPreTrainedModel",
]
