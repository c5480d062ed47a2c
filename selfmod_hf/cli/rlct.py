"""`selfmod rlct`: the RLCT (local learning coefficient) of a trained network, or of all checkpoints of a run.

Writes `rlct.json` (the estimate and every setting), its traces as safetensors, and a plot, into the output folder.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..weights import weights_sha256
from .arguments import check_output_dir, make_parser, parse, quieten
from .data_flags import DataArguments, flag, is_typed, load_data, task_spec
from .errors import UsageError, one_line

if TYPE_CHECKING:
    from ..complexity import LLCCalibration, LLCResult
    from ..data import TaskSpec, TensorData
    from ..models import SelfModelingPreTrainedModel


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
        self_test(args)
        return
    with one_line(hub=f"--model {args.model}"):
        _check_choice(args, data_args)
        folders = _checkpoint_folders(args.checkpoints) if args.checkpoints else [_fetched(args)]
        for folder in folders:
            _check_config(args, folder)
        published, taken = _published(args, data_args, folders[0])
        data_args = replace(data_args, **taken)
        spec = task_spec(data_args)
        settings = sampler_settings(args, spec.name, published) | {"data": spec.train_data}
        models = [_load_model(folder, args.subfolder) for folder in folders]
        weights = [weights_sha256(Path(folder, args.subfolder)) for folder in folders]
        data = _load_data(spec, data_args, folders[0], args.subfolder, models[0])
        _check_count(data, taken)
        output = _output_folder(args)
        _join_processes(args)
    if _is_main() and not args.quiet and (line := _what_was_taken(args, settings, taken)):
        print(line, flush=True)
    if args.calibrate:
        _calibrate(models[0], weights[0], data, settings, typed_settings(args), output)
    elif args.checkpoints:
        _estimate_checkpoints(folders, models, weights, data, settings, output)
    else:
        _estimate(models[0], weights[0], data, settings, output, published)


def _check_self_test(*given: DataArguments | RLCTArguments) -> None:
    for args in given:
        for field in fields(args):
            value = getattr(args, field.name)
            if value != field.default and field.name not in ("self_test", "num_draws", "seed", "quiet"):
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
    if args.sampler == "fisher_sgld" and None in (args.step_size, args.localization):
        raise UsageError(
            "--sampler fisher_sgld: give --step_size and --localization too, in units of the Fisher information: the "
            "presets' are in the weights' own"
        )
    check_output_dir(args.output_dir)


def _published(
    args: RLCTArguments, data_args: DataArguments, folder: str
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Of a model on the Hub its published RLCT; of any, those of its data's flags that were not typed."""
    from ..hub.agreement import data_of_folder, published_data, published_rlct

    of_hub = (args.model, args.revision, args.subfolder) if args.model and not Path(args.model).is_dir() else None
    flags: dict[str, Any] = {}
    if data_args.task is None:
        name = data_args.dataset_name
        own = Path(folder, args.subfolder)
        flags = data_of_folder(own, name) if of_hub is None else published_data(*of_hub, dataset_name=name)
        if not flags and name is None:
            raise UsageError("--task, --dataset_name: name the training data; no run.json beside the network does")
    taken = {name: value for name, value in flags.items() if not is_typed(data_args, name)}
    others = ("train_split", "dataset_config", "test_fraction", "split_seed", "skip_missing")
    if any(is_typed(data_args, name) for name in others):
        taken.pop("max_train_samples", None)  # were of another split
    if data_args.test_split is not None:
        taken.pop("test_fraction", None)
    return (None if of_hub is None or args.calibrate else published_rlct(*of_hub)), taken


def _check_count(data: TensorData, taken: dict[str, Any]) -> None:
    """Say where the data set has fewer samples than the network was trained on, so that it must have changed."""
    count = taken.get("max_train_samples", len(data))
    if len(data) < count:
        print(f"selfmod: {len(data)} training samples here, but the network was trained on {count}", file=sys.stderr)


def _what_was_taken(args: RLCTArguments, settings: dict[str, Any], taken: dict[str, Any]) -> str:
    """Which published settings and data are used in place of flags; empty where none are."""
    parts = []
    if "members" in settings:
        parts.append(
            f"{settings['sampler']}, step size {settings['step_size']:g}, localization {settings['localization']:g}, "
            f"nβ = {settings['nbeta']:.4g}, {settings['num_chains']} chains x {settings['num_draws']}"
        )
    if taken:
        parts.append(f"data {settings['data']}")
    return f"taken from {args.model or args.checkpoints}: {'; '.join(parts)}; seed {settings['seed']}" if parts else ""


def sampler_settings(args: RLCTArguments, task: str, published: dict[str, Any] | None = None) -> dict[str, Any]:
    """The published settings where neither a preset nor one of them was typed; else the preset's, those that were
    typed in their place."""
    import torch

    from ..complexity import llc_preset
    from ..hub.agreement import published_settings

    typed = typed_settings(args)
    if published is not None and args.preset is None and not typed:
        settings = published_settings(published)
        settings["seed"] += 1  # the same seed would repeat the figure, and be no test of it
    else:
        settings = llc_preset("paper" if args.preset is None else args.preset, task) | {"seed": 0} | typed
    if typed:
        settings["preset"] += " with " + ", ".join(sorted(typed))
    if args.seed is not None:
        settings["seed"] = args.seed
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device is None else args.device
    memory = int(args.memory_gib * 2**30)
    return settings | {"device": device, "memory_budget": memory, "progress": _progress(args)}


def typed_settings(args: RLCTArguments) -> dict[str, Any]:
    """Arguments of `estimate_llc` that were typed."""
    import torch

    names = ("sampler", "step_size", "localization", "num_chains", "num_draws", "num_burnin_steps", "batch_size")
    typed = {name: getattr(args, name) for name in (*names, "parameters") if getattr(args, name) is not None}
    if args.nbeta is not None:
        typed["nbeta"] = _nbeta(args.nbeta)
    if args.dtype is not None:
        if args.dtype not in ("float32", "float64", "bfloat16"):
            raise UsageError(f"--dtype {args.dtype}: allowed are float32, float64, bfloat16")
        typed["dtype"] = getattr(torch, args.dtype)
    return typed


def _nbeta(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # a rule; estimate_llc knows which there are


def _progress(args: RLCTArguments) -> Any:
    if args.quiet or not sys.stderr.isatty():
        return None
    from tqdm.auto import tqdm

    bar = tqdm(desc="Sampling", unit="step")

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


# of a network on the Hub: itself, and of texts the tokenizer (`*.model`: SentencePiece's)
NETWORK_FILES = (
    "config.json", "*.safetensors*", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*",
    "merges.txt", "*.model", "preprocessor_config.json",
)  # fmt: skip


def _fetched(args: RLCTArguments) -> str:
    """The folder of --model; of a repository the cached one, each file compared with its checksum."""
    assert args.model is not None
    if Path(args.model).is_dir():
        return args.model
    from ..hub.download import fetch

    prefix = f"{args.subfolder}/" if args.subfolder else ""
    return str(fetch(args.model, [f"{prefix}{name}" for name in NETWORK_FILES], revision=args.revision))


def _load_model(folder: str, subfolder: str) -> SelfModelingPreTrainedModel:
    from ..models import load_model

    return load_model(folder, subfolder=subfolder, finite=False)  # a diverged network is told as such


def _check_config(args: RLCTArguments, folder: str) -> None:
    if not (Path(folder) / args.subfolder / "config.json").is_file():
        within = f", --subfolder {args.subfolder}" if args.subfolder else ""
        named = f"--checkpoints {folder}" if args.model is None else f"--model {args.model}"
        raise UsageError(f"{named}{within}: holds no config.json")


def _load_data(
    spec: TaskSpec, data_args: DataArguments, folder: str, subfolder: str, model: SelfModelingPreTrainedModel
) -> TensorData:
    """The training set, images prepared as in training, texts as the model's own tokenizer has them."""
    if not model.config.reads_text:
        from ..data import network_preprocessing

        preprocessing = network_preprocessing(Path(folder, subfolder), model.config)
        return load_data(spec, data_args, preprocessing=preprocessing).train
    from ..data.texts import load_tokenizer

    other = data_args.tokenizer_name
    tokenizer = load_tokenizer(other) if other else load_tokenizer(folder, subfolder=subfolder)
    padded = model.config.backbone == "transformers"
    return load_data(spec, replace(data_args, tokenizer_name=None), tokenizer=tokenizer, padded=padded).train


def _checkpoint_folders(run_folder: str) -> list[str]:
    from ..trainer.checkpoints import whole_checkpoints

    found = whole_checkpoints(run_folder)
    if not found:
        raise UsageError(
            f"--checkpoints {run_folder}: no folder checkpoint-<step> in it that was written to its end "
            "(train with --save_total_limit)"
        )
    return found


def _output_folder(args: RLCTArguments) -> Path:
    source = args.model or args.checkpoints
    assert source is not None
    own, elsewhere = Path(source, args.subfolder), Path("runs/rlct")
    if (own / "row.json").is_file():  # a sweep's: its rlct.json belongs to the row
        own = own.resolve()
        own = elsewhere / f"{own.parent.parent.name}--{own.name}"
    elif not Path(source).is_dir():
        own = elsewhere / source.replace("/", "--") / args.subfolder
    folder = Path(args.output_dir or own)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _join_processes(args: RLCTArguments) -> None:
    """Under a launcher of several processes, let each run its share of the chains."""
    from accelerate import PartialState

    PartialState(cpu=args.device == "cpu" or not _has_gpu())


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _is_main() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process


def _estimate(
    model: SelfModelingPreTrainedModel,
    weights: str | None,
    data: TensorData,
    settings: dict[str, Any],
    output: Path,
    published: dict[str, Any] | None,
) -> None:
    from ..hub.agreement import compare_with_published
    from ..trainer import estimate_rlct

    (result,) = estimate_rlct([model], data, **settings)
    result = replace(result, weights_sha256=weights)
    if _is_main():
        result.save(output / "rlct.json")
        result.plot(output / "rlct.png")
        print(table(result) + f"\n{'written to':22}{output}/rlct.json")
        if published is not None:
            print(f"{'published':22}{compare_with_published(result, published).text}")


def _calibrate(
    model: SelfModelingPreTrainedModel,
    weights: str | None,
    data: TensorData,
    settings: dict[str, Any],
    typed: dict[str, Any],
    output: Path,
) -> None:
    from ..trainer import calibrate_rlct

    # chosen in place of the preset's; typed ones make the grid one line or cell
    chosen = ("step_size", "localization", "sampler")
    name = settings["preset"].partition(" with ")[0]
    settings["preset"] = f"{name} with {', '.join(sorted({*typed, *chosen}))}"
    settings = {name: value for name, value in settings.items() if name not in chosen}
    settings |= {"sampler": typed["sampler"]} if "sampler" in typed else {}
    grid: dict[str, Any] = {f"{name}s": [typed[name]] for name in chosen[:2] if name in typed}
    calibration = calibrate_rlct(model, data, **settings, **grid)
    calibration = replace(calibration, result=replace(calibration.result, weights_sha256=weights))
    if _is_main():
        calibration.save(output / "rlct_calibration.json")
        calibration.plot(output / "rlct_calibration.png")
        calibration.result.save(output / "rlct.json")
        calibration.result.plot(output / "rlct.png")
        print(calibration_table(calibration) + f"\n{'written to':22}{output}/rlct_calibration.json")


def _estimate_checkpoints(
    folders: Sequence[str],
    models: Sequence[SelfModelingPreTrainedModel],
    weights: Sequence[str | None],
    data: TensorData,
    settings: dict[str, Any],
    output: Path,
) -> None:
    from ..files import write_file
    from ..trainer import estimate_rlct

    # the same noise for each, so that the curve over training is smooth
    results = estimate_rlct(models, data, members=[0] * len(models), **settings)
    if not _is_main():
        return
    results = [replace(result, weights_sha256=own) for result, own in zip(results, weights, strict=True)]
    rows = []
    for folder, result in zip(folders, results, strict=True):
        result.save(Path(folder) / "rlct.json")
        rows.append({"step": int(folder.rsplit("-", 1)[1]), "checkpoint": folder, **result.to_dict()})
    target = output / "rlct_checkpoints.json"
    write_file(target, json.dumps(rows, indent=2) + "\n")
    print(f"{'step':>8} {'rlct':>9} {'error':>8}  status")
    for row, result in zip(rows, results, strict=True):
        print(f"{row['step']:>8} {result.llc:>9.3f} {result.standard_error:>8.3f}  {result.status}")
    print(f"written to {target}")


def table(result: LLCResult) -> str:
    """What a person should know of an estimate."""
    settings = result.settings
    part = {} if settings.parameters is None else {"of": f"the parameters {settings.parameter_names} alone"}
    rows = {
        "RLCT": f"{result.llc:.3f} ± {result.standard_error:.3f} (standard error)",
        **part,
        "status": f"{result.status}: {result.status_reason}",
        "nβ": f"{result.nbeta:.3f} ({settings.nbeta_rule})",
        "sampler": f"{settings.sampler}, step size {settings.step_size:g}, localization {settings.localization:g}",
        "draws": f"{settings.num_chains} chains x {settings.num_draws}, the first {settings.num_burnin_steps} left out",
        "R-hat, ESS": f"{result.rhat:.3f}, {result.ess:.0f}",
        "preset": str(settings.preset),
        "data": f"{settings.data}, {settings.num_samples} samples",
        "loss at w*": f"{result.init_loss:.5f}",
    }
    return "\n".join(f"{name:22}{value}" for name, value in rows.items())


def calibration_table(calibration: LLCCalibration) -> str:
    lines = [f"{'step size':>10} {'localization':>13} {'rlct':>9} {'error':>8}  status"]
    for row in calibration.table:
        mark = " <- chosen" if row["chosen"] else ""
        lines.append(
            f"{row['step_size']:>10.3g} {row['localization']:>13.4g} {row['llc']:>9.3f} {row['standard_error']:>8.3f}"
            f"  {row['status']}{mark}"
        )
    lines.append(f"RLCT {calibration.llc:.3f} ± {calibration.standard_error:.3f}: {calibration.reason}")
    return "\n".join(lines)


def self_test(args: RLCTArguments) -> None:
    """Estimate against truth, on models whose learning coefficient is known, calibrated by rule."""
    from ..complexity import calibrate_llc
    from ..complexity.ground_truth import deep_linear, normal_crossing, regular

    cases = [
        regular(20),
        regular(5, 4),
        normal_crossing(1, 2),
        deep_linear([8, 6, 5], 3),
        deep_linear([10, 8, 8, 6], 2),
    ]
    print(f"{'model':36} {'truth':>8} {'estimate':>9} {'error':>8} {'difference':>10}")
    for case in cases:
        found = calibrate_llc(
            case.model,
            case.inputs,
            case.targets,
            loss_fn=case.loss_fn,
            nbeta="n/log n",
            num_draws=2000 if args.num_draws is None else args.num_draws,
            seed=args.seed or 0,
        )
        truth = case.learning_coefficient
        status = found.result.status  # an estimate that has not converged says nothing about the truth
        difference = f"{100 * (found.llc / truth - 1):+.1f} %" if status == "ok" else status
        print(f"{case.name:36} {truth:>8.3f} {found.llc:>9.3f} {found.standard_error:>8.3f} {difference:>10}")
