"""Model cards, filled from what a run recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

    from ..complexity import LLCResult
    from ..models import SelfModelingConfig

METRICS = {"accuracy": "Accuracy", "weight_width": "Weight width (SD of the last layer's weights)"}


@dataclass(frozen=True)
class CardFacts:
    """What a card says of a run.

    Attributes:
        repo_id: the repository the model goes to, ``user/name``.
        config: of the model.
        dataset: Hub id of the data set; None where it is not on the Hub.
        dataset_title: as a person calls it.
        split: split the metrics were measured on.
        epochs: epochs trained.
        metrics: metric type (`accuracy`, `weight_width`) to value.
        recipe: setting to value, as trained.
        dataset_config: configuration of the data set, where it has several.
        rlct: the newest estimate; its settings stand beside the value, since two RLCTs are comparable only where
            these agree.
    """

    repo_id: str
    config: SelfModelingConfig
    dataset: str | None
    dataset_title: str
    split: str
    epochs: float
    metrics: dict[str, float]
    recipe: dict[str, Any] = field(default_factory=dict)
    dataset_config: str | None = None
    rlct: LLCResult | None = None


def model_card(facts: CardFacts) -> ModelCard:
    """The card of a trained model; its metrics also stand in the metadata as `model-index`."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    name = facts.repo_id.split("/")[-1]
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=facts.dataset or facts.dataset_title,
            dataset_name=facts.dataset_title,
            dataset_config=facts.dataset_config,
            dataset_split=facts.split,
            metric_type=metric,
            metric_name=METRICS[metric],
            metric_value=value,
        )
        for metric, value in facts.metrics.items()
    ]
    metrics = [{"name": METRICS[metric], "value": f"{value:.4f}"} for metric, value in facts.metrics.items()]
    if facts.rlct is not None:
        results.append(_rlct_result(facts, facts.rlct))
        metrics.append({"name": "RLCT", "value": rlct_sentence(facts.rlct)})
    data = ModelCardData(
        license="mit",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["self-modeling", "selfmod_hf", "arxiv:2407.10188"],
        datasets=[facts.dataset] if facts.dataset else None,
        metrics=["accuracy"],
        model_name=name,
        eval_results=results,
    )
    return ModelCard.from_template(
        data,
        template_str=files(__package__).joinpath("model_card.md.jinja").read_text(),
        name=name,
        repo_id=facts.repo_id,
        target_layers=facts.config.target_layers,
        aux_weight=facts.config.aux_weight,
        detach_targets=facts.config.detach_targets,
        dataset=f"`{facts.dataset}`" if facts.dataset else facts.dataset_title,
        split=facts.split,
        epochs=f"{facts.epochs:g}",
        metrics=metrics,
        recipe=facts.recipe,
    )


def _rlct_result(facts: CardFacts, rlct: LLCResult) -> EvalResult:
    from huggingface_hub import EvalResult

    settings = rlct.settings
    return EvalResult(
        task_type="image-classification",
        dataset_type=facts.dataset or facts.dataset_title,
        dataset_name=facts.dataset_title,
        dataset_config=facts.dataset_config,
        dataset_split="train",
        metric_type="rlct",
        metric_name="RLCT (local learning coefficient)",
        metric_value=rlct.llc if math.isfinite(rlct.llc) else str(rlct.llc),
        metric_args={
            "standard_error": rlct.standard_error,
            "status": rlct.status,
            "nbeta": rlct.nbeta,
            "sampler": settings.sampler,
            "step_size": settings.step_size,
            "localization": settings.localization,
            "num_chains": settings.num_chains,
            "num_draws": settings.num_draws,
            "preset": settings.preset,
        },
    )


def rlct_sentence(rlct: LLCResult) -> str:
    """Value, error, status and what it was measured with, in one line."""
    settings = rlct.settings
    return (
        f"{rlct.llc:.2f} ± {rlct.standard_error:.2f} ({rlct.status}; nβ = {rlct.nbeta:.2f}, {settings.sampler}, "
        f"step size {settings.step_size:g}, localization {settings.localization:g}, "
        f"{settings.num_chains} chains x {settings.num_draws} draws, preset {settings.preset})"
    )
