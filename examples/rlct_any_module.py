# /// script
# requires-python = ">=3.10"
# dependencies = ["selfmod_hf"]
# [tool.uv.sources]
# selfmod_hf = { path = "..", editable = true }
# ///
"""Estimate the RLCT of two plain torch modules: one of known RLCT, and a small network of your own.

    uv run examples/rlct_any_module.py               # half a minute of a core
    uv run examples/rlct_any_module.py --draws 500   # fewer draws: faster, with a wider interval

uv needs the checkout: the package is on no index. After `pip install -e .` it is `python examples/rlct_any_module.py`.
"""

import argparse

import torch
from torch import nn

from selfmod_hf import calibrate_llc


def train(module: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """Bring a module to the minimum of its loss, because an RLCT belongs to a minimum."""
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = nn.functional.mse_loss(module(inputs), targets)
        value.backward()
        return value

    optimizer.step(loss)


def main() -> None:
    """Estimate both, and print what is known beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=2000)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    inputs = torch.randn(arguments.samples, 5)
    linear, network = nn.Linear(5, 1), nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    with torch.no_grad():
        targets = network(inputs) + 0.5 * torch.randn(arguments.samples, 1)
    # for squared errors with noise of variance s², the negative log-likelihood is the squared error / (2 s²)
    loss_fn = lambda output, target: (output - target).square().sum(-1) / (2 * 0.5**2)  # noqa: E731
    for name, module, known in (("linear", linear, "3, half of its 6 parameters"), ("tanh", network, "at most 14.5")):
        train(module, inputs, targets)
        found = calibrate_llc(module, inputs, targets, loss_fn=loss_fn, num_draws=arguments.draws)
        low, high = found.interval
        print(f"{name}: RLCT {found.llc:.2f}, interval {low:.2f} to {high:.2f}, {found.status} (known: {known})")


if __name__ == "__main__":
    main()
