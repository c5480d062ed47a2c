# /// script
# requires-python = ">=3.10"
# dependencies = ["selfmod_hf[metrics,report]", "marimo>=0.20", "ipython"]
# [tool.uv.sources]
# selfmod_hf = { path = "..", editable = true }
# ///
"""Explore a study in a notebook of marimo: its answer, any measure over any other, and its tables.

`uvx marimo edit --sandbox examples/explore_study.py` trains a small study of digits first. With `-- --study me/digits`
behind it, it shows that study: a folder, or a repository of the Hub. It needs the checkout: the package is on no index.
"""

import marimo

app = marimo.App()


@app.cell
def read_study():
    from pathlib import Path

    import marimo as mo

    from selfmod_hf import report, run_sweep

    place = mo.cli_args().get("study") or "runs/explore"
    if place == "runs/explore":  # nothing happens if the study is complete
        draws = int(mo.cli_args().get("draws") or 4000)
        run_sweep("digits", aux_weights=[0, 20], seeds=[1, 2, 3], num_draws=draws, output_dir=place)
    found = report(place, output_dir=Path("runs/explore-report"))
    mo.md(f"# {place}\n\n{found.results.answer}")
    return found, mo


@app.cell
def choose_measures(found, mo):
    names = [name for name in found.results.rows.columns if found.results.rows[name].dtype.kind == "f"]
    across = mo.ui.dropdown(names, value="train_loss" if "train_loss" in names else names[0], label="across")
    up = mo.ui.dropdown(names, value="rlct", label="up")
    mo.hstack([across, up])
    return across, up


@app.cell
def draw(across, found, up):
    import plotly.express as px

    px.scatter(found.results.rows, x=across.value, y=up.value, color="arm", hover_data=["seed"])
    return


@app.cell
def show_tests(found, mo):
    mo.ui.table(found.results.tests, selection=None)
    return


if __name__ == "__main__":
    app.run()
