"""Targets from outside of the network, for `target_source` "random" and "network:...". They are controls.

Both depend on the inputs alone, and the network does not learn them for itself. So the Trainer computes them for each
batch and gives them to `forward`. A saved network needs neither the projection nor the other network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..models import SelfModelingConfig, SelfModelingPreTrainedModel, load_model
from ..models.fields_self_modeling import INSIDE, NETWORK_SOURCE
from .member import runs_of

_INPUTS = ("pixel_values", "input_ids", "attention_mask", "offsets", "token_type_ids", "inputs_embeds")
_SEED = 0  # of the random projection, which is the same for all networks


class OutsideTargets:
    """Compute the targets of a network, or of a population's members, from their inputs.

    Args:
        plain: the network, or a population's `stacked`.
        sources: the `target_source` of the network, or of each member.

    Raises:
        InputError: a network that cannot be loaded.
    """

    def __init__(self, plain: SelfModelingPreTrainedModel, sources: Sequence[str]) -> None:
        assert plain.self_model_head is not None
        self.sources = tuple(sources)
        self._size = plain.self_model_head.out_features
        self._tokens = _number_of_tokens(plain)
        self._per_token = plain.config.target_pooling == "tokens"
        self._projection: Tensor | None = None
        self._networks: dict[str, SelfModelingPreTrainedModel] = {}
        for source in sources:
            if source.startswith(NETWORK_SOURCE) and source not in self._networks:
                self._networks[source] = _load_network(source, plain.config)

    @torch.no_grad()
    def for_network(self, inputs: dict[str, Any]) -> Tensor:
        """Return the targets of a batch, (B, n), or (B, T, n) of each token."""
        (source,) = self.sources
        return self._targets(source, inputs)

    @torch.no_grad()
    def for_members(self, inputs: dict[str, Any], shared: bool) -> Tensor:
        """Return the targets of each member, (K, B, n): zeros for members with a source of their own.

        Args:
            inputs: a batch for each member, or one for all.
            shared: whether it is one for all.
        """
        parts = []
        for members, source in runs_of(self.sources):
            if source not in INSIDE:
                own = self._of_neighbours(source, members, inputs, shared)
                parts.append((members, own))
        _, example = parts[0]
        targets = example.new_zeros(len(self.sources), *example.shape[1:])
        for members, own in parts:
            targets[members.start : members.stop] = own
        return targets

    def _of_neighbours(self, source: str, members: range, inputs: dict[str, Any], shared: bool) -> Tensor:
        """Return the targets of neighbours with the same source, (K', B, n), or (1, B, n) of a batch for all."""
        if shared:
            targets = self._targets(source, inputs)
            return targets.unsqueeze(0)
        given = _inputs(inputs)
        if "offsets" in given:  # bags differ in their number of tokens
            rows = []
            for k in members:
                bag = {name: value[k] for name, value in given.items()}
                rows.append(self._targets(source, bag))
            return torch.stack(rows)
        at_once = {}
        for name, value in given.items():
            own = value[members.start : members.stop]  # (K', B, ...)
            at_once[name] = own.flatten(0, 1)
        targets = self._targets(source, at_once)  # (K' * B, n)
        return targets.unflatten(0, (len(members), -1))

    @torch.no_grad()
    def check(self, inputs: dict[str, Any]) -> None:
        """Compute the targets of each source for a batch.

        Raises:
            InputError: a source without targets for these inputs, or with too many or too few of them.
        """
        for source in set(self.sources).difference(INSIDE):
            self._targets(source, inputs)

    def _targets(self, source: str, inputs: dict[str, Any]) -> Tensor:
        given = _inputs(inputs)
        if source == "random":
            return self._projected(given)
        network = self._networks[source].to(next(iter(given.values())).device)
        for name, value in given.items():
            if value.is_floating_point():
                given[name] = value.to(network.dtype)
        targets = network(**given).self_model_targets
        if targets.shape[-1] != self._size:
            problem = f"gives {targets.shape[-1]} activations; allowed is a network of {self._size}, as this one has"
            raise InputError("target_source", source, problem)
        return targets

    def _projected(self, inputs: dict[str, Any]) -> Tensor:
        """Return the random projection of images (B, ...), or the mean over the tokens of a text's random vectors.

        The targets of single tokens are their own random vectors, (B, T, n).
        """
        if self._per_token and "pixel_values" in inputs:
            raise InputError("target_source", "random", "allowed with images without `target_pooling` tokens")
        if "pixel_values" in inputs:
            flat = inputs["pixel_values"].flatten(start_dim=1)  # (B, D)
            projection = self._random(flat.shape[1], flat).to(flat.dtype)  # (D, n)
            return flat @ projection / math.sqrt(flat.shape[1])
        if "input_ids" not in inputs:
            raise InputError("target_source", "random", "allowed with pixel_values and input_ids, not embeddings")
        tokens = inputs["input_ids"].long()
        vectors = self._random(self._tokens, tokens)  # (V, n)
        if "offsets" in inputs:
            offsets = inputs["offsets"].long()  # (B + 1,)
            return F.embedding_bag(tokens[: offsets[-1]], vectors, offsets[:-1], mode="mean")
        mask = inputs.get("attention_mask", torch.ones_like(tokens))
        if tokens.dim() > 2:  # all choices of all samples are rows
            tokens = tokens.flatten(0, 1)
            mask = mask.flatten(0, 1)
        if self._per_token:
            return vectors[tokens]
        mask = mask[..., None].to(vectors.dtype)  # (B, T, 1)
        return (vectors[tokens] * mask).sum(dim=1) / mask.sum(dim=1)

    def _random(self, rows: int, like: Tensor) -> Tensor:
        """Return the projection, (rows, n), on the device of a tensor."""
        if self._projection is None:
            generator = torch.Generator().manual_seed(_SEED)
            self._projection = torch.randn(rows, self._size, generator=generator)
        self._projection = self._projection.to(like.device)
        return self._projection


def _inputs(batch: dict[str, Any]) -> dict[str, Tensor]:
    """Return the inputs of a network in a batch, without labels and counts."""
    return {name: batch[name] for name in _INPUTS if name in batch}


def _number_of_tokens(plain: SelfModelingPreTrainedModel) -> int:
    """Return the size of the vocabulary. 0: the network reads images."""
    if not plain.config.reads_text:
        return 0
    if plain.config.backbone == "embedding_bag":
        return plain.config.backbone_kwargs["num_embeddings"]
    backbone: Any = plain.backbone
    return backbone.config.vocab_size


def _load_network(source: str, config: SelfModelingConfig) -> SelfModelingPreTrainedModel:
    """Return the network of a source, with the target layers of a configuration."""
    name = source.removeprefix(NETWORK_SOURCE)
    try:
        network = load_model(name)
        fields = network.config.to_dict()
        fields |= {"target_layers": config.target_layers, "target_pooling": config.target_pooling}
        fields |= {"target_source": "own", "target_normalization": "none", "activation_penalty": 0.0}
        with torch.random.fork_rng():  # the weights drawn here are overwritten, and the self-model is not used
            reader = type(network)(SelfModelingConfig.from_dict(fields))
        weights = network.state_dict()
        for key in ("self_model_head.weight", "self_model_head.bias"):
            weights.pop(key, None)
        reader.load_state_dict(weights, strict=False)
    except (OSError, ValueError) as error:
        raise InputError("target_source", source, str(error)) from error
    return reader.eval().requires_grad_(False)
