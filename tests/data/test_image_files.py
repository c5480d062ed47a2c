"""Images in one safetensors file."""

import pytest
import torch

from selfmod_hf import TaskSpec, load_images
from selfmod_hf.data import ImageFile, TaskData
from selfmod_hf.errors import InputError


def image_file(data: TaskData) -> ImageFile:
    return ImageFile(data.train.pixels, data.train.labels, data.test.pixels, data.test.labels, data.label_names)


@pytest.fixture(scope="module")
def digits():
    return load_images(TaskSpec(name="digits", dataset_name=None))


@pytest.fixture
def path(digits, tmp_path):
    image_file(digits).write(tmp_path / "digits.safetensors")
    return str(tmp_path / "digits.safetensors")


def test_images_come_back(digits, path):
    data = load_images(TaskSpec(name="mine", dataset_name=path), max_test_samples=30)
    assert torch.equal(data.train.all()[0], digits.train.all()[0])
    assert torch.equal(data.train.labels, digits.train.labels)
    assert torch.equal(data.test.labels, load_images(digits.task, max_test_samples=30).test.labels)
    assert data.label_names == digits.label_names


@pytest.mark.parametrize(
    ("field", "value"),
    [("test_fraction", 0.2), ("dataset_config", "plain"), ("problem_type", "regression"), ("image_size", [9, 9])],
)
def test_settings_of_other_data(path, field, value):
    size = {"image_size": value} if field == "image_size" else {}
    fields = {} if size else {field: value}
    with pytest.raises(InputError, match=field):
        load_images(TaskSpec(name="mine", dataset_name=path, **fields), **size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_pixels": torch.zeros(4, 1, 8, 8)}, r"train\.pixels is torch\.float32"),
        ({"test_pixels": torch.zeros(4, 1, 9, 8, dtype=torch.uint8)}, "one shape"),
        ({"train_labels": torch.zeros(3, dtype=torch.int64)}, "4 images and 3 labels"),
        ({"test_labels": torch.tensor([0, 1, 2, 1])}, "labels from 0 to 2; allowed are 0 to 1"),
        ({"train_labels": torch.zeros(0, dtype=torch.int64)}, r"train\.labels has no row"),
    ],
)
def test_wrong_content(tmp_path, changes, message):
    pixels, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    right = {"train_pixels": pixels, "train_labels": labels, "test_pixels": pixels, "test_labels": labels}
    with pytest.raises(InputError, match=message):
        ImageFile(**{**right, **changes}, label_names=["no", "yes"]).write(tmp_path / "images.safetensors")


@pytest.mark.parametrize("content", [None, b"no tensors"])
def test_unreadable_file(tmp_path, content):
    path = tmp_path / "images.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a file of images"):
        load_images(TaskSpec(name="mine", dataset_name=str(path)))
