"""Figures and tables of a sweep: `python scripts/report.py FOLDER`, the same as `selfmod report`."""

import sys

from selfmod_hf.cli import entry

if __name__ == "__main__":
    entry(["report", *sys.argv[1:]])
