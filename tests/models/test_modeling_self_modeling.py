"""The network against formulas written out here, and against itself after saving, pruning and copying."""

import copy
import itertools
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageClassification

from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification
from selfmod_hf.data import get_task
from tests import warm


def mlp(**fields) -> SelfModelingForImageClassification:
    defaults = {"hidden_sizes": [8, 6], "target_layers": ["hidden.relu2"], "aux_weight": 3.0}
    config = SelfModelingConfig(**{**defaults, "image_size": 5, "num_channels": 2, "num_labels": 4, **fields})
    torch.manual_seed(0)
    return SelfModelingForImageClassification(config)


def batch(size: int = 7, channels: int = 2, side: int = 5, classes: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.randn(size, channels, side, side, generator=generator),
        "labels": torch.randint(0, classes, (size,), generator=generator),
    }


@pytest.mark.parametrize("detach", [True, False])
def test_loss_and_gradient_are_those_of_the_formula(detach):
    model, inputs = mlp(detach_targets=detach, classification_weight=0.5), batch()
    model(**inputs).loss.backward()

    first, second = model.hidden.linear1, model.hidden.linear2
    weights = [p.detach().clone().requires_grad_() for m in (first, second) for p in (m.weight, m.bias)]
    h1 = torch.relu(inputs["pixel_values"].flatten(1) @ weights[0].T + weights[1])
    h2 = torch.relu(h1 @ weights[2].T + weights[3])
    predicted = h2 @ model.self_model_head.weight.detach().T + model.self_model_head.bias.detach()
    target = h2.detach() if detach else h2
    logits = h2 @ model.classifier.weight.detach().T + model.classifier.bias.detach()
    loss = 0.5 * F.cross_entropy(logits, inputs["labels"]) + 3.0 * ((predicted - target) ** 2).mean()
    loss.backward()
    for mine, theirs in zip((first.weight, first.bias, second.weight, second.bias), weights, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_two_heads_are_the_papers_one_widened_layer():
    """Section 2 of the paper widens the last layer from C to C + n outputs: the same function."""
    model, inputs = mlp(), batch()
    output = model(**inputs)
    widened = nn.Linear(6, 4 + 6)
    with torch.no_grad():
        widened.weight.copy_(torch.cat([model.classifier.weight, model.self_model_head.weight]))
        widened.bias.copy_(torch.cat([model.classifier.bias, model.self_model_head.bias]))
    both = widened(model._features(inputs["pixel_values"]))
    torch.testing.assert_close(both, torch.cat([output.logits, output.self_model_predictions], dim=1))


def test_several_targets_are_concatenated_in_the_order_given():
    model, inputs = mlp(target_layers=["hidden.relu2", "hidden.linear1", "hidden.relu1"]), batch()
    linear1 = model.hidden.linear1(inputs["pixel_values"].flatten(1))
    relu2 = model.hidden.relu2(model.hidden.linear2(linear1.relu()))
    expected = torch.cat([relu2, linear1, linear1.relu()], dim=1)
    torch.testing.assert_close(model(**inputs).self_model_targets, expected)


@settings(max_examples=25, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    size=st.integers(1, 5),
    picks=st.sets(st.integers(0, 2), min_size=1),
)
def test_predictions_have_the_targets_shape_and_pruning_keeps_logits(hidden, size, picks):
    layers = [f"hidden.relu{1 + pick % len(hidden)}" for pick in picks]
    model, inputs = mlp(hidden_sizes=hidden, target_layers=sorted(set(layers))), batch(size)
    output = model(**inputs)
    assert output.self_model_predictions.shape == output.self_model_targets.shape
    pruned = model.prune()
    assert torch.equal(pruned(**inputs).logits, output.logits)
    assert not any("self_model" in name for name in pruned.state_dict())
    assert {n: p.shape for n, p in pruned.named_parameters()} == {
        n: p.shape for n, p in mlp(hidden_sizes=hidden, target_layers=[], aux_weight=0).named_parameters()
    }


def test_pruning_keeps_every_bit_of_float64():
    model = mlp().double()
    with torch.no_grad():
        model.classifier.weight.add_(1e-12)
    assert torch.equal(model.prune().classifier.weight, model.classifier.weight)


def test_pruning_draws_no_random_number_and_shares_no_weight():
    model = mlp()
    before = torch.get_rng_state()
    pruned = model.prune()
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        pruned.classifier.weight.zero_()
    assert model.classifier.weight.abs().sum() > 0


def test_the_baseline_is_a_plain_classifier():
    model, inputs = mlp(target_layers=[], aux_weight=0), batch()
    output = model(**inputs)
    assert output.self_modeling_loss is None
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, inputs["labels"]))


def test_a_seed_gives_every_arm_the_same_initial_network():
    arms = [mlp(target_layers=[], aux_weight=0), mlp(), mlp(target_layers=["hidden.relu1"])]
    for name, tensor in arms[0].state_dict().items():
        assert all(torch.equal(tensor, arm.state_dict()[name]) for arm in arms)


def test_initial_weights_are_torchs_own():
    torch.manual_seed(0)
    plain = nn.Linear(50, 8)
    assert torch.equal(mlp().hidden.linear1.weight, plain.weight)


def test_ignored_samples_enter_no_loss():
    model, inputs = mlp(), batch()
    whole = model(pixel_values=inputs["pixel_values"][:4], labels=inputs["labels"][:4])
    padded_labels = torch.cat([inputs["labels"][:4], torch.full((3,), -100)])
    padded = model(pixel_values=inputs["pixel_values"], labels=padded_labels)
    for name in ("loss", "classification_loss", "self_modeling_loss"):
        torch.testing.assert_close(padded[name], whole[name])


def test_losses_are_float32_under_bf16_autocast():
    model, inputs = mlp(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**inputs)
    assert output.logits.dtype == torch.bfloat16
    assert {output.loss.dtype, output.classification_loss.dtype, output.self_modeling_loss.dtype} == {torch.float32}


def test_targets_survive_in_place_operations_that_follow():
    """timm's residual blocks add in place to what `bn2` returned."""
    config = SelfModelingConfig(
        backbone="timm/resnet18", image_size=32, num_channels=3, target_layers=["layer4.1.bn2"], aux_weight=1.0
    )
    model = SelfModelingForImageClassification(config).eval()
    seen = {}
    model.backbone.layer4[1].bn2.register_forward_hook(lambda m, i, o: seen.update(bn2=o.clone()))
    output = model(**batch(2, 3, 32, 2))
    assert torch.equal(output.self_model_targets, seen["bn2"].flatten(1))
    output.loss.backward()


def test_a_copy_captures_its_own_activations():
    model, inputs = mlp(), batch()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.hidden.linear2.bias.add_(10)
    assert not torch.allclose(twin(**inputs).self_model_targets, model(**inputs).self_model_targets)


def test_compiles_without_graph_break():
    model, inputs = mlp(), batch()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs).loss, model(**inputs).loss)


@pytest.mark.parametrize("name", ["layer9", "classifier", "hidden.relu3", ""])
def test_an_unknown_layer_lists_those_there_are(name):
    with pytest.raises(ValueError, match=r"hidden\.relu1, hidden\.linear2, hidden\.relu2") as error:
        mlp(target_layers=[name])
    assert repr(name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("leaky_relu", 0.01)])
def test_the_activation_of_the_hidden_layers_and_of_the_targets(activation, slope):
    model, inputs = mlp(hidden_activation=activation), batch()
    values = inputs["pixel_values"].flatten(1)
    for layer in (model.hidden.linear1, model.hidden.linear2):
        values = layer(values)
        values = torch.where(values > 0, values, slope * values)
    output = model(**inputs)
    assert (output.self_model_targets < 0).any() == (slope > 0)
    torch.testing.assert_close(output.self_model_targets, values)
    torch.testing.assert_close(output.logits, model.classifier(values))


def test_a_configuration_without_an_activation_has_relu(tmp_path):
    """Like the files of older versions. A saved leaky ReLU stays one."""
    mlp(hidden_activation="leaky_relu").save_pretrained(tmp_path)
    assert SelfModelingForImageClassification.from_pretrained(tmp_path).hidden.relu1.negative_slope == 0.01
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    assert content.pop("hidden_activation") == "leaky_relu"
    file.write_text(json.dumps(content))
    loaded = SelfModelingForImageClassification.from_pretrained(tmp_path)
    assert isinstance(loaded.hidden.relu2, nn.ReLU)


# ------------------------------------------------------------------------------------- saving and loading

TIMM = {
    "backbone": "timm/resnet18",
    "hidden_sizes": [20],
    "image_size": 32,
    "num_channels": 3,
    "target_layers": ["layer4", "hidden.relu1"],
}


@pytest.mark.parametrize(
    "fields", [{}, {"target_layers": [], "aux_weight": 0}, {"hidden_activation": "leaky_relu"}, TIMM]
)
def test_round_trip_is_bit_for_bit(tmp_path, fields):
    model = mlp(**fields)
    model.save_pretrained(tmp_path)
    for cls in (SelfModelingForImageClassification, AutoModelForImageClassification):
        loaded = cls.from_pretrained(tmp_path)
        assert type(loaded) is SelfModelingForImageClassification
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in model.state_dict().items())
    assert type(AutoConfig.from_pretrained(tmp_path)) is SelfModelingConfig


WITHOUT_PACKAGE = """
import sys
sys.modules["selfmod_hf"] = None  # importing it now fails
import torch
from transformers import AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = torch.load(sys.argv[2], weights_only=True)
assert type(model).__module__.startswith("transformers_modules")
assert torch.equal(model(**inputs).loss, torch.load(sys.argv[3], weights_only=True))
assert torch.equal(model.prune()(**inputs).logits, model(**inputs).logits)
"""


def test_loads_where_the_package_is_not_installed(tmp_path):
    model, inputs = mlp(), batch()
    model.save_pretrained(tmp_path / "model")
    torch.save(inputs, tmp_path / "inputs")
    torch.save(model.eval()(**inputs).loss.detach(), tmp_path / "loss")
    arguments = [str(tmp_path / name) for name in ("model", "inputs", "loss")]
    warm.run(["-c", WITHOUT_PACKAGE, *arguments], cwd=tmp_path, check=True)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_planted_pickle_is_never_opened(tmp_path):
    folder, trace = tmp_path / "model", tmp_path / "trace"
    model = mlp()
    model.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Malicious(str(trace))))
    loaded = SelfModelingForImageClassification.from_pretrained(folder)  # beside safetensors: ignored
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)
    (folder / "model.safetensors").unlink()
    for cls in (SelfModelingForImageClassification, AutoModelForImageClassification):
        with pytest.raises(OSError, match="safetensors"):  # alone: refused
            cls.from_pretrained(folder)
    assert not trace.exists()


def test_a_checkpoint_without_head_gets_torchs_initialization(tmp_path):
    mlp(target_layers=[], aux_weight=0).save_pretrained(tmp_path)
    config = mlp().config
    torch.manual_seed(3)
    model = SelfModelingForImageClassification.from_pretrained(tmp_path, config=config)
    bound = 6**-0.5  # nn.Linear draws uniformly within 1 / sqrt(fan-in)
    assert 0.5 * bound < model.self_model_head.weight.abs().max() <= bound


# ------------------------------------------------------------------------------------- wrong settings


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"backbone": "transformer"}, "backbone"),
        ({"backbone": "timm/"}, "backbone"),
        ({"backbone": "timm/resnut18"}, "resnet18"),
        ({"backbone_kwargs": {"hidden_sizes": [3]}}, "hidden_sizes"),
        ({"backbone": "timm/resnet18", "backbone_kwargs": {"pretrained": True}}, "pretrained"),
        ({"hidden_sizes": [8, 0]}, "hidden_sizes"),
        ({"hidden_sizes": [8.5]}, "hidden_sizes"),
        ({"hidden_activation": "gelu"}, "allowed are relu, leaky_relu"),
        ({"hidden_activation": "leaky_relu", "hidden_sizes": [], "target_layers": ["backbone"]}, "hidden_activation"),
        ({"image_size": [5, 5, 5]}, "image_size"),
        ({"num_channels": 0}, "num_channels"),
        ({"aux_weight": -1}, "aux_weight"),
        ({"aux_weight": float("nan")}, "aux_weight"),
        ({"aux_weight": "1"}, "aux_weight"),
        ({"classification_weight": float("inf")}, "classification_weight"),
        ({"target_layers": []}, "target_layers"),
    ],
)
def test_wrong_fields_are_refused_in_one_line(fields, name):
    with pytest.raises(ValueError, match=name) as error:
        mlp(**fields)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------- the paper's CIFAR-10 network


class Block(nn.Module):
    """He et al. 2015 (arXiv 1512.03385), a basic block: two 3x3 convolutions and a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or width_in != width:
            self.downsample = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + shortcut).relu()


class PaperResNet18(nn.Module):
    """arXiv 2407.10188, section 3, its last layer widened from C to C + n outputs: class scores, then predictions."""

    def __init__(self, classes: int = 10, hidden: int = 2000):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        widths = [64, 64, 128, 256, 512]
        for stage, (before, width) in enumerate(itertools.pairwise(widths), start=1):
            blocks = [Block(before, width, 1 if stage == 1 else 2), Block(width, width, 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.hidden = nn.Linear(512, hidden)
        self.classes = classes
        self.last = nn.Linear(hidden, classes + 512 * 4 * 4 + hidden)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        stage4 = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, 512, 4, 4)
        hidden = self.hidden(stage4.mean(dim=(2, 3))).relu()
        out = self.last(hidden)
        targets = torch.cat([stage4.flatten(1), hidden], dim=1).detach()
        return out[:, : self.classes], out[:, self.classes :], targets


def cifar10_network(**fields) -> SelfModelingForImageClassification:
    recipe = get_task("cifar10").recipe
    names = ("backbone", "small_image_stem", "hidden_sizes", "target_layers", "aux_weight")
    own = {name: recipe[name] for name in names}
    config = SelfModelingConfig(**{**own, "image_size": 32, "num_channels": 3, "num_labels": 10, **fields})
    return SelfModelingForImageClassification(config)


def test_the_cifar10_network_is_the_papers_weight_by_weight():
    torch.manual_seed(0)
    model, reference = cifar10_network(aux_weight=0.5), PaperResNet18()
    with torch.no_grad():
        for parameter in reference.parameters():  # nothing left at ones and zeros
            parameter.add_(0.02 * torch.randn_like(parameter))
    theirs = reference.state_dict()
    mine = {f"backbone.{k}": v for k, v in theirs.items() if not k.startswith(("hidden", "last"))}
    mine |= {f"hidden.linear1.{part}": theirs[f"hidden.{part}"] for part in ("weight", "bias")}
    for part in ("weight", "bias"):
        mine[f"classifier.{part}"], mine[f"self_model_head.{part}"] = theirs[f"last.{part}"].split([10, 10192])
    model.load_state_dict(mine)  # strict: every weight of the one is a weight of the other
    inputs = batch(3, 3, 32, 10)
    output = model(**inputs)
    logits, predictions, targets = reference(inputs["pixel_values"])
    torch.testing.assert_close(output.logits, logits)
    torch.testing.assert_close(output.self_model_predictions, predictions)
    torch.testing.assert_close(output.self_model_targets, targets)
    loss = F.cross_entropy(logits, inputs["labels"]) + 0.5 * (predictions - targets).square().mean()
    torch.testing.assert_close(output.loss, loss)
    output.loss.backward()
    loss.backward()
    torch.testing.assert_close(model.backbone.conv1.weight.grad, reference.conv1.weight.grad, rtol=1e-3, atol=1e-5)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(model.backbone.bn1, name), getattr(reference.bn1, name))


def test_a_model_without_that_stem_refuses_it():
    with pytest.raises(ValueError, match="no single first convolution"):
        cifar10_network(backbone="timm/vit_tiny_patch16_224", target_layers=["hidden.relu1"], image_size=224)
    with pytest.raises(ValueError, match="small_image_stem"):
        mlp(small_image_stem=True)


def test_a_grey_network_reads_colours_as_pillow_does():
    model = mlp(num_channels=1)
    colours = torch.randint(0, 256, (5, 5, 3), dtype=torch.uint8)
    grey = torch.from_numpy(np.array(Image.fromarray(colours.numpy()).convert("L")))
    found = model(pixel_values=colours.permute(2, 0, 1)[None] / 255).logits
    expected = model(pixel_values=grey[None, None] / 255).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)  # Pillow rounds to 1 / 255


@pytest.mark.parametrize(("channels", "side"), [(1, 5), (3, 5), (2, 6)])
def test_images_of_another_shape_are_rejected_by_name(channels, side):
    with pytest.raises(ValueError, match=rf"pixel_values: images of \[{channels}, {side}, {side}\]; .*\[2, 5, 5\]"):
        mlp()(**batch(channels=channels, side=side))


def test_targets_of_another_size_are_rejected_by_name():
    encoder = AutoConfig.for_model(
        "resnet", num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic"
    )
    config = SelfModelingConfig(
        backbone_config=encoder, image_size=32, num_labels=4, target_layers=["backbone.encoder.stages.0"]
    )
    model = SelfModelingForImageClassification(config)
    with pytest.raises(ValueError, match=r"target_layers: give 16 activations of this batch, expected 256"):
        model(**batch(channels=1, side=8))
