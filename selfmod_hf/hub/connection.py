"""Make the commands patient with a busy Hub, without waiting forever.

huggingface_hub itself tries again if a file is looked up (HEAD), if a download gets a 429 or breaks off, and if files
are uploaded. It does not try again for calls of the Hub's API, or if a download gets a 500. Either would end a command.
The client here adds this below all requests of huggingface_hub, datasets and transformers.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import huggingface_hub
from huggingface_hub.utils import httpx, parse_ratelimit_headers

WAITS = (1.0, 2.0, 4.0)  # seconds before the second, third and fourth attempt, if the Hub names none
LONGEST_WAIT = 300.0  # seconds that a Hub may ask for
TIMEOUT = httpx.Timeout(300.0, connect=20.0)  # of an answer: the Hub needs long for a commit of many files
REFUSED = (429, 503)  # nothing was done: any request may be sent again
FAILED = (500, 502, 504)  # something may have been done: only a request that changes nothing is sent again


def be_patient() -> None:
    """Give this process a patient client. Only commands call this, because a library leaves the choice to its users."""
    hooks = huggingface_hub.get_session().event_hooks  # huggingface_hub's own: offline mode, request ids
    huggingface_hub.set_client_factory(lambda: PatientClient(event_hooks=hooks, follow_redirects=True, timeout=TIMEOUT))


class BusyHubError(ValueError):
    """Reports a Hub with a longer wait than LONGEST_WAIT.

    It is no OSError, because callers take an OSError for an unreachable Hub.
    """


class PatientClient(httpx.Client):
    """Sends a request again if the Hub was busy, at most three times.

    Raises:
        BusyHubError: the Hub asks for a longer wait than LONGEST_WAIT.
    """

    def send(self, request: Any, **kwargs: Any) -> Any:
        waits: tuple[float, ...] = ()
        # huggingface_hub repeats HEAD and PUT itself
        if request.method in ("GET", "POST") and isinstance(request.stream, httpx.ByteStream):
            waits = WAITS
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
            _wait_of(response, 0.0)  # raises for a long wait, because huggingface_hub would wait however long it is
        return response


def _is_passing(method: str, status: int) -> bool:
    return status in REFUSED or (method == "GET" and status in FAILED)


def _wait_of(response: Any, default: float) -> float:
    """Return the seconds to wait: the Hub's own, else `default`."""
    asked = _asked_for(response)
    if asked is None:
        return default
    if asked > LONGEST_WAIT:
        response.close()
        when = f"asks to wait for {asked:.0f} seconds (HTTP status {response.status_code})"
        raise BusyHubError(f"{response.request.url.host}: the Hub is busy and {when}; try again after that")
    return asked


def _asked_for(response: Any) -> float | None:
    """Return the seconds in the header RateLimit (the real Hub's) or Retry-After (a number or a date), or None."""
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0 and response.status_code == 429:
        return limit.reset_in_seconds + 1.0  # it names full seconds
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
