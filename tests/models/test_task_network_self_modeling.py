"""Networks over task models are saved, loaded, pushed and pruned."""

import json

import pytest
import torch
import transformers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from selfmod_hf import SelfModelingForCausalLM, SelfModelingForSequenceClassification
from selfmod_hf.models import KINDS, load_model
from tests import warm
from tests.models.task_models import EACH, PAIRS, batch, network, plain


def outputs(model, inputs):
    """The tensors of a forward. Weights of files lie anywhere in memory, and the last bit may depend on it."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        output = model.eval()(**inputs)
    return {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_saved_and_loaded_by_package_and_auto_class(kind, name, tmp_path):
    model = network(kind, name)
    model.save_pretrained(tmp_path)
    auto_class = getattr(transformers, KINDS[kind].auto_class)
    inputs = batch(kind)
    expected = outputs(model, inputs)
    for loaded in (auto_class.from_pretrained(tmp_path), load_model(tmp_path)):
        assert type(loaded) is type(model)
        found = outputs(loaded, inputs)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert loaded.target_layers == model.target_layers


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_the_pruned_network_is_the_plain_model(kind, name, tmp_path):
    """Bit-identical outputs, and files that plain transformers loads without any code of this package."""
    model = network(kind, name)
    inputs = batch(kind)
    pruned = model.prune()
    reference = plain(kind, name)
    assert type(pruned) is type(reference)
    pruned.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == reference.config.model_type
    assert "auto_map" not in config
    loaded = getattr(transformers, KINDS[kind].auto_class).from_pretrained(tmp_path, trust_remote_code=False)
    whole = outputs(model, inputs)
    for plain_model in (pruned, loaded, reference):
        found = outputs(plain_model, inputs)
        for name in found.keys() - {"loss"}:
            assert torch.equal(found[name], whole[name])
        assert torch.equal(found["loss"], whole["classification_loss"])
    assert not any(module._forward_hooks for module in pruned.modules())
    outputs(pruned, inputs)
    assert outputs(model, inputs).keys() == whole.keys()


def test_shards_and_half_precision(tmp_path):
    model = network("causal-lm", "gpt2").to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = load_model(tmp_path)
    assert loaded.task_model.dtype == torch.bfloat16
    inputs = batch("causal-lm")
    assert torch.equal(outputs(loaded, inputs)["loss"], outputs(model, inputs)["loss"])


def test_weights_stay_tied_and_are_saved_once(tmp_path):
    model = network("causal-lm", "gpt2")
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    for one in (model, loaded, model.prune()):
        assert one.get_output_embeddings().weight is one.get_input_embeddings().weight


def test_defaults_of_generate_are_kept(tmp_path):
    inner = plain("causal-lm", "gpt2").eval()
    inner.generation_config = GenerationConfig(max_new_tokens=4, eos_token_id=2, pad_token_id=0)
    model = SelfModelingForCausalLM.wrap(inner, target_layers=["h.*"], aux_weight=0.1)
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.generation_config.max_new_tokens == 4
    assert loaded.prune().generation_config.max_new_tokens == 4
    tokens = torch.tensor([[5, 6, 7]])
    expected = inner.generate(tokens)
    assert torch.equal(model.generate(tokens), expected)
    assert torch.equal(loaded.generate(tokens), expected)


def test_attention_and_dtype_reach_the_task_model(tmp_path):
    network("masked-lm", "bert").save_pretrained(tmp_path)
    loaded = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.bfloat16
    )
    assert loaded.task_model.config._attn_implementation == "eager"
    assert loaded.task_model.dtype == torch.bfloat16
    loaded.set_attn_implementation("sdpa")
    assert loaded.task_model.config._attn_implementation == "sdpa"


def test_a_baseline_gets_a_self_model_when_it_is_loaded(tmp_path):
    baseline = network("masked-lm", "bert", target_layers=[], aux_weight=0.0)
    assert baseline.self_model_head is None
    baseline.save_pretrained(tmp_path)
    config = type(baseline).config_class.from_pretrained(tmp_path, target_layers=["encoder.layer.*"], aux_weight=1.0)
    model = type(baseline).from_pretrained(tmp_path, config=config)
    assert model.self_model_head.weight.abs().sum() > 0
    inputs = batch("masked-lm")
    assert torch.equal(outputs(model.prune(), inputs)["loss"], outputs(baseline, inputs)["loss"])


def test_wrong_files_are_rejected(tmp_path):
    from safetensors.torch import load_file, save_file

    network("masked-lm", "bert").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = "task_model.bert.encoder.layer.0.output.dense.weight"
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"does not fit config.json \(missing: {lost}"):
        load_model(tmp_path)


def test_a_pretrained_task_model_keeps_its_head(tmp_path):
    pretrained = plain("text-classification", "bert").eval()
    pretrained.save_pretrained(tmp_path)
    fields = {"target_layers": ["encoder.layer.*"], "aux_weight": 1.0}
    model = SelfModelingForSequenceClassification.from_backbone_pretrained(tmp_path, head="own", **fields).eval()
    inputs = batch("text-classification")
    assert torch.equal(model(**inputs).logits, pretrained(**inputs).logits)
    assert model.config.base_model is None
    model.save_pretrained(tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()
    assert model.pretrained_folder == tmp_path
    fresh = SelfModelingForSequenceClassification.from_backbone_pretrained(str(tmp_path), **fields)
    assert fresh.config.wrapped_config is None
    with pytest.raises(ValueError, match="head='both': allowed are new, own"):
        SelfModelingForSequenceClassification.from_backbone_pretrained(tmp_path, head="both")
    with pytest.raises(ValueError, match="head='new': SelfModelingForCausalLM keeps"):
        SelfModelingForCausalLM.from_backbone_pretrained(tmp_path, head="new")


@pytest.mark.parametrize("head", ["own", "new"])
def test_arguments_of_from_pretrained_are_no_fields(head, tmp_path):
    """A token in a configuration would be pushed with it."""
    plain("text-classification", "bert").save_pretrained(tmp_path / "base")
    make = SelfModelingForSequenceClassification.from_backbone_pretrained
    model = make(str(tmp_path / "base"), head=head, token="hf_secret", cache_dir=str(tmp_path), local_files_only=True)
    model.save_pretrained(tmp_path / "saved")
    config = (tmp_path / "saved" / "config.json").read_text()
    for name in ("hf_secret", 'token"', "cache_dir", "local_files_only"):
        assert name not in config
    with pytest.raises(ValueError, match="use_kernels: not supported"):
        make(str(tmp_path / "base"), head=head, use_kernels=True)
    with pytest.raises(ValueError, match="Unrecognized model"):  # the subfolder is looked into
        make(str(tmp_path / "base"), head=head, subfolder="nowhere")


def test_type_and_attention_of_a_task_model_are_chosen_where_it_is_loaded(tmp_path):
    plain("text-classification", "bert").save_pretrained(tmp_path / "base")
    make = SelfModelingForSequenceClassification.from_backbone_pretrained
    chosen = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    model = make(tmp_path / "base", head="own", **chosen)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.task_model.config._attn_implementation == "eager"
    inputs = batch("text-classification")
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(outputs(load_model(tmp_path / "saved"), inputs)["logits"], outputs(model, inputs)["logits"])
    with pytest.raises(ValueError, match="dtype: allowed with head='own'"):
        make(str(tmp_path / "base"), dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="token: allowed where the task model is loaded"):
        SelfModelingForCausalLM.wrap(plain("causal-lm", "gpt2"), token="hf_secret")


@pytest.mark.parametrize(("kind", "name"), [("causal-lm", "gpt2"), ("token-classification", "bert")])
def test_embeddings_are_resized_with_the_task_model(kind, name, tmp_path):
    model = network(kind, name)
    words = model.config.wrapped_config.vocab_size + 5
    model.resize_token_embeddings(words, mean_resizing=False)
    assert model.get_input_embeddings().num_embeddings == words
    inputs = batch(kind)
    inputs["input_ids"][0, 0] = words - 1
    model.save_pretrained(tmp_path)
    for other in (load_model(tmp_path), model.prune()):
        assert other.get_input_embeddings().num_embeddings == words
        assert torch.equal(outputs(other, inputs)["logits"], outputs(model, inputs)["logits"])


def test_a_head_that_is_missing_or_has_another_size_is_drawn_with_a_warning(tmp_path):
    plain("masked-lm", "bert").save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"has no weights for .*classifier.weight.*; they are drawn"):
        model = SelfModelingForSequenceClassification.from_backbone_pretrained(
            tmp_path, head="own", id2label={0: "no", 1: "yes", 2: "perhaps"}
        )
    assert model.config.id2label == model.config.wrapped_config.id2label == {0: "no", 1: "yes", 2: "perhaps"}
    assert model.config.label2id == model.config.wrapped_config.label2id == {"no": 0, "yes": 1, "perhaps": 2}
    assert model.task_model.classifier.out_features == 3


def test_a_decoder_that_classifies_texts_gets_a_padding_token(tmp_path):
    config = GPT2Config(n_embd=12, n_layer=1, n_head=2, vocab_size=30, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="score.weight"):
        model = SelfModelingForSequenceClassification.from_backbone_pretrained(tmp_path, head="own")
    assert model.config.wrapped_config.pad_token_id == 2
    inputs = {"input_ids": torch.tensor([[4, 5, 2], [6, 7, 8]]), "labels": torch.tensor([0, 1])}
    assert model(**inputs).loss.isfinite()


# a program gives the losses of all architectures, from weights that lie alike in memory
LOSSES = """
import json, sys, torch, transformers
terms = ("loss", "classification_loss", "self_modeling_loss")
def losses(model, inputs):
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        output = model.eval()(**inputs)
    return [float(output[term]) for term in terms if output.get(term) is not None]
def loaded(auto_class, name, trust):
    return getattr(transformers, auto_class).from_pretrained(name, trust_remote_code=trust)
found = {}
"""
PUSH = f"""{LOSSES}
from selfmod_hf.models import KINDS
from tests.models.task_models import EACH, batch, network
for kind, name in EACH:
    model = network(kind, name)
    model.push_to_hub(f"me/{{name}}")
    if name == "gpt2":
        model.prune().push_to_hub("me/plain")
    again = loaded(KINDS[kind].auto_class, f"me/{{name}}", False)
    assert type(again) is type(model)
    found[name] = losses(again, batch(kind))
    assert found[name] == losses(model, batch(kind)), name
print(json.dumps(found))
"""
WITHOUT_PACKAGE = f"""{LOSSES}
sys.modules["selfmod_hf"] = None  # importing it now fails
for name, (auto_class, given) in json.loads(sys.argv[1]).items():
    inputs = {{key: torch.tensor(values) for key, values in given.items()}}
    found[name] = losses(loaded(auto_class, f"me/{{name}}", True), inputs)
    if name == "gpt2":
        assert losses(loaded(auto_class, "me/plain", False), inputs) == found[name][1:2]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_pushed_and_loaded_with_and_without_the_package(loopback_hub):
    def losses(*arguments: str) -> dict[str, list[float]]:
        done = warm.run(arguments, loopback_hub.env())
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    given = {
        name: (KINDS[kind].auto_class, {key: values.tolist() for key, values in batch(kind).items()})
        for kind, name in EACH
    }
    expected = losses("-c", PUSH)
    assert expected.keys() == given.keys()
    assert all(len(terms) == 3 for terms in expected.values())
    assert losses("-c", WITHOUT_PACKAGE, json.dumps(given)) == expected
    for kind, name in EACH:
        card = loopback_hub.root / f"models/me/{name}/README.md"
        assert f"SelfModelingFor{KINDS[kind].head}" in card.read_text()
