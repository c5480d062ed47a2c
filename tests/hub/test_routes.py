"""Every way to push a network: what arrives is complete, loads with and without the package, and has our card."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from selfmod_hf.weights import weights_sha256
from tests import warm
from tests.hub.test_publish_encoders import BERT, VIT, bert_tokenizer
from tests.loopback_hub import LoopbackHub

FEW = ["--max_train_samples=60", "--max_test_samples=20", "--num_train_epochs=2", "--train_batch_size=20"]
MNIST = ["--dataset_name=ylecun/mnist"]
CIFAR10 = ["--dataset_name=uoft-cs/cifar10", "--image_column=img"]
IMDB = ["--dataset_name=stanfordnlp/imdb", "--text_column=text", "--max_length=12"]
# data, network, whether members of a population can be trained (they draw no dropout of their own)
BACKBONES: dict[str, tuple[list[str], list[str], bool]] = {
    "mlp": (MNIST, ["--hidden_sizes=8", "--target_layers=hidden.relu1"], True),
    "timm": (CIFAR10, ["--backbone=timm/test_resnet", "--target_layers=layer4"], True),
    "vit": (CIFAR10, [f"--backbone_config={VIT}", "--target_layers=layers.1"], True),
    "bag": (
        IMDB,
        ['--backbone_kwargs={"embedding_dim": 4}', "--hidden_sizes=8", "--target_layers=hidden.relu1"],
        True,
    ),
    "bert": (
        IMDB,
        [f"--backbone_config={BERT}", "--tokenizer_name=./words", "--target_layers=encoder.layer.*.output"],
        False,
    ),
}
WITH_RLCT = {"push", "loaded", "loaded_from_hub", "save_pretrained"}
OF_OTHER_WEIGHTS = {"pruned", "pruned_loaded", "member"}  # than those that were evaluated
ROUTES = {
    "train", "trainer", "model", "every_save", "checkpoint", "saved_by_train", *WITH_RLCT, *OF_OTHER_WEIGHTS,
}  # fmt: skip

PUSH = """
import json, os, sys
from selfmod_hf import (
    Member, SelfModelingForImageClassification, SelfModelingForSequenceClassification, SelfModelingPopulation,
    SelfModelingTrainer,
)
from selfmod_hf.cli import main
from selfmod_hf.cli.arguments import typed_values
from selfmod_hf.cli.train import parser, run_settings
from selfmod_hf.experiments.network_settings import build_network
from selfmod_hf.trainer.population_trainer import PopulationTrainer

data_flags, few, network, populations = json.loads(sys.argv[1])
flags = [*data_flags, *few, *network, "--aux_weight=0.5", "--quiet"]
short = ["--num_draws=4", "--num_chains=2", "--batch_size=8", "--rlct_preset=theory", "--quiet", *few[:2]]
here = os.getcwd()


def trained(folder, *more, population=False):
    settings, _ = run_settings(typed_values(parser(), [*flags, f"--output_dir={here}/{folder}", *more]))
    task, args, data = settings.task, settings.training, settings.load_data()
    model = build_network(settings.network, data)
    kind = SelfModelingTrainer
    if population:
        model = SelfModelingPopulation(model.config, [Member(seed=1, aux_weight=0.5), Member(seed=2, aux_weight=0.5)])
        kind = PopulationTrainer
    trainer = kind(
        model=model, args=args, train_dataset=data.train, eval_dataset=data.test, task=data.task or task,
        processing_class=data.train.processor(),
    )
    trainer.train()
    return trainer


for command in (
    ["train", *flags, f"--output_dir={here}/one", "--push_to_hub", "--hub_model_id=me/train", "--license=apache-2.0"],
    ["train", *flags, f"--output_dir={here}/two"],
    ["rlct", "--model=two", *data_flags, *short],
    ["push", "two", "--repo=me/push", "--quiet"],
):
    assert main(command) == 0, command

trainer = trained("three", "--hub_model_id=me/trainer")
trainer.evaluate()
trainer.save_model()
trainer.push_to_hub()
model = trainer.model
model.add_model_tags("mine")
model.push_to_hub("me/model", commit_description="of a test")
model.prune().push_to_hub("me/pruned")
model.save_pretrained("four", push_to_hub=True, repo_id="me/saved_by_train", license="mit")
kind = SelfModelingForSequenceClassification if model.config.reads_text else SelfModelingForImageClassification
kind.from_pretrained("two").push_to_hub("me/loaded")
kind.from_pretrained("two").prune().push_to_hub("me/pruned_loaded")
kind.from_pretrained("me/push").push_to_hub("me/loaded_from_hub")
kind.from_pretrained("two").save_pretrained(f"{here}/save_pretrained", push_to_hub=True)  # named after the folder
for strategy in ("every_save", "checkpoint"):
    during = ["--push_to_hub", f"--hub_model_id=me/{strategy}", f"--hub_strategy={strategy}", "--hub_always_push"]
    trained(strategy, *during)
if populations:
    trained("five", population=True).population.member(1).push_to_hub("me/member")
"""

LOAD = """
import sys
texts, *repos = sys.argv[1:]
sys.modules["selfmod_hf"] = None  # importing it now fails
import transformers
from PIL import Image
kind = "SelfModelingForSequenceClassification" if texts else "SelfModelingForImageClassification"
auto = getattr(transformers, kind.replace("SelfModeling", "AutoModel"))
for repo in repos:
    model = auto.from_pretrained(repo, trust_remote_code=True)
    if texts:
        tokenizer = transformers.AutoTokenizer.from_pretrained(repo, trust_remote_code=False)
        classify, sample = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer), "a film"
    else:
        processor = transformers.AutoImageProcessor.from_pretrained(repo, trust_remote_code=True)
        classify = transformers.pipeline("image-classification", model=model, image_processor=processor)
        sample = Image.new("RGB", (40, 30))
    assert classify(sample)[0]["label"] in model.config.id2label.values(), repo

del sys.modules["selfmod_hf"]
import selfmod_hf
for repo in repos:
    getattr(selfmod_hf, kind).from_pretrained(repo)
"""


@dataclass(frozen=True)
class Pushed:
    """What all routes pushed of one backbone."""

    hub: LoopbackHub
    folder: Path
    texts: bool
    dataset: str
    routes: list[str]

    def run(self, program: str, *arguments: str, home: str = "home") -> None:
        env = self.hub.env() | {"HF_HOME": str(self.folder / home), "HF_HUB_CACHE": str(self.folder / home / "hub")}
        done = warm.run(["-c", program, *arguments], env, self.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "a push while training failed" not in done.stderr, done.stderr

    def repo(self, route: str) -> Path:
        return self.hub.root / "models" / "me" / route

    def json(self, route: str, name: str) -> Any:
        return json.loads((self.repo(route) / name).read_text())


def by_cost(name: str) -> Any:
    marks = {"mlp": [], "bert": [pytest.mark.slow]}
    return pytest.param(name, marks=marks.get(name, [pytest.mark.weekly]))


@pytest.fixture(scope="module", params=[by_cost(name) for name in BACKBONES])
def pushed(request, hub_seed, tmp_path_factory) -> Iterator[Pushed]:
    data, network, populations = BACKBONES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    bert_tokenizer(folder / "words")
    with LoopbackHub(folder / "hub", seeds=[hub_seed.path]) as hub:
        routes = sorted(ROUTES if populations else ROUTES - {"member"})
        found = Pushed(hub, folder, data is IMDB, data[0].partition("=")[2], routes)
        found.run(PUSH, json.dumps([data, FEW, network, populations]))
        yield found


def test_each_loads_without_the_package_and_with_it(pushed):
    repos = [f"me/{route}" for route in pushed.routes]
    pushed.run(LOAD, "texts" if pushed.texts else "", *repos, home="elsewhere")


def test_each_says_what_its_weights_are(pushed):
    for route in pushed.routes:
        run, own = pushed.json(route, "run.json"), weights_sha256(pushed.repo(route))
        assert run["task"]["dataset_name"] == pushed.dataset, route
        assert run.get("weights_sha256") in (own, None), route
        assert (run.get("weights_sha256") is None) == (route == "pruned_loaded"), route
        assert ("results" in run) == (route not in OF_OTHER_WEIGHTS), route
        there = (pushed.repo(route) / "rlct.json").is_file()
        assert there == (route in WITH_RLCT), route
        if there:
            assert pushed.json(route, "rlct.json")["weights_sha256"] == own


def test_each_has_our_card(pushed):
    licenses = {"train": "apache-2.0", "saved_by_train": "mit"}
    for route in pushed.routes:
        data = ModelCard.load(pushed.repo(route) / "README.md").data
        assert "selfmod_hf" in data.tags, route
        assert ("mine" in data.tags) == (route in ("model", "saved_by_train")), route
        assert data.license == licenses.get(route), route  # none is invented
        assert data.datasets == [pushed.dataset], route
        shown = {result.metric_type for result in data.eval_results}
        evaluated = {"accuracy"} if route not in OF_OTHER_WEIGHTS else set()
        assert shown == {"weight_width"} | evaluated | ({"rlct"} if route in WITH_RLCT else set()), route
        assert data.metrics == (["accuracy"] if evaluated else None), route


def test_no_path_of_the_machine_is_published(pushed):
    for path in pushed.hub.root.rglob("*"):
        if path.suffix in (".json", ".md") and "models" in path.parts and "-checkpoint" not in path.parent.name:
            assert str(pushed.folder) not in path.read_text(), path


def test_a_push_while_training_is_of_its_last_step(pushed):
    for route in ("every_save", "checkpoint"):
        assert pushed.json(route, "run.json")["epoch"] == 2
        messages = [commit.title for commit in pushed.hub.api().list_repo_commits(f"me/{route}")]
        assert "Training in progress, step 6" in messages
    assert (pushed.repo("checkpoint") / "last-checkpoint" / "trainer_state.json").is_file()
    assert not any(path.is_dir() for path in pushed.repo("every_save").iterdir())


def test_the_description_of_a_commit_arrives(pushed):
    newest = pushed.hub.api().list_repo_commits("me/model")[0]
    assert (newest.title, newest.message) == ("Upload self-modeling network", "of a test")
