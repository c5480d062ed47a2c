"""Target layers: which modules they are, what they give in a forward call, and whether that can be predicted.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import fnmatch
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .configuration_self_modeling import SelfModelingConfig
from .losses_self_modeling import at_least_float32

# The activations of the forward call that runs now in this thread. Several threads may call one network at once.
CALL = threading.local()


class Capture:
    """Forward hook that keeps a module's output for the forward call that runs in this thread.

    A module may be called several times in one forward (ALBERT's layers share one). Its last call counts.

    Args:
        name: the module's name in the network.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        activations = getattr(CALL, "activations", None)
        if activations is None:  # a layer that is called by itself
            return
        first = output if isinstance(output, torch.Tensor) or not output else output[0]
        if isinstance(first, torch.Tensor):
            activations[self.name] = first.clone()  # a later in-place operation must not change it


def pooled(activation: torch.Tensor, pooling: str, mask: torch.Tensor | None) -> torch.Tensor:
    """One row per sample, (B, n): token-wise activations (B, T, n) pooled over the tokens, others flattened.

    Args:
        activation: (B, ...).
        pooling: "mean", "first" or "flatten".
        mask: (B, T), nonzero for tokens that are no padding; None: all are. A sample without any gives zeros.
    """
    if activation.dim() != 3 or pooling == "flatten":
        return activation.flatten(start_dim=1)
    if mask is None:
        return activation[:, 0] if pooling == "first" else activation.mean(dim=1)
    real = mask[:, :, None] != 0  # (B, T, 1)
    if pooling == "first":
        first = real.long().argmax(dim=1, keepdim=True)  # (B, 1, 1)
        return torch.where(real.any(dim=1), activation.take_along_dim(first, dim=1).squeeze(1), 0.0)
    total = torch.where(real, at_least_float32(activation), 0.0).sum(dim=1)  # (B, n)
    return (total / real.sum(dim=1).clamp(min=1)).to(activation.dtype)


def matches(name: str, pattern: str) -> bool:
    """Whether a module's name fits a pattern, part by part: a wildcard does not reach over a dot."""
    parts = name.split(".")
    candidates = (pattern.split("."), ["backbone", *pattern.split(".")])
    return any(
        len(parts) == len(wanted) and all(fnmatch.fnmatchcase(part, w) for part, w in zip(parts, wanted, strict=True))
        for wanted in candidates
    )


def find_target_layers(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the names of the modules that fit the patterns.

    Raises:
        ValueError: a pattern that no module fits. The message lists all names.
    """
    names = [name for name, _ in network.named_modules() if name.startswith(("backbone.", "hidden."))]
    layers: list[str] = []
    for pattern in patterns:
        found = [name for name in names if matches(name, pattern)]
        if not found:
            raise ValueError(f"target_layers: no module is named {pattern!r}; allowed are {', '.join(names)}")
        layers += [name for name in found if name not in layers]
    return layers


def hook_target_layers(network: nn.Module, layers: list[str]) -> None:
    """Hook the modules that have the target layers' names now.

    An adapter or a quantized layer may have replaced a layer since the last call. Then its output is the activation.
    """
    for name in layers:
        try:
            module = network.get_submodule(name)
        except AttributeError as error:
            raise ValueError(f"target_layers: {name!r} is no longer a module of the network") from error
        hooks = list(module._forward_hooks.values())  # another thread may add one now
        if not any(isinstance(hook, Capture) and hook.name == name for hook in hooks):
            module.register_forward_hook(Capture(name))


def layers_that_give(
    layers: list[str],
    patterns: Sequence[str],
    activations: dict[str, torch.Tensor],
    tokens: torch.Tensor | None,
) -> list[str]:
    """Return the layers that were called. A wildcard may also match containers, which are never called.

    Args:
        layers: names of modules.
        patterns: of the configuration.
        activations: of two samples, by the names of their layers.
        tokens: (2, T), the two samples if they are texts.

    Raises:
        ValueError: a pattern without any activation, or a layer without one activation of fixed size for each sample.
    """
    called = [name for name in layers if name in activations]
    for pattern in patterns:
        if not any(matches(name, pattern) for name in called):
            raise ValueError(
                f"target_layers: {pattern!r} gives no activation (a container of layers is never called); name a "
                f"layer within it, such as '{pattern}.*'"
            )
    for name, activation in activations.items():
        shape = tuple(activation.shape)
        usable = activation.dim() > 1 and len(activation) == 2 and activation.is_floating_point()
        if tokens is not None:  # texts differ in length
            usable &= activation.dim() == 2 or (activation.dim() == 3 and shape[1] == tokens.shape[1])
        if not usable:
            raise ValueError(
                f"target_layers: {name!r} gives {shape} for two samples; allowed are layers that give (samples, n) "
                "or, of texts, (samples, tokens, n)"
            )
    return called


def check_same_in_training(
    expected: dict[str, torch.Tensor],
    found: dict[str, torch.Tensor],
    layers: list[str],
    pooling: str,
    rates: list[tuple[Any, str, str]],
) -> None:
    """Reject targets that a training step may lack, or of which it sees a part.

    Args:
        expected: the activations of a call in eval mode.
        found: those of a call in training mode that leaves out all that it can.
        layers: the target layers.
        pooling: of the configuration.
        rates: at which the backbone leaves out layers or patches, from `drop_rates`.

    Raises:
        ValueError: names the layer and the rates.
    """
    for layer in layers:
        changed = layer not in found or len(expected[layer].shape) != len(found[layer].shape)
        if pooling == "flatten":
            changed = changed or expected[layer].shape != found[layer].shape
        if changed:
            given = ", ".join(sorted({described for _, _, described in rates}))
            raise ValueError(
                f"target_layers: {layer!r} is skipped or cut in some training steps, because the backbone has "
                f"{given}; allowed are 0 there, or layers that give all their activations in every step"
            )


def choose_targets(
    config: SelfModelingConfig, own: torch.Tensor, given: torch.Tensor | None, needed: bool
) -> torch.Tensor | None:
    """Return what the self-model predicts, (B, n), by `config.target_source`. None: it is neither given nor needed.

    Args:
        config: of the network.
        own: (B, n), activations of the target layers.
        given: (B, n), of a source outside of the network.
        needed: whether a loss is computed.

    Raises:
        ValueError: given targets that are missing, of another size, or that the source does not take. A batch of one
            sample, whose targets cannot be shuffled.
    """
    source = config.target_source
    takes_given = source not in ("own", "shuffled")
    if given is not None and (not takes_given or given.shape != own.shape):
        raise ValueError(
            f"self_model_targets: of shape {tuple(given.shape)} with target_source={source!r}; allowed are "
            f"{tuple(own.shape)} with 'random' and 'network:...', and None with the other sources"
        )
    if not needed and source != "own" and given is None:
        return None
    if source == "own":
        chosen = own
    elif source == "shuffled":
        chosen = of_previous_samples(own)
    elif given is not None:
        chosen = given.to(own.dtype)
    else:
        raise ValueError(f"target_source={source!r}: a loss needs `self_model_targets`; the Trainer gives them")
    if config.target_normalization == "rms":
        chosen = with_unit_rms(chosen)
    return chosen.detach() if config.detach_targets else chosen


def of_previous_samples(targets: torch.Tensor) -> torch.Tensor:
    """Return the targets of the previous sample of the batch for each sample, (B, n).

    A training batch is a random draw. So this pairs samples at random, and it draws no random number itself.

    Raises:
        ValueError: a batch of one sample.
    """
    if len(targets) < 2:
        raise ValueError("target_source='shuffled': a batch of one sample; allowed are at least 2")
    return targets.roll(1, dims=0)


def with_unit_rms(targets: torch.Tensor) -> torch.Tensor:
    """Divide the targets of each sample, (B, n), by their root mean square. Zeros stay zeros."""
    mean_square = targets.square().mean(dim=1, keepdim=True)  # (B, 1)
    return targets * (mean_square + torch.finfo(targets.dtype).eps).rsqrt()
