"""A text classifier from the Hub to the Hub, its tokenizer with it; read without the package; its RLCT by command."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests import warm
from tests.loopback_hub import Trouble, no_faults

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_PACKAGE = """
import sys
sys.modules["selfmod_hf"] = None  # importing it now fails
from transformers import AutoTokenizer, pipeline
tokenizer = AutoTokenizer.from_pretrained("me/reviews", trust_remote_code=False)  # needs none; unset, it asks
assert tokenizer.tokenize("It's GOOD (very).") == ["it", "'", "s", "good", "(", "very", ")", "."]
classify = pipeline("text-classification", model="me/reviews", trust_remote_code=True, batch_size=2)
answers = classify(["a great, lovely film", "dull. " * 30])
assert len(answers) == 2 and all(a["label"] in ("neg", "pos") and 0 <= a["score"] <= 1 for a in answers), answers
assert abs(classify("dull. " * 30)[0]["score"] - answers[1]["score"]) < 1e-6  # padding changes nothing
"""


@pytest.mark.slow
def test_imdb_from_the_hub_to_the_hub(loopback_hub, tmp_path):
    def selfmod(*flags: str) -> str:
        script = str(ROOT / "scripts" / ("train.py" if flags[0] == "train" else "estimate_rlct.py"))
        done = warm.run([script, *flags[1:]], loopback_hub.env(), tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    few = ["--task", "imdb", "--max_train_samples", "100", "--max_test_samples", "50"]
    push = ["--push_to_hub", "--hub_model_id", "me/reviews", "--num_train_epochs", "2"]
    assert "accuracy" in selfmod("train", *few, *push)
    api = loopback_hub.api()
    files = set(api.list_repo_files("me/reviews"))
    assert {"tokenizer.json", "tokenizer_config.json", "model.safetensors", "modeling_self_modeling.py"} <= files
    card = ModelCard.load(api.hf_hub_download("me/reviews", "README.md", cache_dir=tmp_path / "cache"))
    assert (card.data.pipeline_tag, card.data.datasets) == ("text-classification", ["stanfordnlp/imdb"])
    assert "SelfModelingForSequenceClassification.from_pretrained" in card.text
    warm.run(["-c", WITHOUT_PACKAGE], loopback_hub.env(), tmp_path, check=True)

    estimate = [str(ROOT / "scripts" / "estimate_rlct.py"), "--model", "me/reviews", *few]
    fresh = loopback_hub.env() | {"HF_HUB_CACHE": str(tmp_path / "fresh")}  # the tokenizer is not there yet
    loopback_hub.faults = Trouble("corrupt", only="tokenizer_config.json", times=None)
    done = warm.run(estimate, fresh, tmp_path)
    assert done.returncode == 2
    assert "tokenizer_config.json arrived with another content than announced" in done.stderr.splitlines()[-1]
    loopback_hub.faults = no_faults
    table = selfmod("rlct", "--model", "me/reviews", *few, "--num_draws", "20", "--num_chains", "2")
    assert "paper (imdb) with num_chains, num_draws" in table
