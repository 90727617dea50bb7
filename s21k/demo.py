"""The method from start to end, in one command: draw a toy world, stage I, stage II, evaluation.

    python -m s21k.demo              four minutes on two idle CPU cores
    python -m s21k.demo --compare    then the same without stage I ("-stage I" of Tables 2 and 3), and a table of both
    python -m s21k.demo no_stage1    without stage I only

The toy world has 24 categories. 12 of them (base) have boxes to learn from; the other 12 (novel) have
image labels only. Runs the project's own commands one after the other; further words are passed on.
"""
import json
import subprocess
import sys
import time
from pathlib import Path

from s21k.core.config import Config, load_config
from s21k.core.errors import InputError, run_command
from s21k.training.checkpoint import read, unfinished

ROOT = Path(__file__).resolve().parent.parent
FIGURES = {"Top-1": "top1", "Top-5": "top5", "GT-Known": "gt_known", "AP50": "AP50"}
GROUPS = {"base": "boxes and labels seen", "novel": "labels only, never a box"}


def run(what: str, *command: str) -> None:
    """Say what one of the project's commands does, and run it from the repository's root."""
    print(f"\n{what}\n$ python {' '.join(command)}", flush=True)
    code = subprocess.run([sys.executable, *command], cwd=ROOT).returncode
    if code:
        raise InputError(f"python {' '.join(command)} ended with exit code {code}")


def train(what: str, script: str, checkpoint: Path, *words: str) -> None:
    """One stage. InputError: it was stopped before its end; what follows would be of a half-trained model."""
    run(what, script, "toy", *words)
    if line := unfinished(read(ROOT / checkpoint), checkpoint):
        raise InputError(f"{line}; the same command goes on from there")


def whole_run(cfg: Config, words: list[str]) -> dict[str, float]:
    """Data, stage I where it is wanted, stage II and evaluation; the figures of metrics.json."""
    if not (ROOT / cfg.data.root / "shapes" / "categories.json").is_file():
        run("Draws 24 categories of shapes: images with one label for all, with boxes for 12 of them.",
            "-m", "s21k.prepare.shapes", "--out", str(Path(cfg.data.root) / "shapes"))
    if cfg.stage2.init is None:
        train("Stage I learns all 24 categories from image labels: the entire image is its one region.",
              "train_stage1.py", Path(cfg.parent_dir) / "stage1.pt", *words)
    train("Stage II learns boxes of 12 categories, and goes on with the labels of all 24.",
          "train_stage2.py", Path(cfg.output_dir) / "stage2.pt", *words)
    run("Evaluation detects all 24 on new images.", "evaluate.py", "toy", *words)
    return json.loads((ROOT / cfg.output_dir / "metrics.json").read_text())


def stage1_accuracy(cfg: Config) -> float | None:
    """The last one in the run's log; None without stage I."""
    lines = [json.loads(line) for line in (ROOT / cfg.output_dir / "log.jsonl").read_text().splitlines()]
    return ([None] + [line["val_top1"] for line in lines if "val_top1" in line])[-1]


def table(results: dict[str, dict[str, float]]) -> str:
    """Figures in per cent: a column a run."""
    lines = [" " * 18 + "".join(f"{name:>16}" for name in results)]
    for group in GROUPS:
        for name, key in FIGURES.items():
            shown = "".join(f"{100 * figures[f'{key}_{group}']:>16.1f}" for figures in results.values())
            lines.append(f"  {group + ', ' + name:<16}{shown}")
    return "\n".join(lines)


def main(words: list[str]) -> None:
    start = time.time()
    with_table = "--compare" in words
    words = [word for word in words if word != "--compare"]
    cfg = load_config(["toy", *words])
    results = whole_run(cfg, words)
    accuracy = stage1_accuracy(cfg)
    print(f"\nIn {(time.time() - start) / 60:.1f} minutes:")
    if accuracy is not None:
        print(f"  stage I, whole images: top-1 accuracy {100 * accuracy:.1f} %")
    for group, meaning in GROUPS.items():
        shown = ", ".join(f"{name} {100 * results[f'{key}_{group}']:.1f} %" for name, key in FIGURES.items())
        print(f"  {group} categories ({meaning}): {shown}")
    print(f"  baselines that ignore the image: GT-Known {100 * results['gt_known_whole_image']:.1f} % (the whole "
          f"image), {100 * results['gt_known_centred_box']:.1f} % (the best centred box)")
    if with_table:
        without = [*words, "no_stage1"]
        both = {"with stage I": results, "without": whole_run(load_config(["toy", *without]), without)}
        print(f"\nIn per cent:\n{table(both)}")
    pictures = ROOT / cfg.output_dir / "pictures"
    print(f"  pictures: {pictures / 'contact_sheet.png'}: true boxes dashed, detections solid")
    name, category = (ROOT / cfg.data.root / "shapes" / "val.tsv").read_text().splitlines()[0].split("\t")
    image = ROOT / cfg.data.root / "shapes" / name
    shown = " ".join(["toy", *words, str(image.relative_to(ROOT) if image.is_relative_to(ROOT) else image)])
    print(f"Next:\n  python -m s21k.predict {shown}\n  python -m s21k.explain {shown} --category '{category}'\n"
          f"  python -m s21k.prepare.tiny_imagenet tiny-imagenet-200.zip && python train_stage1.py r18 tiny")


if __name__ == "__main__":
    run_command(main, __doc__)
