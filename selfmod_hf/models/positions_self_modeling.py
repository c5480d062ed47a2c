"""The largest number of tokens in a text, by an encoder's table of positions.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package.
"""

from typing import Any, NamedTuple

from torch import Tensor, nn

# names of the tables in encoders of transformers, and of the number of positions in their configurations
_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "positions_embed", "wpe", "pos_encoding")
_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len")


class Table(NamedTuple):
    """Hold the size of an encoder's smallest table of positions.

    Attributes:
        most: number of tokens with a position.
        padding: the token without a position (in RoBERTa and its successors). None: each token takes a position.
    """

    most: int
    padding: int | None

    def check(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> None:
        """Reject too long texts, before an index falls outside of the table.

        Args:
            input_ids: (B, T).
            inputs_embeds: (B, T, D), in place of tokens.

        Raises:
            ValueError: the longest text has too many tokens.
        """
        if inputs_embeds is not None:
            length = inputs_embeds.shape[1]
        else:
            assert input_ids is not None
            length = input_ids.shape[1]
            if length > self.most and self.padding is not None:
                counts = (input_ids != self.padding).sum(dim=1)
                length = int(counts.max())
        if length > self.most:
            raise ValueError(
                f"input_ids: the longest text has {length} tokens; the encoder's table of positions allows at most "
                f"{self.most}"
            )


def position_table(encoder: nn.Module) -> Table | None:
    """Return the smallest table of positions, or None.

    A table is an embedding with one of `_TABLES` as its name, or a tensor of such a name in any module.
    """
    smallest: Table | None = None
    for name, owner in encoder.named_modules():
        if "image" in name or "vision" in name:  # another tower
            continue
        tables = []
        if name.split(".")[-1] in _TABLES:
            tables.append(_embedding_table(owner))
        for attribute in _TABLES:
            tensor: Any = getattr(owner, attribute, None)
            if isinstance(tensor, Tensor) and tensor.dim() == 2:
                tables.append(Table(len(tensor), None))
        for table in tables:
            if table is not None and (smallest is None or table.most < smallest.most):
                smallest = table
    return smallest


def _embedding_table(owner: Any) -> Table | None:
    """Return the table of an embedding, without its unused rows. None: the module is no embedding."""
    weight = getattr(owner, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        return None
    padding = getattr(owner, "padding_idx", None)
    if padding is None:
        return Table(len(weight) - getattr(owner, "offset", 0), None)
    return Table(len(weight) - padding - 1, padding)  # the first position comes after padding's


def most_tokens(encoder: nn.Module) -> int | None:
    """Return the largest number of tokens in a text, by the table of positions and by the configuration.

    None means no limit.
    """
    limits = []
    config = getattr(encoder, "config", None)
    for name in _FIELDS:
        limit = getattr(config, name, None)
        if isinstance(limit, int) and limit > 0:
            limits.append(limit)
    table = position_table(encoder)
    if table is not None and table.most > 0:
        limits.append(table.most)
    return min(limits, default=None)
