"""Experiments: settings of a run, sweeps over seeds, self-model weights and widths, tuning, reproduction.

`*_settings.py` hold what a user may set, in Python or by flags. `sweep.py`, `tune.py` and `../reproduction.py` run the
experiments. `folder.py`, `tuning.py` and `reproduction_folder.py` keep the results. `selfmod_hf.reports` reads them.
"""
