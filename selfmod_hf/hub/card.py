"""Fill the card of a model from the records of a run. `reports/cards.py` fills the card of a sweep.

The text between the two markers of a card belongs to the user. It is kept when the card is written again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..errors import InputError
from ..models.configuration_self_modeling import CONTROLS
from ..models.tasks_self_modeling import KINDS
from ..weights import KEY, UNCHECKED
from .metric_names import WIDTH, metric_arguments, metric_title

if TYPE_CHECKING:
    from ..complexity import LLCResult
    from ..models import SelfModelingConfig

# what the self-model predicts, by `target_source`
PREDICTED = {
    "own": "its own activations",
    "shuffled": "the activations of another sample of the batch",
    "random": "a fixed random projection of its input, in place of its activations",
}
TAGS = ["self-modeling", "selfmod_hf", "arxiv:2407.10188"]
# the journal's version first, then the preprint. The authors of both are those of the preprint, which we have read
CITATION = """\
@article{premakumar2026unexpected,
  title   = {Unexpected benefits of self-modelling in neural systems},
  author  = {Premakumar, Vickram N. and Vaiana, Michael and Pop, Florin and Rosenblatt, Judd and
             de Lucena, Diogo Schwerz and Ziman, Kirsten and Graziano, Michael S. A.},
  journal = {Philosophical Transactions of the Royal Society A},
  volume  = {384},
  number  = {2320},
  pages   = {20240531},
  year    = {2026},
  doi     = {10.1098/rsta.2024.0531}
}

@article{premakumar2024unexpected,
  title   = {Unexpected Benefits of Self-Modeling in Neural Systems},
  author  = {Premakumar, Vickram N. and Vaiana, Michael and Pop, Florin and Rosenblatt, Judd and
             de Lucena, Diogo Schwerz and Ziman, Kirsten and Graziano, Michael S. A.},
  journal = {arXiv preprint arXiv:2407.10188},
  year    = {2024}
}"""

UNKNOWN_DATA = "unknown"  # the Hub's usual entry for data outside of the Hub

BEGIN, END = "<!-- notes: what stands from here -->", "<!-- to here is yours, and kept -->"
ESCAPES = {"<": "&lt;", ">": "&gt;", "|": "\\|", "`": "'", "](": "] ("}


@dataclass(frozen=True)
class CardFacts:
    """Holds the content of a card.

    Attributes:
        repo_id: the model's repository, ``user/name``.
        config: of the model.
        dataset: Hub id of the data set. None: it is not on the Hub.
        dataset_title: name of the data for people.
        split: the split of the metrics.
        epochs: epochs trained. None: not recorded.
        metrics: metric type, a key of `metric_names.METRICS`, to value.
        recipe: setting of the training to value.
        train_split: the split of the training and of the RLCT.
        dataset_config: configuration of the data set, if it has several.
        rlct: the newest estimate. The card shows its settings, because two RLCTs are comparable only if these agree.
        curves: whether `training.png` is beside the card.
        trace: whether `rlct.png` is beside the card.
        weights: SHA-256 of the weights, if known.
        metrics_checked: whether the metrics are known to belong to these weights.
        license: `license`, `license_name` and `license_link`, if known.
        tags: more tags of the metadata.
        has_processor: whether an image processor or tokenizer is beside the weights.
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
    def name(self) -> str:
        """Return the name of the repository without its user."""
        return self.repo_id.split("/")[-1]

    @property
    def task_type(self) -> str:
        """Return the Hub's name of the task."""
        if self.config.task_type is not None:
            return KINDS[self.config.task_type].pipeline_tag
        return "text-classification" if self.config.reads_text else "image-classification"

    @property
    def head(self) -> str:
        """Return the end of the names of the model classes."""
        if self.config.task_type is not None:
            return KINDS[self.config.task_type].head
        return "SequenceClassification" if self.config.reads_text else "ImageClassification"


def model_card(facts: CardFacts, notes: str = "") -> ModelCard:
    """Return the card of a trained model. Its metadata has the metrics as `model-index`.

    Args:
        facts: the content.
        notes: the user's text between the markers.
    """
    rlct, rlct_part = None, ""
    if facts.rlct is not None:
        rlct = plain_text(rlct_lines(facts.rlct))
        if facts.weights is not None and facts.rlct.weights_sha256 == facts.weights:
            rlct["weights"] = "those of the results above"
        rlct_part = plain_text(facts.rlct.settings.part)
    dataset = plain_text(facts.dataset_title)
    if facts.dataset:
        dataset = f"`{plain_text(facts.dataset)}`"
    epochs = ""
    if facts.epochs is not None:
        unit = "epoch" if facts.epochs == 1 else "epochs"
        epochs = f" after {facts.epochs:g} {unit}"
    metrics = {}
    for metric, value in facts.metrics.items():
        metrics[metric_title(metric, facts.config)] = f"{value:.4f}"
    classifies = facts.task_type.endswith("-classification")
    kind = facts.task_type.removesuffix("-classification")
    return ModelCard.from_template(
        _metadata(facts),
        template_str=template("model_card.md.jinja"),
        name=facts.name,
        repo_id=facts.repo_id,
        kind=kind,
        network=f"{kind} classifier" if classifies else f"{kind} network",
        classifies=classifies,
        task_type=facts.task_type,
        model_class=f"SelfModelingFor{facts.head}",
        auto_class=f"AutoModelFor{facts.head}",
        target_layers=plain_text(facts.config.target_layers),
        config=facts.config,
        predicted=_predicted(facts.config),
        controls=_controls(facts.config),
        dataset=dataset,
        split=plain_text(facts.split),
        train_split=plain_text(facts.train_split),
        epochs=epochs,
        metrics=metrics,
        rlct=rlct,
        rlct_part=rlct_part,
        recipe=plain_text(facts.recipe),
        curves=facts.curves,
        trace=facts.trace,
        weights=facts.weights,
        metrics_checked=facts.metrics_checked,
        has_processor=facts.has_processor,
        notes=between_markers(notes),
        citation=CITATION,
    )


def _predicted(config: SelfModelingConfig) -> str:
    """Return the targets of the self-model in words."""
    return PREDICTED.get(config.target_source, "another network's activations")


def _controls(config: SelfModelingConfig) -> str:
    """Return the fields of controls that differ from their defaults."""
    text = ""
    for name, default in CONTROLS.items():
        value = getattr(config, name)
        if name == "target_source":
            value = config.published_source
        if value != default:
            text += f", {name.replace('_', ' ')} {plain_text(value)}"
    return text


def _metadata(facts: CardFacts) -> ModelCardData:
    data = ModelCardData(
        **facts.license,
        library_name="transformers",
        pipeline_tag=facts.task_type,
        tags=[*TAGS, *facts.tags],
        base_model=facts.config.base_model,
        datasets=None,
        metrics=None,
        model_name=facts.name,
        eval_results=_evaluations(facts) or None,
    )
    if facts.dataset:
        data.datasets = [facts.dataset]
    data.metrics = [name for name in facts.metrics if name != WIDTH] or None
    return data


def _evaluations(facts: CardFacts) -> list[EvalResult]:
    data = {
        "task_type": facts.task_type,
        "dataset_type": facts.dataset or UNKNOWN_DATA,
        "dataset_name": facts.dataset_title,
        "dataset_config": facts.dataset_config,
    }
    evaluations = []
    for metric, value in facts.metrics.items():
        arguments = metric_arguments(metric, facts.config)
        if facts.weights and facts.metrics_checked:
            arguments[KEY] = facts.weights
        evaluations.append(
            EvalResult(
                **data,
                dataset_split=facts.split,
                metric_type=metric,
                metric_name=metric_title(metric, facts.config),
                metric_value=finite(value),
                metric_args=arguments or None,
            )
        )
    rlct = facts.rlct
    if rlct is not None:
        evaluations.append(
            EvalResult(
                **data,
                dataset_split=facts.train_split,
                metric_type="rlct",
                metric_name=rlct_name(rlct.nbeta, rlct.sampler, rlct.settings.parameter_names),
                metric_value=finite(rlct.llc),
                metric_args=rlct_arguments(rlct),
            )
        )
    return evaluations


def plain_text(value: Any) -> Any:
    """Return text of a run's files on one line, without HTML, links and table cells of its own."""
    if isinstance(value, dict):
        return {plain_text(key): plain_text(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_text(entry) for entry in value]
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    for mark, shown in ESCAPES.items():
        text = text.replace(mark, shown)
    return text


def template(name: str, package: str = __package__) -> str:
    """Return the text of a file inside a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def finite(value: float) -> float | str:
    """Return a number, or its text if YAML and JSON have no such number."""
    return value if math.isfinite(value) else str(value)


# ---- the RLCT ----


def rlct_name(nbeta: float, sampler: str, part: str = "") -> str:
    """Return the metric's name.

    RLCTs at another nβ, or of another sampler or part, are different quantities. A table of metrics shows only names
    and values, so the name must distinguish them.
    """
    name = f"RLCT at nβ = {nbeta:.4g} ({sampler})"
    if part:
        name += f", of {part} alone"
    return name


def rlct_arguments(rlct: LLCResult) -> dict[str, Any]:
    """Return the arguments of the metric: the settings of an estimate, and its reliability."""
    settings = rlct.settings
    arguments = {
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
    }
    if settings.heads is not None:
        arguments["heads"] = list(settings.heads)
    if rlct.weights_sha256:
        arguments[KEY] = rlct.weights_sha256
    return arguments


def rlct_lines(rlct: LLCResult) -> dict[str, str]:
    """Return the same for people, label to text."""
    settings = rlct.settings
    value = f"{rlct.llc:.2f} ± {rlct.standard_error:.2f} (standard error)"
    if settings.parameters:
        value += f", of {settings.part} alone"
    sampler = f"{settings.sampler}, step size {settings.step_size:g}, localization {settings.localization:g}"
    sampler += f", batch size {settings.batch_size}"
    for name, option in settings.options.items():
        sampler += f", {name} {option}"
    sampler += f", in {settings.compute_dtype}"
    burnin = f"the first {settings.num_burnin_steps} left out"
    if settings.shared_minibatches:
        burnin += ", the same minibatches in all chains"
    weights = UNCHECKED
    if rlct.weights_sha256:
        weights = f"SHA-256 {rlct.weights_sha256[:16]}..."
    return {
        "RLCT": value,
        "status": f"{rlct.status}: {rlct.status_reason}",
        "nβ": f"{rlct.nbeta:.2f} ({settings.nbeta_rule})",
        "sampler": sampler,
        "draws": f"{settings.num_chains} chains x {settings.num_draws}, {burnin}",
        "R-hat, effective sample size": f"{rlct.rhat:.3f}, {rlct.ess:.0f}",
        "data": f"{settings.data or 'not recorded'}, {settings.num_samples} samples",
        "loss at the trained weights": f"{rlct.init_loss:.5f} nats",
        "preset, seed": f"{settings.preset}, {settings.seed}",
        "weights": weights,
    }


# ---- the user's text ----


def between_markers(notes: str) -> str:
    """Return the user's notes between the two markers of a card."""
    lines = [BEGIN, notes, END] if notes else [BEGIN, END]
    return "\n".join(lines)


def notes_in(card: str) -> str:
    """Return the user's text in a card, or an empty text.

    Raises:
        InputError: one marker without the other, or several. The text to keep is not clear.
    """
    found = re.findall(re.escape(BEGIN) + r"\n(.*?)\n?" + re.escape(END), card, re.DOTALL)
    if len(found) > 1 or card.count(BEGIN) != len(found) or card.count(END) != len(found):
        raise InputError("README.md", "its markers", f"allowed is one pair, {BEGIN!r} and {END!r}")
    return "".join(found)


def merged_notes(local: str, remote: str) -> str:
    """Return the text to keep, from the card in the folder and the card on the Hub.

    Raises:
        InputError: both cards have a text, and the texts differ.
    """
    own, theirs = notes_in(local), notes_in(remote)
    if own and theirs and own != theirs:
        raise InputError("README.md", "the text between its markers", "differs here and on the Hub; empty one of them")
    return own or theirs
