"""Damaged input of every kind, refused in one line or read correctly: a long run of tests/fuzz.py.

    python -m tests.bench.fuzz [--cases 3000] [--seed 0] [--kinds a,b] [--all] [--json PATH]

A table of what was refused and accepted. --all: 28,000 cases.
"""
import tempfile
import time
import warnings
from pathlib import Path

from tests import fuzz
from tests.bench.timing import Bench

MINUTES = (1, 25)


def main() -> None:
    bench = Bench(__doc__, MINUTES)
    bench.parser.add_argument("--cases", type=int)
    bench.parser.add_argument("--kinds", default=",".join(fuzz.TARGETS))
    bench.parser.add_argument("--seed", type=int, default=0)
    a = bench.begin()
    kinds, cases = a.kinds.split(","), a.cases or (28000 if a.all else 3000)
    warnings.simplefilter("ignore")
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = fuzz.run(Path(folder), cases, a.seed, kinds)
    for name in kinds:
        refused, accepted = outcomes[name, "refused"], outcomes[name, "accepted"]
        bench.line(f"{name:<18} {refused:>6} refused in one line {accepted:>6} read correctly", refused=refused,
                   accepted=accepted)
    bench.line(f"{cases} cases, seed {a.seed}: {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
