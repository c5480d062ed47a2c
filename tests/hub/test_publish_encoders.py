"""A tiny random BERT and a tiny ViT: trained, pushed, their RLCT measured from the Hub, loaded without the package."""

import json
from pathlib import Path

import timm
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, BertTokenizer

from tests import warm
from tests.loopback_hub import LoopbackHub

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
BERT = json.dumps({"model_type": "bert", "vocab_size": 60, **SMALL})
VIT = json.dumps({"model_type": "vit", "image_size": 32, "patch_size": 8, **SMALL})
FEW = ["--max_train_samples", "60", "--max_test_samples", "20"]
TEXTS = ["--dataset_name", "stanfordnlp/imdb", "--text_column", "text", "--max_length", "12", *FEW]
IMAGES = ["--dataset_name", "uoft-cs/cifar10", "--image_column", "img", *FEW]
TRAIN = ["--aux_weight", "0.5", "--num_train_epochs", "1", "--push_to_hub", "--quiet"]
SAMPLE = ["--num_draws", "4", "--num_chains", "2", "--batch_size", "8", "--rlct_preset", "theory", "--quiet"]

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


def bert_tokenizer(folder: Path) -> None:
    """BERT's own, of few words: it gives token types, too."""
    folder.mkdir(parents=True, exist_ok=True)
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] the a film is good bad great dull"
    (folder / "vocab.txt").write_text(words.replace(" ", "\n"))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


def test_train_push_measure_and_load(loopback_hub, tmp_path):
    def python(*arguments: str) -> str:
        done = warm.run(arguments, loopback_hub.env(), tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    bert_tokenizer(tmp_path / "words")
    printed = python("-c", RUN, json.dumps(COMMANDS))
    assert printed.count("accuracy  ") == 2
    assert printed.count("RLCT  ") == 2
    for name, task in (("bert", "text-classification"), ("vit", "image-classification")):
        api = loopback_hub.api()
        assert {"model.safetensors", "modeling_self_modeling.py"} <= set(api.list_repo_files(f"me/{name}"))
        card = ModelCard.load(api.hf_hub_download(f"me/{name}", "README.md", cache_dir=tmp_path / "cache"))
        assert card.data.pipeline_tag == task
    python("-c", WITHOUT_PACKAGE)


def test_a_card_names_the_pretrained_backbone(hub_seed, tmp_path):
    """By its id on the Hub, which of timm's models has the tag of the weights; a folder of this machine by none."""
    seed, folder = tmp_path / "seed" / "models", tmp_path / "encoder"
    resnet, vit = seed / "timm" / "test_resnet.r160_in1k", seed / "someone" / "vit"
    resnet.mkdir(parents=True)
    pretrained = timm.create_model("test_resnet")
    save_file(pretrained.state_dict(), resnet / "model.safetensors")
    for where in (vit, folder):
        AutoModel.from_config(AutoConfig.for_model(**json.loads(VIT))).save_pretrained(where)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    names = {"resnet": "timm/test_resnet", "vit": "someone/vit", "local": str(folder)}
    commands = [
        ["train", *IMAGES, *TRAIN, "--backbone_name", name, "--hub_model_id", f"me/{repo}", "--output_dir", repo]
        for repo, name in names.items()
    ]
    for command in commands:
        command += ["--target_layers", "layer4" if "timm/test_resnet" in command else "layers.1"]
    with LoopbackHub(tmp_path / "hub", seeds=[hub_seed.path, tmp_path / "seed"]) as hub:
        done = warm.run(["-c", RUN, json.dumps(commands)], hub.env(), tmp_path)
        assert done.returncode == 0, done.stderr
        cards = {name: ModelCard.load(hub.root / "models/me" / name / "README.md") for name in names}
        for path in (hub.root / "models/me/local").glob("*.json"):
            assert str(folder) not in path.read_text(), path
    expected = {"resnet": "timm/test_resnet.r160_in1k", "vit": "someone/vit", "local": None}
    assert {name: card.data.base_model for name, card in cards.items()} == expected
    assert {name: card.data.license for name, card in cards.items()} == dict.fromkeys(names) | {"local": "cc-by-4.0"}
