"""The mean of a text's embeddings, with a gradient that may be sparse.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .targets_self_modeling import pooled


class MeanEmbeddingBag(nn.EmbeddingBag):
    """The mean of the tokens' embeddings, (B, embedding_dim); zero for a text without tokens.

    Attributes:
        sparse: whether the gradient is a sparse tensor, which an optimizer applies to the rows that a batch has
            touched. A Trainer sets it where its optimizer can take it (plain SGD).
    """

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__(num_embeddings, embedding_dim, mode="mean")

    def forward(
        self,
        input_ids: torch.Tensor | None,
        offsets: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: Any = None,
    ) -> torch.Tensor:
        if offsets is not None:
            return _MeanOfBags.apply(self.weight, input_ids, offsets, self.sparse)
        if input_ids is not None:
            inputs_embeds = F.embedding(input_ids, self.weight)  # (B, T, D)
        return pooled(inputs_embeds, "mean", attention_mask)


class _MeanOfBags(torch.autograd.Function):
    """Means over bags of rows of `weight`, with a gradient that may be sparse, for one network or for K at once.

    torch's own embedding bag has no rule for `vmap` that keeps the gradient sparse: it would cost a pass over all
    parameters in each step (6.4 million for IMDB). Shapes, with a leading K where there are K networks:
    weight (V, D), tokens (N,), offsets (B + 1,) -> (B, D).
    """

    @staticmethod
    def forward(weight: torch.Tensor, tokens: torch.Tensor, offsets: torch.Tensor, sparse: bool) -> torch.Tensor:
        rows, starts = _flat_bags(weight.shape, tokens, offsets)
        table = weight.reshape(-1, weight.shape[-1])  # (K * V, D)
        sums = F.embedding_bag(rows, table, starts, mode="sum")  # with a bag of filler after each network's
        sums = sums.unflatten(0, offsets.shape)[..., :-1, :]  # (B, D)
        return sums / offsets.diff().clamp(min=1)[..., None]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        weight, tokens, offsets, ctx.sparse = inputs
        ctx.save_for_backward(tokens, offsets)
        ctx.shape = weight.shape

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        tokens, offsets = ctx.saved_tensors
        rows, starts = _flat_bags(ctx.shape, tokens, offsets)
        gradient = gradient / offsets.diff().clamp(min=1)[..., None]  # (B, D)
        gradient = F.pad(gradient, (0, 0, 0, 1)).flatten(0, -2)  # filler has none
        ends = F.pad(starts[1:], (0, 1), value=len(rows))
        bags = torch.arange(len(starts), dtype=starts.dtype, device=rows.device)
        bags = bags.repeat_interleave(ends - starts, output_size=len(rows))  # (K * N,), the bag of each token
        return _row_gradient(ctx.shape, rows, bags, gradient, ctx.sparse), None, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        weight: torch.Tensor,
        tokens: torch.Tensor,
        offsets: torch.Tensor,
        sparse: bool,
    ) -> tuple[torch.Tensor, int]:
        def leading(tensor: torch.Tensor, dim: int | None, repeat: bool) -> torch.Tensor:
            if dim is None:
                return tensor.expand(info.batch_size, *tensor.shape) if repeat else tensor
            return tensor.movedim(dim, 0)

        # a weight that all share stays one table
        weight = leading(weight, in_dims[0], repeat=False)
        tokens, offsets = leading(tokens, in_dims[1], repeat=True), leading(offsets, in_dims[2], repeat=True)
        return _MeanOfBags.apply(weight, tokens, offsets, sparse), 0


def _flat_bags(shape: torch.Size, tokens: torch.Tensor, offsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """K networks' bags as those of one table (K * V, D): its rows (K * N,) and where each bag starts (K * (B + 1),)."""
    if tokens.dim() == 1:
        return tokens, offsets
    count, length = tokens.shape
    member = torch.arange(count, device=tokens.device)[:, None]
    rows = tokens + member.to(tokens.dtype) * shape[-2] if len(shape) == 3 else tokens
    return rows.flatten(), (offsets + member.to(offsets.dtype) * length).flatten()


def _row_gradient(
    shape: torch.Size, rows: torch.Tensor, bags: torch.Tensor, gradient: torch.Tensor, sparse: bool
) -> torch.Tensor:
    """The gradient of a table of `shape` (V, D) or (K, V, D): row `rows[i]` of (K * V, D) gets `gradient[bags[i]]`."""
    if not sparse:
        dense = gradient.new_zeros(shape)
        dense.view(-1, shape[-1]).index_add_(0, rows.long(), gradient.index_select(0, bags))
        return dense
    # each row's terms side by side, so that they are added up before the table is touched (the transposed bags)
    rows, order = rows.sort()
    rows, counts = rows.unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).to(bags.dtype)
    values = F.embedding_bag(bags[order], gradient, starts, mode="sum")  # (touched rows, D)
    rows, size = rows.long(), shape[-2]
    indices = rows[None] if len(shape) == 2 else torch.stack([rows // size, rows % size])
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=False, is_coalesced=True)
