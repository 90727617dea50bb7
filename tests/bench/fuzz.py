"""A long run of tests/fuzz.py: python -m tests.bench.fuzz [--cases 28000] [--seed 0] [--kinds a,b]. A table of what was
refused and accepted."""
import argparse
import tempfile
import time
import warnings
from pathlib import Path

from tests import fuzz


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=28000)
    parser.add_argument("--kinds", default=",".join(fuzz.TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    kinds = a.kinds.split(",")
    warnings.simplefilter("ignore")
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = fuzz.run(Path(folder), a.cases, a.seed, kinds)
    for name in kinds:
        print(f"{name:<18} {outcomes[name, 'refused']:>6} refused in one line {outcomes[name, 'accepted']:>6} read "
              f"correctly")
    print(f"{a.cases} cases, seed {a.seed}: {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
