"""The benches: python -m tests.bench lists them; python -m tests.bench NAME .. (or all) runs some, one after the other.

    python -m tests.bench postprocessing training --json runs/bench     each one's figures in runs/bench/<name>.json
    python -m tests.bench all --all                                     each at full size

Options of one bench: python -m tests.bench.NAME --help.
"""
import argparse
import ast
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def benches() -> dict[str, tuple[str, tuple[float, float]]]:
    """name -> the first sentence of its docstring, and its MINUTES (by default, with --all): read, not imported."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        minutes = [ast.literal_eval(node.value) for node in tree.body
                   if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "MINUTES"]
        if minutes:
            found[path.stem] = " ".join(ast.get_docstring(tree).split("\n\n")[0].split()), minutes[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the list, or all")
    parser.add_argument("--all", action="store_true", help="everything a bench has, at full size")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write each bench's figures to FOLDER/<name>.json")
    a = parser.parse_args()
    found = benches()
    if unknown := [name for name in a.names if name not in found and name != "all"]:
        parser.error(f"{unknown[0]!r} is none of {', '.join(found)}, all")
    if not a.names:
        print(f"{'name':<16}minutes, with --all")
        for name, (about, (some, whole)) in found.items():
            print(f"{name:<16}{some:>7g}{whole:>12g}  {about}")
    failed = []
    for name in found if "all" in a.names else a.names:
        print(f"--- {name}", flush=True)
        more = ["--all"] * a.all + (["--json", str(a.json / f"{name}.json")] if a.json else [])
        if subprocess.run([sys.executable, "-m", f"tests.bench.{name}", *more], check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
