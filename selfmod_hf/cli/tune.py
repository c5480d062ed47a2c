"""`selfmod tune`: accuracy up, RLCT and weight width down, by Optuna; many trials at once as populations.

    selfmod tune --task digits --trials 40 --space aux_weight=0:20 hidden_sizes=16,32 learning_rate=0.01:0.2:log

Every flag of `selfmod train` that is not searched is taken too. Workers on one `--output_dir` share the study.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import read_yaml
from ..tokens import without_tokens
from .arguments import as_flags, check_finite, check_output_dir, make_parser, quieten
from .data_flags import flag, note_unseen_classes
from .usage_errors import UsageError, one_line

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from ..experiments.tuning import Group, Measured, Tuning


@dataclass
class TuneArguments:
    """What is searched, and how; beside it every flag of `selfmod train`, for all trials."""

    space: list[str] | None = flag(
        "NAME=RANGE ..., or a YAML or JSON file of them. NAME: aux_weight, hidden_sizes, target_layers, learning_rate. "
        "RANGE: LOW:HIGH, LOW:HIGH:log, or choices A,B,C (layers of hidden_sizes joined by -, target layers by +). "
        "Default: aux_weight=0:20."
    )
    trials: int = flag("Trials of the whole study, over all workers.", 40)
    stack: int = flag(
        "Trials of one shape that train as one population, each with its own weight and learning rate; 1: one at a "
        "time.",
        8,
    )
    give_up_below: float = flag(
        "Prune a trial whose accuracy, half-way or at the end, is below this share of the way from chance to the best.",
        0.5,
    )
    keep_accuracy: float = flag("The best trial has the lowest RLCT within this of the best accuracy.", 0.01)
    rlct_draws: int | None = flag("Draws of each chain of an RLCT; default: the preset's.")
    output_dir: str | None = flag("Study folder, shared by workers; default: runs/tune-<task>.")


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags, those of `selfmod train` among them."""
    from . import train

    return (TuneArguments, *train.flag_classes())


def run(argv: Sequence[str]) -> None:
    """Work until the study has its trials; print the Pareto front and the best trial's command.

    Raises:
        UsageError: input that cannot be used, before any training.
    """
    worker = prepare(argv)
    worker.work()
    worker.report()


def prepare(argv: Sequence[str]) -> Worker:
    """A worker on the study that these flags describe, its input checked.

    Raises:
        UsageError: input that cannot be used.
    """
    args, fixed = _split_flags(argv)
    with one_line():
        try:
            import optuna  # noqa: F401

            from ..experiments.space import parse_space
        except ImportError as error:
            raise UsageError("selfmod tune needs optuna: pip install 'selfmod_hf[tune]'") from error
        _check_numbers(args)
        check_output_dir(args.output_dir)
        space = parse_space(_read_space(args.space or ["aux_weight=0:20"]))
        return Worker(args, fixed, space)


def _split_flags(argv: Sequence[str]) -> tuple[TuneArguments, list[str]]:
    """Our own flags; the rest is for `selfmod train`."""
    parser = make_parser(
        "tune", TuneArguments, epilog="Every other flag of selfmod train is taken too, for all trials."
    )
    with one_line():
        args, fixed = parser.parse_args_into_dataclasses(
            list(argv), return_remaining_strings=True, look_for_args_file=False
        )
    check_finite(args)
    return args, fixed


def _check_numbers(args: TuneArguments) -> None:
    for name in ("trials", "stack"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} {getattr(args, name)}: allowed are integers of at least 1")
    for name in ("give_up_below", "keep_accuracy"):
        if not 0 <= getattr(args, name) <= 1:
            raise UsageError(f"--{name} {getattr(args, name)}: allowed are numbers from 0 to 1")


def _read_space(entries: Sequence[str]) -> dict[str, Any]:
    if len(entries) == 1 and "=" not in entries[0]:
        # as text: YAML's numbers have a base of 60, in which 1:20 is 80
        return read_yaml("space", entries[0], as_text=True)
    for entry in entries:
        if "=" not in entry:
            raise UsageError(f"--space {entry}: allowed is NAME=RANGE")
    return dict(entry.split("=", 1) for entry in entries)


class Worker:
    """One process at work on a study."""

    def __init__(self, args: TuneArguments, fixed: list[str], space: dict[str, Any]) -> None:
        from ..complexity import llc_preset
        from ..complexity.settings import LLCSettings
        from ..experiments.space import as_train_flags
        from ..experiments.tuning import Tuning
        from . import train

        searched = [name for name in space if any(f"--{name}" in text.split("=")[0] for text in fixed)]
        if searched:
            raise UsageError(f"--{searched[0]}: is searched by --space; give it in one place")
        self.args, self.fixed = args, fixed
        spec, data_args, model_args, run_args, training_args = train.parse_flags(fixed)
        quieten(run_args.quiet)
        self.quiet = run_args.quiet
        folder = Path(args.output_dir or f"runs/tune-{spec.name.replace('/', '--')}")
        self.data = train.load_run_data(spec, data_args, model_args)
        self.spec = self.data.task or spec
        note_unseen_classes(self.data)
        draws = {} if args.rlct_draws is None else {"num_draws": args.rlct_draws}
        self.sampling = llc_preset(training_args.rlct_preset, spec.name) | draws
        LLCSettings(**self.sampling)  # refuses now what sampling would refuse after the training
        for shape in _shapes(space):
            flags = as_train_flags(shape) | {"aux_weight": 1.0}
            train.build_model(self._parse(flags)[2], self.data)  # refuses a shape that does not exist
        settings = {"train": train.typed_flags(fixed), "sampling": self.sampling, "give_up_below": args.give_up_below}
        self.tuning: Tuning = Tuning(
            folder,
            space,
            settings,
            stack=args.stack,
            give_up_below=args.give_up_below,
            chance=1 / len(self.data.label_names),
            aux_weight=model_args.aux_weight,
            seed=training_args.seed,
        )

    def _parse(self, flags: dict[str, Any]) -> Any:
        from . import train

        return train.parse_flags([*self.fixed, *as_flags(flags)])

    def work(self) -> None:
        for path, group in self.tuning.work(self.args.trials):
            self._say(f"trials {', '.join(map(str, group.trials))}: {group.shared or 'one shape'}")
            self.tuning.finish(path, group, self._measure(path, group), self._estimate)
            counts = self.tuning.counts()
            self._say(f"  {counts['complete']} complete, {counts['pruned']} pruned of {self.args.trials}")

    def _say(self, line: str) -> None:
        if not self.quiet:
            print(line, flush=True)

    def _measure(self, path: Path, group: Group) -> list[Measured]:
        """Train the group's trials from where it stands; what came out."""
        from ..experiments.space import as_train_flags
        from ..trainer.checkpoints import newest_complete_checkpoint

        flags = as_train_flags(group.shared) | {"aux_weight": 1.0}
        rates = [member.learning_rate for member in group.members if member.learning_rate is not None]
        if rates:
            flags["learning_rate"] = max(rates)  # a single network's own; a population takes its members'
        trainer = self._trainer(path, flags, group)
        trainer.train(resume_from_checkpoint=newest_complete_checkpoint(path / "training"))
        return _measured(trainer)

    def _trainer(self, path: Path, flags: dict[str, Any], group: Group) -> Any:
        from transformers import PrinterCallback, ProgressCallback

        from ..trainer import SelfModelingTrainer
        from ..trainer.population import SelfModelingPopulation
        from . import train

        _, _, model_args, _, training_args = self._parse(
            flags | {"output_dir": path / "training", "disable_tqdm": True, "seed": group.members[0].seed}
        )
        population = SelfModelingPopulation(train.build_model(model_args, self.data).config, group.members)
        trainer: Any = SelfModelingTrainer(
            model=population.member(0) if len(group.members) == 1 else population,
            args=training_args,
            train_dataset=self.data.train,
            eval_dataset=self.data.test,
            task=self.spec,
        )
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(_give_up(self.tuning, trainer))
        return trainer

    def _estimate(self, models: Sequence[Any], seeds: Sequence[int]) -> Sequence[Any]:
        import torch

        from ..trainer import estimate_rlct

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return estimate_rlct(models, self.data.train, members=list(seeds), device=device, **self.sampling)

    def report(self) -> None:
        """Write the Pareto front, print it and the best trial's command."""
        counts = self.tuning.counts()
        if not self.tuning.pareto_front():
            print(f"no trial is complete: {counts}")
            return
        print(self.tuning.write_results(self.command))
        print(", ".join(f"{count} {state}" for state, count in counts.items() if count), end="")
        print(f"; {self.tuning.folder}: pareto.json, pareto.txt, pareto.png")
        best = self.tuning.best(self.args.keep_accuracy)
        assert best is not None
        print(f"best, lowest RLCT within {self.args.keep_accuracy:g} of the best accuracy: trial {best.number}")
        print(self.command(best))

    def command(self, trial: FrozenTrial) -> str:
        """The command that trains that network again."""
        from ..experiments.space import as_train_flags

        flags = as_train_flags(trial.params) | {"seed": trial.number}
        return shlex.join(["selfmod", "train", *without_tokens(self.fixed), *as_flags(flags)])


def _shapes(space: dict[str, Any]) -> list[dict[str, str]]:
    """Every architecture in the space."""
    from itertools import product

    names = [name for name in ("hidden_sizes", "target_layers") if name in space]
    return [dict(zip(names, values, strict=True)) for values in product(*(space[name].choices for name in names))]


def _give_up(tuning: Tuning, trainer: Any) -> Any:
    """Return a callback that ends the training half-way, where every trial of the group is hopeless."""
    from transformers import TrainerCallback

    class GiveUp(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            epoch = round(state.epoch)
            if epoch != _half(args.num_train_epochs):
                return
            accuracies = [network.figures[epoch]["eval_accuracy"] for network in trainer.networks()]
            least = tuning.threshold("half_way", accuracies)
            if not any(accuracy >= least for accuracy in accuracies):
                control.should_training_stop = True

    return GiveUp


def _half(epochs: float) -> int:
    return max(1, round(epochs / 2))


def _measured(trainer: Any) -> list[Measured]:
    """Return what came out of each trial of a group."""
    from ..experiments.tuning import Measured

    half = _half(trainer.args.num_train_epochs)
    found = []
    for network in trainer.networks():
        logged = [entry for _, entry in sorted(network.figures.items()) if "eval_accuracy" in entry]
        at_half = network.figures.get(half, {})
        if "eval_accuracy" not in at_half:
            at_half = logged[-1]
        last = logged[-1]
        found.append(Measured(at_half["eval_accuracy"], last["eval_accuracy"], last["weight_width"], network.model()))
    return found
