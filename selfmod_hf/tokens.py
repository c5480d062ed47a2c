"""Keeps tokens out of what is written down and printed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

HIDDEN = "<hidden>"
# as the Hub makes them: of users, of OAuth (dots and underscores within), of organizations
_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|hf_oauth_[\w.-]{16,}|api_org_[A-Za-z0-9]{16,})\b")
_FLAG = re.compile(r"(--[\w-]*token)(?:=(.*))?", re.DOTALL)  # --hub_token, --hub-token, of whatever form its value is


def without_tokens(arguments: Sequence[str]) -> list[str]:
    """A command line, its tokens hidden, as it may be kept or shown."""
    shown: list[str] = []
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        flag = _FLAG.fullmatch(argument)
        if flag is not None and flag.group(2) is not None:
            argument = f"{flag.group(1)}={HIDDEN}"
        elif (before := _FLAG.fullmatch(previous)) is not None and before.group(2) is None:
            argument = HIDDEN
        shown.append(_TOKEN.sub(HIDDEN, argument))
    return shown


def hide_tokens(text: str, arguments: Sequence[str] = ()) -> str:
    """A line for people, with no token that was typed, that lies in the environment, or that looks like one."""
    known = {os.environ.get(name, "") for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")}
    if "huggingface_hub" in sys.modules:
        known.add(sys.modules["huggingface_hub"].get_token() or "")  # of `hf auth login` too
    for argument, shown in zip(arguments, without_tokens(arguments), strict=True):
        if shown == HIDDEN:
            known.add(argument)
        elif shown != argument:
            known.add(argument.partition("=")[2])
    for token in sorted(known, key=len, reverse=True):
        if len(token) >= 4:
            text = text.replace(token, HIDDEN)
    return _TOKEN.sub(HIDDEN, text)
