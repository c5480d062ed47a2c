"""RLCTs on data sets of rows with their collator, and on samples without a label: numbers of the package's own data."""

import random
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast, default_data_collator

from selfmod_hf import calibrate_rlct, estimate_rlct
from selfmod_hf.data import ImageTensors, TextTensors
from tests.models import test_encoders as encoders

from .test_trainer import images, network, trainer

FEW = {"num_draws": 6, "num_chains": 2, "batch_size": 16}
TOKENIZER = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]")), pad_token="[PAD]"
)
TOKENIZER.model_input_names = ["input_ids", "attention_mask"]
PAD = DataCollatorWithPadding(TOKENIZER)


def image_rows(data: ImageTensors) -> datasets.Dataset:
    """Return normalized images as a data set with a column that no network takes."""
    pixels, labels = data.all()
    columns = {"pixel_values": pixels.tolist(), "label": labels.tolist(), "file": ["a.png"] * len(data)}
    return datasets.Dataset.from_dict(columns)


def text_rows(data: TextTensors) -> datasets.Dataset:
    """Return texts as lists of tokens, of unequal lengths."""
    tokens = [row.tolist() for row in data.tokens.long().tensor_split(data.offsets[1:-1])]
    columns = {"input_ids": tokens, "attention_mask": [[1] * len(row) for row in tokens]}
    return datasets.Dataset.from_dict({**columns, "labels": data.labels.tolist(), "text": ["words"] * len(data)})


def bags(data: TextTensors) -> TextTensors:
    return replace(data, padded=False)


def assert_equal_results(found, expected, tolerance: float = 0.0) -> None:
    (found,), (expected,) = found, expected
    np.testing.assert_allclose(found.loss_trace, expected.loss_trace, rtol=tolerance)
    assert found.llc == pytest.approx(expected.llc, rel=10 * tolerance)
    assert found.nbeta == expected.nbeta


CASES = {
    "images": (network, images, image_rows, None),
    "texts of an encoder": (lambda: encoders.network("bert"), encoders.texts, text_rows, PAD),
    "texts of a bag": (
        lambda: encoders.network("embedding_bag", target_layers=["hidden.relu1"]),
        lambda: bags(encoders.texts()),
        text_rows,
        PAD,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_and_their_collator_give_what_the_packages_own_data_give(case):
    make, data, rows, collator = CASES[case]
    model, data = make(), data()
    expected = estimate_rlct([model], data, **FEW)
    assert_equal_results(estimate_rlct([model], rows(data), data_collator=collator, **FEW), expected, 1e-5)
    grid = {"step_sizes": [1e-5], "localizations": [100.0]}
    (mine,), (theirs,) = (
        calibrate_rlct(model, each, data_collator=collator, **grid, **FEW).results for each in (rows(data), data)
    )
    assert_equal_results([mine], [theirs], 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_samples_without_a_label_are_left_out(case):
    make, data, rows, collator = CASES[case]
    model, data = make(), data()
    kept = torch.arange(len(data)) % 3 != 1
    marked = replace(data, labels=data.labels.masked_fill(~kept, -100))
    if isinstance(data, ImageTensors):
        labelled = replace(data, pixels=data.pixels[kept], labels=data.labels[kept])
    else:
        texts = [row for row, k in zip(data.tokens.tensor_split(data.offsets[1:-1]), kept, strict=True) if k]
        ends = torch.tensor([len(row) for row in texts]).cumsum(0)
        labelled = replace(data, tokens=torch.cat(texts), offsets=F.pad(ends, (1, 0)), labels=data.labels[kept])
    expected = estimate_rlct([model], labelled, **FEW)
    assert_equal_results(estimate_rlct([model], marked, **FEW), expected, 1e-5)
    assert_equal_results(estimate_rlct([model], rows(marked), collator, **FEW), expected, 1e-5)


def test_a_network_that_gives_tuples_and_states_has_the_same_rlct():
    model, rows = encoders.network("bert"), text_rows(encoders.texts())
    expected = estimate_rlct([model], rows, PAD, **FEW)
    model.config.return_dict, model.config.output_hidden_states = False, True
    assert_equal_results(estimate_rlct([model], rows, PAD, **FEW), expected)


class Augmented(Dataset):
    """Images that a transform moves at random, with all three generators."""

    def __init__(self):
        self.pixels, self.labels = images().all()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        noise = random.random() + np.random.random() + torch.rand(1)  # noqa: NPY002
        return {"pixel_values": self.pixels[index] + 0.1 * noise, "label": int(self.labels[index]), "name": "row"}


@pytest.mark.parametrize("make", [Augmented, lambda: image_rows(images())])
def test_estimates_on_rows_leave_the_training_as_it_is(tmp_path, make):
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 32}
    run = trainer(tmp_path, train=make(), rlct_every_n_epochs=1, **settings)
    plain = trainer(tmp_path, network(), train=make(), **settings)
    for each in (run, plain):
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002
        random.seed(7)
        each.train()
    for mine, theirs in zip(run.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    logged = [entry["rlct"] for entry in run.state.log_history if "rlct" in entry]
    assert len(logged) == 2
    assert logged[-1] == run.rlct_result.llc
    if make is not Augmented:
        (expected,) = estimate_rlct([run.model], make(), **run_settings())
        assert logged[-1] == pytest.approx(expected.llc, rel=1e-6)


def test_rows_that_a_transform_moves_at_random_have_one_rlct():
    """Whatever was drawn before: their random numbers are of a fixed seed."""
    model, rows, results = network(), Augmented(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        results.append(estimate_rlct([model], rows, **FEW))
    assert_equal_results(*results)


def run_settings() -> dict:
    from selfmod_hf.complexity import llc_preset

    return llc_preset("paper", "mnist")


def test_a_training_set_without_a_length_is_reported(tmp_path):
    stream = image_rows(images()).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"^rlct_every_n_epochs: allowed with .* a length, not with IterableDataset$"):
        trainer(tmp_path, train=stream, rlct_every_n_epochs=1, max_steps=2)
    with pytest.raises(ValueError, match=r"^train_data='IterableDataset': must be ImageTensors .* rows with a length"):
        estimate_rlct([network()], stream, **FEW)


def two_labels(rows):
    return {"pixel_values": torch.ones(1, 1, 4, 4), "labels": torch.tensor([[0, 1]])}


def flat(rows):
    return {"input_ids": torch.ones(5).long(), "offsets": torch.tensor([0, 2, 5]), "labels": torch.tensor([0, 1])}


@pytest.mark.parametrize(
    ("rows", "collator", "message"),
    [
        ([], None, r"^train_data='list': has no row"),
        ([{"pixel_values": torch.ones(1, 4, 4)}], None, r"^data_collator='dict': must give a dict with integer labels"),
        ([{"pixel_values": torch.ones(1, 4, 4)}], two_labels, r"must give a dict with integer labels"),
        ([{"pixel_values": torch.ones(1, 4, 4), "label": 0.5}], None, r"must give a dict with integer labels"),
        ([(torch.ones(1, 4, 4), 1)], lambda rows: rows, r"^data_collator='list': must give a dict"),
        ([{"image": torch.ones(1, 4, 4), "label": 1}], default_data_collator, r"must give pixel_values, which the mod"),
        ([{"pixel_values": torch.ones(1, 4, 4), "label": -1}], None, r"^train_data\.labels=-1: the model has 3"),
        ([{"pixel_values": torch.ones(1, 4, 4), "label": 3}], None, r"^train_data\.labels=3: the model has 3"),
        ([{"pixel_values": torch.ones(1, 4, 4), "label": -100}], None, r"^train_data\.labels=-100: no sample has a"),
        ([{"text": "a"}, {"text": "b"}], flat, r"^data_collator='offsets': must give padded texts"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_reported(rows, collator, message):
    with pytest.raises(ValueError, match=message):
        estimate_rlct([network()], rows, collator, **FEW)


def test_a_text_that_is_too_long_for_the_encoder_is_reported():
    rows = [{"input_ids": [2] * 41, "attention_mask": [1] * 41, "label": 0}]
    with pytest.raises(ValueError, match=r"the longest text has 41 tokens; allowed are at most 40"):
        estimate_rlct([encoders.network("bert")], rows, PAD, **FEW)


def test_a_collator_may_make_the_networks_input_of_other_columns():
    data = images()
    pixels, labels = data.all()
    rows = [{"picture": picture, "kind": int(label)} for picture, label in zip(pixels, labels, strict=True)]

    def collator(rows):
        pictures = torch.stack([row["picture"] for row in rows])
        return {"pixel_values": pictures, "labels": torch.tensor([row["kind"] for row in rows], dtype=torch.int16)}

    model = network()
    assert_equal_results(estimate_rlct([model], rows, collator, **FEW), estimate_rlct([model], data, **FEW), 1e-5)
