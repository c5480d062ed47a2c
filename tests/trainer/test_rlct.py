"""`estimate_rlct` and `calibrate_rlct`: what they refuse. Their numbers are those of `estimate_llc`."""

import pytest
import torch
from torch import nn

from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification, calibrate_rlct, estimate_rlct
from selfmod_hf.data import ImageTensors, TaskData

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
        ([NETWORK, nn.Linear(16, 3)], "^model='Linear': must be a self-modeling network; .* estimate_llc$"),
    ],
)
def test_what_is_no_list_of_networks_is_refused(models, message):
    with pytest.raises(ValueError, match=message):
        estimate_rlct(models, IMAGES, **FEW)


def test_a_list_is_no_network_to_calibrate():
    with pytest.raises(ValueError, match=r"^model='list': must be a self-modeling network"):
        calibrate_rlct([NETWORK], IMAGES, **FEW)


@pytest.mark.parametrize("data", [BOTH, IMAGES.pixels, None])
def test_what_is_no_training_set_is_refused(data):
    message = f"^train_data='{type(data).__name__}': must be ImageTensors or TextTensors"
    with pytest.raises(ValueError, match=message):
        estimate_rlct([NETWORK], data, **FEW)
    with pytest.raises(ValueError, match=message):
        calibrate_rlct(NETWORK, data, **FEW)
    assert len(estimate_rlct([NETWORK], BOTH.train, **FEW)) == 1
