"""`selfmod rlct`: the RLCT (local learning coefficient) of a trained network, or of all checkpoints of a run.

Writes `rlct.json` (the estimate and every setting), its traces as safetensors, and a plot, into the output folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..experiments.folder_names import check_output_dir
from ..experiments.setting import setting
from .arguments import make_parser, parse, print_note, quieten
from .usage_errors import UsageError, one_line

if TYPE_CHECKING:
    from ..data import TensorData
    from ..experiments.rlct_settings import RLCTSettings
    from ..hub.saved import SavedNetwork

Writer = Callable[[Path], None]
WITH_SELF_TEST = ("self_test", "num_draws", "seed", "quiet")  # the other flags have no effect then


@dataclass
class RLCTArguments:
    """Flags of the command itself."""

    model: str | None = setting("Trained model: a folder, or a repository of the Hub.")
    revision: str | None = setting("Branch, tag or commit of the repository.")
    subfolder: str = setting("Folder of the network inside `model`: one of a published sweep.", default="")
    checkpoints: str | None = setting("In place of `model`: a run's folder, for the RLCT of each of its checkpoints.")
    self_test: bool = setting(
        "Estimate models of known learning coefficient. Exit with 1 if one is wrong.", default=False
    )
    calibrate: bool = setting("Choose step size and localization by rule, from a grid.", default=False)
    output_dir: str | None = setting(
        "Where to write; default: the model's folder; runs/rlct/<name> for one of the Hub or of a sweep."
    )
    quiet: bool = setting("No progress: the final table only.", default=False)


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags."""
    from ..experiments.data_settings import DataSettings
    from ..experiments.rlct_settings import RLCTSettings

    return (DataSettings, RLCTArguments, RLCTSettings)


def run(argv: Sequence[str]) -> None:
    """Estimate, write the files and print a table.

    Raises:
        UsageError: unusable input, before any sampling.
    """
    data_settings, args, settings = parse(make_parser("rlct", *flag_classes()), argv)
    quieten(args.quiet)
    if args.self_test:
        _check_self_test(data_settings, args, settings)
        _print_self_test(settings)
        return
    with one_line(hub=f"--model {args.model}"):
        from ..experiments.processes_together import join_processes
        from ..experiments.rlct_settings import SavedData, saved_networks
        from .progress import SamplingBar

        if args.checkpoints and args.calibrate:
            raise UsageError("--calibrate: takes one --model, not --checkpoints")
        check_output_dir(args.output_dir)
        networks = saved_networks(args.model, args.revision, args.subfolder, args.checkpoints)
        found = SavedData.find(networks[0], data_settings)
        published = None if args.calibrate else networks[0].published_rlct
        bar = SamplingBar(desc="Sampling", unit="step", disable=args.quiet or None)  # None: without a terminal
        keywords = settings.keywords(published, found.spec.name, bar)
        keywords["data"] = found.spec.train_data
        for saved in networks:
            saved.load_files()
        data = found.load()
        _note_fewer_samples(data, found.taken)
        output = Path(args.output_dir or args.checkpoints or networks[0].results_folder)
        output.mkdir(parents=True, exist_ok=True)
        is_main = join_processes(keywords["device"]).is_main_process
    if is_main and not args.quiet:
        _print_taken(args, keywords, found.taken)
    if args.calibrate:
        write = _calibrate(networks[0], data, keywords, settings.given())
    elif args.checkpoints:
        write = _estimate_checkpoints(networks, data, keywords)
    else:
        write = _estimate(networks[0], data, keywords)
    if is_main:
        write(output)


def _check_self_test(*given: Any) -> None:
    """Raise a UsageError for a flag without effect on the self-test."""
    for settings in given:
        for field in fields(settings):
            value = getattr(settings, field.name)
            if value != field.default and field.name not in WITH_SELF_TEST:
                problem = "has no effect on --self_test; allowed are --num_draws, --seed"
                raise UsageError(f"--{field.name} {value}: {problem}")


def _note_fewer_samples(data: TensorData, taken: Mapping[str, Any]) -> None:
    """Print a note if the data set has fewer samples than the training had, because it has changed then."""
    count = taken.get("max_train_samples", len(data))
    if len(data) < count:
        print_note(f"{len(data)} training samples here, but the network was trained on {count}")


def _print_taken(args: RLCTArguments, keywords: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
    """Print the published settings and data in place of flags."""
    parts = []
    if "members" in keywords:
        form = "{sampler}, step size {step_size:g}, localization {localization:g}, nβ = {nbeta:.4g}"
        parts.append(f"{form}, {{num_chains}} chains x {{num_draws}}".format_map(keywords))
    if taken:
        parts.append(f"data {keywords['data']}")
    if parts:
        source = args.model or args.checkpoints
        print(f"taken from {source}: {'; '.join(parts)}; seed {keywords['seed']}", flush=True)


# ---- each process estimates, the main one calls the function that comes back ----


def _estimate(saved: SavedNetwork, data: TensorData, keywords: Mapping[str, Any]) -> Writer:
    from ..trainer.saved_rlct import estimate_saved, replicate_rlct

    verdict = ""
    if saved.published_rlct is None:
        result = estimate_saved(saved, data, **keywords)
    else:
        replication = replicate_rlct(saved, train_data=data, settings=keywords)
        result = replication.result
        verdict = f"\n{'published':22}{replication.text}"

    def write(output: Path) -> None:
        result.save(output / "rlct.json")
        result.plot(output / "rlct.png")
        print(f"{result.summary()}\n{'written to':22}{output}/rlct.json{verdict}")

    return write


def _calibrate(saved: SavedNetwork, data: TensorData, keywords: Mapping[str, Any], given: Mapping[str, Any]) -> Writer:
    from ..trainer.saved_rlct import calibrate_saved

    calibration = calibrate_saved(saved, data, keywords, given)

    def write(output: Path) -> None:
        calibration.save(output / "rlct_calibration.json")
        calibration.plot(output / "rlct_calibration.png")
        calibration.result.save(output / "rlct.json")
        calibration.result.plot(output / "rlct.png")
        print(f"{calibration.summary()}\n{'written to':22}{output}/rlct_calibration.json")

    return write


def _estimate_checkpoints(networks: Sequence[SavedNetwork], data: TensorData, keywords: Mapping[str, Any]) -> Writer:
    from ..trainer.saved_rlct import estimate_checkpoints, save_checkpoints

    results = estimate_checkpoints(networks, data, **keywords)

    def write(output: Path) -> None:
        file = output / "rlct_checkpoints.json"
        print(f"{'step':>8} {'rlct':>9} {'error':>8}  status")
        for row in save_checkpoints(results, file):
            result = results[Path(row["checkpoint"])]
            print(f"{row['step']:>8} {result.llc:>9.3f} {result.standard_error:>8.3f}  {result.status}")
        print(f"written to {file}")

    return write


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
