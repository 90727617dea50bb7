"""What the benches share: their options and what they print; contenders in turn, medians with their spread, peak memory
from the kernel."""
import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
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


def machine() -> dict[str, str]:
    """Where and of what a figure is: processor, threads, versions, revision."""
    import torch  # here: processes that are measured must not pay for it
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines()
             if line.startswith("model name")] if info.exists() else []
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True,
                              text=True)
    return {"processor": names[0] if names else platform.machine(), "threads": str(torch.get_num_threads()),
            "torch": torch.__version__, "python": platform.python_version(), "revision": revision.stdout.strip()}


class Bench:
    """A bench's options --all and --json, and its lines: each is printed when it is there, and is in the file then.

    minutes: of the default run and of --all, on two cores of an otherwise idle machine. parts: of what some can be
    chosen by name; by default the first `default` of them, with --all all.
    """

    def __init__(self, doc: str, minutes: tuple[float, float], parts: Iterable[str] = (),
                 default: int | None = None) -> None:
        self.minutes, self.parts, self.default, self.lines = minutes, list(parts), default, []
        self.parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        if self.parts:
            self.parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(self.parts))
        self.parser.add_argument("--all", action="store_true", help=f"everything, at full size: {minutes[1]:g} minutes")
        self.parser.add_argument("--json", type=Path, metavar="PATH", help="write the lines and their figures")

    def begin(self, argv: list[str] | None = None) -> argparse.Namespace:
        """The options, of argv or of the command line; says how long it will take."""
        self.options = options = self.parser.parse_args(argv)
        if self.parts:
            if unknown := [part for part in options.parts if part not in self.parts]:
                self.parser.error(f"{unknown[0]!r} is none of {', '.join(self.parts)}")
            options.parts = options.parts or (self.parts if options.all else self.parts[:self.default])
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            self._write()
        some, whole = self.minutes
        more = "" if options.all or some == whole else f"; all of it (--all) {whole:g}"
        print(f"about {self.minutes[options.all]:g} minutes on two cores{more}", flush=True)
        return options

    def line(self, text: str, **figures: float | str | list[float]) -> None:
        """One line of the result, and its figures for the file."""
        print(text, flush=True)
        self.lines.append({"line": text} | figures)
        if self.options.json:
            self._write()

    def _write(self) -> None:
        self.options.json.write_text(json.dumps({"machine": machine(), "lines": self.lines}, indent=1))

    def compare(self, title: str, ours: Callable, peers: dict[str, Callable], repeats: int) -> float:
        """A line; returns the ratio of the fastest peer's median to ours: above 1, ours is faster."""
        seconds = alternate({"ours": ours} | peers, repeats)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        best = min(peers, key=lambda name: medians[name])
        ratio = medians[best] / medians["ours"]
        self.line(f"{title:<44} " + ", ".join(f"{name} {shown(times)}" for name, times in seconds.items())
                  + f": {ratio:.2f} x {best}", ratio=ratio, **seconds)
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
