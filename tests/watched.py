"""Run one of the project's commands with something changed, in a process of its own.

    watched.py CHANGE [CHANGE ..] -- SCRIPT ARGUMENT .. [-- SCRIPT ARGUMENT ..]

  start=METHOD     loader processes are started by fork, forkserver or spawn
  sleeping         no image is ever read: every loader process hangs
  collectives      prints the size of the largest object or tensor that went through a collective
  killed=N         every image's part is written at once, and the process ends as if killed after N of them
"""
import itertools
import multiprocessing
import os
import pickle
import runpy
import sys
import time

import torch.distributed as dist

from s21k.data import loaders
from s21k.evaluation import parts

largest = 0


def sleep(*args: object) -> None:
    time.sleep(1e6)


def watch_collectives() -> None:
    def note(size: int) -> None:
        global largest
        largest = max(largest, size)

    gather, reduce = dist.all_gather_object, dist.all_reduce
    dist.all_gather_object = lambda values, value: (note(len(pickle.dumps(value))), gather(values, value))
    dist.all_reduce = lambda tensor, *args, **kwargs: (note(tensor.nbytes), reduce(tensor, *args, **kwargs))[1]


def kill_after(count: int) -> None:
    add = parts.PartWriter.add

    def add_and_write(self: parts.PartWriter, *arguments: object) -> None:
        add(self, *arguments)
        self.flush(now=True)
        if self.number == count:
            os._exit(137)

    parts.PartWriter.add = add_and_write


if __name__ == "__main__":
    changes, *commands = [list(part) for dashes, part in itertools.groupby(sys.argv[1:], "--".__eq__) if not dashes]
    for change in changes:
        name, _, value = change.partition("=")
        if name == "start":
            multiprocessing.set_start_method(value)
            # each loader process would import it anew
            multiprocessing.set_forkserver_preload(["s21k.data.loaders"])
        elif name == "sleeping":
            loaders.LabelStream.sample = sleep
        elif name == "collectives":
            watch_collectives()
        elif name == "killed":
            kill_after(int(value))
    try:
        for sys.argv in commands:
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        if "collectives" in changes and os.environ.get("RANK") == "0":
            print(f"largest collective: {largest} bytes")
