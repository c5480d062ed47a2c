"""The examples of docs/task-models.md run, with a small random model under the pretrained one's name."""

import re
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, GPT2Config, set_seed

from selfmod_hf.models import KINDS
from tests import warm
from tests.hub.test_publish_encoders import bert_tokenizer
from tests.loopback_hub import LoopbackHub

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "task-models.md").read_text()


@pytest.fixture
def hub(tmp_path):
    set_seed(0)
    folder = tmp_path / "seed" / "models" / "openai-community" / "gpt2"
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=60, bos_token_id=1, eos_token_id=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    bert_tokenizer(folder)
    with LoopbackHub(tmp_path / "hub", seeds=[tmp_path / "seed"]) as running:
        yield running


@pytest.mark.slow
def test_the_examples(hub, tmp_path):
    whole, adapted = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    done = warm.run(["-c", f"{whole}\n{adapted}"], hub.env(), tmp_path)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()[-3:]
    assert third == "GPT2LMHeadModel PeftModel True"
    assert re.fullmatch(r"language modeling \d\.\d+, self-modeling \d\.\d+", first)
    assert second.startswith("tensor(")


def test_the_table_has_every_kind():
    rows = re.findall(r"^\| `SelfModelingFor(\w+)` \| `(\w+)` \| ([\w-]+) \|", PAGE, re.MULTILINE)
    assert rows == [(kind.head, kind.auto_class, kind.name) for kind in KINDS.values()]
