"""How many tokens a text may have, as an encoder's table of positions says.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package.
"""

from typing import Any, NamedTuple

import torch
from torch import nn

# the names that encoders of transformers give their tables, and their configurations the number of positions
_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "positions_embed", "wpe", "pos_encoding")
_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len")


class Table(NamedTuple):
    """The smallest table of positions of an encoder.

    Attributes:
        most: tokens it has room for.
        padding: the token that takes no position (RoBERTa's, and those after it); None: each token takes one.
    """

    most: int
    padding: int | None

    def check(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> None:
        """Reject texts that are too long, before an index falls outside of the table.

        Args:
            input_ids: (B, T).
            inputs_embeds: (B, T, D), in place of tokens.

        Raises:
            ValueError: the longest text has too many tokens.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        assert given is not None
        length = given.shape[1]
        if length > self.most and self.padding is not None and inputs_embeds is None:
            length = int((given != self.padding).sum(dim=1).max())
        if length > self.most:
            raise ValueError(
                f"input_ids: the longest text has {length} tokens; the encoder's table of positions allows at most "
                f"{self.most}"
            )


def position_table(encoder: nn.Module) -> Table | None:
    """Return the smallest table of positions, or None."""
    found = []
    for name, owner in encoder.named_modules():
        pictures = "image" in name or "vision" in name  # another tower
        if name.split(".")[-1] in _TABLES and not pictures:
            weight = getattr(owner, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.dim() == 2:
                found.append(_table(owner, len(weight)))
        for table in _TABLES:
            tensor = getattr(owner, table, None)
            if isinstance(tensor, torch.Tensor) and tensor.dim() == 2 and not pictures:
                found.append(Table(len(tensor), None))
    return min(found, key=lambda table: table.most, default=None)


def _table(owner: Any, rows: int) -> Table:
    """Return a table without the rows that no text uses."""
    padding = getattr(owner, "padding_idx", None)
    if padding is not None:  # positions are counted from behind padding's
        return Table(rows - padding - 1, padding)
    return Table(rows - getattr(owner, "offset", 0), None)


def most_tokens(encoder: nn.Module) -> int | None:
    """Return how many tokens a text may have at most, by the table of positions and by the configuration.

    None: there is no limit.
    """
    config = getattr(encoder, "config", None)
    limits = [getattr(config, name, None) for name in _FIELDS]
    table = position_table(encoder)
    if table is not None:
        limits.append(table.most)
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)
