"""Reports of a sweep: tables, statistics, figures, an HTML page, cards. They read what was run, and run nothing.

`sweep_results.py` reads a folder and computes its statistics, once each. `sweep_tables.py` builds the tables, and
`table.py` renders them as text, HTML and Markdown. `report.py` puts a report together.
"""
