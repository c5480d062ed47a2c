"""How a Trainer's network goes to the Hub: its card, and the commits at the end and during training."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..hub.model_folder import write_model_card
from ..hub.records import stale_files
from ..hub.upload import Repository, Target, check_adapters, check_links, commit, files_of, remote_card, selected
from ..weights import ADAPTER, ADAPTER_SETTINGS
from .saving import UNFINISHED, SavingTrainer

logger = logging.getLogger(__name__)


class PushingTrainer(SavingTrainer):
    """Push a network with the package's own card, as complete during training as at the end."""

    push_in_progress: Any

    def create_model_card(
        self, license: str | None = None, tags: str | Sequence[str] | None = None, **ignored: Any
    ) -> None:
        """Write the package's own card from the files of the run.

        Args:
            license: identifier of the Hub. None: `args.license`, else the license of the card on the Hub, else the
                pretrained backbone's.
            tags: more tags of its metadata.
            ignored: further arguments of transformers' card.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        self.save_state()
        self._save_rlct(folder)
        outdated = stale_files(folder)
        if outdated:
            self._move_former(folder, outdated)
        if isinstance(tags, str):
            tags = [tags]
        api = None
        card_on_hub = ""
        repo_id = self.hub_model_id or folder.absolute().name
        if self.hub_model_id:
            api = HfApi(token=self.args.hub_token)
            card_on_hub = remote_card(Repository(api, Target(repo_id), repo_id))
        write_model_card(folder, repo_id, card_on_hub, license=license, tags=tags or (), api=api)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> Any:
        """Push the network like `Trainer.push_to_hub`, as one commit with the files of `selfmod push`.

        Args:
            card: arguments of `create_model_card`, such as `license`.

        Returns:
            The commit, or a future of it if `blocking` is False. None in processes other than the main one.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            if private is not None:
                self.args.hub_private_repo = private  # where all versions of transformers look
            self.init_hf_repo(token=token)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**card)
        self._finish_current_push()
        send = self._commit(commit_message or "End of training", token, revision)
        if blocking:
            return send()
        return HfApi().run_as_future(send)

    def _commit(self, message: str, token: str | None = None, revision: str | None = None) -> partial[CommitInfo]:
        """Return a call for sending the output folder."""
        folder = Path(self.args.output_dir)
        check_links(files_of(folder).values(), folder)
        check_adapters(files_of(folder).values())
        revision = revision or self.args.hub_revision
        target = Target(str(self.hub_model_id), revision=revision)
        api = HfApi(token=token or self.args.hub_token)
        return partial(commit, Repository(api, target, target.repo_id), folder, message)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push the network of a checkpoint while training continues, as complete as at the end."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        working = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if working and not self.args.hub_always_push:
            return
        self._finish_current_push()  # its files are replaced now
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        checkpoint = Path(checkpoint_folder)
        folder = Path(self.args.output_dir)
        files = {path.name: path for path in checkpoint.iterdir() if path.is_file()}
        for name in (ADAPTER, ADAPTER_SETTINGS):
            if (checkpoint / name).is_file():
                files[name] = checkpoint / name
        with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as copies:
            for name, file in selected(files).items():
                if name != TRAINER_STATE_NAME:
                    copied = Path(copies, name)
                    copied.parent.mkdir(exist_ok=True)
                    shutil.copy(file, copied)
            self._take_over(Path(copies), folder, self.weights_token())
        self.create_model_card()
        message = f"Training in progress, step {self.state.global_step}"
        api = HfApi(token=self.args.hub_token)  # one for both, because each sends its commits one after another
        jobs = [api.run_as_future(self._commit(message))]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = checkpoint.name
            if strategy == HubStrategy.CHECKPOINT:
                name = "last-checkpoint"
            job = api.upload_folder(
                repo_id=str(self.hub_model_id),
                folder_path=checkpoint,
                path_in_repo=name,
                run_as_future=True,
                commit_message=f"{message}, checkpoint",
                revision=self.args.hub_revision,
            )
            jobs.append(job)
        self.push_in_progress = PushInProgress(jobs)
        if len(jobs) > 1 and self.args.save_total_limit is not None:
            self._finish_current_push()  # a checkpoint that is one too many is deleted, also while it is read

    def _finish_current_push(self) -> None:
        """Wait for the push in progress, and log what failed of it.

        transformers loses the error of such a push. Training goes on, because the next push sends all files.
        """
        super()._finish_current_push()
        if getattr(self, "push_in_progress", None) is None:
            return
        for job in self.push_in_progress.jobs:
            error = job.exception()
            if error is not None:
                logger.warning(f"{self.hub_model_id}: a push while training failed: {error}")
        self.push_in_progress = None
