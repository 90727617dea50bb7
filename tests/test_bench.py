"""The benches: listed without being imported, their lines in a file at once, wrong names refused."""
import json
import subprocess
import sys

import pytest

from tests.bench.__main__ import FOLDER, benches
from tests.bench.timing import Bench
from tests.toy import ROOT


def test_every_bench_is_listed_with_a_line_and_its_minutes_and_takes_little_by_default():
    found = benches()
    modules = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "__main__", "timing"}
    assert modules == set(found)
    for name, (about, (some, whole)) in found.items():
        assert "\n" not in about and 20 < len(about) < 120, name
        assert 0 < some <= whole and (some <= 5 or name == "gpu"), name


def test_a_wrong_name_is_refused_with_the_right_ones():
    done = subprocess.run([sys.executable, "-m", "tests.bench", "trainin"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "'trainin' is none of" in done.stderr and "training" in done.stderr


def test_each_line_is_printed_and_in_the_file_as_soon_as_it_is_there(tmp_path, monkeypatch, capsys):
    path = tmp_path / "new" / "a.json"
    monkeypatch.setattr(sys, "argv", ["bench", "two", "--json", str(path)])
    bench = Bench("What.", (1, 4), ["one", "two"])
    assert bench.begin().parts == ["two"]
    assert "about 1 minutes" in capsys.readouterr().out
    bench.line("first", ratio=1.5)
    assert capsys.readouterr().out == "first\n"
    content = json.loads(path.read_text())
    assert content["lines"] == [{"line": "first", "ratio": 1.5}] and content["machine"]["torch"]


@pytest.mark.parametrize(("arguments", "parts"), [([], ["one"]), (["--all"], ["one", "two"]), (["two"], ["two"])])
def test_by_default_the_first_parts_run_and_with_all_every_one(monkeypatch, arguments, parts):
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    assert Bench("What.", (1, 4), ["one", "two"], default=1).begin().parts == parts
