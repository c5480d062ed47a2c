"""Write the published values beside ours into REPRODUCTION.md, from the tables in docs/results.

`python scripts/reproduction.py` replaces the part between the two marks, and draws docs/figure2.png and
docs/rlct-h64.png. It reads every folder there whose name begins with figure2, imdb or cifar10. `selfmod report
--tables_dir` writes such folders. Of an arm in several folders the one with the most seeds counts. `--check` writes
nothing, and its exit code is 1 if REPRODUCTION.md is not up to date.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from selfmod_hf.experiments.kept_tables import open_study
from selfmod_hf.files import write_figure, write_file
from selfmod_hf.reports.arm_columns import measure_text
from selfmod_hf.reports.drawn_study import prepare
from selfmod_hf.reports.figures import over_arms, sweep_figures
from selfmod_hf.reports.published import compare_with_published, published_for
from selfmod_hf.reports.statistics import mean_interval
from selfmod_hf.reports.sweep_results import SweepResults, read_results

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- begin: scripts/reproduction.py -->", "<!-- end: scripts/reproduction.py -->"
NAMES = ("figure2*", "imdb*", "cifar10*")
MEASURES = {"weight_width": "SD", "rlct": "RLCT", "accuracy": "accuracy"}
READING = 0.02  # error of a value that was read off a figure
TITLES = {"mnist": "MNIST, Figure 2", "cifar10": "CIFAR-10, Figure 3", "imdb": "IMDB, Figure 4"}
SEEDS = {"mnist": 10, "cifar10": 10, "imdb": 10}
# command and time of what was not run: single networks of LOG.md times their number, on two cores
COMMANDS = {
    ("mnist", 64): ("selfmod sweep --recipe mnist --hidden_sizes 64 --output_dir runs/figure2", "12 minutes"),
    ("mnist", 128): ("selfmod sweep --recipe mnist --hidden_sizes 128 --output_dir runs/figure2", "25 minutes"),
    ("mnist", 256): (
        "selfmod sweep --recipe mnist --hidden_sizes 256 --bf16 --output_dir runs/figure2-wide",
        "45 minutes",
    ),
    ("mnist", 512): (
        "selfmod sweep --recipe mnist --hidden_sizes 512 --bf16 --output_dir runs/figure2-wide",
        "3.3 hours",
    ),
    ("imdb", 128): ("selfmod sweep --recipe imdb --output_dir runs/imdb", "5 hours"),
    ("cifar10", 2000): ("selfmod sweep --recipe cifar10 --output_dir runs/cifar10", "days, so a GPU's"),
}
# weight width of the baseline of h = 512 after an epoch, in the paper's Figure 2
EPOCHS = {10: 0.060, 20: 0.072, 30: 0.081, 40: 0.090, 50: 0.097}


@dataclass(frozen=True)
class Value:
    """A published value with ours.

    Attributes:
        label: the arm, or the epoch.
        published: read off a figure.
        ours: mean over all seeds, whatever the status of their RLCTs, because the paper's means do the same.
        low: lower bound of the 95 % t interval.
        high: upper bound.
        seeds: their number. 0: not run.
        not_ok: RLCTs of another status than "ok".
    """

    label: str
    published: float
    ours: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    seeds: int = 0
    not_ok: int = 0

    @property
    def is_inside(self) -> bool:
        """Return whether the published value is in our interval."""
        return self.low <= self.published <= self.high

    @property
    def is_near(self) -> bool:
        """Return whether the published value is in our interval, up to the error of its reading."""
        error = READING * abs(self.published)
        return self.low - error <= self.published <= self.high + error


def value_of(label: str, published: float, own: pd.Series, not_ok: int = 0) -> Value:
    """Return a published value with the mean of ours."""
    mean, low, high = mean_interval(own.astype(float).to_numpy())
    return Value(label, published, mean, low, high, len(own), not_ok)


# ---- values ----


def read_tables(folder: Path) -> list[SweepResults]:
    """Return the results of the paper's studies."""
    found = []
    for name in NAMES:
        for path in sorted(folder.glob(name)):
            if (path / "results.parquet").is_file():
                found.append(read_results(open_study(path)))
    return found


def values_of(tables: Sequence[SweepResults]) -> dict[tuple[str, int, str], list[Value]]:
    """Return all published values with ours, by task, width and measure."""
    ours: dict[tuple[str, int, str, float], Value] = {}
    for results in tables:
        for row in compare_with_published(results.rows, results.study).to_dict("records"):
            if not row["detach_targets"]:
                continue
            key = (results.task, int(row["hidden_size"]), row["measure"], float(row["aux_weight"]))
            own = results.rows[results.rows["arm"] == row["arm"]][row["measure"]]
            value = value_of(f"{row['aux_weight']:g}", row["published"], own, row["not_ok"])
            if key not in ours or value.seeds > ours[key].seeds:
                ours[key] = value
    found = {}
    for task, width in COMMANDS:
        published = published_for(task)
        assert published is not None
        for measure in MEASURES:
            values = []
            for weight, value in zip(published["aux_weights"], published[measure][str(width)], strict=True):
                values.append(ours.get((task, width, measure, float(weight)), Value(f"{weight:g}", value)))
            found[task, width, measure] = values
    return found


def epochs_of(tables: Sequence[SweepResults]) -> list[Value]:
    """Return the published weight widths over epochs with ours."""
    values = [Value(f"{epoch}", value) for epoch, value in EPOCHS.items()]
    for results in tables:
        curves = results.curves
        if results.task != "mnist":
            continue
        own = curves[(curves["hidden_size"] == 512) & (curves["aux_weight"] == 0)]
        for place, (epoch, value) in enumerate(EPOCHS.items()):
            widths = own[own["epoch"] == epoch]["weight_width"]
            if len(widths) > values[place].seeds:
                values[place] = value_of(f"{epoch}", value, widths)
    return values


# ---- text ----


def block(tables: Sequence[SweepResults]) -> str:
    """Return the text between the marks."""
    values = values_of(tables)
    over_epochs = epochs_of(tables)
    everything = [value for own in values.values() for value in own] + over_epochs
    parts = [BEGIN, summary(everything), ""]
    title = ""
    for (task, width), (command, time) in COMMANDS.items():
        if title != TITLES[task]:
            title = TITLES[task]
            parts += [f"### {title}", ""]
        own = {measure: values[task, width, measure] for measure in MEASURES}
        parts += [*width_lines(f"h = {width}", own, SEEDS[task], command, time), ""]
    parts += ["### Weight width over epochs, h = 512, AW 0", ""]
    if any(value.seeds for value in over_epochs):
        parts += list(value_table("epoch", {"weight_width": over_epochs}))
    else:
        texts = ", ".join(f"{value.published:g} ({value.label})" for value in over_epochs)
        parts.append(f"Not run (it comes with h = 512). Published after each tenth epoch: {texts}.")
    return "\n".join([*parts, "", END])


def summary(values: Sequence[Value]) -> str:
    """Return how many published values were run, and how many of these are inside of our intervals."""
    run = [value for value in values if value.seeds > 1]
    inside = sum(value.is_inside for value in run)
    near = sum(value.is_near for value in run)
    share = f"{100 * inside / len(run):.0f} %" if run else "none"
    return (
        f"The paper's figures have {len(values)} values. {len(run)} of them were run with tables that are kept. "
        f"{inside} of these {len(run)} ({share}) are inside of our 95 % interval, and {near} up to the error of their "
        f"reading ({100 * READING:g} %). Fewer than 95 % are expected inside, because the paper's means have errors, "
        "too, and because many intervals are narrower than the reading's error. Ours are over all seeds, whatever the "
        "status of their RLCTs, as the paper's are."
    )


def width_lines(title: str, values: dict[str, list[Value]], seeds: int, command: str, time: str) -> Iterator[str]:
    """Yield the lines of one width: the table, and the command for what was not run."""
    fewest = min(value.seeds for own in values.values() for value in own)
    most = max(value.seeds for own in values.values() for value in own)
    if fewest == seeds:
        yield f"**{title}**, {seeds} seeds:"
    elif most == 0:
        yield f"**{title}**: not run. `{command}` ({time})."
    else:
        yield f"**{title}**, {fewest} to {most} of {seeds} seeds. The others: `{command}` ({time} for all)."
    yield ""
    yield from value_table("AW", values)


def value_table(first: str, values: dict[str, list[Value]]) -> Iterator[str]:
    """Yield a table of published values beside ours."""
    header = [first]
    for measure in values:
        header += [MEASURES[measure], "published", "inside"]
    yield "| " + " | ".join([*header, 'RLCTs not "ok"'][: None if "rlct" in values else -1]) + " |"
    yield "|---" * (len(header) + ("rlct" in values)) + "|"
    for place, value in enumerate(next(iter(values.values()))):
        cells = [value.label]
        for measure, own in values.items():
            cells += [own_text(measure, own[place]), f"{own[place].published:g}", inside(own[place])]
        if "rlct" in values:
            rlct = values["rlct"][place]
            cells.append(f"{rlct.not_ok} of {rlct.seeds}" if rlct.seeds else "")
        yield "| " + " | ".join(cells) + " |"


def own_text(measure: str, value: Value) -> str:
    """Return our mean with its interval."""
    if not value.seeds:
        return "not run"
    mean = measure_text(measure, value.ours)
    if value.seeds < 2:
        return mean
    return f"{mean} [{measure_text(measure, value.low)}, {measure_text(measure, value.high)}]"


def inside(value: Value) -> str:
    """Return whether a published value is in our interval, with the difference in percent if it is not."""
    if value.seeds < 2:
        return ""
    if value.is_inside:
        return "yes"
    percent = 100 * (value.ours - value.published) / abs(value.published)
    return f"{percent:+.1f} %{', near' if value.is_near else ''}"


# ---- figures ----


def draw(tables: Sequence[SweepResults], folder: Path) -> None:
    """Draw Figure 2 of all widths that were run, and the RLCT over the weight for h = 64."""
    of_mnist = [results for results in tables if results.task == "mnist"]
    with tempfile.TemporaryDirectory() as temporary:
        together = read_results(open_study(joined([results.folder.path for results in of_mnist], Path(temporary))))
        write_figure(sweep_figures(together)["figure2"], folder / "figure2.png")
    for results in of_mnist:
        if set(results.rows["hidden_size"]) == {64}:
            write_figure(over_arms(prepare(results), ["rlct"]), folder / "rlct-h64.png")


def joined(folders: Sequence[Path], into: Path) -> Path:
    """Write the tables of several studies of the same settings as one, and return its folder."""
    for name in ("results.parquet", "curves.parquet"):
        tables = [pd.read_parquet(folder / name) for folder in folders]
        pd.concat(tables, ignore_index=True).to_parquet(into / name, index=False)
    write_file(into / "run.json", (folders[0] / "run.json").read_text(encoding="utf-8"))
    return into


def replaced(text: str, part: str) -> str:
    """Return a document with another part between the marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{part}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document and the figures, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results", help="folder of the tables")
    parser.add_argument("--document", type=Path, default=ROOT / "REPRODUCTION.md")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs", help="folder of the figures")
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(arguments)
    tables = read_tables(args.results)
    before = args.document.read_text(encoding="utf-8")
    after = replaced(before, block(tables))
    if args.check:
        return int(before != after)
    write_file(args.document, after)
    draw(tables, args.figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
