"""The client that is patient while a Hub is busy: what it sends again, and what it does not."""

import pytest

from tests import warm
from tests.loopback_hub import Trouble

CREATE = """
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from selfmod_hf.hub.connection import be_patient
be_patient()
try:
    HfApi().create_branch("me/net", branch="second")
except HfHubHTTPError as error:
    print(error.response.status_code)
"""


@pytest.mark.parametrize(("kind", "sent"), [("failing", 1), ("overloaded", 2)])
def test_what_may_have_been_done_is_not_sent_again(loopback_hub, kind, sent):
    """After a 500 a POST may have had its effect. After a 503 it had none."""
    loopback_hub.api().create_repo("me/net")
    loopback_hub.faults = Trouble(kind, only="/branch/")
    done = warm.run(["-c", CREATE], loopback_hub.env(), check=True)
    posts = [status for method, path, status in loopback_hub.requests if method == "POST" and "/branch/" in path]
    assert len(posts) == sent
    assert done.stdout.split() == (["500"] if kind == "failing" else [])
