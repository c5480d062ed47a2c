"""K copies of one module as one batched computation. Plain torch: any `nn.Module`, nothing of Hugging Face.

    stack = stack_modules([network_a, network_b])     # or stack_modules(network)
    losses_of = map_copies(stack.skeleton, cross_entropy, dims=ONE_BATCH)
    losses = losses_of(stack.parameters | stack.buffers, {}, x, y)  # (K, B)

* `stack.py` gathers the copies.
* `layout.py` lays their parameters out as one matrix (K, P).
* `masks.py` makes some numbers of a parameter a parameter of their own.
* `mapping.py` calls the module for all of them at once.
* `gradients.py` computes their losses and gradients.
* `chunks.py` computes how many copies fit into a budget.
* `replay.py` strips a repeated step of its Python overhead.
* `shorten.py` rewrites the recording of such a step.
"""

from .chunks import chunk_ranges, copies_that_fit, even_size, saved_bytes_per_copy
from .gradients import LossFunction, losses_and_gradients, repeated
from .layout import ParameterLayout
from .mapping import ONE_BATCH, OWN_BATCHES, Batch, Mapped, Values, map_copies, part_of
from .masks import CHOSEN_NUMBERS, mask_parameters, readable_names
from .replay import Replay
from .stack import ModuleStack, stack_in_place, stack_modules

__all__ = [
    "CHOSEN_NUMBERS",
    "ONE_BATCH",
    "OWN_BATCHES",
    "Batch",
    "LossFunction",
    "Mapped",
    "ModuleStack",
    "ParameterLayout",
    "Replay",
    "Values",
    "chunk_ranges",
    "copies_that_fit",
    "even_size",
    "losses_and_gradients",
    "map_copies",
    "mask_parameters",
    "part_of",
    "readable_names",
    "repeated",
    "saved_bytes_per_copy",
    "stack_in_place",
    "stack_modules",
]
