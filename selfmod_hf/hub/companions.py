"""What goes beside a network's weights: its processor, its task, how it was trained, what was measured."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..json_records import NetworkRun
from ..weights import KEY, weights_sha256
from .records import RUN_FILE, STATE_FILE


@dataclass(frozen=True)
class Measured:
    """What an evaluation found.

    Attributes:
        weights: names the weights that were evaluated, as `SavingTrainer.weights_token` does.
        metrics: by name, such as `eval_accuracy`.
    """

    weights: str
    metrics: dict[str, Any]


@dataclass
class Companions:
    """What a Trainer knows of its network. It stays with the model, so that `model.push_to_hub` can send it.

    Attributes:
        run: content of run.json, without the fields that describe one state of the weights.
        processor: image processor or tokenizer, if any.
        arguments: content of training_args.json.
        epoch: epochs trained.
        history: the Trainer's log.
        measured: the newest evaluation.
        trained: names the weights at the end of training.
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
            weights: names them, as `SavingTrainer.weights_token` does.
        """
        run = self.run.with_fields(weights_sha256=weights_sha256(folder), epoch=self.epoch)
        if self.measured is not None and self.measured.weights == weights:
            run = run.with_fields(results=_without_times(self.measured.metrics))
        write_json(folder / RUN_FILE, run.to_dict())
        if self.arguments:
            write_json(folder / "training_args.json", self.arguments)

    def write_all(self, folder: Path, weights: str) -> None:
        """Write the processor and, if these are the weights that were trained, the log, too."""
        self.write(folder, weights)
        if self.processor is not None:
            self.processor.save_pretrained(folder)
        described = [self.trained, self.measured.weights if self.measured else None]
        if self.history and weights in described:
            named = {"epoch": self.epoch, KEY: weights_sha256(folder)}
            write_json(folder / STATE_FILE, {"epoch": self.epoch, "log_history": [*self.history, named]})

    def of_other_weights(self) -> Companions:
        """Return what also holds for other weights of the same task: processor, data and arguments."""
        return dataclasses.replace(self, history=[], measured=None, trained=None)


def _without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what does not differ from run to run."""
    timed = ("_runtime", "_per_second")
    return {name: value for name, value in metrics.items() if not name.endswith(timed)}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a mapping as JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
