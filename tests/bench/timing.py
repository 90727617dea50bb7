"""How the speed scripts measure: contenders in turn, medians with their spread, peak memory from the kernel."""
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def alternate(contenders: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, after one that is not counted; the contenders take turns, so that both see the same
    machine."""
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def shown(seconds: list[float]) -> str:
    """Median and range, in milliseconds or seconds."""
    middle, low, high = statistics.median(seconds), min(seconds), max(seconds)
    unit, factor = ("s", 1) if middle >= 2 else ("ms", 1000)
    return f"{middle * factor:.1f} {unit} ({low * factor:.1f} to {high * factor:.1f})"


def compare(title: str, ours: Callable, peers: dict[str, Callable], repeats: int) -> float:
    """Prints a line; returns the ratio of the fastest peer's median to ours: above 1, ours is faster."""
    seconds = alternate({"ours": ours} | peers, repeats)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best = min(peers, key=lambda name: medians[name])
    ratio = medians[best] / medians["ours"]
    print(f"{title:<44} " + ", ".join(f"{name} {shown(times)}" for name, times in seconds.items())
          + f": {ratio:.2f} x {best}", flush=True)
    return ratio


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def peak_bytes(run: Callable) -> int:
    """By how much the resident memory grows at most during a call. Linux only: the kernel keeps the mark in
    /proc/self."""
    Path("/proc/self/clear_refs").write_text("5")                        # the high-water mark starts anew
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)
