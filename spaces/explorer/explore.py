"""What the page shows, without the page: published networks, their answers, the two figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from PIL import Image, ImageChops
from plotly.colors import qualitative

from selfmod_hf import SelfModelingConfig, load_results
from selfmod_hf.data import ImageTensors
from selfmod_hf.data.texts import load_tokenizer
from selfmod_hf.models import load_model

MAX_POINTS = 2000  # of a figure: a convolutional network predicts ten thousand activations
MARGIN = 1 / 7  # of a drawing's side, as MNIST has it; images below 16 pixels are filled, as scikit-learn's digits
COMPARABLE = ("nbeta", "rlct_sampler", "rlct_step_size", "rlct_localization", "rlct_batch_size")
REVIEWS = (
    "A wonderful film: moving, funny and beautifully played. I could watch it again and again.",
    "Two hours of my life that I will not get back. A dull plot, wooden acting, and it just would not end.",
)
PLAIN = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": "#80838c"},  # where no style sheet gives the page's own color
    "margin": {"l": 60, "r": 20, "t": 60, "b": 50},
    "height": 380,
}
GRID = {"gridcolor": "rgba(128,131,140,0.25)", "zeroline": False}


@dataclass(frozen=True)
class Network:
    """A published network.

    Attributes:
        model: in eval mode.
        processor: image processor or tokenizer.
    """

    model: Any
    processor: Any

    @property
    def kind(self) -> str:
        """What it reads: "text", "drawing" (grey images) or "picture"."""
        if self.model.config.reads_text:
            return "text"
        return "drawing" if self.model.config.num_channels == 1 else "picture"


@dataclass(frozen=True)
class Answer:
    """What a network makes of one sample.

    Attributes:
        classes: probability of each.
        seen: the image in the network's own size, enlarged; None for texts.
        predicted, actual: activations, (n,); None where the network predicts none.
    """

    classes: dict[str, float]
    seen: Image.Image | None
    predicted: np.ndarray | None
    actual: np.ndarray | None


# ---- what is published ----


@lru_cache
def results(repo: str) -> pd.DataFrame:
    """Every network of a repository or folder (of a sweep, or of one model) with its RLCT and settings. Those whose
    figures are of other weights are left out."""
    return load_results(repo)


def choices(repo: str) -> tuple[list[str], str]:
    """The networks' names, and the one to begin with: the first that was trained to predict itself."""
    table = results(repo)
    trained = table[table["aux_weight"] > 0] if "aux_weight" in table else table
    return list(table["network"]), (table if trained.empty else trained)["network"].iloc[0]


@lru_cache(maxsize=8)
def open_network(repo: str, name: str) -> Network:
    """Load one; `name` is that of `results(repo)`, empty for a repository of one model."""
    folder = Path(repo)
    if folder.is_dir():
        where, subfolder = str(folder / "cells" / name if name else folder), ""
    else:
        where, subfolder = repo, name
    model = load_model(where, subfolder=subfolder)
    if model.config.reads_text:
        return Network(model, load_tokenizer(where, subfolder=subfolder))
    return Network(model, _image_processor(where, subfolder, model.config))


def _image_processor(where: str, subfolder: str, config: SelfModelingConfig) -> Any:
    """That beside the network; else the one of this package's tasks, which all normalize alike."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(where, subfolder=subfolder)
    except OSError:
        none = torch.zeros(0, config.num_channels, *config.image_size, dtype=torch.uint8)
        return ImageTensors(none, torch.zeros(0, dtype=torch.long)).processor()


def facts(repo: str, name: str) -> str:
    """One network's figures, as Markdown."""
    row = row_of(repo, name)
    config = open_network(repo, name).model.config
    layers = ", ".join(f"`{layer}`" for layer in config.target_layers) or "none"
    parts = [f"hidden layers {config.hidden_sizes}", f"predicts {layers}", f"AW {config.aux_weight:g}"]
    if differ_by_arm(results(repo)):
        parts.insert(0, f"arm {row['arm']}")
    known = {"accuracy": "accuracy", "weight_width": "weight width"}
    parts += [f"{label} {row[key]:.4f}" for key, label in known.items() if key in row]
    value, error = (float("nan" if pd.isna(row[key]) else row[key]) for key in ("rlct", "rlct_standard_error"))
    rlct = f"RLCT {value:.2f} ± {error:.2f}"  # a diverged one has no value
    parts.append(f"{rlct} ({row['rlct_status']}, nβ {row['nbeta']:.1f})")
    if not row["weights_checked"]:  # version 0.1.0 recorded no checksum
        parts.append("figures not checked against the weights")
    return " · ".join(parts)


def row_of(repo: str, name: str) -> pd.Series:
    table = results(repo)
    return table[table["network"] == name].iloc[0]


# ---- one sample ----


def ask(network: Network, sample: Any) -> Answer:
    """Classify a text, a picture, or a drawing in dark ink on white."""
    model = network.model
    if network.kind == "text":
        seen, inputs = None, network.processor(sample, return_tensors="pt", truncation=True)
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    else:
        image = from_drawing(sample, *model.config.image_size) if network.kind == "drawing" else sample.convert("RGB")
        inputs = network.processor(images=image, return_tensors="pt")
        image = as_seen(inputs["pixel_values"][0], network.processor)
        seen = image.resize([side * max(1, 224 // side) for side in image.size], Image.Resampling.NEAREST)
    with torch.no_grad():
        output = model(**inputs)
    chances = output.logits[0].softmax(dim=0).tolist()
    classes = {model.config.id2label[index]: chance for index, chance in enumerate(chances)}
    if output.self_model_targets is None:  # of a baseline, and of controls
        return Answer(classes, seen, None, None)
    return Answer(classes, seen, output.self_model_predictions[0].numpy(), output.self_model_targets[0].numpy())


def as_seen(pixel_values: torch.Tensor, processor: Any) -> Image.Image:
    """Return the picture that a network is given, from its normalized pixels (channels, height, width)."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (processor.image_mean, processor.image_std))
    pixels = ((pixel_values * std + mean) * 255).round().clamp(0, 255).byte().numpy()
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def is_empty(network: Network, sample: Any) -> bool:
    """Whether there is nothing to classify: no text, no picture, no ink."""
    if sample is None or isinstance(sample, str):
        return not (sample or "").strip()
    return network.kind == "drawing" and _ink(sample).getbbox() is None


def _ink(drawing: Image.Image) -> Image.Image:
    """Light on black, as these data sets are, from dark on white or on nothing."""
    paper = Image.new("RGBA", drawing.size, "white")
    return ImageChops.invert(Image.alpha_composite(paper, drawing.convert("RGBA")).convert("L"))


def from_drawing(drawing: Image.Image, height: int, width: int) -> Image.Image:
    """What is drawn, cut out, fitted into the frame that the data sets leave, its centre of mass in the middle."""
    ink = _ink(drawing)
    ink = ink.crop(ink.getbbox())
    inner = [side if side < 16 else round(side * (1 - 2 * MARGIN)) for side in (width, height)]
    scale = min(side / length for side, length in zip(inner, ink.size, strict=True))
    size = [max(1, round(length * scale)) for length in ink.size]
    small = ink.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    weights = np.asarray(small, dtype=float)
    image = Image.new("L", (width, height))
    corner = []
    for axis, (side, length) in enumerate(zip((width, height), size, strict=True)):
        mass = weights.sum(axis=axis)
        middle = (mass * (np.arange(length) + 0.5)).sum() / mass.sum()
        corner.append(int(np.clip(round(side / 2 - middle), 0, side - length)))
    image.paste(small, (corner[0], corner[1]))
    return image


def examples(network: Network) -> list[Any]:
    """Samples to begin with; of images only scikit-learn's digits, which need no network."""
    if network.kind == "text":
        return list(REVIEWS)
    if network.kind == "drawing" and network.model.config.image_size == [8, 8]:
        from selfmod_hf import TaskSpec, load_images

        pixels = load_images(TaskSpec(name="digits", dataset_name=None)).test.pixels[:20, 0].numpy()
        return [Image.fromarray(255 - image).resize((280, 280), Image.Resampling.NEAREST) for image in pixels]
    return []


# ---- figures ----


def activations_figure(answer: Answer) -> go.Figure:
    """Predicted against actual activations; on the diagonal where the network knows itself."""
    title, figure = "Predicted against actual activations", go.Figure(layout=PLAIN)
    if answer.predicted is None or answer.actual is None:
        figure.add_annotation(text="This network predicts none of its activations.", showarrow=False)
        return figure.update_layout(xaxis_visible=False, yaxis_visible=False, title=title)
    units = np.unique(np.linspace(0, len(answer.actual) - 1, MAX_POINTS).round().astype(int))
    low, high = (float(f([f(answer.actual), f(answer.predicted)])) for f in (np.min, np.max))
    diagonal = {"color": "#80838c", "dash": "dot"}
    figure.add_scatter(x=[low, high], y=[low, high], mode="lines", line=diagonal, hoverinfo="skip")
    figure.add_scatter(
        x=answer.actual[units], y=answer.predicted[units], mode="markers", customdata=units,
        marker={"color": qualitative.Plotly[0], "opacity": 0.7},
        hovertemplate="unit %{customdata}<br>actual %{x:.3f}<br>predicted %{y:.3f}<extra></extra>",
    )  # fmt: skip
    error = np.mean((answer.predicted - answer.actual) ** 2)
    shown = "" if len(units) == len(answer.actual) else f", {len(units)} of them shown"
    title += f"<br><sub>{len(answer.actual)} units{shown}; mean squared error {error:.3g}</sub>"
    figure.update_layout(title=title, showlegend=False)
    return figure.update_xaxes(title="actual", **GRID).update_yaxes(title="predicted", **GRID)


def siblings_figure(repo: str, name: str) -> go.Figure:
    """RLCTs of the same repository that are comparable, over the self-model's weight, or by arm if arms have names."""
    table, this = results(repo), row_of(repo, name)
    if "aux_weight" not in table:  # a repository of one model
        config = open_network(repo, name).model.config
        table = table.assign(aux_weight=config.aux_weight, hidden_size=(config.hidden_sizes or [0])[-1])
    for column in COMPARABLE:
        if column in table:
            table = table[table[column] == this[column]]
    by_arm = differ_by_arm(table)
    table = places(table, by_arm)
    figure = go.Figure(layout=PLAIN)
    for index, (group, own) in enumerate(table.groupby("group", sort=False)):
        color = qualitative.Plotly[index % len(qualitative.Plotly)]
        symbols = ["circle" if status == "ok" else "circle-open" for status in own["rlct_status"]]
        figure.add_scatter(
            x=own["x"], y=own["rlct"], name=group, mode="markers", customdata=own[["network", "rlct_status"]],
            marker={"color": color, "size": 8, "symbol": symbols},
            hovertemplate="%{customdata[0]}<br>RLCT %{y:.2f} (%{customdata[1]})<extra></extra>",
        )  # fmt: skip
    at = table[table["network"] == name]["x"]
    figure.add_scatter(
        x=at, y=[this["rlct"]], name="this network", mode="markers", hoverinfo="skip",
        marker={"color": "rgba(0,0,0,0)", "size": 18, "symbol": "circle", "line": {"color": "#e4572e", "width": 3}},
        error_y={"array": [this["rlct_standard_error"]], "color": "#e4572e"},
    )  # fmt: skip
    hollow = "; hollow: not ok" if (table["rlct_status"] != "ok").any() else ""
    title = f"RLCT among {len(table)} networks<br><sub>nβ {this['nbeta']:.1f}; bar: standard error{hollow}</sub>"
    figure.update_layout(title=title, legend={"orientation": "h", "y": -0.25}, showlegend=not by_arm)
    labels = list(table.sort_values("place")["label"].unique())
    ticks = {"tickvals": list(range(len(labels))), "ticktext": labels, "automargin": True}
    figure.update_xaxes(title="" if by_arm else "weight of the self-modeling loss (AW)", **GRID, **ticks)
    return figure.update_yaxes(title="RLCT", **GRID)


def differ_by_arm(table: pd.DataFrame) -> bool:
    """Whether arms differ in more than width, weight and kind of targets, so that their names are needed."""
    if "arm" not in table:
        return False
    keys = [name for name in ("hidden_size", "aux_weight", "detach_targets") if name in table]
    return bool(table.groupby(keys, dropna=False)["arm"].nunique().max() > 1 or table["hidden_size"].isna().any())


def places(table: pd.DataFrame, by_arm: bool) -> pd.DataFrame:
    """Where each network stands: its place on the axis, the label there, its group, and x, groups side by side."""
    if by_arm:
        table = table.assign(label=table["arm"], group="networks")
        order = list(table["arm"].unique())
    else:
        weights = table["aux_weight"].map("{:g}".format)
        table = table.assign(label=weights, group="h = " + table["hidden_size"].astype(str))
        table = table.sort_values("hidden_size", kind="stable")
        order = sorted(weights.unique(), key=float)
    place = table["label"].map(order.index)
    groups = list(table["group"].unique())
    beside = table["group"].map(groups.index) - (len(groups) - 1) / 2
    return table.assign(place=place, x=place + beside * 0.8 / len(groups))
