"""The paper's experiments with one command: `python scripts/reproduce.py --tasks digits`, like `selfmod reproduce`."""

import sys

from selfmod_hf.cli import entry

if __name__ == "__main__":
    entry(["reproduce", *sys.argv[1:]])
