"""Add a metric to the metadata of a card, and leave every other character of the card as it is.

A card of other people has comments, keys of their own, and entries that huggingface_hub does not read. So only the text
of `model-index` is written anew, from its values as they are.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from ..errors import InputError

INDEX = "model-index"
_SAME_DATA = ("type", "split", "config")  # fields of an entry's data set
# the metadata between two lines of dashes, as the Hub finds them
_METADATA = re.compile(r"\A(\ufeff?\s*---\r?\n)((?:.*?\n)?)(---[ \t]*(?:\r?\n|\Z))", re.DOTALL)


def with_metric(card: str, name: str, metric: EvalResult) -> str:
    r"""Return a card with a metric in its metadata. It replaces one of the same type, name and data.

    Args:
        card: the present one, or an empty text.
        name: of the network.
        metric: with the data.

    Raises:
        InputError: metadata that cannot be read, or that cannot be kept.

    Example:
        >>> metric = EvalResult("image-classification", "me/data", "data", "rlct", 7.5, metric_name="RLCT")
        >>> with_metric("---\nlicense: mit  # ours\n---\n# My network\n", "net", metric).splitlines()[1:3]
        ['license: mit  # ours', 'model-index:']
    """
    (index,) = eval_results_to_model_index(name, [metric])
    (entry,) = index["results"]
    newline = "\r\n" if "\r\n" in card else "\n"
    found = _METADATA.match(card)
    if found is None:
        text = _dumped([index], newline)
        title = f"{newline}# {name}{newline}" if not card.strip() else card
        return f"---{newline}{text}---{newline}{title}"
    before = found[2]
    values = _values(before)
    after = copy.deepcopy(values)
    after[INDEX] = _with_entry(values.get(INDEX), name, entry)
    start, end = _place(before)
    text = f"{before[:start]}{_dumped(after[INDEX], newline)}{before[end:]}"
    if not _is(text, after):
        raise _problem("its metadata have a form in which another entry would change")
    return f"{card[: found.start(2)]}{text}{card[found.end(2) :]}"


def _problem(text: str) -> InputError:
    return InputError("README.md", INDEX, text)


def _values(metadata: str) -> dict[str, Any]:
    """Return the values of metadata."""
    try:
        values = yaml.safe_load(metadata)
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise _problem(f"its metadata are no YAML ({line[:200]})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise _problem("its metadata are no mapping")
    return values


def _is(metadata: str, values: dict[str, Any]) -> bool:
    """Return whether these are the values of metadata."""
    try:
        return _values(metadata) == values
    except InputError:
        return False


def _dumped(index: Any, newline: str) -> str:
    text = yaml.safe_dump({INDEX: index}, sort_keys=False, allow_unicode=True, line_break=newline)
    return str(text)


def _place(metadata: str) -> tuple[int, int]:
    """Return where the text of `model-index` begins and ends. At the end of the metadata if it is missing."""
    root = yaml.compose(metadata, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    for key, value in pairs:
        if key.value != INDEX:
            continue
        start, end = key.start_mark.index, value.end_mark.index
        lines = metadata[start:end].splitlines(keepends=True)
        while lines[-1].lstrip().startswith("#") or not lines[-1].strip():  # they belong to what follows
            end -= len(lines.pop())
        rest = re.match(r"[^\n]*\n?", metadata[end:])
        if rest is not None and not lines[-1].endswith("\n"):
            end += rest.end()
        return start, end
    return len(metadata), len(metadata)


def _with_entry(index: Any, name: str, entry: dict[str, Any]) -> list[Any]:
    """Return the value of `model-index` with an entry among the results of a network.

    Args:
        index: the present value. It is not changed.
        name: of the network. Without one of this name, the first one is taken.
        entry: of the results, with one metric.
    """
    if not index:
        return [{"name": name, "results": [entry]}]
    index = copy.deepcopy(index)
    _check_dicts("`model-index`", index)
    named = [one for one in index if one.get("name") == name]
    own = (named or index)[0]
    results = own.get("results") or []
    _check_dicts("`results`", results)
    kept = []
    for result in results:
        _remove_same(result, entry)
        if result.get("metrics") != []:
            kept.append(result)
    own["results"] = [*kept, entry]
    return list(index)


def _check_dicts(what: str, values: Any) -> None:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise _problem(f"its {what} is no list of mappings")


def _remove_same(result: dict[str, Any], entry: dict[str, Any]) -> None:
    """Remove the metric of an entry from a result, if that is of the same data."""
    data, metrics = result.get("dataset"), result.get("metrics")
    if not isinstance(data, dict) or not isinstance(metrics, list):
        return
    if any(data.get(field) != entry["dataset"].get(field) for field in _SAME_DATA):
        return
    (own,) = entry["metrics"]
    others = []
    for metric in metrics:
        if not isinstance(metric, dict) or (metric.get("type"), metric.get("name")) != (own["type"], own["name"]):
            others.append(metric)
    result["metrics"] = others
