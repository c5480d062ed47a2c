"""The processes that `tests/warm.py` starts are as fresh as those of a new interpreter."""

from tests import warm


def test_a_process_does_not_search_what_a_test_has_added_to_the_path(tmp_path, monkeypatch):
    """As transformers adds its folder of remote code: a process with another cache would find that one first."""
    monkeypatch.syspath_prepend(tmp_path)
    done = warm.run(["-c", "import sys; print(sys.path)"], check=True)
    assert str(tmp_path) not in done.stdout
