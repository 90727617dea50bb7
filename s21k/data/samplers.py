"""Which image comes when: item p of an endless stream is a function of (seed, stream, p) [G32].

p = (step * accumulate + micro) * images of all processes + rank * images of this one + i. Nothing
is stored, a stream starts anywhere, and another number of processes sees the same order.
"""
import bisect
from collections.abc import Iterator

import numpy as np

from s21k.core.randomness import derive_seed


def repeat_factors(categories: np.ndarray, offsets: np.ndarray, threshold: float) -> np.ndarray:
    """How often each of N images comes in an epoch, >= 1: repeat-factor sampling (Gupta et al., 2019) [P90, G23].
    categories (A,) of the boxes, those of image i at offsets[i]:offsets[i + 1]. A category that a share f of the images
    shows asks for max(1, sqrt(threshold / f)); an image takes the most that one of its categories asks for."""
    num_images = len(offsets) - 1
    image = np.repeat(np.arange(num_images), np.diff(offsets))
    shown = np.unique(np.stack([image, categories], axis=1), axis=0)    # each category of an image once
    share = np.bincount(shown[:, 1], minlength=1) / num_images
    factors = np.ones(num_images)
    np.maximum.at(factors, shown[:, 0], np.sqrt(threshold / share[shown[:, 1]]))
    return factors


class EpochShuffle:
    """Endless: every image once an epoch, each epoch in an order of its own.
    factors (N,): image i comes factors[i] times an epoch on average, its fraction drawn anew for each epoch [G23]."""

    def __init__(self, length: int, seed: int, stream: str, factors: np.ndarray | None = None) -> None:
        self.length, self.seed, self.stream, self.factors = length, seed, stream, factors
        self._epoch, self._order = -1, np.empty(0, dtype=np.int32)
        self._begins = [0]                                                       # position of each epoch's first image

    def epoch(self, number: int) -> np.ndarray:
        """The images of an epoch in order, int32."""
        generator = np.random.default_rng(derive_seed(self.seed, self.stream, "epoch", number))
        if self.factors is None:
            return generator.permutation(self.length).astype(np.int32)
        whole = np.floor(self.factors)
        times = whole + (generator.random(self.length) < self.factors - whole)
        return generator.permutation(np.repeat(np.arange(self.length, dtype=np.int32), times.astype(np.int64)))

    def __getitem__(self, position: int) -> int:
        while position >= self._begins[-1]:                                      # epochs with factors differ in length
            number = len(self._begins) - 1
            length = self.length if self.factors is None else len(self.epoch(number))
            self._begins.append(self._begins[-1] + length)
        epoch = bisect.bisect_right(self._begins, position) - 1
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.epoch(epoch)
        return int(self._order[position - self._begins[epoch]])


class RankSampler:
    """This process's part of a stream: endless pairs (position, image), from a first (micro-)step on."""

    def __init__(self, order: EpochShuffle, first: int, batch: int, rank: int, ranks: int) -> None:
        """batch: images of a micro-step over all processes, a multiple of ranks."""
        self.order, self.first, self.batch, self.local, self.rank = order, first, batch, batch // ranks, rank

    def __iter__(self) -> Iterator[tuple[int, int]]:
        step = self.first
        while True:
            start = step * self.batch + self.rank * self.local
            for position in range(start, start + self.local):
                yield position, self.order[position]
            step += 1
