"""The ledger keeps its word: every statement has its code and its test, and every listed mutation still has its line
and its test."""
import ast
import re
import shutil

import pytest

from s21k import audit
from s21k.audit import NEEDED, NUMBERS, ROOT, find_places, numbers, read_ledger
from s21k.core.errors import InputError
from tests.mutations import MUTATIONS
from tests.toy import build_models, run


@pytest.fixture(scope="module")
def lines():
    return audit.audit(ROOT)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_faithful_or_default_line_has_code_and_a_test(lines, number):
    lacks = lines[number].lacks()
    assert not lacks, f"{number} ({lines[number].status}) has no {' and no '.join(lacks)}"


def test_nothing_is_said_to_come_later_and_figures_are_the_only_lines_without_code(lines):
    assert not any("later" in line.statement.replace("a step later", "") for line in lines.values())
    for line in lines.values():
        assert line.status in NEEDED or re.search(r"\d", line.statement) or line.status == "background", line


def test_the_words_in_the_ledgers_notes_are_experiments():
    """`swin_b s3`, `lvis_finetune`: what stands in such quotes in the tables of statements builds its models."""
    rows = [row for row in (ROOT / "s21k" / "audit.md").read_text().splitlines() if re.match(r"\| [PG]\d+ ", row)]
    words = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    assert len(words) > 20
    for text in words:
        build_models(text.split())


def test_every_default_says_what_else_there_is_or_fails_the_check(lines, tmp_path, monkeypatch, capsys):
    assert all(line.note for line in lines.values() if line.status == "default")
    root = copied(tmp_path, monkeypatch)
    replace(root / "s21k" / "audit.md", lines["G12"].note, "")
    with pytest.raises(SystemExit):
        audit.main(["G12", "--check"])
    assert "G12 (default) has no alternative\n" in capsys.readouterr().out


@pytest.mark.parametrize("text, found", [
    ("P44-P46, G30: the split", "P44 P45 P46 G30"), ("as decided (G18 to G20)", "G18 G19 G20"),
    ("none below 5 (P45b)", "P45"), ("AP50, P100 and G33", "P100 G33"),
    ("P2..P6, each (B, C, h, w)", ""), ("224 px -> P4, 448 -> P5 (G15)", "G15"),
    ("P6 is P5 at every second place (G10)", "G10"), ("P2 0 %, P3 6 %", ""), ("(P4, 14 x 14)", ""),
    ("P5, P35: strictly", "P5 P35"), ("the special RoI of Sec. 3.2 (P2, P13, P18).", "P2 P13 P18"),
    ("Setup 1 (P6, P36-P38)", "P6 P36 P37 P38"), ("T2, P3 and P4: none", "P3 P4")])
def test_numbers_are_read_singly_in_lists_and_in_ranges_and_pyramid_levels_are_none(text, found):
    assert numbers(text) == set(found.split())


def write(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_places_are_found_where_they_are_drawn_here(tmp_path):
    write(tmp_path, "s21k/a.py", '"""File (P7)."""\n# P8\nX, Y = 1, 2  # P9\n\nprint("P10")\n\n\nclass A:\n    '
          '"""P11."""\n\n    def f(self):\n        # P12 and\n        # P13\n        return 1  # P14\n')
    write(tmp_path, "s21k/core/config.py", "class Inner:\n    a: int = 1      # P15\n    b: int = 2      # first,\n    "
          "                # then P16\n\n\nclass Config:\n    seed: int = 0   # P17\n    part: Inner = 3\n")
    write(tmp_path, "s21k/configs/w.yaml", "# P18\na: 1  # P19\n")
    write(tmp_path, "tests/test_b.py",
          '"""P20"""\n\n# P21\ndef test_one():\n    """P22."""\n    assert 1  # P23\n\n\ndef test_p28_and_p5():\n    '
          'pass\n\n\ndef helper():\n    """P24."""\n\n\n# P25\n\ndef test_two():\n    "P26"\n')
    write(tmp_path, "tests/bench/c.py", '"""P27"""\n')
    lines = read_ledger(ROOT / "s21k" / "audit.md")
    find_places(tmp_path, lines)
    found = {number: [*line.keys, *line.code, *line.tests]
             for number, line in lines.items() if line.keys or line.code or line.tests}
    one, two = "tests/test_b.py::test_one", "tests/test_b.py::test_two"
    assert found == {"P7": ["s21k/a.py"], "P8": ["s21k/a.py X, Y"], "P9": ["s21k/a.py X, Y"], "P11": ["s21k/a.py A"],
                     "P12": ["s21k/a.py A.f"], "P13": ["s21k/a.py A.f"], "P14": ["s21k/a.py A.f"],
                     "P15": ["part.a"], "P16": ["part.b"], "P17": ["seed"], "P18": ["s21k/configs/w.yaml"],
                     "P19": ["s21k/configs/w.yaml"], "P21": [one], "P22": [one], "P23": [one], "P26": [two],
                     "P28": ["tests/test_b.py::test_p28_and_p5"]}


def copied(tmp_path, monkeypatch):
    for part in ("s21k", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part,
                        ignore=shutil.ignore_patterns("__pycache__", "bench", "vocabulary", "results"))
    monkeypatch.setattr(audit, "ROOT", tmp_path)
    return tmp_path


def replace(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_line_that_loses_its_test_or_its_code_fails_the_check(tmp_path, monkeypatch, capsys):
    root = copied(tmp_path, monkeypatch)
    audit.main(["G16", "G17", "--check"])
    assert "2 lines: 2 default; 2 have code and a test" in capsys.readouterr().out
    replace(root / "tests" / "test_detector.py", '"""G16: ', '"""')
    audit.main(["G16", "G17"])                                               # said, and no more
    with pytest.raises(SystemExit) as end:
        audit.main(["G16", "G17", "--check"])
    assert end.value.code == 1 and capsys.readouterr().out.count("G16 (default) has no test\n") == 2
    for path in (root / "s21k").rglob("*.py"):
        path.write_text(path.read_text().replace("G16", "G99"))
    with pytest.raises(SystemExit):
        audit.main(["--check"])
    assert "G16 (default) has no code and no test\n" in capsys.readouterr().out


@pytest.mark.parametrize("old, new, says", [("| P12 |", "| P13 |", "expected each number once"), (
    "| P12 |", "P12 |", "127 lines"), ("| faithful | the two", "| done | the two", "a status of faithful")])
def test_a_ledger_that_is_not_whole_is_refused(tmp_path, old, new, says):
    write(tmp_path, "audit.md", (ROOT / "s21k" / "audit.md").read_text().replace(old, new))
    with pytest.raises(InputError, match=says):
        read_ledger(tmp_path / "audit.md")


def test_the_command_prints_statement_status_keys_code_and_tests():
    done = run("s21k.audit", "P57", module=True)
    assert done.returncode == 0
    for text in ("P57  detection to classification images 1 : 3", "faithful", "config  stage2.cls_per_det",
                 "code    train_stage2.py main", "test    tests/test_commands.py::test_the_script_itself"):
        assert text in done.stdout, done.stdout
    done = run("s21k.audit", "G11", "P50", module=True)
    for text in ("others  only from IoU 0.3 on: mmdetection", "config  model.rpn_rescue_iou", "note    decay of every"):
        assert text in done.stdout, done.stdout
    done = run("s21k.audit", "P97", module=True)
    assert done.returncode == 2 and "'P97': expected P1 to P96" in done.stderr


def test_every_mutation_has_its_line_once_and_its_test_in_the_ledger(lines):
    """Without running them: python -m tests.mutations does."""
    assert len(MUTATIONS) >= 40 and len({mutation[:4] for mutation in MUTATIONS}) == len(MUTATIONS)
    for mutation in MUTATIONS:
        source = (ROOT / mutation.file).read_text()
        assert source.count(mutation.old) == 1, mutation
        changed = source.replace(mutation.old, mutation.new)
        if mutation.file.endswith(".py"):                                    # it changes what is run, and can be run
            assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), mutation
        assert f"tests/{mutation.test.split('[')[0]}" in lines[mutation.number].tests, mutation
