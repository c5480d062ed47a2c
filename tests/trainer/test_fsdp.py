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
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import AutoModelForImageClassification

from selfmod_hf import SelfModelingTrainer, SelfModelingTrainingArguments
from tests.models.test_encoders import network, texts
from tests.trainer import test_checkpoints

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
SHARD_ON_CPU = """
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

original = AcceleratorState.__init__

def on_cpu_too(self, *args, fsdp_plugin=None, **kwargs):
    original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP

AcceleratorState.__init__ = on_cpu_too
"""
CODE = f"""
import os
import sys
import torch
from torch.distributed.fsdp import FSDPModule
{SHARD_ON_CPU}
from tests.trainer import test_fsdp
run = getattr(test_fsdp, sys.argv[1])(sys.argv[2])
sharded = [name for name, module in run.model.named_modules() if isinstance(module, FSDPModule)]
assert any(name.endswith("layer.1") or name.endswith("layers.1") for name in sharded) and "" in sharded, sharded
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


def launch(folder: Path, function: str, *arguments: object, config: str = CONFIG) -> None:
    """Call a function of this file in two processes that shard the network."""
    (folder / "fsdp.yaml").write_text(config)
    (folder / "script.py").write_text(CODE)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", folder / "fsdp.yaml"]
    done = subprocess.run(
        [*command, folder / "script.py", function, *arguments], env=ENVIRONMENT, capture_output=True, text=True,
        check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-12000:]


@pytest.mark.slow
def test_two_sharded_processes_train_what_one_does(tmp_path):
    train(str(tmp_path / "one"))
    launch(tmp_path, "train", tmp_path / "two")
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


class FullWeights(test_checkpoints.Weights):
    """Keeps the weights of each checkpoint, gathered from the processes."""

    def on_save(self, args, state, control, model=None, **kwargs):
        self.at[state.global_step] = gathered(model)


def gathered(model: nn.Module) -> dict[str, torch.Tensor]:
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    return {name: value.clone() for name, value in state.items()}


def resume(folder: str) -> SelfModelingTrainer:
    """Train a ViT, load its best model, resume it. Each time every weight must be that of the checkpoint."""
    settings = {"per_device_train_batch_size": 6}
    first = test_checkpoints.trainer(folder, "vit", test_checkpoints.network("vit"), **settings)
    first.remove_callback(first.weights)
    first.add_callback(weights := FullWeights())
    first.train()
    test_checkpoints.assert_equal(gathered(first.model), weights.at[1])
    other = test_checkpoints.network("vit", seed=1)
    again = test_checkpoints.trainer(folder, "vit", other, **settings, load_best_model_at_end=False)
    again.remove_callback(again.weights)
    again.train(resume_from_checkpoint=True)
    test_checkpoints.assert_equal(gathered(again.model), weights.at[2])
    return again


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("FULL_STATE_DICT", marks=pytest.mark.slow),
        pytest.param("SHARDED_STATE_DICT", marks=pytest.mark.weekly),
    ],
)
def test_every_weight_of_a_sharded_network_comes_back(tmp_path, kind):
    config = CONFIG.replace("BertLayer", "ViTLayer").replace("FULL_STATE_DICT", kind)
    launch(tmp_path, "resume", tmp_path / "run", config=config)
    alone = test_checkpoints.trainer(tmp_path / "run", "vit", test_checkpoints.network("vit"))
    with pytest.raises(ValueError, match=r"checkpoint-2': holds pytorch_model_fsdp\S*, of a sharded training"):
        alone.train(resume_from_checkpoint=True)
    if kind == "FULL_STATE_DICT":  # a network like any other, with its code
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "checkpoint-2")
        assert type(loaded) is type(alone.model)
        assert (tmp_path / "run" / "checkpoint-2" / "modeling_self_modeling.py").is_file()
