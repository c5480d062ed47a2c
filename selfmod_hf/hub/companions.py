"""Write the files beside a network's weights: its processor, task, training arguments and measurements."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..json_records import NetworkRun
from ..weights import KEY, weights_sha256
from .records import RUN_FILE, STATE_FILE

TIMES = ("_runtime", "_per_second")  # ends of the names of metrics that differ from run to run


@dataclass(frozen=True)
class Measured:
    """Holds the result of an evaluation.

    Attributes:
        weights: identifies the evaluated weights, like `SavingTrainer.weights_token`.
        metrics: by name, such as `eval_accuracy`.
    """

    weights: str
    metrics: dict[str, Any]


@dataclass
class Companions:
    """Holds a Trainer's facts about its network. They stay with the model, because `model.push_to_hub` sends them.

    Attributes:
        run: content of run.json, without the fields about one state of the weights.
        processor: image processor or tokenizer, if any.
        arguments: content of training_args.json.
        epoch: epochs trained.
        history: the Trainer's log.
        measured: the newest evaluation.
        trained: identifies the weights at the end of training.
    """

    run: NetworkRun
    processor: Any = None
    arguments: dict[str, Any] = field(default_factory=dict)
    epoch: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    measured: Measured | None = None
    trained: str | None = None

    def write(self, folder: Path, weights: str) -> None:
        """Write run.json and training_args.json beside weights.

        Args:
            folder: holds the weights.
            weights: identifies them, like `SavingTrainer.weights_token`.
        """
        run = self.run.with_fields(weights_sha256=weights_sha256(folder), epoch=self.epoch)
        if self.measured is not None and self.measured.weights == weights:
            run = run.with_fields(results=_without_times(self.measured.metrics))
        write_json(folder / RUN_FILE, run.to_dict())
        if self.arguments:
            write_json(folder / "training_args.json", self.arguments)

    def write_all(self, folder: Path, weights: str) -> None:
        """Write the processor too, and the log if the weights are those at the end of training or of `measured`."""
        self.write(folder, weights)
        if self.processor is not None:
            self.processor.save_pretrained(folder)
        described = [self.trained]
        if self.measured is not None:
            described.append(self.measured.weights)
        if self.history and weights in described:
            last = {"epoch": self.epoch, KEY: weights_sha256(folder)}
            write_json(folder / STATE_FILE, {"epoch": self.epoch, "log_history": [*self.history, last]})

    def of_other_weights(self) -> Companions:
        """Return the facts for other weights of the same task: processor, data and arguments."""
        return dataclasses.replace(self, history=[], measured=None, trained=None)


def _without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.endswith(TIMES)}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a mapping as JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
