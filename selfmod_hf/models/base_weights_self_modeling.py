"""The weights below an adapter: they stay as they are, and a checksum finds out whether a loaded base has the same.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .adapters_self_modeling import peft
from .task_models_self_modeling import is_quantized, plain_task_model

# by the bytes of a number. Longer ones are read as int32, because the sum would lose the place of the 64th bit
_INTEGERS = {1: torch.uint8, 2: torch.int16}
_CHUNK = 2**18  # their int64 copies stay in the cache of a processor
# parts of the names of weights that peft adds, besides those of the adapter itself
_OF_PEFT = (".modules_to_save.", ".original_module.", ".trainable_tokens_")
# initializations of an adapter that change the weights of its base
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def weights_of_base(task_model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and values of a base's parameters and persistent buffers, shared ones once.

    The adapter's own weights, and parts of the base that are saved with it, are left out.

    Args:
        task_model: peft's wrapper.
    """
    plain = plain_task_model(task_model)
    prefix = getattr(task_model.base_model, "prefix", None)
    of_adapter = _OF_PEFT if prefix is None else (f".{prefix}", *_OF_PEFT)
    saved = peft().get_peft_model_state_dict(task_model, save_embedding_layers=False)
    places = {weights.data_ptr() for weights in saved.values()}
    persistent = plain.state_dict().keys()
    parameters = plain.named_parameters(remove_duplicate=False)  # a shared one may have a name of peft, too
    for name, weights in (*parameters, *plain.named_buffers()):
        if name not in persistent or weights.data_ptr() in places:
            continue
        if not any(part in f".{name}" for part in of_adapter):
            places.add(weights.data_ptr())
            yield name, weights


def checksum_of_base(task_model: Any) -> str | None:
    """Return the types of a base's weights and a checksum of their bits, such as ``float32:5f2c...``.

    Bits are added up tensor by tensor, so the checksum is the same on every device, and costs one reading of the
    weights.

    Args:
        task_model: peft's wrapper.

    Returns:
        None if the weights in memory need not be those of the files. They are quantized, or on the device "meta", or
        the adapter's initialization has changed them (PiSSA, for example).
    """
    plain = plain_task_model(task_model)
    (settings,) = task_model.peft_config.values()
    initialized = str(getattr(settings, "init_lora_weights", True)).lower()
    if is_quantized(plain) or initialized.startswith(_CHANGES_BASE):
        return None
    if any(parameter.is_meta for parameter in plain.parameters()):
        return None
    digest, types = hashlib.sha256(), set()
    for name, weights in weights_of_base(task_model):
        types.add(str(weights.dtype).removeprefix("torch."))
        digest.update(f"{name}={_sum_of_bits(weights)};".encode())
    return f"{'+'.join(sorted(types))}:{digest.hexdigest()}"


def check_base(task_model: Any, recorded: str | None) -> str | None:
    """Return the checksum of a base's weights in memory, and reject those that differ from the recorded ones.

    Args:
        task_model: peft's wrapper.
        recorded: the checksum when the adapter was made. None: not known.

    Returns:
        None if the weights are not compared. Weights of other types have another checksum, and are not compared.

    Raises:
        ValueError: the base has other weights of the same types.
    """
    found = checksum_of_base(task_model)
    if recorded is None or found is None or recorded == found:
        return found
    if recorded.partition(":")[0] == found.partition(":")[0]:
        (settings,) = task_model.peft_config.values()
        raise ValueError(
            f"adapter: its base, {settings.base_model_name_or_path}, has other weights than when the adapter was made; "
            "allowed are the same"
        )
    return found


def keep_statistics(task_model: nn.Module) -> None:
    """Put all layers with running statistics into eval mode, except for those that are saved with the adapter.

    Args:
        task_model: peft's wrapper.
    """
    for name, module in task_model.named_modules():
        own = dict(module.named_buffers(recurse=False))  # by getattr, peft's wrappers show those of the module inside
        if "running_mean" in own and ".modules_to_save." not in f".{name}":
            module.eval()


def _sum_of_bits(weights: Tensor) -> int:
    """Return the sum of a tensor's numbers modulo 2^64, each read as integers and weighed by their places."""
    kind = _INTEGERS.get(weights.itemsize, torch.int32)
    bits = weights.detach().contiguous().reshape(-1).view(kind)
    total = 0
    for start in range(0, len(bits), _CHUNK):
        chunk = bits[start : start + _CHUNK]
        places = torch.arange(start + 1, start + 1 + len(chunk), device=bits.device)
        total += int((chunk * places).sum())
    return total % 2**64
