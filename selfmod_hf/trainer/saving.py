"""What a Trainer writes: the network, what was measured of it, its card."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME

from ..complexity import LLCResult
from ..complexity.result import write_file
from ..data import TaskSpec
from ..files import read_json
from ..hub.model_folder import RUN_FILE, run_facts, write_model_card
from ..hub.upload import remote_card
from .training_args import SelfModelingTrainingArguments

_UNFINISHED = ".saving-"


class SavingTrainer(Trainer):
    """Write files that appear complete or not at all, and the package's own card."""

    args: SelfModelingTrainingArguments
    task: TaskSpec | None = None
    rlct_result: LLCResult | None = None

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Files appear whole or not at all, the weights last."""
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
            unfinished = Path(name)
            super()._save(name, state_dict)
            self._save_settings(unfinished)
            files = [path for path in unfinished.rglob("*") if path.is_file()]
            for path in sorted(files, key=lambda path: (path.suffix == ".safetensors", path)):
                target = folder / path.relative_to(unfinished)
                target.parent.mkdir(exist_ok=True)
                path.replace(target)

    def save_state(self) -> None:
        """As transformers has it; the file appears whole or not at all."""
        if self.is_world_process_zero():
            self.state.save_to_json(str(part := Path(self.args.output_dir, f".{TRAINER_STATE_NAME}.part")))
            part.replace(part.with_name(TRAINER_STATE_NAME))

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """As transformers has it; files appear whole or not at all, since the next run reads `all_results.json`."""
        if not self.is_world_process_zero():
            return
        files = {f"{split}_results.json": metrics}
        if combined:
            everything = Path(self.args.output_dir, "all_results.json")
            before = read_json(everything) if everything.is_file() else {}
            files[everything.name] = before | metrics
        for name, content in files.items():
            text = json.dumps(content, indent=4, sort_keys=True)
            write_file(Path(self.args.output_dir, name), text)

    def _save_settings(self, folder: Path) -> None:
        # in place of a pickle, which no one here would load, the same as text (tokens left out by transformers)
        (folder / "training_args.bin").unlink(missing_ok=True)
        settings = {**json.loads(self.args.to_json_string()), "mixed_precision": self.args.mixed_precision}
        (folder / "training_args.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        batch = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        facts = run_facts(self.task, self.train_dataset, self.eval_dataset, batch)
        (folder / RUN_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write our own card, from the files of the run, in place of transformers' (whose arguments it ignores)."""
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        self.save_state()
        if self.rlct_result is not None:
            self.rlct_result.save(folder / "rlct.json")
        repo_id = self.hub_model_id or folder.absolute().name
        before = remote_card(HfApi(token=self.args.hub_token), repo_id, "model") if self.hub_model_id else ""
        write_model_card(folder, repo_id, before)
