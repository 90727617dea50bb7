"""Does the paper hold? Its claims in two small worlds, on two CPU cores, with the alternatives in the same run.

    python -m s21k.prepare.tiny_imagenet tiny-imagenet-200.zip --out data/tiny40 --classes 40
    python -m s21k.prepare.shapes --format scenes --out data/scenes
    python -m s21k.experiments run [--world scenes] [--seeds 0 1 2] [--rows full no_stage1 ..]
                                                               all rows, seed by seed; continues
    python -m s21k.experiments choices [--seeds 0]             tiny40's open choices, each at a part of the budget
    python -m s21k.experiments table                           the tables and verdicts of what has been run
    python -m s21k.experiments repeat [--world scenes] --seeds 0 --rows full
                                                               a row again, beside the committed figures; writes none

tiny40 (the default): 40 classes of Tiny ImageNet, half of them without boxes, one object an image. scenes: drawn, many
objects of very different size, novel ones without boxes on the images with boxes. Each finished row is a line of
s21k/experiments/results/tiny40.jsonl, scenes.jsonl or choices.jsonl; a row that is there is not run again. The
project's own scripts are run, one after the other; what lies in runs/ is not trained again. Seeds are independent:
several of these commands may run at once, each with its own.
"""
import argparse
import os

from s21k.core.errors import InputError, run_command
from s21k.experiments.running import ROOT, repeat, run_rows
from s21k.experiments.tables import all_tables
from s21k.experiments.worlds import WORLDS


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m s21k.experiments")
    parser.add_argument("what", choices=["run", "choices", "table", "repeat"])
    parser.add_argument("--world", choices=list(WORLDS), default="tiny40")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--rows", nargs="+")
    a = parser.parse_args(argv)
    world = WORLDS[a.world]
    known = world.choices if a.what == "choices" else world.rows
    if not known:
        raise InputError(f"--world {world.name}: it has no choices")
    if wrong := [row for row in a.rows or [] if row not in known]:
        raise InputError(f"--rows {wrong[0]!r}: not one of {', '.join(known)}")
    rows = {row: words for row, words in known.items() if a.rows is None or row in a.rows}
    os.chdir(ROOT)
    if a.what == "repeat":
        return repeat(world, rows, a.seeds or [0, 1, 2])
    if a.what == "run":
        run_rows(world.name, rows, a.seeds or [0, 1, 2], world.base)
    elif a.what == "choices":
        run_rows("choices", rows, a.seeds or [0], world.base)
    print("\n".join(all_tables()))


if __name__ == "__main__":
    run_command(main, __doc__)
