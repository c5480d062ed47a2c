"""Which weights a network in memory has, by the SHA-256 of the file that holds them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging

from ..models import SelfModelingPreTrainedModel
from ..weights import state_digest, weights_sha256
from .checkpoints import read_weights


def saved_sha256(model: SelfModelingPreTrainedModel) -> str | None:
    """Return the SHA-256 that the weights of a network have in a file.

    It is that of the folder the network was read from, if the weights are still the same. Else it is that of the file
    that `save_pretrained` writes.
    """
    source = Path(model.loaded_from["name"], model.loaded_from["subfolder"]) if model.loaded_from else None
    if source is not None and source.is_dir():
        try:
            same = state_digest(read_weights(source)) == state_digest(model.state_dict())
        except ValueError:  # the folder has no weights any more
            same = False
        if same:
            return weights_sha256(source)
    with tempfile.TemporaryDirectory() as folder:
        with _without_bars():
            model.save_pretrained(folder)
        return weights_sha256(folder)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Write files without transformers' progress bars."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
