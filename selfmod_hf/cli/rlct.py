"""`selfmod rlct`: the RLCT (local learning coefficient) of a trained network, or of all checkpoints of a run.

Writes `rlct.json` (the estimate and every setting), its traces as safetensors, and a plot, into the output folder.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import check_output_dir, make_parser, parse, quieten
from .data_flags import DataArguments, flag, is_typed, load_data, task_spec
from .usage_errors import UsageError, one_line

if TYPE_CHECKING:
    from ..complexity import LLCCalibration, LLCResult
    from ..data import TensorData
    from ..hub.saved import SavedNetwork

WITH_SELF_TEST = ("self_test", "num_draws", "seed", "quiet")  # the other flags have no effect then


@dataclass
class RLCTArguments:
    """What to estimate, how, and where to write it."""

    model: str | None = flag("Trained model: a folder, or a repository of the Hub.")
    revision: str | None = flag("Branch, tag or commit of the repository.")
    subfolder: str = flag("Folder of the network inside --model: one of a published sweep.", default="")
    checkpoints: str | None = flag("In place of --model: a run's folder, for the RLCT of each of its checkpoints.")
    self_test: bool = flag("Instead: estimate models of known learning coefficient, beside the truth.", default=False)
    calibrate: bool = flag("Choose step size and localization by rule, from a grid.", default=False)
    preset: str | None = flag(
        "paper (published recipe of the task), paper-text (its supplement's), theory (nβ = n/log n); default: the "
        "settings of the RLCT published with a --model of the Hub, else paper."
    )
    sampler: str | None = flag(
        "sgld, fisher_sgld, rmsprop_sgld or sghmc; default: the preset's, as for all that follows."
    )
    step_size: float | None = flag("ε of the sampler.")
    localization: float | None = flag("γ, the strength of the pull to the trained weights.")
    nbeta: str | None = flag("Inverse temperature times n: a number, n/log n, or batch/log batch.")
    num_chains: int | None = flag("Chains.")
    num_draws: int | None = flag("Draws of each chain.")
    num_burnin_steps: int | None = flag("Draws left out at the beginning of each chain; default: half of them.")
    batch_size: int | None = flag("Samples of each minibatch.")
    parameters: list[str] | None = flag("Sample these parameters only (names or patterns): the LLC of a part.")
    seed: int | None = flag("Of all random numbers; default: 0, with published settings the next one to theirs.")
    device: str | None = flag("Where to compute; default: a GPU where there is one.")
    dtype: str | None = flag(
        "float32, float64, or bfloat16 (forward and backward only; several times faster where the processor has it); "
        "default: the model's own, and float32 for weights in half precision."
    )
    memory_gib: float = flag("Memory for the chains, in GiB; more chains than fit run in turn.", default=2.0)
    output_dir: str | None = flag(
        "Where to write; default: the model's folder; runs/rlct/<name> for one of the Hub or of a sweep."
    )
    quiet: bool = flag("No progress: the final table only.", default=False)


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags."""
    return (DataArguments, RLCTArguments)


def run(argv: Sequence[str]) -> None:
    """Estimate, write, print a table.

    Raises:
        UsageError: input that cannot be used, before any sampling.
    """
    data_args, args = parse(make_parser("rlct", *flag_classes()), argv)
    quieten(args.quiet)
    if args.self_test:
        _check_self_test(data_args, args)
        _print_self_test(args)
        return
    with one_line(hub=f"--model {args.model}"):
        _check_choice(args, data_args)
        networks = _saved_networks(args)
        typed = [field.name for field in fields(DataArguments) if is_typed(data_args, field.name)]
        taken = networks[0].data_entries({name: getattr(data_args, name) for name in typed})
        data_args = replace(data_args, **taken)
        spec = task_spec(data_args)
        published = None if args.calibrate else networks[0].published_rlct
        settings = _settings(args, spec.name, published) | {"data": spec.train_data}
        for saved in networks:
            saved.load_files()
        reading = networks[0].reading(data_args.tokenizer_name)
        data = load_data(spec, replace(data_args, tokenizer_name=None), **reading).train
        _note_fewer_samples(data, taken)
        output = Path(args.output_dir or args.checkpoints or networks[0].results_folder)
        output.mkdir(parents=True, exist_ok=True)
        is_main = _join_processes(args)
    if is_main and not args.quiet:
        _print_taken(args, settings, taken)
    write = _estimate(args, networks, data, settings)
    if is_main:
        write(output)


def _estimate(
    args: RLCTArguments, networks: Sequence[SavedNetwork], data: TensorData, settings: dict[str, Any]
) -> Callable[[Path], None]:
    """Estimate, and return the function that writes and prints the results."""
    from ..trainer.saved_rlct import calibrate_saved, estimate_checkpoints, estimate_saved, replicate_rlct

    if args.calibrate:
        return partial(_write_calibration, calibrate_saved(networks[0], data, settings, _typed_settings(args)))
    if args.checkpoints:
        return partial(_write_checkpoints, estimate_checkpoints(networks, data, **settings))
    if networks[0].published_rlct is None:
        return partial(_write_estimate, estimate_saved(networks[0], data, **settings), None)
    found = replicate_rlct(networks[0], train_data=data, settings=settings)
    return partial(_write_estimate, found.result, found.text)


def _join_processes(args: RLCTArguments) -> bool:
    """Let each process of a launcher run its share of the chains, and return whether this is the main one."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=args.device == "cpu" or not torch.cuda.is_available()).is_main_process


# ---- input ----


def _check_self_test(*given: DataArguments | RLCTArguments) -> None:
    for args in given:
        for field in fields(args):
            value = getattr(args, field.name)
            if value != field.default and field.name not in WITH_SELF_TEST:
                problem = "has no effect on --self_test; allowed are --num_draws, --seed"
                raise UsageError(f"--{field.name} {value}: {problem}")


def _check_choice(args: RLCTArguments, data_args: DataArguments) -> None:
    if (args.model is None) == (args.checkpoints is None):
        raise UsageError("--model, --checkpoints: name one of the two (or --self_test)")
    if args.checkpoints and args.calibrate:
        raise UsageError("--calibrate: takes one --model, not --checkpoints")
    if not 0 < args.memory_gib < math.inf:
        raise UsageError(f"--memory_gib {args.memory_gib}: allowed are finite numbers above 0")
    if args.revision is not None and (args.model is None or Path(args.model).is_dir()):
        raise UsageError(f"--revision {args.revision}: allowed with a --model of the Hub")
    if data_args.augment:
        raise UsageError("--augment True: the RLCT is that of the training set as it is; allowed in training")
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
    """Print that the data set has fewer samples than the network was trained on, so that it must have changed."""
    count = taken.get("max_train_samples", len(data))
    if len(data) < count:
        print(f"selfmod: {len(data)} training samples here, but the network was trained on {count}", file=sys.stderr)


def _print_taken(args: RLCTArguments, settings: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
    """Print which published settings and data are used in place of flags."""
    parts = []
    if "members" in settings:
        parts.append(
            f"{settings['sampler']}, step size {settings['step_size']:g}, localization {settings['localization']:g}, "
            f"nβ = {settings['nbeta']:.4g}, {settings['num_chains']} chains x {settings['num_draws']}"
        )
    if taken:
        parts.append(f"data {settings['data']}")
    if parts:
        source = args.model or args.checkpoints
        print(f"taken from {source}: {'; '.join(parts)}; seed {settings['seed']}", flush=True)


def _settings(args: RLCTArguments, task: str, published: LLCResult | None) -> dict[str, Any]:
    """Return the settings of the estimate; see `choose_settings`."""
    import torch

    from ..trainer.saved_rlct import choose_settings
    from .progress import sampling_bar

    settings = choose_settings(published, args.preset, task, _typed_settings(args))
    if args.seed is not None:
        settings["seed"] = args.seed
    own = "cuda" if torch.cuda.is_available() else "cpu"
    settings["device"] = own if args.device is None else args.device
    return settings | {"memory_budget": int(args.memory_gib * 2**30), "progress": sampling_bar(args.quiet)}


def _typed_settings(args: RLCTArguments) -> dict[str, Any]:
    """Return the settings of the estimate that were typed, except for those that change no number."""
    from ..complexity.settings import DTYPES, LLCSettings

    typed = {}
    for name in {field.name for field in fields(LLCSettings)} - {"seed", "device", "preset"}:
        value = getattr(args, name, None)
        if value is not None:
            typed[name] = value
    if args.nbeta is not None:
        typed["nbeta"] = _number_or_rule(args.nbeta)
    if args.dtype is not None:
        if args.dtype not in DTYPES:
            raise UsageError(f"--dtype {args.dtype}: allowed are {', '.join(DTYPES)}")
        typed["dtype"] = DTYPES[args.dtype]
    return typed


def _number_or_rule(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # a rule; the settings know which there are


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


def _print_self_test(args: RLCTArguments) -> None:
    """Print estimates of models whose learning coefficient is known, beside the truth."""
    from ..complexity.ground_truth.self_test import self_test

    print(f"{'model':36} {'truth':>8} {'estimate':>9} {'error':>8} {'difference':>10}")
    for row in self_test(2000 if args.num_draws is None else args.num_draws, args.seed or 0):
        truth, found, apart = row.case.learning_coefficient, row.found, row.relative_difference
        difference = found.result.status if apart is None else f"{100 * apart:+.1f} %"
        print(f"{row.case.name:36} {truth:>8.3f} {found.llc:>9.3f} {found.standard_error:>8.3f} {difference:>10}")
