"""Preprocessing: of training images and of pictures to come the same, a pretrained backbone's own, a network's own."""

import io
import json
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BitImageProcessor,
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    LevitImageProcessor,
    MobileViTImageProcessor,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    pipeline,
)

from selfmod_hf import (
    SelfModelingConfig,
    SelfModelingForImageClassification,
    SelfModelingTrainer,
    SelfModelingTrainingArguments,
    TaskSpec,
    get_task,
    load_images,
)
from selfmod_hf.cli import main
from selfmod_hf.data import ImagePreprocessing, backbone_preprocessing, network_preprocessing
from selfmod_hf.data.preprocessing import unfollowed
from selfmod_hf.errors import InputError

GREY_LEVEL = 1 / 255
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILES = {"1": "PNG", "L": "PNG", "LA": "PNG", "P": "GIF", "RGB": "PNG", "RGBA": "PNG", "CMYK": "TIFF"}


def picture(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert("L" if mode in ("1", "L", "LA") else "RGB").convert(mode)


def encoded(image: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, FILES[image.mode])
    return {"bytes": buffer.getvalue(), "path": None}


def write(
    folder: Path, train: list[Image.Image], test: list[Image.Image] | None = None, feature: Any = None
) -> TaskSpec:
    """A local data set of these pictures, half of each class."""
    folder.mkdir(parents=True, exist_ok=True)
    features = Features({"image": feature or ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    for split, images in (("train", train), ("test", train if test is None else test)):
        rows = {"image": [encoded(image) for image in images], "label": [row % 2 for row in range(len(images))]}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return TaskSpec(name="own", dataset_name=str(folder))


# ---- what is served is what was trained on ----


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sides=st.lists(st.integers(1, 30), min_size=2, max_size=2),
    modes=st.lists(st.sampled_from(sorted(FILES)), min_size=2, max_size=5),
    channels=st.sampled_from([None, 1, 3]),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    seed=st.integers(0, 100),
)
def test_a_picture_is_prepared_as_the_training_images_were(tmp_path, sides, modes, channels, interpolation, seed):
    """Resized up and down, of every mode, on grey and colour networks."""
    sizes = np.random.default_rng(seed).integers(2, 40, (len(modes), 2)).tolist()
    pictures = [picture(mode, *size, seed) for mode, size in zip(modes, sizes, strict=True)]
    spec = write(Path(tempfile.mkdtemp(dir=tmp_path)), pictures)
    wanted = ImagePreprocessing(sides, 0.4, 0.2, interpolation, channels)
    train = load_images(spec, preprocessing=wanted).train
    folder = tempfile.mkdtemp(dir=tmp_path)
    train.processor().save_pretrained(folder)
    for prepare in (train.processor(), AutoImageProcessor.from_pretrained(folder)):
        for row, image in enumerate(pictures):
            served = prepare(Image.open(io.BytesIO(encoded(image)["bytes"])), return_tensors="pt")["pixel_values"][0]
            torch.testing.assert_close(served, train[row]["pixel_values"])


@pytest.mark.parametrize("modes", [["L", "1"], ["RGB", "P", "L"]])
def test_a_pipeline_answers_as_the_network_answers_the_data(tmp_path, modes):
    pictures = [picture(mode, 20 + row, 30, row) for row, mode in enumerate(modes)]
    data = load_images(write(tmp_path / "data", pictures), image_size=(9, 8)).train
    config = SelfModelingConfig(hidden_sizes=[6], image_size=(9, 8), num_channels=data.pixels.shape[1], num_labels=2)
    model = SelfModelingForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "model")
    data.processor().save_pretrained(tmp_path / "model")
    classify = pipeline("image-classification", model=str(tmp_path / "model"))
    for row, image in enumerate(pictures):
        answer = {entry["label"]: entry["score"] for entry in classify(image)}
        with torch.no_grad():
            chances = model(data[row]["pixel_values"][None]).logits[0].softmax(0)
        assert [answer["LABEL_0"], answer["LABEL_1"]] == pytest.approx(chances.tolist(), abs=1e-6)


# ---- colours ----


@pytest.mark.parametrize("where", ["train", "test"])
def test_one_image_of_colours_makes_all_of_them_rgb(tmp_path, where):
    splits = {split: [picture("L", 5, 4, seed) for seed in range(3)] for split in ("train", "test")}
    splits[where][-1] = picture("RGB", 5, 4, 9)
    data = load_images(write(tmp_path, **splits))
    for split, images in splits.items():
        expected = np.stack([np.array(image.convert("RGB")).transpose(2, 0, 1) for image in images])
        assert np.array_equal(getattr(data, split).pixels.numpy(), expected)


def test_the_channels_that_are_asked_for_are_read(tmp_path):
    images = [picture("RGB", 5, 4, 1), picture("L", 5, 4, 2)]
    spec = write(tmp_path, images)
    grey = load_images(spec, preprocessing=ImagePreprocessing(num_channels=1)).train.pixels
    assert np.array_equal(grey[:, 0].numpy(), [np.array(image.convert("L")) for image in images])
    grey_alone = write(tmp_path / "grey", [picture("LA", 5, 4, seed) for seed in range(2)])
    wide = load_images(grey_alone, preprocessing=ImagePreprocessing(num_channels=3)).train
    assert wide.pixels.shape == (2, 3, 4, 5)
    narrow = load_images(grey_alone).train
    assert narrow.pixels.shape == (2, 1, 4, 5)
    assert torch.equal(wide.all()[0], narrow.all()[0].expand(-1, 3, -1, -1))
    declared = write(
        tmp_path / "declared", [picture("L", 5, 4, seed) for seed in range(2)], feature=ImageFeature("RGB")
    )
    assert load_images(declared).train.pixels.shape == (2, 3, 4, 5)


def test_images_are_read_upright(tmp_path):
    images = [picture("RGB", 5, 4, 1), picture("RGB", 4, 5, 2)]
    spec = write(tmp_path, images)
    turned = images[1].transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    turned = images[0], turned
    rows = {"image": [], "label": [0, 1]}
    for image in turned:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", exif=image.getexif())
        rows["image"].append({"bytes": buffer.getvalue(), "path": None})
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    for split in ("train", "test"):
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    pixels = load_images(spec, image_size=(6, 6)).train.pixels
    resized = images[1].resize((6, 6), Image.Resampling.BICUBIC)
    assert np.array_equal(pixels[1].numpy(), np.array(resized).transpose(2, 0, 1))


# ---- mean and deviation ----


def test_each_channel_has_its_own_mean_and_deviation(tmp_path):
    spec = write(tmp_path, [picture("RGB", 5, 4, seed) for seed in range(3)])
    spec = TaskSpec("own", spec.dataset_name, image_mean=MEAN, image_std=STD)
    train = load_images(spec).train
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(train.all()[0], (train.pixels / 255 - mean) / std)
    assert list(train.processor().image_mean) == list(MEAN)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"image_mean": [0.1, 0.2]}, r"image_mean=\[0.1, 0.2\]: allowed are one number or three"),
        ({"image_mean": [0.1, 0.2, 0.3]}, "image_mean=.*has 3 numbers; allowed are 1 and 1"),
        ({"image_mean": float("nan")}, "image_mean=nan: allowed are finite numbers"),
        ({"image_std": [0.2, 0.2, 0]}, r"image_std=.*allowed are finite numbers above 0"),
        ({"interpolation": "cubic"}, "interpolation='cubic': allowed are nearest, box, bilinear, hamming"),
    ],
)
def test_preprocessing_that_cannot_be_followed_is_rejected_by_name(fields, problem):
    with pytest.raises(InputError, match=problem):
        load_images(TaskSpec("digits", None, **fields))


def test_what_nobody_asks_for_is_as_it_was():
    train = load_images(get_task("digits")).train
    assert (train.mean, train.std, train.interpolation) == (0.5, 0.5, "bicubic")
    assert torch.equal(train.all()[0], train.pixels.mul(1 / 127.5).sub(1.0))


# ---- of a pretrained backbone ----

OWN = {
    "ViT": (ViTImageProcessor(size={"height": 10, "width": 12}, image_mean=MEAN, image_std=STD), (10, 12), "bilinear"),
    "a crop": (
        BitImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 14, "width": 14}, resample=3),
        (14, 14),
        "bicubic",
    ),
    "a crop by share": (ConvNextImageProcessor(size={"shortest_edge": 12}, crop_pct=0.9), (12, 12), "bicubic"),
    "not normalized": (ViTImageProcessor(size={"height": 9, "width": 9}, do_normalize=False), (9, 9), "bilinear"),
    "another scale": (
        ViTImageProcessor(size={"height": 10, "width": 10}, rescale_factor=1 / 127.5, image_mean=[1.0] * 3),
        (10, 10),
        "bilinear",
    ),
    "divided twice": (
        EfficientNetImageProcessor(size={"height": 10, "width": 10}, image_mean=MEAN, image_std=STD),
        (10, 10),
        "bicubic",
    ),
    "as they are": (ViTImageProcessor(do_resize=False, image_mean=MEAN), None, "bilinear"),
}  # fmt: skip


def save_backbone(folder: Path, processor: Any = None) -> str:
    """A tiny ViT with its processor."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(**sizes, image_size=10, patch_size=5)).save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("case", OWN)
def test_a_backbone_brings_what_its_image_processor_does(tmp_path, case):
    processor, size, interpolation = OWN[case]
    found = backbone_preprocessing(save_backbone(tmp_path, processor))
    assert (found.image_size, found.interpolation, found.num_channels) == (size, interpolation, 3)
    height, width = size or (10, 10)
    image = picture("RGB", width, height)  # of the final size: neither resized nor cropped
    as_it_is = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    own = processor(image, **as_it_is)["pixel_values"]
    ours = found.for_images(3, height, width).processor()(image, **as_it_is)["pixel_values"]
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-5)


def test_a_backbone_without_a_crop_is_followed_in_its_resizing(tmp_path):
    processor, _, _ = OWN["ViT"]
    found = backbone_preprocessing(save_backbone(tmp_path, processor)).for_images(3, 10, 12).processor()
    for size in ((40, 30), (7, 5)):
        own, ours = (
            prepare(picture("RGB", *size), return_tensors="pt")["pixel_values"] for prepare in (processor, found)
        )
        assert float((own - ours).abs().max()) <= GREY_LEVEL / min(STD) * 1.01


FOLLOWED = {
    "the shortest edge, then a crop": BitImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 14, "width": 14}, image_mean=MEAN, image_std=STD
    ),
    "a crop with other sides": BitImageProcessor(size={"shortest_edge": 15}, crop_size={"height": 8, "width": 13}),
    "a crop as long as the edge": BitImageProcessor(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12}),
    "LeViT": LevitImageProcessor(size={"shortest_edge": 14}, crop_size={"height": 14, "width": 14}, image_mean=MEAN),
    "ConvNeXt below 384": ConvNextImageProcessor(size={"shortest_edge": 12}, crop_pct=0.9),
    "ResNet": ConvNextImageProcessor(size={"shortest_edge": 14}, crop_pct=0.875, resample=2, image_mean=MEAN),
    "ConvNeXt from 384 on": ConvNextImageProcessor(size={"shortest_edge": 384}, image_std=STD),
    "no crop": ViTImageProcessor(size={"height": 10, "width": 12}, image_mean=MEAN, image_std=STD),
}
SHAPES = ((40, 30), (30, 41), (50, 17), (7, 5), (4, 9), (14, 14))


@pytest.mark.parametrize("case", FOLLOWED)
def test_a_network_sees_what_its_backbones_own_image_processor_gives(tmp_path, case):
    """Training images and served pictures.

    Pillow and torchvision resize along one side, round to uint8, then along the other. Each rounding may differ by one
    grey level, so two levels are the limit of a pixel. The mean shows that few pixels differ.
    """
    backbone = save_backbone(tmp_path / "backbone", FOLLOWED[case])
    pictures = [picture("RGB", *shape, seed) for seed, shape in enumerate(SHAPES)]
    own = AutoImageProcessor.from_pretrained(backbone)
    expected = torch.cat([own(image, return_tensors="pt")["pixel_values"] for image in pictures])
    spec = write(tmp_path / "data", pictures)
    images = load_images(spec, preprocessing=backbone_preprocessing(backbone)).train
    pixels, _ = images.all()
    levels = (pixels - expected).abs() * torch.tensor(own.image_std).view(-1, 1, 1) / GREY_LEVEL
    assert float(levels.max()) <= 2.01
    assert float(levels.mean()) <= 0.05

    images.processor().save_pretrained(tmp_path / "served")
    served = AutoImageProcessor.from_pretrained(tmp_path / "served")
    again = torch.cat([served(image, return_tensors="pt")["pixel_values"] for image in pictures])
    torch.testing.assert_close(again, pixels)
    _, *shape = pixels.shape
    found = network_preprocessing(tmp_path / "served", SelfModelingConfig(image_size=shape[1:], num_channels=3))
    torch.testing.assert_close(load_images(spec, preprocessing=found).train.all()[0], pixels)


def test_pixels_that_are_not_followed_are_named(tmp_path):
    """A test picture finds what no rule knows."""
    backbone = save_backbone(tmp_path, ViTImageProcessor(size={"height": 10, "width": 10}, image_std=STD))
    found = backbone_preprocessing(backbone)
    assert unfollowed(backbone, found) is None
    twice = found.changed(image_std=[number**2 for number in STD])
    assert unfollowed(backbone, twice).startswith("gives other pixels, of a test picture by ")
    assert unfollowed(backbone, found.changed(image_size=12)) == "gives pictures of shape (3, 10, 10)"


def test_another_size_than_the_backbones_ends_the_crop(tmp_path):
    backbone = save_backbone(tmp_path, FOLLOWED["the shortest edge, then a crop"])
    found = backbone_preprocessing(backbone)
    assert found.changed(image_size=14).shortest_edge == 16
    assert found.changed(image_size=[10, 10]).shortest_edge is None
    with pytest.raises(InputError, match="shortest_edge=0: allowed are integers of at least 1"):
        replace(found, shortest_edge=0)


def test_a_timm_model_brings_its_data_configuration():
    found = backbone_preprocessing("timm/resnet18.a1_in1k")
    assert (found.image_size, found.image_mean, found.image_std) == ((224, 224), MEAN, STD)
    assert (found.interpolation, found.num_channels, found.source) == ("bicubic", 3, "timm/resnet18.a1_in1k")
    with pytest.raises(InputError, match="backbone_name='timm/resnet_of_mine'"):
        backbone_preprocessing("timm/resnet_of_mine")


def test_preprocessing_that_swaps_channels_is_rejected_and_a_missing_one_is_reported(tmp_path):
    with pytest.raises(InputError, match=r"backbone_name=.*do_flip_channel_order, which is not followed"):
        backbone_preprocessing(save_backbone(tmp_path / "a", MobileViTImageProcessor()))
    with pytest.warns(UserWarning, match=r"has no preprocessor_config\.json"):
        found = backbone_preprocessing(save_backbone(tmp_path / "b"))
    assert found.source.startswith("package default, because the backbone has no")


def test_images_that_were_not_prepared_for_the_backbone_are_reported(tmp_path):
    images = load_images(get_task("digits")).train
    model = SelfModelingForImageClassification(SelfModelingConfig(image_size=8, num_labels=10, base_model="me/vit"))
    arguments = SelfModelingTrainingArguments(str(tmp_path), report_to="none")
    with pytest.warns(UserWarning, match="the backbone is me/vit, but the images have this package's default"):
        SelfModelingTrainer(model, arguments, train_dataset=images)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the backbone is")
        SelfModelingTrainer(model, arguments, train_dataset=replace(images, source="me/vit"))


# ---- from training to all that follows ----


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network on a tiny pretrained ViT, trained on grey images of other sizes; with its data and its backbone."""
    folder = tmp_path_factory.mktemp("trained")
    backbone = save_backbone(folder / "backbone", ViTImageProcessor(size={"height": 10, "width": 10}, image_mean=MEAN))
    write(folder / "data", [picture("L", 20 + seed, 15, seed) for seed in range(12)])
    flags = ["--dataset_name", str(folder / "data"), "--backbone_name", backbone, "--num_train_epochs", "1", "--quiet"]
    assert main(["train", *flags, "--image_std", "0.2", "--output_dir", str(folder / "model")]) == 0
    return folder


def test_a_run_records_the_preprocessing_of_its_backbone_and_the_card_says_it(trained):
    from selfmod_hf.hub.model_folder import write_model_card

    run = json.loads((trained / "model" / "run.json").read_text())["preprocessing"]
    assert (run["image_size"], run["num_channels"], run["interpolation"]) == ([10, 10], 3, "bilinear")
    assert (run["image_mean"], run["image_std"]) == (list(MEAN), 0.2)
    assert run["source"] == "the backbone's folder; as given: image_std"
    card = write_model_card(trained / "model", "me/net").read_text()
    assert "10x10 (others are resized, bilinear, without a crop), mean 0.485, 0.456, 0.406, deviation 0.2" in card
    assert "from: the backbone's folder; as given: image_std" in card


def test_the_saved_network_serves_and_measures_what_it_was_trained_on(trained, tmp_path):
    from selfmod_hf.complexity import LLCResult
    from selfmod_hf.models import load_config, load_model

    spec = TaskSpec("own", str(trained / "data"), image_std=0.2)
    expected = load_images(spec, preprocessing=backbone_preprocessing(str(trained / "backbone"))).train
    prepare = AutoImageProcessor.from_pretrained(trained / "model")
    served = prepare(picture("L", 23, 15, 3), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(served, expected[3]["pixel_values"])

    found = network_preprocessing(trained / "model", load_config(trained / "model"))
    again = load_images(TaskSpec("own", str(trained / "data")), preprocessing=found).train
    torch.testing.assert_close(again.all()[0], expected.all()[0])

    flags = ["--model", str(trained / "model"), "--dataset_name", str(trained / "data"), "--num_draws", "4"]
    assert main(["rlct", *flags, "--output_dir", str(tmp_path), "--batch_size", "4", "--quiet"]) == 0
    pixels, labels = expected.all()
    with torch.no_grad():
        loss = load_model(trained / "model")(pixels, labels=labels).classification_loss
    assert LLCResult.load(tmp_path / "rlct.json").init_loss == pytest.approx(float(loss), rel=1e-5)


def test_a_network_on_a_backbone_that_crops_is_saved_with_the_crop(tmp_path):
    from selfmod_hf.hub.model_folder import write_model_card

    processor = BitImageProcessor(size={"shortest_edge": 13}, crop_size={"height": 10, "width": 10})
    backbone = save_backbone(tmp_path / "backbone", processor)
    pictures = [picture("RGB", 20 + seed, 15, seed) for seed in range(12)]
    write(tmp_path / "data", pictures)
    flags = ["--dataset_name", str(tmp_path / "data"), "--backbone_name", backbone, "--num_train_epochs", "1"]
    assert main(["train", *flags, "--output_dir", str(tmp_path / "model"), "--quiet"]) == 0
    own, served = (
        AutoImageProcessor.from_pretrained(folder)(pictures[5], return_tensors="pt")["pixel_values"]
        for folder in (backbone, tmp_path / "model")
    )
    assert float((own - served).abs().max()) <= 2 * GREY_LEVEL / min(processor.image_std) * 1.01
    card = write_model_card(tmp_path / "model", "me/net").read_text()
    assert "10x10 (others are resized, bicubic, shorter side to 13, then cropped), mean" in card


def test_a_network_of_version_0_1_0_is_read_as_it_was_trained(tmp_path):
    """Its processor says bilinear, but its images were resized by the bicubic filter."""
    ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.4], image_std=[0.3], resample=2).save_pretrained(
        tmp_path
    )
    found = network_preprocessing(tmp_path, SelfModelingConfig(image_size=8))
    assert (found.interpolation, found.image_mean, found.image_std, found.num_channels) == ("bicubic", 0.4, 0.3, 1)
    (tmp_path / "preprocessor_config.json").unlink()
    found = network_preprocessing(tmp_path, SelfModelingConfig(image_size=8))
    assert (found.image_size, found.image_mean, found.image_std) == ((8, 8), 0.5, 0.5)
