"""Data sets as tensors."""

from .images import ImageTensors, TaskData, load_images
from .loading import EpochBatchSampler, TensorDataLoader, epoch_order
from .tasks import TASKS, TaskSpec, get_task

__all__ = [
    "TASKS",
    "EpochBatchSampler",
    "ImageTensors",
    "TaskData",
    "TaskSpec",
    "TensorDataLoader",
    "epoch_order",
    "get_task",
    "load_images",
]
