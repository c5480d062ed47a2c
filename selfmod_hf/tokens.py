"""Removal of tokens from all written or printed text."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

HIDDEN = "<hidden>"
# as the Hub makes them: for users, for OAuth (with dots and underscores), for organizations
_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|hf_oauth_[\w.-]{16,}|api_org_[A-Za-z0-9]{16,})\b")
# in the URL of a database. A port is no password.
_PASSWORD = re.compile(r"(\b[a-z][\w+.-]*://[^\s:/@]*:)(?!\d+/)\S*(?=@)", re.IGNORECASE)
_PASSWORD_OPTION = re.compile(r"([?&]\w*password=)[^&\s]*", re.IGNORECASE)
_FLAG = re.compile(r"(--[\w-]*token)(?:=(.*))?", re.DOTALL)  # --hub_token, --hub-token, with any value


def without_tokens(arguments: Sequence[str]) -> list[str]:
    """Return a command line with its tokens hidden.

    Example:
        >>> without_tokens(["push", "--hub_token", "secret", "--repo_id=me/model"])
        ['push', '--hub_token', '<hidden>', '--repo_id=me/model']
    """
    shown: list[str] = []
    value_is_next = False  # the previous argument is a flag without its value
    for argument in arguments:
        hidden = HIDDEN if value_is_next else argument
        value_is_next = False
        flag = _FLAG.fullmatch(argument)
        if flag is not None:
            name, value = flag.groups()
            value_is_next = value is None
            if value is not None:
                hidden = f"{name}={HIDDEN}"
        shown.append(without_secrets(hidden))
    return shown


def hide_tokens(text: str, arguments: Sequence[str] = ()) -> str:
    """Return a text without tokens: those in the arguments or the environment, and everything of a token's form.

    Args:
        text: the text.
        arguments: the command line.
    """
    known = set()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        known.add(os.environ.get(name, ""))
    if "huggingface_hub" in sys.modules:
        logged_in = sys.modules["huggingface_hub"].get_token()  # also of `hf auth login`
        known.add(logged_in or "")
    for argument, shown in zip(arguments, without_tokens(arguments), strict=True):
        if shown == HIDDEN:
            known.add(argument)
        elif shown != argument:
            _, _, value = argument.partition("=")
            known.add(value)
    for token in sorted(known, key=len, reverse=True):
        if len(token) >= 4:
            text = text.replace(token, HIDDEN)
    return without_secrets(text)


def without_secrets(text: str) -> str:
    """Return a text without tokens and passwords of URLs."""
    text = _TOKEN.sub(HIDDEN, text)
    for pattern in (_PASSWORD, _PASSWORD_OPTION):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text
