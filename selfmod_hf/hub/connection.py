"""How the commands talk to the Hub: patient while it is busy, not for ever when it hangs.

huggingface_hub itself tries again where a file is looked up (HEAD), where a download is refused (429) or breaks off,
and where files go up. It does not where the Hub's API is asked, or where a download is answered by a 500: one of these
would end a command. This client, under all that huggingface_hub, datasets and transformers send, adds just that.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import huggingface_hub
from huggingface_hub.utils import httpx, parse_ratelimit_headers

WAITS = (1.0, 2.0, 4.0)  # seconds before the second, third and fourth attempt, where the Hub names none
LONGEST_WAIT = 300.0  # that a Hub may ask for
TIMEOUT = httpx.Timeout(300.0, connect=20.0)  # of an answer; a commit of many files takes the Hub a while
REFUSED = (429, 503)  # nothing was done: any request may be sent again
FAILED = (500, 502, 504)  # perhaps something was done: only what changes nothing is sent again


def be_patient() -> None:
    """Give this process such a client. For commands: a library leaves it to whoever uses it."""
    hooks = huggingface_hub.get_session().event_hooks  # huggingface_hub's own: offline mode, request ids
    huggingface_hub.set_client_factory(lambda: PatientClient(event_hooks=hooks, follow_redirects=True, timeout=TIMEOUT))


class BusyHubError(ValueError):
    """Raised if the Hub asks to wait for longer than a command waits.

    It is no OSError, because callers take an OSError for a Hub that cannot be reached.
    """


class PatientClient(httpx.Client):
    """A client that sends again what the Hub was too busy for, at most three times.

    Raises:
        BusyHubError: it asks to wait for longer than LONGEST_WAIT.
    """

    def send(self, request: Any, **kwargs: Any) -> Any:
        # HEAD and PUT: huggingface_hub's own attempts, not to be multiplied
        waits = WAITS if request.method in ("GET", "POST") and isinstance(request.stream, httpx.ByteStream) else ()
        for wait in waits:
            try:
                response = super().send(request, **kwargs)
            except (httpx.ReadError, httpx.RemoteProtocolError):  # the answer broke off
                if request.method != "GET":
                    raise
            else:
                if not _is_passing(request.method, response.status_code):
                    return response
                wait = _wait_of(response, wait)
                response.close()
            time.sleep(wait)
        response = super().send(request, **kwargs)
        if response.status_code in REFUSED:
            _wait_of(response, 0.0)  # huggingface_hub, which may try again, would wait for however long it takes
        return response


def _is_passing(method: str, status: int) -> bool:
    return status in REFUSED or (method == "GET" and status in FAILED)


def _wait_of(response: Any, default: float) -> float:
    """Seconds to wait: what the Hub asks for, else `default`."""
    asked = _asked_for(response)
    if asked is not None and asked > LONGEST_WAIT:
        response.close()
        when = f"asks to wait for {asked:.0f} seconds (HTTP status {response.status_code})"
        raise BusyHubError(f"{response.request.url.host}: the Hub is busy and {when}; try again after that")
    return default if asked is None else asked


def _asked_for(response: Any) -> float | None:
    """Seconds, by the header RateLimit (the real Hub's) or Retry-After (a number or a date); None: it has neither."""
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0 and response.status_code == 429:
        return limit.reset_in_seconds + 1.0  # it names whole seconds
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:  # the form "-0000" of UTC
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
