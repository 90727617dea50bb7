"""A pretended CUDA device: tensors that say they are on cuda and compute on the CPU, for tests on machines without a
GPU.

What CUDA would refuse is refused (tensors of two devices in one operation, .numpy()), CUDA's autocast rules apply, and
each operation that makes the host wait for the device is counted. It says nothing of speed or of rounding.

    with Pretended() as device:
        model = device.move(build())                    # parameters and buffers
        loss = model(batch.to(torch.device("cuda")))
    print(device.waits)
"""
import contextlib
from collections import Counter
from unittest import mock

import torch
import torchvision  # noqa: F401, its operations are in torch.ops
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

aten = torch.ops.aten
# Their result's size is known only when the device is done.
SIZED_BY_VALUES = {aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.unique_consecutive,
                   aten.bincount,
                   torch.ops.torchvision.nms}
# A CPU tensor may stand beside those of the device: it is the one that is copied, or a list of indices (which is
# copied, too).
MIXED = {aten._to_copy, aten.copy_, aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_}


class OnDevice(Tensor):
    """Says it is on the device; its numbers are in `on_host`, on the CPU."""

    @staticmethod
    def __new__(cls, real: Tensor, kind: str) -> "OnDevice":
        return Tensor._make_wrapper_subclass(cls, real.shape, strides=real.stride(),
                                             storage_offset=real.storage_offset(),
                                             dtype=real.dtype, device=torch.device(kind, 0), requires_grad=False)

    def __init__(self, real: Tensor, kind: str) -> None:
        self.on_host = real

    def __repr__(self, *, tensor_contents: None = None) -> str:
        return f"OnDevice({self.on_host!r})"

    def tolist(self) -> object:
        return self.to("cpu").tolist()

    def numpy(self, *args: object, **kwargs: object) -> None:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func}: a pretended tensor was used outside of `with Pretended()`")


def _pinned(tensor: Tensor, device: torch.device | None = None) -> Tensor:
    """CUDA's rule: only memory of the host can be pinned."""
    if tensor.device.type != "cpu":
        raise RuntimeError(f"cannot pin a tensor on {tensor.device}: only dense CPU tensors can be pinned")
    return tensor


class Pretended(TorchDispatchMode):
    """waits: how often each operation made the host wait. operations: how many were launched.

    kind: "cuda"; or "meta" where there is a backward pass, for autograd asks the driver about CUDA's streams.
    """

    def __init__(self, kind: str = "cuda") -> None:
        super().__init__()
        self.kind, self.device = kind, torch.device(kind, 0)
        self.waits: Counter[str] = Counter()
        self.operations = 0

    def __enter__(self) -> "Pretended":
        torch._C._ensureCUDADeviceGuardSet()
        self.patches = contextlib.ExitStack()
        for name, value in (("torch.cuda._lazy_init", lambda: None),
                            ("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
                            ("torch.cuda.is_bf16_supported", lambda *args, **kwargs: True),
                            ("torch.cuda.get_device_capability", lambda device=None: (9, 0))):
            self.patches.enter_context(mock.patch(name, value))
        self.patches.enter_context(mock.patch.object(Tensor, "pin_memory", _pinned))
        # One thread for the backward pass: those for CUDA devices want real ones. No cuDNN behind batch norm.
        self.patches.enter_context(torch.autograd.set_multithreading_enabled(False))
        self.patches.enter_context(torch.backends.cudnn.flags(enabled=False))
        # torch.tensor(values, device="cuda"): built here, then copied
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        self.patches.callback(torch._C._set_only_lift_cpu_tensors, before)
        if self.kind != "cuda":                                          # there is no autocast on it
            self.patches.enter_context(mock.patch("torch.autocast", lambda *args, **kwargs: contextlib.nullcontext()))
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.patches.close()

    def move(self, module: nn.Module) -> nn.Module:
        """A module whose parameters and buffers are on the device."""
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(OnDevice(parameter.detach(), self.kind),
                                                          parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = OnDevice(buffer, self.kind)
        return module

    def _is_device(self, device: object) -> bool:
        return device is not None and torch.device(device).type == self.kind

    def total(self) -> int:
        return sum(self.waits.values())

    def _count(self, func, flat: list, kwargs: dict, on_device: bool) -> None:
        packet = func.overloadpacket
        self.operations += on_device
        if packet in (aten._to_copy, aten.copy_):
            blocking = not (kwargs.get("non_blocking") or (packet is aten.copy_ and True in flat[2:]))
            source = flat[1] if packet is aten.copy_ else flat[0]
            to_device = (isinstance(flat[0], OnDevice) if packet is aten.copy_
                         else self._is_device(kwargs.get("device", flat[0].device)))
            if isinstance(source, OnDevice) != to_device and blocking:
                self.waits["copy to the device" if to_device else "copy to the host"] += 1
        elif not on_device:
            return
        elif packet is aten._local_scalar_dense or packet is aten.equal:
            self.waits["a value on the host"] += 1
        elif packet in SIZED_BY_VALUES or (packet is aten.repeat_interleave and kwargs.get("output_size") is None):
            self.waits[packet.__name__] += 1
        elif packet in (aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_):
            indices = [t for t in flat[1:] if isinstance(t, Tensor)]
            self.waits["boolean index"] += sum(t.dtype == torch.bool for t in indices)
            self.waits["index from the host"] += sum(not isinstance(t, OnDevice)
                                                     for t in indices if t.dtype == torch.int64)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        flat, spec = tree_flatten((args, kwargs))
        wrapped = [value for value in flat if isinstance(value, OnDevice)]
        to_device = self._is_device(kwargs.get("device"))
        on_device = bool(wrapped) or to_device
        elsewhere = any(isinstance(v, Tensor) and not isinstance(v, OnDevice) and v.dim() > 0 for v in flat)
        if wrapped and elsewhere and func.overloadpacket not in MIXED:
            raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found {self.device} "
                               f"and cpu")
        self._count(func, flat, kwargs, on_device)
        owner = {id(value.on_host): value for value in wrapped}
        real_args, real_kwargs = tree_unflatten([v.on_host if isinstance(v, OnDevice) else v for v in flat], spec)
        if to_device:
            real_kwargs["device"] = torch.device("cpu")
        if real_kwargs.pop("pin_memory", None):
            raise RuntimeError("pinned memory is for CPU tensors")
        result = func(*real_args, **real_kwargs)
        to_host = func.overloadpacket is aten._to_copy and kwargs.get("device") is not None and not to_device
        copies_to_host = func.overloadpacket is aten.copy_ and not isinstance(flat[0], OnDevice)
        if not on_device or to_host or copies_to_host:
            return result

        def wrap(value: object) -> object:
            if not isinstance(value, Tensor):
                return value
            return owner.get(id(value)) if id(value) in owner else OnDevice(value, self.kind)

        return tree_map(wrap, result)
