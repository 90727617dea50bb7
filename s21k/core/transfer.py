"""Small values from the host on a device, without waiting for the device."""
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def to_device(values: Tensor | Sequence, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Values as a tensor on the device. The copy from the host is queued: `torch.tensor(values, device=...)` would
    wait. A tensor that is on the device already is returned as it is."""
    tensor = torch.as_tensor(values, dtype=dtype)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()                    # a copy from pageable memory may wait
    return tensor.to(device, non_blocking=True)


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """(n,) numbers that never change, made once for each device. Not to be written to."""
    return to_device(values, device, dtype)
