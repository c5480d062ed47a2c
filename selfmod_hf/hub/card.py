"""Cards of the Hub, filled from what a run recorded: of a model here, of a sweep in `reports/cards.py`.

What a person writes between the two markers of a card is kept when the card is written anew.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..weights import UNCHECKED

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

    from ..complexity import LLCResult
    from ..models import SelfModelingConfig

METRICS = {"accuracy": "Accuracy", "weight_width": "Weight width (SD of the last layer's weights)"}
TAGS = ["self-modeling", "selfmod_hf", "arxiv:2407.10188"]
CITATION = """\
@article{premakumar2024unexpected,
  title   = {Unexpected Benefits of Self-Modeling in Neural Systems},
  author  = {Premakumar, Vickram N. and Vaiana, Michael and Pop, Florin and Rosenblatt, Judd and
             de Lucena, Diogo Schwerz and Ziman, Kirsten and Graziano, Michael S. A.},
  journal = {arXiv preprint arXiv:2407.10188},
  year    = {2024}
}"""

UNKNOWN_DATA = "unknown"  # the usual entry for data that are not on the Hub

BEGIN, END = "<!-- notes: what stands from here -->", "<!-- to here is yours, and kept -->"


@dataclass(frozen=True)
class CardFacts:
    """What a card says of a run.

    Attributes:
        repo_id: the repository the model goes to, ``user/name``.
        config: of the model.
        dataset: Hub id of the data set; None where it is not on the Hub.
        dataset_title: as a person calls it.
        split: split the metrics were measured on.
        epochs: epochs trained; None: not recorded.
        metrics: metric type (`accuracy`, `weight_width`) to value.
        recipe: setting to value, as trained.
        train_split: split of the training, on which the RLCT is estimated.
        dataset_config: configuration of the data set, where it has several.
        rlct: the newest estimate; its settings stand beside the value, since two RLCTs are comparable only where
            these agree.
        curves, trace: whether `training.png` and `rlct.png` lie beside the card.
        weights: SHA-256 of the weights that the figures are of, if known.
        metrics_checked: whether the metrics are known to be of these weights.
        license: `license`, `license_name` and `license_link`, those that are known.
        tags: more tags of the metadata.
        has_processor: whether an image processor or tokenizer lies beside the weights.
    """

    repo_id: str
    config: SelfModelingConfig
    dataset: str | None
    dataset_title: str
    split: str
    epochs: float | None
    metrics: dict[str, float]
    recipe: dict[str, Any] = field(default_factory=dict)
    train_split: str = "train"
    dataset_config: str | None = None
    rlct: LLCResult | None = None
    curves: bool = False
    trace: bool = False
    weights: str | None = None
    metrics_checked: bool = True
    license: Mapping[str, Any] = field(default_factory=dict)
    has_processor: bool = True
    tags: Sequence[str] = ()

    @property
    def is_text(self) -> bool:
        return self.config.reads_text

    @property
    def task_type(self) -> str:
        """As the Hub names it."""
        return "text-classification" if self.is_text else "image-classification"


def model_card(facts: CardFacts, notes: str = "") -> ModelCard:
    """The card of a trained model; its metrics also stand in the metadata as `model-index`.

    Args:
        facts: what the run recorded.
        notes: a person's text, kept between the markers.
    """
    from huggingface_hub import ModelCard, ModelCardData

    name = facts.repo_id.split("/")[-1]
    results = []
    for metric, figure in facts.metrics.items():
        arguments = {"weights_sha256": facts.weights} if facts.weights and facts.metrics_checked else None
        results.append(_result(facts, metric, METRICS[metric], finite(figure), facts.split, arguments))
    if facts.rlct is not None:
        value = finite(facts.rlct.llc)
        title = rlct_name(facts.rlct.nbeta, facts.rlct.sampler, facts.rlct.settings.parameter_names)
        results.append(_result(facts, "rlct", title, value, facts.train_split, rlct_arguments(facts.rlct)))
    data = ModelCardData(
        **facts.license,
        library_name="transformers",
        pipeline_tag=facts.task_type,
        tags=[*TAGS, *facts.tags],
        base_model=facts.config.base_model,
        datasets=[facts.dataset] if facts.dataset else None,
        metrics=["accuracy"] if "accuracy" in facts.metrics else None,
        model_name=name,
        eval_results=results or None,
    )
    head = "SequenceClassification" if facts.is_text else "ImageClassification"
    return ModelCard.from_template(
        data,
        template_str=template("model_card.md.jinja"),
        name=name,
        repo_id=facts.repo_id,
        kind="text" if facts.is_text else "image",
        task_type=facts.task_type,
        model_class=f"SelfModelingFor{head}",
        auto_class=f"AutoModelFor{head}",
        target_layers=plain_text(facts.config.target_layers),
        config=facts.config,
        dataset=f"`{plain_text(facts.dataset)}`" if facts.dataset else plain_text(facts.dataset_title),
        split=plain_text(facts.split),
        train_split=plain_text(facts.train_split),
        epochs="" if facts.epochs is None else f" after {facts.epochs:g} epochs",
        metrics={METRICS[metric]: f"{value:.4f}" for metric, value in facts.metrics.items()},
        rlct=plain_text(rlct_lines(facts.rlct)) if facts.rlct else None,
        rlct_part=plain_text(facts.rlct.settings.parameter_names) if facts.rlct else "",
        recipe=plain_text(facts.recipe),
        curves=facts.curves,
        trace=facts.trace,
        weights=facts.weights,
        metrics_checked=facts.metrics_checked,
        has_processor=facts.has_processor,
        notes=between_markers(notes),
        citation=CITATION,
    )


def _result(
    facts: CardFacts, metric: str, name: str, value: Any, split: str, arguments: dict[str, Any] | None = None
) -> EvalResult:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=facts.task_type,
        dataset_type=facts.dataset or UNKNOWN_DATA,
        dataset_name=facts.dataset_title,
        dataset_config=facts.dataset_config,
        dataset_split=split,
        metric_type=metric,
        metric_name=name,
        metric_value=value,
        metric_args=arguments,
    )


def plain_text(value: Any) -> Any:
    """Text of a run's files as it may stand in a card: on one line, with no HTML, link or cell of its own making."""
    if isinstance(value, dict):
        return {plain_text(key): plain_text(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_text(entry) for entry in value]
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    for mark, shown in (("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "'"), ("](", "] (")):
        text = text.replace(mark, shown)
    return text


def template(name: str, package: str = __package__) -> str:
    """The text of a file that lies in a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def finite(value: float) -> float | str:
    """The number; as text where YAML and JSON have none for it."""
    return value if math.isfinite(value) else str(value)


# ---- the RLCT ----


def rlct_name(nbeta: float, sampler: str, part: str = "") -> str:
    """Return the metric's name.

    RLCTs at another nβ, or of another sampler or part, are different quantities. A table of metrics shows only names
    and values, so the name must tell them apart.
    """
    return f"RLCT at nβ = {nbeta:.4g} ({sampler})" + (f", of {part} alone" if part else "")


def rlct_arguments(rlct: LLCResult) -> dict[str, Any]:
    """What decides an estimate, and how far it can be trusted: the arguments of the metric."""
    settings = rlct.settings
    return {
        "standard_error": finite(rlct.standard_error),
        "status": rlct.status,
        "nbeta": rlct.nbeta,
        "nbeta_rule": settings.nbeta_rule,
        "sampler": settings.sampler,
        "step_size": settings.step_size,
        "localization": settings.localization,
        "batch_size": settings.batch_size,
        "data": settings.data,
        "num_samples": settings.num_samples,
        "num_chains": settings.num_chains,
        "num_draws": settings.num_draws,
        "num_burnin_steps": settings.num_burnin_steps,
        "seed": settings.seed,
        "compute_dtype": settings.compute_dtype,
        "preset": settings.preset,
        "options": dict(settings.options),
        "parameters": list(settings.parameters or ()) or "all",
        **({"weights_sha256": rlct.weights_sha256} if rlct.weights_sha256 else {}),
    }


def rlct_lines(rlct: LLCResult) -> dict[str, str]:
    """The same for people."""
    settings = rlct.settings
    part = f", of the parameters {settings.parameter_names} alone" if settings.parameters else ""
    options = "".join(f", {name} {value}" for name, value in settings.options.items())
    return {
        "RLCT": f"{rlct.llc:.2f} ± {rlct.standard_error:.2f} (standard error){part}",
        "status": f"{rlct.status}: {rlct.status_reason}",
        "nβ": f"{rlct.nbeta:.2f} ({settings.nbeta_rule})",
        "sampler": f"{settings.sampler}, step size {settings.step_size:g}, localization {settings.localization:g}, "
        f"batch size {settings.batch_size}{options}, in {settings.compute_dtype}",
        "draws": f"{settings.num_chains} chains x {settings.num_draws}, the first {settings.num_burnin_steps} left out",
        "R-hat, effective sample size": f"{rlct.rhat:.3f}, {rlct.ess:.0f}",
        "data": f"{settings.data or 'not recorded'}, {settings.num_samples} samples",
        "loss at the trained weights": f"{rlct.init_loss:.5f} nats",
        "preset, seed": f"{settings.preset}, {settings.seed}",
        "weights": f"SHA-256 {rlct.weights_sha256}" if rlct.weights_sha256 else UNCHECKED,
    }


# ---- what a person wrote ----


def between_markers(notes: str) -> str:
    """Return the user's notes between the two markers of a card."""
    return f"{BEGIN}\n{notes}\n{END}" if notes else f"{BEGIN}\n{END}"


def notes_in(card: str) -> str:
    """A person's text in a card; empty where there is none.

    Raises:
        InputError: one marker without the other, or several: what is to be kept is not clear.
    """
    found = re.findall(re.escape(BEGIN) + r"\n(.*?)\n?" + re.escape(END), card, re.DOTALL)
    if len(found) > 1 or card.count(BEGIN) != len(found) or card.count(END) != len(found):
        raise InputError("README.md", "its markers", f"allowed is one pair, {BEGIN!r} and {END!r}")
    return found[0] if found else ""


def merged_notes(local: str, remote: str) -> str:
    """The text to keep, of the card in the folder and the one on the Hub.

    Raises:
        InputError: both have one, and they differ.
    """
    own, theirs = notes_in(local), notes_in(remote)
    if own and theirs and own != theirs:
        raise InputError("README.md", "the text between its markers", "differs here and on the Hub; empty one of them")
    return own or theirs
