"""What a run says of itself: a progress bar on rank 0, and one JSON line for each print."""
import json
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from s21k.distributed import World


class Log:
    """Means of the losses since the last print; the bar and log.jsonl on rank 0 only."""

    def __init__(self, path: Path, first: int, total: int, every: int, world: World, name: str) -> None:
        self.path, self.total, self.every, self.name = path, total, every, name
        self.shown = world.rank == 0
        self.bar = tqdm(total=total, initial=first, desc=name, disable=not self.shown, mininterval=5.0,
                        dynamic_ncols=True)
        self.sums: dict[str, float] = {}
        self.count, self.steps, self.since = 0, 0, time.time()

    def add(self, numbers: dict[str, float]) -> None:
        """The losses of one part of a step."""
        self.count += 1
        for key, number in numbers.items():
            self.sums[key] = self.sums.get(key, 0.0) + number

    def step_done(self, step: int, lr: float, skipped: int) -> None:
        """Every `every` steps, and at the last, print and write the means since the last time. skipped: steps that fp16's scaler left out."""
        self.bar.update(1)
        self.steps += 1
        if (step + 1) % self.every == 0 or step + 1 == self.total:
            means = {key: round(total / self.count, 5) for key, total in self.sums.items()}
            self.bar.set_postfix(means, refresh=False)
            self.write({"stage": self.name, "step": step + 1, "of": self.total, "lr": lr, **means, **({"skipped_steps": skipped} if skipped else {}),
                        "seconds_per_step": round((time.time() - self.since) / self.steps, 4)})
            self.sums, self.count, self.steps, self.since = {}, 0, 0, time.time()

    def write(self, line: dict[str, Any]) -> None:
        """One JSON line."""
        if self.shown:
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        self.bar.close()
