"""What a Trainer writes: the network, what was measured of it, its card; and how these go to the Hub.

Every file that records a figure names the weights that it was measured on. What describes former weights is moved
aside when the folder gets new ones.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, TrainOutput
from transformers.utils import PushInProgress

from ..complexity import LLCResult
from ..data import TaskSpec, TensorData
from ..errors import InputError
from ..files import read_json, write_file
from ..hub.card import BEGIN, between_markers, notes_in
from ..hub.companions import Companions, Measured
from ..hub.license import base_license
from ..hub.model_folder import run_facts, write_model_card
from ..hub.records import BASE_LICENSE, RUN_FILE, former_files, move_aside, stale_files, weight_files
from ..hub.upload import Target, check_links, commit, files_of, remote_card, selected
from ..weights import KEY, belongs, state_digest, weights_sha256
from .checkpoints import whole_checkpoints
from .processes import own_class
from .training_args import SelfModelingTrainingArguments

logger = logging.getLogger(__name__)

_UNFINISHED = ".saving-"
CARD = "README.md"


class SavingTrainer(Trainer):
    """Write files that appear complete or not at all, each figure with the weights it belongs to."""

    args: SelfModelingTrainingArguments
    push_in_progress: Any
    task: TaskSpec | None = None
    _rlct: tuple[LLCResult, str] | None = None  # the newest estimate, and the weights it is of
    _evaluations: dict[str, Measured] | None = None  # by the token of the weights; the best ones may not be the last
    _saved: tuple[str, str] | None = None  # weights in the output folder: their token and their SHA-256
    _trained: str | None = None
    _previous: Path | None = None  # where this training moves what a former one left

    # ---- which weights ----

    def weights_token(self, state_dict: Mapping[str, torch.Tensor] | None = None) -> str:
        """Return what tells the present weights from others: a digest, or the step where no process holds them all."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return f"step {self.state.global_step}"
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return state_digest(model.state_dict() if state_dict is None else state_dict)

    def _sha256_of_weights(self) -> str | None:
        """Return the SHA-256 that the present weights have in a file. None: sharded ones that are not saved."""
        token = self.weights_token()
        if self._saved is not None and self._saved[0] == token:
            return self._saved[1]
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return None
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED) as folder:
            self._write_network(folder, None)
            return weights_sha256(folder)

    @property
    def rlct_result(self) -> LLCResult | None:
        """The newest estimate of the RLCT."""
        return None if self._rlct is None else self._rlct[0]

    @rlct_result.setter
    def rlct_result(self, result: LLCResult | None) -> None:
        self._rlct = None if result is None else (result, self.weights_token())

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate like `Trainer.evaluate`, and keep the result for run.json and the card."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if eval_dataset is None and metric_key_prefix == "eval":
            token = self.weights_token()
            self._evaluations = (self._evaluations or {}) | {token: Measured(token, dict(metrics))}
            self._tell_model(token)
        return metrics

    # ---- training into a folder that was used before ----

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
        """Move former checkpoints. A later `resume_from_checkpoint=True` would take up the wrong training."""
        folder = Path(self.args.output_dir)
        if self.is_world_process_zero() and (found := whole_checkpoints(folder)):
            names = [Path(checkpoint).name for checkpoint in found]
            names += [name for name in ("rlct_checkpoints.json",) if (folder / name).is_file()]
            self._previous = move_aside(folder, names)
            where = f"the checkpoints of the former one are now in {self._previous}"
            logger.warning(f"{folder}: a new training; {where}")
        self.accelerator.wait_for_everyone()

    # ---- the network ----

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Save the network. Files appear complete or not at all, the weights last."""
        if not self.args.should_save:
            return super()._save(output_dir, state_dict)
        plain = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if state_dict is None and plain is not self.model:
            state_dict = plain.state_dict()  # the names of a compiled network begin with "_orig_mod."
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(f"{_UNFINISHED}*"):  # of a run that was killed here
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=_UNFINISHED) as name:
            self._write_network(name, state_dict)
            self._save_settings(Path(name), self.weights_token(state_dict))
            self._take_over(Path(name), folder, self.weights_token(state_dict))

    def _write_network(self, folder: str, state_dict: dict[str, torch.Tensor] | None) -> None:
        with own_class(self.model):
            super()._save(folder, state_dict)
        Path(folder, "training_args.bin").unlink(missing_ok=True)  # a pickle, which no one here would load

    def _save_settings(self, folder: Path, token: str) -> None:
        self._companions(token).write(folder, token)

    def _companions(self, token: str) -> Companions:
        """Return what is known of the network besides these weights."""
        # tokens are left out by transformers
        arguments = {**json.loads(self.args.to_json_string()), "mixed_precision": self.args.mixed_precision}
        arguments |= _names_alone(arguments, ("output_dir", "resume_from_checkpoint"))
        batch = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        run = run_facts(self.task, self.train_dataset, self.eval_dataset, batch)
        if self.args.license is not None:
            run["license"] = self.args.license
        if fields := base_license(getattr(self.model, "pretrained_folder", None)):
            run[BASE_LICENSE] = fields
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
        """Return how many epochs the present weights were trained for."""
        state = self.state
        best = state.best_global_step if self.args.load_best_model_at_end and self._trained else None
        if best and state.max_steps and state.epoch:
            return state.epoch * best / max(state.global_step, 1)
        return state.epoch

    def _tell_model(self, token: str) -> None:
        """Give the model what goes beside these weights, for `model.push_to_hub`."""
        if self.model is not None:  # a search builds a network for each trial
            self.accelerator.unwrap_model(self.model, keep_torch_compile=False).companions = self._companions(token)

    def _take_over(self, source: Path, folder: Path, token: str) -> None:
        """Move the files of a complete network into a folder. What described other weights leaves it."""
        sha256 = weights_sha256(source)  # None: an adapter alone
        former = [] if sha256 is None else former_files(folder, sha256)
        if folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            for name in former:
                (folder / name).unlink()
        elif set(former) - {RUN_FILE}:
            self._move_former(folder, former)
        files = [path for path in source.rglob("*") if path.is_file()]
        outdated = set() if sha256 is None else set(weight_files(folder)) - {path.name for path in files}
        for path in sorted(files, key=lambda path: (path.suffix == ".safetensors", path)):
            target = folder / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
        for name in outdated:  # transformers would load them in place of the new ones
            (folder / name).unlink()
        if folder == Path(self.args.output_dir) and sha256 is not None:
            self._saved = token, sha256

    def _move_former(self, folder: Path, names: list[str]) -> None:
        """Move what describes former weights aside. A person's text in the card stays."""
        card, notes = folder / CARD, ""
        if card.is_file() and BEGIN in (text := card.read_text(encoding="utf-8")):
            names = [*names, CARD]
            with suppress(InputError):  # its markers are broken: it is kept complete where it goes
                notes = notes_in(text)
        self._previous = move_aside(folder, names, self._previous)
        if notes:
            write_file(card, between_markers(notes) + "\n")
        logger.warning(f"{folder}: what described the former weights is now in {self._previous} ({', '.join(names)})")

    # ---- what was measured ----

    def save_state(self) -> None:
        """Write the log, with a last entry that names the weights. The file appears complete or not at all."""
        if not self.is_world_process_zero():
            return
        path = Path(self.args.output_dir, TRAINER_STATE_NAME)
        part = path.with_name(f".{path.name}.part")
        self.state.save_to_json(str(part))
        content = read_json(part)
        content |= _names_alone(content, ("best_model_checkpoint",))
        if (sha256 := self._sha256_of_weights()) is not None:
            content["log_history"].append({"epoch": self.state.epoch, "step": self.state.global_step, KEY: sha256})
        write_file(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
        part.unlink()

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Write metrics with the checksum of the present weights. Files appear complete or not at all."""
        if not self.is_world_process_zero():
            return
        sha256 = self._sha256_of_weights()
        named = {} if sha256 is None else {KEY: sha256}
        files = {f"{split}_results.json": metrics | named}
        if combined:
            everything = Path(self.args.output_dir, "all_results.json")
            before = read_json(everything) if everything.is_file() else {}
            if belongs(before.get(KEY), sha256) is False:
                self._move_former(everything.parent, [everything.name])
                before = {}
            files[everything.name] = before | metrics | named
        for name, content in files.items():
            text = json.dumps(content, indent=4, sort_keys=True)
            write_file(Path(self.args.output_dir, name), text)

    def _save_rlct(self, folder: Path) -> None:
        """Write the newest estimate beside the weights, if it is theirs."""
        if self._rlct is None:
            return
        result, token = self._rlct
        if self._saved is not None and self._saved[0] == token:
            replace(result, weights_sha256=self._saved[1]).save(folder / "rlct.json")
        elif not (folder / "rlct.json").is_file():
            logger.warning(f"{folder}: the newest RLCT is of other weights than those saved, and is left out")

    # ---- the Hub ----

    def create_model_card(
        self, license: str | None = None, tags: str | Sequence[str] | None = None, **ignored: Any
    ) -> None:
        """Write the package's own card from the files of the run.

        Args:
            license: identifier of the Hub. Default: `args.license`, else that of the card on the Hub, else that of the
                pretrained backbone.
            tags: more tags of its metadata.
            ignored: what transformers takes for its card.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        self.save_state()
        self._save_rlct(folder)
        if outdated := stale_files(folder):
            self._move_former(folder, outdated)
        repo_id = self.hub_model_id or folder.absolute().name
        api = HfApi(token=self.args.hub_token) if self.hub_model_id else None
        before = remote_card(api, repo_id, "model") if api else ""
        more = [tags] if isinstance(tags, str) else tags or ()
        write_model_card(folder, repo_id, before, license=license, tags=more, api=api)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> Any:
        """Push the network like `Trainer.push_to_hub`, as one commit with what `selfmod push` sends.

        Args:
            card: arguments of `create_model_card`, such as `license`.

        Returns:
            The commit, or a future of it if `blocking` is False. None in processes other than the main one.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**card)
        self._finish_current_push()
        send = self._commit(commit_message or "End of training", token, revision)
        return send() if blocking else HfApi().run_as_future(send)

    def _commit(self, message: str, token: str | None = None, revision: str | None = None) -> partial[CommitInfo]:
        """Return the call that sends the output folder."""
        folder = Path(self.args.output_dir)
        check_links(files_of(folder).values(), folder)
        target = Target(str(self.hub_model_id), revision=revision or self.args.hub_revision)
        api = HfApi(token=token or self.args.hub_token)
        return partial(commit, api, folder, target.repo_id, "model", target, message)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push the network of a checkpoint while training goes on, as complete as at the end."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        working = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if working and not self.args.hub_always_push:
            return
        self._finish_current_push()  # the files that it reads are replaced now
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        checkpoint, folder = Path(checkpoint_folder), Path(self.args.output_dir)
        with tempfile.TemporaryDirectory(dir=folder, prefix=_UNFINISHED) as name:
            for file in selected({path.name: path for path in checkpoint.iterdir() if path.is_file()}).values():
                if file.name != TRAINER_STATE_NAME:
                    shutil.copy(file, name)
            self._take_over(Path(name), folder, self.weights_token())
        self.create_model_card()
        message = f"Training in progress, step {self.state.global_step}"
        jobs = [HfApi().run_as_future(self._commit(message))]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
            jobs.append(
                HfApi(token=self.args.hub_token).upload_folder(
                    repo_id=str(self.hub_model_id), folder_path=checkpoint, path_in_repo=name, run_as_future=True,
                    commit_message=f"{message}, checkpoint", revision=self.args.hub_revision,
                )
            )  # fmt: skip
        self.push_in_progress = PushInProgress(jobs)


def _names_alone(content: Mapping[str, Any], fields: Sequence[str]) -> dict[str, str]:
    """Return the last part of each path in these fields. The rest of a path is of this machine alone."""
    return {name: Path(content[name]).name for name in fields if isinstance(content.get(name), str)}


def default_processor(*datasets: Any) -> Any:
    """Return the image processor or tokenizer of the first data set that has one which can be saved."""
    own = [data.processor() for data in datasets if isinstance(data, TensorData)]
    return next((processor for processor in own if hasattr(processor, "save_pretrained")), None)
