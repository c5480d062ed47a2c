"""The license in a card's metadata: the user's choice, else that of the pretrained backbone. None is invented."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FIELDS = ("license", "license_name", "license_link")  # the last two go with the license "other"
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")


def check_license(license: str | None) -> None:
    """Reject what cannot be an identifier of a license on the Hub.

    Raises:
        InputError: it has spaces or other signs.
    """
    if license is not None and not _IDENTIFIER.fullmatch(license):
        raise InputError("license", license, "allowed are the Hub's identifiers, such as mit, apache-2.0 or other")


def license_in(card: str) -> dict[str, Any]:
    """Return the fields of FIELDS in the metadata of a card. A card without metadata, or with broken ones, has none."""
    from huggingface_hub import RepoCard
    from yaml import YAMLError

    if not card.lstrip().startswith("---"):
        return {}
    try:
        data = RepoCard(card, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, TypeError, YAMLError):
        return {}
    return license_fields(data)


def base_license(name: str | None, api: HfApi | None = None) -> dict[str, Any]:
    """Return the license fields of a pretrained backbone's card. Empty: none can be read.

    Args:
        name: a folder, or the backbone's id on the Hub.
        api: where the Hub may be asked.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import httpx

    if name is None:
        return {}
    card = Path(name, "README.md")
    if card.is_file():
        return license_in(card.read_text(encoding="utf-8", errors="replace"))
    if api is None:
        return {}
    try:
        path = api.hf_hub_download(name, "README.md")
    except (HfHubHTTPError, HFValidationError, OSError, httpx.TransportError):
        return {}
    return license_in(Path(path).read_text(encoding="utf-8", errors="replace"))


def chosen_license(
    given: str | None, kept: Mapping[str, Any], base_model: str | None, api: HfApi | None = None
) -> dict[str, Any]:
    """Return the license fields of a network's card.

    Args:
        given: the user's choice, if any.
        kept: fields of the card that is on the Hub already. A person may have put them there.
        base_model: the pretrained backbone, if any: its id on the Hub, or a folder.
        api: where the Hub may be asked for the backbone's card.
    """
    if given is not None:
        check_license(given)
        same = {name: kept[name] for name in FIELDS[1:] if name in kept and given == kept.get("license")}
        return {"license": given, **same}
    return dict(kept) or base_license(base_model, api)


def license_fields(data: Any) -> dict[str, Any]:
    """Return the entries of FIELDS in a mapping of a file, those that are texts."""
    if not isinstance(data, Mapping):
        return {}
    return {name: data[name] for name in FIELDS if _is_text(data.get(name))}


def _is_text(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) and text for text in texts)
