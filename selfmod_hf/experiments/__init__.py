"""The paper's experiments: sweeps over seeds, self-model weights and widths; statistics, figures, published values.

`plan.py` says what is to be done, `sweep.py` does it, `folder.py` keeps it, `statistics.py`, `figures.py` and
`report.py` read it.
"""
