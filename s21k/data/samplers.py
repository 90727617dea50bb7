"""Which image comes when: item p of an endless stream is a function of (seed, stream, p).

p = (step * accumulate + micro) * images of all processes + rank * images of this one + i. Nothing
is stored, a stream starts anywhere, and another number of processes sees the same order.
"""
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from s21k.randomness import derive_seed


class Order(Protocol):
    def __getitem__(self, position: int) -> int: ...


class Shuffle:
    """Endless: every image once an epoch, each epoch in an order of its own."""

    def __init__(self, length: int, seed: int, stream: str) -> None:
        self.length, self.seed, self.stream = length, seed, stream
        self._epoch, self._order = -1, np.empty(0, dtype=np.int32)

    def epoch(self, number: int) -> np.ndarray:
        """The images of an epoch in order, int32."""
        generator = np.random.default_rng(derive_seed(self.seed, self.stream, "epoch", number))
        return generator.permutation(self.length).astype(np.int32)

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.length)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.epoch(epoch)
        return int(self._order[place])


class Share:
    """This process's part of a stream: endless pairs (position, image), from a first (micro-)step on."""

    def __init__(self, order: Order, first: int, batch: int, rank: int, ranks: int) -> None:
        """batch: images of a micro-step over all processes, a multiple of ranks."""
        self.order, self.first, self.batch, self.local, self.rank = order, first, batch, batch // ranks, rank

    def __iter__(self) -> Iterator[tuple[int, int]]:
        step = self.first
        while True:
            start = step * self.batch + self.rank * self.local
            for position in range(start, start + self.local):
                yield position, self.order[position]
            step += 1
