"""Before the first step: texts that are too long for their encoder, batches that are too small for BatchNorm."""

import datasets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler
from transformers import AutoConfig, GPT2Config

from selfmod_hf import (
    SelfModelingConfig,
    SelfModelingForImageClassification,
    SelfModelingForSequenceClassification,
    SelfModelingTrainer,
    SelfModelingTrainingArguments,
)
from selfmod_hf.data import EpochBatchSampler, ImageTensors, TextTensors
from selfmod_hf.errors import InputError
from selfmod_hf.trainer.population import Member, SelfModelingPopulation
from selfmod_hf.trainer.processes import SharesOfBatches, smallest_share
from selfmod_hf.trainer.recipe_network import check_length, check_marks
from tests.models.test_encoders import Tokenizer

RESNET = {
    "backbone": "timm/test_resnet", "image_size": 32, "num_labels": 3, "target_layers": ["hidden.relu1"],
    "hidden_sizes": [4],
}  # fmt: skip


def arguments(folder, **settings) -> SelfModelingTrainingArguments:
    defaults = {
        "max_steps": 3, "per_device_train_batch_size": 4, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "use_cpu": True, "optim": "sgd",
    }  # fmt: skip
    return SelfModelingTrainingArguments(str(folder), **{**defaults, **settings})


# ------------------------------------------------------------------------------------- batches


def images(count: int, side: int = 32) -> ImageTensors:
    pixels = torch.randint(0, 256, (count, 1, side, side), generator=torch.Generator().manual_seed(0))
    return ImageTensors(pixels.to(torch.uint8), torch.arange(count) % 3)


def training(folder, data, *, members: int = 0, side: int = 32, **settings) -> SelfModelingTrainer:
    torch.manual_seed(0)
    config = SelfModelingConfig(**{**RESNET, "image_size": side}, aux_weight=1.0)
    if members:
        model = SelfModelingPopulation(config, [Member(seed, 1.0) for seed in range(members)])
    else:
        model = SelfModelingForImageClassification(config)
    return SelfModelingTrainer(model=model, args=arguments(folder, **settings), train_dataset=data)


@pytest.mark.parametrize("members", [0, 2])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_label_of_no_class_is_named(tmp_path, members, split):
    trainer = training(tmp_path, images(8), members=members)
    trainer.eval_dataset = images(4)
    getattr(trainer, f"{split}_dataset").labels[1] = 7
    with pytest.raises(InputError, match=rf"{split}_dataset\.labels=7: the model has 3 classes"):
        trainer.train()


@pytest.mark.parametrize(
    ("count", "settings"),
    [(9, {}), (5, {"members": 2}), (1, {}), (8, {"per_device_train_batch_size": 1})],
)
def test_a_batch_of_one_is_rejected_before_training_where_batchnorm_sees_one_value(tmp_path, count, settings):
    run = training(tmp_path, images(count), **settings)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    with pytest.raises(
        InputError, match=rf"^per_device_train_batch_size=\d: of {count} samples .* BatchNorm \("
    ) as error:
        run.train()
    assert "\n" not in str(error.value)
    assert run.state.global_step == 0
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_batch_of_one_is_rejected_of_a_list_of_samples_too(tmp_path):
    data = images(5)
    with pytest.raises(InputError, match=r"^per_device_train_batch_size=4: of 5 samples"):
        training(tmp_path, [data[k] for k in range(5)]).train()


@pytest.mark.parametrize(
    "settings",
    [
        {"dataloader_drop_last": True},
        {"per_device_train_batch_size": 3},
        {"side": 64},  # the last layers see four values of an image
    ],
)
def test_batches_on_which_batchnorm_can_be_trained_are_trained(tmp_path, settings):
    run = training(tmp_path, images(5, settings.get("side", 32)), **settings)
    run.train()
    assert run.state.global_step == 3


@given(
    num_samples=st.integers(1, 40), batch_size=st.integers(1, 9), processes=st.integers(1, 4), drop_last=st.booleans()
)
def test_the_smallest_share_is_that_of_the_samplers(num_samples, batch_size, processes, drop_last):
    if drop_last and num_samples < batch_size * processes:
        return
    whole = BatchSampler(range(num_samples), batch_size * processes, drop_last)
    sizes = []
    for index in range(processes):
        sizes += map(len, EpochBatchSampler(num_samples, batch_size, 0, processes, index, drop_last))
        sizes += map(len, SharesOfBatches(whole, processes, index))
    assert smallest_share(num_samples, batch_size, processes, drop_last) == min(sizes)


# ------------------------------------------------------------------------------------- lengths

SMALL = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
GPT = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
TABLE = {**SMALL, "max_position_embeddings": 16}
# configuration, and how many tokens a text may have
ENCODERS = {
    "bert": (TABLE, 16),
    "roberta": (TABLE, 14),  # positions are counted from behind padding's
    "ibert": (TABLE, 14),
    "nystromformer": (TABLE, 16),  # its table has two rows more
    "roformer": (TABLE, 16),
    "opt": ({**TABLE, "ffn_dim": 20, "word_embed_proj_dim": 12}, 16),
    "gpt2": (GPT, 16),
    "gpt_bigcode": (GPT, 16),
    "openai-gpt": (GPT, 16),
    "gptj": ({**GPT, "rotary_dim": 4}, 16),
    "ctrl": ({**GPT, "dff": 20}, 16),
    "mpt": ({"d_model": 12, "n_heads": 2, "n_layers": 1, "max_seq_len": 16}, 16),
    "clip_text_model": (TABLE, 16),
}


def encoder(name: str) -> tuple[SelfModelingForSequenceClassification, int]:
    settings, most = ENCODERS[name]
    tokens = {f"{token}_token_id": 1 for token in ("bos", "eos", "pad")}
    own = AutoConfig.for_model(name, vocab_size=40, **tokens, **settings)
    config = SelfModelingConfig(
        backbone_config=own, target_layers=["hidden.relu1"], hidden_sizes=[4], aux_weight=1.0, num_labels=2
    )
    return SelfModelingForSequenceClassification(config).eval(), most


def texts(*lengths: int) -> TextTensors:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    tokens = torch.full((int(offsets[-1]),), 3, dtype=torch.int32)
    return TextTensors(tokens, offsets, torch.arange(len(lengths)) % 2, Tokenizer(), padded=True)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_longest_text_is_what_the_encoder_can_read(name):
    model, most = encoder(name)
    fits, too_long = torch.full((2, most), 3), torch.full((2, most + 1), 3)
    assert model(input_ids=fits).logits.isfinite().all()
    with pytest.raises((ValueError, RuntimeError)):
        model(input_ids=too_long)
    check_length(model, texts(2, most))
    with pytest.raises(InputError, match=rf"^max_length=None: the longest text has {most + 1} tokens; .* {most}$"):
        check_length(model, texts(2, most), texts(most + 1, 2))


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2"])
def test_a_forward_names_the_limit(name):
    model, most = encoder(name)
    with pytest.raises(ValueError, match=rf"^input_ids: the longest text has {most + 1} tokens; .* at most {most}$"):
        model(input_ids=torch.full((2, most + 1), 3))
    with pytest.raises(ValueError, match=rf"^input_ids: the longest text has {most + 1} tokens; .* at most {most}$"):
        model(inputs_embeds=torch.randn(2, most + 1, model.get_input_embeddings().embedding_dim))


def test_padding_takes_no_position_of_a_roberta():
    model, most = encoder("roberta")
    input_ids = torch.full((1, most + 2), 3)
    input_ids[:, most:] = 1
    mask = (input_ids != 1).long()
    found = model(input_ids=input_ids, attention_mask=mask)
    torch.testing.assert_close(found.logits, model(input_ids=input_ids[:, :most]).logits)


def collate(samples: list[dict], most: int = 100) -> dict[str, torch.Tensor]:
    rows = [torch.tensor(sample["input_ids"][:most]) for sample in samples]
    labels = torch.tensor([sample["label"] for sample in samples])
    return {"input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), "labels": labels}


@pytest.mark.parametrize("split", ["train_dataset", "eval_dataset"])
def test_a_text_that_is_too_long_is_found_before_training(tmp_path, split):
    model, most = encoder("gpt2")
    data = {"train_dataset": dataset(2, 5), "eval_dataset": dataset(2, 5)}
    data[split] = dataset(2, most + 1, 3)
    run = SelfModelingTrainer(model=model, args=arguments(tmp_path), data_collator=collate, **data)
    with pytest.raises(InputError, match=rf"^input_ids='{most + 1} tokens': allowed are at most {most} in a text$"):
        run.train()
    data[split] = list(data[split])  # samples in memory
    with pytest.raises(InputError, match=rf"^input_ids='{most + 1} tokens'"):
        SelfModelingTrainer(model=model, args=arguments(tmp_path), data_collator=collate, **data).train()
    data[split] = texts(2, most + 1)
    with pytest.raises(InputError, match=rf"^max_length=None: the longest text has {most + 1} tokens"):
        SelfModelingTrainer(model=model, args=arguments(tmp_path), data_collator=collate, **data).train()


def dataset(*lengths: int) -> datasets.Dataset:
    rows = {"input_ids": [[3] * length for length in lengths], "label": [k % 2 for k in range(len(lengths))]}
    return datasets.Dataset.from_dict(rows)


def test_texts_that_the_collator_cuts_are_trained(tmp_path):
    model, most = encoder("gpt2")
    run = SelfModelingTrainer(
        model=model, args=arguments(tmp_path), train_dataset=dataset(2, most + 5, 3),
        data_collator=lambda samples: collate(samples, most),
    )  # fmt: skip
    run.train()
    assert run.state.global_step == 3


@pytest.mark.parametrize("rows", ["tensors", "list"])
def test_a_padding_token_other_than_the_datas_is_found_before_training(tmp_path, rows):
    """A decoder reads the last token that is no padding token."""
    gpt2 = GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=30, n_positions=16, eos_token_id=2, num_labels=2)
    model = SelfModelingForSequenceClassification(SelfModelingConfig(wrapped_config=gpt2))
    data = texts(2, 5)
    assert data.tokenizer.pad_token_id == 0
    given = {"train_dataset": data}
    if rows == "list":
        given = {"train_dataset": list(data), "processing_class": data.tokenizer}
    run = SelfModelingTrainer(model=model, args=arguments(tmp_path), **given)
    with pytest.raises(InputError, match=r"^pad_token_id=2: that of the task model; .* pads with 0"):
        run.train()


def test_marks_of_classes_are_between_zero_and_one():
    check_marks("labels", torch.tensor([[0.0, 1.0], [torch.nan, -100.0], [0.5, 1.0]]))
    with pytest.raises(InputError, match=r"^labels=7.0: allowed are 0 and 1, a mark for each class$"):
        check_marks("labels", torch.tensor([[0.0, 7.0]]))
