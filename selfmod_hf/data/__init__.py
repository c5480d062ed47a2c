"""Data sets as tensors."""

from .augmentation import RandomAffine
from .batches import EpochBatchSampler, TensorDataLoader, epoch_order
from .blocks import BlockTensors, load_blocks
from .image_files import ImageFile
from .images import ImageTensors, load_images
from .preprocessing import ImagePreprocessing, backbone_preprocessing, network_preprocessing
from .splits import resolve_task
from .tasks import TASKS, TaskSpec, default_recipe, get_task, make_task
from .tensors import TaskData, TensorData
from .texts import TextTensors, load_texts
from .tokenizer import basic_english_tokenizer

__all__ = [
    "TASKS",
    "BlockTensors",
    "EpochBatchSampler",
    "ImageFile",
    "ImagePreprocessing",
    "ImageTensors",
    "RandomAffine",
    "TaskData",
    "TaskSpec",
    "TensorData",
    "TensorDataLoader",
    "TextTensors",
    "backbone_preprocessing",
    "basic_english_tokenizer",
    "default_recipe",
    "epoch_order",
    "get_task",
    "load_blocks",
    "load_images",
    "load_texts",
    "make_task",
    "network_preprocessing",
    "resolve_task",
]
