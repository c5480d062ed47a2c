# /// script
# requires-python = ">=3.10"
# dependencies = ["selfmod_hf[metrics,report]"]
# [tool.uv.sources]
# selfmod_hf = { path = "..", editable = true }
# ///
"""Draw the four panels of the paper's Figure 2, small: RLCT, weight width and accuracy over the self-model's weight.

    uv run examples/figure2.py                       # scikit-learn's digits, no download, six minutes of a core
    uv run examples/figure2.py --task mnist          # MNIST of the Hub by the paper's recipe, longer

uv needs the checkout: the package is on no index. After `pip install -e '.[metrics,report]'` it is
`python examples/figure2.py`. A second call continues the first one.
"""

import argparse

from selfmod_hf import SweepSettings, report, run_sweep


def main() -> None:
    """Train the networks, and print the answer and the place of the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits", choices=["digits", "mnist"], help="data set and recipe")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128], help="hidden units, a line each")
    parser.add_argument("--aux_weights", type=float, nargs="+", default=[0, 5, 20, 50], help="self-model weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="networks of each arm")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the recipe's epochs and draws")
    arguments = parser.parse_args()
    recipe = SweepSettings.make(arguments.task).plan().settings
    epochs, draws = recipe["training"]["num_train_epochs"], recipe["sampling"]["num_draws"]
    folder = run_sweep(
        arguments.task,
        hidden_sizes=arguments.widths,
        aux_weights=arguments.aux_weights,
        seeds=arguments.seeds,
        num_train_epochs=max(1, round(epochs * arguments.scale)),
        num_draws=max(40, round(draws * arguments.scale)),
        output_dir=f"runs/figure2-{arguments.task}",
        say=print,
    )
    found = report(folder.path)
    print(found.results.answer)
    print(f"{found.path}/figure2.png")


if __name__ == "__main__":
    main()
