"""What is kept between two runs: never that of other settings, other code or a damaged file, and always the rest."""

import importlib.util
import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import PIL
import PIL.features
import pytest
import torch
from PIL import Image as PILImage
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizer
from transformers.tokenization_utils_tokenizers import TokenizersBackend

import selfmod_hf
from selfmod_hf.data import TaskSpec, basic_english_tokenizer, cache, load_images, load_texts, tokenizing
from tests import warm

TEXTS = ["One two three four five six", "seven eight nine ten", "one seven", "two"] * 3
LABELS = [0, 1] * 6


class Letters(PreTrainedTokenizer):
    """A tokenizer in Python: one token a letter, lower case if asked for."""

    vocab_files_names: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, lower: bool = True, shift: int = 0, **kwargs):
        self.lower, self.shift = lower, shift
        super().__init__(unk_token="?", pad_token="?", **kwargs)

    vocab_size = 128

    def get_vocab(self):
        return {chr(number): number for number in range(128)} | self.added_tokens_encoder

    def _tokenize(self, text, **kwargs):
        return list(text.lower() if self.lower else text)

    def _convert_token_to_id(self, token):
        return (ord(token) + self.shift) % 128

    def _convert_id_to_token(self, index):
        return chr(index)


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """A folder with a fast tokenizer."""
    folder = tmp_path_factory.mktemp("words")
    basic_english_tokenizer(TEXTS).save_pretrained(folder)
    return folder


@pytest.fixture
def of_texts(tmp_path) -> TaskSpec:
    folder = tmp_path / "texts"
    folder.mkdir()
    for split in ("train", "test"):
        rows = {"text": [f"{text} {split}" for text in TEXTS], "label": LABELS}
        datasets.Dataset.from_dict(rows).to_parquet(folder / f"{split}.parquet")
    return TaskSpec(name="x", dataset_name=str(folder))


@pytest.fixture
def of_images(tmp_path) -> TaskSpec:
    folder, numbers = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for split in ("train", "test"):
        images = [PILImage.fromarray(numbers.integers(0, 256, (6, 5), dtype=np.uint8)) for _ in LABELS]
        rows = datasets.Dataset.from_dict({"image": images, "label": LABELS}, features=features)
        rows.to_parquet(folder / f"{split}.parquet")
    return TaskSpec(name="x", dataset_name=str(folder))


def fast(words: Path, **settings) -> TokenizersBackend:
    return AutoTokenizer.from_pretrained(words, **settings)


def with_token(tokenizer, token: str, special: bool):
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=special)], special_tokens=special)
    return tokenizer


# two tokenizers that give other tokens, though their vocabularies are alike
OTHER = {
    "truncation side": lambda words: (fast(words), fast(words, truncation_side="left")),
    "truncation side, set later": lambda words: (fast(words), _left(fast(words))),
    "an added token": lambda words: (fast(words), with_token(fast(words), "seven eight", special=False)),
    "a special token": lambda words: (fast(words), with_token(fast(words), "seven eight", special=True)),
    "an argument in Python": lambda words: (Letters(), Letters(lower=False)),
    "another argument in Python": lambda words: (Letters(), Letters(shift=1)),
    "truncation side in Python": lambda words: (Letters(), Letters(truncation_side="left")),
    "an added token in Python": lambda words: (Letters(), with_token(Letters(), "seven eight", special=False)),
    "a special token in Python": lambda words: (Letters(), with_token(Letters(), "seven eight", special=True)),
}


def _left(tokenizer):
    tokenizer.truncation_side = "left"
    return tokenizer


@pytest.mark.parametrize("case", OTHER)
def test_tokens_are_those_of_the_tokenizer(case, words, of_texts):
    first, second = OTHER[case](words)
    found = []
    for tokenizer in (first, second, first):
        data = load_texts(of_texts, tokenizer=tokenizer, max_length=3).train
        found.append([data[row]["input_ids"].tolist() for row in range(4)])
        sentences = [f"{text} train" for text in TEXTS[:4]]
        assert found[-1] == tokenizer(sentences, truncation=True, max_length=3)["input_ids"]
    assert found[0] != found[1]
    assert found[0] == found[2]


def test_a_truncation_side_that_is_set_later_is_saved(words, of_texts, tmp_path):
    data = load_texts(of_texts, tokenizer=_left(fast(words)), max_length=3).train
    data.processor().save_pretrained(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    again = load_texts(of_texts, tokenizer=saved).train
    assert torch.equal(again.tokens, data.tokens)


@pytest.mark.parametrize("kind", ["fast", "Python"])
def test_texts_that_are_cut_are_tokenized_once(kind, words, of_texts, monkeypatch):
    make = {"fast": lambda: fast(words), "Python": Letters}[kind]
    first = load_texts(of_texts, tokenizer=make(), padded=True, max_length=3)
    calls = []
    monkeypatch.setattr(type(make()), "__call__", lambda *args, **kwargs: calls.append(args))
    again = load_texts(of_texts, tokenizer=make(), padded=True, max_length=3)
    assert not calls
    assert torch.equal(again.train.tokens, first.train.tokens)
    assert torch.equal(again.test.tokens, first.test.tokens)


def test_a_tokenizer_is_the_same_wherever_it_was_loaded_from(words, of_texts, tmp_path):
    """So that `selfmod rlct` finds the tokens of the training run."""
    moved = shutil.copytree(words, tmp_path / "moved")
    assert cache.tokenizer_key(fast(words)) == cache.tokenizer_key(fast(moved))
    trained = load_texts(of_texts, tokenizer=fast(words), max_length=5).train.processor()
    counted = load_texts(of_texts).train.processor()
    for tokenizer in (trained, counted, basic_english_tokenizer(TEXTS)):
        tokenizer.save_pretrained(tmp_path / "model")
        assert cache.tokenizer_key(tokenizer) == cache.tokenizer_key(fast(tmp_path / "model"))


OUTSIDE = {"a": 97}


class Outside(Letters):
    """A tokenizer that keeps a part of its vocabulary elsewhere."""

    def get_vocab(self):
        return super().get_vocab() | OUTSIDE


def test_a_vocabulary_that_is_kept_elsewhere_is_in_the_key(monkeypatch):
    before = cache.tokenizer_key(Outside())
    assert cache.tokenizer_key(Outside()) == before
    monkeypatch.setitem(OUTSIDE, "a", 5)
    assert cache.tokenizer_key(Outside()) != before


CODE = """
from tests.data.test_cache import Letters

class Own(Letters):
    def _tokenize(self, text, **kwargs):
        return list({text})
"""


def test_the_code_of_a_tokenizer_is_in_its_key(tmp_path, monkeypatch):
    keys = []
    for version, text in enumerate(("text", "text", "text[::-1]")):
        file = tmp_path / f"version{version}" / "own_letters.py"
        file.parent.mkdir()
        file.write_text(CODE.replace("{text}", text))
        spec = importlib.util.spec_from_file_location("own_letters", file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "own_letters", module)
        spec.loader.exec_module(module)
        keys.append(cache.tokenizer_key(module.Own()))
    assert keys[0] == keys[1] != keys[2]


def test_a_vocabulary_is_counted_once(of_texts, tmp_path, monkeypatch):
    first = load_texts(of_texts)
    first.train.processor().save_pretrained(tmp_path / "first")
    monkeypatch.setattr(tokenizing, "basic_english_tokenizer", None)  # counting again would fail
    monkeypatch.setattr(TokenizersBackend, "__call__", None)  # so would tokenizing
    again = load_texts(of_texts)
    again.train.processor().save_pretrained(tmp_path / "again")
    assert torch.equal(again.train.tokens, first.train.tokens)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


# ------------------------------------------------------------------------------------- code and libraries

SUM = """
import sys
from selfmod_hf import TaskSpec, load_images
print(int(load_images(TaskSpec(name="x", dataset_name=sys.argv[1])).train.pixels.long().sum()))
"""


def test_images_that_another_version_decoded_are_decoded_again(of_images, tmp_path_factory):
    pixels = load_images(of_images).train.pixels.long()
    other = tmp_path_factory.mktemp("other")
    package = shutil.copytree(Path(selfmod_hf.__file__).parent, other / "selfmod_hf")
    source = package / "data" / "images.py"
    before = source.read_text()
    source.write_text(before.replace("flat = np.ascontiguousarray(", "flat = 255 - np.ascontiguousarray("))
    assert source.read_text() != before
    done = warm.run(["-c", SUM, of_images.dataset_name], cwd=other, check=True)
    assert int(done.stdout) == int((255 - pixels).sum())


def test_another_pillow_decodes_again(of_images, monkeypatch):
    load_images(of_images)
    monkeypatch.setattr(PIL, "__version__", "0.0")
    cache.code_version.cache_clear()
    try:
        monkeypatch.setattr(PILImage, "open", None)  # decoding fails
        with pytest.raises(ValueError, match="cannot be"):
            load_images(of_images)
    finally:
        cache.code_version.cache_clear()


@pytest.mark.parametrize("name", ["data/labels.py", "models/image_processing_self_modeling.py"])
def test_each_source_that_reads_data_is_in_the_keys(tmp_path, name):
    package = shutil.copytree(Path(selfmod_hf.__file__).parent, tmp_path / "selfmod_hf")

    def digest() -> str:
        """That of the copy, read as it is now."""
        spec = importlib.util.spec_from_file_location("selfmod_hf.data.copied_cache", package / "data" / "cache.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.code_version()

    before = digest()
    assert digest() == before
    with (package / name).open("a") as file:
        file.write("# another version\n")
    assert digest() != before


def test_another_codec_is_in_the_keys(monkeypatch):
    """Pillow decodes JPEG by a library of its own version."""
    before = cache.code_version()
    monkeypatch.setattr(PIL.features, "version", lambda name: "0.0" if name == "jpg" else None)
    cache.code_version.cache_clear()
    try:
        assert cache.code_version() != before
    finally:
        cache.code_version.cache_clear()


# ------------------------------------------------------------------------------------- damaged files


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "half": _half,
    "empty": lambda path: path.write_bytes(b""),
    "one byte": _one_byte,
    "no seal": lambda path: path.with_name(f"{path.name}.seal").unlink(),
    "half a seal": lambda path: _half(path.with_name(f"{path.name}.seal")),
    "no entry": Path.unlink,
}


def entries(spec: TaskSpec, pattern: str) -> list[Path]:
    data = datasets.load_dataset(spec.dataset_name, split="train")
    return sorted(Path(data.cache_files[0]["filename"]).parent.glob(pattern))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_made_again(damage, of_texts, of_images):
    """Tokens, vocabulary and images. What is made again is kept again."""
    for load, spec, names in ((load_texts, of_texts, "tokens labels"), (load_images, of_images, "pixels labels")):
        first = load(spec)
        kept = {path: path.read_bytes() for path in entries(spec, "selfmod-*") if path.suffix != ".seal"}
        assert len(kept) == (3 if load is load_texts else 2)
        for path in kept:
            DAMAGE[damage](path)
        again = load(spec)
        for name in names.split():
            assert torch.equal(getattr(again.train, name), getattr(first.train, name))
            assert torch.equal(getattr(again.test, name), getattr(first.test, name))
        assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.parametrize("damage", ["half", "empty", "no entry"])
@pytest.mark.parametrize("name", ["train.arrow", "dataset_info.json"])
def test_damaged_rows_are_prepared_again(name, damage, of_texts):
    first = load_texts(of_texts)
    (path,) = [path for path in entries(of_texts, f"*{name}") if not path.name.startswith("selfmod-")]
    DAMAGE[damage](path)
    again = load_texts(of_texts)
    assert torch.equal(again.train.tokens, first.train.tokens)
