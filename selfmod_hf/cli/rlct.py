"""`selfmod rlct`: the RLCT (local learning coefficient) of a trained network, or of all checkpoints of a run.

Writes `rlct.json` (the estimate and every setting), its traces as safetensors, and a plot, into the output folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..experiments.folder_names import check_output_dir
from ..experiments.setting import setting
from .arguments import make_parser, parse, print_note, quieten
from .usage_errors import UsageError, hub_in_one_line, one_line

if TYPE_CHECKING:
    from ..experiments.rlct_settings import RLCTSettings

WITH_SELF_TEST = ("self_test", "num_draws", "seed", "quiet")  # the other flags have no effect then


@dataclass
class RLCTArguments:
    """Flags of the command itself."""

    model: str | None = setting("Trained model, or a task model of transformers: a folder, or a repository of the Hub.")
    revision: str | None = setting("Branch, tag or commit of the repository.")
    subfolder: str = setting("Folder of the network inside `model`: one of a published sweep.", default="")
    checkpoints: str | None = setting("In place of `model`: a run's folder, for the RLCT of each of its checkpoints.")
    self_test: bool = setting(
        "Estimate models of known learning coefficient. Exit with 1 if one is wrong.", default=False
    )
    calibrate: bool = setting("Choose step size and localization by rule, from a grid.", default=False)
    output_dir: str | None = setting(
        "Where to write; default: the model's folder; runs/rlct/<name> for one of the Hub, of a sweep or of others."
    )
    quiet: bool = setting("No progress: the final table only.", default=False)


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags."""
    from ..experiments.data_settings import DataSettings
    from ..experiments.rlct_push import RLCTPushSettings
    from ..experiments.rlct_settings import RLCTSettings

    return (DataSettings, RLCTArguments, RLCTPushSettings, RLCTSettings)


def run(argv: Sequence[str]) -> None:
    """Estimate, write the files and print a table.

    Raises:
        UsageError: unusable input, before any sampling.
    """
    data_settings, args, pushing, settings = parse(make_parser("rlct", *flag_classes()), argv)
    quieten(args.quiet)
    if args.self_test:
        _check_self_test(data_settings, args, pushing, settings)
        _print_self_test(settings)
        return
    with one_line(hub=f"--model {args.model}"):
        from ..experiments import rlct_run
        from ..experiments.eval_task_settings import with_eval_task
        from ..experiments.processes_together import join_processes
        from ..experiments.rlct_settings import SavedData, saved_networks
        from ..trainer.head_groups import with_heads
        from .progress import SamplingBar

        if args.checkpoints and args.calibrate:
            raise UsageError("--calibrate: takes one --model, not --checkpoints")
        check_output_dir(args.output_dir)
        task, data_settings, settings = with_eval_task(data_settings, settings, calibrates=args.calibrate)
        networks = saved_networks(args.model, args.revision, args.subfolder, args.checkpoints)
        repository = pushing.repository_of(networks[0], task, several=bool(args.checkpoints), calibrates=args.calibrate)
        found = SavedData.find(networks[0], data_settings)
        published = None if args.calibrate else networks[0].published_rlct
        bar = SamplingBar(desc="Sampling", unit="step", disable=args.quiet or None)  # None: without a terminal
        keywords = settings.keywords(published, found.spec.name, bar)
        for saved in networks:
            saved.load_files()
        pushing.check(repository, networks[0])
        heads = keywords.pop("heads", None)
        keywords = with_heads(keywords, networks[0].loaded_network, heads)
        data = found.load(task)
        keywords["data"] = found.description(data)
        rlct_run.note_fewer_samples(data, found.taken, print_note)
        output = Path(args.output_dir or args.checkpoints or networks[0].results_folder)
        output.mkdir(parents=True, exist_ok=True)
        is_main = join_processes(keywords["device"]).is_main_process
    line = rlct_run.taken_settings(args.model or args.checkpoints, keywords, found.taken)
    if is_main and line and not args.quiet:
        print(line, flush=True)
    if args.calibrate:
        estimated = rlct_run.calibrate(networks[0], data, keywords, settings.given())
    elif args.checkpoints:
        estimated = rlct_run.estimate_all(networks, data, keywords)
    else:
        estimated = rlct_run.estimate(networks[0], data, keywords)
    bar.close()
    if is_main:
        print(estimated.write(output))
        with hub_in_one_line(f"--repo {repository}"):
            pushed = pushing.push(estimated.result, repository, found.spec, networks[0], task)
        if pushed is not None:
            print(f"{'pushed to':22}{pushed.address}")
            for reason in filter(None, (pushed.without_card, pushed.without_entry)):
                print_note(f"not pushed: {reason}")


def _check_self_test(*given: Any) -> None:
    """Raise a UsageError for a flag without effect on the self-test."""
    for settings in given:
        for field in fields(settings):
            value = getattr(settings, field.name)
            if value != field.default and field.name not in WITH_SELF_TEST:
                problem = "has no effect on --self_test; allowed are --num_draws, --seed"
                raise UsageError(f"--{field.name} {value}: {problem}")


def _print_self_test(settings: RLCTSettings) -> None:
    """Print estimates of models of known learning coefficient beside the truth. Exit with 1 if they do not agree."""
    from ..complexity.ground_truth.self_test import HEADER, SelfTest, self_test, verdict

    rows: list[SelfTest] = []
    for row in self_test(settings.num_draws, settings.seed or 0):
        if not rows:
            print(HEADER)
        rows.append(row)
        print(row.line(), flush=True)
    right, text = verdict(rows)
    print(text)
    if not right:
        raise SystemExit(1)
