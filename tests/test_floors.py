"""The layers: imports only go down, packages do not import each other, the product imports few libraries only."""
import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"models", "data", "evaluation", "training", "prepare"}
LIBRARIES = {"torch", "torchvision", "numpy", "PIL", "pycocotools", "yaml", "tqdm"}
SCRIPT, COMMAND, EXPERIMENT, PACKAGE, FILES, CORE = 6, 5, 4, 3, 2, 1
FILES_OF_CODE = sorted([*ROOT.glob("*.py"), *(ROOT / "s21k").rglob("*.py")])


def dotted(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {dotted(path): path for path in FILES_OF_CODE}


def imports(path: Path) -> list[str]:
    """Modules that a file imports; `from package import module` names the module."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module
                      for alias in node.names]
    return found


def layer(module: str) -> tuple[int, str]:
    """(layer, name of the package within the layer of packages)."""
    parts = module.split(".")
    if parts[0] != "s21k":
        return SCRIPT, ""
    if len(parts) == 1:
        return CORE, ""
    if parts[1] in PACKAGES:
        return PACKAGE, parts[1]
    return {"core": CORE, "files": FILES, "draw": FILES, "experiments": EXPERIMENT}.get(parts[1], COMMAND), ""


@pytest.mark.parametrize("path", FILES_OF_CODE, ids=[str(f.relative_to(ROOT)) for f in FILES_OF_CODE])
def test_imports_go_down_and_not_sideways(path):
    own = layer(dotted(path))
    for name in imports(path):
        if name.split(".")[0] == "s21k":
            assert layer(name)[0] < own[0] or layer(name) == own, f"{path} imports {name}"


def test_a_script_is_imported_by_nothing():
    for path in FILES_OF_CODE:
        assert not {"train_stage1", "train_stage2", "evaluate"} & set(imports(path)), path


def test_the_product_imports_only_the_packages_of_requirements_txt():
    for path in FILES_OF_CODE:
        for name in imports(path):
            top = name.split(".")[0]
            assert top in LIBRARIES or top == "s21k" or top in sys.stdlib_module_names, f"{path} imports {name}"


def test_no_import_circle():
    graph = {module: {name for name in imports(path) if name in MODULES} for module, path in MODULES.items()}

    def visit(module, trail):
        assert module not in trail, " -> ".join([*trail, module])
        for other in graph[module]:
            visit(other, [*trail, module])

    for module in MODULES:
        visit(module, [])


def test_the_map_of_the_package_names_every_file_of_core_files_and_the_commands():
    text = (ROOT / "s21k" / "__init__.py").read_text().replace("{", " ").replace(",", " ").replace("}", " ").replace(
        ":", " ").split()
    for folder in ("", "core", "files"):
        for path in (ROOT / "s21k" / folder).glob("[a-z]*.py"):
            assert path.stem in text or path.name in text, path


def test_no_python_file_names_a_setup_of_the_paper():
    """A setup is data: its name stands in YAML files and in prose only."""
    for path in FILES_OF_CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Constant) and node.value in ("s1", "s2", "s3", "S1", "S2", "S3")), \
                f"{path}:{node.lineno}"
