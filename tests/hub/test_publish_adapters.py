"""An adapter of a pretrained task model: trained, pushed while it trains, measured and loaded from the Hub."""

import json

import pytest
from huggingface_hub import ModelCard
from transformers import BertConfig, BertForSequenceClassification, set_seed

from tests import warm
from tests.hub.test_publish_encoders import FEW, RUN, SAMPLE, SMALL, bert_tokenizer
from tests.loopback_hub import LoopbackHub

TEXTS = ["--dataset_name", "stanfordnlp/imdb", "--text_column", "text", "--max_length", "12", *FEW]
LORA = ["--head", "own", "--backbone_name", "someone/bert", "--target_layers", "encoder.layer.*", "--lora_r", "2"]
TRAIN = ["train", *TEXTS, *LORA, "--aux_weight", "1", "--num_train_epochs", "2", "--quiet", "--output_dir", "run"]
PUSH = ["--push_to_hub", "--hub_model_id", "me/adapted", "--hub_strategy", "every_save"]
COMMANDS = [[*TRAIN, *PUSH], ["rlct", *TEXTS, *SAMPLE, "--model", "me/adapted", "--push_result"]]

WITH_PACKAGE = """
import torch
from huggingface_hub import HfApi
from selfmod_hf.hub.download import published_weights
from selfmod_hf.models import load_model
from selfmod_hf.weights import weights_sha256
model, here = load_model("me/adapted"), load_model("run")
assert all(torch.equal(value, here.state_dict()[name]) for name, value in model.state_dict().items())
assert published_weights("me/adapted") == {"": weights_sha256("run")}
model.push_to_hub("me/again")
assert published_weights("me/again") == published_weights("me/adapted")
whole = type(model).wrap(model.prune(), target_layers=["encoder.layer.*"], aux_weight=1.0)
whole.push_to_hub("me/again")  # the adapter leaves the repository
assert not [name for name in HfApi().list_repo_files("me/again") if name.startswith("adapter/")]
assert load_model("me/again").config.adapter is False
"""

BASELINE = """
from peft import LoraConfig
from selfmod_hf import SelfModelingForSequenceClassification
from selfmod_hf.models import load_model
settings = LoraConfig(r=2, target_modules=["query"])
model = SelfModelingForSequenceClassification.from_backbone_pretrained("someone/bert", head="own", adapter=settings)
model.push_to_hub("me/baseline")
load_model("me/baseline")
"""

ITS_WEIGHTS = """
from selfmod_hf.hub.download import published_weights
print(published_weights("me/baseline"))
"""

WITHOUT_PACKAGE = """
import sys
sys.modules["selfmod_hf"] = None  # importing it now fails
from transformers import pipeline
classify = pipeline("text-classification", model="me/adapted", trust_remote_code=True)
assert classify("film")[0]["label"] in ("neg", "pos")
# plain peft on the plain base, without any code of the network
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForSequenceClassification
settings = PeftConfig.from_pretrained("me/adapted", subfolder="adapter")
base = AutoModelForSequenceClassification.from_pretrained(
    settings.base_model_name_or_path, revision=settings.revision, trust_remote_code=False
)
plain = PeftModel.from_pretrained(base, "me/adapted", subfolder="adapter").eval()
tokens = classify.tokenizer(["the film is good", "bad"], padding=True, return_tensors="pt")
with torch.no_grad():
    assert torch.equal(plain(**tokens).logits, classify.model.eval()(**tokens).logits)
"""


@pytest.mark.slow
def test_an_adapter_is_pushed_measured_and_loaded(hub_seed, tmp_path):
    set_seed(0)
    base = tmp_path / "seed" / "models" / "someone" / "bert"
    config = BertConfig(**SMALL, vocab_size=60, label2id={"neg": 0, "pos": 1}, id2label={0: "neg", 1: "pos"})
    BertForSequenceClassification(config).save_pretrained(base)
    bert_tokenizer(base)
    with LoopbackHub(tmp_path / "hub", seeds=[hub_seed.path, tmp_path / "seed"]) as hub:
        environment = hub.env()

        def python(*arguments: str, **variables: str) -> str:
            done = warm.run(arguments, {**environment, **variables}, tmp_path)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        python("-c", RUN, json.dumps(COMMANDS))
        api = hub.api()
        files = api.list_repo_files("me/adapted")
        assert [name for name in files if name.startswith("adapter/")] == [
            "adapter/adapter_config.json",
            "adapter/adapter_model.safetensors",
        ]
        in_training = [commit for commit in api.list_repo_commits("me/adapted") if "in progress" in commit.title]
        for commit in in_training:
            names = api.list_repo_files("me/adapted", revision=commit.commit_id)
            assert "adapter/adapter_model.safetensors" in names
        assert in_training
        settings = json.loads((hub.root / "models/me/adapted/adapter/adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == "someone/bert"
        assert settings["revision"] == api.model_info("someone/bert").sha
        card = ModelCard.load(hub.root / "models/me/adapted/README.md")
        assert card.data.base_model == "someone/bert"
        assert "| adapter | LORA, rank 2, alpha 4, dropout 0.0, at query, value |" in card.content
        metrics = {result.metric_type for result in card.data.eval_results}
        assert {"accuracy", "weight_width"} <= metrics
        python("-c", WITH_PACKAGE)
        python("-c", WITHOUT_PACKAGE)
        python("-c", BASELINE)  # its repository holds an adapter alone
        of_hub = python("-c", ITS_WEIGHTS)
        assert of_hub == python("-c", ITS_WEIGHTS, HF_HUB_OFFLINE="1")
        assert of_hub.startswith("{'': '")
