"""The house: imports only go down, wings do not know each other, the product imports few packages only."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WINGS = {"models", "data", "evaluation", "training", "prepare"}
COMMANDS = {"demo", "predict", "experiments", "cam", "audit", "plan", "why"}
PACKAGES = {"torch", "torchvision", "numpy", "PIL", "pycocotools", "yaml", "tqdm"}
FILES = sorted([*ROOT.glob("*.py"), *(ROOT / "s21k").rglob("*.py")])


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def floor(module: str) -> tuple[int, str]:
    """(3 command | 2 wing | 1 ground, name of the wing)."""
    parts = module.split(".")
    if parts[0] != "s21k" or (len(parts) > 1 and parts[1] in COMMANDS):
        return 3, ""
    return (2, parts[1]) if len(parts) > 1 and parts[1] in WINGS else (1, "")


@pytest.mark.parametrize("path", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])
def test_imports_go_down_and_not_sideways(path):
    own_floor, own_wing = floor(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name in imports(path):
        if name.split(".")[0] != "s21k":
            continue
        other_floor, other_wing = floor(name)
        # The toy detector's wing may not know the training wing, and so on; inside a wing all is allowed.
        assert other_floor < own_floor or (other_floor, other_wing) == (own_floor, own_wing), f"{path} imports {name}"


def test_the_product_imports_only_the_packages_of_requirements_txt():
    import sys
    for path in FILES:
        for name in imports(path):
            top = name.split(".")[0]
            assert top in PACKAGES or top == "s21k" or top in sys.stdlib_module_names, f"{path} imports {name}"


def test_no_import_circle_in_the_ground_or_in_a_wing():
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in FILES}
    graph = {}
    for module, path in modules.items():
        names = imports(path)
        graph[module] = {m for m in modules for n in names if n == m or n.startswith(m + ".") and m.count(".") > 0} - {module}

    def visit(module, trail):
        assert module not in trail, " -> ".join([*trail, module])
        for other in graph[module]:
            visit(other, [*trail, module])

    for module in modules:
        visit(module, [])


def test_the_packages_map_names_every_file_beside_it():
    text = (ROOT / "s21k" / "__init__.py").read_text()
    for path in (ROOT / "s21k").glob("[a-z]*.py"):
        assert path.stem in text.replace("{", " ").replace(",", " ").replace("}", " ").split(), path


def test_no_python_file_names_a_setup_of_the_paper():
    """A setup is data: its name stands in YAML files and in prose only."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Constant) and node.value in ("s1", "s2", "s3", "S1", "S2", "S3")), f"{path}:{node.lineno}"
