"""Reports of a study: the answer, tables, statistics, figures, an HTML page, cards. They read, and run nothing.

`sweep_results.py` reads a folder and computes its statistics, once each: means (`statistics.py`), comparisons with the
baseline (`comparisons.py`) and at equal training loss (`equal_loss.py`), trends (`trends.py`). `answer.py` makes the
answer of them. `sweep_tables.py` builds the tables, and `table.py` renders them as text, HTML and Markdown.
`figures.py` draws, with the panels of `panels.py`. `report.py` puts a report together, `cards.py` writes the cards, and
`on_hub.py` pushes.
"""
