"""`SelfModelingPopulation`: K self-modeling networks of one architecture as one module.

Training many networks needs no second implementation: the plain model's forward is mapped over the members
(`stacking.map_copies`; linear layers become one `bmm`), its named terms are weighed with each
member's own weight, and the sum over members goes to `backward`. Members share no parameter, so the gradient of the
sum is every member's own gradient, and an optimizer that works element by element updates each as if it were alone.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import stack_module_state

from ..errors import InputError
from ..models import SelfModelingConfig, SelfModelingPreTrainedModel, model_class_of
from ..stacking import chunk_ranges, map_copies
from .checkpoints import load_weights
from .member import Member

# Held while the stacked network runs: functional_call lends it the members' weights. Several threads may call one
# population.
_LENT = threading.RLock()

# of a batch that all members share; of each member's own, there is one more
_DIMENSIONS = (("pixel_values", 4), ("attention_mask", 2), ("offsets", 1))

# of the plain forward, whatever the configuration asks for
_PLAIN_OUTPUT = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}

MEMBERS_FILE = "population.json"
WEIGHTS_FILE = "model.safetensors"


class SelfModelingPopulation(nn.Module):
    """K networks that train at once, each as it would alone.

    Member k starts from the weights that `transformers.set_seed(seed)` and the model's constructor draw. A member of
    weight 0 keeps the self-model's head, which then never changes; all else in it is the baseline's.

    Args:
        config: what all members share; its aux_weight and detach_targets are not used.
        members: K of them, different from each other.
        block_size: members per batched computation; default: all. Changes the numbers by rounding only.
        model_class: the plain model; default: as the configuration reads images or texts.

    Attributes:
        stacked: the plain architecture, each parameter and buffer of shape (K, *shape). Not to be called by itself.

    Raises:
        ValueError: no member, two equal ones, a member the configuration does not allow, or blocks of no member.
    """

    aux_weights: Tensor
    companions: Any = None  # what a Trainer knows of the networks besides their weights
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
        names = [member.name for member in members]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not members or twice:
            raise ValueError(f"members={twice or names!r}: allowed are one or more, different from each other")
        if block_size is not None and (not isinstance(block_size, int) or block_size < 1):
            raise ValueError(f"block_size={block_size!r}: allowed are None and integers of at least 1")
        self.config = config
        self.members = tuple(members)
        self.block_size = block_size
        self.model_class = model_class or model_class_of(config)
        self.main_input_name = self.model_class.main_input_name
        self.stacked = _stack([self._initial(member) for member in self.members])
        weights = torch.tensor([member.aux_weight for member in members], dtype=torch.float64)
        self.register_buffer("aux_weights", weights, persistent=False)  # (K,)

    def _apply(self, fn: Any, recurse: bool = True) -> SelfModelingPopulation:
        """Move or cast all tensors, as torch has it. The self-model weights keep their precision."""
        super()._apply(fn, recurse)
        exact = [member.aux_weight for member in self.members]
        self.aux_weights = torch.tensor(exact, dtype=torch.float64, device=self.aux_weights.device)
        return self

    def __len__(self) -> int:
        return len(self.members)

    # ---- from and to ordinary models ----

    def config_of(self, member: Member) -> SelfModelingConfig:
        """The configuration of that member alone."""
        own = {"aux_weight": member.aux_weight, "detach_targets": member.detach_targets}
        return type(self.config).from_dict({**self.config.to_dict(), **own})

    def _initial(self, member: Member) -> SelfModelingPreTrainedModel:
        from transformers import set_seed

        config = self.config_of(member)
        with torch.random.fork_rng():
            set_seed(member.seed)
            return self.model_class(config)

    def member(self, index: int) -> SelfModelingPreTrainedModel:
        """Member `index` as an ordinary model, a copy: to save, push, prune, measure."""
        with torch.random.fork_rng():  # the weights drawn here are overwritten
            model = self.model_class(self.config_of(self.members[index]))
        reference = next(self.stacked.parameters())
        model.to(device=reference.device, dtype=reference.dtype)
        model.load_state_dict({name: value[index] for name, value in self.stacked.state_dict().items()})
        model.companions = None if self.companions is None else self.companions.of_other_weights()
        return model.train(self.training)

    def part(self, indices: range) -> SelfModelingPopulation:
        """A population of these members alone, a copy."""
        own = slice(indices.start, indices.stop)
        part = type(self)(self.config, self.members[own], block_size=self.block_size, model_class=self.model_class)
        part.to(next(self.parameters()).device)
        part.load_state_dict({name: value[own].clone() for name, value in self.state_dict().items()}, assign=True)
        return part.train(self.training)

    def weight_widths(self) -> Tensor:
        """(K,), the standard deviation of each member's final classification weights, as `weight_width` has it."""
        weights = self.stacked.get_parameter("classifier.weight").detach()  # (K, num_labels, F)
        return weights.flatten(1).double().std(dim=1, correction=0)

    def num_parameters(self, **kwargs: Any) -> int:
        """Parameters of one member."""
        return sum(parameter[0].numel() for parameter in self.parameters())

    # ---- the computation ----

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        offsets: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The plain model's output for every member.

        Args:
            pixel_values: (K, B, channels, height, width), a batch for each member; or (B, ...), one for all.
            labels: (K, B), or (B,).
            input_ids, attention_mask, offsets: of texts, in place of pixel_values, as the plain model takes them;
                likewise with a leading dimension of K, or without.
            num_items_in_batch: labels that count in the whole batch of a step: (K,), or one number. Where each member
                has its own batch, one number counts those of all members, and each is taken to have equally many.

        Returns:
            The fields of `SelfModelingOutput` with a leading dimension of K, and `loss`, (), the sum of `losses`, (K,).
        """
        given = {
            "pixel_values": pixel_values, "labels": labels, "input_ids": input_ids, "attention_mask": attention_mask,
            "offsets": offsets,
        }  # fmt: skip
        batch = {name: value for name, value in given.items() if value is not None}
        shared = any(name in batch and batch[name].dim() == alone for name, alone in _DIMENSIONS)
        items = self._items_by_member(num_items_in_batch, shared)
        with nullcontext() if torch.compiler.is_compiling() else _LENT:
            parts = [self._map(block, detach, batch, shared, items) for block, detach in self._blocks()]
        output = {
            name: torch.cat([part[name] for part in parts]) if len(parts) > 1 else parts[0][name] for name in parts[0]
        }
        if "classification_loss" in output:
            output["losses"] = self.config.classification_weight * output["classification_loss"]  # (K,)
            if "self_modeling_loss" in output:
                aux_weights = self.aux_weights.to(output["losses"].dtype)
                output["losses"] = output["losses"] + aux_weights * output["self_modeling_loss"]
            output["loss"] = output["losses"].sum()
        return output

    def _items_by_member(self, items: Tensor | float | None, shared: bool) -> Tensor | None:
        """Return what each member's sums are divided by, (K,). None: the labels that count in its own batch."""
        if items is None:
            return None
        items = torch.as_tensor(items, device=self.aux_weights.device)
        if items.dim() == 0:
            items = items if shared else items / len(self)
            items = items.expand(len(self))
        return items

    @property
    def num_blocks(self) -> int:
        """Batched computations per forward pass."""
        return sum(1 for _ in self._blocks())

    def _blocks(self) -> Iterator[tuple[range, bool]]:
        """Neighbouring members that one computation can hold: alike in their targets, at most `block_size` many."""
        for detach, run in groupby(range(len(self)), key=lambda k: self.members[k].detach_targets):
            indices = list(run)
            for chunk in chunk_ranges(len(indices), self.block_size or len(indices)):
                yield range(indices[chunk.start], indices[chunk.stop - 1] + 1), detach

    def _map(
        self, members: range, detach: bool, batch: Mapping[str, Tensor], shared: bool, items: Tensor | None
    ) -> dict[str, Tensor]:
        part = slice(members.start, members.stop)
        state = {
            name: value if len(members) == len(self) else value[part]
            for name, value in [*self.stacked.named_parameters(), *self.stacked.named_buffers()]
        }
        if not shared:
            batch = {name: value[part] for name, value in batch.items()}
        given: dict[str, Any] = {**batch, **_PLAIN_OUTPUT}
        dims: dict[str, int | None] = dict.fromkeys(given)
        if not shared:
            dims |= dict.fromkeys(batch, 0)
        if items is not None:
            given["num_items_in_batch"] = items[part]
            dims["num_items_in_batch"] = 0
        self.stacked.config.detach_targets = detach  # the plain forward reads it there
        try:
            return map_copies(self.stacked, _without_loss, dims=(dims, None))(state, {}, given, None)
        except RuntimeError as error:
            if "randomness" not in str(error):
                raise
            problem = (
                "the network draws random numbers (dropout, stochastic depth), but not those a member draws alone; "
                "allowed are networks that draw none while they train"
            )
            raise InputError("backbone", self.config.backbone, problem) from error

    # ---- what an optimizer step must not mix ----

    @torch.no_grad()
    def clip_grad_norms(self, max_norm: float) -> Tensor:
        """Scale each member's gradient to a norm of at most `max_norm`; returns the norms before, (K,)."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norms = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in gradients]).norm(dim=0)  # (K,)
        scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)  # torch.nn.utils.clip_grad_norm_
        if math.isfinite(max_norm):
            for gradient in gradients:
                gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))
        return norms

    # ---- files ----

    def describe(self) -> dict[str, Any]:
        """Configuration and members, as `population.json` has them."""
        return {"config": self.config.to_diff_dict(), "members": [member.describe() for member in self.members]}

    def save(self, folder: str | Path) -> None:
        """Write `population.json` and `model.safetensors`."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        self.save_members(folder)

    def save_members(self, folder: str | Path) -> None:
        (Path(folder) / MEMBERS_FILE).write_text(json.dumps(self.describe(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, **kwargs: Any) -> SelfModelingPopulation:
        """Read what `save`, or a checkpoint of the Trainer, has written.

        Raises:
            ValueError: weights that cannot be read, or that are not those of the members in `population.json`.
        """
        described = json.loads((Path(folder) / MEMBERS_FILE).read_text(encoding="utf-8"))
        members = [Member(**member) for member in described["members"]]
        population = cls(SelfModelingConfig.from_dict(described["config"]), members, **kwargs)
        try:
            load_weights(population, folder, assign=True)
        except ValueError as error:
            raise InputError("folder", str(folder), str(error)) from error
        return population

    def check_members_file(self, folder: str | Path) -> None:
        """Refuse a checkpoint of other members: of the same shapes, it would load without a word.

        Raises:
            ValueError: `population.json` is missing there, or says something else than this population.
        """
        path = Path(folder) / MEMBERS_FILE
        found = json.loads(path.read_text(encoding="utf-8"))["members"] if path.is_file() else None
        if found != self.describe()["members"]:
            raise InputError("resume_from_checkpoint", str(folder), "holds no population of these members")


def _without_loss(output: Mapping[str, Tensor], _: None) -> dict[str, Tensor]:
    return {name: value for name, value in output.items() if name != "loss"}


def _stack(models: Sequence[SelfModelingPreTrainedModel]) -> SelfModelingPreTrainedModel:
    """The first model, its parameters and buffers replaced by those of all, each (K, *shape)."""
    parameters, buffers = stack_module_state(list(models))
    first = models[0]
    for name, value in parameters.items():
        owner, _, leaf = name.rpartition(".")
        setattr(first.get_submodule(owner), leaf, nn.Parameter(value.detach()))
    for name, value in buffers.items():
        owner, _, leaf = name.rpartition(".")
        setattr(first.get_submodule(owner), leaf, value)
    return first
