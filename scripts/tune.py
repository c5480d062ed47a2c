"""Tune with Optuna: `python scripts/tune.py --task digits --trials 40`, the same as `selfmod tune`."""

import sys

from selfmod_hf.cli import entry

if __name__ == "__main__":
    entry(["tune", *sys.argv[1:]])
