"""A page to explore published self-modeling networks: `python app.py --repo me/digits` (several: one after another)."""

from __future__ import annotations

import argparse
import os
from typing import Any

# before they are imported: nobody is told that this runs
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import explore
import gradio as gr
from PIL import Image

from selfmod_hf.errors import InputError

ABOUT = """# Self-modeling networks
Classifiers that learned, beside their task, to predict their own hidden activations
([arXiv 2407.10188](https://arxiv.org/abs/2407.10188)). Pick one, give it a sample, and see what it knows of itself."""
CANVAS, PEN = 280, 12
CSS = """
.modebar { display: none !important } /* it lies over the titles */
/* one grey cannot be read on white and on black */
.js-plotly-plot text:not(.hoverlayer *) { fill: var(--body-text-color) !important }
"""
LIST_WIDTH = 240  # pixels at least: on a phone one is below the other


def make_page(repos: list[str]) -> gr.Blocks:
    """The page for these repositories or folders.

    Raises:
        InputError: one of them publishes no RLCT.
    """
    names, first = explore.choices(repos[0])
    for other in repos[1:]:
        explore.results(other)  # refuses now what the page could not show
    with gr.Blocks(title="Self-modeling networks", analytics_enabled=False) as page:
        gr.Markdown(ABOUT)
        with gr.Row():
            repo = gr.Dropdown(
                repos,
                value=repos[0],
                label="Published in",
                elem_id="repo",
                visible=len(repos) > 1,
                min_width=LIST_WIDTH,
            )
            name = gr.Dropdown(
                names,
                value=first,
                label="Network",
                elem_id="network",
                visible=len(names) > 1,
                min_width=LIST_WIDTH,
            )
        facts = gr.Markdown(elem_id="facts")
        with gr.Row():
            with gr.Column():
                brush = gr.Brush(default_size=PEN, colors=["#000000"], color_mode="fixed")
                drawing = gr.Sketchpad(
                    sheet(), type="pil", label="Draw a digit", brush=brush, layers=False, canvas_size=(CANVAS, CANVAS),
                    fixed_canvas=True, height=380, elem_id="drawing",
                )  # fmt: skip
                picture = gr.Image(
                    type="pil", label="Picture", sources=["upload", "clipboard"], visible=False, elem_id="picture"
                )
                text = gr.Textbox(
                    label="Review", lines=8, placeholder="Paste a review", visible=False, elem_id="review"
                )
                example, number = gr.Button("An example", elem_id="example"), gr.State(0)
            with gr.Column():
                classes = gr.Label(label="Classes", num_top_classes=5, elem_id="classes")
                seen = gr.Image(
                    label="What the network sees", height=260, buttons=[], interactive=False, elem_id="seen"
                )
        with gr.Row():
            activations = gr.Plot(show_label=False, elem_id="activations")
            siblings = gr.Plot(show_label=False, elem_id="siblings")

        samples = [drawing, picture, text]
        shown = {"fn": show, "inputs": [repo, name], "outputs": [facts, siblings, *samples, example]}
        answer = {"fn": answer_of, "inputs": [repo, name, *samples], "outputs": [classes, seen, activations]}
        quick = {"show_progress": "hidden", "trigger_mode": "always_last"}
        repo.input(networks_of, repo, name).then(**shown).then(**answer)
        gr.on([page.load, name.input], **shown).then(**answer)
        gr.on([drawing.input, picture.change, text.change], **answer, **quick)  # a sketchpad's `change` comes late
        drawing.clear(sheet, None, drawing)
        example.click(next_example, [repo, name, number], [drawing, text, number])
    return page


def networks_of(repo: str) -> Any:
    names, first = explore.choices(repo)
    return gr.Dropdown(names, value=first, visible=len(names) > 1)


def show(repo: str, name: str) -> list[Any]:
    """A network's figures, and the input that it takes."""
    network = explore.open_network(repo, name)
    visible = [gr.update(visible=network.kind == kind) for kind in ("drawing", "picture", "text")]
    example = gr.update(visible=bool(explore.examples(network)))
    return [explore.facts(repo, name), explore.siblings_figure(repo, name), *visible, example]


def answer_of(repo: str, name: str, drawing: Any, picture: Any, text: str) -> list[Any]:
    """Classes, what is seen, predicted against actual activations; nothing where there is nothing to read."""
    network = explore.open_network(repo, name)
    sample = {"drawing": (drawing or {}).get("composite"), "picture": picture, "text": text}[network.kind]
    if explore.is_empty(network, sample):
        return [None, None, None]
    answer = explore.ask(network, sample)
    seen = gr.update(value=answer.seen, visible=answer.seen is not None)
    return [answer.classes, seen, explore.activations_figure(answer)]


def next_example(repo: str, name: str, number: int) -> list[Any]:
    network = explore.open_network(repo, name)
    samples = explore.examples(network)
    sample = samples[number % len(samples)]
    if network.kind == "text":
        return [gr.skip(), sample, number + 1]
    return [sheet(sample), gr.skip(), number + 1]


def sheet(image: Image.Image | None = None) -> dict[str, Any]:
    """An image as a sketchpad takes it; with a sheet of white under it, it has the pen in hand at once."""
    image = image or Image.new("L", (CANVAS, CANVAS), 255)
    return {"background": image, "layers": [], "composite": image}


def main() -> None:
    """Read the flags and serve, on this machine alone where nothing else is asked for (`GRADIO_SERVER_NAME`)."""
    parser = argparse.ArgumentParser(description=__doc__)
    named = os.environ.get("SELFMOD_REPOS", "").split()
    parser.add_argument("--repo", nargs="+", default=named, help="what `selfmod push` published, or local folders")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    args = parser.parse_args()
    if not args.repo:
        parser.error("--repo: name a repository or folder (of a Space: by the variable SELFMOD_REPOS)")
    try:
        page = make_page(args.repo)
    except InputError as error:
        parser.error(str(error))
    page.launch(server_port=args.port, share=False, ssr_mode=False, show_error=True, footer_links=[], css=CSS)


if __name__ == "__main__":
    main()
