"""Data sets read by the real `datasets` client, from folders in Hub layout."""

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from selfmod_hf.data import ImageTensors, TaskSpec, get_task, load_images
from selfmod_hf.errors import InputError


def write_dataset(folder, *, label_feature=None, labels=None, sizes=None, mode="L", splits=("train", "test")):
    """A local data set of 8 images of 6x5 a split, in Hub layout; returns the pixels of each split."""
    from datasets import ClassLabel, Dataset, Features, Image

    pixels = {}
    for offset, split in enumerate(splits):
        generator = np.random.default_rng(offset)
        values = labels if labels is not None else [0, 1, 2, 0, 1, 2, 0, 1]
        shapes = sizes or [(6, 5)] * len(values)
        depth = () if mode == "L" else (3,)
        arrays = [generator.integers(0, 256, (*shape, *depth), dtype=np.uint8) for shape in shapes]
        features = Features({"picture": Image(), "kind": label_feature or ClassLabel(names=["a", "b", "c"])})
        columns = {"picture": [PILImage.fromarray(array, mode) for array in arrays], "kind": values}
        (folder / "data").mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
        pixels[split] = arrays
    return pixels


def spec(folder, **fields) -> TaskSpec:
    return TaskSpec(name="own", dataset_name=str(folder), image_column="picture", label_column="kind", **fields)


def test_digits_are_the_images_of_scikit_learn():
    from sklearn.datasets import load_digits

    data = load_images(get_task("digits"))
    assert (len(data.train), len(data.test)) == (1437, 360)
    known = {image.tobytes() for image in (load_digits().images * (255 / 16)).round().astype(np.uint8)}
    for split in (data.train, data.test):
        assert {image.numpy().tobytes() for image in split.pixels} <= known
    counts = torch.bincount(data.test.labels)
    assert counts.min() >= 34  # stratified: 35 or 36 of each class
    assert counts.max() <= 38


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pixels_and_labels_arrive_unchanged(tmp_path, mode):
    pixels = write_dataset(tmp_path, mode=mode)
    data = load_images(spec(tmp_path))
    for split, tensors in (("train", data.train), ("test", data.test)):
        expected = np.stack(pixels[split]).reshape(8, 6, 5, -1).transpose(0, 3, 1, 2)
        assert tensors.pixels.dtype == torch.uint8
        assert np.array_equal(tensors.pixels.numpy(), expected)
        assert tensors.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert data.label_names == ["a", "b", "c"]


def test_images_are_decoded_once(tmp_path, monkeypatch):
    write_dataset(tmp_path)
    first = load_images(spec(tmp_path))
    monkeypatch.setattr(PILImage.Image, "convert", None)  # decoding again would fail
    assert torch.equal(load_images(spec(tmp_path)).train.pixels, first.train.pixels)


def test_a_batch_is_normalized_as_the_image_processor_does(tmp_path):
    pixels = write_dataset(tmp_path, mode="RGB")
    train = load_images(spec(tmp_path, image_mean=0.4, image_std=0.3)).train
    batch = train.batch([3, 1])
    pictures = [PILImage.fromarray(pixels["train"][row]) for row in (3, 1)]
    expected = train.processor()(pictures, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], expected)
    torch.testing.assert_close(train[3]["pixel_values"], expected[0])
    everything, labels = train.all()
    torch.testing.assert_close(everything[[3, 1]], batch["pixel_values"])
    assert torch.equal(labels, train.labels)


def test_samples_are_counted_from_either_end():
    data = ImageTensors(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4))
    assert [int(sample["labels"]) for sample in data] == [0, 1, 2, 3]
    assert int(data[-1]["labels"]) == 3
    with pytest.raises(IndexError, match="index=4: allowed are -4 to 3"):
        data[4]


def test_index_minus_one_is_no_sample():
    data = ImageTensors(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4))
    assert data.batch(torch.tensor([-1]))["labels"].tolist() == [-100]


def test_labels_as_strings_and_integers(tmp_path):
    from datasets import Value

    words = ["dog", "cat", "dog", "cat", "cow", "cow", "dog", "cat"]
    write_dataset(tmp_path / "words", label_feature=Value("string"), labels=words)
    data = load_images(spec(tmp_path / "words"))
    assert [data.label_names[label] for label in data.train.labels] == words
    write_dataset(tmp_path / "numbers", label_feature=Value("int32"), labels=[0, 3, 3, 0, 1, 1, 0, 3])
    assert load_images(spec(tmp_path / "numbers")).label_names == ["0", "1", "2", "3"]


def test_image_size_resizes(tmp_path):
    write_dataset(tmp_path, sizes=[(6, 5), (7, 9)] * 4)
    assert load_images(spec(tmp_path), image_size=(4, 3)).train.pixels.shape == (8, 1, 4, 3)


def test_max_samples_are_spread_evenly(tmp_path):
    pixels = write_dataset(tmp_path)
    data = load_images(spec(tmp_path), max_train_samples=4, max_test_samples=3)
    assert (len(data.train), len(data.test)) == (4, 3)
    for row, image in zip((0, 2, 4, 6), data.train.pixels, strict=True):
        assert np.array_equal(image[0].numpy(), pixels["train"][row])


def int64():
    from datasets import Value

    return Value("int64")


@pytest.mark.parametrize(
    ("written", "asked", "message"),
    [
        ({}, {"image_column": "img"}, "image_column='img': no such column; the data set has picture, kind"),
        ({}, {"label_column": "y"}, "label_column='y': no such column"),
        ({}, {"label_column": "picture"}, "label_column='picture': has type"),
        ({}, {"image_column": "kind"}, "image_column='kind': has type ClassLabel; allowed is Image"),
        ({}, {"train_split": "validation"}, "train_split='validation'"),
        ({"labels": [1] * 8}, {}, "all training labels are the same class"),
        ({"label_feature": int64, "labels": [0, 1, -1, 0, 1, 0, 1, 0]}, {}, "row 2 of split 'train' has label -1"),
        ({"sizes": [(6, 5)] * 7 + [(6, 6)]}, {}, "row 7 is 6x6, expected 6x5"),
        ({"labels": [], "sizes": []}, {}, "the split is empty"),
    ],
)
def test_unusable_data_is_refused_in_one_line(tmp_path, written, asked, message):
    written = {name: value() if callable(value) else value for name, value in written.items()}
    write_dataset(tmp_path, **written)
    fields = {"image_column": "picture", "label_column": "kind", **asked}
    with pytest.raises(InputError) as error:
        load_images(TaskSpec(name="own", dataset_name=str(tmp_path), **fields))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_corrupt_image_is_refused(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    (tmp_path / "data").mkdir()
    features = Features(
        {"picture": {"bytes": Value("binary"), "path": Value("string")}, "kind": ClassLabel(names=["a", "b"])}
    )
    for split in ("train", "test"):
        columns = {"picture": [{"bytes": b"no image", "path": None}] * 2, "kind": [0, 1]}
        data = Dataset.from_dict(columns, features=features)
        from datasets import Image

        data.cast_column("picture", Image(decode=False)).to_parquet(tmp_path / "data" / f"{split}-0.parquet")
    with pytest.raises(InputError, match="image_column='picture': row 0 cannot be decoded"):
        load_images(spec(tmp_path))


def test_unknown_tasks_list_those_there_are():
    with pytest.raises(InputError, match="allowed are digits, mnist, cifar10"):
        get_task("minst")
