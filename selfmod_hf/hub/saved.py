"""Read a saved network, its data and its published RLCT, from a folder or from a repository of the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import load_blocks, load_images, load_texts, make_task, network_preprocessing, resolve_task
from ..data.tasks import BLOCKS
from ..data.tokenizing import load_tokenizer
from ..errors import InputError
from ..models import KINDS, load_config, load_model
from ..weights import ADAPTER, ADAPTER_SETTINGS, weights_sha256
from .agreement import data_of_folder, published_data, published_rlct
from .download import fetch
from .plain_model import kind_of_folder, load_plain_model, model_labels, plain_reading, task_fields
from .records import RUN_FILE, stale_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import PreTrainedModel

    from ..complexity import LLCResult
    from ..data import TaskData, TaskSpec, TensorData

# files of a network on the Hub: itself, and its tokenizer if it reads texts (`*.model`: SentencePiece's)
NETWORK_FILES = (
    "config.json", "model*.safetensors*", ADAPTER, ADAPTER_SETTINGS, "tokenizer*", "special_tokens_map.json",
    "added_tokens.json", "vocab*", "merges.txt", "*.model", "preprocessor_config.json",
)  # fmt: skip
OF_A_SPLIT = {"train_split", "dataset_config", "test_fraction", "split_seed", "skip_missing"}


@dataclass(frozen=True)
class SavedNetwork:
    """Reads a network in a folder, or in a repository of the Hub. Files are read on first use.

    Attributes:
        model: folder, or id of a repository.
        revision: branch, tag or commit of the repository.
        subfolder: of the network, such as one of a published sweep.
    """

    model: str
    revision: str | None = None
    subfolder: str = ""

    @property
    def is_on_hub(self) -> bool:
        """Return whether the network is in a repository, not in a folder of this machine."""
        return not Path(self.model).is_dir()

    @cached_property
    def snapshot_folder(self) -> Path:
        """Return the folder. For a repository it is the cached one, after a comparison with the checksums."""
        if not self.is_on_hub:
            return Path(self.model)
        names = list(NETWORK_FILES)
        if self.subfolder:
            names = [f"{self.subfolder}/{name}" for name in names]
        return fetch(self.model, names, revision=self.revision)

    @property
    def network_folder(self) -> Path:
        """Return the folder of the network's own files."""
        return self.snapshot_folder / self.subfolder

    @cached_property
    def is_plain(self) -> bool:
        """Return whether it is a task model of transformers, without a self-model."""
        return kind_of_folder(self.network_folder) is not None

    @property
    def task_type(self) -> str:
        """Return the Hub's name of the network's task."""
        kind = kind_of_folder(self.network_folder)
        if kind is not None:
            return kind.pipeline_tag
        config = load_config(str(self.snapshot_folder), subfolder=self.subfolder)
        if config.task_type is not None:
            return KINDS[config.task_type].pipeline_tag
        return "text-classification" if config.reads_text else "image-classification"

    @cached_property
    def loaded_network(self) -> PreTrainedModel:
        """Return the network, even if its training has diverged."""
        if self.is_plain:
            return load_plain_model(self.network_folder)
        return load_model(str(self.snapshot_folder), subfolder=self.subfolder, finite=False)

    @cached_property
    def weights_digest(self) -> str | None:
        """Return the SHA-256 of its weights."""
        return weights_sha256(self.network_folder)

    def load_files(self) -> None:
        """Read the network and the SHA-256 of its weights now, so that broken files are reported now."""
        _ = self.loaded_network, self.weights_digest

    @cached_property
    def published_rlct(self) -> LLCResult | None:
        """Return the estimate beside a network on the Hub, without its traces, or None."""
        if not self.is_on_hub:
            return None
        return published_rlct(self.model, self.revision, self.subfolder)

    def data_entries(self, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the entries for its training data, like `published_data`.

        Args:
            given: the user's entries. They are left out, and so are contradicting entries of the network. The result
                is empty if a `task` is among them.

        Raises:
            InputError: neither a file nor the user names the data.
        """
        given = given or {}
        if "task" in given:
            return {}
        name = given.get("dataset_name")
        if self.is_on_hub:
            entries = published_data(self.model, self.revision, self.subfolder, name)
        elif RUN_FILE in stale_files(self.network_folder):
            entries = {}
        else:
            entries = data_of_folder(self.network_folder, name)
        if not entries and name is None:
            problem = "name the training data; no run.json beside the network, of its own weights, does"
            raise InputError("task, dataset_name", None, problem)
        own = {field: value for field, value in entries.items() if field not in given}
        if OF_A_SPLIT & set(given):
            own.pop("max_train_samples", None)  # it limited another split
        if "test_split" in given:
            own.pop("test_fraction", None)
        return own

    @property
    def results_folder(self) -> Path:
        """Return the folder for an estimate. For a network of the Hub, of a sweep or of others it is in runs/rlct."""
        own = Path(self.model, self.subfolder)
        elsewhere = Path("runs/rlct")
        if (own / "row.json").is_file():  # a sweep's: its rlct.json belongs to the row
            own = own.resolve()
            return elsewhere / f"{own.parent.parent.name}--{own.name}"
        if self.is_on_hub:
            return elsewhere / self.model.replace("/", "--") / self.subfolder
        if self.is_plain:
            return elsewhere / own.resolve().name
        return own

    def reading(self, tokenizer_name: str | None = None) -> dict[str, Any]:
        """Return arguments of `load_images` or `load_texts`, for samples prepared as in this network's training.

        Args:
            tokenizer_name: in place of the network's own.
        """
        if self.is_plain:
            return plain_reading(self.network_folder, tokenizer_name)
        config = load_config(str(self.snapshot_folder), subfolder=self.subfolder)
        if not config.reads_text:
            return {"preprocessing": network_preprocessing(self.network_folder, config)}
        if tokenizer_name:
            tokenizer = load_tokenizer(tokenizer_name)
        else:
            tokenizer = load_tokenizer(str(self.snapshot_folder), subfolder=self.subfolder)
        is_padded = config.backbone == "transformers" or config.task_type is not None
        return {"tokenizer": tokenizer, "padded": is_padded}

    def training_data(self) -> tuple[TaskSpec, TensorData]:
        """Return the network's task and its training set, as its files name them.

        Raises:
            ValueError: no file names the data, or they cannot be read.
        """
        entries = self.data_entries()
        if self.is_plain:
            entries |= task_fields(self.network_folder)
        arguments = self.reading()
        for name in ("max_train_samples", "max_test_samples"):
            arguments[name] = entries.pop(name, None)
        spec = resolve_task(make_task(entries.pop("task", None), entries))
        load: Callable[..., TaskData[Any]] = load_texts
        if spec.kind == BLOCKS:
            load = load_blocks
            arguments.pop("padded", None)
        elif spec.text_column is None:
            load = load_images
        return spec, self.with_own_labels(load(spec, **arguments))

    def with_own_labels(self, data: TaskData[Any]) -> TensorData:
        """Return the training set with the numbers that the network gives to the classes.

        A pretrained head may have an order of its own.

        Args:
            data: in the order of the data's own classes.

        Raises:
            InputError: the network has names of classes, and none of them is that of a class of the data.
        """
        config: Any = self.loaded_network.config
        if self.is_plain or config.wrapped_config is not None:
            return model_labels(data, config)
        return data.train
