"""`selfmod train`: one network on one data set, from flags to a saved (and pushed) model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..experiments.folder_names import check_output_dir
from ..experiments.setting import as_flags, setting
from .arguments import make_parser, note_unseen_classes, print_note, quieten, typed_values, with_config_file
from .usage_errors import hub_in_one_line, one_line

if TYPE_CHECKING:
    from transformers import HfArgumentParser

    from ..experiments.run_settings import RunSettings
    from ..models import SelfModelingPreTrainedModel
    from ..trainer import SelfModelingTrainer


@dataclass
class CommandArguments:
    """Flags of the command itself."""

    config: str | None = setting("YAML or JSON file of flags. Typed flags override it, and it overrides the recipe.")
    quiet: bool = setting("No progress bars, no log lines: the final table only.", default=False)


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags."""
    from ..experiments.launching import LaunchSettings

    return (LaunchSettings, *run_classes())


def run_classes() -> tuple[type, ...]:
    """Return the dataclasses of flags that `sweep` and `tune` share with this command."""
    from ..experiments.run_settings import GROUPS

    return (CommandArguments, *GROUPS)


def run(argv: Sequence[str]) -> None:
    """Train, evaluate, save and print a table.

    Raises:
        UsageError: unusable input, before any training.
    """
    from ..experiments.launching import LaunchSettings

    own = parser("train", LaunchSettings)
    values = with_config_file(typed_values(own, argv), own)
    launch = LaunchSettings.taken_from(values)
    settings, quiet = run_settings(values)
    quieten(quiet)
    with one_line(hub=backbone_flag(settings)):
        launcher = launch.launcher(settings)
    if launcher is not None:
        sys.exit(launcher.run(["train", *argv]))
    with one_line(hub=backbone_flag(settings)):
        check_output_dir(settings.training.output_dir)
        with settings.training.main_process_first(desc="loading data"):
            data = settings.load_data()
        note_unseen_classes(data)
        model = settings.build_network(data)
        _note_baseline(settings, model)
        with one_line(hub="--push_to_hub, --hub_model_id"):
            trainer = settings.make_trainer(data, model)
    _show_progress(trainer, quiet)
    train(trainer)


def parser(command: str = "train", *more: type) -> HfArgumentParser:
    """Return the parser of this command's flags, or of a command with `more` flags than these."""
    from ..data import TASKS, default_recipe
    from ..experiments.run_settings import TRAINING_DEFAULTS

    recipes = "; ".join(f"{name}: {' '.join(as_flags(spec.recipe))}" for name, spec in TASKS.items())
    own = " ".join(as_flags(default_recipe()))
    return make_parser(
        command,
        *more,
        *run_classes(),
        defaults=TRAINING_DEFAULTS,
        epilog=f"A built-in task's own flags come before the defaults above. {recipes}. With --dataset_name alone, and "
        f"without a backbone of your own: {own}",
    )


def run_settings(typed: dict[str, Any]) -> tuple[RunSettings, bool]:
    """Return the settings of a run, and whether it is quiet.

    Args:
        typed: flags of this command, by name.

    Raises:
        UsageError: unusable input.
    """
    from ..experiments.run_settings import RunSettings

    values = with_config_file(typed, parser())
    quiet = values.pop("quiet", False)
    with one_line():
        return RunSettings.make(**values), quiet


def backbone_flag(settings: RunSettings) -> str:
    """Return the flag of a pretrained backbone and its value, for errors of the Hub. It is empty if there is none."""
    name = settings.network.backbone_name
    return f"--backbone_name {name}" if name else ""


def _note_baseline(settings: RunSettings, model: SelfModelingPreTrainedModel) -> None:
    """Print a note if a network does not model itself without the user's wish."""
    if model.self_model_head is not None and model.config.aux_weight == 0:
        print_note("--aux_weight is 0: nothing trains the self-model of --target_layers")
    if model.self_model_head is None and "aux_weight" not in settings.given:
        kind = "baseline"
        is_linear = model.config.backbone == "mlp" and not model.config.hidden_sizes
        if is_linear and settings.network.head == "new":
            kind = "linear baseline"
        print_note(f"trains a {kind} that does not model itself, because --target_layers is not given")


def _show_progress(trainer: SelfModelingTrainer, quiet: bool) -> None:
    """Show lines and a bar, because transformers' lines repeat every entry of every log."""
    from transformers import PrinterCallback, ProgressCallback

    from .progress import EpochLines, SilentProgressBar

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if quiet:
        return
    trainer.add_callback(EpochLines)
    if not trainer.args.disable_tqdm and sys.stderr.isatty():
        trainer.add_callback(SilentProgressBar)


def train(trainer: SelfModelingTrainer) -> None:
    """Train, evaluate, save, push if asked for, and print a table."""
    resume: str | bool | None = trainer.args.resume_from_checkpoint
    if isinstance(resume, str) and resume.lower() in ("true", "last"):
        resume = True
    result = trainer.train(resume_from_checkpoint=resume)
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", result.metrics)
    trainer.save_metrics("eval", metrics)
    where = trainer.args.output_dir
    if trainer.args.push_to_hub:
        with hub_in_one_line(f"--hub_model_id {trainer.hub_model_id}"):
            trainer.push_to_hub()
        where += f", {trainer.hub_model_id} on the Hub"
    if trainer.is_world_process_zero():
        from ..experiments.run_summary import run_summary

        print(run_summary(trainer, metrics, where))
