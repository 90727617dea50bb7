"""Running rows: the project's own scripts, one after the other; what lies in runs/ is not trained again.

A finished row is a line of results/<name>.jsonl: row, seed, words, revision (of the code), config (a hash of the whole
resolved configuration), seconds, figures; beside it the figures on draws of the evaluation images (noise.py). Older
lines have minutes in place of revision, config and seconds. Commands run in the repository's root.
"""
import dataclasses
import hashlib
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from s21k.core.config import NEUTRAL, Config, load_config
from s21k.core.errors import InputError, note
from s21k.core.trees import leaves
from s21k.experiments.cam import cam_figures
from s21k.experiments.noise import Draws, image_draws, read_draws, save_draws
from s21k.experiments.worlds import GROUPED, TITLES, SmallWorld
from s21k.training.amp import best_precision
from s21k.training.checkpoint import read, unfinished
from s21k.training.run import trained

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


def read_results(name: str) -> list[dict]:
    """The lines of a results file; InputError: one is not JSON."""
    path = RESULTS / f"{name}.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    except ValueError as error:
        raise InputError(f"{path}: a line is not JSON ({error})") from None


def figures_of(name: str, row: str) -> dict[int, dict[str, float]]:
    """Seed -> the figures of a row of a results file."""
    return {line["seed"]: line["figures"] for line in read_results(name) if line["row"] == row}


def draws_file(name: str, row: str, seed: int) -> Path:
    return RESULTS / name / f"{file_name(row)}-{seed}.npz"


def draws_of(name: str, row: str) -> dict[int, Draws]:
    """Seed -> the figures of a row on draws of the images, where they were kept."""
    return {seed: read_draws(draws_file(name, row, seed)) for seed in figures_of(name, row)}


def file_name(row: str) -> str:
    """A row's name with nothing in it that a file's name should not have."""
    return re.sub(r"[^\w.-]+", "-", row.replace("%", "percent")).strip("-")


def revision() -> str:
    """Of the code, "+" behind it where a file of it was changed since (results are none); "" where git does not
    know."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!s21k/experiments/results")
        return git("rev-parse", "--short", "HEAD").strip() + "+" * bool(changed)
    except (OSError, subprocess.SubprocessError):
        return ""


def config_hash(cfg: Config) -> str:
    """12 hex digits of all keys that change a figure: training's and the evaluation's, with the precision that `auto`
    becomes here."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    amp = best_precision(device)[0] if cfg.amp == "auto" else cfg.amp
    free = tuple(key for key in NEUTRAL if key not in ("eval.", "data.eval."))
    kept = {key: value for key, value in leaves(dataclasses.asdict(dataclasses.replace(cfg, amp=amp))).items()
            if not key.startswith(free) and key not in ("eval.checkpoint", "eval.pictures")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def script(name: str, words: list[str]) -> None:
    """One of the project's scripts with these words, from the repository's root."""
    print(f"\n$ python {name} {' '.join(words)}", flush=True)
    code = subprocess.run([sys.executable, name, *words], cwd=ROOT).returncode
    if code:
        raise InputError(f"python {name} {' '.join(words)} ended with exit code {code}")


def train_stage1(words: list[str]) -> None:
    """Stage I of an experiment, where all that share it look for it; says so when it is done already."""
    script("train_stage1.py", [*words, f"output_dir={load_config(words).parent_dir}"])


def finish(words: list[str], variant: str = "") -> tuple[dict[str, float], Draws]:
    """Stage I where it is not done, stage II and evaluation of one experiment; its figures, with stage I's top-1, and
    those on draws of the images.

    variant: a name for another evaluation of a model that other rows evaluate, too: it gets a folder in the model's.
    """
    cfg = load_config(words)
    # neutral: a row is short, its stage I may be continued
    words = [*words, "stage2.save_every=100000"]
    if cfg.stage2.init is None:
        train_stage1(words)
    script("train_stage2.py", words)
    for place in (trained(cfg), *([Path(cfg.parent_dir) / "stage1.pt"] if cfg.stage2.init is None else [])):
        if line := unfinished(read(place), place):
            raise InputError(f"{line}; the same command goes on from there")
    folder = Path(cfg.output_dir) / variant
    if variant:
        words += [f"output_dir={folder}", f"eval.checkpoint={trained(cfg)}"]
        folder.mkdir(exist_ok=True)
    script("evaluate.py", words)
    figures = json.loads((folder / "metrics.json").read_text())
    figures.pop("warnings", None)
    log = Path(cfg.parent_dir) / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if cfg.stage2.init is None else []
    accuracy = [line["val_top1"] for line in lines if "val_top1" in line]
    return figures | ({"stage1_top1": accuracy[-1]} if accuracy else {}), image_draws(cfg, folder)


def run_row(row: str, more: list[str], words: list[str]) -> tuple[dict[str, float], Draws]:
    """Train and evaluate a row: its figures, and those on draws of the images (none of "cam"). more: its own words
    among all."""
    if row != "cam":
        return finish(words, file_name(row) if any(word.startswith("eval.") for word in more) else "")
    train_stage1(words)
    cfg = load_config(words)
    return cam_figures(cfg, Path(cfg.parent_dir) / "stage1.pt"), {}


def run_rows(name: str, rows: dict[str, list[str]], seeds: list[int], base: list[str]) -> None:
    """Every row of every seed that is not in the results yet."""
    RESULTS.mkdir(exist_ok=True)
    for seed in seeds:
        for row, more in rows.items():
            if any(line["row"] == row and line["seed"] == seed for line in read_results(name)):
                continue
            words, began, code = [*base, *more, f"seed={seed}"], time.time(), revision()
            if any("DET_ONLY" in word for word in more):
                start = load_config([*base, "det_only", f"seed={seed}"]).output_dir
                words = [word.replace("DET_ONLY", start) for word in words]
            figures, draws = run_row(row, more, words)
            if draws:
                shown = {key for key in draws if key.removesuffix("_base").removesuffix("_novel") in GROUPED}
                save_draws(draws_file(name, row, seed), {key: draws[key] for key in shown})
            line = {"row": row, "seed": seed, "words": words, "revision": code,
                    "config": config_hash(load_config(words)), "seconds": round(time.time() - began),
                    "figures": {key: round(value, 5) for key, value in figures.items()}}
            with open(RESULTS / f"{name}.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")


def repeat(world: SmallWorld, rows: dict[str, list[str]], seeds: list[int]) -> None:
    """Print rows again: each figure now, as committed, and the standard deviation over the committed seeds. InputError:
    none is committed."""
    for row, more in rows.items():
        lines = {line["seed"]: line for line in read_results(world.name) if line["row"] == row}
        for seed in seeds:
            if seed not in lines:
                raise InputError(f"row {row!r}, seed {seed}: not in {RESULTS / f'{world.name}.jsonl'}, expected one of "
                                 f"the committed seeds {sorted(lines)}")
            words, committed = [*world.base, *more, f"seed={seed}"], lines[seed]["figures"]
            if lines[seed].get("config", now := config_hash(load_config(words))) != now:
                note(f"{row}, seed {seed}: committed with another configuration, {lines[seed]['config']} at revision "
                     f"{lines[seed]['revision']}, now {now}")
            figures, _ = run_row(row, more, words)
            for key in (key for keys in world.tables for key in keys if key in figures):           # CAM has no AP
                all_seeds = [100 * line["figures"][key] for line in lines.values()]
                noise = f"{statistics.stdev(all_seeds):.1f}" if len(all_seeds) > 1 else "not known"
                print(f"{row}, seed {seed}: {TITLES[key]} {100 * figures[key]:.1f}, committed "
                      f"{100 * committed[key]:.1f}, standard deviation over seeds {noise}", flush=True)
