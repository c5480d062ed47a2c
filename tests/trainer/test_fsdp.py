"""FSDP through Accelerate, two real processes on the CPU (gloo): the hooks give the losses that one process gives.

Accelerate (1.15) never chooses FSDP on a CPU: told to, it runs DistributedDataParallel and says nothing. So the script
below sets the kind of distribution in Accelerate's state, and that alone; what shards, gathers and saves is its own.
The layer class is named because BERT's own list holds its embeddings too, which Accelerate then shards twice. FSDP1
cannot be tested so: Accelerate names the device "cpu:0", which torch's FSDP1 refuses.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from selfmod_hf import SelfModelingTrainer, SelfModelingTrainingArguments
from tests.models.test_encoders import network, texts

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
num_machines: 1
machine_rank: 0
num_processes: 2
mixed_precision: 'no'
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_transformer_layer_cls_to_wrap: BertLayer
  fsdp_reshard_after_forward: true
  fsdp_state_dict_type: FULL_STATE_DICT
  fsdp_cpu_ram_efficient_loading: false
"""
CODE = """
import os
import sys
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule

original = AcceleratorState.__init__

def on_cpu_too(self, *args, fsdp_plugin=None, **kwargs):
    original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP

AcceleratorState.__init__ = on_cpu_too

from tests.trainer.test_fsdp import train
run = train(sys.argv[1])
sharded = [name for name, module in run.model.named_modules() if isinstance(module, FSDPModule)]
assert "backbone.encoder.layer.1" in sharded and "" in sharded, sharded
weight = run.model.self_model_head.weight
assert weight.to_local().numel() < weight.numel()
# a process that ends while its peer still holds connections to it may be aborted
torch.distributed.barrier()
torch.distributed.destroy_process_group()
# as the commands do, for the reason told in selfmod_hf/cli/__init__.py
sys.stdout.flush()
os._exit(0)
"""


def train(folder: str) -> SelfModelingTrainer:
    """A BERT that predicts its layers' outputs: trained with the same batches by any number of processes, saved."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    model = network("bert", target_layers=["encoder.layer.*.output", "hidden.relu1"]).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # processes draw their own
    args = SelfModelingTrainingArguments(
        output_dir=folder, learning_rate=1e-2, num_train_epochs=2, logging_strategy="epoch", eval_strategy="epoch",
        save_strategy="epoch", per_device_train_batch_size=8 // processes, per_device_eval_batch_size=8, use_cpu=True,
        report_to="none", disable_tqdm=True,
    )  # fmt: skip
    run = SelfModelingTrainer(model=model, args=args, train_dataset=texts(), eval_dataset=texts(13))
    run.train()
    run.save_model()
    if run.is_world_process_zero():
        (Path(folder) / "log.json").write_text(json.dumps(run.state.log_history))
    return run


@pytest.mark.slow
def test_two_sharded_processes_train_what_one_does(tmp_path):
    train(str(tmp_path / "one"))
    (tmp_path / "fsdp.yaml").write_text(CONFIG)
    (tmp_path / "script.py").write_text(CODE)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "fsdp.yaml")]
    done = subprocess.run(
        [*launch, str(tmp_path / "script.py"), str(tmp_path / "two")], env=ENVIRONMENT, capture_output=True, text=True,
        check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-12000:]
    one, two = (json.loads((tmp_path / name / "log.json").read_text()) for name in ("one", "two"))
    assert len(one) == len(two)
    for mine, theirs in zip(one, two, strict=True):
        kept = [key for key in mine if "loss" in key or "accuracy" in key or key in ("weight_width", "grad_norm")]
        assert {key: theirs[key] for key in kept} == pytest.approx({key: mine[key] for key in kept}, rel=1e-4)
    assert sum("weight_width" in entry for entry in two) == 2
    whole, gathered = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert whole.keys() == gathered.keys()
    for name, value in whole.items():
        torch.testing.assert_close(gathered[name], value, rtol=0, atol=1e-4)
