"""How the commands talk to the Hub: patient while it is busy, not for ever when it hangs.

huggingface_hub itself tries again where a file is looked up (HEAD), where a download is refused (429) or breaks off,
and where files go up. It does not where the Hub's API is asked, or where a download is answered by a 500: one of these
would end a command. This client, under all that huggingface_hub, datasets and transformers send, adds just that.
"""

from __future__ import annotations

import time
from typing import Any

import huggingface_hub
from huggingface_hub.utils import httpx

WAITS = (1.0, 2.0, 4.0)  # seconds before the second, third and fourth attempt, where the Hub names none
LONGEST_WAIT = 300.0  # that a Hub may ask for
TIMEOUT = httpx.Timeout(300.0, connect=20.0)  # of an answer; a commit of many files takes the Hub a while
REFUSED = (429, 503)  # nothing was done: any request may be sent again
FAILED = (500, 502, 504)  # perhaps something was done: only what changes nothing is sent again


def be_patient() -> None:
    """Give this process such a client. For commands: a library leaves it to whoever uses it."""
    hooks = huggingface_hub.get_session().event_hooks  # huggingface_hub's own: offline mode, request ids
    huggingface_hub.set_client_factory(lambda: PatientClient(event_hooks=hooks, follow_redirects=True, timeout=TIMEOUT))


class PatientClient(httpx.Client):
    """A client that sends again what the Hub was too busy for, at most three times."""

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
                wait = _asked_for(response, wait)
                if wait > LONGEST_WAIT:
                    return response
                response.close()
            time.sleep(wait)
        return super().send(request, **kwargs)


def _is_passing(method: str, status: int) -> bool:
    return status in REFUSED or (method == "GET" and status in FAILED)


def _asked_for(response: Any, default: float) -> float:
    """Seconds, by the header Retry-After where it names them."""
    value = response.headers.get("Retry-After", "").strip()
    return float(value) if value.isascii() and value.isdigit() else default
