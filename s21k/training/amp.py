"""Mixed precision [P62, G21]: what `amp: auto` becomes on a device. Losses, softmax and boxes stay in float32."""
import dataclasses
import os
from pathlib import Path

import torch

from s21k.core.config import Config
from s21k.core.distributed import World, print0
from s21k.training.checkpoint import latest, saved_config

DTYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(amp: str, device: torch.device) -> torch.autocast:
    """The region of a forward pass in this precision, a name of DTYPES."""
    return torch.autocast(device.type, DTYPES[amp], enabled=amp != "off")


def _cpu_has_bf16() -> bool:
    """Whether torch would use bf16 instructions here: emulated, a bf16 convolution takes ten times as long as float32.
    x86 only; the two variables are those by which torch and oneDNN can be held back."""
    there = getattr(torch.cpu, "get_capabilities", dict)()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "ALL")).upper()
    allowed = limit in ("", "ALL", "DEFAULT") or "BF16" in limit or "AMX" in limit or limit.startswith("AVX10")
    held_back = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2")
    return bool(there.get("amx_bf16") or there.get("avx512_bf16")) and allowed and not held_back


def best_precision(device: torch.device) -> tuple[str, str]:
    """A name of DTYPES for a device, and the reason."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return "bf16" if major >= 8 else "fp16", f"compute capability {major}.{minor}"
    if _cpu_has_bf16():
        return "bf16", "this processor has bf16 instructions"
    return "off", "this processor has no bf16 instructions, or they are switched off"


def resolve_amp(cfg: Config, world: World, checkpoint: Path | None = None) -> Config:
    """The configuration with a precision in place of `auto`, and a line that says which.
    checkpoint: of the run that may be continued; where it is there, its precision is kept."""
    if cfg.amp != "auto":
        return cfg
    found = None if checkpoint is None else latest(checkpoint)
    amp, reason = best_precision(world.device)
    before = None if found is None else saved_config(found).get("amp")
    if before in DTYPES:
        amp, reason = before, f"as {found} was made"
    print0(f"amp: {amp} ({reason})")
    return dataclasses.replace(cfg, amp=amp)


def note_precision(cfg: Config, made_with: dict, source: Path) -> None:
    """A line where a checkpoint (its configuration: made_with) was trained in another precision than this command's."""
    before = made_with.get("amp")
    if before in DTYPES and before != cfg.amp:
        print0(f"{source} was trained with amp={before}, here it is amp={cfg.amp}")
