"""Adapters inside of networks over task models: the files of the adapter are the plain task model's."""

import copy
import json

import pytest
import torch
import transformers
from peft import AdaLoraConfig, LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

import selfmod_hf
from selfmod_hf import (
    SelfModelingForCausalLM,
    SelfModelingForTokenClassification,
    SelfModelingTrainer,
    SelfModelingTrainingArguments,
    estimate_rlct,
)
from selfmod_hf.errors import InputError
from selfmod_hf.models import KINDS, load_model
from selfmod_hf.weights import files_with_weights, weights_sha256
from tests.models.task_models import ARCHITECTURES, EACH, batch, enable_recomputing, gradients, plain

LORA = {
    "gpt2": {"target_modules": ["c_attn"], "fan_in_fan_out": True},
    "llama": {"target_modules": ["q_proj", "v_proj"]},
    "bert": {"target_modules": ["query", "value"]},
    "vit": {"target_modules": ["q_proj", "v_proj"]},
    "swin": {"target_modules": r".*\.mlp\.fc\d"},
    "resnet": {"target_modules": ["convolution"]},
}  # and all linear layers of any other
CASES = [*EACH, ("text-classification", "gpt2")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request, tmp_path_factory):
    """Kind, task model without an adapter, and a network with an adapter that has moved. They are only read."""
    kind, name = request.param
    base = tmp_path_factory.mktemp("base")
    plain(kind, name).save_pretrained(base)
    fields = {"target_layers": [ARCHITECTURES[name][1]], "aux_weight": 1.0}
    if kind == "image-classification":
        fields["image_size"] = 8
    targets = LORA.get(name, {"target_modules": "all-linear"})
    settings = LoraConfig(r=2, init_lora_weights=False, **targets)
    public = getattr(selfmod_hf, f"SelfModelingFor{KINDS[kind].head}")
    model = public.from_backbone_pretrained(base, head="own", adapter=settings, **fields).eval()
    return kind, plain(kind, name), model


def logits(model, inputs):
    """Return the logits. Weights of files lie anywhere in memory, and the last bit may depend on it."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        output = model.eval()(**inputs)
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits])
    return output.logits


def trained_parameters(model) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_an_adapter_is_trained_saved_and_loaded_by_plain_peft_too(case, tmp_path):
    kind, base, untrained = case
    model = copy.deepcopy(untrained)
    inputs = batch(kind)
    trained = trained_parameters(model)
    assert any("lora_" in name for name in trained)
    assert all("lora_" in name or name.startswith("self_model_head") for name in trained)
    before = logits(model, inputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**inputs).loss.backward()
    optimizer.step()
    expected = logits(model, inputs)
    assert not torch.equal(expected, before)
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    assert set(load_file(folder / "model.safetensors")) == {"self_model_head.weight", "self_model_head.bias"}
    config = (folder / "config.json").read_text()
    assert json.loads(config)["adapter"] is True
    assert str(tmp_path) not in config
    loaded = getattr(transformers, KINDS[kind].auto_class).from_pretrained(folder)
    assert type(loaded) is type(model)
    assert loaded.config.adapter
    assert trained_parameters(loaded) == trained
    assert torch.equal(logits(loaded, inputs), expected)
    assert torch.equal(loaded(**inputs).loss, model(**inputs).loss)
    by_peft = PeftModel.from_pretrained(copy.deepcopy(base), folder / "adapter")
    assert torch.equal(logits(by_peft, inputs), expected)


def test_pruned_by_merging_or_with_the_adapter(case, tmp_path):
    kind, _, model = case
    inputs = batch(kind)
    expected = logits(model, inputs)
    assert torch.equal(logits(model.prune(adapter="keep"), inputs), expected)
    merged = model.prune(adapter="merge")
    assert isinstance(merged, transformers.PreTrainedModel)
    assert all(value.requires_grad for value in merged.parameters())  # it can be fine-tuned as any plain model
    torch.testing.assert_close(logits(merged, inputs), expected, rtol=1e-4, atol=1e-5)
    merged.save_pretrained(tmp_path)
    auto_class = getattr(transformers, KINDS[kind].auto_class)
    plain_model = auto_class.from_pretrained(tmp_path, trust_remote_code=False)
    assert torch.equal(logits(plain_model, inputs), logits(merged, inputs))
    assert torch.equal(logits(model, inputs), expected)


def test_a_kept_adapter_is_saved_as_plain_peft_has_it(saved, tmp_path):
    model = load_model(saved / "network")
    model.prune(adapter="keep").save_pretrained(tmp_path)
    inputs = batch("causal-lm")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(saved / "base"), tmp_path)
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))
    with pytest.raises(ValueError, match="adapter='both': allowed are merge, keep"):
        model.prune(adapter="both")


def test_the_digest_has_both_files(tmp_path):
    base = tmp_path / "base"
    plain("causal-lm", "gpt2").save_pretrained(base)
    settings = LoraConfig(r=2, init_lora_weights=False, **LORA["gpt2"])
    model = SelfModelingForCausalLM.from_backbone_pretrained(
        base, adapter=settings, target_layers=["h.*"], aux_weight=1.0
    )
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    assert files_with_weights(folder) == ["adapter/adapter_model.safetensors", "model.safetensors"]
    before = weights_sha256(folder)
    file = folder / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: value + 1 for name, value in weights.items()}, file, metadata={"format": "pt"})
    assert weights_sha256(folder) != before
    lost = dict(list(weights.items())[1:])
    save_file(lost, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="does not fit its base"):
        load_model(folder)


def test_a_drawn_head_is_trained_and_saved_with_the_adapter(tmp_path):
    base = tmp_path / "base"
    plain("masked-lm", "bert").save_pretrained(base)
    settings = LoraConfig(r=2, **LORA["bert"])
    with pytest.warns(UserWarning, match="classifier.weight"):
        model = SelfModelingForTokenClassification.from_backbone_pretrained(
            base, adapter=settings, target_layers=["encoder.layer.*"], aux_weight=1.0, num_labels=3
        )
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("classifier.modules_to_save" in name for name in trained)
    layer_name, layer = model.last_layer
    assert layer_name.endswith("classifier.modules_to_save.default")
    assert layer.weight.requires_grad
    model.save_pretrained(tmp_path / "saved")
    inputs = batch("token-classification")
    assert torch.equal(logits(load_model(tmp_path / "saved"), inputs), logits(model, inputs))


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    base = tmp_path / "base"
    plain("causal-lm", "gpt2").save_pretrained(base)
    tokens = batch("causal-lm", rows=8)["input_ids"]
    rows = [{"input_ids": row, "labels": row} for row in tokens]

    def trainer():
        torch.manual_seed(1)
        settings = LoraConfig(r=2, **LORA["gpt2"])
        fields = {"target_layers": ["h.*"], "aux_weight": 1.0}
        model = SelfModelingForCausalLM.from_backbone_pretrained(base, adapter=settings, **fields)
        args = SelfModelingTrainingArguments(
            tmp_path / "run", num_train_epochs=2, per_device_train_batch_size=4, save_strategy="epoch"
        )
        return SelfModelingTrainer(model, args, train_dataset=rows)

    complete, resumed = trainer(), trainer()
    complete.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    expected = complete.model.state_dict()
    found = resumed.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_baseline_with_an_adapter_is_saved_and_loaded(tmp_path):
    plain("causal-lm", "gpt2").save_pretrained(tmp_path / "base")
    settings = LoraConfig(r=2, init_lora_weights=False, **LORA["gpt2"])
    model = SelfModelingForCausalLM.from_backbone_pretrained(tmp_path / "base", adapter=settings)
    model.save_pretrained(tmp_path / "saved")
    inputs = batch("causal-lm")
    assert torch.equal(logits(load_model(tmp_path / "saved"), inputs), logits(model, inputs))


def test_gradient_checkpointing_gives_the_same_gradients(case):
    kind, _, model = case
    inputs = batch(kind)
    model, recomputing = copy.deepcopy(model), copy.deepcopy(model)
    if not enable_recomputing(recomputing, use_reentrant=False):
        return
    found = []
    for one in (model.train(), recomputing.train()):
        torch.manual_seed(0)
        one(**inputs).loss.backward()
        found.append(gradients(one))
    without, with_it = found
    assert without.keys() == with_it.keys()
    assert all(torch.equal(without[name], with_it[name]) for name in without)


def test_adapters_that_cannot_be_used_are_rejected(tmp_path):
    new = get_peft_model(plain("causal-lm", "gpt2"), LoraConfig(r=2, **LORA["gpt2"]))
    with pytest.raises(ValueError, match="the adapter's base was not loaded from a folder or the Hub"):
        SelfModelingForCausalLM.wrap(new, target_layers=["h.*"], aux_weight=1.0)
    plain("causal-lm", "gpt2").save_pretrained(tmp_path)
    settings = PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="PREFIX_TUNING adds tokens to each text"):
        SelfModelingForCausalLM.from_backbone_pretrained(
            tmp_path, adapter=settings, target_layers=["h.*"], aux_weight=1.0
        )
    model = SelfModelingForCausalLM.from_backbone_pretrained(tmp_path, target_layers=["h.*"], aux_weight=1.0)
    with pytest.raises(ValueError, match="adapter='merge': the network has none; leave it out"):
        model.prune(adapter="merge")


# ---------------------------------------------------------------------------------- arguments of from_pretrained


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a language model with an adapter, beside its base. They are only read."""
    place = tmp_path_factory.mktemp("adapted")
    plain("causal-lm", "gpt2").save_pretrained(place / "base")
    settings = LoraConfig(r=2, init_lora_weights=False, **LORA["gpt2"])
    with pytest.warns(UserWarning, match="the adapter names its base by its folder"):
        network = SelfModelingForCausalLM.from_backbone_pretrained(
            place / "base", adapter=settings, target_layers=["h.*"], aux_weight=1.0
        )
    assert settings.base_model_name_or_path is None  # the user's settings stay as they are
    network.save_pretrained(place / "network")
    return place


@pytest.mark.parametrize("loader", [SelfModelingForCausalLM, AutoModelForCausalLM])
def test_fields_and_attention_are_those_asked_for(saved, loader):
    folder = saved / "network"
    model = loader.from_pretrained(folder, aux_weight=5.0, attn_implementation="eager")
    assert model.config.aux_weight == 5.0
    assert model.task_model.config._attn_implementation == "eager"
    inputs = batch("causal-lm")
    terms = model(**inputs)
    assert torch.equal(terms.loss, terms.classification_loss + 5 * terms.self_modeling_loss)


def test_a_base_in_half_precision_keeps_its_type(saved, tmp_path):
    settings = LoraConfig(r=2, init_lora_weights=False, **LORA["gpt2"])
    half = SelfModelingForCausalLM.from_backbone_pretrained(saved / "base", adapter=settings, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path)
    inputs = batch("causal-lm")
    loaded = load_model(tmp_path)
    assert torch.equal(logits(loaded, inputs), logits(half, inputs))
    types = {name: value.dtype for name, value in half.state_dict().items()}
    assert {name: value.dtype for name, value in loaded.state_dict().items()} == types
    assert set(types.values()) == {torch.bfloat16, torch.float32}  # the adapter, as peft has it


def test_names_of_other_weights_are_returned_or_an_error(saved):
    folder = saved / "network"
    _, info = SelfModelingForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    fields = {"target_layers": [], "aux_weight": 0.0}
    _, info = SelfModelingForCausalLM.from_pretrained(folder, output_loading_info=True, **fields)
    assert info["unexpected_keys"] == {"self_model_head.weight", "self_model_head.bias"}
    with pytest.raises(ValueError, match=r"unexpected: self_model_head\.bias, 2 in all"):
        SelfModelingForCausalLM.from_pretrained(folder, **fields)
    _, info = SelfModelingForCausalLM.from_pretrained(folder, output_loading_info=True, target_layers=["h.0"])
    assert {name for name, *_ in info["mismatched_keys"]} == {"self_model_head.weight", "self_model_head.bias"}
    for name in ("state_dict", "no_such_field"):
        with pytest.raises(ValueError, match=name):
            SelfModelingForCausalLM.from_pretrained(folder, **{name: {}})


# ---------------------------------------------------------------------------------- weights that would be lost


def test_a_drawn_head_that_no_file_would_hold_is_rejected(tmp_path):
    plain("masked-lm", "bert").save_pretrained(tmp_path / "base")
    fields = {"target_layers": ["encoder.layer.*"], "aux_weight": 1.0}

    def adapted(**settings):
        base = AutoModelForTokenClassification.from_pretrained(tmp_path / "base", num_labels=3)
        return get_peft_model(base, LoraConfig(r=2, **LORA["bert"], **settings))

    message = "has no weights for classifier.bias, classifier.weight, and the adapter does not save them"
    with pytest.raises(ValueError, match=message):
        SelfModelingForTokenClassification.wrap(adapted(), **fields)
    network = SelfModelingForTokenClassification.wrap(adapted(modules_to_save=["classifier"]), **fields)
    network.save_pretrained(tmp_path / "saved")
    inputs = batch("token-classification")
    assert torch.equal(logits(load_model(tmp_path / "saved"), inputs), logits(network, inputs))
    # the base loses its head after the network was saved
    complete = AutoModelForTokenClassification.from_pretrained(tmp_path / "base", num_labels=3)
    complete.save_pretrained(tmp_path / "complete")
    settings = LoraConfig(r=2, **LORA["bert"])
    network = SelfModelingForTokenClassification.from_backbone_pretrained(
        tmp_path / "complete", adapter=settings, **fields
    )
    network.save_pretrained(tmp_path / "saved")
    plain("masked-lm", "bert").save_pretrained(tmp_path / "complete")
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "saved")


def test_embeddings_of_an_adapted_network_keep_their_size(saved):
    with pytest.raises(ValueError, match="adapter: its files hold no embeddings"):
        load_model(saved / "network").resize_token_embeddings(40)


# ---------------------------------------------------------------------------------- quantized bases


@register_quantization_config("to_sixteenths")
class Sixteenths(QuantizationConfigMixin):
    """Weights in steps of 1/16. Real quantizers need packages that are not installed with this one."""

    def __init__(self, **_):
        self.quant_method = "to_sixteenths"


@register_quantizer("to_sixteenths")
class SixteenthsQuantizer(HfQuantizer):
    """Rounds weights after they are loaded."""

    def _process_model_after_weight_loading(self, model, **_):
        for name, parameter in model.named_parameters():
            if name.endswith("c_attn.weight"):
                parameter.data = (parameter.data * 16).round() / 16

    def is_serializable(self):
        return False

    @property
    def is_trainable(self):
        return True


def test_a_quantized_base_is_quantized_again_and_not_merged(saved, tmp_path):
    settings = LoraConfig(r=2, init_lora_weights=False, **LORA["gpt2"])
    place = saved / "base"
    fields = {"target_layers": ["h.*"], "aux_weight": 1.0, "quantization_config": Sixteenths()}
    with pytest.raises(ValueError, match="quantized weights are not trained; allowed with an adapter"):
        SelfModelingForCausalLM.from_backbone_pretrained(place, **fields)
    model = SelfModelingForCausalLM.from_backbone_pretrained(place, adapter=settings, **fields)
    attention = model.backbone.h[0].attn.c_attn.base_layer.weight
    assert torch.equal(attention * 16, (attention * 16).round())
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    inputs = batch("causal-lm")
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))
    assert torch.equal(logits(loaded.prune(adapter="keep"), inputs), logits(model, inputs))
    with pytest.raises(ValueError, match="adapter='merge': quantized weights would round the adapter away"):
        loaded.prune()


@pytest.fixture
def tied(tmp_path):
    """A language model with an adapter on its embeddings, whose weights its output layer shares."""
    plain("causal-lm", "gpt2").save_pretrained(tmp_path / "base")
    settings = LoraConfig(r=2, init_lora_weights=False, target_modules=["wte", "c_attn"], fan_in_fan_out=True)
    fields = {"target_layers": ["h.*"], "aux_weight": 1.0, "head": "own", "adapter": settings}
    return SelfModelingForCausalLM.from_backbone_pretrained(tmp_path / "base", **fields).eval()


def test_an_adapter_of_tied_weights_is_not_merged(tied):
    """Merged, it would change the output layer as well, and the network would be another one."""
    with pytest.raises(ValueError, match=r"adapter='merge': wte shares its weights with lm_head, .* allowed is keep"):
        tied.prune()
    inputs = batch("causal-lm")
    torch.testing.assert_close(logits(tied.prune(adapter="keep"), inputs), logits(tied, inputs), rtol=0, atol=0)


def test_the_rlct_of_an_adapter_of_tied_weights_is_rejected_before_training(tied, tmp_path):
    arguments = SelfModelingTrainingArguments(str(tmp_path / "out"), rlct_every_n_epochs=1, report_to=[])
    with pytest.raises(InputError, match="rlct_every_n_epochs=1: the RLCT is that of the merged network"):
        SelfModelingTrainer(tied, arguments, train_dataset=[batch("causal-lm")])
    with pytest.raises(InputError, match="model='a network with an adapter': adapter='merge': wte shares"):
        estimate_rlct([tied], [batch("causal-lm")])


@pytest.mark.parametrize(
    ("settings", "name", "problem"),
    [
        (AdaLoraConfig(target_modules=["c_attn"], total_step=10, fan_in_fan_out=True), "default", "ADALORA has a loss"),
        (LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True), "mine", "its adapter is named 'mine'"),
    ],
)
def test_adapters_that_would_be_another_are_rejected(tmp_path, settings, name, problem):
    plain("causal-lm", "gpt2").save_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tmp_path)
    adapted = get_peft_model(base, settings, adapter_name=name)
    with pytest.raises(ValueError, match=problem):
        SelfModelingForCausalLM.wrap(adapted, target_layers=["h.*"], aux_weight=1.0)


@pytest.mark.parametrize(
    "fields",
    [{"modules_to_save": ["lm_head"]}, {"modules_to_save": ["wte"]}, {"trainable_token_indices": {"wte": [3, 4]}}],
)
def test_further_trained_parts_of_tied_weights_are_merged(tmp_path, fields):
    """peft gives each of the two layers its own copy, or writes the tokens into both."""
    plain("causal-lm", "gpt2").save_pretrained(tmp_path / "base")
    settings = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, **fields)
    network = SelfModelingForCausalLM.from_backbone_pretrained(
        tmp_path / "base", head="own", adapter=settings, target_layers=["h.*"], aux_weight=1.0
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    inputs = batch("causal-lm")
    expected = logits(network, inputs)
    merged = network.prune()
    torch.testing.assert_close(logits(merged, inputs), expected, rtol=1e-4, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again, inputs), expected, rtol=1e-4, atol=1e-5)


def test_two_adapted_layers_that_share_weights_are_both_named(tmp_path):
    plain("causal-lm", "gpt2").save_pretrained(tmp_path / "base")
    settings = LoraConfig(r=2, target_modules=["wte", "lm_head"])
    network = SelfModelingForCausalLM.from_backbone_pretrained(
        tmp_path / "base", head="own", adapter=settings, target_layers=["h.*"], aux_weight=1.0
    )
    with pytest.raises(ValueError, match="wte shares its weights with lm_head, which"):
        network.prune()


# ------------------------------------------------------------------------------------------ the weights of the base


def adapted_gpt2(folder, **settings):
    base = AutoModelForCausalLM.from_pretrained(folder)
    return get_peft_model(base, LoraConfig(r=2, **LORA["gpt2"], **settings))


def save_gpt2_network(place):
    plain("causal-lm", "gpt2").save_pretrained(place / "base")
    network = SelfModelingForCausalLM.wrap(adapted_gpt2(place / "base"), target_layers=["h.*"], aux_weight=1.0)
    network.save_pretrained(place / "network")


def test_a_base_that_was_changed_in_memory_is_not_loaded_as_another(tmp_path):
    plain("causal-lm", "gpt2").save_pretrained(tmp_path / "base")
    adapted = adapted_gpt2(tmp_path / "base")
    with torch.no_grad():
        adapted.get_base_model().transformer.h[0].mlp.c_fc.weight[1, 2] += 0.5
    network = SelfModelingForCausalLM.wrap(adapted, target_layers=["h.*"], aux_weight=1.0)
    network.save_pretrained(tmp_path / "network")
    with pytest.raises(ValueError, match="has other weights than when the adapter was made") as raised:
        load_model(tmp_path / "network")
    assert str(tmp_path / "base") in str(raised.value)


def test_a_base_with_new_weights_in_its_folder_is_found(tmp_path):
    save_gpt2_network(tmp_path)
    other = plain("causal-lm", "gpt2")
    with torch.no_grad():
        other.lm_head.weight.mul_(2)
    other.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="has other weights than when the adapter was made"):
        load_model(tmp_path / "network")


@pytest.mark.parametrize(
    "settings",
    [
        {"bias": "all"}, {"modules_to_save": ["wpe"]}, {"use_dora": True}, {"trainable_token_indices": [3, 4]},
        {"init_lora_weights": "pissa"}, {"init_lora_weights": "orthogonal"}, {"init_lora_weights": "eva"},
    ],
)  # fmt: skip
def test_trained_weights_do_not_enter_the_checksum_of_the_base(tmp_path, settings):
    plain("causal-lm", "gpt2").save_pretrained(tmp_path / "base")
    adapted = adapted_gpt2(tmp_path / "base", **settings)
    network = SelfModelingForCausalLM.wrap(adapted, target_layers=["h.*"], aux_weight=1.0)
    before = network.config.base_checksum
    assert (before is None) == (settings.get("init_lora_weights") == "pissa")  # it alone changes the base
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    network.save_pretrained(tmp_path / "network")
    loaded = load_model(tmp_path / "network")
    assert loaded.config.base_checksum == before
    inputs = batch("causal-lm")
    torch.testing.assert_close(logits(loaded, inputs), logits(network, inputs), rtol=1e-4, atol=1e-5)


def test_a_base_of_another_type_of_numbers_is_not_compared(saved):
    half = SelfModelingForCausalLM.from_pretrained(saved / "network", dtype=torch.bfloat16)
    whole = load_model(saved / "network")
    assert half.config.base_checksum.startswith("bfloat16:")
    assert whole.config.base_checksum.startswith("float32:")


def test_a_network_of_before_the_checksum_is_loaded(tmp_path):
    save_gpt2_network(tmp_path)
    file = tmp_path / "network" / "config.json"
    fields = json.loads(file.read_text())
    assert fields.pop("base_checksum").startswith("float32:")
    file.write_text(json.dumps(fields))
    assert load_model(tmp_path / "network").config.base_checksum.startswith("float32:")


def test_a_merged_adapter_is_rejected(tmp_path):
    plain("causal-lm", "gpt2").save_pretrained(tmp_path / "base")
    adapted = adapted_gpt2(tmp_path / "base", init_lora_weights=False)
    adapted.merge_adapter()
    with pytest.raises(ValueError, match="its adapter is merged"):
        SelfModelingForCausalLM.wrap(adapted, target_layers=["h.*"], aux_weight=1.0)
