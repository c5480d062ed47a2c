"""`estimate_rlct` and `calibrate_rlct`: what they refuse, types, modes and threads; and estimates while training.

Their numbers are those of `estimate_llc`.
"""

import copy
import time

import numpy as np
import pytest
import torch
from torch import nn

from selfmod_hf import (
    SelfModelingConfig,
    SelfModelingForImageClassification,
    TaskSpec,
    calibrate_rlct,
    estimate_rlct,
    load_images,
)
from selfmod_hf.complexity.random_streams import MinibatchStream
from selfmod_hf.data import ImageTensors, TaskData
from selfmod_hf.trainer.callbacks import RLCTCallback, RLCTsCallback
from selfmod_hf.trainer.population import Member
from selfmod_hf.weights import weights_sha256
from tests.trainer import test_population, test_trainer

NETWORK = SelfModelingForImageClassification(SelfModelingConfig(hidden_sizes=[4], image_size=4, num_labels=3))
IMAGES = ImageTensors(torch.arange(160, dtype=torch.uint8).view(10, 1, 4, 4), torch.arange(10) % 3)
BOTH = TaskData(IMAGES, IMAGES, ["0", "1", "2"])
FEW = {"num_draws": 2, "num_chains": 1}


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "^models=\\[\\]: must be one network or more$"),
        (NETWORK, "^models='SelfModelingForImageClassification': must be a list of networks"),
        (None, "^models='NoneType': must be a list of networks"),
        ([NETWORK, nn.Linear(16, 3)], "^model='Linear': must be a self-modeling network or .* estimate_llc$"),
    ],
)
def test_what_is_no_list_of_networks_is_refused(models, message):
    with pytest.raises(ValueError, match=message):
        estimate_rlct(models, IMAGES, **FEW)


def test_a_list_is_no_network_to_calibrate():
    with pytest.raises(ValueError, match=r"^model='list': must be a self-modeling network or"):
        calibrate_rlct([NETWORK], IMAGES, **FEW)


@pytest.mark.parametrize("data", [BOTH, IMAGES.pixels, None])
def test_what_is_no_training_set_is_refused(data):
    message = f"^train_data='{type(data).__name__}': must be ImageTensors or TextTensors"
    with pytest.raises(ValueError, match=message):
        estimate_rlct([NETWORK], data, **FEW)
    with pytest.raises(ValueError, match=message):
        calibrate_rlct(NETWORK, data, **FEW)
    assert len(estimate_rlct([NETWORK], BOTH.train, **FEW)) == 1


def test_threads_give_the_same_bits_whichever_comes_first(monkeypatch):
    """This network's recorded steps are rounded unlike the first two, which run as they are."""

    waits: dict[int, float] = {}  # seconds of a chain before its first step

    class LateStream(MinibatchStream):
        def __init__(self, seed: int, chain: int, num_samples: int, batch_size: int) -> None:
            super().__init__(seed, chain, num_samples, batch_size)
            self.wait = waits.get(chain, 0.0)

        def epoch(self) -> torch.Tensor:
            time.sleep(self.wait)
            self.wait = 0.0
            return super().epoch()

    torch.manual_seed(0)
    network = SelfModelingForImageClassification(SelfModelingConfig(hidden_sizes=[256], image_size=8, num_labels=10))
    data = load_images(TaskSpec(name="digits", dataset_name=None)).train
    monkeypatch.setattr("selfmod_hf.complexity.random_streams.MinibatchStream", LateStream)
    threads, traces = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)  # chains 0 and 1 on one, 2 and 3 on the other
        for late in (0, 3):
            waits = {late: 1.0}
            (result,) = estimate_rlct([network], data, num_draws=40)
            traces.append(result.loss_trace)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(*traces)


def test_each_channel_is_normalized_by_its_own_values():
    """Draws and the loss at w* are of the images as the Trainer gives them to the network."""
    pixels = torch.randint(0, 256, (12, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = ImageTensors(pixels, torch.arange(12) % 3, (0.4, 0.3, 0.2), (0.3, 0.2, 0.1))
    config = SelfModelingConfig(hidden_sizes=[4], image_size=4, num_channels=3, num_labels=3)
    network = SelfModelingForImageClassification(config)
    (result,) = estimate_rlct([network], images, num_draws=4, num_chains=2, batch_size=6)
    inputs, labels = images.all()
    loss = network(inputs, labels=labels).classification_loss
    assert result.init_loss == pytest.approx(float(loss.detach()), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision_is_sampled_in_float32(dtype):
    stored = copy.deepcopy(NETWORK).to(dtype)
    settings = {"num_draws": 20, "step_size": 1e-6}
    half, full = (estimate_rlct([net], IMAGES, **settings)[0] for net in (stored, copy.deepcopy(stored).float()))
    np.testing.assert_array_equal(half.loss_trace, full.loss_trace)
    assert half.settings.compute_dtype == "float32"
    first, second = (calibrate_rlct(net, IMAGES, num_draws=20) for net in (stored, copy.deepcopy(stored).float()))
    assert first.table == second.table


def test_inference_mode_changes_nothing():
    (usual,) = estimate_rlct([NETWORK], IMAGES, num_draws=8)
    with torch.inference_mode():
        (within,) = estimate_rlct([NETWORK], IMAGES, num_draws=8)
    np.testing.assert_array_equal(within.loss_trace, usual.loss_trace)


# ---- while training ----

BRIEF = {"num_draws": 2, "num_chains": 1, "step_size": 1e-6}


def followed(run, every: int, resume: str | None = None, kind=RLCTCallback):
    """The epochs after which the RLCT was estimated."""
    run.add_callback(kind(run, run.train_dataset, every, BRIEF))
    run.train(resume_from_checkpoint=resume)
    return [entry["epoch"] for entry in run.state.log_history if "rlct" in entry]


@pytest.mark.parametrize(
    ("length", "every", "epochs"),
    [
        ({"num_train_epochs": 3}, 1, [1, 2, 3]),
        ({"num_train_epochs": 3}, 2, [2]),
        ({"num_train_epochs": 2.5}, 1, [1, 2]),  # no third one, half an epoch early
        ({"num_train_epochs": 2.5}, 2, [2]),  # nor the second once more
        ({"num_train_epochs": 1.5}, 2, []),
        ({"num_train_epochs": 0.5}, 1, []),
        ({"max_steps": 1}, 1, []),
    ],
)
def test_no_estimate_before_its_epoch(tmp_path, length, every, epochs):
    """Two steps an epoch, so that half an epoch is one."""
    assert followed(test_trainer.trainer(tmp_path, **length), every) == epochs


def test_members_of_a_population_are_estimated_after_whole_epochs_alone(tmp_path):
    model = test_population.population([Member(1, 1.0), Member(2, 0.0)], torch.float32)
    run = test_population.trainer(tmp_path, model, ImageTensors, num_train_epochs=1.5)
    assert followed(run, 1, kind=RLCTsCallback) == [1]


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({}, [1, 2, 3]),
        ({"ignore_data_skip": True}, [1, 2]),  # the second epoch begins anew, so the steps end within the third
    ],
)
def test_a_training_that_goes_on_within_an_epoch_estimates_after_whole_epochs(tmp_path, settings, epochs):
    settings = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 3} | settings
    assert followed(test_trainer.trainer(tmp_path, **settings), 1) == [1, 2, 3]
    resumed = test_trainer.trainer(tmp_path, **settings)
    # the first is that of the checkpoint's own log
    assert followed(resumed, 1, str(tmp_path / "checkpoint-3")) == epochs


def test_estimates_name_the_weights_they_were_measured_on(tmp_path):
    torch.manual_seed(0)
    others = SelfModelingForImageClassification(NETWORK.config)
    NETWORK.save_pretrained(tmp_path / "one")
    others.save_pretrained(tmp_path / "other")
    expected = [weights_sha256(tmp_path / name) for name in ("one", "other")]
    assert [result.weights_sha256 for result in estimate_rlct([NETWORK, others], IMAGES, **FEW)] == expected
    assert calibrate_rlct(others, IMAGES, step_sizes=[1e-4], **FEW).result.weights_sha256 == expected[1]


def test_estimates_name_the_files_that_the_weights_were_read_from(tmp_path):
    NETWORK.save_pretrained(tmp_path, max_shard_size=100)  # several files
    model = SelfModelingForImageClassification.from_pretrained(tmp_path)
    (result,) = estimate_rlct([model], IMAGES, **FEW)
    assert result.weights_sha256 == weights_sha256(tmp_path)
    nn.init.ones_(model.classifier.weight)
    (result,) = estimate_rlct([model], IMAGES, **FEW)
    assert result.weights_sha256 not in (None, weights_sha256(tmp_path))
