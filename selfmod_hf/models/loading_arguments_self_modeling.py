"""Arguments of `from_pretrained` that are no fields of a configuration: where the files are, and how they are loaded.

A copy of this file travels with every pushed model (``trust_remote_code``), so it imports nothing of the package but
the files beside it, by flat relative imports.
"""

from typing import Any

# for the place of a network
_OF_USER = ("token", "cache_dir", "local_files_only", "force_download", "proxies")
_PLACE = ("revision", "subfolder", *_OF_USER)
# for the weights of a task model
_WEIGHTS = (
    "dtype", "attn_implementation", "device_map", "max_memory", "offload_folder", "offload_buffers",
    "quantization_config", "low_cpu_mem_usage",
)  # fmt: skip
# without an effect here: only safetensors are read, and no code of strangers is run. The Auto classes pass some of them
_IGNORED = (
    "use_safetensors", "trust_remote_code", "code_revision", "weights_only", "adapter_kwargs", "_from_auto",
    "_from_pipeline",
)  # fmt: skip
# arguments of transformers that would change what is loaded
_REJECTED = (
    "torch_dtype", "state_dict", "ignore_mismatched_sizes", "output_loading_info", "variant", "adapter_name",
    "generation_config", "gguf_file", "distributed_config", "device_mesh", "tp_plan", "tp_size",
    "use_kernels", "kernel_config", "key_mapping", "use_auth_token", "from_tf", "from_flax",
)  # fmt: skip


def place_in(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return those arguments of `from_pretrained` that say where a network is."""
    return {name: arguments[name] for name in _PLACE if name in arguments}


def same_user(place: dict[str, Any]) -> dict[str, Any]:
    """Return those arguments for a place that hold for another repository too, such as `token`."""
    return {name: place[name] for name in _OF_USER if name in place}


def taken_from(fields: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments for place and weights out of fields of a configuration, and return them.

    Args:
        fields: changed in place. A token that stays there would be saved with the configuration.

    Raises:
        ValueError: an argument of `from_pretrained` that is not supported.
    """
    for name in _REJECTED:
        if name in fields:
            allowed = ", ".join((*_PLACE, *_WEIGHTS))
            raise ValueError(f"{name}: not supported; allowed are {allowed}, and fields of the configuration")
    taken = {}
    for name in (*_PLACE, *_WEIGHTS):
        if name in fields:
            taken[name] = fields.pop(name)
    for name in _IGNORED:
        fields.pop(name, None)
    return taken
