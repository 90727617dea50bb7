"""Sorting and grouping of long arrays: what all scoring comes down to."""
from collections.abc import Iterator

import numpy as np


def starts(sorted_keys: np.ndarray) -> np.ndarray:
    """For each element of a sorted array the position where its run of equals begins."""
    first = np.ones(len(sorted_keys), dtype=bool)
    first[1:] = sorted_keys[1:] != sorted_keys[:-1]
    return np.maximum.accumulate(np.where(first, np.arange(len(sorted_keys)), 0))


def stable_order(*keys: np.ndarray) -> np.ndarray:
    """np.lexsort: positions sorted by the last key, equals by the one before it, .., then by place; in less time.

    numpy sorts 16-bit whole numbers in linear time: whole numbers, and floats that are exact in 32 bits, go 16 bits at
    a time. A key that is sorted already costs a look.
    """
    order = None
    for key in keys:
        if key.dtype.kind == "f":
            single = key.astype(np.float32)
            if key.dtype == np.float32 or np.array_equal(single, key):
                # -0 becomes 0; as whole numbers, floats below 0 run backwards
                bits = (single + 0.0).view(np.int32)
                key = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        for digit in _digits(key):
            here = digit if order is None else digit[order]
            if not (here[:-1] <= here[1:]).all():
                by_digit = np.argsort(here, kind="stable")
                order = by_digit if order is None else order[by_digit]
    return np.arange(len(keys[0])) if order is None else order


def _digits(key: np.ndarray) -> Iterator[np.ndarray]:
    """A whole-number key as 16-bit digits, the lowest first; anything else as it is."""
    if key.dtype.kind not in "iu" or len(key) == 0:
        yield key
        return
    above, span = int(key.min()), int(key.max()) - int(key.min())
    for shift in range(0, max(span.bit_length(), 1), 16):
        yield ((key - key.dtype.type(above) if key.dtype.itemsize == 8 else key.astype(np.int64) - above) >> shift
               & 0xFFFF).astype(np.uint16)


def is_in(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """(n,) bool: which values stand in a sorted array."""
    if len(ascending) == 0:
        return np.zeros(len(values), dtype=bool)
    return ascending[np.searchsorted(ascending, values).clip(max=len(ascending) - 1)] == values
