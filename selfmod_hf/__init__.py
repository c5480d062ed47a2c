"""Self-modeling networks for Hugging Face, and the measures of their complexity.

Names are resolved on first use, so that ``import selfmod_hf`` loads neither torch nor transformers.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# public name -> module that defines it
_EXPORTS: dict[str, str] = {
    "ImagePreprocessing": ".data",
    "Member": ".trainer.population",
    "RunSettings": ".experiments.run_settings",
    "SelfModelingConfig": ".models",
    "SelfModelingForCausalLM": ".models",
    "SelfModelingForImageClassification": ".models",
    "SelfModelingForMaskedLM": ".models",
    "SelfModelingForMultipleChoice": ".models",
    "SelfModelingForQuestionAnswering": ".models",
    "SelfModelingForSequenceClassification": ".models",
    "SelfModelingForTokenClassification": ".models",
    "SelfModelingOutput": ".models",
    "SelfModelingPopulation": ".trainer.population",
    "SelfModelingTrainer": ".trainer",
    "SelfModelingTrainingArguments": ".trainer",
    "SweepSettings": ".experiments.sweep_settings",
    "TaskSpec": ".data",
    "TuningResult": ".experiments.tuning_result",
    "backbone_preprocessing": ".data",
    "get_task": ".data",
    "load_blocks": ".data",
    "load_images": ".data",
    "load_results": ".hub.results",
    "load_texts": ".data",
    "push": ".reports.push",
    "report": ".reports.report",
    "reproduce": ".reproduction",
    "run_sweep": ".experiments.sweep",
    "LLCCalibration": ".complexity",
    "LLCResult": ".complexity",
    "calibrate_llc": ".complexity",
    "calibrate_rlct": ".trainer",
    "estimate_llc": ".complexity",
    "estimate_checkpoints": ".trainer.saved_rlct",
    "estimate_rlct": ".trainer",
    "head_masks": ".trainer.head_groups",
    "replicate_rlct": ".trainer.saved_rlct",
    "tune": ".experiments.tune",
    "weight_width": ".complexity",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
