"""README and the guide: what they name exists, their commands can be typed, and measured figures name their command.

A page is a Markdown file; a block is what lies between two lines of three backticks, a span what lies between two
single ones. Words, numbers and shell variables in spans are not looked at: only what has the form of a path, of a
dotted name, of a key of the configuration, or of a class or function.
"""
import ast
import dataclasses
import functools
import importlib
import importlib.util
import re
import shlex

import pytest

from s21k.core.config import Config, load_config
from s21k.core.errors import InputError
from s21k.core.trees import leaves
from s21k.core.words import known_words, word_to_tree
from tests.toy import ROOT

GUIDE = ROOT / "s21k" / "guide"
PAGES = [ROOT / "README.md", *sorted(GUIDE.glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
MOST_LINES, MOST_LETTERS = 200, 120
SCRIPTS = ("train_stage1.py", "train_stage2.py", "evaluate.py")
ENDINGS = (".py", ".md", ".yaml", ".svg", ".png", ".jpg", ".jsonl", ".json", ".txt", ".pt", ".npz", ".tsv")
# Folders and files that only a reader's own run makes; what lies below them is not in the repository.
MADE = ("data/", "runs/", "photos/", "pictures/", "predictions/", "parts/", "val/", "train/", "imagenet21k/", "DIR/",
        "tiny/")
WRITTEN = {"config.yaml", "stage1.pt", "stage2.pt", "stage1.previous.pt", "stage2.previous.pt", "log.jsonl",
           "curves.svg", "metrics.json", "image_rows.npz", "detections.json", "detections.npz", "contact_sheet.png",
           "my_data.yaml", "my_data.categories.json", "photo.jpg", "val_boxes.json", "val_images.json", "groups.json"}
# Files that a recipe of the page asks the reader to write.
RECIPES = {"convnext.py", "convnext_t.yaml", "confident.py"}


def fences(text):
    """(language, lines) of each block, in order."""
    found, inside = [], None
    for line in text.splitlines():
        if line.startswith("```"):
            if inside is None:
                inside = (line[3:].strip(), [])
            else:
                found.append(inside)
                inside = None
        elif inside is not None:
            inside[1].append(line)
    assert inside is None, "a block that is not closed"
    return found


def prose(text):
    """The page without its blocks."""
    kept, inside = [], False
    for line in text.splitlines():
        inside ^= line.startswith("```")
        kept.append("" if inside or line.startswith("```") else line)
    return "\n".join(kept)


def commands(text):
    """The command lines of a page, of its shell blocks and of its spans: without comments, continued lines joined."""
    found = []
    for language, lines in fences(text):
        if language == "":
            joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
            found += [line.split("    #")[0].strip() for line in joined.splitlines()]
    found += [" ".join(span.split()) for span in spans(text)]
    parts = [part.strip() for line in found for part in re.split(r"&&|;", line)]
    return [part for part in parts if re.match(r"(\w+=\S+ )?(python|torchrun|srun torchrun) ", part)]


def spans(text):
    return re.findall(r"`([^`]+)`", prose(text))


def argv_of(command):
    """(script or module, its arguments) of `python script ..`, `python -m module ..`, `torchrun .. script ..`."""
    words = shlex.split(command.rstrip("& "))
    while "=" in words[0] or words[0] == "srun":
        words.pop(0)
    if words[0] == "torchrun":
        at = [place for place, word in enumerate(words) if word.endswith(".py")]
        words = words[at[0]:] if at else ["torchrun"]                       # its own options alone, in running text
    else:
        words.pop(0)
    if words[0] == "-m":
        return words[1], words[2:]
    return words[0], words[1:]


# --- links ---

def links(text):
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)) if not re.match(r"\w+:|#", target)]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_to_a_file(page):
    wrong = [target for target in links(page.read_text()) if not (page.parent / target.split("#")[0]).exists()]
    assert not wrong, f"{page.relative_to(ROOT)} links to {wrong}"


# --- names ---

@functools.cache
def source(path):
    return path.read_text(encoding="utf-8")


@functools.cache
def defined():
    """Every class, function, method, field and constant of the product and the tests: Name and Class.name."""
    names = set()
    for path in [*ROOT.glob("*.py"), *(ROOT / "s21k").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        tree = ast.parse(source(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                names |= {f"{node.name}.{name}" for name in members(node)}
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                names.add(node.name)
        names |= {target.id for node in tree.body if isinstance(node, ast.Assign)
                  for target in ast.walk(node.targets[0]) if isinstance(target, ast.Name)}
    return names


def members(node):
    """Methods, fields, and what methods set on self."""
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef):
            yield part.name
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            yield part.target.id
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "self":
            yield part.attr


def is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def is_dotted(name):
    """s21k.core.config, or a name inside such a module."""
    if is_module(name):
        return True
    module, _, attribute = name.rpartition(".")
    return is_module(module) and hasattr(importlib.import_module(module), attribute)


@functools.cache
def keys():
    """Keys of the configuration, and the parts that hold them."""
    cfg = Config()
    found = {*vars(cfg), *leaves(dataclasses.asdict(load_config(["r18", "tiny"]))), "recipes"}
    for section in ("data", "model", "stage1", "stage2", "eval"):
        found |= {f"{section}.{field}" for field in vars(getattr(cfg, section))}
    return found


KEY = r"(data|model|stage1|stage2|eval)\.[\w.]+"
# Class.member, ClassName, some_function, CONSTANT
NAME = r"[A-Z]\w*[a-z]\w*\.\w+|[A-Z][a-z]+[A-Z]\w*|[a-z]\w*_\w+(\(\))?|[A-Z_]{6,}"


def wrong_span(span):
    """Why a span names nothing that is there; "" where it does, or has no such form."""
    text = " ".join(span.split())
    key = text.split("=")[0]
    if " " in text or text.startswith(("--", "$", "<")):
        return ""
    if re.fullmatch(KEY, key) and not text.endswith(ENDINGS):
        return "" if key in keys() else "no such key of the configuration"
    if "=" in text:
        return ""
    if re.fullmatch(r"(s21k|tests)(\.\w+)+", text):
        return "" if is_dotted(text) else "no such module or name"
    if text.endswith(ENDINGS) or "/" in text:
        return wrong_path(text)
    if re.fullmatch(NAME, text):
        return "" if is_known(text.removesuffix("()")) else "no such class, function or name"
    return ""


def wrong_path(text):
    """Of a span that has the form of a path. Files that a command or a recipe makes are left out."""
    name = text.rsplit("/", 1)[-1]
    if not re.fullmatch(r"[\w./-]+", text) or text.startswith(("..", "/", *MADE)) or name in WRITTEN | RECIPES:
        return ""
    if "/" not in text and not text.endswith((".py", ".md", ".svg")):
        return ""
    there = any((ROOT / start / text).exists() for start in ("", "s21k", "s21k/prepare"))
    return "" if there else "no such file"


def is_known(name):
    return name in defined() or name in keys() or name in known_words() or said_in_source(name.lower())


@functools.cache
def everything():
    paths = [*ROOT.glob("*.py"), *(ROOT / "s21k").rglob("*.py"), *(ROOT / "s21k").rglob("*.yaml"),
             *(ROOT / "tests").rglob("*.py")]
    return "\n".join(source(path) for path in paths if path.name != "test_documents.py").lower()


def said_in_source(name):
    """A key of a JSON, a column of the log, an argument: it stands somewhere in the code as a whole word."""
    return re.search(rf"\b{re.escape(name)}\b", everything()) is not None


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_path_and_name_in_backticks_exists(page):
    wrong = {span: why for span in spans(page.read_text()) if (why := wrong_span(span))}
    assert not wrong, f"{page.relative_to(ROOT)}: {wrong}"


def placed(text):
    """(name, file) of each "`name` in [file.py](path)": the name is to be found in that very file."""
    name, link = r"`([\w.]+)`", r"\[[^\]]+\]\(([^)]+\.py)\)"
    found = re.findall(rf"{name}(?:\s+and\s+{name})?\s+(?:in|of)\s+{link}", prose(text))
    return [(name, target) for *names, target in found for name in names if name]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_name_that_is_said_to_be_in_a_file_is_in_it(page):
    for name, target in placed(page.read_text()):
        path = page.parent / target
        for part in name.split("."):
            assert re.search(rf"\b{part}\b", source(path)), f"{page.name}: {name} is not in {target}"


def test_names_and_their_files_are_found():
    assert len([pair for page in PAGES for pair in placed(page.read_text())]) > 20


@pytest.mark.parametrize("span", [
    "s21k/models/nothing.py", "s21k.core.nothing", "s21k.core.config.nothing", "stage2.lrr", "stage2.lrr=1",
    "BoxHead.nothing", "RegionDecoder", "region_mll", "INHERITED_PARTS", "tests/test_nothing.py", "nothing.py"])
def test_a_name_that_is_not_there_is_noticed(span):
    assert wrong_span(span)


# --- commands ---

def wrong_command(command):
    """Why a command line cannot be typed; "" where it can."""
    name, arguments = argv_of(command)
    if name in ("pytest", "tests.mutations", "torchrun"):
        return ""
    if name in SCRIPTS:
        return wrong_words([word for word in arguments if word != "--plan" and "$" not in word])
    if not name.startswith(("tests.bench", "s21k.")) or not is_module(name):
        return f"no script or module {name}"
    unknown = [word for word in arguments if word.startswith("--") and word.split("=")[0] not in flags_of(name)]
    if unknown:
        return f"{name} has no {unknown[0]}"
    if name not in ("s21k.demo", "s21k.predict", "s21k.explain", "s21k.experiments.why"):
        return ""
    words = [word for word in arguments if word in known_words() or re.match(f"{KEY}=", word)]
    return wrong_words(["toy", *words] if name == "s21k.demo" else words)


@functools.cache
def flags_of(module):
    """The options in a command's source: "--name", those that a loop makes of a list of names, and read_options's."""
    spec = importlib.util.find_spec(module)
    if spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    text = source(ROOT / spec.origin)
    flags = {"--help", *re.findall(r'"(--[\w-]+)"', text)}
    for names in re.findall(r"for name in \(([^)]*)\)", text):
        flags |= {f"--{word}" for word in re.findall(r'"([\w-]+)"', names)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "read_options":
            flags |= {f"--{keyword.arg.replace('_', '-')}" for keyword in node.keywords}
    return flags | flags_of("tests.bench.timing") if "Bench(__doc__" in text else flags


def wrong_words(words):
    """Why words are no experiment. A YAML file of the reader's own is left out."""
    words = [word for word in words if not (word.endswith(".yaml") and "/" not in word)]
    for word in words:
        if "=" in word:
            key = next(iter(leaves(word_to_tree(word))))
            if key not in keys():
                return f"no key {key}"
    try:
        if any("=" not in word for word in words):
            load_config(words)
        return ""
    except InputError as error:
        return str(error)


LINES = [(name, command) for name, page in zip(NAMES, PAGES) for command in commands(page.read_text())]


def test_the_commands_of_the_pages_are_found():
    found = {command for _, command in LINES}
    assert {"python train_stage1.py r18 tiny", "python -m s21k.demo", "python -m pytest tests",
            "python -m tests.bench.kills --all"} <= found
    assert len(LINES) > 80


@pytest.mark.parametrize("page", NAMES)
def test_every_command_can_be_typed(page):
    wrong = {command: why for name, command in LINES if name == page and (why := wrong_command(command))}
    assert not wrong, f"{page}: {wrong}"


@pytest.mark.parametrize("command", [
    "python train_stage1.py r18 tinny", "python -m s21k.nothing", "python evaluate.py r18 r50",
    "python -m s21k.predict r18 tiny photos/ --nothing", "python train_stage2.py toy stage2.lrr=1",
    "torchrun --nproc-per-node=8 train_stage3.py r18 tiny", "python -m s21k.demo stage2.lrr=1"])
def test_a_command_that_cannot_be_typed_is_noticed(command):
    assert wrong_command(command)


# --- edits ---

def edits(text):
    """(file, what is there, what comes instead) of each place in the diff blocks.

    A place is a run of lines with ' ' or '-', and those with '+' among them; it ends where a '-' follows a '+' or ' '.
    """
    found = []
    for language, lines in fences(text):
        if language != "diff":
            continue
        path, run = None, []
        for line in [*lines, "--- "]:
            if line.startswith("--- "):
                found += places(path, run)
                path, run = line[4:], []
            else:
                run.append((line[:1], line[1:]))
    return found


def places(path, run):
    """The lines of one file, place after place."""
    parts, before = [[]], ""
    for sign, line in run:
        if sign == "-" and before in ("+", " "):
            parts.append([])
        parts[-1].append((sign, line))
        before = sign
    for part in parts:
        old = "\n".join(line for sign, line in part if sign != "+")
        if old:
            yield path, old, "\n".join(line for sign, line in part if sign != "-")


def edited(text):
    """{file: its source after all edits of the page}."""
    files = {}
    for path, old, new in edits(text):
        before = files.get(path, source(ROOT / path))
        assert before.count(f"{old}\n") == 1, f"{path}: {before.count(old)} times there: {old!r:.200}"
        files[path] = before.replace(f"{old}\n", f"{new}\n")
    return files


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_edit_fits_its_file_and_leaves_python(page):
    for path, text in edited(page.read_text()).items():
        compile(text, path, "exec")


def test_the_example_of_the_equations_prints_what_it_says(capsys):
    """Each number behind a # of the first page's block comes out, to its four places."""
    block = next(lines for language, lines in fences((GUIDE / "1-idea.md").read_text()) if language == "python")
    exec(compile("\n".join(block), "1-idea.md", "exec"), {})
    printed = re.findall(r"\d+\.\d{4}", capsys.readouterr().out)
    said = re.findall(r"\d+\.\d{4}", "\n".join(line.partition("#")[2] for line in block))
    assert printed == said and len(printed) == 6


def test_the_python_blocks_are_python():
    found = [lines for page in PAGES for language, lines in fences(page.read_text()) if language == "python"]
    assert found
    for lines in found:
        compile("\n".join(lines), "a page", "exec")


# --- form ---

@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_is_short_and_its_lines_too(page):
    lines = page.read_text().splitlines()
    long = [n for n, line in enumerate(lines, start=1) if len(line) > MOST_LETTERS and not line.startswith("|")]
    assert len(lines) <= MOST_LINES and not long, f"{len(lines)} lines; longer than {MOST_LETTERS}: {long}"


MEASURED = re.compile(r"\d[\d.,]* (%|ms\b|s\b|minutes\b|GB\b|MB\b|images/s\b|GPU-hours\b)|\d ± \d")
COMMAND = re.compile(r"python (-m )?[\w./]+|torchrun ")


def without_command(text):
    """Titles of the sections (##) in which three or more measured figures stand, and no command."""
    found = []
    for section in re.split(r"(?m)^## ", text)[1:]:
        if len(MEASURED.findall(section)) >= 3 and not COMMAND.search(section):
            found.append(section.splitlines()[0])
    return found


@pytest.mark.parametrize("page", PAGES[1:], ids=NAMES[1:])
def test_a_section_with_measured_figures_names_its_command(page):
    assert not without_command(page.read_text())


def test_a_section_without_its_command_is_noticed():
    table = "## A\n\n| a | b |\n|---|---|\n| x | 3 ms |\n| y | 4 ms |\n| z | 5 ms |\n"
    assert without_command(table) == ["A"] and not without_command(table + "\n`python -m tests.bench.kills`\n")
