"""Experiments: sweeps over seeds, self-model weights and widths, tuning, the paper's study.

`plan.py` says what is to be done, `sweep.py` does it, `folder.py` keeps it. `selfmod_hf.reports` reads it.
"""
