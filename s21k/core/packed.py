"""Many byte strings as one array and offsets: worker processes share it, nothing is counted or copied."""
import hashlib
from collections.abc import Iterable

import numpy as np

BLOCK = 1 << 16                                                          # strings taken at a time


def ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """begins[0], begins[0] + 1, .. (lengths[0] of them), begins[1], ..: positions of ranges, one after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(begins - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def fingerprint(count: int, *columns: np.ndarray) -> str:
    """"160 images, 5f0c2b8e91d3a674": a count, and a hash of the columns' bytes."""
    state = hashlib.blake2b(digest_size=8)
    for column in columns:
        state.update(memoryview(np.ascontiguousarray(column)).cast("B") if len(column) else b"")
    return f"{count} images, {state.hexdigest()}"


class Packed:
    """packed[i] -> bytes. data (n,) uint8, offsets (len + 1,) int64."""

    def __init__(self, items: Iterable[bytes] = ()) -> None:
        items = list(items)
        self.offsets = np.cumsum([0, *map(len, items)], dtype=np.int64)
        self.data = np.frombuffer(b"".join(items), dtype=np.uint8)

    @classmethod
    def of_arrays(cls, data: np.ndarray, offsets: np.ndarray) -> "Packed":
        packed = cls()
        packed.data, packed.offsets = data, offsets
        return packed

    @classmethod
    def join(cls, parts: "list[Packed]") -> "Packed":
        """One after the other."""
        begins = np.cumsum([0, *(len(p.data) for p in parts)])
        offsets = [p.offsets[:-1] + begin for p, begin in zip(parts, begins)]
        return cls.of_arrays(np.concatenate([np.zeros(0, np.uint8), *(p.data for p in parts)]),
                             np.concatenate([*offsets, begins[-1:]]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        return self.data[self.offsets[index]:self.offsets[index + 1]].tobytes()

    def take(self, rows: np.ndarray) -> "Packed":
        """The strings at these positions, in this order."""
        begins, lengths = self.offsets[:-1][rows], (self.offsets[1:] - self.offsets[:-1])[rows]
        offsets = np.r_[0, np.cumsum(lengths)]
        data = np.empty(offsets[-1], dtype=np.uint8)
        for first in range(0, len(rows), BLOCK):
            some = slice(first, first + BLOCK)  # a position needs eight times the memory of its byte
            data[offsets[first]:offsets[min(first + BLOCK, len(rows))]] = self.data[ranges(begins[some], lengths[some])]
        return Packed.of_arrays(data, offsets)


class PackedStrings:
    """packed[i] -> str."""

    def __init__(self, strings: Iterable[str] = (), packed: Packed | None = None) -> None:
        self.packed = Packed(s.encode(errors="surrogateescape") for s in strings) if packed is None else packed

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> str:
        return self.packed[index].decode(errors="surrogateescape")    # names of files need not be UTF-8

    def take(self, rows: np.ndarray) -> "PackedStrings":
        return PackedStrings(packed=self.packed.take(rows))
