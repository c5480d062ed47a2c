"""What a push while training does if the Hub fails: training goes on, and the log says what is missing."""

from tests import warm
from tests.loopback_hub import Trouble

TRAIN = """
from selfmod_hf import (
    SelfModelingConfig, SelfModelingForImageClassification, SelfModelingTrainer, SelfModelingTrainingArguments,
    load_images, get_task,
)

data = load_images(get_task("digits"), max_train_samples=32, max_test_samples=32)
config = SelfModelingConfig(hidden_sizes=[4], image_size=[8, 8], num_channels=1, num_labels=10)
model = SelfModelingForImageClassification(config)
arguments = SelfModelingTrainingArguments(
    "run", num_train_epochs=2, save_strategy="epoch", push_to_hub=True, hub_model_id="me/net",
    hub_strategy="checkpoint", hub_always_push=True, report_to=[], per_device_train_batch_size=32,
)
trainer = SelfModelingTrainer(model, arguments, train_dataset=data.train, eval_dataset=data.test)
trainer.train()
"""


def test_a_failed_push_while_training_is_logged(loopback_hub, tmp_path):
    loopback_hub.faults = Trouble("failing", only="/commit/")  # the first commit alone
    done = warm.run(["-c", TRAIN], loopback_hub.env(), cwd=tmp_path, check=True)
    lines = [line for line in done.stderr.splitlines() if "a push while training failed" in line]
    assert len(lines) == 1
    assert "500" in lines[0]
    titles = [commit.title for commit in loopback_hub.api().list_repo_commits("me/net")]
    weights = titles.index("Training in progress, step 2")
    assert titles.index("Training in progress, step 2, checkpoint") < weights  # the newest is the first
    assert "Training in progress, step 1" not in titles


def test_a_checkpoint_is_not_deleted_before_it_is_sent(loopback_hub, tmp_path):
    loopback_hub.faults = Trouble("slow", times=None)
    train = TRAIN.replace("hub_always_push=True", "save_total_limit=1")
    done = warm.run(["-c", train], loopback_hub.env(), cwd=tmp_path, check=True)
    assert "a push while training failed" not in done.stderr
    assert loopback_hub.api().file_exists("me/net", "last-checkpoint/optimizer.pt")
