"""A run that is killed again and again ends with the weights of one that was not.

    python -m tests.bench.kills [--processes 2] [--kills 3] [--all] [--json PATH]

Each stage, on so many gloo processes; --all: on two and on three, 20 kills each. SIGKILL to all processes at once, at
random moments; every third one while a checkpoint is being written. Prints the hash of the final weights, unbroken and
broken. A start takes some ten seconds on two cores.
"""
import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.bench.timing import Bench
from tests.toy import ROOT, words, write_toy

MINUTES = (2, 60)

STEPS = 120


def start(script: str, arguments: list[str], processes: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", script,
               *arguments]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)


def weights_hash(path: Path) -> str:
    state = torch.load(path, weights_only=True)["model"]
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def step_of(path: Path) -> int:
    for place in (path, path.with_suffix(".previous.pt")):
        try:
            return torch.load(place, weights_only=True)["step"]
        except FileNotFoundError:
            pass
    return 0


def family(pid: int) -> list[int]:
    """A process and all below it (torchrun's workers are in sessions of their own)."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def mark(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def run_with_kills(script: str, arguments: list[str], processes: int, path: Path, kills: int,
                   rng: random.Random) -> tuple[list[str], int]:
    """Kill `kills` times, then let it end. What each kill met, and how many starts there were."""
    met = []
    while len(met) < kills:
        before, writing = mark(path), path.with_suffix(".writing")
        process = start(script, arguments, processes)
        while process.poll() is None and mark(path) == before:           # until it has trained a step
            time.sleep(0.02)
        if len(met) % 3 == 2:
            while process.poll() is None and not writing.exists():
                time.sleep(0.0005)
        else:
            time.sleep(rng.uniform(0, 0.3))
        if process.poll() is not None:
            break
        for member in family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        for _line in process.stdout:
            pass
        process.wait()
        met.append("in a write" if writing.exists() else f"after step {step_of(path)}")
    process = start(script, arguments, processes)
    printed = process.communicate()[0]
    assert process.returncode == 0, printed[-2000:]
    return met, len(met) + 1


def main() -> None:
    bench = Bench(__doc__, MINUTES)
    bench.parser.add_argument("--processes", type=int, nargs="+")
    bench.parser.add_argument("--kills", type=int)
    bench.parser.add_argument("--seed", type=int, default=0)
    a = bench.begin()
    rng = random.Random(a.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = write_toy(Path(folder))
        for processes in a.processes or ([2, 3] if a.all else [2]):
            batch = 4 * processes
            more = [f"stage1.batch={batch}", f"stage1.epochs={STEPS // (16 // batch)}", f"stage2.det_batch={processes}",
                    f"stage2.iterations={STEPS}", "stage1.save_every=1",
                    "stage2.save_every=1", "stage1.validate_every=1000", "stage1.mixup=0.8", "stage1.cutmix=1",
                    "stage1.erasing=0.25", "stage2.warmup=5"]
            for script, name in (("train_stage1.py", "stage1.pt"), ("train_stage2.py", "stage2.pt")):
                began, hashes = time.time(), {}
                for kind in ("unbroken", "broken"):
                    out = root / f"{kind}-{processes}"
                    arguments = words(root, *more, f"output_dir={out}", *(
                        [f"stage2.init={root / f'unbroken-{processes}' / 'stage1.pt'}"] if "2" in script else []))
                    kills = (a.kills or (20 if a.all else 3)) if kind == "broken" else 0
                    if kind == "unbroken":
                        # one step a save costs nothing of interest here
                        arguments += ["stage1.save_every=1000", "stage2.save_every=1000"]
                    met, starts = run_with_kills(script, arguments, processes, out / name, kills, rng)
                    hashes[kind] = weights_hash(out / name)
                same = "the same" if hashes["unbroken"] == hashes["broken"] else "DIFFERENT"
                bench.line(f"{script}, {processes} processes: killed {len(met)} times "
                           f"({sum(m == 'in a write' for m in met)} in a write), {starts} starts: {hashes['unbroken']} "
                           f"unbroken, {hashes['broken']} broken: {same}; {time.time() - began:.0f} s")
                bench.line(f"    {', '.join(met)}")
                if same != "the same":
                    shutil.copytree(root, "runs/kills-failed", dirs_exist_ok=True)
                    sys.exit(1)


if __name__ == "__main__":
    main()
