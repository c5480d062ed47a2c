"""A published RLCT is replicated from Python as by the command, and a run's checkpoints are estimated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from selfmod_hf import LLCResult, estimate_checkpoints, load_images, replicate_rlct
from selfmod_hf.cli import main
from selfmod_hf.data import make_task
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.rlct_settings import RLCTSettings
from selfmod_hf.hub.saved import SavedNetwork
from selfmod_hf.hub.upload import Target, push_model
from selfmod_hf.trainer.saved_rlct import saved_checkpoints
from tests import warm

REPLICATE = """
import sys
from selfmod_hf import replicate_rlct
found = replicate_rlct("me/net", device="cpu")
found.result.save(sys.argv[1] + "/python/rlct.json")
print(found.text)
print(replicate_rlct("me/net", seed=0).text)
"""


@pytest.mark.slow
def test_a_published_rlct_is_replicated_as_by_the_command(loopback_hub, small_model, tmp_path):
    push_model(loopback_hub.api(), small_model, Target("me/net"))

    def run(*arguments: str) -> list[str]:
        return warm.run(arguments, loopback_hub.env(), check=True).stdout.splitlines()

    verdict, of_the_same_seed = run("-c", REPLICATE, str(tmp_path))
    command = run(*warm.SELFMOD, "rlct", "--model=me/net", "--device=cpu", f"--output_dir={tmp_path}", "--quiet")
    assert command[-1] == f"{'published':22}{verdict}"
    assert of_the_same_seed.startswith("same seed: repeats the figure")
    found, by_command = (LLCResult.load(folder / "rlct.json") for folder in (tmp_path / "python", tmp_path))
    np.testing.assert_array_equal(found.loss_trace, by_command.loss_trace)
    assert found.settings == by_command.settings
    assert found.settings.seed == LLCResult.load(small_model / "rlct.json").settings.seed + 1
    assert found.weights_sha256 == LLCResult.load(small_model / "rlct.json").weights_sha256


def test_a_network_that_was_not_published_cannot_be_replicated(small_model):
    with pytest.raises(ValueError, match=r"has no rlct\.json beside it on the Hub$"):
        replicate_rlct(str(small_model))


@pytest.mark.parametrize(("field", "value"), [("revision", "main"), ("subfolder", "h8")])
def test_a_place_beside_a_saved_network_is_rejected(small_model, field, value):
    with pytest.raises(InputError, match=f"^{field}='{value}': allowed if `model` is an id"):
        replicate_rlct(SavedNetwork(str(small_model)), **{field: value})


def test_a_published_calibration_does_not_block_an_estimate(small_model, caplog):
    published = LLCResult.load(small_model / "rlct.json")
    repeated = RLCTSettings().keywords(published, "digits", None)
    assert repeated["preset"].startswith("as published")
    assert not caplog.records
    calibrated = replace(published, settings=replace(published.settings, start="earlier rounds"))
    found = RLCTSettings().keywords(calibrated, "digits", None)
    assert found == RLCTSettings(rlct_preset="paper").keywords(None, "digits", None)
    assert "is from a calibration, which only another calibration repeats" in caplog.text


def test_checkpoints_have_the_same_noise_and_name_their_weights(tmp_path):
    flags = ["--task=digits", "--max_train_samples=100", "--num_train_epochs=2", "--save_total_limit=2", "--quiet"]
    assert main(["train", *flags, f"--output_dir={tmp_path}"]) == 0
    data = load_images(make_task("digits"), max_train_samples=100).train
    found = estimate_checkpoints(tmp_path, data, num_draws=6, num_chains=2)
    assert [folder.name for folder in found] == ["checkpoint-2", "checkpoint-4"]
    assert {result.settings.member for result in found.values()} == {0}
    digests = [result.weights_sha256 for result in found.values()]
    assert digests == [saved.weights_digest for saved in saved_checkpoints(tmp_path)]
    assert len(set(digests)) == 2


def test_a_folder_without_checkpoints_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^checkpoints=.*: no folder checkpoint-<step> in it"):
        estimate_checkpoints(tmp_path, None)
