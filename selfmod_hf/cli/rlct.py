"""`selfmod rlct`: the RLCT (local learning coefficient) of a trained network, or of all checkpoints of a run.

Writes `rlct.json` (the estimate and every setting), its traces as safetensors, and a plot, into the output folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..experiments.folder_names import check_output_dir
from ..experiments.setting import setting
from .arguments import make_parser, parse, print_note, quieten
from .usage_errors import UsageError, one_line

if TYPE_CHECKING:
    from ..complexity import LLCCalibration, LLCResult
    from ..data import TensorData
    from ..experiments.rlct_settings import RLCTSettings
    from ..hub.saved import SavedNetwork

WITH_SELF_TEST = ("self_test", "num_draws", "seed", "quiet")  # the other flags have no effect then


@dataclass
class RLCTArguments:
    """Flags of the command itself."""

    model: str | None = setting("Trained model: a folder, or a repository of the Hub.")
    revision: str | None = setting("Branch, tag or commit of the repository.")
    subfolder: str = setting("Folder of the network inside `model`: one of a published sweep.", default="")
    checkpoints: str | None = setting("In place of `model`: a run's folder, for the RLCT of each of its checkpoints.")
    self_test: bool = setting("Estimate models of known learning coefficient instead, beside the truth.", default=False)
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
        from ..experiments.rlct_settings import SavedData
        from .progress import sampling_bar

        _check_choice(args)
        networks = _saved_networks(args)
        found = SavedData.find(networks[0], data_settings)
        published = None if args.calibrate else networks[0].published_rlct
        keywords = settings.keywords(published, found.spec.name, sampling_bar(args.quiet))
        keywords["data"] = found.spec.train_data
        for saved in networks:
            saved.load_files()
        data = found.load()
        _note_fewer_samples(data, found.taken)
        output = Path(args.output_dir or args.checkpoints or networks[0].results_folder)
        output.mkdir(parents=True, exist_ok=True)
        is_main = _join_processes(keywords["device"])
    if is_main and not args.quiet:
        _print_taken(args, keywords, found.taken)
    write = _estimate(args, networks, data, keywords, settings.given())
    if is_main:
        write(output)


def _estimate(
    args: RLCTArguments,
    networks: Sequence[SavedNetwork],
    data: TensorData,
    keywords: dict[str, Any],
    given: Mapping[str, Any],
) -> Callable[[Path], None]:
    """Estimate, and return the function for the results: it writes and prints them."""
    from ..trainer.saved_rlct import calibrate_saved, estimate_checkpoints, estimate_saved, replicate_rlct

    if args.calibrate:
        return partial(_write_calibration, calibrate_saved(networks[0], data, keywords, given))
    if args.checkpoints:
        return partial(_write_checkpoints, estimate_checkpoints(networks, data, **keywords))
    if networks[0].published_rlct is None:
        return partial(_write_estimate, estimate_saved(networks[0], data, **keywords), None)
    found = replicate_rlct(networks[0], train_data=data, settings=keywords)
    return partial(_write_estimate, found.result, found.text)


def _join_processes(device: str) -> bool:
    """Let each process of a launcher run its share of the chains, and return whether this is the main one."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=device == "cpu" or not torch.cuda.is_available()).is_main_process


# ---- input ----


def _check_self_test(*given: Any) -> None:
    """Raise a UsageError for a flag without effect on the self-test."""
    for settings in given:
        for field in fields(settings):
            value = getattr(settings, field.name)
            if value != field.default and field.name not in WITH_SELF_TEST:
                problem = "has no effect on --self_test; allowed are --num_draws, --seed"
                raise UsageError(f"--{field.name} {value}: {problem}")


def _check_choice(args: RLCTArguments) -> None:
    if (args.model is None) == (args.checkpoints is None):
        raise UsageError("--model, --checkpoints: name one of the two (or --self_test)")
    if args.checkpoints and args.calibrate:
        raise UsageError("--calibrate: takes one --model, not --checkpoints")
    if args.revision is not None and (args.model is None or Path(args.model).is_dir()):
        raise UsageError(f"--revision {args.revision}: allowed with a --model of the Hub")
    check_output_dir(args.output_dir)


def _saved_networks(args: RLCTArguments) -> list[SavedNetwork]:
    """Return the network of --model, or those of --checkpoints."""
    from ..hub.saved import SavedNetwork
    from ..trainer.saved_rlct import saved_checkpoints

    if args.model is None:
        found = [replace(saved, subfolder=args.subfolder) for saved in saved_checkpoints(args.checkpoints or "")]
    else:
        found = [SavedNetwork(args.model, args.revision, args.subfolder)]
    for saved in found:
        if not (saved.network_folder / "config.json").is_file():
            within = f", --subfolder {args.subfolder}" if args.subfolder else ""
            named = f"--model {args.model}" if args.model else f"--checkpoints {saved.model}"
            raise UsageError(f"{named}{within}: holds no config.json")
    return found


def _note_fewer_samples(data: TensorData, taken: Mapping[str, Any]) -> None:
    """Print a note if the data set has fewer samples than the training had, because it has changed then."""
    count = taken.get("max_train_samples", len(data))
    if len(data) < count:
        print_note(f"{len(data)} training samples here, but the network was trained on {count}")


def _print_taken(args: RLCTArguments, keywords: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
    """Print the published settings and data in place of flags."""
    parts = []
    if "members" in keywords:
        parts.append(
            f"{keywords['sampler']}, step size {keywords['step_size']:g}, localization {keywords['localization']:g}, "
            f"nβ = {keywords['nbeta']:.4g}, {keywords['num_chains']} chains x {keywords['num_draws']}"
        )
    if taken:
        parts.append(f"data {keywords['data']}")
    if parts:
        source = args.model or args.checkpoints
        print(f"taken from {source}: {'; '.join(parts)}; seed {keywords['seed']}", flush=True)


# ---- output ----


def _write_estimate(result: LLCResult, verdict: str | None, output: Path) -> None:
    result.save(output / "rlct.json")
    result.plot(output / "rlct.png")
    print(f"{result.summary()}\n{'written to':22}{output}/rlct.json")
    if verdict is not None:
        print(f"{'published':22}{verdict}")


def _write_calibration(calibration: LLCCalibration, output: Path) -> None:
    calibration.save(output / "rlct_calibration.json")
    calibration.plot(output / "rlct_calibration.png")
    calibration.result.save(output / "rlct.json")
    calibration.result.plot(output / "rlct.png")
    print(f"{calibration.summary()}\n{'written to':22}{output}/rlct_calibration.json")


def _write_checkpoints(results: Mapping[Path, LLCResult], output: Path) -> None:
    from ..trainer.saved_rlct import save_checkpoints

    print(f"{'step':>8} {'rlct':>9} {'error':>8}  status")
    for row in save_checkpoints(results, output / "rlct_checkpoints.json"):
        result = results[Path(row["checkpoint"])]
        print(f"{row['step']:>8} {result.llc:>9.3f} {result.standard_error:>8.3f}  {result.status}")
    print(f"written to {output / 'rlct_checkpoints.json'}")


def _print_self_test(settings: RLCTSettings) -> None:
    """Print estimates of models of known learning coefficient, beside the truth."""
    from ..complexity.ground_truth.self_test import self_test

    num_draws = 2000 if settings.num_draws is None else settings.num_draws
    print(f"{'model':36} {'truth':>8} {'estimate':>9} {'error':>8} {'difference':>10}")
    for row in self_test(num_draws, settings.seed or 0):
        truth, found, apart = row.case.learning_coefficient, row.found, row.relative_difference
        difference = found.result.status if apart is None else f"{100 * apart:+.1f} %"
        print(f"{row.case.name:36} {truth:>8.3f} {found.llc:>9.3f} {found.standard_error:>8.3f} {difference:>10}")
