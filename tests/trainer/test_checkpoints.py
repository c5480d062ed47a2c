"""Every weight of every backbone comes back when a run is resumed and when the best model is loaded."""

import copy
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainingArguments

from selfmod_hf import Member, SelfModelingPopulation, SelfModelingTrainer, SelfModelingTrainingArguments
from selfmod_hf.data import ImageTensors, TextTensors
from selfmod_hf.models import load_model
from selfmod_hf.trainer.checkpoints import check_not_pickled, complete_checkpoints, newest_complete_checkpoint
from tests.models.test_encoders import texts
from tests.models.test_weights_self_modeling import CONFIGS, OTHERS, assert_same, network, side

QUICK = ("vit", "dinov2", "bert", "mlp")
MARKS = {name: [] if name in QUICK else [pytest.mark.slow] for name in [*CONFIGS, *OTHERS]}


def data(name: str, model) -> ImageTensors | TextTensors | list[dict[str, torch.Tensor]]:
    """Twelve samples of the kind that the network reads."""
    if name == "embedding_bag":
        ids = torch.randint(0, 30, (12, 5), generator=torch.Generator().manual_seed(0))
        return [{"input_ids": row, "attention_mask": torch.ones(5), "labels": k % 3} for k, row in enumerate(ids)]
    if model.config.reads_text:
        return texts(12)
    pixels = torch.randint(0, 256, (12, 3, side(name), side(name)), generator=torch.Generator().manual_seed(0))
    return ImageTensors(pixels.to(torch.uint8), torch.arange(12) % 3)


class Weights(TrainerCallback):
    """Keeps the weights of each checkpoint, by step."""

    def __init__(self):
        self.at = {}

    def on_save(self, args, state, control, model=None, **kwargs):
        plain = getattr(model, "_orig_mod", model)
        self.at[state.global_step] = copy.deepcopy(plain.state_dict())


def falling():
    """A measure that falls from one evaluation to the next, so that the first checkpoint is the best."""
    left = [3.0, 2.0, 1.0]
    return lambda prediction: {"worth": left.pop(0)}


SETTINGS = {
    "num_train_epochs": 2, "learning_rate": 1e-2, "save_strategy": "epoch", "eval_strategy": "epoch",
    "load_best_model_at_end": True, "metric_for_best_model": "worth", "per_device_train_batch_size": 12,
    "report_to": "none", "disable_tqdm": True, "use_cpu": True,
}  # fmt: skip


def trainer(folder, name, model, **settings) -> SelfModelingTrainer:
    args = SelfModelingTrainingArguments(output_dir=str(folder), **{**SETTINGS, **settings})
    own = data(name, model)
    run = SelfModelingTrainer(model=model, args=args, train_dataset=own, eval_dataset=own, compute_metrics=falling())
    run.add_callback(weights := Weights())
    run.weights = weights
    return run


def finished(folder, name: str, **settings) -> SelfModelingTrainer:
    """A run with a checkpoint after each of two epochs."""
    run = trainer(folder, name, network(name), **{"load_best_model_at_end": False, **settings})
    run.train()
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a finished run, by the name of its backbone."""

    @cache
    def folder(name: str) -> Path:
        path = tmp_path_factory.mktemp("run")
        finished(path, name)
        return path

    return folder


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name, value in expected.items() if not torch.equal(found[name], value)]


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks) for name, marks in MARKS.items()])
def test_the_best_model_and_a_resumed_run_have_every_weight(tmp_path, name):
    first = trainer(tmp_path, name, network(name))
    first.train()
    assert sorted(first.weights.at) == [1, 2]
    assert not torch.equal(first.weights.at[1]["classifier.weight"], first.weights.at[2]["classifier.weight"])
    assert_equal(first.model.state_dict(), first.weights.at[1])  # the best
    again = trainer(tmp_path, name, network(name, seed=1), load_best_model_at_end=False)
    again.train(resume_from_checkpoint=True)  # nothing is left to train
    assert_equal(again.model.state_dict(), first.weights.at[2])


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_weights_in_parts_come_back(tmp_path, runs, name):
    shutil.copytree(runs(name), tmp_path, dirs_exist_ok=True)
    checkpoint = tmp_path / "checkpoint-2"
    model = load_model(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    model.save_pretrained(checkpoint, max_shard_size="4KB")
    again = trainer(tmp_path / "elsewhere", name, network(name, seed=1), load_best_model_at_end=False)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert_equal(again.model.state_dict(), model.state_dict())
    next(checkpoint.glob("model-00002-of-*")).unlink()
    with pytest.raises(ValueError, match=r"resume_from_checkpoint=.*: model-00002-of-\S+ cannot be read"):
        trainer(tmp_path, name, network(name)).train(resume_from_checkpoint=True)


def test_checkpoints_come_in_the_order_of_their_steps(tmp_path):
    """Without those that were not written to their end, and folders of other names."""
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", "checkpoint-"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-11").mkdir()
    assert complete_checkpoints(tmp_path) == [str(tmp_path / name) for name in ("checkpoint-9", "checkpoint-10")]
    assert newest_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert newest_complete_checkpoint(tmp_path / "checkpoint-9") is None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_pickled_weights_are_an_error_in_one_file_or_in_parts(tmp_path, name):
    check_not_pickled(tmp_path)
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=f"^holds {name}, which would be unpickled"):
        check_not_pickled(tmp_path)


def resumed(folder: Path) -> SelfModelingTrainer:
    run = trainer(folder, "mlp", network("mlp", seed=1), load_best_model_at_end=False)
    run.train(resume_from_checkpoint=True)
    return run


def test_narrower_weights_are_loaded_and_a_file_goes_before_an_index(tmp_path, runs):
    shutil.copytree(runs("mlp"), tmp_path, dirs_exist_ok=True)
    file = tmp_path / "checkpoint-2" / "model.safetensors"
    rounded = {name: value.bfloat16() for name, value in load_file(file).items()}
    save_file(rounded, file, metadata={"format": "pt"})
    (file.parent / "model.safetensors.index.json").write_text('{"weight_map": {"classifier.weight": "gone"}}')
    assert_equal(resumed(tmp_path).model.state_dict(), {name: value.float() for name, value in rounded.items()})


def test_parts_are_read_from_the_checkpoint_alone(tmp_path, runs):
    shutil.copytree(runs("mlp"), tmp_path, dirs_exist_ok=True)
    checkpoint = tmp_path / "checkpoint-2"
    (checkpoint / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = '{"weight_map": {"classifier.weight": "../elsewhere.safetensors"}}'
    (checkpoint / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=r"elsewhere\.safetensors cannot be read"):
        resumed(tmp_path)


def test_a_checkpoint_of_a_sharded_training_is_an_error(tmp_path, runs):
    shutil.copytree(runs("mlp"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoint-2" / "pytorch_model_fsdp_0").mkdir()
    with pytest.raises(ValueError, match=r"holds pytorch_model_fsdp_0, of a sharded training \(FSDP\)"):
        resumed(tmp_path)


def test_a_compiled_network_saves_and_loads_under_its_plain_names(tmp_path):
    """`torch.compile(model)` is what a user may pass. Its own names begin with `_orig_mod.`."""
    first = trainer(tmp_path, "vit", torch.compile(network("vit"), backend="eager"))
    first.train()
    plain = first.model._orig_mod
    assert_equal(plain.state_dict(), first.weights.at[1])
    assert_equal(load_model(tmp_path / "checkpoint-2").state_dict(), first.weights.at[2])
    for model in (torch.compile(network("vit", seed=1), backend="eager"), network("vit", seed=1)):
        again = trainer(tmp_path, "vit", model, load_best_model_at_end=False)
        again.train(resume_from_checkpoint=True)
        assert_equal(getattr(again.model, "_orig_mod", again.model).state_dict(), first.weights.at[2])


@pytest.mark.parametrize("name", ["vit", "embedding_bag"])
def test_transformers_own_trainer_resumes_with_every_weight(tmp_path, runs, name):
    shutil.copytree(runs(name), tmp_path, dirs_exist_ok=True)
    other = network(name, seed=1)
    kept = ("num_train_epochs", "per_device_train_batch_size", "report_to", "disable_tqdm", "use_cpu")
    args = TrainingArguments(str(tmp_path), **{setting: SETTINGS[setting] for setting in kept})
    rows = data(name, other)
    rows = rows if isinstance(rows, list) else [rows[k] for k in range(12)]
    again = Trainer(model=other, args=args, train_dataset=rows)
    again.train(resume_from_checkpoint=True)
    assert_equal(other.state_dict(), load_model(tmp_path / "checkpoint-2").state_dict())


# ------------------------------------------------------------------------------------- checkpoints that do not fit


def damage(folder: Path, how: str) -> str:
    """Damage the weights in a folder. Return what an error must say."""
    file = folder / "model.safetensors"
    state = load_file(file)
    name = sorted(state)[0]
    if how == "cut off":
        file.write_bytes(file.read_bytes()[:-8])
        return r"model\.safetensors cannot be read"
    if how == "absent":
        file.unlink()
        return r"model\.safetensors cannot be read"
    if how == "wider":
        state = {key: value.double() for key, value in state.items()}
        message = r"holds weights of torch\.float64, which would be rounded to the network's torch\.float32"
    elif how == "missing":
        del state[name]
        message = "holds another network .*Missing key"
    elif how == "unexpected":
        state["hidden.linear7.bias"] = torch.zeros(1)
        message = "holds another network .*hidden.linear7.bias"
    else:
        state[name] = torch.cat([state[name]] * 2)
        message = "holds another network .*size mismatch"
    save_file(state, file, metadata={"format": "pt"})
    return message


@pytest.mark.parametrize("how", ["missing", "unexpected", "mismatched", "cut off", "absent", "wider"])
@pytest.mark.parametrize("name", ["vit", "mlp"])
def test_a_checkpoint_that_does_not_fit_is_an_error(tmp_path, runs, name, how):
    shutil.copytree(runs(name), tmp_path, dirs_exist_ok=True)
    message = damage(tmp_path / "checkpoint-2", how)
    with pytest.raises(ValueError, match=f"^resume_from_checkpoint='.*checkpoint-2': {message}") as error:
        trainer(tmp_path, name, network(name)).train(resume_from_checkpoint=True)
    assert "\n" not in str(error.value)


class Damage(TrainerCallback):
    """Damages the best checkpoint when the last one is written."""

    def __init__(self, how):
        self.how = how

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == 2:
            self.message = damage(Path(state.best_model_checkpoint), self.how)


@pytest.mark.parametrize("how", ["missing", "absent"])
def test_a_best_model_that_does_not_fit_is_an_error(tmp_path, how):
    run = trainer(tmp_path, "vit", network("vit"))
    run.add_callback(damaging := Damage(how))
    with pytest.raises(ValueError, match=r"^load_best_model_at_end: the best checkpoint, '.*checkpoint-1': ") as error:
        run.train()
    assert error.match(damaging.message)


# ------------------------------------------------------------------------------------- adapters


def adapted(seed: int, name: str):
    """The same network, with an adapter of this name that the seed draws."""
    peft = pytest.importorskip("peft")
    model = network("vit")
    torch.manual_seed(seed)
    heads = ["classifier", "self_model_head"]
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=heads, init_lora_weights=False)
    return peft.get_peft_model(model, settings, adapter_name=name)


@pytest.mark.parametrize("name", ["default", "own"])
def test_every_weight_of_an_adapter_comes_back(tmp_path, name):
    first = trainer(tmp_path, "vit", adapted(0, name))
    first.train()
    assert_equal(first.model.state_dict(), first.weights.at[1])  # the best
    again = trainer(tmp_path, "vit", adapted(1, name), load_best_model_at_end=False)
    again.train(resume_from_checkpoint=True)
    assert_equal(again.model.state_dict(), first.weights.at[2])
    folder = tmp_path / "checkpoint-2"
    file = (folder if name == "default" else folder / name) / "adapter_model.safetensors"
    state = load_file(file)
    del state[sorted(state)[0]]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"^resume_from_checkpoint='.*': holds another adapter \(.*lora_A"):
        trainer(tmp_path, "vit", adapted(1, name)).train(resume_from_checkpoint=True)


# ------------------------------------------------------------------------------------- populations


def population(name: str, seeds=(1, 2)) -> SelfModelingPopulation:
    config = network(name).config
    return SelfModelingPopulation(config, [Member(seed, 0.5) for seed in seeds])


STATISTICS = ("resnet", "timm/test_resnet")  # of BatchNorm
POPULATION = {"load_best_model_at_end": False, "metric_for_best_model": None, "eval_strategy": "no"}


@pytest.mark.parametrize("name", ["deit", "mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in STATISTICS)])
def test_every_weight_of_every_member_comes_back(tmp_path, name):
    """Of a population that is resumed or read, and of its members as networks of their own."""
    first = trainer(tmp_path, name, population(name), **POPULATION)
    first.train()
    again = trainer(tmp_path / "elsewhere", name, population(name), **POPULATION)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_equal(again.population.state_dict(), first.population.state_dict())
    assert_equal(SelfModelingPopulation.load(tmp_path / "checkpoint-2").state_dict(), first.population.state_dict())
    for index in range(2):
        member = first.population.member(index)
        for key, value in first.population.stacked.state_dict().items():
            assert torch.equal(member.state_dict()[key], value[index])
        member.save_pretrained(tmp_path / f"member-{index}")
        assert_same(load_model(tmp_path / f"member-{index}"), member)
        assert_same(type(member).from_pretrained(tmp_path / f"member-{index}").prune(), member.prune())


@pytest.mark.parametrize("how", ["missing", "unexpected", "mismatched"])
def test_a_population_that_does_not_fit_is_an_error(tmp_path, how):
    trainer(tmp_path, "deit", population("deit"), **POPULATION).train()
    message = damage(tmp_path / "checkpoint-2", how)
    with pytest.raises(ValueError, match=f"^resume_from_checkpoint='.*': {message}"):
        trainer(tmp_path, "deit", population("deit"), **POPULATION).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=f"^folder='.*': {message}"):
        SelfModelingPopulation.load(tmp_path / "checkpoint-2")


def test_a_population_in_half_precision_comes_back(tmp_path):
    """Its weights as they are, and the weights of its loss, which no file holds, not rounded."""
    config = network("mlp").config
    saved = SelfModelingPopulation(config, [Member(1, 0.3), Member(2, 0.7)]).to(torch.bfloat16)
    saved.save(tmp_path)
    loaded = SelfModelingPopulation.load(tmp_path)
    assert_equal(loaded.state_dict(), saved.state_dict())
    assert_equal(loaded.part(range(1, 2)).state_dict(), {k: v[1:] for k, v in saved.state_dict().items()})
    assert loaded.term_weights[1].tolist() == [0.3, 0.7]
    assert loaded.part(range(1, 2)).term_weights[1].tolist() == [0.7]
