"""`selfmod tune`: accuracy up, RLCT and weight width down, by Optuna; many trials at once as populations.

    selfmod tune --task digits --trials 40 --space aux_weight=0:20 hidden_sizes=16,32 learning_rate=0.01:0.2:log

It takes every flag of `selfmod train` except for those that are searched. Workers with one `--output_dir`, or with one
`--storage`, share the trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ..experiments.setting import setting
from ..experiments.tune_settings import TuneSettings
from ..files import read_yaml
from . import train
from .arguments import line_printer, note_unseen_classes, quieten, typed_values
from .usage_errors import one_line

if TYPE_CHECKING:
    from ..experiments.tuning_result import TuningResult


@dataclass(frozen=True)
class TuneArguments(TuneSettings):
    """Flags of the search. Every flag of `selfmod train` holds for all trials."""

    space: list[str] | None = setting(  # type: ignore[assignment]
        "NAME=RANGE ..., or a YAML or JSON file of them. NAME: a flag of `selfmod train` that decides the network, its "
        "training samples or its training. RANGE: LOW:HIGH, LOW:HIGH:log, or choices A,B,C (entries of a list joined "
        "by - if they are integers, else by +). Default: aux_weight=0:20."
    )


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags, those of `selfmod train` among them."""
    return (TuneArguments, *train.run_classes())


def run(argv: Sequence[str]) -> None:
    """Run all trials, then print the Pareto front and the best trial's command.

    Raises:
        UsageError: unusable input, before any training.
    """
    from ..experiments.tune import Tuner

    typed = typed_values(train.parser("tune", TuneArguments), argv)
    own = {field.name: typed.pop(field.name) for field in fields(TuneArguments) if field.name in typed}
    output_dir = typed.pop("output_dir", None)
    base, quiet = train.run_settings(typed)
    quieten(quiet)
    with one_line(hub=train.backbone_flag(base)):
        space = own.get("space", [])
        if len(space) == 1 and "=" not in space[0]:  # as text, because 1:20 is 80 to YAML, a number of base 60
            own["space"] = read_yaml("space", space[0], as_text=True)
        tuner = Tuner(base, TuneSettings(**own), output_dir)
    note_unseen_classes(tuner.data)
    tuner.work(line_printer(quiet))
    _print_result(tuner.finish())


def _print_result(result: TuningResult) -> None:
    """Print the Pareto front, and the command of the best trial."""
    best = result.best
    if best is None:
        print(f"no trial is complete: {result.counts}")
        return
    counts = [f"{count} {state}" for state, count in result.counts.items() if count]
    print(result.table)
    print(f"{', '.join(counts)}; {result.path}: pareto.json, pareto.txt, pareto.png")
    print(f"best, lowest RLCT within {result.keep_accuracy:g} of the best {result.metric}: trial {best.number}")
    print(result.settings(best).command())
