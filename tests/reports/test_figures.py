"""The figures of studies: which there are, what stands where, and how far their axes go."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle

from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.reports.drawn_measures import DrawnMeasure, axis_range
from selfmod_hf.reports.figures import sweep_figures
from selfmod_hf.reports.study_layout import lay_out
from selfmod_hf.reports.sweep_results import SweepResults, read_results
from tests.reports.folders import change_row, controls, grid, write_study

WEIGHTS = [0.0, 1.0, 10.0]
PAPER = {"figure2", "arms", "training_loss", "epochs", "weights"}


def read(folder: Path) -> SweepResults:
    return read_results(SweepFolder(folder))


def axis_of(figure: Figure, label: str, title: str = ""):
    """The panel of a measure."""
    (axis,) = [axis for axis in figure.axes if axis.get_ylabel() == label and axis.get_title() == title]
    return axis


def tick_labels(axis) -> list[str]:
    return [text.get_text() for text in axis.get_xticklabels()]


@pytest.fixture(scope="module")
def targets(tmp_path_factory) -> SweepResults:
    """Attached and detached targets, of MNIST by name."""
    arms = grid(hidden_sizes=[[64]], aux_weight=WEIGHTS, detach_targets=[True, False])
    folder = tmp_path_factory.mktemp("targets")
    return read(write_study(folder, arms, [1, 2, 3], task="mnist", not_ok=["h64-aw10-attached-seed2"]))


def test_named_arms_stand_in_the_order_of_the_study_and_the_baseline_first(tmp_path):
    arms = controls()
    layout = lay_out([*arms[1:], arms[0]])
    assert layout.axis == "arms"
    assert layout.labels == [arm.name for arm in arms]
    figure = sweep_figures(read(write_study(tmp_path, arms, [1, 2])))["arms"]
    axis = axis_of(figure, "RLCT")
    assert tick_labels(axis) == layout.labels
    assert [text.get_fontweight() for text in axis.get_xticklabels()][:2] == ["bold", "normal"]


def test_a_numeric_axis_has_all_values_in_order_with_the_zero():
    layout = lay_out(grid(aux_weight=[10.0, 0.0, 0.5]))
    assert (layout.axis, layout.labels, layout.baseline) == ("aux_weight", ["0", "0.5", "10"], 0)
    rates = lay_out(grid(learning_rate=[0.1, 0.001]))
    # the first value is the baseline
    assert (rates.axis, rates.labels, rates.baseline) == ("learning_rate", ["0.001", "0.1"], 1)
    sizes = lay_out(grid(hidden_sizes=[[8], [128, 64]]))
    assert (sizes.axis, sizes.labels, sizes.is_ordered) == ("hidden_sizes", ["8", "128-64"], False)


def test_named_arms_in_panels_have_short_labels():
    layout = lay_out(controls(learning_rate=[0.1, 0.01]))
    assert layout.panels == ["learning_rate_0.1", "learning_rate_0.01"]
    assert layout.labels[:3] == ["baseline", "own-aw1", "own-aw5"]
    assert len(layout.labels) == 12


def test_a_baseline_of_another_panel_is_in_both(targets):
    layout = lay_out(targets.study)
    assert layout.panels == ["h64", "h64-attached"]
    own = layout.places[layout.places["panel"] == "h64-attached"]
    assert list(own["arm"]) == ["h64-aw0", "h64-aw1-attached", "h64-aw10-attached"]
    figures = sweep_figures(targets)
    assert set(figures) == PAPER | {"figure2_attached", "targets"}
    assert tick_labels(axis_of(figures["arms"], "RLCT", "h64-attached")) == ["0", "1", "10"]
    legend = axis_of(figures["targets"], "SD of the last layer's weights", "h = 64").get_legend()
    assert {"detached", "attached", "published"} == {text.get_text() for text in legend.get_texts()} | {"published"}


def test_published_values_and_rlcts_that_are_not_ok_are_in_the_picture(targets):
    axis = axis_of(sweep_figures(targets)["arms"], "RLCT", "h64-attached")
    (published,) = [line for line in axis.lines if line.get_label() == "published"]
    assert list(published.get_ydata()) == [33, 31.5, 25.5]
    assert axis.get_ylim()[1] > 33
    networks = [points for points in axis.collections if isinstance(points, PathCollection)]
    hollow = [points for points in networks if not len(points.get_facecolors())]
    (value,) = targets.rows.query("rlct_status != 'ok'")["rlct"]
    assert [point[1] for points in hollow for point in points.get_offsets()] == [value]


def test_networks_that_do_not_count_have_a_mark_of_their_own(tmp_path):
    folder = write_study(tmp_path, grid(aux_weight=[0.0, 10.0]), [1, 2, 3], draws=8, not_ok=["aw0-seed1"])
    change_row(folder, "aw10-seed2", rlct_status="not_at_minimum")
    results = read(folder)
    plus = MarkerStyle("+")
    expected = plus.get_path().transformed(plus.get_transform()).vertices
    row = results.rows.query("rlct_status == 'not_at_minimum'").iloc[0]
    figure = sweep_figures(results)["arms"]
    for title, measure in (("RLCT", "rlct"), ("SD of the last layer's weights", "weight_width")):
        drawn = []
        for points in axis_of(figure, title).collections:
            if isinstance(points, PathCollection) and np.array_equal(points.get_paths()[0].vertices, expected):
                drawn += [point[1] for point in points.get_offsets()]
        assert drawn == [row[measure]]


def test_axes_keep_within_what_a_measure_can_be(tmp_path):
    arms = grid(aux_weight=WEIGHTS)
    measures = ["dead_units", "modelability", "my_own"]
    folder = write_study(tmp_path, arms, [1, 2], measures=measures)
    change_row(folder, "aw1-seed1", accuracy=0.5)  # an interval from below 0 to above 1
    figures = sweep_figures(read(folder))
    accuracy = axis_of(figures["arms"], "test accuracy")
    assert 0 <= accuracy.get_ylim()[0] < accuracy.get_ylim()[1] <= 1
    intervals = [line for line in accuracy.collections if isinstance(line, LineCollection)]
    assert len(intervals) == 3
    for (segment,) in (line.get_segments() for line in intervals):
        assert 0 <= segment[:, 1].min() < segment[:, 1].max() <= 1
    assert axis_of(figures["arms"], "SD of the last layer's weights").get_ylim()[0] >= 0
    assert [axis.get_ylabel() for axis in figures["measures"].axes] == [
        "share of dead units", "modelability, R²", "my own",
    ]  # fmt: skip


def test_wide_intervals_do_not_hide_the_points():
    low, high = axis_range(DrawnMeasure("RLCT"), [2.0, 3.0], [-100, 100])
    assert (low, high) == pytest.approx((0.85, 4.15))
    assert axis_range(DrawnMeasure("accuracy", 0, 1), [0.97, 0.99], [0.5, 1.5])[1] == 1
    assert axis_range(DrawnMeasure("RLCT"), [float("nan")]) == (0.0, 1.0)


def test_width_and_rlct_over_the_training_loss_with_the_way_of_the_baseline(tmp_path):
    results = read(write_study(tmp_path, controls(), [1, 2, 3], epochs=5))
    figure = sweep_figures(results)["training_loss"]
    axis = axis_of(figure, "SD of the last layer's weights")
    (way,) = [line for line in axis.lines if line.get_linestyle() == "--"]
    baseline = results.curves[results.curves["arm"] == "baseline"].groupby("epoch")
    assert list(way.get_xdata()) == pytest.approx(list(baseline["classification_loss"].mean()))
    assert list(way.get_ydata()) == pytest.approx(list(baseline["weight_width"].mean()))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == lay_out(results.study).labels


def test_two_networks_are_enough(tmp_path):
    figures = sweep_figures(read(write_study(tmp_path, grid(hidden_sizes=[[8]], aux_weight=[0.0, 10.0]), [1])))
    assert set(figures) == PAPER


def test_of_many_panels_six_are_drawn_and_the_others_counted(tmp_path):
    arms = grid(hidden_sizes=[[size] for size in range(4, 12)], aux_weight=[0.0, 1.0])
    figure = sweep_figures(read(write_study(tmp_path, arms, [1, 2])))["arms"]
    assert len(figure.axes) == 4 * 6
    assert "2 further panels" in figure.get_suptitle()


def test_a_study_without_a_finished_baseline_marks_none(tmp_path):
    arms = [arm for arm in grid(aux_weight=[0.0, 1.0, 10.0]) if not arm.is_baseline]
    assert lay_out(arms).baseline is None
    figure = sweep_figures(read(write_study(tmp_path, arms, [1, 2])))["arms"]
    texts = axis_of(figure, "RLCT").get_xticklabels()
    assert [(text.get_text(), text.get_fontweight()) for text in texts] == [("1", "normal"), ("10", "normal")]


def test_networks_at_chance_alone_are_drawn_without_means(tmp_path):
    folder = write_study(tmp_path, grid(aux_weight=[0.0, 10.0]), [1, 2])
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"chance": 0.95}))
    results = read(folder)
    assert results.rows["at_chance"].all()
    figures = sweep_figures(results)
    assert set(figures) == PAPER - {"weights", "epochs"}
    assert sum(len(points.get_offsets()) for points in axis_of(figures["arms"], "RLCT").collections) == 4


def test_an_rlct_far_from_all_others_is_a_triangle_at_the_edge(tmp_path):
    folder = write_study(tmp_path, grid(aux_weight=WEIGHTS), [1, 2, 3], not_ok=["aw10-seed2", "aw10-seed3"])
    change_row(folder, "aw10-seed2", rlct=-50.0)
    axis = axis_of(sweep_figures(read(folder))["arms"], "RLCT")
    assert axis.get_ylim()[0] > 0
    (triangle,) = [line for line in axis.lines if line.get_marker() == "v"]
    assert triangle.get_markerfacecolor() == "none"
    assert triangle.get_xdata() == pytest.approx([2.0])  # the seed in the middle


def test_a_measure_that_no_network_has_is_an_empty_panel(tmp_path):
    folder = write_study(tmp_path, grid(aux_weight=WEIGHTS), [1, 2], measures=["accuracy_under_noise", "dead_units"])
    for cell in (folder / "cells").iterdir():
        change_row(folder, cell.name, accuracy_under_noise=None)
    figure = sweep_figures(read(folder))["measures"]
    assert axis_of(figure, "accuracy under noise").get_ylim() == (0, 1)
    assert len(axis_of(figure, "share of dead units").collections[0].get_offsets()) == 6
