"""Loading of this package's networks from a folder or from the Hub, with checks of configuration and weights."""

import copy
from pathlib import Path

import torch
from safetensors import SafetensorError

from .configuration_self_modeling import SelfModelingConfig
from .modeling_self_modeling import SelfModelingForImageClassification, SelfModelingForSequenceClassification
from .pretrained_self_modeling import SelfModelingPreTrainedModel
from .wrapped_classes_self_modeling import WRAPPED_CLASSES


def model_class_of(config: SelfModelingConfig) -> type[SelfModelingPreTrainedModel]:
    """Return the class of networks for a configuration: of images, of texts, or of a kind of task models.

    Raises:
        ValueError: the configuration of a task model without its kind.

    Example:
        >>> model_class_of(SelfModelingConfig()).__name__
        'SelfModelingForImageClassification'
    """
    if config.wrapped_config is not None:
        if config.task_type is None:
            raise ValueError(f"task_type=None: needed with a wrapped_config; allowed are {', '.join(WRAPPED_CLASSES)}")
        return WRAPPED_CLASSES[config.task_type]
    if config.reads_text:
        return SelfModelingForSequenceClassification
    return SelfModelingForImageClassification


def check_config(config: SelfModelingConfig) -> None:
    """Reject a configuration of an impossible network, or of one larger than this machine.

    The network is built on torch's meta device, so it takes no memory.

    Raises:
        ValueError: the problem with the configuration.

    Example:
        >>> check_config(SelfModelingConfig(hidden_sizes=[4], target_layers=["relu9"]))
        Traceback (most recent call last):
        ValueError: target_layers: no module is named 'relu9'; allowed are hidden.linear1, hidden.relu1
    """
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            model_class_of(config)(copy.deepcopy(config))
    except ValueError:
        raise
    except Exception as error:  # timm and transformers raise errors of any kind for wrong arguments
        given = []
        for name in ("backbone", "backbone_kwargs", "backbone_config", "image_size"):
            value = getattr(config, name)
            if value:
                given.append(f"{name}={value!r}")
        if config.wrapped_config is not None:
            given = [f"wrapped_config={type(config.wrapped_config).__name__}"]
        fields = ", ".join(given)
        raise ValueError(f"{fields}: no network can be built of it ({type(error).__name__}: {error})") from error


def load_config(name: str | Path, *, revision: str = "main", subfolder: str = "") -> SelfModelingConfig:
    """Load the configuration of a network of this package from a folder or from the Hub.

    Args:
        name: the folder, or the repository's id.
        revision: branch, tag or commit of the repository.
        subfolder: folder of the network within it.

    Raises:
        ValueError: the configuration of another model, or an unusable field.
        OSError: no configuration, or an unreadable one.
    """
    where = Path(name, subfolder)
    try:
        fields, _ = SelfModelingConfig.get_config_dict(name, revision=revision, subfolder=subfolder)
        kind = fields.get("model_type")
    except (TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{where}/config.json: allowed is a JSON object of the model's fields ({error})") from error
    if kind != SelfModelingConfig.model_type:
        raise ValueError(f"{where}/config.json: model_type={kind!r}; allowed is {SelfModelingConfig.model_type!r}")
    try:
        return SelfModelingConfig.from_dict(fields)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{where}/config.json: a field has a wrong type ({error})") from error
    except ValueError as error:
        raise ValueError(f"{where}/config.json: {error}") from error


def load_model(
    name: str | Path, *, revision: str = "main", subfolder: str = "", finite: bool = True
) -> SelfModelingPreTrainedModel:
    """Return a trained network in eval mode, with all its weights.

    Args:
        name: the folder, or the repository's id.
        revision: branch, tag or commit of the repository.
        subfolder: folder of the network within it.
        finite: reject NaN and infinite weights. False: load diverged networks too.

    Raises:
        ValueError: unusable configuration or weights.
        OSError: no configuration or weights, or unreadable files.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> network = SelfModelingForImageClassification(SelfModelingConfig(image_size=8))
        >>> with TemporaryDirectory() as folder:
        ...     network.save_pretrained(folder)
        ...     load_model(folder).config.image_size
        [8, 8]
    """
    place = {"revision": revision, "subfolder": subfolder}
    config = load_config(name, **place)
    check_config(config)
    where = Path(name, subfolder)
    try:
        model = model_class_of(config).from_pretrained(name, config=config, trust_remote_code=False, **place)
    except SafetensorError as error:
        raise ValueError(f"{where}/model.safetensors: cannot be read ({error})") from error
    if finite:
        for key, tensor in model.state_dict().items():
            if not tensor.isfinite().all():
                raise ValueError(f"{where}/model.safetensors: {key} holds NaN or infinity")
    return model.eval()
