"""The largest number of tokens in a text, by an encoder's table of positions.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package.
"""

from collections.abc import Iterator
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
    """Return the smallest table of positions, or None."""
    smallest: Table | None = None
    for name, owner in encoder.named_modules():
        if "image" in name or "vision" in name:  # another tower
            continue
        for table in _tables_of(name, owner):
            if smallest is None or table.most < smallest.most:
                smallest = table
    return smallest


def _tables_of(name: str, owner: Any) -> Iterator[Table]:
    """Yield the tables of one module: itself if it is an embedding of positions, and its tensors of such names."""
    weight: Any = getattr(owner, "weight", None)
    if name.split(".")[-1] in _TABLES and _is_matrix(weight):
        yield _embedding_table(owner, len(weight))
    for table in _TABLES:
        tensor: Any = getattr(owner, table, None)
        if _is_matrix(tensor):
            yield Table(len(tensor), None)


def _is_matrix(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2


def _embedding_table(owner: Any, rows: int) -> Table:
    """Return the table of an embedding, without its unused rows."""
    padding = getattr(owner, "padding_idx", None)
    if padding is None:
        return Table(rows - getattr(owner, "offset", 0), None)
    return Table(rows - padding - 1, padding)  # the first position comes after padding's


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
