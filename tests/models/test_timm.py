"""Any timm model: one small one of each family, by its name alone."""

import pytest
import torch

from selfmod_hf import (
    SelfModelingConfig,
    SelfModelingForImageClassification,
    SelfModelingTrainer,
    SelfModelingTrainingArguments,
    estimate_rlct,
)
from selfmod_hf.data import ImageTensors

TARGETS = {
    "test_resnet": ["layer3", "hidden.relu1"],
    "test_vit": ["blocks.*"],
    "test_convnext": ["stages.2"],
    "test_efficientnet": ["blocks.3", "conv_head"],
    "test_byobnet": ["stages.*"],
    "test_nfnet": ["final_act"],
    "test_mambaout": ["stages.1"],
}
SIDE = {"test_vit": 160}  # takes no other


def images(side: int) -> ImageTensors:
    labels = torch.arange(12) % 3
    pixels = torch.randint(0, 200, (12, 3, side, side), generator=torch.Generator().manual_seed(0))
    return ImageTensors((pixels + 25 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)


@pytest.mark.parametrize("name", TARGETS)
def test_it_trains_is_pruned_saved_and_sampled(tmp_path, name):
    side = SIDE.get(name, 32)
    config = SelfModelingConfig(
        backbone=f"timm/{name}", hidden_sizes=[6], target_layers=TARGETS[name], aux_weight=0.5, image_size=side,
        num_channels=3, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model, data = SelfModelingForImageClassification(config), images(side)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    args = SelfModelingTrainingArguments(
        output_dir=str(tmp_path), learning_rate=1e-3, num_train_epochs=2, save_strategy="no", report_to="none",
        disable_tqdm=True,
    )  # fmt: skip
    run = SelfModelingTrainer(model=model, args=args, train_dataset=data, eval_dataset=data)
    run.train()
    assert not [key for key, parameter in model.named_parameters() if torch.equal(parameter, before[key])]
    run.save_model()
    loaded, pixels = SelfModelingForImageClassification.from_pretrained(tmp_path).eval(), data.all()[0]
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        output = model.eval()(pixels)
        # not to the bit: where a file's weights lie in memory, convolutions may take another kernel
        torch.testing.assert_close(loaded(pixels).logits, output.logits, rtol=1e-5, atol=1e-6)
        assert torch.equal(model.prune()(pixels).logits, output.logits)
    assert output.self_model_predictions.shape == output.self_model_targets.shape
    sampling = {"num_draws": 4, "num_chains": 2, "batch_size": 6, "step_size": 1e-6}
    sampling["preset"] = "paper (mnist)"  # no biases are foretold, which takes long
    (rlct,) = estimate_rlct([model], data, **sampling)
    (last,) = estimate_rlct([model], data, parameters=["network.hidden.*", "network.classifier.*"], **sampling)
    assert torch.tensor([rlct.loss_trace, last.loss_trace]).isfinite().all()
    assert rlct.settings.num_parameters > last.settings.num_parameters
