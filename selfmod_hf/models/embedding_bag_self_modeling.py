"""The mean of a text's embeddings, with an optionally sparse gradient.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .targets_self_modeling import pooled


class MeanEmbeddingBag(nn.EmbeddingBag):
    """Average the tokens' embeddings of each text, (B, embedding_dim). A text without tokens gives zero.

    Attributes:
        sparse: whether the gradient is a sparse tensor. An optimizer applies it to the rows touched by a batch. A
            Trainer sets it if its optimizer can take it (plain SGD).
    """

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__(num_embeddings, embedding_dim, mode="mean")

    def forward(
        self,
        input_ids: Tensor | None,
        offsets: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Any = None,
    ) -> Tensor:
        if offsets is not None:
            return _MeanOfBags.apply(self.weight, input_ids, offsets, self.sparse)
        if input_ids is not None:
            inputs_embeds = F.embedding(input_ids, self.weight)  # (B, T, D)
        return pooled(inputs_embeds, "mean", attention_mask)


class _MeanOfBags(torch.autograd.Function):
    """Average bags of rows of `weight`, with an optionally sparse gradient, for one network or for K at once.

    torch's own embedding bag has no rule for `vmap` with a sparse gradient. It would cost a pass over all
    parameters in each step (6.4 million for IMDB). Shapes, with a leading K for K networks:
    weight (V, D), tokens (N,), offsets (B + 1,) -> (B, D).
    """

    @staticmethod
    def forward(weight: Tensor, tokens: Tensor, offsets: Tensor, sparse: bool) -> Tensor:
        rows, starts = _flat_bags(weight.shape, tokens, offsets)
        table = weight.flatten(0, -2)  # (K * V, D)
        sums = F.embedding_bag(rows, table, starts, mode="sum")
        sums = sums.unflatten(0, offsets.shape)  # (B + 1, D)
        without_filler = sums[..., :-1, :]
        return without_filler / _counts(offsets)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight, tokens, offsets, ctx.sparse = inputs
        ctx.save_for_backward(tokens, offsets)
        ctx.shape = weight.shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        tokens, offsets = ctx.saved_tensors
        rows, starts = _flat_bags(ctx.shape, tokens, offsets)
        gradient = gradient / _counts(offsets)  # (B, D)
        gradient = F.pad(gradient, (0, 0, 0, 1))  # filler has none
        gradient = gradient.flatten(0, -2)
        bags = _bag_of_each_row(starts, len(rows))
        if ctx.sparse:
            result = _sparse_gradient(ctx.shape, rows, bags, gradient)
        else:
            result = gradient.new_zeros(ctx.shape)
            table = result.view(-1, gradient.shape[-1])  # (K * V, D)
            of_rows = gradient.index_select(0, bags)
            table.index_add_(0, rows.long(), of_rows)
        return result, None, None, None

    @staticmethod
    def vmap(  # noqa: PLR0913 - torch's signature
        info: Any,
        in_dims: tuple[int | None, ...],
        weight: Tensor,
        tokens: Tensor,
        offsets: Tensor,
        sparse: bool,
    ) -> tuple[Tensor, int]:
        weight_dim, tokens_dim, offsets_dim, _ = in_dims
        if weight_dim is not None:  # a weight shared by all stays one table
            weight = weight.movedim(weight_dim, 0)
        tokens = _of_each(tokens, tokens_dim, info.batch_size)
        offsets = _of_each(offsets, offsets_dim, info.batch_size)
        return _MeanOfBags.apply(weight, tokens, offsets, sparse), 0


def _of_each(tensor: Tensor, dim: int | None, count: int) -> Tensor:
    """Return one tensor for each of `count` networks, in a leading dimension."""
    if dim is None:
        return tensor.expand(count, *tensor.shape)
    return tensor.movedim(dim, 0)


def _counts(offsets: Tensor) -> Tensor:
    """Return the number of tokens of each bag, (B, 1), at least 1."""
    counts = offsets.diff().clamp(min=1)
    return counts.unsqueeze(-1)


def _flat_bags(shape: torch.Size, tokens: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return K networks' bags as bags of one table (K * V, D): its rows (K * N,) and their starts (K * (B + 1),)."""
    if tokens.dim() == 1:
        return tokens, offsets
    count, length = tokens.shape
    members = torch.arange(count, device=tokens.device)
    members = members.unsqueeze(1)  # (K, 1)
    rows = tokens
    if len(shape) == 3:
        first_rows = members.to(tokens.dtype) * shape[1]
        rows = tokens + first_rows
    first_tokens = members.to(offsets.dtype) * length
    starts = offsets + first_tokens
    return rows.flatten(), starts.flatten()


def _bag_of_each_row(starts: Tensor, num_rows: int) -> Tensor:
    """Return the number of the bag of each row, (num_rows,), for bags with these starts."""
    ends = F.pad(starts[1:], (0, 1), value=num_rows)
    bags = torch.arange(len(starts), dtype=starts.dtype, device=starts.device)
    return bags.repeat_interleave(ends - starts, output_size=num_rows)


def _sparse_gradient(shape: torch.Size, rows: Tensor, bags: Tensor, gradient: Tensor) -> Tensor:
    """Return the sparse gradient of a table of `shape`, (V, D) or (K, V, D).

    Row `rows[i]` of the table as (K * V, D) gets `gradient[bags[i]]`.
    """
    # each row's terms side by side, so that they are summed before the table is touched (the transposed bags)
    rows, order = rows.sort()
    rows, counts = rows.unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    starts = starts.to(bags.dtype)
    values = F.embedding_bag(bags[order], gradient, starts, mode="sum")  # (touched rows, D)
    rows = rows.long()
    indices = rows.unsqueeze(0)
    if len(shape) == 3:
        member = rows // shape[1]
        indices = torch.stack([member, rows % shape[1]])
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=False, is_coalesced=True)
