"""A short run of tests/fuzz.py; a long one is `python -m tests.bench.fuzz`."""
from tests import fuzz

CASES = 60  # of each kind: of the rarest, 8 % are read and the others refused


def test_mutated_input_ends_in_correct_work_or_a_line(tmp_path):
    outcomes = fuzz.run(tmp_path, cases=len(fuzz.TARGETS) * CASES, seed=7)
    for name in fuzz.TARGETS:
        refused, accepted = outcomes[name, "refused"], outcomes[name, "accepted"]
        assert refused + accepted == CASES
        assert accepted > 0 and (refused > 5 or name == "tar"), (name, outcomes)  # it meets both
