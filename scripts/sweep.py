"""The paper's grid of networks: `python scripts/sweep.py --recipe mnist`, the same as `selfmod sweep`."""

import sys

from selfmod_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
