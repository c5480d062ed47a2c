"""The modules as `evaluate` loads them: from a path, without a network."""

import evaluate
import numpy as np
import pytest
import torch
from huggingface_hub import RepoCard
from torch import nn

from selfmod_hf.complexity import estimate_llc, weight_width
from selfmod_hf.metrics import metric_path


def test_weight_width_equals_the_packages_own():
    layer = nn.Linear(7, 3)
    computed = evaluate.load(metric_path("weight_width")).compute(data=layer.weight.flatten().tolist())
    own = weight_width(layer)
    assert computed["weight_width"] == pytest.approx(own.sd, rel=1e-6)
    assert computed["histogram"] == own.counts.tolist()


def test_rlct_equals_the_estimate_it_comes_from():
    torch.manual_seed(0)
    inputs, model = torch.randn(300, 4), nn.Linear(4, 3)
    targets = model(inputs).argmax(1)
    result = estimate_llc(model, inputs, targets, num_draws=200, batch_size=50, nbeta=40.0, num_chains=3)
    module = evaluate.load(metric_path("rlct"))
    computed = module.compute(
        predictions=result.corrected_losses.tolist(), references=result.baseline_trace.tolist(), nbeta=result.nbeta
    )
    assert computed["rlct"] == pytest.approx(result.llc)
    assert computed["rlct_standard_error"] == pytest.approx(result.standard_error)
    assert computed["rlct_status"] == result.status


def test_rlct_refuses_chains_of_other_shape():
    module = evaluate.load(metric_path("rlct"))
    with pytest.raises(ValueError, match="chains, draws"):
        module.compute(predictions=np.ones((2, 5)), references=np.ones((2, 4)), nbeta=1.0)


def test_rlct_names_chains_of_unequal_length():
    module = evaluate.load(metric_path("rlct"))
    even, uneven = [[1.0] * 30, [1.0] * 30], [[1.0] * 30, [1.0] * 20]
    for name, given in (("predictions", (uneven, even)), ("references", (even, uneven))):
        with pytest.raises(ValueError, match=f"^{name}: chains of 20, 30 draws; must be of the same number$"):
            module.compute(predictions=given[0], references=given[1], nbeta=1.0)
    with pytest.raises(ValueError, match=r"^nbeta=inf: must be a positive number$"):
        module.compute(predictions=even, references=even, nbeta=float("inf"))


@pytest.mark.parametrize("name", ["rlct", "weight_width"])
def test_cards_are_those_of_a_space(name):
    card = RepoCard.load(f"{metric_path(name)}/README.md")
    assert card.data.sdk == "gradio"
    assert card.data.tags == ["evaluate", "measurement"]


def test_unknown_modules_are_refused():
    with pytest.raises(ValueError, match="allowed are rlct, weight_width"):
        metric_path("accuracy")


def test_a_chain_that_has_left_the_region_is_not_averaged_in():
    module = evaluate.load(metric_path("rlct"))
    far = {"predictions": [[1e9] * 60, [0.1] * 60], "references": [[0.0] * 60] * 2, "nbeta": 10.0}
    computed = module.compute(**far, num_parameters=10)
    assert computed["rlct_status"] == "diverged"
    assert np.isnan([computed["rlct"], computed["rlct_standard_error"]]).all()
    with pytest.raises(ValueError, match="num_burnin_steps=100: must be from 0 to 59"):
        module.compute(**far, num_burnin_steps=100)
