"""Draw the README's picture from two finished runs.

    python docs/picture.py runs/mnist-0 runs/mnist-10 docs/picture.png

Left: the width of the last layer's weights after each epoch. Right: the weights at the end.
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from selfmod_hf import SelfModelingForImageClassification, weight_width


def main(baseline: str, self_modeling: str, target: str) -> None:
    figure, (over_epochs, at_the_end) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for folder, color in ((baseline, "0.45"), (self_modeling, "tab:red")):
        model = SelfModelingForImageClassification.from_pretrained(folder)
        accuracy = json.loads(Path(folder, "eval_results.json").read_text(encoding="utf-8"))["eval_accuracy"]
        history = json.loads(Path(folder, "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        points = [(entry["epoch"], entry["weight_width"]) for entry in history if "weight_width" in entry]
        weight = model.config.aux_weight
        name = f"self-modeling, weight {weight:g}" if weight else "baseline"
        label = f"{name} (accuracy {accuracy:.3f})"
        over_epochs.plot(*zip(*points, strict=True), color=color, label=label)
        width = weight_width(model.prune(), bins=40)
        at_the_end.stairs(width.counts, width.bin_edges, color=color, label=f"{name}: SD {width.sd:.3f}")
    over_epochs.set(xlabel="epoch", ylabel="SD of the last layer's weights", title="Width over training")
    at_the_end.set(xlabel="weight of the last layer", ylabel="count", title="After training")
    highest = at_the_end.get_ylim()[1]
    at_the_end.set_ylim(0, 1.25 * highest)  # room for the legend above the weights
    for axis in (over_epochs, at_the_end):
        axis.legend(frameon=False, fontsize=8, loc="upper left")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=130)


if __name__ == "__main__":
    main(*sys.argv[1:])
