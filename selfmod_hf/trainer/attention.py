"""Attention of several chains at once: forms of transformers' attention that `torch.vmap` maps at once.

transformers' own `sdpa` looks into its mask, and a decision by values cannot be made for all chains at once. Mapped,
the fused kernel runs in a loop. `folded` attention makes the chains a part of the batch, and calls the kernel once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

MASKED = "selfmod_sdpa_with_mask"
FOLDED = "selfmod_folded"
# arguments of attention that only the eager form of a model follows
_NOT_FOLLOWED = ("softcap", "s_aux", "sinks", "position_bias", "output_attentions")


def masked_attention() -> str:
    """Return the name of a variant of transformers' scaled dot product attention. It always builds its mask.

    The original first checks whether any token is padding. This decision cannot be made for all chains at once.
    """
    AttentionInterface.register(MASKED, sdpa_attention_forward)
    AttentionMaskInterface.register(MASKED, _mask_of_padding)
    return MASKED


def folded_attention() -> str:
    """Return the name of the attention with the chains as a part of the batch. It always builds its mask."""
    AttentionInterface.register(FOLDED, _attend_folded)
    AttentionMaskInterface.register(FOLDED, _complete_mask)
    return FOLDED


def set_attention(model: PreTrainedModel, name: str) -> None:
    """Give a model another attention. A model with an attention of its own kind keeps it.

    Args:
        model: is changed.
        name: of the attention.
    """
    with _quiet():  # transformers warns for each model that keeps its own
        model.set_attn_implementation(name)


def _mask_of_padding(*args: Any, **settings: Any) -> Tensor | None:
    settings["allow_is_bidirectional_skip"] = False
    return sdpa_mask(*args, **settings)


def _complete_mask(*args: Any, **settings: Any) -> Tensor | None:
    settings["allow_is_bidirectional_skip"] = False
    settings["allow_is_causal_skip"] = False
    return sdpa_mask(*args, **settings)


def _attend_folded(  # noqa: PLR0913 - the form of transformers' attention
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return the attention (B, T, heads, size), in the form of transformers' `AttentionInterface`.

    Raises:
        ValueError: an argument that this form does not follow, such as a soft cap.
    """
    for name in _NOT_FOLLOWED:
        if others.get(name) is not None and others[name] is not False:
            raise ValueError(f"{name}: not followed by the folded attention; allowed is eager attention")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # several heads share a key and a value
        key = key.repeat_interleave(groups, 1)
        value = value.repeat_interleave(groups, 1)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    causal = causal and attention_mask is None and query.shape[2] > 1
    output = _Folded.apply(query, key, value, attention_mask, scaling, causal)
    return output.transpose(1, 2).contiguous(), None


class _Folded(torch.autograd.Function):
    """Call the fused kernel, once for all chains."""

    @staticmethod
    def forward(  # noqa: PLR0913 - the arguments of the kernel
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, causal: bool
    ) -> Tensor:
        return _attend(query, key, value, mask, scale, causal)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        query, key, value, mask, ctx.scale, ctx.causal = inputs
        ctx.save_for_backward(query, key, value, mask)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        # outside of `vmap`, where it is used little. Within it autograd sees the kernel itself
        inputs: list[Any] = []
        for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False):
            inputs.append(tensor if tensor is None else tensor.detach().requires_grad_(needed))
        wanted = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
        with torch.enable_grad():
            query, key, value, mask = inputs
            output = _attend(query, key, value, mask, ctx.scale, ctx.causal)
        found = iter(torch.autograd.grad(output, wanted, *gradients))
        returned = []
        for tensor in inputs:
            has_gradient = tensor is not None and tensor.requires_grad
            returned.append(next(found) if has_gradient else None)
        return *returned, None, None

    @staticmethod
    def vmap(  # noqa: PLR0913 - the arguments of forward
        info: Any,
        in_dims: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float | None,
        causal: bool,
    ) -> tuple[Tensor, int]:
        copies = info.batch_size
        parts = []
        for tensor, dim in zip((query, key, value), in_dims, strict=False):
            parts.append(_each(tensor, dim, copies).flatten(0, 1))  # (K B, heads, T, size)
        if mask is not None:
            mask = _each(mask, in_dims[3], copies)  # (K, ..., T, T)
            ones = [1] * (5 - mask.dim())
            mask = mask.reshape(copies, *ones, *mask.shape[1:])
            rows = len(parts[0]) // copies
            mask = mask.expand(copies, rows, *mask.shape[2:]).flatten(0, 1)
        query, key, value = parts
        output = _attend(query, key, value, mask, scale, causal)
        return output.unflatten(0, (copies, -1)), 0


def _each(tensor: Tensor, dim: int | None, copies: int) -> Tensor:
    """Return a tensor with the copies first. `dim` is their dimension. None: it is the same for all."""
    if dim is None:
        return tensor.expand(copies, *tensor.shape)
    return tensor.movedim(dim, 0)


def _attend(  # noqa: PLR0913 - the arguments of the kernel
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, causal: bool
) -> Tensor:
    """Return the attention (B, heads, T, size)."""
    if mask is None or not mask.requires_grad:
        return scaled_dot_product_attention(query, key, value, mask, scale=scale, is_causal=causal)
    # a learned bias: the fused kernels have no gradient of it
    size = query.shape[-1]
    scores = query @ key.transpose(-1, -2) * (size**-0.5 if scale is None else scale)
    return (scores + mask).softmax(-1) @ value


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
