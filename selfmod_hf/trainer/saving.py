"""The files of a Trainer: the network, its settings and its figures.

Every file with a figure names the measured weights. When a folder gets new weights, files about former ones are moved
aside.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..complexity import LLCResult
from ..complexity.weight_width import weight_width_of
from ..data import TaskSpec, TensorData
from ..errors import InputError
from ..files import read_json, write_file
from ..hub.card import BEGIN, between_markers, notes_in
from ..hub.companions import Companions, Measured
from ..hub.license import base_license
from ..hub.model_folder import run_facts
from ..hub.records import RUN_FILE, former_files, move_aside, weight_files
from ..models.classifier_weights import classifier_weight
from ..weights import KEY, belongs, state_digest, weights_sha256
from .checkpoints import State, complete_checkpoints
from .processes import is_sharded, own_class
from .training_args import SelfModelingTrainingArguments
from .wrapped_networks import is_wrapped

logger = logging.getLogger(__name__)

UNFINISHED = ".saving-"  # prefix of folders with incomplete files
CARD = "README.md"
RLCTS_FILE = "rlct_checkpoints.json"


class SavingTrainer(Trainer):
    """Write complete files or none, and record each figure with its weights."""

    args: SelfModelingTrainingArguments
    task: TaskSpec | None = None
    _rlct: tuple[LLCResult, str] | None = None  # the newest estimate, and the token of its weights
    _evaluations: dict[str, Measured] | None = None  # by the token of the weights: the best ones may not be the last
    _saved: tuple[str, str] | None = None  # weights in the output folder: their token and their SHA-256
    _trained: str | None = None
    _previous: Path | None = None  # the folder for files of a former training

    # ---- the present weights ----

    def weights_token(self, state_dict: State | None = None) -> str:
        """Return a token of the present weights: a digest, or the step if each process holds only a part of them."""
        if is_sharded(self):
            return f"step {self.state.global_step}"
        if state_dict is None:
            state_dict = self._plain_model().state_dict()
        return state_digest(state_dict)

    def _plain_model(self) -> Any:
        """Return the network without the wrappers of processes and of torch.compile."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def _sha256_of_weights(self) -> str | None:
        """Return the SHA-256 of the present weights in a file. None: sharded ones, if they are not saved."""
        saved, sha256 = self._saved or (None, None)
        if saved == self.weights_token():
            return sha256
        if is_sharded(self):
            return None
        with tempfile.TemporaryDirectory(prefix=UNFINISHED) as folder:
            self._write_network(folder, None)
            return weights_sha256(folder)

    @property
    def rlct_result(self) -> LLCResult | None:
        """Return the newest estimate of the RLCT."""
        if self._rlct is None:
            return None
        return self._rlct[0]

    @rlct_result.setter
    def rlct_result(self, result: LLCResult | None) -> None:
        self._rlct = None
        if result is not None:
            self._rlct = (result, self.weights_token())

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate like `Trainer.evaluate`, and keep the result for run.json and the card."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if eval_dataset is None and metric_key_prefix == "eval":
            token = self.weights_token()
            if self._evaluations is None:
                self._evaluations = {}
            self._evaluations[token] = Measured(token, {**metrics, **self._own_width()})
            self._tell_model(token)
        return metrics

    def _own_width(self) -> dict[str, float]:
        """Return the weight width of a network that keeps its task model's own head, adapters included.

        The card of any other network reads it from the file of the weights.
        """
        plain = self._plain_model()
        if not is_wrapped(plain) or is_sharded(self):
            return {}
        with suppress(ValueError):  # weights that are not finite
            return {"weight_width": weight_width_of(classifier_weight(plain)).sd}
        return {}

    # ---- training into the folder of a former training ----

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train like `Trainer.train`. A new training moves the checkpoints of a former one aside."""
        self._previous = None
        if not resume_from_checkpoint and trial is None:
            self._move_checkpoints_aside()
        output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        self._trained = self.weights_token()
        self._tell_model(self._trained)
        return output

    def _move_checkpoints_aside(self) -> None:
        """Move former checkpoints, because a later `resume_from_checkpoint=True` would resume the wrong training."""
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            names = [Path(checkpoint).name for checkpoint in complete_checkpoints(folder)]
            if names and (folder / RLCTS_FILE).is_file():
                names.append(RLCTS_FILE)
            if names:
                self._previous = move_aside(folder, names)
                moved = f"the checkpoints of the former one are now in {self._previous}"
                logger.warning(f"{folder}: a new training; {moved}")
        self.accelerator.wait_for_everyone()

    # ---- the network ----

    def _save(self, output_dir: str | None = None, state_dict: State | None = None) -> None:
        """Save the network. Files appear complete or not at all, the weights last."""
        if not self.args.should_save:
            return super()._save(output_dir, state_dict)
        plain = self._plain_model()
        if state_dict is None and plain is not self.model:
            state_dict = plain.state_dict()  # the names of a compiled network begin with "_orig_mod."
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(f"{UNFINISHED}*"):  # by a killed run
            shutil.rmtree(left_over, ignore_errors=True)
        token = self.weights_token(state_dict)
        with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as unfinished:
            self._write_network(unfinished, state_dict)
            self._save_settings(Path(unfinished), token)
            self._take_over(Path(unfinished), folder, token)

    def _write_network(self, folder: str, state_dict: State | None) -> None:
        with own_class(self.model):
            super()._save(folder, state_dict)
        Path(folder, "training_args.bin").unlink(missing_ok=True)  # a pickle, and the package loads none

    def _save_settings(self, folder: Path, token: str) -> None:
        """Write the settings beside the network. A population adds its own file."""
        self._companions(token).write(folder, token)

    def _companions(self, token: str) -> Companions:
        """Return the facts about the network besides these weights."""
        arguments = json.loads(self.args.to_json_string())  # transformers leaves out the Hub's tokens
        arguments["mixed_precision"] = self.args.mixed_precision
        arguments.update(_names_alone(arguments, ("output_dir", "resume_from_checkpoint")))
        batch = self._train_batch_size * self.args.gradient_accumulation_steps
        batch *= self.args.world_size
        run = run_facts(self.task, self.train_dataset, self.eval_dataset, batch)
        if self.args.license is not None:
            run = run.with_fields(license=self.args.license)
        fields = base_license(getattr(self.model, "pretrained_folder", None))
        if fields:
            run = run.with_fields(base_license=fields)
        return Companions(
            processor=self.processing_class,
            run=run,
            arguments=arguments,
            epoch=self._epoch(),
            history=list(self.state.log_history),
            measured=(self._evaluations or {}).get(token),
            trained=self._trained,
        )

    def _epoch(self) -> float | None:
        """Return the number of epochs until the present weights."""
        state = self.state
        if not (self.args.load_best_model_at_end and self._trained):
            return state.epoch
        best = state.best_global_step
        if best and state.max_steps and state.epoch:
            return state.epoch * best / max(state.global_step, 1)
        return state.epoch

    def _tell_model(self, token: str) -> None:
        """Give the model the facts about these weights, for `model.push_to_hub`."""
        if self.model is not None:  # a search builds a network for each trial
            self._plain_model().companions = self._companions(token)

    def _take_over(self, source: Path, folder: Path, token: str) -> None:
        """Move the files of a complete network into a folder. Files about other weights leave it."""
        files = [path for path in source.rglob("*") if path.is_file()]
        outdated: set[str] = set()
        sha256 = weights_sha256(source)  # None: an adapter alone
        if sha256 is not None:
            self._remove_former(folder, former_files(folder, sha256))
            new = {path.relative_to(source).as_posix() for path in files}
            outdated = set(weight_files(folder)) - new
        for path in sorted(files, key=_last_if_weights):
            target = folder / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
        for name in outdated:  # transformers would load them in place of the new ones
            (folder / name).unlink()
        output_folder = Path(self.args.output_dir)
        if sha256 is not None and folder == output_folder:
            self._saved = (token, sha256)

    def _remove_former(self, folder: Path, names: list[str]) -> None:
        """Delete files about former weights from a checkpoint. Move them aside in other folders."""
        if folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            for name in names:
                (folder / name).unlink()
        elif set(names) - {RUN_FILE}:
            self._move_former(folder, names)

    def _move_former(self, folder: Path, names: list[str]) -> None:
        """Move files about former weights aside. A person's text in the card stays."""
        card = folder / CARD
        text = ""
        notes = ""
        if card.is_file():
            text = card.read_text(encoding="utf-8")
        if BEGIN in text:
            names = [*names, CARD]
            with suppress(InputError):  # its markers are broken: the moved card keeps the text
                notes = notes_in(text)
        self._previous = move_aside(folder, names, self._previous)
        if notes:
            write_file(card, between_markers(notes) + "\n")
        moved = ", ".join(names)
        logger.warning(f"{folder}: what described the former weights is now in {self._previous} ({moved})")

    # ---- figures ----

    def save_state(self) -> None:
        """Write the log, and the weights' SHA-256 as its last entry. The file appears complete or not at all."""
        if not self.is_world_process_zero():
            return
        path = Path(self.args.output_dir, TRAINER_STATE_NAME)
        part = path.with_name(f".{path.name}.part")
        self.state.save_to_json(str(part))
        content = read_json(part)
        content.update(_names_alone(content, ("best_model_checkpoint",)))
        sha256 = self._sha256_of_weights()
        if sha256 is not None:
            last = {
                "epoch": self.state.epoch,
                "step": self.state.global_step,
                KEY: sha256,
            }
            content["log_history"].append(last)
        text = json.dumps(content, indent=2, sort_keys=True)
        write_file(path, f"{text}\n")
        part.unlink()

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Write metrics with the checksum of the present weights. Files appear complete or not at all."""
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        named: dict[str, Any] = dict(metrics)
        sha256 = self._sha256_of_weights()
        if sha256 is not None:
            named[KEY] = sha256
        files = {f"{split}_results.json": named}
        if combined:
            name = "all_results.json"
            before = {}
            if (folder / name).is_file():
                before = read_json(folder / name)
            if belongs(before.get(KEY), sha256) is False:
                self._move_former(folder, [name])
                before = {}
            files[name] = before | named
        for name, content in files.items():
            text = json.dumps(content, indent=4, sort_keys=True)
            write_file(folder / name, text)

    def _save_rlct(self, folder: Path) -> None:
        """Write the newest estimate beside the weights, if it is theirs."""
        if self._rlct is None:
            return
        result, token = self._rlct
        file = folder / "rlct.json"
        saved, sha256 = self._saved or (None, None)
        if saved == token:
            result = replace(result, weights_sha256=sha256)
            result.save(file)
        elif not file.is_file():
            logger.warning(f"{folder}: the newest RLCT is of other weights than those saved, and is left out")


def _last_if_weights(path: Path) -> tuple[bool, Path]:
    """Return a key that sorts weights behind all other files."""
    is_weights = path.suffix == ".safetensors"
    return is_weights, path


def _names_alone(content: dict[str, Any], fields: Sequence[str]) -> dict[str, str]:
    """Return the last part of each path in these fields, because the rest of a path is of this machine alone."""
    names = {}
    for field in fields:
        path = content.get(field)
        if isinstance(path, str):
            names[field] = Path(path).name
    return names


def default_processor(*datasets: Any) -> Any:
    """Return the first image processor or tokenizer of these data sets, if it can be saved."""
    for data in datasets:
        if isinstance(data, TensorData):
            processor = data.processor()
            if hasattr(processor, "save_pretrained"):
                return processor
    return None
