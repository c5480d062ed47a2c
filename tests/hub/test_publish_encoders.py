"""A tiny random BERT and a tiny ViT: trained, pushed, their RLCT measured from the Hub, loaded without the package."""

import json
import subprocess
import sys

from huggingface_hub import ModelCard

from selfmod_hf.data import basic_english_tokenizer

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
BERT = json.dumps({"model_type": "bert", "vocab_size": 60, **SMALL})
VIT = json.dumps({"model_type": "vit", "image_size": 32, "patch_size": 8, **SMALL})
FEW = ["--max_train_samples", "60", "--max_test_samples", "20"]
TEXTS = ["--dataset_name", "stanfordnlp/imdb", "--text_column", "text", "--max_length", "12", *FEW]
IMAGES = ["--dataset_name", "uoft-cs/cifar10", "--image_column", "img", *FEW]
TRAIN = ["--aux_weight", "0.5", "--num_train_epochs", "1", "--push_to_hub", "--quiet"]
SAMPLE = ["--num_draws", "4", "--num_chains", "2", "--batch_size", "8", "--preset", "theory", "--quiet"]

COMMANDS = [
    ["train", *TEXTS, *TRAIN, "--backbone_config", BERT, "--tokenizer_name", "./words", "--target_layers",
     "encoder.layer.*.output", "--hub_model_id", "me/bert"],
    ["train", *IMAGES, *TRAIN, "--backbone_config", VIT, "--target_layers", "layers.1", "--hub_model_id", "me/vit"],
    ["rlct", *TEXTS, *SAMPLE, "--model", "me/bert", "--parameters", "network.backbone.encoder.*"],
    ["rlct", *IMAGES, *SAMPLE, "--model", "me/vit"],
]  # fmt: skip

RUN = """
import json, sys
from selfmod_hf.cli import main
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
"""

WITHOUT_PACKAGE = """
import sys
sys.modules["selfmod_hf"] = None  # importing it now fails
from PIL import Image
from transformers import pipeline
classify = pipeline("text-classification", model="me/bert", trust_remote_code=True, batch_size=2)
short, long = classify(["film", "the film is good " * 3])
assert short["label"] in ("neg", "pos") and abs(classify("film")[0]["score"] - short["score"]) < 1e-6, short
classify = pipeline("image-classification", model="me/vit", trust_remote_code=True)
assert len(classify(Image.new("RGB", (50, 40)))) == 5
"""


def test_train_push_measure_and_load(loopback_hub, tmp_path):
    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], env=loopback_hub.env(), cwd=tmp_path, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    basic_english_tokenizer(["the film is good bad great dull"]).save_pretrained(tmp_path / "words")
    printed = python("-c", RUN, json.dumps(COMMANDS))
    assert printed.count("accuracy  ") == 2
    assert printed.count("RLCT  ") == 2
    for name, task in (("bert", "text-classification"), ("vit", "image-classification")):
        api = loopback_hub.api()
        assert {"model.safetensors", "modeling_self_modeling.py"} <= set(api.list_repo_files(f"me/{name}"))
        card = ModelCard.load(api.hf_hub_download(f"me/{name}", "README.md", cache_dir=tmp_path / "cache"))
        assert card.data.pipeline_tag == task
    python("-c", WITHOUT_PACKAGE)
