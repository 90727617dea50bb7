"""What the processes tell one another at every step, so that they go on, save or stop together: whether losses and gradients
are numbers, how many pictures could not be read, and whether somebody asked for an end.

One small sum over the processes, and one synchronisation with the device, a step.
"""
import os
import signal
import types

import torch
from torch import Tensor

from s21k.distributed import World, gather_objects, sum_over_ranks
from s21k.errors import TrainingFault
from s21k.structures import Batch
from s21k.training.log import Log

ALWAYS_BORNE = 10                                   # unreadable pictures, however few were seen


class Health:
    """Signals are heard inside `with`. stop: some process got SIGTERM or SIGUSR1; the same on every process after each check.

    max_faults: the share of unreadable pictures, over all processes since the start, at which training stops.
    """

    def __init__(self, world: World, log: Log, max_faults: float) -> None:
        self.world, self.log, self.max_faults = world, log, max_faults
        self.stop, self._asked = False, False
        self.seen, self.faults, self.skipped = 0, 0, 0
        self._named: set[str] = set()
        self._norm, self._bears_infinity, self._before = torch.zeros((), device=world.device), True, ""
        self._owner = os.getpid()

    def __enter__(self) -> "Health":
        self._handlers = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGUSR1)}
        return self

    def __exit__(self, *error: object) -> None:
        """Signals mean again what they meant before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        if os.getpid() != self._owner:                                   # a process that was forked in the meantime: it ends
            os._exit(128 + number)
        self._asked = True

    def gradient(self, norm: Tensor, scaler: torch.amp.GradScaler) -> None:
        """The norm of a step's gradient, looked at with the next step's losses. With a scaler an infinite one is a skipped step."""
        self._norm, self._bears_infinity = norm.detach(), scaler.is_enabled()

    def check(self, losses: dict[str, Tensor], batches: list[Batch | None], step: int) -> dict[str, float]:
        """The losses as numbers. TrainingFault, on every process together: on one of them a loss, or the gradient of the step
        before, is not finite; or too many pictures could not be read."""
        there = [batch for batch in batches if batch is not None]
        values = torch.stack([value.detach().float() for value in losses.values()])
        own = torch.stack([(~values.isfinite()).any().float(), (~self._norm.isfinite()).float()])
        unread = [fault for b in there for faults in b.faults for fault in faults]
        counts = torch.tensor([len(unread), sum(map(len, there)), self._asked], dtype=torch.float32)
        everywhere = sum_over_ranks(torch.cat([own, counts.to(self.world.device)]))
        *numbers, bad_losses, bad_gradients, faults, seen, asked = torch.cat([values, everywhere]).tolist()
        here = f"losses {', '.join(f'{name} {number:.4g}' for name, number in zip(losses, numbers))}; images {[b.image_ids for b in there]}"
        if bad_gradients and not self._bears_infinity:                   # first: the losses that follow from it are no numbers either
            raise TrainingFault(f"step {step - 1}: the gradient is not finite; here {self._before}")
        if bad_losses:
            raise TrainingFault(f"step {step}: a loss is not finite on {int(bad_losses)} process(es); here {here}")
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
        if self.faults > ALWAYS_BORNE + self.max_faults * self.seen:
            raise TrainingFault(f"step {step}: {self.faults} of {self.seen} pictures cannot be read, more than data.max_faults={self.max_faults} "
                                f"allows; the last: {faults[-1]}")
