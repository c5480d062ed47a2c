"""Reports of a sweep: tables, statistics, figures, an HTML page, cards. They read what was run, and run nothing.

`sweep_results.py` reads a folder and computes its statistics, once each. `sweep_tables.py` builds the tables, and
`table.py` renders them as text, HTML and Markdown. `figures.py` draws, with the panels of `panels.py`. `report.py`
puts a report together, `cards.py` writes the cards, and `on_hub.py` pushes.
"""
