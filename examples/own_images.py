# /// script
# requires-python = ">=3.10"
# dependencies = ["selfmod_hf"]
# [tool.uv.sources]
# selfmod_hf = { path = "..", editable = true }
# ///
"""Train a self-modeling network and its baseline on your own images.

    uv run examples/own_images.py photos             # photos/train/<class>/*.png and photos/test/<class>/*.png
    uv run examples/own_images.py                    # draws discs and squares first, in runs/shapes

uv needs the checkout: the package is on no index. After `pip install -e .`: `python examples/own_images.py photos`.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from selfmod_hf import RunSettings, weight_width


def draw_shapes(folder: Path) -> Path:
    """Write pictures of discs and of squares in noise, unless they exist."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 200), ("test", 50)):
        for kind in ("disc", "square"):
            place = folder / split / kind
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = Image.fromarray(generator.integers(0, 120, (16, 16), dtype=np.uint8))
                draw = {"disc": ImageDraw.Draw(image).ellipse, "square": ImageDraw.Draw(image).rectangle}[kind]
                draw((4, 4, *generator.integers(8, 14, 2).tolist()), fill=200)
                image.save(place / f"{number}.png")
    return folder


def main() -> None:
    """Train both networks, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="your images")
    parser.add_argument("--size", type=int, default=16, help="side of the images, in pixels")
    parser.add_argument("--epochs", type=float, default=10.0)
    arguments = parser.parse_args()
    fields = {"image_size": [arguments.size], "hidden_sizes": [64], "target_layers": ["hidden.relu1"]}
    fields["dataset_name"] = str(arguments.folder or draw_shapes(Path("runs/shapes")))
    for weight in (0.0, 1.0):
        place = f"runs/own-images-{weight:g}"
        settings = RunSettings.make(**fields, num_train_epochs=arguments.epochs, aux_weight=weight, output_dir=place)
        data = settings.load_data()
        trainer = settings.make_trainer(data, settings.build_network(data))
        trainer.train()
        trainer.save_model()
        accuracy = trainer.evaluate()["eval_accuracy"]
        print(f"weight {weight:g}: accuracy {accuracy:.3f}, weight width {weight_width(trainer.model).sd:.3f}, {place}")


if __name__ == "__main__":
    main()
