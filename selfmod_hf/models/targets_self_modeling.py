"""Target layers: their modules, their activations in a forward call, and checks that these can be predicted.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

import fnmatch
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .configuration_self_modeling import SelfModelingConfig
from .fields_self_modeling import INSIDE
from .losses_self_modeling import at_least_float32

# The activations of this thread's current forward call. Several threads may call one network at once.
CALL = threading.local()
LOST_GRADIENT = "use_reentrant loses gradients without `detach_targets`; allowed is {'use_reentrant': False}"


class Capture:
    """Keep a module's output for this thread's current forward call, as a forward hook.

    A module may be called several times in one forward (ALBERT's layers share one). Its last call counts.

    Args:
        name: the module's name in the network.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        activations = getattr(CALL, "activations", None)
        if activations is None:  # the layer is called by itself
            return
        if not isinstance(output, Tensor) and output:
            output = output[0]
        if isinstance(output, Tensor):
            activations[self.name] = output.clone()  # a later in-place operation must not change it


def pooled(activation: Tensor, pooling: str, mask: Tensor | None) -> Tensor:
    """Return one row per sample, (B, n): token-wise activations (B, T, n) pooled over the tokens, others flattened.

    Args:
        activation: (B, ...).
        pooling: "mean", "first" or "flatten".
        mask: (B, T), zero for padding. None: no token is padding. A sample of padding only gives zeros.
    """
    if activation.dim() != 3 or pooling == "flatten":
        return activation.flatten(start_dim=1)
    if mask is None:
        if pooling == "first":
            return activation[:, 0]
        return activation.mean(dim=1)
    real = mask[:, :, None] != 0  # (B, T, 1)
    if pooling == "first":
        place = real.long().argmax(dim=1, keepdim=True)  # (B, 1, 1)
        first = activation.take_along_dim(place, dim=1)
        has_token = real.any(dim=1)  # (B, 1)
        return torch.where(has_token, first.squeeze(1), 0.0)
    kept = torch.where(real, at_least_float32(activation), 0.0)
    total = kept.sum(dim=1)  # (B, n)
    count = real.sum(dim=1).clamp(min=1)
    return (total / count).to(activation.dtype)


def matches(name: str, pattern: str, base: str = "backbone") -> bool:
    """Return whether a module's name fits a pattern, part by part. A wildcard does not match a dot.

    Args:
        name: the module's name.
        pattern: a name with wildcards.
        base: first part of a name, which a pattern may leave out.
    """
    parts = name.split(".")
    wanted = pattern.split(".")
    missing = len(parts) - len(wanted)
    if missing == 1 and parts[0] == base:
        del parts[0]
    elif missing != 0:
        return False
    return all(map(fnmatch.fnmatchcase, parts, wanted))


def find_target_layers(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the names of the modules in backbone and hidden layers that match the patterns.

    Raises:
        ValueError: a pattern without a module. The message lists all names.
    """
    names = []
    for name, _ in network.named_modules():
        if name.startswith(("backbone.", "hidden.")):
            names.append(name)
    return matching_layers(names, patterns)


def matching_layers(
    names: Sequence[str], patterns: Sequence[str], base: str = "backbone", field: str = "target_layers"
) -> list[str]:
    """Return the names that match the patterns.

    Args:
        names: names of modules.
        patterns: names with wildcards.
        base: first part of a name, which a pattern may leave out.
        field: of the configuration, with the patterns.

    Raises:
        ValueError: a pattern without a module. The message lists all names.
    """
    layers: dict[str, None] = {}  # an ordered set
    for pattern in patterns:
        found = [name for name in names if matches(name, pattern, base)]
        if not found:
            raise ValueError(f"{field}: no module is named {pattern!r}; allowed are {', '.join(names)}")
        layers |= dict.fromkeys(found)
    return list(layers)


def hook_target_layers(network: nn.Module, layers: list[str]) -> None:
    """Hook the current modules of the target layers' names.

    An adapter or a quantized layer may have replaced a layer since the last call. Then its output is the activation.
    """
    for name in layers:
        try:
            module = network.get_submodule(name)
        except AttributeError as error:
            raise ValueError(f"target_layers: {name!r} is no longer a module of the network") from error
        hooks = list(module._forward_hooks.values())  # another thread may add one now
        captured = [hook.name for hook in hooks if isinstance(hook, Capture)]
        if name not in captured:
            module.register_forward_hook(Capture(name))


def layers_that_give(
    layers: list[str],
    patterns: Sequence[str],
    activations: dict[str, Tensor],
    tokens: Tensor | None,
) -> list[str]:
    """Return the called layers. A wildcard may also match containers, and these are never called.

    Args:
        layers: names of modules.
        patterns: `target_layers` of the configuration.
        activations: activations of two samples, by the names of their layers.
        tokens: (2, T), the two samples if they are texts.

    Raises:
        ValueError: a pattern without any activation, or a layer without one activation of fixed size for each sample.
    """
    called = called_layers(layers, patterns, activations)
    for name, activation in activations.items():
        if not _can_be_predicted(activation, tokens):
            raise ValueError(
                f"target_layers: {name!r} gives {tuple(activation.shape)} for two samples; allowed are layers that "
                "give (samples, n) or, of texts, (samples, tokens, n)"
            )
    return called


def called_layers(
    layers: list[str], patterns: Sequence[str], activations: dict[str, Tensor], base: str = "backbone"
) -> list[str]:
    """Return the layers that were called. A wildcard may also match containers, and these are never called.

    Args:
        layers: names of modules.
        patterns: `target_layers` of the configuration.
        activations: activations by the names of their layers.
        base: first part of a name, which a pattern may leave out.

    Raises:
        ValueError: a pattern without any activation.
    """
    called = [name for name in layers if name in activations]
    for pattern in patterns:
        found = [name for name in called if matches(name, pattern, base)]
        if not found:
            raise ValueError(
                f"target_layers: {pattern!r} gives no activation (a container of layers is never called); name a "
                f"layer within it, such as '{pattern}.*'"
            )
    return called


def _can_be_predicted(activation: Tensor, tokens: Tensor | None) -> bool:
    """Return whether an activation of two samples has one row of floats per sample, for texts of any length too."""
    dimensions = activation.dim()
    if not activation.is_floating_point() or dimensions < 2 or len(activation) != 2:
        return False
    if tokens is None or dimensions == 2:
        return True
    return dimensions == 3 and activation.shape[1] == tokens.shape[1]


def check_same_in_training(
    expected: dict[str, Tensor],
    found: dict[str, Tensor],
    layers: list[str],
    pooling: str,
    rates: list[tuple[Any, str, str]],
) -> None:
    """Reject targets missing or incomplete in some training steps.

    Args:
        expected: the activations of a call in eval mode.
        found: the activations of a call in training mode, with as much left out as possible.
        layers: the target layers.
        pooling: `target_pooling` of the configuration.
        rates: the backbone's rates of left-out layers or patches, from `drop_rates`.

    Raises:
        ValueError: names the layer and the rates.
    """
    descriptions = {described for _, _, described in rates}
    rates_in_words = ", ".join(sorted(descriptions))
    for layer in layers:
        changed = True
        if layer in found:
            before = expected[layer].shape
            after = found[layer].shape
            changed = len(before) != len(after)
            if pooling == "flatten":
                changed = before != after
        if changed:
            raise ValueError(
                f"target_layers: {layer!r} is skipped or cut in some training steps, because the backbone has "
                f"{rates_in_words}; allowed are 0 there, or layers that give all their activations in every step"
            )


def loses_gradient(config: SelfModelingConfig, arguments: Mapping[str, Any]) -> bool:
    """Return whether gradient checkpointing loses the gradient of the targets.

    The reentrant form runs a layer without its gradient first, and the target is taken there. torch gives no error.

    Args:
        config: the network's.
        arguments: of the checkpointing function, for example ``{"use_reentrant": True}``.
    """
    return bool(arguments.get("use_reentrant") and config.target_layers and not config.detach_targets)


def warn_of_no_weight(config_fields: Mapping[str, Any]) -> None:
    """Warn of target layers that nothing trains."""
    if config_fields.get("target_layers") and "aux_weight" not in config_fields:
        warnings.warn("aux_weight is 0: nothing trains the self-model of these target_layers", stacklevel=3)


def choose_targets(config: SelfModelingConfig, own: Tensor, given: Tensor | None, needed: bool) -> Tensor | None:
    """Return the self-model's targets, (B, n), by `config.target_source`. None: neither given nor needed.

    Args:
        config: the network's.
        own: (B, n), activations of the target layers, or (B, T, n) with `target_pooling="tokens"`.
        given: targets of a source outside of the network, of the same shape.
        needed: whether a loss is computed.

    Raises:
        ValueError: missing targets, or targets of another size or for another source.
    """
    source = config.target_source
    is_outside = source not in INSIDE
    if given is not None and (not is_outside or given.shape != own.shape):
        raise ValueError(
            f"self_model_targets: of shape {tuple(given.shape)} with target_source={source!r}; allowed are "
            f"{tuple(own.shape)} with 'random' and 'network:...', and None with the other sources"
        )
    if source == "own":
        chosen = own
    elif given is not None:
        chosen = given.to(own.dtype)
    elif not needed:
        return None
    elif source == "shuffled":
        chosen = of_previous_samples(own)
    else:
        raise ValueError(f"target_source={source!r}: a loss needs `self_model_targets`; the Trainer gives them")
    if config.target_normalization == "rms":
        chosen = with_unit_rms(chosen)
    if config.detach_targets:
        return chosen.detach()
    return chosen


def of_previous_samples(targets: Tensor) -> Tensor:
    """Return for each sample the targets of the previous sample of the batch, (B, n).

    A training batch is a random draw. So this pairs samples at random, and it draws no random number itself. The only
    sample of an uneven last batch keeps its own targets.
    """
    return targets.roll(1, dims=0)


def with_unit_rms(targets: Tensor) -> Tensor:
    """Divide the targets of each sample, (B, n), or of each token by their root mean square. Zeros stay zeros."""
    mean_square = targets.square().mean(dim=-1, keepdim=True)  # (B, 1)
    smallest = torch.finfo(targets.dtype).eps
    return targets * (mean_square + smallest).rsqrt()
