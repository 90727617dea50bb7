"""One process, or many under torchrun: the same code (nccl on CUDA, gloo on CPU)."""
import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from s21k.core.errors import InputError

T = TypeVar("T")
@dataclass(frozen=True)
class World:
    """rank in [0, size), and the device this process computes on."""
    rank: int
    size: int
    device: torch.device


def start_distributed(timeout: float = 600.0) -> World:
    """Join the group that torchrun describes in the environment; alone without torchrun.
    timeout: seconds after which a process that waits for another one ends (errors.run_command says so)."""
    size, rank, local = (int(os.environ.get(k, d)) for k, d in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0)))
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(device)
    if "WORLD_SIZE" in os.environ:
        limit = datetime.timedelta(seconds=timeout)
        # torchrun's store outlives a restart, with addresses of processes that are gone: each attempt has its own keys.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}",
                                 next(dist.rendezvous("env://", timeout=limit))[0])
        dist.init_process_group("nccl" if on_cuda else "gloo", store=store, rank=rank, world_size=size, timeout=limit)
    return World(rank, size, device)


def stop_distributed() -> None:
    """Leave the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of value over all processes; value itself when alone. Carries no gradient."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def mean_over_ranks(value: Tensor) -> Tensor:
    """sum_over_ranks divided by the number of processes."""
    return sum_over_ranks(value) / (dist.get_world_size() if dist.is_initialized() else 1)


def gather_objects(value: Any) -> list[Any]:
    """value of each process, in the order of ranks, on every process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def on_all_ranks(action: Callable[[], T]) -> T:
    """action() on every process. Where it fails on one, with bad input or a file that cannot be used, an InputError
    comes on all of them: none is left waiting for another. Returns this process's own result."""
    result, failure = None, ""
    try:
        result = action()
    except (InputError, OSError) as error:
        failure = str(error) or type(error).__name__
    failures = gather_objects(failure)
    if any(failures):
        rank = next(i for i, text in enumerate(failures) if text)
        raise InputError(failure or f"on rank {rank}: {failures[rank]}")
    return result


def print0(*words: Any) -> None:
    """print, on rank 0 only; also before and after the processes are a group."""
    if os.environ.get("RANK", "0") == "0":
        print(*words, flush=True)
