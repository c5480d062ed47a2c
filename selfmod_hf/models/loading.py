"""Networks of this package, read from a folder or from the Hub and refused where they cannot be used."""

from pathlib import Path

import torch
from safetensors import SafetensorError

from .configuration_self_modeling import SelfModelingConfig
from .modeling_self_modeling import SelfModelingForImageClassification, SelfModelingForSequenceClassification
from .pretrained_self_modeling import SelfModelingPreTrainedModel


def model_class_of(config: SelfModelingConfig) -> type[SelfModelingPreTrainedModel]:
    """The class of networks that this configuration describes: of images, or of texts."""
    return SelfModelingForSequenceClassification if config.reads_text else SelfModelingForImageClassification


def check_config(config: SelfModelingConfig) -> None:
    """Reject a configuration that describes no network, or one larger than this machine.

    The network is built on torch's meta device, which takes no memory.

    Raises:
        ValueError: what is wrong with it.
    """
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            model_class_of(config)(config)
    except ValueError:
        raise
    except Exception as error:  # what timm and transformers raise for arguments that are none can be anything
        fields = {
            name: getattr(config, name) for name in ("backbone", "backbone_kwargs", "backbone_config", "image_size")
        }
        given = ", ".join(f"{name}={value!r}" for name, value in fields.items() if value)
        raise ValueError(f"{given}: no network can be built of it ({type(error).__name__}: {error})") from error


def load_config(name: str | Path, *, revision: str = "main", subfolder: str = "") -> SelfModelingConfig:
    """The configuration of a network of this package, in a folder or on the Hub.

    Args:
        name: the folder, or the repository's id.
        revision: of the repository: a branch, a tag or a commit.
        subfolder: where in it the network lies.

    Raises:
        ValueError: it is of another model, or has a field that cannot be used.
        OSError: there is none, or it cannot be read.
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
    """Return a trained network, in eval mode: all its weights, and no other.

    Args:
        name: the folder, or the repository's id.
        revision: of the repository: a branch, a tag or a commit.
        subfolder: where in it the network lies.
        finite: refuse weights that are NaN or infinite; False for who can tell of a network that has diverged.

    Raises:
        ValueError: configuration or weights that cannot be used.
        OSError: there are none, or they cannot be read.
    """
    place = {"revision": revision, "subfolder": subfolder}
    config = load_config(name, **place)
    check_config(config)
    where = Path(name, subfolder)
    try:
        model = model_class_of(config).from_pretrained(name, config=config, trust_remote_code=False, **place)
    except SafetensorError as error:
        raise ValueError(f"{where}/model.safetensors: cannot be read ({error})") from error
    for key, tensor in model.state_dict().items():
        if finite and not bool(tensor.isfinite().all()):
            raise ValueError(f"{where}/model.safetensors: {key} holds NaN or infinity")
    return model.eval()
