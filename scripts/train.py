"""Train one self-modeling network: `accelerate launch scripts/train.py --task digits`, the same as `selfmod train`."""

import sys

from selfmod_hf.cli import entry

if __name__ == "__main__":
    entry(["train", *sys.argv[1:]])
