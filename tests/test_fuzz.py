"""A short run of tests/fuzz.py; a long one is `python -m tests.bench.fuzz`."""
from tests import fuzz


def test_mutated_input_ends_in_correct_work_or_a_line(tmp_path):
    outcomes = fuzz.run(tmp_path, cases=len(fuzz.TARGETS) * 25, seed=7)
    for name in fuzz.TARGETS:
        assert outcomes[name, "refused"] + outcomes[name, "accepted"] == 25
        assert outcomes[name, "accepted"] > 0 and (outcomes[name, "refused"] > 5 or name == "tar"), (name, outcomes)     # it meets both
