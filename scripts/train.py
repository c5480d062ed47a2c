"""Train one self-modeling network: `accelerate launch scripts/train.py --task digits`, the same as `selfmod train`."""

import sys

from selfmod_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
