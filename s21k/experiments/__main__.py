"""Does the paper hold? Its claims on real images, on two CPU cores, with the alternatives in the same run.

    python -m s21k.prepare.tiny_imagenet tiny-imagenet-200.zip --out data/tiny40 --classes 40
    python -m s21k.experiments run [--seeds 0 1 2] [--rows full no_stage1 ..]   all rows, seed by seed; continues
    python -m s21k.experiments choices [--seeds 0]             the open choices, each at a part of the budget
    python -m s21k.experiments table                           the tables and verdicts of what has been run
    python -m s21k.experiments repeat --seeds 0 --rows full    a row again, beside the committed figures; writes none

40 classes of Tiny ImageNet, half of them without boxes. Each finished row is a line of
s21k/experiments/results/tiny40.jsonl or choices.jsonl (row, seed, words, figures, minutes); a row that is there is not
run again. The project's own scripts are run, one after the other; what lies in runs/ is not trained again. Seeds are
independent: several of these commands may run at once, each with its own.
"""
import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from s21k.core.config import load_config
from s21k.core.errors import InputError, run_command
from s21k.experiments.cam import cam_figures
from s21k.models.roi_pool import level_shares
from s21k.training.checkpoint import read
from s21k.training.run import trained

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
BASE = ["r18", "tiny40"]
# Row -> the words it adds. Stage I is shared by rows that change nothing of it; it is trained when a row first needs
# it. Rows that change the evaluation alone use the trained model of "full".
ROWS = {"full": [], "no_reform": ["no_reform"], "no_stage1": ["no_stage1"], "det_only": ["det_only"],
        "max_size": ["stage2.baseline=max_size"], "max_score": ["stage2.baseline=max_score"],
        "image": ["stage2.baseline=image"], "softmax": ["stage2.baseline=softmax"],
        "cam": ["no_reform"], "g alone": ["eval.fusion=det_only"], "g-hat alone": ["eval.fusion=cls_only"],
        "exponent 1/2": ["eval.fusion_exponent=0.5"],
        "exponent 1/3": ["eval.fusion_exponent=0.3333"], "arithmetic": ["eval.fusion=arithmetic"]}
MEANING = {"full": "the method", "no_reform": "\"-reform.\": stage I pools, stage II takes its backbone",
           "no_stage1": "\"-stage I\": stage II from random weights",
           "det_only": "stage II without labelled images", "max_size": "Detic's max-size loss",
           "max_score": "Detic's max-score loss", "image": "Detic's image loss",
           "softmax": "one softmax over C + 1 beside g-hat", "cam": "class activation maps, no boxes in training",
           "g alone": "full, base categories scored by g",
           "g-hat alone": "full, base categories scored by g-hat", "exponent 1/2": "full, Eq. 5 with 1/2, 1/2",
           "exponent 1/3": "full, Eq. 5 with 1/3, 2/3",
           "arithmetic": "full, 2/3 and 1/3 of the scores added"}
# Choice -> the words it adds; the first of each group is our default. The level of the whole image is a choice of stage
# I, too;
# DET_ONLY is the folder of that row, whose RPN is trained: "warm" rows start from it, all alike (f, g and boxes anew).
SHORT, LEVELS = ["stage2.iterations=300"], ["stage1.epochs=2", "stage2.iterations=300"]
WARM = [*SHORT, "stage2.init=DET_ONLY/stage2.pt"]
CHOICES = {"default, short": SHORT, "lambda 0.01": [*SHORT, "stage2.image_loss_weight=0.01"],
           "lambda 1": [*SHORT, "stage2.image_loss_weight=1"],
           "loss on the product": [*SHORT, "stage2.loss_reading=bce_product"],
           "category loss over foreground": [*SHORT, "stage2.loss_norm=fg"],
           "g-hat starts anew": [*SHORT, "stage2.load_image_classifier=false"],
           "det:cls 1:1": [*SHORT, "stage2.cls_per_det=1"],
           "det:cls 1:6": [*SHORT, "stage2.cls_per_det=6"], "learning rate 1e-3": [*SHORT, "stage2.lr=1e-3"],
           "rescue from IoU 0.3": [*SHORT, "model.rpn_rescue_iou=0.3"],
           "output layer copied": [*SHORT, "stage2.copy_fpn_output=p2"],
           "level: FPN's rule": LEVELS, "level: P5": [*LEVELS, "model.image_roi_level=p5"],
           "level: mean of all": [*LEVELS, "model.image_roi_level=all_mean"],
           "level: random": [*LEVELS, "model.image_roi_level=random"],
           "warm: ours": WARM, "warm: image": [*WARM, "stage2.baseline=image"],
           "warm: max_size": [*WARM, "stage2.baseline=max_size"],
           "warm: max_score": [*WARM, "stage2.baseline=max_score"],
           "short, g alone": [*SHORT, "eval.fusion=det_only"], "short, g-hat alone": [*SHORT, "eval.fusion=cls_only"]}
# The paper's claims as differences of two rows: claim, row, the row it is held against, figures in which it should be
# better.
CLAIMS = (("knowledge of a thoroughly trained classifier helps (Sec. 4.2, 4.3)", "full", "no_stage1",
           ("top1", "gt_known", "AP50_base", "AP50_novel")),
          ("the reformulated stage I transfers better than a plain one (Tables 2, 3)", "full", "no_reform",
           ("top1", "gt_known", "AP50_base", "AP50_novel")),
          ("labelled images help in stage II, too (as in Table 5)", "full", "det_only",
           ("top1_base", "top1_novel", "AP50_base", "AP50_novel")),
          ("Eq. 5 beats g alone where both know a category [P33]", "full", "g alone", ("top1", "AP50_base")),
          ("Eq. 5 beats g-hat alone where both know a category [P33]", "full", "g-hat alone", ("top1", "AP50_base")),
          ("f decoupled beats one softmax over C + 1 on novel categories [P31]", "full", "softmax",
           ("gt_known_novel", "top1_novel", "AP50_novel")),
          ("the entire image teaches more than the largest proposal [P3; Detic's losses]", "image", "max_size",
           ("top1", "gt_known", "AP50_novel")),
          ("the entire image teaches more than the best-scored proposal [P3; Detic's losses]", "image", "max_score",
           ("top1", "gt_known", "AP50_novel")),
          ("softmax beats sigmoid on the entire image", "full", "image", ("top1", "gt_known", "AP50_novel")),
          ("the whole method beats Detic's max-size loss", "full", "max_size", ("top1", "gt_known", "AP50_novel")),
          ("boxes of some categories localize the others better than class activation maps", "full", "cam",
           ("gt_known_novel", "top1_novel")))
# Two-sided 5 % points of Student's t for 1 to 4 degrees of freedom.
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
KEYS = {"top1": "Top-1", "gt_known": "GT-Known", "top5": "Top-5", "AP50": "AP50"}


def read_results(name: str) -> list[dict]:
    """The lines of a results file; InputError: one is not JSON."""
    path = RESULTS / f"{name}.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    except ValueError as error:
        raise InputError(f"{path}: a line is not JSON ({error})") from None


def script(name: str, words: list[str]) -> None:
    """One of the project's scripts with these words, from the repository's root."""
    print(f"\n$ python {name} {' '.join(words)}", flush=True)
    code = subprocess.run([sys.executable, name, *words], cwd=ROOT).returncode
    if code:
        raise InputError(f"python {name} {' '.join(words)} ended with exit code {code}")


def train_stage1(words: list[str]) -> None:
    """Stage I of an experiment, where all that share it look for it; says so when it is done already."""
    script("train_stage1.py", [*words, f"output_dir={load_config(words).parent_dir}"])


def finish(words: list[str]) -> dict[str, float]:
    """Stage I where it is not done, stage II and evaluation of one experiment; its figures, and stage I's top-1."""
    cfg = load_config(words)
    stage1 = ROOT / cfg.parent_dir / "log.jsonl"
    # neutral: a row is short, its stage I may be continued
    words = [*words, "stage2.save_every=100000"]
    if cfg.stage2.init is None:
        train_stage1(words)
    script("train_stage2.py", words)
    for place in (trained(cfg), *([ROOT / cfg.parent_dir / "stage1.pt"] if cfg.stage2.init is None else [])):
        content = read(place if place.is_absolute() else ROOT / place)
        if content["step"] != content["total"]:
            raise InputError(f"{place}: {content['step']} of {content['total']} steps: training was stopped; the same "
                             f"command continues it")
    script("evaluate.py", words)
    figures = json.loads((ROOT / cfg.output_dir / "metrics.json").read_text())
    lines = [json.loads(line) for line in stage1.read_text().splitlines()] if cfg.stage2.init is None else []
    accuracy = [line["val_top1"] for line in lines if "val_top1" in line]
    return figures | ({"stage1_top1": accuracy[-1]} if accuracy else {})


def run_row(row: str, words: list[str]) -> dict[str, float]:
    """Train and evaluate a row; its figures."""
    if row != "cam":
        return finish(words)
    train_stage1(words)
    cfg = load_config([*words, f"data.root={ROOT / load_config(words).data.root}"])
    return cam_figures(cfg, ROOT / cfg.parent_dir / "stage1.pt")


def repeat(rows: dict[str, list[str]], seeds: list[int]) -> None:
    """Print rows again: each figure now, as committed, and the standard deviation over the committed seeds. InputError:
    none is committed."""
    for row, more in rows.items():
        committed = figures_of("tiny40", row)
        for seed in seeds:
            if seed not in committed:
                raise InputError(f"row {row!r}, seed {seed}: not in {RESULTS / 'tiny40.jsonl'}, expected one of the "
                                 f"committed seeds {sorted(committed)}")
            now = run_row(row, [*BASE, *more, f"seed={seed}"])
            for key, title in KEYS.items():
                if key not in now:                                       # CAM has no AP
                    continue
                all_seeds = [100 * figures[key] for figures in committed.values()]
                noise = f"{statistics.stdev(all_seeds):.1f}" if len(all_seeds) > 1 else "not known"
                print(f"{row}, seed {seed}: {title} {100 * now[key]:.1f}, committed {100 * committed[seed][key]:.1f}, "
                      f"standard deviation over seeds {noise}", flush=True)


def run_rows(name: str, rows: dict[str, list[str]], seeds: list[int], base: list[str]) -> None:
    """Every row of every seed that is not in the results yet."""
    RESULTS.mkdir(exist_ok=True)
    for seed in seeds:
        for row, more in rows.items():
            if any(line["row"] == row and line["seed"] == seed for line in read_results(name)):
                continue
            words, began = [*base, *more, f"seed={seed}"], time.time()
            if any("DET_ONLY" in word for word in more):
                start = load_config([*base, "det_only", f"seed={seed}"]).output_dir
                words = [word.replace("DET_ONLY", start) for word in words]
            figures = run_row(row, words)
            line = {"row": row, "seed": seed, "words": words, "minutes": round((time.time() - began) / 60, 1),
                    "figures": {key: round(value, 5) for key, value in figures.items()}}
            with open(RESULTS / f"{name}.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")


def spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds, in per cent."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def figures_of(name: str, row: str) -> dict[int, dict[str, float]]:
    """Seed -> the figures of a row of a results file."""
    return {line["seed"]: line["figures"] for line in read_results(name) if line["row"] == row}


def table(name: str, groups: tuple[str, ...], keys: tuple[str, ...]) -> list[str]:
    """The rows of a results file as lines of a Markdown table: mean and standard deviation over the seeds, in per
    cent."""
    columns = [(f"{key}_{group}" if group else key, f"{KEYS[key]}, {group or 'all'}") for key in keys
               for group in groups]
    out = ["| row | seeds | " + " | ".join(title for _, title in columns) + " |", "|" + "---|" * (len(columns) + 2)]
    for row in dict.fromkeys(line["row"] for line in read_results(name)):
        figures = list(figures_of(name, row).values())
        shown = [spread([f[key] for f in figures]) if all(key in f for f in figures) else "" for key, _ in columns]
        out.append(f"| {row}{': ' + MEANING[row] if row in MEANING else ''} | {len(figures)} | " + " | ".join(shown)
                   + " |")
    return out


def difference(row: str, other: str, key: str) -> tuple[str, str] | None:
    """(row - other over the seeds that both have, in points with its standard deviation, verdict); None: fewer than two
    such seeds.

    A difference is seen where its mean is further from zero than Student's t allows by chance in one of twenty cases
    (with three seeds: 2.48 standard deviations); then the claim holds, or it is reversed. All seeds are scored on the
    same pictures: that other images might say otherwise is not in it.
    """
    a, b = figures_of("tiny40", row), figures_of("tiny40", other)
    differences = [a[seed][key] - b[seed][key] for seed in sorted(a.keys() & b.keys())
                   if key in a[seed] and key in b[seed]]
    if len(differences) < 2:
        return None
    mean, deviation = statistics.mean(differences), statistics.stdev(differences)
    clear = abs(mean) > STUDENT[min(len(differences), 5)] * deviation / math.sqrt(len(differences))
    return f"{100 * mean:+.1f} ± {100 * deviation:.1f}", ("holds" if mean > 0 else "reversed") if clear else "not seen"


def verdicts() -> list[str]:
    """Every claim as lines of a Markdown table."""
    out = ["| claim | compared | differences in points: verdict |", "|---|---|---|"]
    for claim, row, other, keys in CLAIMS:
        found = {key: difference(row, other, key) for key in keys}
        if cells := [f"{name_of(key)} {pair[0]}: {pair[1]}" for key, pair in found.items() if pair]:
            out.append(f"| {claim} | {row} - {other} | {'; '.join(cells)} |")
    return out


def name_of(key: str) -> str:
    """gt_known_novel -> GT-Known novel."""
    known = next(k for k in sorted(KEYS, key=len, reverse=True) if key.startswith(k))
    return (KEYS[known] + key.removeprefix(known)).replace("_", " ")


def gaps() -> list[str]:
    """Delta(novel, all) of GT-Known as in Table 2, and of the boxes that need no training: novel images may be easier
    by themselves."""
    out = []
    for row in dict.fromkeys(line["row"] for line in read_results("tiny40")):
        values = [f["gt_known_novel"] - f["gt_known"] for f in figures_of("tiny40", row).values()]
        out.append(f"GT-Known, novel - all: {row:<14} {spread(values)}")
    figures = next(iter(figures_of("tiny40", "full").values()))
    for box in ("whole_image", "centred_box"):
        shown = [100 * figures[f"gt_known_{box}{group}"] for group in ("", "_base", "_novel")]
        out.append(f"GT-Known of the {box.replace('_', ' ')}, without training: all {shown[0]:.1f}, base "
                   f"{shown[1]:.1f}, novel {shown[2]:.1f}, novel - all {shown[2] - shown[0]:+.1f}")
    return out


def levels() -> list[str]:
    """Where FPN's rule puts the whole image in this world: not at the paper's P4 and P5 [G15]."""
    cfg = load_config(BASE)
    jitter = cfg.stage2.size * torch.linspace(*cfg.stage2.scale, 1000).clamp(max=1.0)
    return [f"level of the whole image, stage I: {level_shares(torch.tensor([float(cfg.stage1.size)]))}; stage II: "
            f"{level_shares(jitter)}; "
            f"in the paper: {level_shares(torch.tensor([224.0]))}; "
            f"{level_shares(1024 * torch.linspace(0.1, 2, 1000).clamp(max=1))} (square images)"]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m s21k.experiments")
    parser.add_argument("what", choices=["run", "choices", "table", "repeat"])
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, *CHOICES])
    a = parser.parse_args(argv)
    known = CHOICES if a.what == "choices" else ROWS
    if wrong := [row for row in a.rows or [] if row not in known]:
        raise InputError(f"--rows {wrong[0]!r}: not one of {', '.join(known)}")
    rows = {row: words for row, words in known.items() if a.rows is None or row in a.rows}
    if a.what == "repeat":
        return repeat(rows, a.seeds or [0, 1, 2])
    if a.what == "run":
        run_rows("tiny40", rows, a.seeds or [0, 1, 2], BASE)
    elif a.what == "choices":
        run_rows("choices", rows, a.seeds or [0], BASE)
    for name, groups, keys in (("tiny40", ("", "base", "novel"), ("top1", "gt_known")),
                               ("tiny40", ("", "base", "novel"), ("top5", "AP50")),
                               ("choices", ("base", "novel"), ("top1", "gt_known", "AP50"))):
        print("\n".join(["", *table(name, groups, keys)]))
    if figures_of("tiny40", "full"):
        print("\n".join(["", *verdicts(), "", *gaps(), *levels()]))


if __name__ == "__main__":
    run_command(main, __doc__)
