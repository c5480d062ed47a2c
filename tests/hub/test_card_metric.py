"""A metric in the metadata of other people's cards: all else stays as it is."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import EvalResult

from selfmod_hf.errors import InputError
from selfmod_hf.hub.card_metric import with_metric

WITHOUT_DATA = """\
---
license: mit  # ours
model-index:
- name: net
  results:
  - task: {type: text-classification}
    metrics:
    - {type: accuracy, value: 0.9}

# a comment of the owner
tags: [a, b]
---
# Net
"""
TWO_MODELS = """\
---
model-index:
- name: first
  results:
  - dataset: {name: d, type: d, revision: abc}
    metrics:
    - {type: accuracy, value: 0.9, verified: true, extra: 3}
    source: {name: PWC, url: https://x.y}
- name: second
  results:
  - dataset: {name: d, type: d}
    metrics:
    - {type: rlct, value: 0.1, name: RLCT}
language: en
---
"""
NO_INDEX = "---\nlanguage: en\n---\n# Net\n\nWords.\n"


def metric(value: float = 7.5, name: str = "RLCT", data: str = "me/data") -> EvalResult:
    return EvalResult("text-generation", data, "data", "rlct", value, metric_name=name, dataset_split="train")


def values_of(card: str) -> dict:
    return yaml.safe_load(card.lstrip("\ufeff").split("---")[1])


@pytest.mark.parametrize("card", [WITHOUT_DATA, TWO_MODELS, NO_INDEX, f"\ufeff{NO_INDEX}"])
def test_every_other_entry_stays(card):
    found = with_metric(card, "net", metric())
    before, after = values_of(card), values_of(found)
    index = after.pop("model-index")
    old = before.pop("model-index", [{"name": "net", "results": []}])
    added = index[0]["results"].pop()
    assert (index, after) == (old, before)
    assert added["metrics"] == [{"type": "rlct", "value": 7.5, "name": "RLCT"}]
    lines = card.splitlines(keepends=True)
    if card is WITHOUT_DATA:
        assert found.startswith("".join(lines[:2]))
        assert found.endswith("".join(lines[8:]))
    if card is NO_INDEX:
        assert found.startswith("---\nlanguage: en\nmodel-index:\n")
        assert found.endswith("---\n# Net\n\nWords.\n")


def test_a_metric_replaces_one_of_the_same_name_and_data_alone():
    card = with_metric(NO_INDEX, "net", metric())
    for other in (metric(8.0), metric(1.0, name="another"), metric(2.0, data="you/data")):
        card = with_metric(card, "net", other)
    ((index,)) = values_of(card)["model-index"]
    assert [result["metrics"][0]["value"] for result in index["results"]] == [8.0, 1.0, 2.0]


def test_ends_of_lines_and_cards_without_metadata():
    card = with_metric(NO_INDEX.replace("\n", "\r\n"), "net", metric())
    assert card.count("\n") == card.count("\r\n")
    assert with_metric(card.replace("\r\n", "\n"), "net", metric()) == card.replace("\r\n", "\n")
    assert with_metric("# Net\n", "net", metric()).endswith("---\n# Net\n")
    assert with_metric("---\n---\n# Net\n", "net", metric()).endswith("---\n# Net\n")
    assert with_metric("", "net", metric()).endswith("---\n\n# net\n")


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ("license: [mit", "its metadata are no YAML"),
        ("- mit", "its metadata are no mapping"),
        ("model-index: 3", "its `model-index` is no list of mappings"),
        ("model-index: [{results: 3}]", "its `results` is no list of mappings"),
        ("{license: mit}", "a form in which another entry would change"),
        ("model-index: &a [{name: net}]\nother: *a", "a form in which another entry would change"),
    ],
)
def test_metadata_that_cannot_be_kept_are_named(metadata, problem):
    with pytest.raises(InputError, match=problem):
        with_metric(f"---\n{metadata}\n---\n# Net\n", "net", metric())
