"""What happens when something breaks: a disk, a process, a signal, the data of one rank, a loss.

    python -m tests.bench.faults [--all] [--json PATH]

Each fault is made on a small stage-II run, and what came of it is printed: the last line on stderr, the exit code, the
seconds, and whether the same words then end with the unbroken weights. By default the faults of one process, with
--all those of two as well. Linux.
"""
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.bench.kills import family, mark, weights_hash
from tests.bench.timing import Bench
from tests.toy import ROOT, run, words, write_toy

MINUTES = (2, 15)
STEPS = 60


class Run:
    """A stage-II run as a user starts it, with its own environment."""

    def __init__(self, arguments: list[str], processes: int = 1, restarts: int = 0, file_size: int | None = None,
                 env: dict | None = None) -> None:
        script = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
                  f"--max-restarts={restarts}"] if processes > 1 else []
        limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))) if file_size else None
        self.began = time.time()
        self.process = subprocess.Popen([sys.executable, *script, "train_stage2.py", *arguments], cwd=ROOT,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
                                        | (env or {}), preexec_fn=limit)

    def ranks(self) -> list[int]:
        """The processes that train, in the order of their ranks."""
        found = []
        for pid in family(self.process.pid):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                env = dict(v.split(b"=", 1) for v in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                           if b"=" in v)
            except OSError:
                continue
            if (b"train_stage2.py" in command and b"torch.distributed.run" not in command
                and (pid == self.process.pid or b"RANK" in env)):
                found.append((int(env.get(b"RANK", 0)), pid))
        parents = {pid for _, pid in found}
        return [pid for _, pid in sorted(found) if not any(pid in family(other)[1:] for other in parents)]

    def until_trained(self, path: Path) -> None:
        while self.process.poll() is None and not mark(path):
            time.sleep(0.02)

    def end(self) -> tuple[str, str, int, float]:
        out, err = self.process.communicate(timeout=300)
        said = ([line for line in err.splitlines() if re.search(r"\b(error|interrupted): ", line)]
                + [line for line in out.splitlines() if "stopped after" in line])
        return out, (said or ["-"])[-1], self.process.returncode, time.time() - self.began


def main() -> None:
    bench = Bench(__doc__, MINUTES)
    two = bench.begin().all
    with tempfile.TemporaryDirectory() as folder:
        root = write_toy(Path(folder))
        base = words(root, f"stage2.iterations={STEPS}", "stage2.save_every=1", "stage1.epochs=1")
        assert run("train_stage1.py", *base).returncode == 0
        for processes in (1, 2) if two else (1,):
            Run([*base, f"output_dir={root / f'unbroken-{processes}'}", f"stage2.init={root / 'run' / 'stage1.pt'}",
                 "stage2.save_every=1000"], processes).end()
        hashes = {n: weights_hash(root / f"unbroken-{n}" / "stage2.pt") for n in ((1, 2) if two else (1,))}

        def show(title: str, name: str, processes: int, ended: tuple, more: list[str] = ()) -> None:
            _, said, code, seconds = ended
            again = Run([*base, f"output_dir={root / name}", f"stage2.init={root / 'run' / 'stage1.pt'}", *more],
                        processes)
            out = again.end()[0]
            where = re.search(r"continuing \S+ after (\d+) steps", out)
            same = (root / name / "stage2.pt").exists() and weights_hash(root / name / "stage2.pt") == hashes[processes]
            bench.line(f"{title}\n    exit {code} after {seconds:.0f} s: {said[:230]}\n    then: "
                       f"{f'continued after step {where[1]}' if where else 'started anew'}, "
                       f"{'the unbroken weights' if same else 'OTHER WEIGHTS'}")

        def started(name: str, processes: int = 1, more: list[str] = (), **how: object) -> Run:
            made = Run([*base, f"output_dir={root / name}", f"stage2.init={root / 'run' / 'stage1.pt'}", *more],
                       processes, **how)
            return made

        full = started("full", file_size=(root / "unbroken-1" / "stage2.pt").stat().st_size // 2)
        show("disk full (a limit on file sizes)", "full", 1, full.end())
        bare = started("../../proc/s21k")
        bench.line(f"output folder that cannot be made\n    exit {bare.end()[2]}: "
                   f"{Run([*base, 'output_dir=/proc/s21k']).end()[1][:200]}")
        mounted = root / "readonly"
        mounted.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(mounted)],
                          capture_output=True).returncode == 0:
            ended = Run([*base, f"output_dir={mounted / 'x'}"]).end()
            bench.line(f"output folder on a read-only disk\n    exit {ended[2]}: {ended[1][:200]}")
            subprocess.run(["umount", str(mounted)])
        for number, processes in ((signal.SIGTERM, 1), (signal.SIGUSR1, 2), (signal.SIGTERM, 2))[:None if two else 1]:
            name = f"{number.name}-{processes}"
            asked = started(name, processes, ["data.workers=1"])
            asked.until_trained(root / name / "stage2.pt")
            os.kill(asked.process.pid if number == signal.SIGTERM else asked.ranks()[1], number)
            several = "torchrun" if number == signal.SIGTERM else "one of two processes"
            show(f"{number.name} to {several if processes > 1 else 'the only process'}", name, processes, asked.end())
        worker = started("worker", more=["data.workers=1"])
        worker.until_trained(root / "worker" / "stage2.pt")
        loaders = [pid for pid in family(worker.process.pid)[1:]
                   if b"train_stage2.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(loaders[0], signal.SIGKILL)
        show("a loader process killed", "worker", 1, worker.end(), ["data.workers=1"])
        if not two:
            return
        killed = started("killed", 2)
        killed.until_trained(root / "killed" / "stage2.pt")
        os.kill(killed.ranks()[1], signal.SIGKILL)
        show("one of two processes killed", "killed", 2, killed.end())
        again = started("again", 2, restarts=1)
        again.until_trained(root / "again" / "stage2.pt")
        os.kill(again.ranks()[1], signal.SIGKILL)
        _, said, code, seconds = again.end()
        same = weights_hash(root / "again" / "stage2.pt") == hashes[2]
        bench.line(f"the same with torchrun --max-restarts=1\n    exit {code} after {seconds:.0f} s, "
                   f"{'the unbroken weights' if same else 'OTHER WEIGHTS'}")
        stopped = started("stopped", 2, more=["timeout=15"])
        stopped.until_trained(root / "stopped" / "stage2.pt")
        os.kill(stopped.ranks()[1], signal.SIGSTOP)
        show("one of two processes stopped (SIGSTOP), timeout=15", "stopped", 2, stopped.end())
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577"}
        for title, other in (("another word on rank 1", ["stage2.lr=1e-3"]),
                             ("other data on rank 1", [f"data.root={write_toy(root / 'elsewhere')}"])):
            if "data" in title:
                next((root / "elsewhere" / "shapes" / "cls_train").rglob("*.jpg")).unlink()
            pair = [started("mixed", env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                            more=other if rank else []) for rank in range(2)]
            ended = [p.end() for p in pair]
            bench.line(f"{title}\n    exits {[e[2] for e in ended]}: {ended[0][1][:200]}")
        nothing = torch.full((1,), float("nan"))
        content = torch.load(root / "run" / "stage1.pt", weights_only=True)
        content["model"]["encoder.fc1.bias"][:] = nothing
        torch.save(content, root / "nan.pt")
        ended = Run([*base, f"output_dir={root / 'nan'}", f"stage2.init={root / 'nan.pt'}"], 2).end()
        bench.line(f"a loss that is not finite, two processes\n    exit {ended[2]} after {ended[3]:.0f} s: "
                   f"{ended[1][:300]}")


if __name__ == "__main__":
    main()
