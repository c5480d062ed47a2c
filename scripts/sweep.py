"""The paper's grid of networks: `python scripts/sweep.py --recipe mnist`, the same as `selfmod sweep`."""

import sys

from selfmod_hf.cli import entry

if __name__ == "__main__":
    entry(["sweep", *sys.argv[1:]])
