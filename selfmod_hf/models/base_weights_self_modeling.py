"""The weights below an adapter: a checksum finds out whether a loaded base is the one that the adapter was trained on.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor

from .adapters_self_modeling import peft
from .task_models_self_modeling import is_quantized, plain_task_model

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of a number
# parts of the names of weights that peft adds, besides those of the adapter itself
_OF_PEFT = (".modules_to_save.", ".original_module.", ".token_adapter.")


def checksum_of_base(task_model: Any) -> str | None:
    """Return the types of a base's weights and a checksum of their bits, such as ``float32:5f2c...``.

    The adapter's own weights, and parts of the base that are trained and saved with it, do not enter. Bits are added
    up tensor by tensor, so the checksum is the same on every device, and costs one reading of the weights.

    Args:
        task_model: peft's wrapper.

    Returns:
        None if the weights in memory need not be those of the files: quantized ones, those of a first step of the
        adapter's initialization (PiSSA, for example), and weights on the device "meta".
    """
    plain = plain_task_model(task_model)
    (settings,) = task_model.peft_config.values()
    initialized = getattr(settings, "init_lora_weights", True)
    if is_quantized(plain) or initialized not in (True, False, "gaussian"):
        return None
    of_adapter = (f".{task_model.base_model.prefix}", *_OF_PEFT)
    saved = peft().get_peft_model_state_dict(task_model, save_embedding_layers=False)
    places = {weights.data_ptr() for weights in saved.values()}
    digest, types = hashlib.sha256(), set()
    for name, weights in plain.named_parameters():
        if weights.is_meta:
            return None
        if weights.data_ptr() in places or any(part in f".{name}" for part in of_adapter):
            continue
        types.add(str(weights.dtype).removeprefix("torch."))
        digest.update(f"{name}={_sum_of_bits(weights)};".encode())
    return f"{'+'.join(sorted(types))}:{digest.hexdigest()}"


def check_base(task_model: Any, recorded: str | None) -> str | None:
    """Return the checksum of a base, which is the one that the adapter was made on.

    Args:
        task_model: peft's wrapper.
        recorded: the checksum when the adapter was made. None: not known.

    Raises:
        ValueError: the base has other weights. Weights of other types are not compared.
    """
    found = checksum_of_base(task_model)
    if recorded is None or found is None or recorded == found:
        return found
    if recorded.partition(":")[0] == found.partition(":")[0]:
        (settings,) = task_model.peft_config.values()
        raise ValueError(
            f"adapter: its base, {settings.base_model_name_or_path}, has other weights than when the adapter was made; "
            "allowed are the same (a base that is changed in memory has to be saved, and loaded from there, before it "
            "gets an adapter)"
        )
    return found


def _sum_of_bits(weights: Tensor) -> int:
    """Return the sum of all numbers of a tensor, each read as an integer."""
    bits = weights.detach().contiguous().reshape(-1).view(_INTEGERS[weights.itemsize])
    return int(bits.sum(dtype=torch.int64))
