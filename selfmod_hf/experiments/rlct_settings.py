"""The settings of the RLCT of a saved network, and its training data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..complexity import LLCResult
from ..complexity.settings import DTYPES, LLCSettings
from ..data import BlockTensors, ImagePreprocessing, TaskSpec, TensorData
from ..data.tokenizing import limit_of
from ..errors import InputError
from ..hub.eval_results import EvalTask
from ..hub.plain_model import task_fields
from ..hub.saved import SavedNetwork
from ..trainer.saved_rlct import choose_settings, saved_checkpoints
from .data_settings import DataSettings, height_and_width, load_data
from .setting import Values, setting

# settings of the data that change every sample -> their phrase in the description of the data
_PREPROCESSING = {
    "max_length": "texts of at most {} tokens",
    "tokenizer_name": "tokenizer {}",
    "image_size": "images of {} pixels",
    "image_mean": "mean {}",
    "image_std": "deviation {}",
    "interpolation": "resized by {}",
}
SAMPLING = {field.name for field in fields(LLCSettings)} - {"seed", "device", "preset", "resume_from"}


@dataclass
class RLCTSettings:
    """Settings of an RLCT. A field without a value is the preset's. See `LLCSettings`."""

    rlct_preset: str | None = setting(
        "paper (published recipe of the task), paper-text (its supplement's), theory (nβ = n/log n); default: the "
        "settings of the RLCT published with a `model` of the Hub, else paper."
    )
    sampler: str | None = setting(
        "sgld, fisher_sgld, rmsprop_sgld, sghmc, preconditioned or mala; default: the preset's, as for what follows."
    )
    step_size: float | None = setting("ε of the sampler.")
    localization: float | None = setting("γ, the strength of the pull to the trained weights.")
    nbeta: str | None = setting("Inverse temperature times n: a number, n/log n, or batch/log batch.")
    num_chains: int | None = setting("Chains.")
    num_draws: int | None = setting("Draws of each chain.")
    num_burnin_steps: int | None = setting("Draws left out at the beginning of each chain; default: half of them.")
    batch_size: int | None = setting("Samples of each minibatch.")
    parameters: list[str] | None = setting("Sample these parameters only (names or patterns): the LLC of a part.")
    heads: list[str] | None = setting(
        "Sample these attention heads only, as module:numbers (transformer.h.3:0,2): the LLC of a group of heads."
    )
    shared_minibatches: bool | None = setting("All chains take the same minibatches, which is faster; default: false.")
    control_variate: bool | None = setting(
        "Subtract the minibatch noise at the trained weights from gradients and losses; default: where it helps, and "
        "never for the presets of the paper."
    )
    minimize: bool | None = setting("Move the weights to the local minimum of the loss first.")
    target_standard_error: float | None = setting(
        "Sample on until the standard error is at most this, for at most 8 times `num_draws`."
    )
    resume_from: str | None = setting(
        "Folder for the state of the chains while they run. A killed estimate with the same flags goes on there."
    )
    seed: int | None = setting("Of all random numbers; default: 0, with published settings the next one to theirs.")
    device: str | None = setting("Where to compute; default: a GPU if there is one.")
    dtype: str | None = setting(
        "float32, float64, or bfloat16 (forward and backward only; several times faster if the processor has it); "
        "default: the model's own, and float32 for weights in half precision."
    )
    memory_gib: float = setting("Memory for the chains, in GiB; more chains than fit run in turn.", default=2.0)

    def given(self) -> dict[str, Any]:
        """Return the given settings of the estimate, as keywords of `estimate_rlct`.

        Raises:
            InputError: an unknown type of numbers, or heads and parameters together.
        """
        found = {}
        for name in sorted(SAMPLING):  # a set has another order in each process
            value = getattr(self, name, None)
            if value is not None:
                found[name] = value
        if self.heads is not None:
            if self.parameters is not None:
                raise InputError("heads", self.heads, "allowed without `parameters`")
            found["heads"] = self.heads
        if self.nbeta is not None:
            found["nbeta"] = _number_or_rule(self.nbeta)
        if self.dtype is not None:
            if self.dtype not in DTYPES:
                raise InputError("dtype", self.dtype, f"allowed are {', '.join(DTYPES)}")
            found["dtype"] = DTYPES[self.dtype]
        return found

    def keywords(
        self, published: LLCResult | None, task: str, progress: Callable[[int, int], None] | None
    ) -> dict[str, Any]:
        """Return all keywords of `estimate_rlct`. See `choose_settings`.

        Args:
            published: a published estimate, or None.
            task: its values of the preset are used.
            progress: as for `estimate_rlct`.

        Raises:
            InputError: an unusable setting.
        """
        if not 0 < self.memory_gib < math.inf:
            raise InputError("memory_gib", self.memory_gib, "allowed are finite numbers above 0")
        chosen = choose_settings(published, self.rlct_preset, task, self.given())
        if self.seed is not None:
            chosen["seed"] = self.seed
        chosen["device"] = self.device
        if self.device is None:
            chosen["device"] = "cuda" if torch.cuda.is_available() else "cpu"
        chosen["resume_from"] = self.resume_from
        return chosen | {"memory_budget": int(self.memory_gib * 2**30), "progress": progress}


def saved_networks(model: str | None, revision: str | None, subfolder: str, run: str | None) -> list[SavedNetwork]:
    """Return a saved network, or those of a run's checkpoints.

    Args:
        model: folder, or id of a repository. None: the checkpoints are meant.
        revision: branch, tag or commit of the repository.
        subfolder: of the network.
        run: folder of the checkpoints. None: the model is meant.

    Raises:
        InputError: both or none of them, a revision of a folder, or no network.
    """
    if (model is None) == (run is None):
        raise InputError("model, checkpoints", None, "name one of the two")
    if revision is not None and (model is None or Path(model).is_dir()):
        raise InputError("revision", revision, "allowed with a `model` of the Hub")
    if model is None:
        found = [replace(saved, subfolder=subfolder) for saved in saved_checkpoints(run or "")]
    else:
        found = [SavedNetwork(model, revision, subfolder)]
    for saved in found:
        if not (saved.network_folder / "config.json").is_file():
            field = "checkpoints" if model is None else "model"
            raise InputError(field, saved.model, f"holds no {Path(subfolder, 'config.json')}")
    return found


def _number_or_rule(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # a rule, which `LLCSettings` checks


@dataclass(frozen=True)
class SavedData:
    """The training data of a saved network, before they are loaded.

    Attributes:
        saved: the network.
        settings: of the data, those of the network's own files among them.
        taken: the settings from the network's own files.
    """

    saved: SavedNetwork
    settings: DataSettings
    taken: Values

    @classmethod
    def find(cls, saved: SavedNetwork, settings: DataSettings) -> SavedData:
        """Return the data named by the network's files.

        Args:
            saved: the network.
            settings: override the files.

        Raises:
            InputError: no file names the data, nor do the settings.
        """
        if settings.augment:
            problem = "the RLCT is that of the training set as it is; allowed in training"
            raise InputError("augment", True, problem)
        given = settings.given()
        taken = saved.data_entries(given)
        if saved.is_plain:
            of_model = task_fields(saved.network_folder)
            taken |= {name: value for name, value in of_model.items() if name not in given}
        return cls(saved, replace(settings, **taken), taken)

    @property
    def spec(self) -> TaskSpec:
        """Return the task."""
        return self.settings.task_spec()

    def description(self, data: TensorData) -> str:
        """Describe the training data for people, with preprocessing that is not the network's own.

        Estimates of data with different descriptions are never compared.

        Args:
            data: as they were loaded.
        """
        spec = self.spec
        if isinstance(data, BlockTensors):
            spec = replace(spec, block_size=data.longest)
        parts = [spec.train_data]
        given = {}
        for name in _PREPROCESSING:
            value = getattr(self.settings, name)
            if value is not None and name not in self.taken:
                given[name] = value
        if given:
            own = self.saved.reading()
            parts += _differences(given, own.get("preprocessing"), own.get("tokenizer"))
        return ", ".join(parts)

    def load(self, task: EvalTask | None = None) -> TensorData:
        """Load the training set, prepared as for the network's training.

        Args:
            task: of the benchmark, or None.

        Raises:
            InputError: data that cannot be read, or other data than the task's.
        """
        reading = self.saved.reading(self.settings.tokenizer_name)
        data = load_data(self.spec, replace(self.settings, tokenizer_name=None), **reading)
        if task is not None:
            task.check_data(data.train)
        return self.saved.with_own_labels(data)


def _differences(given: Values, preprocessing: ImagePreprocessing | None, tokenizer: Any) -> list[str]:
    """Return phrases for settings of the preprocessing that differ from the network's own.

    Args:
        given: the settings.
        preprocessing: the network's own, of images.
        tokenizer: the network's own, of texts.
    """
    if preprocessing is not None:
        if "image_size" in given:
            given = {**given, "image_size": height_and_width(given["image_size"])}
        changed = preprocessing.changed(**given)
        given = {name: value for name, value in given.items() if getattr(changed, name) != getattr(preprocessing, name)}
    elif given.get("max_length") == limit_of(tokenizer):
        given = {name: value for name, value in given.items() if name != "max_length"}
    phrases = []
    for name, value in given.items():
        shown = Path(value).name if name == "tokenizer_name" and Path(value).exists() else value
        if isinstance(value, list):
            shown = " x ".join(map(str, value)) if name == "image_size" else ", ".join(map(str, value))
        phrases.append(_PREPROCESSING[name].format(shown))
    return phrases
