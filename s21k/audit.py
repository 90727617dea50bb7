"""The ledger: each statement of the paper [P1 to P96] and each gap [G1 to G32], its code and its tests.

    python -m s21k.audit                 all lines of s21k/audit.md
    python -m s21k.audit P25 G3          some of them
    python -m s21k.audit --check         exit code 1 where a line that needs code and a test lacks one,
                                         or a default its alternative

Statement, status and, for a default, the other ways and who has them stand in audit.md. The places are read out of the
code and the tests: a comment or docstring that names a number is a place of it, "P44-P46" or "G18 to G20" of every
number between. P2 to P6 are also levels of the pyramid: those count only where they are cited, in brackets "[P5, P35]"
or first "P5, P35: ..".
"""
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from s21k.core.errors import InputError, nearest, run_command

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = [f"P{n}" for n in range(1, 97)] + [f"G{n}" for n in range(1, 33)]
NEEDED = ("faithful", "default")                    # these need code and a test
STATUSES = (*NEEDED, "background", "needs paper-scale data")
LEVELS = {f"P{n}" for n in range(2, 7)}
# What speaks about the numbers, and is no place of them.
LEFT_OUT = ("s21k/__init__.py", "s21k/audit.py", "tests/test_audit.py", "tests/mutations.py")

NUMBER = r"([PG])(\d+)b?(?:(?: to |-)\1(\d+)b?)?"
ANY = re.compile(rf"\b{NUMBER}\b")
LIST = re.compile(r"(?:[(\[]|^)((?:[PGTE]\d+b?(?: to |-|, | and )?)+)(?=[\]):;]|\.(?!\.)|$)")


@dataclass
class Line:
    number: str
    statement: str
    status: str
    note: str = ""                                      # of a default: the other ways, and who has them
    keys: list[str] = field(default_factory=list)       # of the configuration
    code: list[str] = field(default_factory=list)       # "file name"
    tests: list[str] = field(default_factory=list)      # "file::test"

    def lacks(self) -> list[str]:
        """What a line of this status should have and has not."""
        if self.status not in NEEDED:
            return []
        alternative = ["alternative"] * (self.status == "default" and not self.note)
        return ["code"] * (not self.keys and not self.code) + ["test"] * (not self.tests) + alternative


def numbers(text: str) -> set[str]:
    """The P- and G-numbers that a comment or docstring names."""
    def spread(found: Iterator[re.Match]) -> set[str]:
        return {f"{m[1]}{n}" for m in found for n in range(int(m[2]), int(m[3] or m[2]) + 1)}
    cited = " ".join(m[1] for m in LIST.finditer(text.strip()))
    return spread(ANY.finditer(text)) - LEVELS | spread(ANY.finditer(cited))


def read_ledger(path: Path) -> dict[str, Line]:
    """The rows "| number | statement.. | status | .." of audit.md. InputError: one is missing, or of another form."""
    lines: dict[str, Line] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in text.strip().strip("|").split("|")]
        if not text.startswith("| ") or not re.fullmatch(r"[PG]\d+", cells[0]):
            continue
        at = next((i for i, cell in enumerate(cells) if cell in STATUSES), None)
        if at is None or cells[0] in lines:
            raise InputError(f"{path}: {text!r:.60}: expected each number once, and a status of {', '.join(STATUSES)}")
        lines[cells[0]] = Line(cells[0], ": ".join(cells[1:at]), cells[at], "; ".join(filter(None, cells[at + 1:])))
    if list(lines) != NUMBERS:
        raise InputError(f"{path}: {len(lines)} lines, expected P1 to P96, then G1 to G32, in order")
    return lines


def remarks(source: str) -> list[tuple[int, str]]:
    """(first line, text) of every docstring and comment; comments on successive lines of their own are one."""
    found = [(node.body[0].lineno, node.body[0].value.value) for node in ast.walk(ast.parse(source))
             if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)]
    continued = 0                                       # the line on which a comment would go on
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, text, alone = token.start[0], token.string.lstrip("# "), not token.line[:token.start[1]].strip()
        if alone and line == continued:
            found[-1] = (found[-1][0], f"{found[-1][1]} {text}")
        else:
            found.append((line, text))
        continued = line + 1 if alone else 0
    return found


def _names(node: ast.stmt) -> str:
    """What a statement defines: its function, class, or variables; "" where it defines nothing."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return node.name
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return ", ".join(ast.unparse(target).strip("()") for target in targets)


def enclosing(tree: ast.Module, line: int, source: list[str]) -> list[ast.stmt]:
    """The statements around a line, the outermost first: it is inside of them or, as a comment of its own, above."""
    while source[line - 1].lstrip().startswith("#") and line < len(source):
        line += 1
    trail, body = [], tree.body
    while found := [node for node in body if min(
        [node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) <= line <= node.end_lineno]:
        trail.append(found[0])
        body = found[0].body if isinstance(found[0], (ast.ClassDef, ast.FunctionDef)) else []
    return trail


def config_keys(source: str) -> list[tuple[str, range]]:
    """Each field of the configuration's dataclasses as a key, and its lines: its own, and the comments right below."""
    rows = source.splitlines()
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}

    def walk(name: str, prefix: str) -> Iterator[tuple[str, range]]:
        for node in classes[name].body:
            if not isinstance(node, ast.AnnAssign):
                continue
            inner = next((n.id for n in ast.walk(node.annotation) if isinstance(n, ast.Name) and n.id in classes), None)
            if inner:
                yield from walk(inner, f"{prefix}{node.target.id}.")
            end = node.end_lineno
            while end < len(rows) and rows[end].lstrip().startswith("#"):
                end += 1
            yield f"{prefix}{node.target.id}", range(node.lineno, end + 1)
    return list(walk("Config", ""))


def place(lines: dict[str, Line], text: str, part: str, name: str) -> None:
    """Note name under each line that the text names."""
    for number in numbers(text) & lines.keys():
        known = getattr(lines[number], part)
        if name not in known:
            known.append(name)


def find_places(root: Path, lines: dict[str, Line]) -> None:
    """Fill keys, code and tests from the files below root."""
    for path in [*sorted(root.glob("*.py")), *sorted((root / "s21k").rglob("*.py")),
                 *sorted((root / "tests").glob("test_*.py"))]:
        name, source = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        if name in LEFT_OUT:
            continue
        tree, rows = ast.parse(source), source.splitlines()
        keys = config_keys(source) if name == "s21k/core/config.py" else []
        for node in tree.body if name.startswith("tests/") else ():
            if _names(node).startswith("test_"):
                place(lines, f"its name: {node.name.replace('_', ' ').upper()}", "tests", f"{name}::{node.name}")
        for line, text in remarks(source):
            trail = enclosing(tree, line, rows)
            defined = ([_names(node) for node in trail if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
                       or [_names(node) for node in trail])
            if key := next((key for key, span in keys if line in span), None):
                place(lines, text, "keys", key)
            elif not name.startswith("tests/"):
                place(lines, text, "code", f"{name} {'.'.join(defined)}".strip())
            elif defined and defined[0].startswith("test_"):
                place(lines, text, "tests", f"{name}::{defined[0]}")
    for path in sorted((root / "s21k" / "configs").glob("*.yaml")):
        comments = [row.partition("#")[2].strip() for row in path.read_text().splitlines()]
        place(lines, " ".join(comments), "code", path.relative_to(root).as_posix())


def audit(root: Path) -> dict[str, Line]:
    """The whole ledger of a repository, by number."""
    lines = read_ledger(root / "s21k" / "audit.md")
    find_places(root, lines)
    return lines


def main(argv: list[str]) -> None:
    wanted, check = [word for word in argv if word != "--check"], "--check" in argv
    if unknown := [word for word in wanted if word not in NUMBERS]:
        raise InputError(f"{unknown[0]!r}: expected P1 to P96, G1 to G32, or --check"
                         + nearest(unknown[0], [*NUMBERS, "--check"]))
    lines = audit(ROOT)
    shown = [lines[number] for number in wanted or NUMBERS]
    for line in shown:
        print(f"{line.number:<5}{line.statement}\n     {line.status}")
        if line.note:
            print(f"     {'others' if line.status == 'default' else 'note':<8}{line.note}")
        for what, places in (("config", line.keys), ("code", line.code), ("test", line.tests)):
            print("".join(f"     {what:<8}{name}\n" for name in places), end="")
    counts = Counter(line.status for line in shown)
    complete = sum(bool((line.keys or line.code) and line.tests) for line in shown)
    print(f"{len(shown)} lines: " + ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
          + f"; {complete} have code and a test")
    lacking = [f"{line.number} ({line.status}) has no {' and no '.join(line.lacks())}"
               for line in shown if line.lacks()]
    print("".join(f"{text}\n" for text in lacking), end="")
    if check and lacking:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main, __doc__)
