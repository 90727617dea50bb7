"""What a run says of itself: a progress bar on rank 0, and one JSON line for each print."""
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from s21k.core.distributed import World
from s21k.core.errors import TrainingFault
from s21k.core.structures import Batch


class Log:
    """Means of the losses since the last print; the bar and log.jsonl on rank 0 only."""

    def __init__(self, path: Path, first: int, total: int, every: int, world: World, name: str) -> None:
        self.path, self.total, self.every, self.name = path, total, every, name
        self.shown = world.rank == 0
        self.bar = tqdm(total=total, initial=first, desc=name, disable=not self.shown, mininterval=5.0,
                        dynamic_ncols=True)
        self.sums: dict[str, float] = {}
        self.count, self.steps, self.since, self.waited = 0, 0, time.time(), 0.0
        self.failure = ""  # why a line could not be written; step_monitor.py tells the other processes

    def waits(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; how long each is waited for becomes `data_seconds`."""
        while True:
            began = time.time()
            batch = next(batches)
            self.waited += time.time() - began
            yield batch

    def add(self, numbers: dict[str, float]) -> None:
        """The losses of one part of a step."""
        self.count += 1
        for key, number in numbers.items():
            self.sums[key] = self.sums.get(key, 0.0) + number

    def step_done(self, step: int, lr: float, skipped: int) -> None:
        """Every `every` steps, and at the last, show and write the means. skipped: steps left out by fp16's scaler."""
        self.bar.update(1)
        self.steps += 1
        if (step + 1) % self.every == 0 or step + 1 == self.total:
            means = {key: round(total / self.count, 5) for key, total in self.sums.items()}
            seconds = time.time() - self.since
            self.bar.set_postfix({**means, "data": f"{100 * self.waited / max(seconds, 1e-9):.0f} %"}, refresh=False)
            self.write({"stage": self.name, "step": step + 1, "of": self.total, "lr": lr, **means,
                        **({"skipped_steps": skipped} if skipped else {}),
                        "seconds_per_step": round(seconds / self.steps, 4),
                        "data_seconds": round(self.waited / self.steps, 4)})
            self.sums, self.count, self.steps, self.since, self.waited = {}, 0, 0, time.time(), 0.0

    def write(self, line: dict[str, Any]) -> None:
        """One JSON line."""
        if not self.shown:
            return
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            self.failure = f"{self.path} cannot be written ({error})"

    def close(self) -> None:
        """TrainingFault: the last lines could not be written."""
        self.bar.close()
        if self.failure:
            raise TrainingFault(f"{self.failure}; the checkpoint is whole")
