"""1 -> 2 -> 1 processes: do the streams keep their images, and the losses their values?

    python -m tests.bench.ranks [--json PATH]

A stage-II run (group norm, float32) of 12 steps, alone; and one that is stopped after 4 steps, continued on two
processes to 8, and again alone to 12. And stage I in the same way. Every process writes its images and losses of each
step.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tests.bench.timing import Bench
from tests.toy import ROOT, words, write_toy

MINUTES = (1, 1)
STEPS, CUTS = 12, (4, 8, 12)
# The script with one addition: the images and losses that StepMonitor sees are written down, and the run ends after so
# many steps.
SPY = """
import json, os, runpy, sys
from s21k.training import step_monitor
plain = step_monitor.StepMonitor.check
def check(self, losses, batches, step):
    numbers = plain(self, losses, batches, step)
    with open(os.environ["SPY"] + f".{self.world.rank}", "a") as file:
        images = [b.image_ids for b in batches if b is not None]
        file.write(json.dumps({"step": step, "images": images, "losses": numbers}) + "\\n")
    self.stop = step + 1 == int(os.environ["UNTIL"])
    return numbers
step_monitor.StepMonitor.check = check
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def train(root: Path, script: str, name: str, processes: int, until: int, more: list[str]) -> None:
    (root / "spy.py").write_text(SPY)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    env = (os.environ
           | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "SPY": str(root / name / "images"), "UNTIL": str(until)})
    (root / name).mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, *launcher, str(root / "spy.py"), str(ROOT / script), *words(
        root, *more, f"output_dir={root / name}")], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def steps(root: Path, name: str) -> dict[int, tuple[list[list[int]], dict[str, float]]]:
    """step -> images of each stream in the order of ranks, and the losses' mean over the ranks."""
    found: dict[int, list[dict]] = {}
    for path in sorted((root / name).glob("images.*")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found.setdefault(row["step"], []).append(row)
    return {step: ([sum((r["images"][k] for r in rows), []) for k in range(len(rows[0]["images"]))],
                   {key: sum(r["losses"][key] for r in rows) / len(rows) for key in rows[0]["losses"]})
            for step, rows in found.items()}


def main() -> None:
    bench = Bench(__doc__, MINUTES)
    bench.begin()
    with tempfile.TemporaryDirectory() as folder:
        root = write_toy(Path(folder))
        base = ["stage1.batch=4", "stage1.epochs=3", "stage2.det_batch=2", f"stage2.iterations={STEPS}",
                "stage1.val_crop=1", "stage2.warmup=3", "stage1.mixup=0", "stage1.cutmix=0"]
        for script, extra in (("train_stage1.py", []),
                              ("train_stage2.py", [f"stage2.init={root / 'train_stage1.py-alone' / 'stage1.pt'}"])):
            train(root, script, f"{script}-alone", 1, STEPS, [*base, *extra])
            for processes, until in zip((1, 2, 1), CUTS):
                train(root, script, f"{script}-moved", processes, until, [*base, *extra])
            alone, moved = steps(root, f"{script}-alone"), steps(root, f"{script}-moved")
            same = all(alone[s][0] == moved[s][0] for s in range(STEPS))
            worst = max(abs(moved[s][1][k] - v) / max(abs(v), 1e-3) for s in range(STEPS)
                        for k, v in alone[s][1].items())
            ratio = ({tuple(len(stream) for stream in alone[s][0]) for s in range(STEPS)}
                     | {tuple(len(stream) for stream in moved[s][0]) for s in range(STEPS)})
            bench.line(f"{script}: images of {STEPS} steps {'the same sequence' if same else 'DIFFERENT'}, in each "
                       f"step {ratio}; losses differ by {worst:.1e} at most (relative)")
            for key in alone[STEPS - 1][1]:
                bench.line(f"    {key:<16} last step: {alone[STEPS - 1][1][key]:.6f} alone, "
                           f"{moved[STEPS - 1][1][key]:.6f} moved")
            assert same and torch.isfinite(torch.tensor(worst))


if __name__ == "__main__":
    main()
