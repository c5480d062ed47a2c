"""`SelfModelingPopulation`: K self-modeling networks of one architecture as one module.

Training many networks needs no second implementation. The plain model's forward is mapped over the members
(`stacking.map_copies`), so linear layers become one `bmm`. Then the plain model's functions choose the targets and
compute the named terms, for all members of equal targets at once. The terms are weighed with each member's own weight,
and the sum over members goes to `backward`. Members share no parameter, so the gradient of the sum is every member's
own gradient. An element-wise optimizer therefore updates each member as if it were alone.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import set_seed

from ..errors import InputError
from ..models import SelfModelingConfig, SelfModelingPreTrainedModel, model_class_of
from ..models.losses_self_modeling import LossInputs
from ..stacking import chunk_ranges, map_copies, stack_in_place
from .checkpoints import load_weights
from .member import Member, runs_of
from .member_terms import inputs_of, targets_and_terms
from .terms import TERMS

Tensors = Mapping[str, Tensor]  # by name

# Held while the stacked network runs: functional_call lends it the members' weights. Several threads may call one
# population.
_LENT = threading.RLock()

# dimensions of a batch for all members: a batch for each member has one more
_DIMENSIONS = {"pixel_values": 4, "attention_mask": 2, "offsets": 1}

# a sign in torch's error -> why a network cannot be computed for all members at once
_NOT_MAPPED = {
    "randomness": "the network draws random numbers (dropout, stochastic depth), but not those a member draws alone; "
    "allowed are networks that draw none while they train",
    "data-dependent": "the network decides by values of its inputs (attention looks for padding), which differ between "
    "members; allowed are networks that do not",
}

# Of the stacked network's configuration, which its forward reads. Its targets are the activations themselves, with
# their gradient, because each member's targets are made of these.
_PLAIN_OUTPUT = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "target_source": "own",
    "target_normalization": "none",
    "detach_targets": False,
    "activation_penalty": 0.0,
}

MEMBERS_FILE = "population.json"
WEIGHTS_FILE = "model.safetensors"


class SelfModelingPopulation(nn.Module):
    """Train K networks at once, each as if it were alone.

    Member k starts from the weights of `transformers.set_seed(seed)` and the model's constructor. A member of weight 0
    keeps the self-model's head, but the head never changes. All other weights are the baseline's.

    Args:
        config: the configuration of all members. Those of a member's fields that are not None
            replace its own.
        members: K of them, different from each other.
        block_size: members per batched computation. None: all. It changes the numbers by rounding only.
        model_class: the plain model. None: the class for the configuration's images or texts.

    Attributes:
        stacked: the plain architecture, each parameter and buffer of shape (K, *shape). Do not call it directly.

    Raises:
        ValueError: no member, two equal members, a member that the configuration rejects, or a block size
            below 1.

    Example:
        >>> from selfmod_hf import SelfModelingConfig
        >>> config = SelfModelingConfig(hidden_sizes=[4], image_size=8, num_labels=4, target_layers=["hidden.relu1"])
        >>> members = [Member(seed=0, aux_weight=0.0), Member(seed=0, aux_weight=5.0)]
        >>> population = SelfModelingPopulation(config, members)
        >>> population(pixel_values=torch.zeros(3, 1, 8, 8))["logits"].shape
        torch.Size([2, 3, 4])
    """

    term_weights: Tensor
    companions: Any = None  # a Trainer's knowledge of the networks besides their weights
    accepts_loss_kwargs = True  # as the plain model: its sums are divided by `num_items_in_batch`

    def __init__(
        self,
        config: SelfModelingConfig,
        members: Sequence[Member],
        *,
        block_size: int | None = None,
        model_class: type[SelfModelingPreTrainedModel] | None = None,
    ) -> None:
        super().__init__()
        counts = Counter(member.name for member in members)
        twice = sorted(name for name, count in counts.items() if count > 1)
        if not members or twice:
            raise ValueError(f"members={twice!r}: allowed are one or more, different from each other")
        if block_size is not None and (not isinstance(block_size, int) or block_size < 1):
            raise ValueError(f"block_size={block_size!r}: allowed are None and integers of at least 1")
        self.config = config
        self.members = tuple(members)
        self.block_size = block_size
        self.model_class = model_class or model_class_of(config)
        self.main_input_name = self.model_class.main_input_name
        self._configs = [self.config_of(member) for member in members]
        self._targets = [_targets_of(own) for own in self._configs]
        self._has_penalty = any(own.activation_penalty > 0 for own in self._configs)
        self.target_sources = tuple(own.target_source for own in self._configs)
        networks = []
        for member in members:
            config_of_member = self.config_of(member)  # not one of `_configs`, because that of `stacked` is changed
            with torch.random.fork_rng():
                set_seed(member.seed)
                networks.append(self.model_class(config_of_member))
        self.stacked = stack_in_place(networks)
        for name, value in _PLAIN_OUTPUT.items():
            setattr(self.stacked.config, name, value)
        self.register_buffer("term_weights", self._exact_weights(), persistent=False)  # (terms, K)

    def _exact_weights(self) -> Tensor:
        """Return the factor of each of `TERMS` in each member's loss, (terms, K)."""
        rows = []
        for own in self._configs:
            rows.append([own.classification_weight, own.aux_weight, own.activation_penalty])
        return torch.tensor(rows, dtype=torch.float64).T

    def _apply(self, fn: Any, recurse: bool = True) -> SelfModelingPopulation:
        """Move or cast all tensors, like `nn.Module._apply`. The terms' weights keep their precision."""
        super()._apply(fn, recurse)
        self.term_weights = self._exact_weights().to(self.term_weights.device)
        return self

    def __len__(self) -> int:
        return len(self.members)

    # ---- from and to ordinary models ----

    def config_of(self, member: Member) -> SelfModelingConfig:
        """Return the configuration of one member alone."""
        content = self.config.to_dict()
        content.update(member.config_fields())
        return type(self.config).from_dict(content)

    def member(self, index: int) -> SelfModelingPreTrainedModel:
        """Return a copy of member `index` as an ordinary model, for saving, pushing, pruning or measuring."""
        config = self.config_of(self.members[index])
        with torch.random.fork_rng():  # the weights drawn here are overwritten
            model = self.model_class(config)
        reference = next(self.stacked.parameters())
        model.to(device=reference.device, dtype=reference.dtype)
        own = _at(index, self.stacked.state_dict())
        model.load_state_dict(own)
        model.companions = None
        if self.companions is not None:
            model.companions = self.companions.of_other_weights()
        return model.train(self.training)

    def part(self, indices: range) -> SelfModelingPopulation:
        """Return a population of copies of these members alone."""
        own = slice(indices.start, indices.stop)
        part = type(self)(
            self.config,
            self.members[own],
            block_size=self.block_size,
            model_class=self.model_class,
        )
        reference = next(self.parameters())
        part.to(reference.device)
        state = _at(own, self.state_dict())
        for name, value in state.items():
            state[name] = value.clone()
        part.load_state_dict(state, assign=True)
        part._has_penalty = self._has_penalty  # all parts log the same terms
        return part.train(self.training)

    def weight_widths(self) -> Tensor:
        """Return the standard deviation of each member's final classification weights, (K,), like `weight_width`."""
        weights = self.stacked.get_parameter("classifier.weight").detach()  # (K, num_labels, F)
        return weights.flatten(1).double().std(dim=1, correction=0)

    def num_parameters(self, **kwargs: Any) -> int:
        """Return the number of parameters of one member."""
        total = 0
        for parameter in self.parameters():
            total += parameter[0].numel()
        return total

    # ---- the computation ----

    def forward(  # noqa: PLR0913 - the plain model's arguments
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        offsets: Tensor | None = None,
        self_model_targets: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the plain model's output for every member.

        Args:
            pixel_values: (K, B, channels, height, width), a batch for each member, or (B, ...), one for all.
            labels: (K, B), or (B,).
            input_ids, attention_mask, token_type_ids, offsets: of texts, in place of pixel_values, like those of the
                plain model. They have a leading dimension of K, or one batch serves all members.
            self_model_targets: (K, B, n), for members with a `target_source` outside of their network. Those of other
                members are not read.
            num_items_in_batch: number of labels in the complete batch of a step: (K,), or one number. If each member
                has its own batch, one number counts the labels of all members, in equal parts.

        Returns:
            The fields of `SelfModelingOutput` with a leading dimension of K, and `loss`, (), the sum of `losses`, (K,).
        """
        given = {
            "pixel_values": pixel_values,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "offsets": offsets,
        }
        batch = {}
        for name, value in given.items():
            if value is not None:
                batch[name] = value
        shared = is_shared(batch)
        with nullcontext() if torch.compiler.is_compiling() else _LENT:
            parts = [self._map(block, batch, shared) for block in self._blocks()]
        output = _joined(parts)
        items = self._items_by_member(num_items_in_batch, shared)
        terms = []
        for members, of_members in _divided(output, [run for run, _ in runs_of(self._targets)]):
            part = slice(members.start, members.stop)
            config = self._configs[members.start]
            own = inputs_of(part, config, LossInputs(labels, items, self_model_targets), shared)
            terms.append(targets_and_terms(config, of_members, own, shared, self._has_penalty))
        output.pop("self_model_targets", None)
        output.update(_joined(terms))
        if "classification_loss" in output:
            output["losses"] = self._weighted(output)
            output["loss"] = output["losses"].sum()
        return output

    def _weighted(self, terms: Tensors) -> Tensor:
        """Return each member's loss, (K,), from its terms."""
        losses: Any = 0.0
        for name, weights in zip(TERMS, self.term_weights, strict=True):
            if name in terms:
                losses = losses + weights.to(terms[name].dtype) * terms[name]
        return losses

    def _items_by_member(self, items: Tensor | float | None, shared: bool) -> Tensor | None:
        """Return the divisor of each member's sums, (K,). None: the number of labels in its own batch."""
        if items is None:
            return None
        items = torch.as_tensor(items, device=self.term_weights.device)
        if items.dim() > 0:
            return items
        if not shared:
            items = items / len(self)
        return items.expand(len(self))

    @property
    def takes_sparse_gradients(self) -> bool:
        """Whether no gradient is cut into members: torch cannot cut a sparse one."""
        one_block = len(list(self._blocks())) == 1
        return one_block and not any(member.has_optimizer_numbers for member in self.members)

    def _blocks(self) -> Iterator[range]:
        """Yield neighbouring members for one computation, at most `block_size`."""
        yield from chunk_ranges(len(self), self.block_size or len(self))

    def _map(self, members: range, batch: Tensors, shared: bool) -> dict[str, Tensor]:
        """Return the plain model's output for a block of members, without labels: its targets are the activations."""
        part = slice(members.start, members.stop)
        state: dict[str, Any] = dict(self.stacked.named_parameters())
        state.update(self.stacked.named_buffers())
        if len(members) < len(self):
            state = _at(part, state)
        given: dict[str, Any] = dict(batch)
        if not shared:
            given = _at(part, batch)
        dims = dict.fromkeys(given, None if shared else 0)
        mapped = map_copies(self.stacked, lambda output, _: dict(output), dims=(dims, None))
        try:
            return mapped(state, {}, given, None)
        except RuntimeError as error:
            for sign, problem in _NOT_MAPPED.items():
                if sign in str(error):
                    raise InputError("backbone", self.config.backbone, problem) from error
            raise

    # ---- files ----

    def describe(self) -> dict[str, Any]:
        """Return the configuration and the members, the content of `population.json`."""
        members = [member.describe() for member in self.members]
        return {"config": self.config.to_diff_dict(), "members": members}

    def save(self, folder: str | Path) -> None:
        """Write `population.json` and `model.safetensors`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict()
        for name, value in state.items():
            state[name] = value.contiguous()
        save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        self.save_members(folder)

    def save_members(self, folder: str | Path) -> None:
        """Write `population.json`."""
        text = json.dumps(self.describe(), indent=2)
        path = Path(folder, MEMBERS_FILE)
        path.write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, **kwargs: Any) -> SelfModelingPopulation:
        """Read a population from the files of `save`, or from a checkpoint of the Trainer.

        Args:
            folder: holds the files.
            kwargs: arguments of the constructor besides configuration and members.

        Raises:
            ValueError: the weights cannot be read, or they are not those of the members in `population.json`.
        """
        text = Path(folder, MEMBERS_FILE).read_text(encoding="utf-8")
        described = json.loads(text)
        members = [Member(**member) for member in described["members"]]
        config = SelfModelingConfig.from_dict(described["config"])
        population = cls(config, members, **kwargs)
        try:
            load_weights(population, folder, assign=True)
        except ValueError as error:
            raise InputError("folder", str(folder), str(error)) from error
        return population


def is_shared(batch: Tensors) -> bool:
    """Return whether a batch is one for all members."""
    dimensions = {name: value.dim() for name, value in batch.items()}
    return bool(dimensions.items() & _DIMENSIONS.items())


def _targets_of(config: SelfModelingConfig) -> tuple[Any, ...]:
    """Return what members have in common if their targets and terms are computed at once."""
    penalized = config.activation_penalty > 0
    return config.detach_targets, config.target_source, config.target_normalization, penalized


def _at(index: int | slice, tensors: Tensors) -> dict[str, Tensor]:
    """Return the values of one member or several members, from tensors (K, ...)."""
    return {name: value[index] for name, value in tensors.items()}


def _divided(output: Tensors, runs: Sequence[range]) -> Iterator[tuple[range, Tensors]]:
    """Yield each run of members with its part of an output.

    `split` has one gradient for all parts. That of slices would be one tensor of zeros for each part.
    """
    if len(runs) == 1:
        yield runs[0], output
        return
    sizes = [len(run) for run in runs]
    parts = {name: value.split(sizes) for name, value in output.items()}
    for place, run in enumerate(runs):
        yield run, {name: values[place] for name, values in parts.items()}


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the outputs of neighbours as one. Without labels, members with other targets than their own have none."""
    if len(parts) == 1:
        return parts[0]
    joined = {}
    for name in parts[0]:
        if all(name in part for part in parts):
            joined[name] = torch.cat([part[name] for part in parts])
    return joined
