"""What the processes tell one another at every step, so that they go on, save or stop together: whether losses and
gradients are numbers, how many images could not be read, and whether somebody asked for an end.

One small sum over the processes, and one synchronisation with the device, a step.
"""
import os
import signal
import threading
import time
import types

import torch
from torch import Tensor

from s21k.core.distributed import World, gather_objects, sum_over_ranks
from s21k.core.errors import TrainingFault, end_at_once
from s21k.core.structures import Batch
from s21k.core.transfer import to_device
from s21k.training.log import Log

ALWAYS_TOLERATED = 10                                   # unreadable images, however few were seen
SAME_SIGNAL = 5.0                                   # seconds in which a signal to a group of processes may arrive twice


def too_many_faults(faults: int, seen: int, max_faults: float) -> bool:
    """Whether so many unreadable images of those seen end a run: more than the share max_faults and a few."""
    return faults > ALWAYS_TOLERATED + max_faults * seen


class StepMonitor:
    """Signals are heard inside `with`. stop: some process got SIGTERM or SIGUSR1; the same on every process after each
    check. A second SIGTERM or Ctrl-C ends the process at once, also while it waits for data or for another process.
    max_faults: the share of unreadable images, over all processes since the start, at which training stops."""

    def __init__(self, world: World, log: Log, max_faults: float) -> None:
        self.world, self.log, self.max_faults = world, log, max_faults
        self.stop, self._asked = False, False
        self.seen, self.faults, self.skipped = 0, 0, 0
        self._named: set[str] = set()
        self._norm, self._tolerates_infinity, self._before = torch.zeros((), device=world.device), True, ""
        self._owner = os.getpid()

    def __enter__(self) -> "StepMonitor":
        self._handlers = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGUSR1)}
        # Python runs no handler while a collective waits; the byte that each signal writes here arrives at once.
        self._heard, self._told = os.pipe()
        os.set_blocking(self._told, False)
        self._before_told = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        threading.Thread(target=self._count_signals, args=(self._heard,), daemon=True).start()
        return self

    @staticmethod
    def _count_signals(heard: int) -> None:
        """End the process at the second SIGTERM or Ctrl-C. One signal may come twice: torchrun passes its own on."""
        first = None
        while number := os.read(heard, 1):
            now = time.monotonic()
            if number[0] not in (signal.SIGTERM, signal.SIGINT):
                continue
            first = now if first is None else first
            if now > first + (SAME_SIGNAL if "WORLD_SIZE" in os.environ else 0.0):
                end_at_once(128 + number[0], "a second signal ended this process; the last checkpoint is kept")
        os.close(heard)

    def __exit__(self, *error: object) -> None:
        """Signals mean again what they meant before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before_told)
        os.close(self._told)                                             # the thread reads to the end, and ends
        self._told = -1

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        if os.getpid() != self._owner:
            os._exit(128 + number)  # a process that was forked in the meantime: it ends
        self._asked = True

    def gradient(self, norm: Tensor, scaler: torch.amp.GradScaler) -> None:
        """The norm of a step's gradient, looked at with the next losses. Infinite with a scaler: a skipped step."""
        self._norm, self._tolerates_infinity = norm.detach(), scaler.is_enabled()

    def check(self, losses: dict[str, Tensor], batches: list[Batch | None], step: int) -> dict[str, float]:
        """The losses as numbers. TrainingFault, on every process together: on one of them a loss, or the gradient of
        the step before, is not finite; or too many images could not be read."""
        there = [batch for batch in batches if batch is not None]
        values = torch.stack([value.detach().float() for value in losses.values()])
        own = torch.stack([(~values.isfinite()).any().float(), (~self._norm.isfinite()).float()])
        unread = [fault for b in there for faults in b.faults for fault in faults]
        counts = [len(unread), sum(map(len, there)), self._asked, bool(self.log.failure)]
        everywhere = sum_over_ranks(torch.cat([own, to_device(counts, self.world.device, torch.float32)]))
        *numbers, bad_losses, bad_gradients, faults, seen, asked, unwritten = torch.cat([values, everywhere]).tolist()
        named = ", ".join(f"{name} {number:.4g}" for name, number in zip(losses, numbers))
        here = f"losses {named}; images {[b.image_ids for b in there]}"
        if bad_gradients and not self._tolerates_infinity:
            # first: the losses that follow from it are no numbers either
            raise TrainingFault(f"step {step - 1}: the gradient is not finite; here {self._before}")
        if bad_losses:
            raise TrainingFault(f"step {step}: a loss is not finite on {int(bad_losses)} process(es); here {here}")
        if unwritten:
            raise TrainingFault(f"step {step}: {self.log.failure or 'the log cannot be written on rank 0'}; the last "
                                f"checkpoint is kept")
        self.skipped += int(bad_gradients > 0)
        self._norm, self._before = torch.zeros_like(self._norm), here                    # counted once
        self.seen, self.faults, self.stop = self.seen + int(seen), self.faults + int(faults), asked > 0
        if faults:
            self._name(sorted({fault for part in gather_objects(unread) for fault in part}), step)
        return dict(zip(losses, numbers))

    def _name(self, faults: list[str], step: int) -> None:
        """Each fault once in the log."""
        new = [fault for fault in faults if fault not in self._named]
        self._named.update(new[:10000])
        for fault in new:
            self.log.write({"stage": self.log.name, "step": step, "unreadable": fault})
        if too_many_faults(self.faults, self.seen, self.max_faults):
            raise TrainingFault(f"step {step}: {self.faults} of {self.seen} images cannot be read, more than "
                                f"data.max_faults={self.max_faults} allows; the last: {faults[-1]}")
