"""Sorting and grouping of long arrays: what all scoring comes down to."""
from collections.abc import Iterator

import numpy as np


def starts(sorted_keys: np.ndarray) -> np.ndarray:
    """For each element of a sorted array the position where its run of equals begins."""
    first = np.ones(len(sorted_keys), dtype=bool)
    first[1:] = sorted_keys[1:] != sorted_keys[:-1]
    return np.maximum.accumulate(np.where(first, np.arange(len(sorted_keys)), 0))


def then_by(key: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """`order`, positions in key (None: all, in their places), sorted by key; of equals the earlier one stays first.

    A radix sort, 16 bits at a time, which numpy does in linear time: of whole numbers, and of floats by their bits.
    Keys that are in order already cost a look.
    """
    for digit in _digits(_as_whole(key)):
        here = digit if order is None else digit.take(order)
        if not (here[:-1] <= here[1:]).all():
            by_digit = np.argsort(here, kind="stable")
            order = by_digit if order is None else order.take(by_digit)
    return np.arange(len(key)) if order is None else order


def stable_order(*keys: np.ndarray) -> np.ndarray:
    """np.lexsort: positions sorted by the last key, equals by the one before it, .., then by place; in less time."""
    order = None
    for key in keys:
        order = then_by(key, order)
    return order


def _as_whole(key: np.ndarray) -> np.ndarray:
    """Whole numbers in the order of finite floats: their bits. -0 becomes 0; floats below 0 run backwards."""
    if key.dtype.kind != "f":
        return key
    with np.errstate(over="ignore"):                # to infinity: not equal, then
        single = key.astype(np.float32)
    if key.dtype == np.float32 or np.array_equal(single, key):
        key, whole, magnitude = single, np.int32, 0x7FFFFFFF
    else:
        key, whole, magnitude = key.astype(np.float64), np.int64, 0x7FFFFFFFFFFFFFFF
    bits = (key + 0.0).view(whole)
    return np.where(bits < 0, bits ^ whole(magnitude), bits)


def _digits(key: np.ndarray) -> Iterator[np.ndarray]:
    """Whole numbers as 16-bit digits, the lowest first: as many as what lies between the least and the greatest
    needs."""
    if len(key):
        least = key.min()
        # The difference of two int32 fits uint32, of two int64 uint64: what overflows wraps around to it.
        above = (key - least).view(np.dtype(f"u{key.dtype.itemsize}"))
        for shift in range(0, max(int(above.max()).bit_length(), 1), 16):
            yield (above >> above.dtype.type(shift)).astype(np.uint16)


def index_of(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """(n,): where each value stands in a sorted array, of equals the first; -1: nowhere."""
    if len(ascending) == 0 or len(values) == 0:
        return np.full(len(values), -1)
    least, greatest = int(ascending[0]), int(ascending[-1])
    if greatest - least <= 8 * len(ascending) + len(values) // 8 and least > -1 << 62:
        # a table of all between, and of one beyond each end
        table = np.full(greatest - least + 3, -1, dtype=np.int32)
        table[ascending - (least - 1)] = np.searchsorted(ascending, ascending)
        return table.take(values.astype(np.int64, copy=False) - (least - 1), mode="clip")
    place = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    place[ascending[place] != values] = -1
    return place


def is_in(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """(n,) bool: which values stand in a sorted array."""
    return index_of(values, ascending) >= 0


def running_maximum_from_right(values: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Within each run of equal `segment` the maximum of what follows, itself included (the envelope) [E22]."""
    values = values.copy()
    step = 1
    while step < len(values):
        same = segment[step:] == segment[:-step]
        better = np.maximum(values[:-step], values[step:])
        values[:-step] = np.where(same, better, values[:-step])
        if not same.any():
            break
        step *= 2
    return values
