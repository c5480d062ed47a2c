"""Estimate the RLCT of a trained network, as `selfmod rlct` does.

python scripts/estimate_rlct.py --model runs/mnist-h64-aw10-seed42
"""

import sys

from selfmod_hf.cli import entry

if __name__ == "__main__":
    entry(["rlct", *sys.argv[1:]])
