"""Networks on the data of an RLCT: modules that take a minibatch as it is kept in memory, and give logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..data import ImageTensors, TextTensors
from ..data.tensors import on_device


class OnPixels(nn.Module):
    """Run a network on uint8 pixels: a minibatch is gathered as bytes, then normalized."""

    def __init__(self, network: nn.Module, data: ImageTensors) -> None:
        super().__init__()
        self.network = network
        self.scale, self.shift = data.scale_and_shift()

    def arguments(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the network's arguments."""
        scale = on_device(self.scale, pixels.device)
        shift = on_device(self.shift, pixels.device)
        values = pixels.mul(scale).sub(shift)  # (B, C, H, W)
        # to the weights' type, because a run in bfloat16 has rounded them
        dtype = next(self.network.parameters()).dtype
        return {"pixel_values": values.to(dtype)}

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network(**self.arguments(pixels)).logits


class OnInputs(nn.Module):
    """Run a network on its own arguments: padded tokens, or pixels of any kind."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def arguments(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the network's arguments, floating-point ones in the type of its weights."""
        arguments = {}
        dtype = next(self.network.parameters()).dtype
        for name, value in inputs.items():
            arguments[name] = value.to(dtype) if value.is_floating_point() else value
        return arguments

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.network(**self.arguments(inputs)).logits


class OnTexts(nn.Module):
    """Run the classification-only network of an embedding bag on the numbers of texts, because their lengths differ."""

    def __init__(self, network: nn.Module, data: TextTensors) -> None:
        super().__init__()
        self.network = network
        self.texts = _Texts(data)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        input_ids, offsets = _Bags.apply(rows, self.texts)
        return self.network(input_ids=input_ids, offsets=offsets).logits


class _Texts:
    """Hold the data behind `_Bags` by reference, so that stacked and copied networks share one."""

    def __init__(self, data: TextTensors) -> None:
        self.data = data

    def __deepcopy__(self, memo: Any) -> _Texts:
        return self


class _Bags(torch.autograd.Function):
    """Gather tokens (N,) and offsets (B + 1,) of the texts in rows (B,). Mapped over chains, all get the longest N."""

    @staticmethod
    def forward(rows: torch.Tensor, texts: _Texts) -> tuple[torch.Tensor, torch.Tensor]:
        take = texts.data.take
        if rows.dim() > 1:
            take = texts.data.take_members
        batch = take(rows)
        return batch["input_ids"], batch["offsets"]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, rows: torch.Tensor, texts: _Texts) -> Any:
        rows = rows.movedim(in_dims[0], 0)  # (chains, B)
        return _Bags.apply(rows, texts), (0, 0)
