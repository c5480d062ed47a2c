# /// script
# requires-python = ">=3.10"
# dependencies = ["selfmod_hf"]
# [tool.uv.sources]
# selfmod_hf = { path = "..", editable = true }
# ///
"""Fine-tune a pretrained encoder that predicts its own layers, on movie reviews, and compare it with the baseline.

    uv run examples/finetune_encoder.py
    uv run examples/finetune_encoder.py --encoder google/bert_uncased_L-2_H-128_A-2 --layers "encoder.layer.1.output"

uv needs the checkout: the package is on no index. After `pip install -e .` it is `python examples/finetune_encoder.py`.
Each network is saved in `runs/encoder-<weight>`.
"""

import argparse

from transformers import set_seed

from selfmod_hf import (
    SelfModelingForSequenceClassification,
    SelfModelingTrainer,
    SelfModelingTrainingArguments,
    get_task,
    load_texts,
    weight_width,
)


def main() -> None:
    """Train a network for each self-model weight, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="Hub id or folder")
    parser.add_argument("--layers", nargs="+", default=["encoder.layer.3.output", "encoder.layer.5.output"])
    parser.add_argument("--aux_weights", type=float, nargs="+", default=[0.0, 1.0], help="0 is the baseline")
    parser.add_argument("--samples", type=int, default=4000, help="reviews to train with, and a quarter to test")
    parser.add_argument("--epochs", type=float, default=1.0)
    arguments = parser.parse_args()
    sizes = {"max_train_samples": arguments.samples, "max_test_samples": max(arguments.samples // 4, 8)}
    data = load_texts(get_task("imdb"), tokenizer=arguments.encoder, padded=True, max_length=128, **sizes)
    for weight in arguments.aux_weights:
        set_seed(1)
        fields = {"target_layers": arguments.layers, "aux_weight": weight}
        model = SelfModelingForSequenceClassification.from_backbone_pretrained(arguments.encoder, **fields)
        folder = f"runs/encoder-{weight:g}"
        args = SelfModelingTrainingArguments(folder, num_train_epochs=arguments.epochs, learning_rate=5e-5)
        trainer = SelfModelingTrainer(model, args, train_dataset=data.train, eval_dataset=data.test)
        trainer.train()
        trainer.save_model()
        accuracy = trainer.evaluate()["eval_accuracy"]
        print(f"weight {weight:g}: accuracy {accuracy:.3f}, weight width {weight_width(model).sd:.4f}, {folder}")


if __name__ == "__main__":
    main()
