"""The method from start to end, in one command: draw a toy world, stage I, stage II, evaluation.

    python -m s21k.demo              some minutes on two CPU cores
    python -m s21k.demo no_stage1    the same without stage I, for comparison ("-stage I" of Tables 2 and 3)

The toy world has 24 categories. 12 of them (base) have boxes to learn from; the other 12 (novel) have
image labels only. Runs the project's own commands one after the other; further words are passed on.
"""
import json
import subprocess
import sys
import time
from pathlib import Path

from s21k.core.config import load_config
from s21k.core.errors import InputError, run_command

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str) -> None:
    """One of the project's commands, from the repository's root."""
    print(f"\n$ python {' '.join(command)}", flush=True)
    code = subprocess.run([sys.executable, *command], cwd=ROOT).returncode
    if code:
        raise InputError(f"python {' '.join(command)} ended with exit code {code}")


def main(words: list[str]) -> None:
    start = time.time()
    cfg = load_config(["toy", *words])
    if not (ROOT / cfg.data.root / "shapes" / "categories.json").is_file():
        run("-m", "s21k.prepare.shapes", "--out", str(Path(cfg.data.root) / "shapes"))
    if cfg.stage2.init is None:
        run("train_stage1.py", "toy", *words)
    run("train_stage2.py", "toy", *words)
    run("evaluate.py", "toy", *words)
    folder = ROOT / cfg.output_dir
    results = json.loads((folder / "metrics.json").read_text())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    accuracy = [line["val_top1"] for line in lines if "val_top1" in line]
    print(f"\nIn {(time.time() - start) / 60:.1f} minutes:")
    if accuracy:
        print(f"  stage I, whole images: top-1 accuracy {100 * accuracy[-1]:.1f} %")
    for group, meaning in (("base", "boxes and labels seen"), ("novel", "labels only, never a box")):
        shown = ", ".join(f"{name} {100 * results[f'{key}_{group}']:.1f} %" for name, key in
                          (("Top-1", "top1"), ("Top-5", "top5"), ("GT-Known", "gt_known"), ("AP50", "AP50")))
        print(f"  {group} categories ({meaning}): {shown}")
    print(f"  baselines that ignore the image: GT-Known {100 * results['gt_known_whole_image']:.1f} % (the whole "
          f"image), {100 * results['gt_known_centred_box']:.1f} % (the best centred box)")
    print(f"  pictures: {folder / 'pictures' / 'contact_sheet.png'}")


if __name__ == "__main__":
    run_command(main, __doc__)
