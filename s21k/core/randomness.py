"""Chance as a function of place: nothing random is ever stored [G32].

The p-th item of a stream is f(seed, stream, p); its augmentation, its drop path and the
sampling of its anchors and regions follow from one number made of the same three. So a run
can start anywhere, and another number of processes sees the same items in the same order.
"""
import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from s21k.core.transfer import to_device

_MULTIPLIERS = (-4658895280553007687, -7723592293110705685)      # of the splitmix64 mixing function, as int64


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) from any integers and words; other parts, another seed."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def set_seed(*parts: int | str) -> None:
    """Seed python, numpy and torch (all devices) from the given parts."""
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, python's and torch's (CPU) random numbers come from seed; outside, nothing changed."""
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    random.seed(seed)
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        torch.set_rng_state(torch_state)


def _mix(x: Tensor) -> Tensor:
    """The splitmix64 finaliser on int64 (wrapping); the shifts are made logical by a mask."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MULTIPLIERS[0]
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MULTIPLIERS[1]
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def uniform(seeds: list[int], count: int, device: torch.device) -> Tensor:
    """(len(seeds), count) float32 in [0, 1), the same on every device: number i of a row is a hash of (its seed, i)."""
    golden = -7046029254386353131                                       # 2^64 / golden ratio, as int64
    begins = to_device(_mix(torch.tensor(seeds, dtype=torch.int64)), device)                 # (S,)
    index = torch.arange(1, count + 1, dtype=torch.int64, device=device)
    mixed = _mix(index * golden + begins[:, None])                                           # (S, count)
    return ((mixed >> 40) & 0xFFFFFF).float() / 2**24
