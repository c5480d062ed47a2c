"""Two processes give the numbers of one, with fewer chains than processes too."""

from __future__ import annotations

import json

import numpy as np
import pytest

from selfmod_hf.complexity import calibrate_llc, estimate_llc
from tests import warm

from .scenarios import DUMMY, Quadratic, given_loss

CODE = """
import sys, torch
import torch.distributed as dist
from selfmod_hf.complexity import estimate_llc
from tests.complexity.scenarios import DUMMY, Quadratic, given_loss
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=int(sys.argv[1]), world_size=2)
result = estimate_llc(
    Quadratic([1.0, 0.5] * 5000), *DUMMY, loss_fn=given_loss, step_size=1e-2, localization=1.0, nbeta=50.0,
    num_draws=50, num_chains=int(sys.argv[4]), probes=DUMMY,
)
result.save(sys.argv[3] + "/" + sys.argv[1] + ".json")
dist.destroy_process_group()
"""


def run_both(code, arguments):
    runs = [warm.start(["-c", code, rank, *arguments]) for rank in range(2)]
    for run in runs:
        run.join(300)
        assert run.exitcode == 0


@pytest.mark.parametrize("num_chains", [3, 1])
def test_chains_split_over_two_processes(tmp_path, num_chains):
    arguments = [str(tmp_path / "meeting"), str(tmp_path), str(num_chains)]
    run_both(CODE, arguments)
    alone = estimate_llc(
        Quadratic([1.0, 0.5] * 5000), *DUMMY, loss_fn=given_loss, step_size=1e-2, localization=1.0, nbeta=50.0,
        num_draws=50, num_chains=num_chains, probes=DUMMY,
    )  # fmt: skip
    for rank in range(2):
        found = type(alone).load(tmp_path / f"{rank}.json")
        np.testing.assert_allclose(found.loss_trace, alone.loss_trace, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(found.probe_losses, alone.probe_losses, rtol=1e-4, atol=1e-7)
        assert found.status == alone.status


CALIBRATION = """
import sys, json
import torch.distributed as dist
from tests.complexity.test_distributed import calibrated
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=int(sys.argv[1]), world_size=2)
calibrated(sys.argv[4]).save(sys.argv[3] + "/" + sys.argv[1] + ".json")
dist.destroy_process_group()
"""


def calibrated(folder):
    model = Quadratic([1.0] * 3 + [0.01] * 2)
    settings = {"nbeta": 100.0, "num_draws": 100, "num_chains": 3, "resume_from": folder}
    return calibrate_llc(model, *DUMMY, loss_fn=given_loss, **settings)


@pytest.mark.slow
def test_a_calibration_in_two_processes(tmp_path):
    """Each keeps the ends and the snapshots of its own chains. Rounds are planned from those of all."""
    arguments = [str(tmp_path / "meeting"), str(tmp_path), str(tmp_path / "state")]
    run_both(CALIBRATION, arguments)
    assert not (tmp_path / "state").exists()
    alone = calibrated(None).to_dict()
    assert alone["rounds"] > 1
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["llc"] == pytest.approx(alone["llc"], rel=1e-2)
        assert [row["trouble"] for row in found["table"]] == [row["trouble"] for row in alone["table"]]
        assert [row["llc"] for row in found["table"]] == pytest.approx([row["llc"] for row in alone["table"]], rel=1e-2)
