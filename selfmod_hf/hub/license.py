"""Choose the license in a card's metadata: the user's, else that of the pretrained backbone, else none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import RepoCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import httpx
from yaml import YAMLError

from ..errors import InputError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FIELDS = ("license", "license_name", "license_link")  # the last two go with the license "other"
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")


def check_license(license: str | None) -> None:
    """Reject an impossible identifier of a license on the Hub.

    Raises:
        InputError: it has spaces or other signs.
    """
    if license is not None and not _IDENTIFIER.fullmatch(license):
        raise InputError("license", license, "allowed are the Hub's identifiers, such as mit, apache-2.0 or other")


def license_in(card: str) -> dict[str, Any]:
    """Return the fields of FIELDS in the metadata of a card. A card without usable metadata has none."""
    if not card.lstrip().startswith("---"):
        return {}
    try:
        data = RepoCard(card, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, TypeError, YAMLError):
        return {}
    return license_fields(data)


def base_license(name: str | None, api: HfApi | None = None) -> dict[str, Any]:
    """Return the license fields of a pretrained backbone's card. Empty: the card cannot be read.

    Args:
        name: a folder, or the backbone's id on the Hub.
        api: for asking the Hub. None: only a folder is read.
    """
    if name is None:
        return {}
    card = Path(name, "README.md")
    if not card.is_file():
        if api is None:
            return {}
        try:
            card = Path(api.hf_hub_download(name, "README.md"))
        except (HfHubHTTPError, HFValidationError, OSError, httpx.TransportError):
            return {}
    return license_in(card.read_text(encoding="utf-8", errors="replace"))


def chosen_license(
    given: str | None, kept: Mapping[str, Any], base_model: str | None, api: HfApi | None = None
) -> dict[str, Any]:
    """Return the license fields of a network's card.

    Args:
        given: the user's choice, if any.
        kept: fields of the present card on the Hub. A person may have written them.
        base_model: the pretrained backbone, if any: its id on the Hub, or a folder.
        api: for asking the Hub for the backbone's card.
    """
    if given is None:
        return dict(kept) or base_license(base_model, api)
    check_license(given)
    chosen = {"license": given}
    if kept.get("license") == given:
        chosen = dict(kept) | chosen
    return chosen


def license_fields(data: Any) -> dict[str, Any]:
    """Return the entries of FIELDS in a mapping, if they are texts."""
    if not isinstance(data, Mapping):
        return {}
    return {name: data[name] for name in FIELDS if _is_text(data.get(name))}


def _is_text(value: Any) -> bool:
    """Return whether this is a text, or a list of texts, and not empty."""
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) and text for text in texts)
