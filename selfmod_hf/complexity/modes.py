"""Set the modes of torch for an estimate, whatever the caller's modes are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Let a computation take gradients and keep its types, whatever mode it is called in.

    Threads know nothing of the caller's inference mode or autocast, so neither may decide the numbers.
    """
    kinds = {"cpu"}
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None:
        kinds.add(accelerator.type)
    with contextlib.ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        for kind in kinds:
            modes.enter_context(torch.autocast(kind, enabled=False))
        yield
